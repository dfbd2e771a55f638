"""Unix socket names: how a server takes one and how a client finds it, safely. unix(7).

A server holds the guard ``.NAME.guard`` for life. Under it, it binds a temporary name and
renames that over ``NAME``, so that clients see the old socket or the new one, never one that
does not listen yet, and of many simultaneous starters exactly one wins. On close it removes
the name only if it still is its own.

A client opens the socket file itself (``O_PATH``), checks it, and connects to that inode
through /proc/self/fd, so that nothing can be exchanged in between.

A target is ``@`` and an abstract name, a path if it has a slash, else a name in the runtime
directory.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat

from aioipc.address import check_name
from aioipc.errors import AccessDenied, AddressError, ConnectError, ResourceExhausted
from aioipc.kernel.directory import Directory, Identity, check_owner, denied, open_trusted
from aioipc.kernel.lockfile import Guard, try_guard
from aioipc.kernel.owned import Closing, OwnedFd, OwnedSocket, abandon_in_child, outlive
from aioipc.kernel.runtime_dir import open_runtime_dir

__all__ = ["BoundSocket", "SocketFile", "bind_unix", "check_path", "remove_dead"]

_NOT_SERVED = frozenset({errno.ECONNREFUSED, errno.ENOENT})


class BoundSocket(Closing):
    """A server's socket and its name, which goes when the socket closes.

    Attributes:
        socket: Non-blocking and close-on-exec; it listens unless it is a datagram socket.
        target: What was asked for.
        path: The path of the socket file, None for an abstract name.
    """

    __slots__ = ("__weakref__", "_name", "path", "socket", "target")

    def __init__(self, bound: OwnedSocket, target: str, name: _Name | None) -> None:
        self.socket = bound
        self.target = target
        self.path = None if name is None else name.path
        self._name = name
        abandon_in_child(self)
        if name is not None:
            outlive(self, *name.parts)

    def fileno(self) -> int:
        """The number of the socket's descriptor, -1 once it is closed."""
        return self.socket.fileno()

    def close(self) -> None:
        """Remove the name if it is still ours, stop listening, release the guard. Idempotent."""
        name, self._name = self._name, None
        with contextlib.ExitStack() as steps:
            if name is not None:
                steps.callback(name.release)
            steps.callback(self.socket.close)
            if name is not None:
                steps.callback(name.withdraw)

    def abandon(self) -> None:
        """Leave the name to the process that owns it."""
        self._name = None

    def __del__(self) -> None:
        if hasattr(self, "_name"):
            self.close()

    def __repr__(self) -> str:
        return f"<BoundSocket {self.target!r} fd={self.fileno()}>"


class SocketFile(OwnedFd):
    """The socket file of a server, checked and held open: what a client connects to.

    Attributes:
        address: What connect(2) is given; good until `close`. A server that has restarted has
            a new file: look again before trying again.
    """

    __slots__ = ("address",)

    def __init__(self, fd: int, address: str | None = None) -> None:
        super().__init__(fd)
        self.address = f"/proc/self/fd/{self._fd}" if address is None else address


def bind_unix(
    target: str,
    kind: int = socket.SOCK_STREAM,
    *,
    others: bool = False,
    folder: str = "socket",
    backlog: int = socket.SOMAXCONN,
) -> BoundSocket:
    """Take a name and listen on it.

    Args:
        target: ``@abstract``, a path, or a name in the runtime directory.
        kind: ``SOCK_STREAM``, ``SOCK_SEQPACKET`` or ``SOCK_DGRAM``.
        others: Whether other users may connect: mode 0666 instead of 0600.
        folder: The subdirectory of the runtime directory that names are for.
        backlog: How many connections wait to be accepted; see listen(2).

    Returns:
        The socket and its name.

    Raises:
        AccessDenied: The directory is not to be trusted, or there is a symlink or another
            user's file at the name; nothing was touched.
        ResourceExhausted: Somebody serves this name (errno EADDRINUSE).
        AddressError: The name is none, or is one that other users cannot reach.
        OSError: The kernel refused, for example because the directory does not exist.
    """
    if target.startswith("@"):
        return _bind_abstract(target, kind, backlog)
    if others and "/" not in target:
        raise AddressError(f"other users cannot reach the name {target!r}: give a path")
    with contextlib.ExitStack() as undo:
        name = _take(*_locate(target, folder, create=True))
        undo.callback(name.release)
        name.refuse_served(kind)
        bound = undo.enter_context(OwnedSocket(socket.AF_UNIX, kind))
        name.publish(bound, 0o666 if others else 0o600, backlog)
        undo.pop_all()
    return BoundSocket(bound, target, name)


def check_path(target: str, *, any_owner: bool = False, folder: str = "socket") -> SocketFile:
    """Look a server's socket up and check that nobody untrusted put it there.

    Args:
        target: ``@abstract``, a path, or a name in the runtime directory.
        any_owner: Whether the file and its directory may belong to another user, whom the
            caller is going to check by the credentials of the connection.
        folder: The subdirectory of the runtime directory that names are for.

    Returns:
        What to connect to, which belongs to the caller.

    Raises:
        AccessDenied: The directory or the file is not to be trusted.
        ConnectError: There is something, but no socket.
        FileNotFoundError: There is nothing.
        AddressError: The name is none.
    """
    if target.startswith("@"):
        return SocketFile(-1, _abstract(target))
    directory, name = _locate(target, folder, create=False, any_owner=any_owner)
    with directory:
        return _open_socket_file(directory, name, any_owner=any_owner)


