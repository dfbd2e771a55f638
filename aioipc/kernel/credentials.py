"""Who is at the other end of a Unix socket: unix(7), ``SO_PEERCRED`` and ``SO_PEERPIDFD``."""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
from collections.abc import Iterable

from aioipc.abc import Allow, PeerCredentials
from aioipc.address import Address

__all__ = [
    "credentials_in",
    "is_allowed",
    "peer_credentials",
    "peer_pidfd",
    "refuse_allow",
    "same_user",
    "same_user_or_root",
]

log = logging.getLogger("aioipc.kernel.credentials")

_UCRED = struct.Struct("iII")
_NOBODY = 0xFFFFFFFF
_SO_PEERPIDFD = 77  # since Linux 6.5; Python has no name for it
_NO_ANSWER = frozenset({errno.ENOTSOCK, errno.ENOPROTOOPT, errno.EOPNOTSUPP})


def peer_credentials(fd: int) -> PeerCredentials | None:
    """Say who connected to, or listened on, the other end of a socket.

    The kernel recorded it at connect(2), listen(2) or socketpair(2). The pid is 0 where the
    peer lives in a pid namespace that is not visible here.

    Args:
        fd: A descriptor of any kind.

    Returns:
        The credentials, or None where the kernel knows none: not a socket, not a Unix socket,
        or a datagram socket.
    """
    try:
        answer = _socket_option(fd, socket.SO_PEERCRED)
    except OSError as error:
        if error.errno in _NO_ANSWER:
            return None
        raise
    if len(answer) != _UCRED.size:
        return None
    pid, uid, gid = _UCRED.unpack(answer)
    return None if uid == _NOBODY else PeerCredentials(pid, uid, gid)


def peer_pidfd(fd: int) -> int | None:
    """Open a pidfd of the peer's process, which belongs to the caller and is close-on-exec.

    Before Linux 6.5 the kernel tells the pid only, which another process may have by now.

    Returns:
        The pidfd, or None on a socket without credentials, and when the process has ended and
        was reaped already.
    """
    try:
        answer = _socket_option(fd, _SO_PEERPIDFD)
    except OSError as error:
        return _pidfd_by_number(fd) if error.errno == errno.ENOPROTOOPT else None
    (pidfd,) = struct.unpack("i", answer)
    return int(pidfd)


def _pidfd_by_number(fd: int) -> int | None:
    try:
        peer = peer_credentials(fd)
        return os.pidfd_open(peer.pid) if peer is not None and peer.pid > 0 else None
    except OSError:
        return None


def same_user(credentials: PeerCredentials) -> bool:
    """Allow this process's own user: what a server trusts unless told otherwise."""
    return credentials.uid == os.geteuid()


def same_user_or_root(credentials: PeerCredentials) -> bool:
    """Allow this process's own user and root: what a client trusts unless told otherwise."""
    return credentials.uid in (os.geteuid(), 0)


def is_allowed(allow: Allow, peer: PeerCredentials, address: str) -> bool:
    """Whether a peer may talk to this process; an ``allow`` that fails says no."""
    try:
        return allow(peer)
    except Exception:  # whatever it is, it is no yes
        log.exception("%s: allow= failed for %s", address, peer)
        return False


def refuse_allow(address: Address, allow: Allow | None) -> None:
    """Say that there are no credentials, because a scheme has none.

    Raises:
        ValueError: ``allow`` was given.
    """
    if allow is not None:
        raise ValueError(
            f"{address}: {address.scheme}: does not know the peer's user, so allow= cannot be asked"
        )


def credentials_in(ancillary: Iterable[tuple[int, int, bytes]]) -> PeerCredentials | None:
    """Find who sent a datagram in what recvmsg(2) says about it: ``SCM_CREDENTIALS``.

    The kernel adds it where the receiving socket has ``SO_PASSCRED``; a sender can claim no other
    user's, unless root.
    """
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            return PeerCredentials(*_UCRED.unpack(data[: _UCRED.size]))
    return None


def _socket_option(fd: int, option: int) -> bytes:
    # Family, type and protocol are given, else the constructor asks the kernel for each; the
    # level SOL_SOCKET is the same for all of them.
    view = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=fd)
    try:
        return view.getsockopt(socket.SOL_SOCKET, option, _UCRED.size)
    finally:
        view.detach()
