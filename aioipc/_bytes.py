"""Bytes to and from peers: opening one transport, taking in those who come, and reading."""

from __future__ import annotations

import asyncio
import collections
import errno
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aioipc._doorkeeper import Doorkeeper
from aioipc._handshakes import Handshakes
from aioipc._opening import (
    AnyTransport,
    check_allow,
    check_limits,
    has_own_port,
    is_message_transport,
)
from aioipc.abc import Acceptor, Allow, ByteTransport, Capability, PeerCredentials
from aioipc.address import Address
from aioipc.connect import open_transport
from aioipc.errors import AccessDenied, AddressError, IPCError, QuotaExceeded, from_os_error
from aioipc.kernel.credentials import is_allowed, same_user
from aioipc.limits import Limits
from aioipc.transports import family_of

__all__ = ["READ_BYTES", "Entrance", "Place", "reader_of"]

log = logging.getLogger("aioipc.stream")

READ_BYTES = 256 * 1024
"""The most that is read at once: a quarter of it costs up to twice the CPU time, in bulk."""

Reader = Callable[[int], bytes | None]

_PEERS_PER_TURN = 64
"""So many are taken in before others in the loop have a turn; 4,096 may wait in the backlog."""


@dataclass(frozen=True, slots=True)
class Place:
    """An address where bytes are sent or awaited, and how.

    Attributes:
        address: The address.
        family: The transports of its scheme.
        limits: Sizes and deadlines.
        allow: What decides by a peer's credentials; None for the default.
    """

    address: Address
    family: Any
    limits: Limits
    allow: Allow | None

    @classmethod
    def find(
        cls,
        address: str | Address,
        *,
        able_to: str,
        limits: Limits | None,
        allow: Allow | None,
    ) -> Place:
        """Look an address up.

        Raises:
            AddressError: It is wrong, or cannot do that, or carries nothing but messages.
            TypeError: An argument is of a wrong type.
        """
        check_allow(allow)
        where = Address.parse(address)
        family = family_of(where, able_to=able_to)
        # Rings carry both.
        if not family.CAPABILITIES & (Capability.STREAM | Capability.ZERO_COPY):
            raise AddressError(f"{where} carries messages, not bytes")
        return cls(where, family, check_limits(limits), allow)

    async def connect(self) -> ByteTransport:
        """Open a byte transport there.

        Raises:
            AddressError: It carries no bytes.
            ConnectError: Nobody listens there, or not within ``limits.connect_s``.
            AccessDenied: The path or the server's user is not trusted.

        Cancellation:
            Undoes: nothing stays open.
        """
        # Connecting may need no wait; who opens many in a row gives others a turn.
        await asyncio.sleep(0)
        transport = await open_transport(self.family, self.address, self.limits, self.allow)
        try:
            return _byte_transport(transport)
        except BaseException:
            transport.close()
            raise

    async def listen(self) -> Acceptor:
        """Wait for peers there.

        Raises:
            AddressError: It cannot be listened on.
            AccessDenied: The directory is not to be trusted.
            ResourceExhausted: The address is in use.

        Cancellation:
            Undoes: nothing stays open.
        """
        try:
            acceptor: Acceptor = await self.family.listen(
                self.address, limits=self.limits, allow=self.allow
            )
        except OSError as error:
            if isinstance(error, IPCError):
                raise
            raise from_os_error(error, f"listen on {self.address}", connecting=True) from error
        return acceptor


