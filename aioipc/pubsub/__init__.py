"""One publisher, many subscribers, topics between them.

`publisher` serves an address, `subscriber` connects to it and says which topics it wants and what
is to happen when it cannot keep up. docs/pubsub.md is the tutorial.
"""

from aioipc.pubsub._feed import SubscriberStatistics
from aioipc.pubsub._publisher import Publisher, PublisherStatistics, publisher
from aioipc.pubsub._subscription import (
    Gap,
    Message,
    Subscription,
    SubscriptionStatistics,
    subscriber,
)

__all__ = [
    "Gap",
    "Message",
    "Publisher",
    "PublisherStatistics",
    "SubscriberStatistics",
    "Subscription",
    "SubscriptionStatistics",
    "publisher",
    "subscriber",
]
