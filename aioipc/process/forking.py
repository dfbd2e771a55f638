"""Fork servers: workers that need not start from nothing, and yet are no forks of this process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import warnings
from collections.abc import Sequence
from typing import Final

import anyio
from anyio.abc import AsyncResource

from aioipc._opening import Opening
from aioipc.errors import ClosedError, ForkError, ResourceExhausted, WorkerDied, from_os_error
from aioipc.kernel.forked import (
    ForkedChild,
    Line,
    Unfit,
    open_directory,
    open_standard,
    requests_pair,
)
from aioipc.kernel.leash import Leash
from aioipc.kernel.memory import keep
from aioipc.kernel.oom import oom_kills
from aioipc.kernel.owned import OwnedFd
from aioipc.kernel.pidfd import describe
from aioipc.loop.waiting import wait_fd
from aioipc.process.forked import ForkOrder
from aioipc.process.order import Order
from aioipc.process.plan import fresh_interpreter
from aioipc.process.program import UNKNOWN, Fds, Program, start
from aioipc.process.setup import Setup
from aioipc.process.standard import StandardStreams
from aioipc.process.surroundings import Surroundings, identity

__all__ = ["ForkServer", "fork_server"]

log = logging.getLogger("aioipc.process")

_NAME: Final = "fork server"
_GRACE_S: Final = 1.0
_DYING_S: Final = 1.0
_MOST_ATTEMPTS: Final = 3


class _Server:
    """One process that forks others.

    Attributes:
        program: The process.
        identity: In whose name it acts.
    """

    def __init__(self, setup: Setup) -> None:
        """Start it.

        Raises:
            ResourceExhausted: There are too many processes or descriptors.
        """
        self.identity = identity()
        self._sending = asyncio.Lock()
        with contextlib.ExitStack() as undo:
            try:
                self._requests, theirs = requests_pair()
                undo.callback(self._requests.close)
                self._streams = StandardStreams(setup)
                undo.callback(self._streams.close)
            except OSError as error:
                raise from_os_error(error, f"start a {_NAME}") from error
            with theirs:
                argv = fresh_interpreter("aioipc.process.forked", theirs.fileno(), _NAME)
                fds = self._streams.fds
                self.program = start(argv, fds, name=_NAME, pass_fds=[theirs.fileno()])
            self._streams.started(_NAME, self.program.pid)
            self.program.when_ended(self._streams.finish)
            undo.pop_all()

    def serves(self) -> bool:
        """Whether it can still be asked, and would act in our name."""
        return self.program.status is None and self.identity == identity()

    async def fork(self, fds: Sequence[int]) -> ForkedChild:
        """Have it fork once.

        Raises:
            Unfit: It cannot.
            EOFError: It is gone.
            OSError: The kernel refused.

        Cancellation:
            Undoes: what was forked is killed.
        """
        line = await self._ask(fds)
        try:
            while (child := line.answer()) is None:
                await wait_fd(line.fileno())
        except BaseException:
            line.close()
            raise
        return child

    async def _ask(self, fds: Sequence[int]) -> Line:
        async with self._sending:
            try:
                while (line := Line.request(self._requests, fds)) is None:
                    await wait_fd(self._requests.fileno(), writing=True)
            except ConnectionError:
                raise EOFError from None
        return line

    async def death(self, what: str) -> WorkerDied:
        """What its death means, after a moment in which it may still die."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DYING_S):
                await self.program.wait()
        status = UNKNOWN if self.program.status is None else self.program.status
        message = f"{what}: the {_NAME} (pid {self.program.pid}) {describe(status)}"
        return WorkerDied(message, status=status, last_lines=self._streams.last_lines)

    def retire(self) -> None:
        """Ask it for nothing more: it ends when all that it has forked have ended. Idempotent."""
        self._requests.close()

    async def aclose(self) -> None:
        """End it. Idempotent.

        Cancellation:
            It is killed at once.
        """
        self.retire()
        try:
            await self.program.end(_GRACE_S)
        finally:
            await self._streams.aclose()