def remove_dead(directory: Directory, name: str) -> bool:
    """Remove a name whose server is gone, as the next server of it would.

    Returns:
        False if somebody serves it, or it is no socket of this user.
    """
    try:
        guard = try_guard(directory, f".{name}.guard")
    except (AccessDenied, FileNotFoundError):
        return False
    if guard is None:
        return False
    try:
        _Name(directory, name, guard).refuse_served(socket.SOCK_STREAM)
    except (AccessDenied, ResourceExhausted):
        guard.remove(directory)
        return False
    directory.unlink(f".{guard.identity[1]}.new")
    directory.unlink(name)
    guard.remove(directory)
    return True


class _Name:
    """A name that this process alone serves, as its guard says."""

    __slots__ = ("_directory", "_guard", "_identity", "_name")

    def __init__(self, directory: Directory, name: str, guard: Guard) -> None:
        self._directory = directory
        self._name = name
        self._guard = guard
        self._identity: Identity | None = None

    @property
    def path(self) -> str:
        return self._directory.join(self._name)

    @property
    def parts(self) -> tuple[Directory, Guard]:
        """What its owner has to close."""
        return self._directory, self._guard

    def refuse_served(self, kind: int) -> None:
        """Raise unless the name is free, or a socket of ours that nobody serves any more."""
        found = self._directory.stat(self._name)
        if found is None:
            return
        if stat.S_ISLNK(found.st_mode):
            raise denied(f"{self.path} is a symlink")
        if not stat.S_ISSOCK(found.st_mode):
            raise _in_use(f"{self.path} exists and is no socket")
        if found.st_uid != os.geteuid():
            raise denied(f"{self.path} belongs to uid {found.st_uid}, not to {os.geteuid()}")
        if self._is_served(kind):
            raise _in_use(f"{self.path}: address in use by another program")

    def publish(self, bound: socket.socket, mode: int, backlog: int) -> None:
        """Bind, listen, and let the name appear at once with everything in place."""
        # One name per guard, so that the next holder finds what a killed one left; and short,
        # because sun_path has room for 107 bytes.
        temporary = f".{self._guard.identity[1]}.new"
        self._directory.unlink(temporary)
        os.fchmod(bound.fileno(), 0o600)  # bind(2) makes the file with this, less the umask
        bound.bind(self._directory.through_proc(temporary))
        try:
            os.chmod(temporary, mode, dir_fd=self._directory.fileno())
            if bound.type != socket.SOCK_DGRAM:
                bound.listen(backlog)
            identity = self._directory.identity(temporary)
            self._directory.rename(temporary, self._name)
        except BaseException:
            self._directory.unlink(temporary)
            raise
        self._identity = identity

    def withdraw(self) -> None:
        """Unlink the socket file, unless it has become somebody else's."""
        if self._identity is not None:
            self._directory.unlink_if(self._name, self._identity)

    def release(self) -> None:
        """Let others serve the name."""
        with self._directory:
            self._guard.remove(self._directory)

    def _is_served(self, kind: int) -> bool:
        try:
            file = _open_socket_file(self._directory, self._name, any_owner=True)
        except FileNotFoundError:
            return False
        with file, OwnedSocket(socket.AF_UNIX, kind) as probe:
            return probe.connect_ex(file.address) not in _NOT_SERVED


def _take(directory: Directory, name: str) -> _Name:
    with contextlib.ExitStack() as undo:
        undo.enter_context(directory)
        guard = try_guard(directory, f".{name}.guard")
        if guard is None:
            raise _in_use(f"{directory.join(name)}: address in use")
        undo.pop_all()
        return _Name(directory, name, guard)


def _locate(
    target: str, folder: str, *, create: bool, any_owner: bool = False
) -> tuple[Directory, str]:
    if "/" not in target:
        name = check_name(target)
        return open_runtime_dir(folder, create=create), name
    parent, name = os.path.split(target)
    if name in ("", ".", ".."):
        raise AddressError(f"{target!r} names no file")
    return open_trusted(parent, any_owner=any_owner), name


def _open_socket_file(directory: Directory, name: str, *, any_owner: bool) -> SocketFile:
    # O_PATH with O_NOFOLLOW opens a symlink itself: open(2).
    file = SocketFile(directory.open(name, os.O_PATH))
    try:
        _check_socket_file(os.fstat(file.fileno()), directory.join(name), any_owner=any_owner)
    except BaseException:
        file.close()
        raise
    return file


def _check_socket_file(status: os.stat_result, path: str, *, any_owner: bool) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise denied(f"{path} is a symlink")
    if not stat.S_ISSOCK(status.st_mode):
        raise ConnectError(f"{path} is no socket")
    if not any_owner:
        check_owner(status, path)


def _bind_abstract(target: str, kind: int, backlog: int) -> BoundSocket:
    address = _abstract(target)
    with contextlib.ExitStack() as undo:
        bound = undo.enter_context(OwnedSocket(socket.AF_UNIX, kind))
        try:
            bound.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise _in_use(f"{target}: address in use") from None
            raise
        if kind != socket.SOCK_DGRAM:
            bound.listen(backlog)
        undo.pop_all()
    return BoundSocket(bound, target, None)


def _abstract(target: str) -> str:
    if len(target) < 2:
        raise AddressError(f"{target!r} has no name after the @")
    return "\0" + target[1:]


def _in_use(message: str) -> ResourceExhausted:
    return ResourceExhausted(errno.EADDRINUSE, message)
