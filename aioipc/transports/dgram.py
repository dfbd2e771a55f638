"""``unix+dgram:`` sockets without connections, ``SOCK_DGRAM`` in unix(7).

They are reliable and keep the order; a sender waits while the receiver's queue is full. The
kernel says of each datagram who sent it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from typing import Any

from aioipc.abc import Allow, Capability, PeerCredentials, Sender
from aioipc.address import Address
from aioipc.errors import AccessDenied, AddressError, PeerCrashed, from_os_error
from aioipc.kernel.ancillary import let_fds_pass
from aioipc.kernel.credentials import credentials_in, is_allowed, same_user, same_user_or_root
from aioipc.kernel.owned import OwnedSocket
from aioipc.limits import Limits
from aioipc.transports._datagrams import DatagramTransport
from aioipc.transports._meeting import find_unix, take_unix
from aioipc.transports._single import SingleAcceptor
from aioipc.transports._sockets import check_allowed

__all__ = ["CAPABILITIES", "UnixDatagrams", "connect", "listen"]

FOLDER = "dgram"

CAPABILITIES = Capability.MESSAGE | Capability.BACKPRESSURE | Capability.CREDENTIALS

_OVERHEAD_BYTES = 32  # of SO_SNDBUF, in the kernel's unix_dgram_sendmsg
_MOST_RECEIVED_BYTES = 256 * 1024
_ANCILLARY_BYTES = socket.CMSG_SPACE(12)  # one struct ucred, and no descriptors


async def connect(address: Address, *, limits: Limits, allow: Allow | None) -> UnixDatagrams:
    """Send to a socket that a trusted user bound, and receive its answers.

    Raises:
        ConnectError: There is none.
        AccessDenied: The path or its owner is not trusted, or nobody can say who is at the other
            end, as with an abstract name.
    """
    if address.abstract is not None:
        raise AccessDenied(
            errno.EACCES,
            f"connect to {address}: the kernel does not say who receives at an abstract name",
        )
    with contextlib.ExitStack() as undo:
        file = undo.enter_context(find_unix(address, allow, folder=FOLDER))
        allow = allow or same_user_or_root
        owner = os.fstat(file.fileno())
        check_allowed(PeerCredentials(0, owner.st_uid, owner.st_gid), allow, str(address))
        sock = undo.enter_context(OwnedSocket(socket.AF_UNIX, socket.SOCK_DGRAM))
        _tell_senders(sock)
        try:
            sock.bind("")  # to an abstract name of the kernel's choice, so that answers find it
            sock.connect(file.address)
        except OSError as error:
            raise from_os_error(error, f"connect to {address}", connecting=True) from error
        transport = UnixDatagrams(sock, str(address), limits, allow)
        undo.pop_all()
        file.close()
    return transport


async def listen(address: Address, *, limits: Limits, allow: Allow | None) -> SingleAcceptor:
    """Take the name and receive from everybody who sends there and may.

    Raises:
        AccessDenied: The directory is not to be trusted, or any user could reach an abstract
            name.
        ResourceExhausted: Somebody serves this name.
        AddressError: Other users are allowed, but cannot reach a name in the private runtime
            directory.
    """
    bound, text = take_unix(address, allow, folder=FOLDER, kind=socket.SOCK_DGRAM)
    _tell_senders(bound.socket)
    transport = UnixDatagrams(
        bound.socket, text, limits, allow or same_user, close=bound.close, is_bound=True
    )
    return SingleAcceptor(transport)


def _tell_senders(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    let_fds_pass(sock.fileno(), False)


class UnixDatagrams(DatagramTransport):
    """Datagrams over a Unix socket.

    Args:
        sock: The socket.
        address: What it was opened as.
        limits: How long messages may be.
        allow: Who may send here.
        options: Further arguments of `DatagramTransport`.
    """

    ancillary_bytes = _ANCILLARY_BYTES

    def __init__(
        self, sock: socket.socket, address: str, limits: Limits, allow: Allow, **options: Any
    ) -> None:
        most = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - _OVERHEAD_BYTES
        duplex = not options.get("is_bound") and options.get("target") is None
        super().__init__(
            sock,
            address,
            capabilities=CAPABILITIES | Capability.DUPLEX if duplex else CAPABILITIES,
            max_send_bytes=min(limits.max_message_bytes, most),
            max_receive_bytes=min(limits.max_message_bytes, _MOST_RECEIVED_BYTES),
            **{"close": sock.close} | options,
        )
        self.admits_others = allow not in (same_user, same_user_or_root)
        self._limits = limits
        self._allow = allow
        # The kernel's unix_dgram_poll looks at the queue of a connected peer only.
        self.room_is_told = self._target is None

    def sent_by(self, where: Any, ancillary: list[tuple[int, int, bytes]]) -> Sender | None:
        credentials = credentials_in(ancillary)
        if credentials is None or not is_allowed(self._allow, credentials, self.address):
            return None
        return Sender(_text(where) if self._is_bound else self.address, credentials)

    def explain(self, error: OSError) -> BaseException | None:
        if error.errno in (errno.ECONNREFUSED, errno.ENOTCONN):
            return PeerCrashed(f"{self.address}: nobody receives there any more")
        return from_os_error(error, f"send or receive over {self.address}")

    def towards(self, address: str) -> UnixDatagrams:
        """A transport that sends from this socket to another one.

        Raises:
            AddressError: The address is of another kind, or this is not a socket for many.
            AccessDenied: The path is not to be trusted.
            ConnectError: There is no such socket.
        """
        where = Address.parse(address)
        if where.scheme != "unix+dgram" or not where.rest or not self._is_bound:
            raise AddressError(f"{self.address} cannot send to {address}")
        others = self._allow if self.admits_others else None
        with contextlib.ExitStack() as undo:
            if where.abstract is not None:
                target = "\0" + where.abstract
            else:
                file = undo.enter_context(find_unix(where, others, folder=FOLDER))
                target = file.address
            sock = undo.enter_context(
                OwnedSocket(socket.AF_UNIX, socket.SOCK_DGRAM, os.dup(self.socket.fileno()))
            )
            release = undo.pop_all().close
        return UnixDatagrams(
            sock, str(where), self._limits, self._allow, close=release, target=target
        )


def _text(where: Any) -> str | None:
    """The address of a sender, if others can use it."""
    if isinstance(where, bytes) and where[:1] == b"\0":
        return f"unix+dgram:@{os.fsdecode(where[1:])}"
    if isinstance(where, str) and where.startswith("/") and not where.startswith("/proc/"):
        return f"unix+dgram:{where}"
    return None
