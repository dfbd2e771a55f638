"""Commands joined by pipes, as a shell does it: ``ls | grep txt``."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import warnings
from collections.abc import Sequence

from anyio.abc import AsyncResource

from aioipc._opening import Opening
from aioipc.errors import ForkError, from_os_error
from aioipc.kernel.owned import OwnedFd, owned_pipe, pipe_from_child, pipe_to_child
from aioipc.process.program import Program, start
from aioipc.process.standard import stream_from, stream_to
from aioipc.stream import ByteStream

__all__ = ["Pipeline", "pipeline"]

_GRACE_S = 1.0


class Pipeline(AsyncResource):
    """Programs that run at the same time, each reading what the one before it writes.

    Made by `pipeline`. None of them outlives this process.

    Attributes:
        stdin: The way to the first one. It reads its end when this is closed, or its sending
            direction ended.
        stdout: What the last one writes.
        pids: The process ids, from the first to the last.
    """

    stdin: ByteStream
    stdout: ByteStream
    pids: tuple[int, ...]

    def __init__(self, stdin: ByteStream, stdout: ByteStream, programs: Sequence[Program]) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self.pids = tuple(program.pid for program in programs)
        self._programs = tuple(programs)
        self._owner = os.getpid()
        self._closed = False
        self._closing = asyncio.Lock()

    @property
    def statuses(self) -> tuple[int | None, ...]:
        """Each one's exit code, or minus the signal that killed it; None while it runs."""
        return tuple(program.status for program in self._programs)

    @property
    def status(self) -> int | None:
        """That of the last one that failed, or 0, as in a shell with ``pipefail``.

        None while one of them runs.
        """
        if None in self.statuses:
            return None
        return next(filter(None, reversed(self.statuses)), 0)

    async def wait(self) -> int:
        """Wait until all have ended, and return `status`.

        End ``stdin`` before, and read ``stdout``, if they are to end by themselves.

        Cancellation:
            Safe: they go on running.
        """
        self._check_owner()
        for program in self._programs:
            await program.wait()
        assert self.status is not None
        return self.status

    def terminate(self) -> None:
        """Ask all of them to end: SIGTERM.

        Raises:
            AccessDenied: One of them runs as another user; the others were told.
        """
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End all of them: SIGKILL.

        Raises:
            AccessDenied: One of them runs as another user; the others were told.
        """
        self._signal(signal.SIGKILL)

    async def aclose(self) -> None:
        """Close both streams, and see the programs off. Idempotent.

        A program that has not ended a second later gets SIGTERM, and SIGKILL after another.

        Raises:
            AccessDenied: One of them did not end by itself, and runs as another user: it goes on.

        Cancellation:
            They are killed at once.
        """
        if self._closed and not self._closing.locked():
            return
        self._check_owner()
        try:
            async with self._closing:  # who comes second waits for the first
                if not self._closed:
                    self._closed = True
                    await self._see_off()
        except BaseException:
            self._try_kill()
            for program in self._programs:
                await program.kill_and_reap()
            raise

    async def _see_off(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self.stdout.aclose)
            stack.push_async_callback(self.stdin.aclose)
        for program in self._programs:
            await program.end(_GRACE_S)

    def _signal(self, number: int) -> None:
        self._check_owner()
        with contextlib.ExitStack() as each:
            for program in reversed(self._programs):
                each.callback(program.signal_group, number)

    def _try_kill(self) -> None:
        for program in self._programs:
            program.try_kill()

    def _check_owner(self) -> None:
        if self._owner != os.getpid():
            raise ForkError("these programs are children of the parent process")

    def __del__(self) -> None:
        if getattr(self, "_closed", True) or self._owner != os.getpid():
            return
        try:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
        finally:  # a warning may be an error
            self._closed = True
            self._try_kill()
            self.stdin.abort()
            self.stdout.abort()

    def __repr__(self) -> str:
        names = " | ".join(program.name for program in self._programs)
        return f"<Pipeline {names} {'closed' if self._closed else 'open'}>"


def pipeline(*commands: Sequence[str]) -> Opening[Pipeline]:
    """Start commands, each reading what the one before it writes: await it, or enter it.

    They write errors where this process does, and each leads a process group of its own.

    Args:
        commands: Each is a program and its arguments; no shell comes between.

    Raises:
        ValueError: There is no command, or an empty one.
        ConnectError: There is no such program.
        ResourceExhausted: There are too many processes or descriptors.

    Cancellation:
        Undoes: nothing was started.
    """
    if not commands or not all(command and not isinstance(command, str) for command in commands):
        raise ValueError("pipeline() takes commands, each a list of one or more words")

    async def open_() -> Pipeline:
        programs: list[Program] = []
        try:
            return _start([list(command) for command in commands], programs)
        except BaseException:
            for program in programs:
                await program.kill_and_reap()
            raise

    return Opening(open_)


def _start(commands: list[list[str]], programs: list[Program]) -> Pipeline:
    with contextlib.ExitStack() as ends, contextlib.ExitStack() as undo:
        try:
            writer, reads = pipe_to_child()
            undo.callback(writer.close)
            ends.enter_context(reads)
            reader, last_writes = pipe_from_child()
            undo.callback(reader.close)
            ends.enter_context(last_writes)
            joints = [owned_pipe() for _ in commands[1:]]
        except OSError as error:
            raise from_os_error(error, "start a pipeline") from error
        inputs: list[OwnedFd] = [reads, *(joint[0] for joint in joints)]
        outputs: list[OwnedFd] = [*(joint[1] for joint in joints), last_writes]
        for end in (*inputs, *outputs):
            ends.callback(end.close)
        for command, source, sink in zip(commands, inputs, outputs, strict=True):
            standard = (source.fileno(), sink.fileno(), None)
            programs.append(start(command, standard, name=os.path.basename(command[0])))
        undo.pop_all()
    pids = ", ".join(str(program.pid) for program in programs)
    return Pipeline(
        stream_to(writer, f"input of {pids}"), stream_from(reader, f"output of {pids}"), programs
    )
