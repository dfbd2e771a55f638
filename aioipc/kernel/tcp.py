"""What the kernel knows about the peer of a TCP connection: tcp(7)."""

from __future__ import annotations

import fcntl
import math
import socket
import struct
import termios
from dataclasses import dataclass

__all__ = ["Quiet", "cut_off", "keep_alive", "read_quiet", "undelivered_bytes"]

_INFO = struct.Struct("@B7x12I")  # the head of struct tcp_info in linux/tcp.h
_CLOSE_WAIT = 8  # TCP_CLOSE_WAIT in linux/tcp_states.h: the peer has sent its FIN
_PROBES = 3
_SIOCOUTQ = termios.TIOCOUTQ
_SIOCOUTQNSD = 0x894B  # linux/sockios.h


@dataclass(frozen=True, slots=True)
class Quiet:
    """For how long a connection has been quiet.

    Attributes:
        sent_s: Since data was sent last.
        received_s: Since data came last, whether or not anybody has read it.
        unread_bytes: How much of it nobody has read.
        finished: Whether the peer has ended its direction.
    """

    sent_s: float
    received_s: float
    unread_bytes: int
    finished: bool


def read_quiet(fd: int) -> Quiet:
    """Ask the kernel how quiet the connection of a TCP socket is: TCP_INFO.

    Raises:
        OSError: It is no TCP socket.
    """
    view = socket.socket(fileno=fd)
    try:
        info = _INFO.unpack(view.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size))
        state, sent_ms, received_ms = info[0], info[10], info[12]
        unread = struct.unpack("i", fcntl.ioctl(view, termios.FIONREAD, bytes(4)))[0]
    finally:
        view.detach()
    return Quiet(sent_ms / 1000, received_ms / 1000, unread, state == _CLOSE_WAIT)


def undelivered_bytes(fd: int, *, local: bool) -> int:
    """How much of what was written to a TCP socket the peer may not have: SIOCOUTQ in tcp(7).

    The end of the direction counts as one byte.

    Args:
        fd: The socket.
        local: Whether the peer is on this machine. Then it has what was sent; it may take 40 ms
            to acknowledge that.

    Raises:
        OSError: It is no TCP socket.
    """
    asked = fcntl.ioctl(fd, _SIOCOUTQNSD if local else _SIOCOUTQ, bytes(4))
    count: int = struct.unpack("i", asked)[0]
    return count


def keep_alive(sock: socket.socket, *, idle_s: float, silence_s: float) -> None:
    """Let the kernel probe a peer that says nothing, and give it up: SO_KEEPALIVE.

    It finds machines that are gone, not processes that hang. The kernel counts whole seconds.

    Args:
        sock: A TCP socket.
        idle_s: When the first of three probes is sent.
        silence_s: When the peer is given up.
    """
    every_s = max(1, round((silence_s - idle_s) / _PROBES))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, math.ceil(idle_s)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, every_s)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)


def cut_off(fd: int) -> None:
    """End both directions of a connection; what has come can still be read: shutdown(2).

    Raises:
        OSError: It has ended by itself.
    """
    view = socket.socket(fileno=fd)
    try:
        view.shutdown(socket.SHUT_RDWR)
    finally:
        view.detach()
