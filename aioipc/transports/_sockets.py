"""What the transports over stream sockets share: connecting, accepting, trusting."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable

from aioipc.abc import Allow, ByteTransport, MessageTransport, PeerCredentials, PortTransport
from aioipc.errors import AccessDenied, from_os_error
from aioipc.kernel.owned import abandon_in_child
from aioipc.loop.fd import OnceWatch
from aioipc.loop.waiting import wait_fd

__all__ = ["Accepted", "SocketAcceptor", "check_allowed", "connect_socket"]

_FIRST_BACKOFF_S = 0.001
_LONGEST_BACKOFF_S = 0.050
_TRY_AGAIN = frozenset(
    {
        errno.ECONNABORTED,
        errno.EINTR,
        # What befell the connection before it was accepted: accept(2), "Error handling".
        errno.ENETDOWN,
        errno.EPROTO,
        errno.ENOPROTOOPT,
        errno.EHOSTDOWN,
        errno.ENONET,
        errno.EHOSTUNREACH,
        errno.EOPNOTSUPP,
        errno.ENETUNREACH,
    }
)

Accepted = ByteTransport | MessageTransport | PortTransport
"""What becomes of a connection."""


async def connect_socket(sock: socket.socket, target: object, address: str) -> None:
    """Connect a non-blocking socket.

    A Unix socket whose server has a full backlog answers EAGAIN, for which there is no
    readiness event (connect(2)): it is tried again, less and less often, until the caller's
    deadline.

    Raises:
        ConnectError: Nobody listens, or the network said no.
        AccessDenied: The kernel said so.

    Cancellation:
        Abandons the attempt; the socket is the caller's to close.
    """
    backoff_s = _FIRST_BACKOFF_S
    while True:
        number = sock.connect_ex(target)  # type: ignore[arg-type]
        if number in (0, errno.EISCONN):
            return
        if number in (errno.EINPROGRESS, errno.EALREADY):
            break
        if number == errno.EINTR:
            continue
        if number != errno.EAGAIN:
            raise _refused(number, address)
        await asyncio.sleep(backoff_s)
        backoff_s = min(2 * backoff_s, _LONGEST_BACKOFF_S)
    await wait_fd(sock.fileno(), writing=True)
    number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if number:
        raise _refused(number, address)


def _refused(number: int, address: str) -> Exception:
    error = OSError(number, os.strerror(number))
    return from_os_error(error, f"connect to {address}", connecting=True)


def check_allowed(peer: PeerCredentials | None, allow: Allow, address: str) -> None:
    """Refuse a server that somebody untrusted runs.

    Raises:
        AccessDenied: ``allow`` said no, or the kernel knows nobody.
    """
    if peer is None:
        raise AccessDenied(
            errno.EACCES, f"connect to {address}: the kernel cannot say who serves it"
        )
    if not allow(peer):
        raise AccessDenied(
            errno.EACCES,
            f"connect to {address}: its server runs as uid {peer.uid}, which allow= refuses",
        )


class SocketAcceptor:
    """Accepts connections from one listening socket.

    Args:
        sock: Listening and non-blocking; still owned by the caller.
        address: Where peers reach it.
        accepted: Makes the transport of a connection.
        on_close: Releases the socket and its name.
        speaks_first: Whether who connects can do nothing before it is accepted.
    """

    def __init__(
        self,
        sock: socket.socket,
        address: str,
        accepted: Callable[[socket.socket], Accepted],
        on_close: Callable[[], object],
        *,
        speaks_first: bool = False,
    ) -> None:
        self.address = address
        self.speaks_first = speaks_first
        self.socket = sock
        self._accepted = accepted
        self._on_close: Callable[[], object] | None = on_close
        self._watch = OnceWatch()
        abandon_in_child(self)

    def try_accept(self) -> Accepted | None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno in _TRY_AGAIN:
                    continue
                raise from_os_error(error, f"accept on {self.address}") from error
            connection.setblocking(False)
            try:
                return self._accepted(connection)
            except OSError:  # it is gone already
                connection.close()

    def on_readable(self, callback: Callable[[], object] | None, /) -> None:
        self._watch.on_readable(self.socket.fileno(), callback)

    def close(self) -> None:
        self._watch.close()
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()

    def abandon(self) -> None:
        """Leave the loop and the name to the parent process, in a forked child."""
        self._watch.abandon()
        self._on_close = None
