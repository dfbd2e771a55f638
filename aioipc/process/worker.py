"""Workers: processes of our own with a channel."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import warnings
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Literal, Self

from aioipc._opening import Opening
from aioipc.abc import Codec
from aioipc.channel import Channel
from aioipc.connect import pair
from aioipc.errors import AddressError, ForkError, WorkerDied, from_os_error
from aioipc.kernel.owned import OwnedFd
from aioipc.kernel.pidfd import describe
from aioipc.limits import Limits
from aioipc.process.forking import ForkServer
from aioipc.process.order import ChannelFacts
from aioipc.process.plan import Plan, plan_for
from aioipc.process.program import Fds, Program
from aioipc.process.program import start as execute
from aioipc.process.setup import Setup
from aioipc.process.standard import StandardStreams
from aioipc.signals import send
from aioipc.stream import ByteStream

__all__ = ["Worker", "WorkerOpening", "ended", "spawn"]

_TRANSPORTS = ("shm", "unix", "pipe")

Start = Literal["exec"] | ForkServer
"""How a worker is begun: in a fresh interpreter, or forked by a server."""


class Worker:
    """A process that was started with one end of a channel.

    Made by `spawn`. It leads a process group, to which belongs what it starts. The group does
    not outlive this process, however that ends.

    Attributes:
        channel: To and from the worker.
        name: What it is called in logs and errors.
        pid: Its process id.
        stdin: Its standard input, with ``Setup(stdin="pipe")``; else None.
        stdout: Its standard output, with ``Setup(stdout="pipe")``; else None.
        stderr: Its standard error, with ``Setup(stderr="pipe")``; else None.
    """

    channel: Channel[Any]
    name: str
    pid: int
    stdin: ByteStream | None
    stdout: ByteStream | None
    stderr: ByteStream | None

    def __init__(
        self, channel: Channel[Any], program: Program, streams: StandardStreams, grace_s: float
    ) -> None:
        self.channel = channel
        self.name, self.pid = program.name, program.pid
        self.stdin, self.stdout, self.stderr = streams.stdin, streams.stdout, streams.stderr
        self._program = program
        self._streams = streams
        self._grace_s = grace_s
        self._owner = os.getpid()
        self._closed = False
        self._closing = asyncio.Lock()
        program.when_ended(streams.finish)

    @property
    def status(self) -> int | None:
        """Its exit code, or minus the number of the signal that killed it; None while it runs."""
        return self._program.status

    async def wait(self) -> int:
        """Wait until it has ended, and return its status.

        Raises:
            RuntimeError: It was started in another event loop.

        Cancellation:
            Safe: it goes on running.
        """
        self._check_owner()
        return await self._program.wait()

    def when_ended(self, callback: Callable[[], object]) -> None:
        """Call ``callback`` once it has ended, when `status` and `death` are known."""
        self._check_owner()
        self._program.when_ended(callback)

    def terminate(self) -> None:
        """Ask it and all of its group to end: SIGTERM, which cancels a coroutine function.

        Raises:
            AccessDenied: It runs as another user.
        """
        self._check_owner()
        self._program.signal_group(signal.SIGTERM)

    def kill(self) -> None:
        """End it and all of its group: SIGKILL.

        Raises:
            AccessDenied: It runs as another user.
        """
        self._check_owner()
        self._program.signal_group(signal.SIGKILL)

    def send_signal(self, number: int, *, value: int | None = None) -> None:
        """Send a signal to the worker alone, as `aioipc.signals.send` does.

        Raises:
            ProcessLookupError: It has ended.
            AccessDenied: It runs as another user.
            ResourceExhausted: It has no room for another real-time signal.
        """
        self._check_owner()
        send(self, number, value=value)

    def fileno(self) -> int:
        """Its pidfd: pidfd_open(2). -1 once it has ended."""
        return self._program.fileno()

    def death(self) -> WorkerDied | None:
        """How it died: None while it runs, if it ended with status 0, or because it was told to."""
        program = self._program
        if not program.status or program.was_told:
            return None
        message = f"{self.name} (pid {self.pid}) {describe(program.status)}"
        if program.out_of_memory:
            message += ", probably for want of memory"
        last_lines = self._streams.last_lines
        if last_lines:
            message += "\nIts last words:\n" + "\n".join(f"  {line}" for line in last_lines)
        return WorkerDied(
            message,
            status=program.status,
            out_of_memory=program.out_of_memory,
            last_lines=last_lines,
        )

    async def aclose(self) -> None:
        """Close the channel, delivering what was sent, and see the worker off. Idempotent.

        It has ``Setup.grace_s`` seconds to end by itself, and as many again after SIGTERM. What
        is left of its group is killed.

        Raises:
            AccessDenied: It did not end by itself, and runs as another user: it goes on.

        Cancellation:
            It is killed at once.
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
            await self._program.kill_and_reap()
            raise
        finally:
            await self._streams.aclose()

    async def _see_off(self) -> None:
        await self.channel.aclose()
        if self.stdin is not None:
            await self.stdin.aclose()
        await self._program.end(self._grace_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()
        death = self.death()
        if death is None:
            return
        if error is None or self.channel.is_ending(error):
            raise death from error
        error.add_note(str(death))

    def _check_owner(self) -> None:
        if self._owner != os.getpid():
            raise ForkError(f"{self.name} is a worker of the parent process")

    def __del__(self) -> None:
        if getattr(self, "_closed", True) or self._owner != os.getpid():
            return
        try:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
        finally:  # a warning may be an error
            self._program.try_kill()
            self._streams.close()
            with contextlib.suppress(RuntimeError):  # another thread collects it
                self.channel.abort()

    def __repr__(self) -> str:
        state = "runs" if self.status is None else describe(self.status)
        return f"<Worker {self.name} pid={self.pid} {state}>"


class WorkerOpening(Opening[Worker]):
    """A worker about to be started: await it, or enter it with ``async with``."""

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it.

        Raises:
            WorkerDied: It ended by itself and not well.
        """
        assert self._opened is not None, "entered before it is left"
        await self._opened.__aexit__(kind, error, trace)


def spawn(
    target: str | Callable[..., object] | Sequence[str],
    *args: Any,
    transport: str = "shm",
    codec: str | Codec[Any] = "msgpack",
    framing: str | None = None,
    limits: Limits | None = None,
    polling: str = "adaptive",
    setup: Setup | None = None,
    start: Start = "exec",
) -> WorkerOpening:
    """Start a worker with a channel: await it, or enter it with ``async with``.

    It is never a fork of this process. Left, ``async with`` closes the channel,
    sees the worker off (`Worker.aclose`) and raises WorkerDied if it died; an exception by which
    its channel ended becomes that WorkerDied's cause.

    Args:
        target: A function that can be imported, or ``"module:function"``. It is called with the
            worker's end of the channel and ``args``: a coroutine function with a `Channel` on
            the loop of `aioipc.run`, another one with a `BlockingChannel`. Or a command and its
            arguments; each ``{address}`` in them, and AIOIPC_ADDRESS in its environment, is the
            address of its end.
        args: For the function, pickled.
        transport: What carries the channel: "shm", "unix" or "pipe".
        codec: As for `aioipc.connect`; the function's end has the same.
        framing: As for `aioipc.connect`, for commands that know nothing of aioipc.
        limits: As for `aioipc.connect`.
        polling: As for `aioipc.connect`.
        setup: Standard streams, environment, name, grace.
        start: "exec" for a fresh interpreter, or a server that forks it: `fork_server`.

    Raises:
        TypeError: The target is neither a function nor a command.
        ValueError: The worker could not import the function, or it was given what cannot be
            pickled; or a command, or one with an environment or descriptors of its own, was to
            be forked.
        WorkerDied: The server died before it had forked.
        ConnectError: There is no such program.
        AccessDenied: The program must not be run.
        ResourceExhausted: There are too many processes or descriptors.

    Cancellation:
        Undoes: no process was started.
    """
    if transport not in _TRANSPORTS:
        known = ", ".join(_TRANSPORTS)
        raise AddressError(f"the channel of a worker goes over {known}, not {transport!r}")
    facts = ChannelFacts(codec, framing, limits, polling)
    plan = plan_for(target, args, facts, setup or Setup())
    if start != "exec" and (what := plan.what_needs_exec) is not None:
        raise ValueError(f"{what} is started by exec, not by {start!r}")

    async def open_() -> Worker:
        return await _start(plan, transport, facts, start)

    return WorkerOpening(open_)


def ended(worker: Worker) -> WorkerDied:
    """What to say of an end that is no death, but was not wanted either."""
    status = worker.status or 0
    return WorkerDied(f"{worker.name} (pid {worker.pid}) {describe(status)}", status=status)


async def _start(plan: Plan, transport: str, facts: ChannelFacts, start: Start) -> Worker:
    ours, theirs = pair(
        transport,
        codec=facts.codec,
        framing=facts.framing,
        limits=facts.limits,
        polling=facts.polling,
    )
    with contextlib.ExitStack() as undo, contextlib.ExitStack() as handed_down:
        undo.callback(ours.abort)
        address, fds = theirs.detach()
        ends = [handed_down.enter_context(OwnedFd(fd)) for fd in fds]
        try:
            streams = StandardStreams(plan.setup)
            undo.callback(streams.close)
        except OSError as error:
            raise from_os_error(error, f"start {plan.name}") from error
        numbers = [end.fileno() for end in ends]
        if isinstance(start, ForkServer):
            assert plan.order is not None, "commands are refused before"
            order = plan.order(address)
            program = await start.start(order, numbers, streams.fds, name=plan.name)
        else:
            program = _execute(plan, address, numbers, streams.fds)
        streams.started(program.name, program.pid)
        undo.pop_all()
    return Worker(ours, program, streams, plan.setup.grace_s)


def _execute(plan: Plan, address: str, fds: list[int], standard: Fds) -> Program:
    try:
        launch = plan.launch(address)
    except OSError as error:
        raise from_os_error(error, f"start {plan.name}") from error
    with contextlib.ExitStack() as handed_down:
        if launch.memory is not None:
            fds = [*fds, handed_down.enter_context(launch.memory).fileno()]
        fds = [*fds, *plan.setup.pass_fds]
        return execute(launch.argv, standard, name=plan.name, pass_fds=fds, env=launch.env)
