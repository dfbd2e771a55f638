"""Synchronisation between processes, by name or by path, that no killed process can block."""

from aioipc.kernel.region import RegionHolder
from aioipc.sync._guard import Guard, Holder
from aioipc.sync.barrier import Barrier
from aioipc.sync.condition import Condition
from aioipc.sync.event import Event
from aioipc.sync.filelock import FileLock
from aioipc.sync.jobserver import JobServer
from aioipc.sync.lock import Lock
from aioipc.sync.posix import PosixSemaphore
from aioipc.sync.rwlock import RWLock
from aioipc.sync.semaphore import AnonymousSemaphore, Semaphore
from aioipc.sync.sysv import SysVSemaphore

__all__ = [
    "AnonymousSemaphore",
    "Barrier",
    "Condition",
    "Event",
    "FileLock",
    "Guard",
    "Holder",
    "JobServer",
    "Lock",
    "PosixSemaphore",
    "RWLock",
    "RegionHolder",
    "Semaphore",
    "SysVSemaphore",
]
