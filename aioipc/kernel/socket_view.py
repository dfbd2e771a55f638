"""A look at a socket whose descriptor somebody else owns."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

__all__ = ["SocketView"]


class SocketView:
    """A socket object over the descriptor of another one, which it never closes.

    Args:
        fd: The descriptor of a socket. `release` the view before the descriptor is closed.

    Attributes:
        socket: The socket object.
        sockname: What it is called, None where it has no name: getsockname(2).
        peername: What the other end is called, None where it has no name or there is none:
            getpeername(2).
    """

    def __init__(self, fd: int) -> None:
        self.socket = socket.socket(fileno=fd)
        self.socket.setblocking(False)
        self.sockname: Any = None
        self.peername: Any = None
        with contextlib.suppress(OSError):
            self.sockname = self.socket.getsockname()
        with contextlib.suppress(OSError):
            self.peername = self.socket.getpeername()

    def release(self) -> None:
        """Forget the descriptor. Idempotent."""
        self.socket.detach()
