"""News about a descriptor from which nothing is read for now."""

from __future__ import annotations

import select

__all__ = ["Arrivals"]

_NEWS = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET


class Arrivals:
    """Readable once more has come to a socket, or its other end is gone.

    What lies unread in it makes it readable once only: epoll(7), "edge-triggered".

    Args:
        fd: The socket, which has to stay open for as long as this.
    """

    def __init__(self, fd: int) -> None:
        self._epoll = select.epoll()
        self._epoll.register(fd, _NEWS)

    def fileno(self) -> int:
        """The descriptor to watch."""
        return self._epoll.fileno()

    def take(self) -> bool:
        """Make it wait for the next news; returns whether the other end is gone."""
        gone = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
        return any(events & gone for _, events in self._epoll.poll(0))

    def close(self) -> None:
        """Idempotent."""
        self._epoll.close()
