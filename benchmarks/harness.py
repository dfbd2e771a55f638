"""Two real processes per measurement, each pinned to its own CPU, and none left behind.

Every measurement starts two fresh interpreters, which play one role each (``contender.py``). They
talk to the harness over a control pipe that is silent while the clock runs. They die with the
harness, whatever kills it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import inspect
import multiprocessing
import os
import resource
import signal
import tempfile
import threading
import time
import traceback
import tracemalloc
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Literal

from benchmarks.contender import Contender, Loop, Plan, Role, Seat
from benchmarks.probe import watch_lag
from benchmarks.proc import Effort, effort, queued_ns

DEADLINE_S = 120.0
"""A role that has not answered by then is stuck; it is killed and the run reported as failed."""
LEAVE_S = 1.0
"""How long a process whose role is over may take to exit."""

_PR_SET_PDEATHSIG = 1
_spawn = multiprocessing.get_context("spawn")

Side = Literal["server", "client"]


class RoleFailed(RuntimeError):
    """A role raised, died or did not answer in time."""


@dataclass(frozen=True)
class Outcome:
    """What a role brought back.

    Attributes:
        value: Its own result (latencies, a Flow, nothing).
        queued: Share of that time in which it could have run but others had its CPU.
        lags_ns: Loop lags that a second task in its loop met, where that was asked for.
    """

    value: Any
    queued: float
    lags_ns: list[int]


@dataclass(frozen=True)
class _Failure:
    traceback: str


def pinned_cpus() -> tuple[int, int]:
    """The CPUs of the server and of the client: two, where the machine allows this process two."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[min(1, len(allowed) - 1)]


@dataclass
class Actor:
    """One role in its process, seen from the harness."""

    process: SpawnProcess
    control: Connection
    role: Role
    inbox: list[Any] = field(default_factory=list)
    finished: bool = False

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self.process.pid is not None
        return self.process.pid

    def release(self) -> None:
        """Let a waiting role go on."""
        self.control.send("go")

    def dismiss(self) -> None:
        """End the process and reap it: it may leave if its role is over, else it is killed."""
        if self.finished and not self.control.closed:
            with contextlib.suppress(OSError):
                self.release()
                self.process.join(LEAVE_S)
        self.process.kill()
        self.process.join()
        self.control.close()


@dataclass
class Pair:
    """The two roles of one measurement.

    Attributes:
        server: The one that listens.
        client: The one that connects.
        queued: The larger ``Outcome.queued`` of the outcomes so far.
    """

    server: Actor
    client: Actor
    queued: float = 0.0

    def expect(self, side: Side, event: str) -> None:
        """Wait for an event that a role announces.

        Raises:
            RoleFailed: Either role failed, or the event did not come in time.
        """
        found = self._next(side)
        if found != event:
            raise RoleFailed(f"{side}: expected {event!r}, got {found!r}")

    def outcome(self, side: Side) -> Outcome:
        """Wait until a role has finished.

        Raises:
            RoleFailed: Either role failed, or it did not finish in time.
        """
        found = self._next(side)
        if not isinstance(found, Outcome):
            raise RoleFailed(f"{side}: expected its outcome, got {found!r}")
        self.queued = max(self.queued, found.queued)
        return found

    def start(self) -> None:
        """Let the server listen, while the client is ready to connect."""
        self.expect("server", "started")
        self.expect("client", "started")
        self.server.release()
        self.expect("server", "listening")

    def effort(self) -> Effort:
        """What both processes have cost so far."""
        return effort(self.server.pid) + effort(self.client.pid)

    def traced_bytes(self) -> int:
        """Memory that the server's Python allocator gave since it began to listen.

        Only where the cast was made with ``trace_memory``.
        """
        self.server.release()
        traced = self._next("server")
        assert isinstance(traced, int)
        return traced

    def warm_up(self, sink: Side = "server") -> None:
        """Let a source go on once the sink has received the warm-up of every connection."""
        self.expect(sink, "warm")
        (self.client if sink == "server" else self.server).release()

    def _next(self, side: Side) -> Any:
        actor = self.server if side == "server" else self.client
        deadline = time.monotonic() + DEADLINE_S
        while not actor.inbox:
            self._collect(deadline - time.monotonic(), actor)
        return actor.inbox.pop(0)

    def _collect(self, seconds: float, waiting_for: Actor) -> None:
        actors = {actor.control: actor for actor in (self.server, self.client)}
        live = [control for control in actors if not control.closed]
        ready = wait(live, max(0.0, seconds))
        if not ready:
            raise RoleFailed(f"{waiting_for.role}: no answer within {DEADLINE_S:.0f} s")
        for control in ready:
            assert isinstance(control, Connection)
            self._receive_from(actors[control], waiting_for)

    def _receive_from(self, actor: Actor, waiting_for: Actor) -> None:
        try:
            event = actor.control.recv()
        except (EOFError, ConnectionError):
            actor.control.close()
            actor.process.join()
            if actor is waiting_for or actor.process.exitcode:
                raise RoleFailed(f"{actor.role}: exit code {actor.process.exitcode}") from None
            return
        if isinstance(event, _Failure):
            raise RoleFailed(f"{actor.role}: {event.traceback}")
        actor.inbox.append(event)
        actor.finished = isinstance(event, Outcome)


