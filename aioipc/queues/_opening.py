"""open: a queue by its address, whatever carries it."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from aioipc._opening import Opening, check_allow, check_limits
from aioipc.abc import Allow, Capability, Codec
from aioipc.address import Address
from aioipc.connect import connect
from aioipc.errors import AddressError
from aioipc.kernel.mqueue import Sizes, make_queue, open_or_make_queue, open_queue
from aioipc.kernel.sysv_queue import make_sysv_queue, open_or_make_sysv_queue, open_sysv_queue
from aioipc.limits import Limits, check_count
from aioipc.queues import _protocol as protocol
from aioipc.queues._coding import Coding
from aioipc.queues._queue import Queue
from aioipc.queues.client import WorkQueue
from aioipc.queues.kernel import PosixQueue, SystemVQueue
from aioipc.queues.reconnecting import ReconnectingQueue
from aioipc.transports import family_of
from aioipc.transports.mq import MqTransport
from aioipc.transports.sysv import SysvTransport

__all__ = ["open"]

T = TypeVar("T")


@overload
def open(  # noqa: A001 - queues.open
    address: str | Address,
    *,
    create: bool = False,
    exclusive: bool = False,
    max_messages: int | None = None,
    max_message_size: int | None = None,
    mode: int = 0o600,
    prefetch: int = 0,
    reconnect: bool = False,
    codec: Codec[T],
    limits: Limits | None = None,
    allow: Allow | None = None,
) -> Opening[Queue[T]]: ...
@overload
def open(  # noqa: A001 - queues.open
    address: str | Address,
    *,
    create: bool = False,
    exclusive: bool = False,
    max_messages: int | None = None,
    max_message_size: int | None = None,
    mode: int = 0o600,
    prefetch: int = 0,
    reconnect: bool = False,
    codec: str = "msgpack",
    limits: Limits | None = None,
    allow: Allow | None = None,
) -> Opening[Queue[Any]]: ...
def open(  # noqa: A001 - queues.open
    address: str | Address,
    *,
    create: bool = False,
    exclusive: bool = False,
    max_messages: int | None = None,
    max_message_size: int | None = None,
    mode: int = 0o600,
    prefetch: int = 0,
    reconnect: bool = False,
    codec: str | Codec[Any] = "msgpack",
    limits: Limits | None = None,
    allow: Allow | None = None,
) -> Opening[Queue[Any]]:
    """Open a queue: ``async with queues.open("mq:/jobs", create=True) as queue``.

    Args:
        address: ``mq:/name`` for a POSIX queue, ``sysv:KEY`` for a System V queue, else where
            a work queue is served (`serve`), such as ``unix:jobs``.
        create: Whether to make the queue if it is not there.
        exclusive: With ``create``: it must not be there yet.
        max_messages: With ``create`` and ``mq:``: how many messages it holds.
        max_message_size: With ``create`` and ``mq:``: how long one may be, in bytes.
        mode: With ``create``: who may use it, less the umask.
        prefetch: With a work queue: how many jobs may wait here for this worker, beyond those that
            it is waiting for. More of them save time, and are distributed less fairly.
        reconnect: With a work queue: whether to connect again when its server is gone, and to wait
            for it (`ReconnectingQueue`). It needs the extra ``reconnect``.
        codec: As for `aioipc.connect`.
        limits: How deep and how long a received message may be; with a work queue,
            ``limits.max_calls`` is how many puts wait for an answer at once.
        allow: Decides about the server of a served queue, as for `aioipc.connect`.

    Raises:
        AddressError: The address is wrong, or is not that of a queue.
        ConnectError: There is no such queue.
        AccessDenied: Another user owns it, or could put what the codec would run.
        ResourceExhausted: It is there and must not be, or the system has no room for another.
        ValueError: An option is unknown, or over what the system allows.

    Cancellation:
        Undoes: nothing stays open, but a queue that was made stays.
    """
    where = Address.parse(address)
    coding = Coding(codec, check_limits(limits))
    making = Making(create, exclusive, max_messages, max_message_size, mode)
    making.check(where)
    check_allow(allow)
    prefetch = check_count("prefetch", prefetch, 0)
    if where.scheme not in _KERNEL:
        _check_serves(where)
        served = functools.partial(_open_served, where, coding, prefetch, limits, allow)
        return Opening(functools.partial(_open_lasting, served) if reconnect else served)
    if reconnect:
        raise ValueError(f"{where}: the kernel keeps this queue, so there is no reconnect=")
    if allow is not None:
        raise ValueError(f"{where}: the kernel keeps this queue, so there is nobody to allow=")
    if prefetch:
        raise ValueError(f"{where}: the kernel keeps this queue, and nothing is fetched before")
    open_kernel = _KERNEL[where.scheme]

    async def open_() -> Queue[Any]:
        return open_kernel(where, coding, making)

    return Opening(open_)


@dataclass(frozen=True, slots=True)
class Making:
    """Whether and how to make a queue."""

    create: bool
    exclusive: bool
    max_messages: int | None
    max_message_size: int | None
    mode: int

    def check(self, address: Address) -> None:
        """Refuse options that would do nothing.

        Raises:
            ValueError: There are such.
        """
        sizes = {"max_messages": self.max_messages, "max_message_size": self.max_message_size}
        for name, size in sizes.items():
            if size is not None and address.scheme != "mq":
                raise ValueError(f"{address}: {name}= is for mq: queues")
            if size is not None and not self.create:
                raise ValueError(f"{address}: {name}= needs create=True")
        if self.create and address.scheme not in _KERNEL:
            raise ValueError(f"{address}: a served queue is there when its server is")
        if self.exclusive and not self.create:
            raise ValueError(f"{address}: exclusive= needs create=True")


def _check_serves(address: Address) -> None:
    """Refuse an address over which no server could answer.

    Raises:
        AddressError: It is such.
    """
    if Capability.DUPLEX not in family_of(address, able_to="listen").CAPABILITIES:
        raise AddressError(f"address '{address}': {address.scheme}: has no queues, being one way")


async def _open_served(
    address: Address,
    coding: Coding[Any],
    prefetch: int,
    limits: Limits | None,
    allow: Allow | None,
) -> WorkQueue[Any]:
    known = limits or Limits()
    channel = await connect(address, codec=protocol, limits=known, allow=allow)
    return WorkQueue(channel, coding, prefetch=prefetch, max_puts=known.max_calls)


async def _open_lasting(served: Callable[[], Awaitable[WorkQueue[Any]]]) -> Queue[Any]:
    first = await served()
    try:
        return ReconnectingQueue(served, first)
    except BaseException:
        await first.aclose()
        raise


def _open_posix(address: Address, coding: Coding[Any], making: Making) -> Queue[Any]:
    assert address.name is not None
    sizes = Sizes(making.max_messages, making.max_message_size, making.mode)
    if making.exclusive:
        queue = make_queue(address.name, sizes)
    elif making.create:
        queue = open_or_make_queue(address.name, sizes)
    else:
        queue = open_queue(address.name)
    return PosixQueue(MqTransport(queue, str(address)), coding)


def _open_sysv(address: Address, coding: Coding[Any], making: Making) -> Queue[Any]:
    assert address.key is not None
    if making.exclusive:
        queue = make_sysv_queue(address.key, mode=making.mode)
    elif making.create:
        queue = open_or_make_sysv_queue(address.key, mode=making.mode)
    else:
        queue = open_sysv_queue(address.key)
    return SystemVQueue(SysvTransport(queue, str(address)), coding)


_KERNEL: dict[str, Callable[[Address, Coding[Any], Making], Queue[Any]]] = {
    "mq": _open_posix,
    "sysv": _open_sysv,
}
