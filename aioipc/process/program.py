"""One program that runs: its process group, and that it ends."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import signal
from collections.abc import Callable, Mapping, Sequence

import anyio

from aioipc.errors import AccessDenied, from_os_error
from aioipc.kernel.leash import Leash
from aioipc.kernel.oom import oom_kills
from aioipc.kernel.owned import abandon_in_child
from aioipc.kernel.spawn import Child, spawn
from aioipc.loop.fd import FdWatch
from aioipc.loop.waiting import Waits
from aioipc.process.callbacks import call

__all__ = ["LEASH", "UNKNOWN", "Fds", "Program", "start"]

log = logging.getLogger("aioipc.process")

LEASH = "<leash>"

UNKNOWN = 255
"""The status of a child that somebody else has reaped, as asyncio has it."""

_DYING_S = 1.0
"""What SIGKILL takes at most, unless the process hangs in the kernel."""

Fds = tuple[int | None, int | None, int | None]
"""What becomes 0, 1 and 2 of a child; None for what is 0, 1 and 2 here."""


def start(
    argv: Sequence[str],
    standard: Fds,
    *,
    name: str,
    pass_fds: Sequence[int] = (),
    env: Mapping[str, str] | None = None,
) -> Program:
    """Start a program in a process group of its own, which ends when this process does.

    Args:
        argv: The program and its arguments; a `LEASH` among them becomes the number of the
            descriptor that it inherits without having asked for it.
        standard: What becomes 0, 1 and 2 of it.
        name: For messages.
        pass_fds: What else it inherits.
        env: Its environment; None hands down ours.

    Raises:
        ConnectError: There is no such program.
        AccessDenied: It must not be run.
        ResourceExhausted: There are too many processes or descriptors.
    """
    kills = oom_kills()
    try:
        leash = Leash()
        try:
            held = leash.child_end.fileno()
            stdin, stdout, stderr = standard
            child = spawn(
                [str(held) if word is LEASH else word for word in argv],
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                pass_fds=[*pass_fds, held],
                env=env,
                new_group=True,
            )
            leash.hold(child)
        except BaseException:
            leash.close()
            raise
    except OSError as error:
        # EAGAIN is fork's word for too many processes: RLIMIT_NPROC, or the limit of a cgroup.
        is_connecting = error.errno != errno.EAGAIN
        raise from_os_error(error, f"start {name}", connecting=is_connecting) from error
    return Program(child, leash, name, kills)


class Program:
    """A child that leads a process group: how it ended, and that all of the group ends with it.

    Attributes:
        name: For messages.
        pid: Its process id.
        status: Its exit code, or minus the number of the signal that killed it; None while it
            runs.
        was_told: Whether this side sent it a signal, so that its end is no surprise.
    """

    def __init__(self, child: Child, leash: Leash, name: str, oom_kills_before: int) -> None:
        self.name = name
        self.pid = child.pid
        self.status: int | None = None
        self.was_told = False
        self._child = child
        self._leash = leash
        self._oom_kills_before = oom_kills_before
        self._oom_kills_after = oom_kills_before
        self._loop = asyncio.get_running_loop()
        self._waits = Waits()
        self._when_ended: list[Callable[[], object]] = []
        self._watch = FdWatch()
        self._watch.watch_reading(child.pidfd, self._ended)
        abandon_in_child(self)

    @property
    def out_of_memory(self) -> bool:
        """Whether the kernel was short of memory, and killed this one for it or another."""
        was_killed = self.status == -signal.SIGKILL and not self.was_told
        return was_killed and self._oom_kills_after > self._oom_kills_before

    def fileno(self) -> int:
        """The pidfd; -1 once it has ended."""
        return self._child.pidfd

    def when_ended(self, callback: Callable[[], object]) -> None:
        """Call ``callback`` at once when it has ended; soon, if it has."""
        if self.status is None:
            self._when_ended.append(callback)
        else:
            asyncio.get_running_loop().call_soon(callback)

    async def wait(self) -> int:
        """Wait for its end and return its status.

        Raises:
            RuntimeError: Another loop than the one that it was started in would not be told.

        Cancellation:
            Safe.
        """
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError(f"{self.name} belongs to the event loop of another thread")
        while self.status is None:
            await self._waits.until_end()
        return self.status

    def signal_group(self, number: int) -> bool:
        """Send a signal to it and to what it has started; False if it has ended.

        Raises:
            AccessDenied: It runs as another user, as what sudo(8) starts does: kill(2).
        """
        try:
            self.was_told = self._child.signal_group(number) or self.was_told
        except PermissionError as error:
            whom = f"{self.name} (pid {self.pid}), which runs as another user"
            raise from_os_error(error, f"{signal.Signals(number).name} to {whom}") from error
        return self.status is None

    def try_kill(self) -> bool:
        """Send SIGKILL in the same way; False if that is not allowed."""
        try:
            self.signal_group(signal.SIGKILL)
        except AccessDenied:
            return False
        return True

    async def end(self, grace_s: float) -> None:
        """Wait for its end; after a grace demand it (SIGTERM), after another force it (SIGKILL).

        Raises:
            AccessDenied: It has not ended by itself, and runs as another user.

        Cancellation:
            It is killed at once.
        """
        try:
            if not await self._ends_within(grace_s):
                self.signal_group(signal.SIGTERM)
                if not await self._ends_within(grace_s):
                    log.warning("%s %d ignored SIGTERM and was killed", self.name, self.pid)
                    self.signal_group(signal.SIGKILL)
                    await self.wait()
        except BaseException:
            await self.kill_and_reap()
            raise

    async def kill_and_reap(self) -> None:
        """Kill it if allowed, also in a cancelled scope, and give the kernel a moment to do so."""
        if self.try_kill():
            with anyio.move_on_after(_DYING_S, shield=True):
                await self.wait()

    async def _ends_within(self, limit_s: float) -> bool:
        try:
            async with asyncio.timeout(limit_s):
                await self.wait()
        except TimeoutError:
            pass
        return self.status is not None

    def _ended(self) -> None:
        self._watch.close()
        with contextlib.suppress(PermissionError):  # the one that ended counts, too
            # Before it is reaped, which frees the number.
            self._child.signal_group(signal.SIGKILL)
        status = self._child.status()
        self._oom_kills_after = oom_kills()
        self.status = UNKNOWN if status is None else status
        self._let_go()
        self._waits.end()
        callbacks, self._when_ended = self._when_ended, []
        for callback in callbacks:
            call(asyncio.get_running_loop(), callback)

    def _let_go(self) -> None:
        self._child.close()
        self._leash.close()

    def abandon(self) -> None:
        """Leave the loop to the parent process, in a forked child."""
        self._watch.abandon()

    def __del__(self) -> None:
        if self._child.fileno() >= 0:
            self.try_kill()
            self._let_go()