class Entrance:
    """Takes in the peers that come to an acceptor and may.

    Args:
        acceptor: Where they come.
        allow: Decides by their credentials; None for the same user.
        limits: How many of another user may be inside, and how long a handshake may take.
        enter: Called with the byte transport of each, once its handshake is over if it has one.
        has_room: Whether another one may come in.
        looked: Called after each look, whoever came.

    Attributes:
        exhausted: Whether no other peer will come.
    """

    def __init__(
        self,
        acceptor: Acceptor,
        allow: Allow | None,
        limits: Limits,
        *,
        enter: Callable[[ByteTransport], object],
        has_room: Callable[[], bool],
        looked: Callable[[], object] = lambda: None,
    ) -> None:
        self.exhausted = False
        self._acceptor = acceptor
        self._allow = allow or same_user
        self._limits = limits
        self._handshakes = Handshakes(limits, self._let_in, self.look)
        self._enter = enter
        self._has_room = has_room
        self._inside: collections.Counter[int] = collections.Counter()  # by uid
        self._looked = looked
        self._door = Doorkeeper(acceptor.address, handshake_s=limits.handshake_s, log=log)
        self._closed = False

    @property
    def address(self) -> str:
        """Where peers reach it, resolved."""
        return self._acceptor.address

    def look(self) -> None:
        """Take in whoever is there, and whoever comes, as long as there is room."""
        taken = 0
        while not self._closed and not self.exhausted and self._has_room():
            if taken == _PEERS_PER_TURN:
                self._door.accept_later(0, self.look)
                break
            if not self._handshakes.has_room:
                self._acceptor.on_readable(self._make_room)
                break
            try:
                transport = self._acceptor.try_accept()
            except EOFError:
                self.exhausted = True
                break
            except IPCError as error:
                self._door.pause(error, self.look)
                break
            if transport is None:
                self._acceptor.on_readable(self.look)
                break
            self._admit(transport)
            taken += 1
        self._looked()

    def _make_room(self) -> None:
        if self._handshakes.has_room:
            self.look()
        elif not self._closed and self._has_room():
            self._handshakes.make_room(self._door, self.look)

    def _admit(self, transport: AnyTransport) -> None:
        try:
            self._check_allowed(transport.peer)
            stream = _byte_transport(transport)
        except IPCError as error:  # or it is gone already, or there is no memory for it
            log.warning("%s: %s", self.address, error)
            if has_own_port(transport):
                transport.refuse(error)
            else:
                transport.close()
        else:
            self._handshakes.begin(stream)

    def _check_allowed(self, peer: PeerCredentials | None) -> None:
        if peer is None:
            return
        if not is_allowed(self._allow, peer, self.address):
            raise AccessDenied(errno.EACCES, f"{self.address}: uid {peer.uid} may not connect")
        quota = self._limits.max_connections_per_foreign_uid
        if peer.uid != os.geteuid() and self._inside[peer.uid] >= quota:
            raise QuotaExceeded(
                errno.EDQUOT,
                f"{self.address} holds {quota:,} connections of uid {peer.uid}, its limit",
            )

    def _let_in(self, stream: ByteTransport) -> None:
        if stream.peer is not None:
            self._inside[stream.peer.uid] += 1
        self._enter(stream)
        self._looked()

    def left(self, peer: PeerCredentials | None) -> None:
        """One of those who were let in is gone. From any thread."""
        if peer is not None:
            self._inside[peer.uid] -= 1

    def close(self) -> None:
        """Take in nobody any more. Idempotent."""
        self._closed = True
        self._door.close()
        self._handshakes.close()
        self._acceptor.close()


def _byte_transport(transport: AnyTransport) -> ByteTransport:
    if has_own_port(transport):
        return transport.open_stream()
    if is_message_transport(transport) or Capability.STREAM not in transport.capabilities:
        raise AddressError(f"{transport.address} carries messages, not bytes")
    return transport


class _Scratch(threading.local):
    """One buffer for all that is read in a thread: what it holds is copied out at once."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(READ_BYTES))


_scratch = _Scratch()


def reader_of(stream: ByteTransport) -> Reader:
    """How to read a stream without a buffer: with its own ``try_read`` where it has one.

    Returns:
        A function of the most bytes to read, `READ_BYTES` at the utmost. It returns those that
        are there, b"" at the end, None if nothing is there, and raises as ``try_read_into`` does.
    """
    own: Reader | None = getattr(stream, "try_read", None)
    return _reader_over(stream) if own is None else own


def _reader_over(stream: ByteTransport) -> Reader:
    def try_read(max_bytes: int) -> bytes | None:
        view = _scratch.view
        count = stream.try_read_into(view if max_bytes >= READ_BYTES else view[:max_bytes])
        return None if count is None else bytes(view[:count])

    return try_read
