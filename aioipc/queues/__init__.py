"""Queues: objects that any process puts in, and any process takes out, each of them once.

`open` gives a queue by its address: ``mq:`` and ``sysv:`` are kept by the kernel and shared with
programs in any language; elsewhere a process keeps it with `serve`, and then what is taken has to
be acknowledged. `mailbox` opens one of this process, to which others write by name.
docs/queues.md is the tutorial.
"""

from aioipc.queues._broker import Policy
from aioipc.queues._job import Job
from aioipc.queues._opening import open  # noqa: A004 - queues.open
from aioipc.queues._queue import Item, Queue, QueueStatistics
from aioipc.queues.client import DeadJob, WorkQueue
from aioipc.queues.mailboxes import Mailbox, Message, mailbox
from aioipc.queues.reconnecting import ReconnectingQueue
from aioipc.queues.server import QueueServer, serve

__all__ = [
    "DeadJob",
    "Item",
    "Job",
    "Mailbox",
    "Message",
    "Policy",
    "Queue",
    "QueueServer",
    "QueueStatistics",
    "ReconnectingQueue",
    "WorkQueue",
    "mailbox",
    "open",
    "serve",
]
