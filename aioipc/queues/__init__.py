"""Queues: objects that any process puts in, and any process takes out, each of them once.

`open` gives a queue by its address: ``mq:`` and ``sysv:`` are kept by the kernel and shared with
programs in any language. docs/queues.md is the tutorial.
"""

from aioipc.queues._opening import open  # noqa: A004 - queues.open
from aioipc.queues._queue import Item, Queue, QueueStatistics

__all__ = ["Item", "Queue", "QueueStatistics", "open"]
