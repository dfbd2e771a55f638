"""What ``transport.get_extra_info`` knows."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from aioipc.abc import ByteTransport
from aioipc.asyncio_face._compat import TransportSocket
from aioipc.kernel.socket_view import SocketView
from aioipc.loop.fd import FdWatch

__all__ = ["Facts"]


class Facts:
    """The facts about one end, by asyncio's names and by our own.

    Args:
        stream: The end.
        given: Facts that are known already, a ``socket`` among them where there is one.

    Attributes:
        address: The resolved address.
        fd: The descriptor that is read, or written where nothing is read; -1 without one.
        socket: The socket object, where there is one that carries the bytes as they are.
        extra: The facts by their names: ``peercred``, ``fd`` and ``endpoint``; where there is
            a socket also ``socket``, ``sockname`` and ``peername``; over TLS what asyncio tells
            of that, but for ``sslcontext``: asyncio's streams take it for a sign that there is no
            half-close.
    """

    def __init__(self, stream: ByteTransport, given: Mapping[str, Any]) -> None:
        self.address = stream.address
        self.fd = -1
        self._fds: tuple[int, ...] = getattr(stream, "fds", ())
        self._watch = getattr(stream, "watch", None)
        self._view: SocketView | None = None
        self.extra: dict[str, Any] = {"peercred": stream.peer, "endpoint": stream.address}
        if self._fds:
            self.fd = self.extra["fd"] = self._fds[0]
        if "socket" not in given and getattr(stream, "is_socket", False):
            self._view = SocketView(self._fds[0])
            self.extra["socket"] = TransportSocket(self._view.socket)
            self.extra["sockname"] = self._view.sockname
            self.extra["peername"] = self._view.peername
        self.extra.update(getattr(stream, "tls_facts", {}))
        self.extra.update(given)
        self.socket: Any = None
        if "ssl_object" not in self.extra:  # else sendfile(2) would not encrypt
            self.socket = getattr(self.extra.get("socket"), "_sock", None)

    def claim(self, loop: asyncio.AbstractEventLoop, owner: object) -> None:
        """Belong to the loop, and keep others from watching the descriptors there."""
        if isinstance(self._watch, FdWatch):
            self._watch.claim(loop, self._fds, owner)
        elif self._watch is not None:
            self._watch.bind(loop)

    def disclaim(self, open_fds: tuple[int, ...], owner: object) -> None:
        """Let others use the descriptors that are not open any more."""
        if isinstance(self._watch, FdWatch):
            self._watch.disclaim(set(self._fds).difference(open_fds), owner)
        self._fds = open_fds

    def unwatch_writing(self) -> None:
        """Have the loop forget that anybody waits for room."""
        if isinstance(self._watch, FdWatch):
            self._watch.unwatch_writing()

    def release(self) -> None:
        """Forget the descriptors, which are about to be closed. Idempotent."""
        if self._view is not None:
            self._view.release()
