"""Start a child process: posix_spawn(3), which never runs Python between fork and exec."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import signal
from collections.abc import Iterator, Mapping, Sequence

from aioipc.kernel.pidfd import Child, open_pidfd, reap_left_running

__all__ = ["Child", "spawn"]

_Action = tuple[int, int, int] | tuple[int, int, str, int, int]
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
_DEV_NULL_FLAGS = (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY)


def spawn(
    argv: Sequence[str],
    *,
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    pass_fds: Sequence[int] = (),
    env: Mapping[str, str] | None = None,
    new_group: bool = False,
) -> Child:
    """Start a program with a clean signal mask and only the descriptors meant for it.

    Args:
        argv: The program, looked up in this process's PATH, and its arguments.
        stdin: What becomes descriptor 0 of the child; None hands down our own, or /dev/null
            where ours is closed.
        stdout: The same for descriptor 1.
        stderr: The same for descriptor 2.
        pass_fds: Descriptors that the child gets at the same numbers. They stay close-on-exec
            in this process.
        env: The child's environment; None hands down our own.
        new_group: Whether it leads a process group of its own: setpgid(2). A Ctrl-C at the
            terminal is then not for it.

    Returns:
        The child. The descriptors given still belong to the caller.

    Raises:
        FileNotFoundError: There is no such program.
        ChildProcessError: SIGCHLD is ignored and the child is gone already.
        OSError: The kernel refused.
    """
    reap_left_running()
    wanted = _with_passed((stdin, stdout, stderr), pass_fds)
    with _out_of_the_way(wanted) as sources:
        actions = [*_standard_actions(sources), *_keep_actions(pass_fds)]
        start = functools.partial(os.posix_spawnp, setpgroup=0) if new_group else os.posix_spawnp
        pid = start(
            argv[0],
            list(argv),
            os.environ if env is None else env,
            file_actions=actions,
            setsigmask=(),
            setsigdef=_IGNORED_BY_PYTHON,
        )
    return Child(pid, _pidfd_of_child(pid, leads_group=new_group))


def _with_passed(standard: Sequence[int | None], pass_fds: Sequence[int]) -> list[int | None]:
    """Add those passed descriptors that are themselves 0, 1 or 2."""
    wanted = list(standard)
    for fd in pass_fds:
        fcntl.fcntl(fd, fcntl.F_GETFD)  # EBADF here rather than in the child
        if fd < 3 and wanted[fd] not in (None, fd):
            raise ValueError(f"descriptor {fd} cannot be passed and also be replaced by another")
        if fd < 3:
            wanted[fd] = fd
    return wanted


@contextlib.contextmanager
def _out_of_the_way(wanted: Sequence[int | None]) -> Iterator[list[int | None]]:
    """Give sources that no dup2 onto 0, 1 or 2 can overwrite before they were used."""
    sources = list(wanted)
    copies: list[int] = []
    try:
        for target, source in enumerate(wanted):
            if source is not None and source < 3 and source != target:
                copy = fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, 3)
                copies.append(copy)
                sources[target] = copy
        yield sources
    finally:
        for copy in copies:
            os.close(copy)


def _standard_actions(sources: Sequence[int | None]) -> Iterator[_Action]:
    for target, source in enumerate(sources):
        if source is not None:
            yield os.POSIX_SPAWN_DUP2, source, target
        elif not _is_inheritable(target):
            # Else the child's first own file would become its standard input or output.
            yield os.POSIX_SPAWN_OPEN, target, os.devnull, _DEV_NULL_FLAGS[target], 0


def _keep_actions(pass_fds: Sequence[int]) -> Iterator[_Action]:
    # dup2 onto itself clears close-on-exec in the child: posix_spawn_file_actions_adddup2(3),
    # glibc 2.29, musl 1.1.24.
    for fd in pass_fds:
        yield os.POSIX_SPAWN_DUP2, fd, fd


def _is_inheritable(fd: int) -> bool:
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False


def _pidfd_of_child(pid: int, *, leads_group: bool) -> int:
    """Open the pidfd of a child just started, which cannot be reaped behind our back.

    A child that cannot be watched is killed, with its group if it leads one.

    Only an ignored SIGCHLD lets the kernel reap by itself; then the pid may be somebody
    else's by now, and waitid(2) tells.
    """
    try:
        pidfd = open_pidfd(pid)
    except ProcessLookupError:
        raise ChildProcessError(f"child {pid} is gone: SIGCHLD is ignored") from None
    except OSError:
        with contextlib.suppress(OSError):  # it became another user, or is gone
            (os.killpg if leads_group else os.kill)(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        raise
    try:
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        os.close(pidfd)
        raise ChildProcessError(f"child {pid} is gone: SIGCHLD is ignored") from None
    return pidfd
