"""The targets, and whether a run reached them.

Nearly all are ratios between contenders of the same run, since an absolute time says more about
the machine and its neighbours. They are reported, never asserted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from benchmarks.results import ASYNCIO_REFERENCE, UVLOOP_REFERENCE, Results, compare

LOOPS = ("uvloop", "asyncio")
WAKE_UP_BY_FD = ("unix", "pipe", "fifo", "tcp")
RING_LIMIT = "ring limit (C)"
MEMCPY_LIMIT = "memcpy limit (C)"
PLACED = "shm in place"
GRPC = "grpc.aio"
ICEORYX2 = "iceoryx2 (busy polling, zero copy)"
LOCK_LIMIT = "lock limit (C)"
LOCK_ALONE = "acquire and release, alone"
LOCK_HAND_OVER = "hand-over to who waits"
AWAITED_LOCKS = (
    "multiprocessing Lock (executor)",
    "posix_ipc (executor)",
    "portalocker (executor)",
    "filelock (its AsyncFileLock)",
)
ARRAY_PEERS = ("multiprocessing shared_memory (blocking)", "multiprocessing Queue (blocking)")


@dataclass(frozen=True)
class Target:
    """One promise: a figure, or its ratio to a reference, within a bound.

    Attributes:
        text: What is promised.
        workload: Where it is measured.
        case: In which of its cases.
        contender: Who promised it.
        sign: Whether the bound is a floor or a ceiling.
        bound: The bound.
        key: Which figure.
        reference: Whose figure ours is divided by; None judges the figure itself.
        unit: Of the bound.
        at_rest: The case in which the contender does nothing: its figure there is the machine's
            own, and the bound where it is worse.
    """

    text: str
    workload: str
    case: str
    contender: str
    sign: Literal["≥", "≤"]
    bound: float
    key: str
    reference: str | None = None
    unit: str = "factor"
    at_rest: str | None = None


@dataclass(frozen=True)
class Verdict:
    """A target, the bound on this machine, and what was found; None where it was not measured."""

    target: Target
    bound: float
    found: float | None

    @property
    def reached(self) -> bool | None:
        """Whether the target was reached."""
        if self.found is None:
            return None
        return self.found >= self.bound if self.target.sign == "≥" else self.found <= self.bound


def judge(results: Results) -> list[Verdict]:
    """Compare a run with all targets."""
    return [judge_one(target, results) for target in every_target()]


def judge_one(target: Target, results: Results) -> Verdict:
    """Compare a run with one target."""
    return Verdict(target, _bound(target, results), _found(target, results))


def _bound(target: Target, results: Results) -> float:
    """The target's own, or what the machine allows in this run, where that is easier to keep."""
    if target.at_rest is not None:
        floor = _found(replace(target, case=target.at_rest), results)
        return target.bound if floor is None else max(target.bound, floor)
    return target.bound


def _found(target: Target, results: Results) -> float | None:
    table = results.find(target.workload, target.case)
    if table is None or target.contender not in table.entries:
        return None
    ours = table.entries[target.contender]
    if target.reference is None:
        return ours.median(target.key)
    if target.reference not in table.entries:
        return None
    theirs = table.entries[target.reference]
    return compare(ours, theirs, target.key, _quotient)


def _quotient(ours: float, theirs: float) -> float:
    if theirs:
        return ours / theirs
    return math.inf if ours else 1.0


def every_target() -> Iterator[Target]:
    """All rows, topic by topic."""
    yield from _round_trips()
    yield from _streams()
    yield from _large_messages()
    yield from _calls()
    yield from _kernel_queues()
    yield from _locks()
    yield from _arrays()
    yield from _manners()


def _round_trips() -> Iterator[Target]:
    for loop in LOOPS:
        for scheme, times in (("unix", 10), ("shm", 50)):
            yield Target(
                f"{scheme} round trip, adaptive: ≥ {times} × faster than tuned",
                "round_trip",
                "64 B",
                f"aioipc {scheme} ({loop})",
                "≤",
                1 / times,
                "p50_us",
                UVLOOP_REFERENCE,
            )
        yield Target(
            "shm round trip, adaptive: ≥ 6 × faster than iceoryx2, which polls all the time",
            "round_trip",
            "64 B",
            f"aioipc shm ({loop})",
            "≤",
            1 / 6,
            "p50_us",
            ICEORYX2,
        )
    for scheme in (*WAKE_UP_BY_FD, "shm"):
        for loop, reference, bound in (
            ("uvloop", UVLOOP_REFERENCE, 1.25),
            ("asyncio", ASYNCIO_REFERENCE, 1.0),
        ):
            yield Target(
                "round trip, polling=block: time against tuned, same loop",
                "round_trip",
                "64 B",
                f"aioipc {scheme} block ({loop})",
                "≤",
                bound,
                "p50_us",
                reference,
            )


def _large_messages() -> Iterator[Target]:
    """How near shared memory comes to what the machine can do."""
    for case, bound in {"64 KiB": 0.65, "1 MiB": 0.85}.items():
        text = f"{case} over shm, copied: share of the ring in C"
        yield from _rate(text, "one_way", case, "shm", bound, reference=RING_LIMIT)
    for case in ("64 KiB", "1 MiB", "16 MiB"):
        text = f"{case} over shm, in place"
        for words, bound, reference in (
            ("against iceoryx2", 1.0, ICEORYX2),
            ("share of memcpy", 0.65, MEMCPY_LIMIT),
        ):
            yield from _rate(
                f"{text}: {words}", "one_way", case, PLACED, bound, reference=reference
            )


