"""One publisher, many subscribers, topics between them.

`publisher` serves an address, `subscriber` connects to it and says which topics it wants and what
is to happen when it cannot keep up. docs/pubsub.md is the tutorial.
"""

from aioipc.pubsub._feed import SubscriberStatistics
from aioipc.pubsub._items import Gap, Interruption, Message
from aioipc.pubsub._opening import subscriber
from aioipc.pubsub._publisher import Publisher, PublisherStatistics, publisher
from aioipc.pubsub._reconnecting import ReconnectingSubscription
from aioipc.pubsub._subscription import Subscription, SubscriptionStatistics

__all__ = [
    "Gap",
    "Interruption",
    "Message",
    "Publisher",
    "PublisherStatistics",
    "ReconnectingSubscription",
    "SubscriberStatistics",
    "Subscription",
    "SubscriptionStatistics",
    "publisher",
    "subscriber",
]