class ForkServer(AsyncResource):
    """Forks workers from a process that has imported already what they need.

    Made by `fork_server`. That process is a fresh one, which does nothing else and has no
    other thread. It imports the modules of its workers once, before it forks the first one.
    """

    def __init__(self, setup: Setup | None = None) -> None:
        self._owner = os.getpid()
        self._is_closed = False
        self._closing = asyncio.Lock()
        self._setup = _server_setup(setup or Setup())
        self._server: _Server | None = _Server(self._setup)
        self._retired: list[_Server] = []
        self._unfit: set[str] = set()

    @property
    def pid(self) -> int | None:
        """The process that forks; None where the next worker is going to start another one."""
        server = self._server
        return server.program.pid if server is not None and server.serves() else None

    async def start(self, order: Order, fds: Sequence[int], standard: Fds, *, name: str) -> Program:
        """Start a worker in a process group of its own, which ends when this process does.

        Args:
            order: What it is to do.
            fds: The descriptors of its channel.
            standard: What becomes 0, 1 and 2 of it.
            name: For messages.

        Raises:
            WorkerDied: The server died before it had forked; the next worker has another one.
            ResourceExhausted: There are too many processes or descriptors; or each server has
                threads from the start.

        Cancellation:
            Undoes: no process is left.
        """
        self._check()
        for _ in range(_MOST_ATTEMPTS):
            server = self._current()
            preloads = self._unfit.isdisjoint(order.modules)
            try:
                wanted = ForkOrder(order, tuple(fds), Surroundings.here(), preloads).dump()
                return await _forked(server, wanted, fds, standard, name)
            except Unfit:
                self._unfit.update(order.modules if preloads else ())
                log.info("importing %s starts threads: each worker does it", order.target.module)
                self._retire(server)
            except EOFError:
                raise await server.death(f"{name} was not started") from None
            except OSError as error:
                raise from_os_error(error, f"start {name}") from error
        raise ResourceExhausted(None, f"{name} was not started: every {_NAME} has other threads")

    def _current(self) -> _Server:
        if self._server is None or not self._server.serves():
            if self._server is not None:
                self._retire(self._server)
            self._server = _Server(self._setup)
        return self._server

    def _retire(self, server: _Server) -> None:
        server.retire()
        self._retired = [each for each in self._retired if each.program.status is None]
        if server not in self._retired:
            self._retired.append(server)
        if self._server is server:
            self._server = None

    def _check(self) -> None:
        if self._owner != os.getpid():
            raise ForkError(f"this {_NAME} belongs to the parent process")
        if self._is_closed:
            raise ClosedError(f"this side closed the {_NAME}")

    async def aclose(self) -> None:
        """End the server. Idempotent.

        Workers that still run have a second to end, and go on without it afterwards; how they
        end is then known from Linux 6.15 on.

        Cancellation:
            It is killed at once.
        """
        servers = self._take_all()
        try:
            async with self._closing:  # who comes second waits for the first
                while servers:
                    await servers[-1].aclose()
                    servers.pop()
        except BaseException:
            with anyio.CancelScope(shield=True):
                for server in servers:
                    await server.program.kill_and_reap()
            raise

    def kill(self) -> None:
        """End the server at once; what it has forked goes on. Idempotent."""
        for server in self._take_all():
            server.retire()
            server.program.signal_group(signal.SIGKILL)

    def _take_all(self) -> list[_Server]:
        self._is_closed = True
        servers = [*self._retired, *filter(None, [self._server])]
        self._server, self._retired = None, []
        return servers

    def __del__(self) -> None:
        if not getattr(self, "_is_closed", True) and self._owner == os.getpid():
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)

    def __repr__(self) -> str:
        return f"<ForkServer pid={self.pid}>"


async def _forked(
    server: _Server, wanted: bytes, fds: Sequence[int], standard: Fds, name: str
) -> Program:
    kills = oom_kills()
    with contextlib.ExitStack() as undo, contextlib.ExitStack() as sent:
        leash = Leash()
        undo.callback(leash.close)
        memory = sent.enter_context(keep(wanted, "aioipc-order"))
        directory = sent.enter_context(open_directory())
        three = open_standard(standard)
        for each in three:
            if isinstance(each, OwnedFd):
                sent.enter_context(each)
        given = [leash.child_end, memory, directory, *three]
        numbers = [each if isinstance(each, int) else each.fileno() for each in given]
        child = await server.fork([*numbers, *fds])
        undo.pop_all()
    leash.child_end.close()
    return Program(child, leash, name, kills)


def _server_setup(workers: Setup) -> Setup:
    """The streams of a server: those of its workers, but for pipes, which nobody would read."""
    return Setup(
        name=_NAME,
        stdout="log" if workers.stdout == "pipe" else workers.stdout,
        stderr="log" if workers.stderr == "pipe" else workers.stderr,
    )


def fork_server() -> Opening[ForkServer]:
    """Start a process that forks workers: ``async with process.fork_server() as server``.

    Workers of ``spawn(..., start=server)`` are there within milliseconds. What their modules do
    when they are imported is done once, in the server: random numbers drawn there are the same
    in each worker. A module that starts threads is imported by each worker instead. A worker
    has this process's environment and working directory, and the limits and the priority that
    it had when the server was started.

    Raises:
        ResourceExhausted: There are too many processes or descriptors.

    Cancellation:
        Undoes: no process is left.
    """

    async def open_() -> ForkServer:
        return ForkServer()

    return Opening(open_)