@contextmanager
def cast(
    contender: Contender,
    server: Role,
    client: Role,
    plan: Plan,
    *,
    cpus: tuple[int, int] | None = None,
    lag: Side | None = None,
    trace_memory: bool = False,
    hesitate: bool = False,
) -> Iterator[Pair]:
    """Start two processes that play these roles; both are gone when the block is left.

    Args:
        contender: Who plays.
        server: The role of the server process.
        client: The role of the client process.
        plan: How much they do.
        cpus: The CPUs of the two, default one each.
        lag: The side whose loop lag is watched by a second task.
        trace_memory: The server's Python allocations are traced.
        hesitate: The client does not connect before the caller releases it.
    """
    server_cpu, client_cpu = cpus or pinned_cpus()
    parts = (
        _Part(server, server_cpu, lag=lag == "server", trace_memory=trace_memory),
        _Part(client, client_cpu, lag=lag == "client"),
    )
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aioipc-bench-")))
        wiring = stack.enter_context(contextlib.ExitStack())
        ends = wiring.enter_context(contender.wired(folder, plan))
        actors = []
        for part, end in zip(parts, ends, strict=True):
            actors.append(_start(contender, part, plan, end))
            stack.callback(actors[-1].dismiss)
        pair = Pair(actors[0], actors[1])
        pair.start()
        wiring.close()
        if not hesitate:
            pair.client.release()
        yield pair


@dataclass(frozen=True)
class _Part:
    """One role, where it is played, and what is watched meanwhile."""

    role: Role
    cpu: int
    lag: bool = False
    trace_memory: bool = False


def _start(contender: Contender, part: _Part, plan: Plan, end: Any) -> Actor:
    ours, theirs = multiprocessing.Pipe()
    seat = Seat(plan, end, theirs)
    process = _spawn.Process(target=_play, args=(contender, part, seat), daemon=True)
    process.start()
    theirs.close()
    return Actor(process, ours, part.role)


# --- in the role's process -----------------------------------------------------------------------


def _play(contender: Contender, part: _Part, seat: Seat) -> None:
    """Play one role and report its outcome, then wait for the end."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.sched_setaffinity(0, {part.cpu})
    _allow_many_descriptors()
    try:
        seat.announce("started")
        seat.wait()
        if part.trace_memory:
            _answer_memory_questions(seat.control)
        seat.control.send(_perform(contender, part, seat))
    except BaseException:  # noqa: BLE001  whatever it is, the harness reports it
        seat.control.send(_Failure(traceback.format_exc()))
    seat.wait()  # so that what the kernel knows of this process can still be asked for


def _allow_many_descriptors() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _answer_memory_questions(control: Connection) -> None:
    """Trace allocations from now on; a thread answers the harness, the loop knows nothing."""

    def answer() -> None:
        while True:
            control.recv()
            gc.collect()
            control.send(tracemalloc.get_traced_memory()[0])

    tracemalloc.start()
    threading.Thread(target=answer, daemon=True).start()


def _perform(contender: Contender, part: _Part, seat: Seat) -> Outcome:
    lags: list[int] = []
    started_ns, queued_before_ns = time.perf_counter_ns(), queued_ns()
    result = getattr(contender, part.role)(seat)
    if inspect.iscoroutine(result):
        result = _run(result, contender.loop, lags if part.lag else None)
    elapsed_ns = time.perf_counter_ns() - started_ns
    return Outcome(result, (queued_ns() - queued_before_ns) / elapsed_ns, lags)


def _run(role: Coroutine[Any, Any, Any], loop: Loop | None, lags: list[int] | None) -> Any:
    with asyncio.Runner(loop_factory=_loop_factory(loop)) as runner:
        return runner.run(role if lags is None else watch_lag(role, lags))


def _loop_factory(loop: Loop | None) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if loop != "uvloop":
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = import_module("uvloop").new_event_loop
    return factory
