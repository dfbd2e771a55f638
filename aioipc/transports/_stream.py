"""How every transport over descriptors makes its byte stream."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Protocol

from aioipc.abc import Capability, PeerCredentials
from aioipc.kernel.owned import OwnedFd, abandon_in_child, above_stdio
from aioipc.loop.fd import FdWatch
from aioipc.native._fd import FdStream

__all__ = ["STREAM", "LastWord", "descriptor_stream", "socket_stream"]

STREAM = Capability.STREAM | Capability.DUPLEX | Capability.BACKPRESSURE
"""What every duplex byte stream can do."""


class LastWord(Protocol):
    """Says how the peer at the other end of a stream ended."""

    def __call__(self) -> bool:
        """The stream is at its end: True if that is a clean one, False while nobody can tell.

        Raises:
            PeerCrashed: It is not.
        """

    def check(self) -> None:
        """Nothing is there to be read.

        Raises:
            PeerCrashed: Nothing will be, either: the peer was dead before anybody looked.
        """

    def on_ready(self, callback: Callable[[], object] | None, /) -> None:
        """Call ``callback`` once when asking again may help."""


def socket_stream(
    sock: socket.socket,
    *,
    address: str,
    capabilities: Capability,
    peer: PeerCredentials | None = None,
    on_close: Callable[[], object] | None = None,
) -> FdStream:
    """A stream over a connected, non-blocking socket, whose descriptor it takes over."""
    fd = above_stdio(sock.detach())
    stream = FdStream(
        fd,
        fd,
        FdWatch(),
        is_socket=True,
        address=address,
        capabilities=capabilities,
        peer=peer,
        on_close=on_close,
    )
    abandon_in_child(stream)
    return stream


def descriptor_stream(
    read_fd: int,
    write_fd: int,
    *,
    address: str,
    capabilities: Capability,
    owners: dict[int, OwnedFd] | None = None,
    on_close: Callable[[], object] | None = None,
    last_word: LastWord | None = None,
) -> FdStream:
    """A stream over non-blocking descriptors that it takes over; -1 for what there is not."""
    stream = FdStream(
        read_fd,
        write_fd,
        FdWatch(),
        is_socket=False,
        address=address,
        capabilities=capabilities,
        owners=owners,
        on_close=on_close,
        last_word=last_word,
    )
    abandon_in_child(stream)
    return stream
