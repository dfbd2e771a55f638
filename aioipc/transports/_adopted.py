"""Streams over descriptors that somebody else opened."""

from __future__ import annotations

import contextlib
import errno
import os
import socket

from aioipc.abc import Allow, Capability
from aioipc.address import Address
from aioipc.errors import AddressError, from_os_error
from aioipc.kernel.credentials import peer_credentials
from aioipc.kernel.descriptors import (
    Descriptor,
    Facts,
    Kind,
    SocketFacts,
    adopt,
    file_name,
    find_facts,
    find_socket_facts,
)
from aioipc.kernel.owned import abandon_in_child
from aioipc.loop.fd import FdWatch
from aioipc.native._fd import FdStream
from aioipc.native._packet import PacketStream
from aioipc.transports._packets import PACKETS, with_packets
from aioipc.transports._sockets import check_allowed
from aioipc.transports._stream import STREAM

__all__ = ["adopted_stream"]


def adopted_stream(
    address: Address,
    fds: tuple[int, ...],
    *,
    allow: Allow | None,
    keep: bool = False,
    only_bytes: bool = False,
) -> FdStream:
    """A stream over one descriptor for both ways, or one to read and one to write.

    Args:
        address: For messages.
        fds: The descriptors. They belong to the stream, unless this raises: then they are as
            they were.
        allow: Asked about the peer, where the kernel knows it.
        keep: Whether the numbers themselves stay open, as 0 and 1 do.
        only_bytes: Whether a socket of packets is refused.

    Raises:
        AddressError: A descriptor is not open, or does not allow what it is for.
        AccessDenied: ``allow`` refuses the peer.
        ResourceExhausted: There are no descriptors left.
    """
    facts = [_facts(address, fd) for fd in fds]
    reads, writes = _directions(address, facts, fds)
    is_socket = all(fact.kind is Kind.SOCKET for fact in facts)
    packets = _packets(address, facts, fds)
    if only_bytes and packets is not None:
        raise AddressError(f"{address} carries messages, not bytes")
    peer = peer_credentials(fds[0]) if is_socket else None
    if allow is not None:
        check_allowed(peer, allow, str(address))
    ends = _adopt(address, fds)
    if not keep:
        for fd in fds:
            os.close(fd)
    capabilities = STREAM if packets is None else PACKETS
    if not (reads and writes):
        capabilities &= ~Capability.DUPLEX
    if peer is not None:
        capabilities |= Capability.CREDENTIALS | Capability.FDS
    stream = (FdStream if packets is None else PacketStream)(
        ends[0].fileno() if reads else -1,
        ends[-1].fileno() if writes else -1,
        FdWatch(),
        is_socket=is_socket,
        address=str(address),
        capabilities=capabilities,
        peer=peer,
        owners={end.fileno(): end for end in ends},
    )
    if reads and (name := file_name(ends[0].fileno())).startswith("pipe:"):
        stream.counterpart = name  # a FIFO has a path, and many writers
    abandon_in_child(stream)
    if packets is not None and isinstance(stream, PacketStream):
        with_packets(stream, packets.send_buffer_bytes)
    return stream


def _facts(address: Address, fd: int) -> Facts:
    try:
        return find_facts(fd)
    except OSError as error:
        if error.errno == errno.EBADF:
            raise AddressError(f"{address}: descriptor {fd}: {error.strerror}") from None
        raise from_os_error(error, f"connect to {address}", connecting=True) from error


def _directions(address: Address, facts: list[Facts], fds: tuple[int, ...]) -> tuple[bool, bool]:
    """Whether there is something to read and to write; a single one may allow one of them."""
    if len(facts) == 1:
        return facts[0].readable, facts[0].writable
    if not facts[0].readable:
        raise AddressError(f"{address}: descriptor {fds[0]} cannot be read")
    if not facts[1].writable:
        raise AddressError(f"{address}: descriptor {fds[1]} cannot be written")
    return True, True


def _packets(address: Address, facts: list[Facts], fds: tuple[int, ...]) -> SocketFacts | None:
    """What to know of a socket that keeps the boundaries of packets; None of anything else."""
    for fact, fd in zip(facts, fds, strict=True):
        if fact.kind is not Kind.SOCKET:
            continue
        found = find_socket_facts(fd)
        if found.type == socket.SOCK_STREAM:
            continue
        if found.type != socket.SOCK_SEQPACKET:
            raise AddressError(f"{address}: descriptor {fd} is a socket without connections")
        if len(fds) > 1:
            raise AddressError(f"{address}: descriptor {fd} is a socket of packets, for both ways")
        return found
    return None


def _adopt(address: Address, fds: tuple[int, ...]) -> list[Descriptor]:
    """Descriptors of our own for all of them, or for none."""
    with contextlib.ExitStack() as undo:
        try:
            ends = [undo.enter_context(adopt(fd, keep=True)) for fd in fds]
        except OSError as error:
            raise from_os_error(error, f"connect to {address}", connecting=True) from error
        undo.pop_all()
    return ends