def _calls() -> Iterator[Target]:
    """Remote calls, against the same written by hand on the tuned Protocol, and against gRPC."""
    for case, bounds, grpc in (
        ("1 caller", {"shm": 20.0}, 100.0),
        ("100 callers", {"shm": 2.0, "unix": 1.5}, 80.0),
    ):
        for scheme, bound in bounds.items():
            text = f"rpc over {scheme}, {case}"
            for words, times, reference in (
                ("against one by hand on tuned", bound, UVLOOP_REFERENCE),
                ("against gRPC", grpc, GRPC),
            ):
                for loop in LOOPS:
                    yield Target(
                        f"{text}: {words}",
                        "calls",
                        case,
                        f"aioipc {scheme} rpc ({loop})",
                        "≥",
                        times,
                        "calls_per_second",
                        reference,
                    )


def _kernel_queues() -> Iterator[Target]:
    """At most one and a half times the cost of the bare calls."""
    for scheme, library in (("mq", "posix_ipc"), ("sysv", "sysv_ipc")):
        for case in ("64 B", "1 KiB"):
            for loop in LOOPS:
                yield Target(
                    f"{scheme}: put and get, {case}: rate against bare {library}",
                    "kernel_queues",
                    case,
                    f"aioipc {scheme} queue ({loop})",
                    "≥",
                    1 / 1.5,
                    "messages_per_second",
                    f"bare {library}",
                )


def _streams() -> Iterator[Target]:
    for name, bound in (
        ("unix", 3.0),
        ("pipe", 3.0),
        ("fifo", 3.0),
        ("shm", 4.0),
        ("shm batch", 7.0),
    ):
        for case in ("16 B", "128 B"):
            yield from _rate(f"{name} one way, {case}", "one_way", case, name, bound)
    for name in ("unix", "pipe", "fifo"):
        yield from _rate(f"{name} one way, 1 KiB", "one_way", "1 KiB", name, 2.0)
    for scheme, bound in (("unix", 2.0), ("shm", 3.0)):
        yield from _rate(f"{scheme} fan-in of 100", "fan_in", "64 B", scheme, bound)
    for scheme in ("unix", "shm"):
        for loop in LOOPS:
            yield Target(
                f"msgpack dict over {scheme}: share of the bare decoder",
                "codec",
                "one way",
                f"aioipc {scheme} msgpack ({loop})",
                "≥",
                0.65,
                "messages_per_second",
                "bare decoder (msgspec)",
            )


def _rate(
    text: str,
    workload: str,
    case: str,
    name: str,
    bound: float,
    *,
    reference: str = UVLOOP_REFERENCE,
) -> Iterator[Target]:
    if reference == UVLOOP_REFERENCE:
        text = f"{text}: against tuned"
    for loop in LOOPS:
        yield Target(
            text,
            workload,
            case,
            f"aioipc {name} ({loop})",
            "≥",
            bound,
            "messages_per_second",
            reference,
        )


def _locks() -> Iterator[Target]:
    """Alone faster than every lock of others that can be awaited; handed over nearly as in C."""
    for loop in LOOPS:
        lock = f"aioipc Lock ({loop})"
        for peer in AWAITED_LOCKS:
            text = f"lock alone: time against {peer}"
            yield Target(text, "locks", LOCK_ALONE, lock, "≤", 1.0, "p50_us", peer)
        text = "lock hand-over: time against the same in C"
        yield Target(text, "locks", LOCK_HAND_OVER, lock, "≤", 3.0, "p50_us", LOCK_LIMIT)


def _arrays() -> Iterator[Target]:
    for loop in LOOPS:
        for scheme in ("shm", "unix"):
            for case in ("1 MiB", "16 MiB", "256 MiB"):
                for peer in ARRAY_PEERS:
                    yield Target(
                        f"array of {case} over {scheme}: time against {peer}",
                        "arrays",
                        case,
                        f"aioipc {scheme} SharedArray ({loop})",
                        "≤",
                        1.0,
                        "p50_us",
                        peer,
                    )


def _manners() -> Iterator[Target]:
    """What a good neighbour does: idle, lag, CPU, memory."""
    for scheme in (*WAKE_UP_BY_FD, "shm"):
        for loop in LOOPS:
            yield from _manners_of(scheme, loop)


def _manners_of(scheme: str, loop: str) -> Iterator[Target]:
    adaptive = f"aioipc {scheme} ({loop})"
    block = f"aioipc {scheme} block ({loop})"
    idle = Target(
        "idle pair, 3 s: context switches",
        "idle",
        "1 connection",
        adaptive,
        "≤",
        0,
        "switches",
        unit="count",
    )
    yield idle
    yield replace(idle, text="idle pair, 3 s: CPU", key="cpu_us", unit="us")
    for case in ("round trips", "streaming"):
        yield Target(
            f"loop lag p99, {case} (or that of silence)",
            "loop_lag",
            case,
            adaptive,
            "≤",
            200,
            "lag_p99_us",
            unit="us",
            at_rest="silent",
        )
    for case, key in (
        ("one way, 1,000/s", "cpu_us"),
        ("round trips, 1,000/s", "cpu_us"),
        ("round trips, one CPU", "p50_us"),
    ):
        yield Target(
            f"{case}: adaptive against block", "cpu_at_rate", case, adaptive, "≤", 1.2, key, block
        )
    yield Target(
        "memory per idle connection",
        "connection_memory",
        "idle",
        adaptive,
        "≤",
        20 * 1024,
        "object_bytes",
        unit="bytes",
    )
