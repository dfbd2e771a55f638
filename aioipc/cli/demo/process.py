"""Starting the other process, and being sure that it ends."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

from aioipc.channel import Channel
from aioipc.cli.problems import PeerFailed
from aioipc.connect import pair
from aioipc.kernel.owned import OwnedFd

__all__ = ["INHERITED", "MODES", "OtherProcess", "immune_to_interrupts", "peer_command"]

MODES = ("adaptive", "block")
"""How waits begin: everything is measured in the first way, the round trip also in the second."""

INHERITED = {"pipe": "pipe", "fd": "unix"}
"""What only a child of ours can be given: scheme to the kind of pair that it gets an end of."""

_PATIENCE_S = 2.0


def peer_command(address: str, polling: str) -> list[str]:
    """The program of the other process, which finds modules where this one does."""
    main = f"from aioipc.cli.demo.peer import main; main({address!r}, {polling!r})"
    return [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {main}"]


@contextlib.contextmanager
def immune_to_interrupts() -> Iterator[None]:
    """What is started meanwhile ignores SIGINT, which a terminal sends to children as well.

    A child that handled it by itself could print a traceback while it is still starting. Ours
    end when their channel does. A SIGINT for this process is delivered afterwards: a blocked
    signal stays pending, also while it is ignored (signal(7)).
    """
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


class OtherProcess:
    """The child, and what it can be told.

    Attributes:
        pid: Its process id.
        inherited: Our end of each pair of `INHERITED`, and the address of its end, by scheme
            and mode.
    """

    def __init__(
        self,
        pid: int,
        control: Channel[Any],
        inherited: dict[tuple[str, str], tuple[Channel[Any], str]],
    ) -> None:
        self.pid = pid
        self.inherited = inherited
        self._control = control

    @classmethod
    @contextlib.asynccontextmanager
    async def start(cls) -> AsyncIterator[OtherProcess]:
        """Start it; it ends when this is left, or when this process dies."""
        async with contextlib.AsyncExitStack() as stack:
            control, theirs = pair("unix")
            address, fds = theirs.detach()
            handed_down = [OwnedFd(fd) for fd in fds]
            inherited = {}
            for scheme, kind in INHERITED.items():
                for mode in MODES:
                    ours, theirs = pair(kind, polling=mode)
                    stack.push_async_callback(ours.aclose)
                    at, fds = theirs.detach()
                    handed_down += [OwnedFd(fd) for fd in fds]
                    inherited[scheme, mode] = (ours, at)
            process = _spawn(peer_command(address, MODES[0]), handed_down)
            stack.callback(_see_off, process)
            await stack.enter_async_context(control)
            yield cls(process.pid, control, inherited)

    async def order(self, kind: str, polling: str, *addresses: str) -> str:
        """Have it open its end of a link; returns the address that it has there.

        Raises:
            PeerFailed: It cannot.
            PeerCrashed: It is dead.
        """
        await self._control.send([kind, polling, *addresses])
        address, problem = await self._control.receive()
        if problem:
            raise PeerFailed(problem)
        return str(address)


def _spawn(command: list[str], handed_down: list[OwnedFd]) -> subprocess.Popen[bytes]:
    null = subprocess.DEVNULL
    fds = [fd.fileno() for fd in handed_down]
    with immune_to_interrupts():
        process = subprocess.Popen(command, pass_fds=fds, stdin=null, stdout=null)
    for fd in handed_down:
        fd.close()
    return process


def _see_off(process: subprocess.Popen[bytes]) -> None:
    """Reap the child, whose control channel is closed by now."""
    try:
        process.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
