"""Streams over descriptors that somebody else opened."""

from __future__ import annotations

import contextlib

from aioipc.abc import Allow, Capability
from aioipc.address import Address
from aioipc.errors import AddressError
from aioipc.kernel.credentials import peer_credentials
from aioipc.kernel.descriptors import Descriptor, Kind, adopt
from aioipc.kernel.owned import abandon_in_child
from aioipc.loop.fd import FdWatch
from aioipc.native._fd import FdStream
from aioipc.transports._sockets import check_allowed
from aioipc.transports._stream import STREAM

__all__ = ["adopted_stream"]


def adopted_stream(
    address: Address, fds: tuple[int, ...], *, allow: Allow | None, keep: bool = False
) -> FdStream:
    """A stream over one descriptor for both ways, or one to read and one to write.

    Args:
        address: For messages.
        fds: The descriptors, which belong to the stream from here on.
        allow: Asked about the peer, where the kernel knows it.
        keep: Whether the numbers themselves stay open, as 0 and 1 do.

    Raises:
        AddressError: A descriptor is not open, or does not allow what it is for.
        AccessDenied: ``allow`` refuses the peer.
    """
    with contextlib.ExitStack() as undo:
        ends = [undo.enter_context(_adopt(address, fd, keep=keep)) for fd in fds]
        reading, writing = _directions(address, ends, fds)
        is_socket = all(end.facts.kind is Kind.SOCKET for end in ends)
        peer = peer_credentials(ends[0].fileno()) if is_socket else None
        if allow is not None:
            check_allowed(peer, allow, str(address))
        undo.pop_all()
    stream = FdStream(
        -1 if reading is None else reading.fileno(),
        -1 if writing is None else writing.fileno(),
        FdWatch(),
        is_socket=is_socket,
        address=str(address),
        capabilities=STREAM | Capability.CREDENTIALS if peer else STREAM,
        peer=peer,
        owners={end.fileno(): end for end in ends},
    )
    abandon_in_child(stream)
    return stream


def _adopt(address: Address, fd: int, *, keep: bool) -> Descriptor:
    try:
        return adopt(fd, keep=keep)
    except OSError as error:
        raise AddressError(f"{address}: descriptor {fd}: {error.strerror}") from None


def _directions(
    address: Address, ends: list[Descriptor], fds: tuple[int, ...]
) -> tuple[Descriptor | None, Descriptor | None]:
    """Which end is read and which is written; a single one may allow only one direction."""
    if len(ends) == 1:
        (end,) = ends
        return end if end.facts.readable else None, end if end.facts.writable else None
    if not ends[0].facts.readable:
        raise AddressError(f"{address}: descriptor {fds[0]} cannot be read")
    if not ends[1].facts.writable:
        raise AddressError(f"{address}: descriptor {fds[1]} cannot be written")
    return ends[0], ends[1]
