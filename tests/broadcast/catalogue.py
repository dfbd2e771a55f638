"""What is checked with C programs: the broadcast ring as it is, and that its bugs are noticed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from tests.broadcast.bugs import HUNTS, NEAR_2_64, OVERRUNS, bugs
from tests.verify.build import BROADCAST
from tests.verify.checks import Check as AnyCheck
from tests.verify.kinds import crashpoints, hunts, step_kills

Check = partial(AnyCheck, subject=BROADCAST)

# --- every interleaving ------------------------------------------------------------------------

# How many states there are depends on the seed, so it is a fixed one.
_INTERLEAVINGS = (
    Check(
        "cast-interleave",
        "interleave.c",
        "every interleaving of broadcast.h itself, nobody dies: all arrives, no sleeper is left",
        {"records": 3, "works": 8, "seed": 1},
        {"records": 4, "works": 10},
    ),
    Check(
        "cast-interleave-overruns",
        "interleave.c",
        "the same with a ring that is nearly full, so that a reader is overrun",
        {"records": 2, "works": 8, "prefill": 1, "holding": 0, "seed": 1},
        {"records": 3},
        at_least={"overruns": 10_000},
    ),
    Check(
        "cast-interleave-kills",
        "interleave.c",
        "the same with both sides killed anywhere",
        {"records": 2, "works": 2, "prefill": 1, "kill_writer": 1, "kill_reader": 1, "seed": 1},
        {"works": 10},
        at_least={"overruns": 1_000},
    ),
    Check(
        "cast-interleave-two",
        "interleave.c",
        "the same with two readers",
        {"records": 1, "works": 4, "readers": 2, "max_bytes": 0, "seed": 1},
        {"records": 2, "works": 3},
    ),
)

# --- threads ------------------------------------------------------------------------------------


def _threads() -> Iterator[AnyCheck]:
    yield Check(
        "cast-races",
        "threads.c",
        "no data race, though slow readers read what is written over; positions wrap at 2^64",
        {"records": 40_000, "lag": 200, "start": NEAR_2_64},
        {"records": 2_000_000},
        sanitizer="thread",
    )
    yield Check(
        "cast-integrity",
        "threads.c",
        "every message once, in order, every byte; gaps are exact, and who holds has none",
        {"records": 60_000, "holding": 5, "lag": 1000, "start": 0xFFFFFFC0},
        {"records": 5_000_000},
    )
    yield Check(
        "cast-many",
        "threads.c",
        "the same with many readers and masks of three words",
        {
            "records": 20_000,
            "capacity": 65536,
            "max_bytes": 1000,
            "words": 3,
            "readers": 50,
            "holding": 0x5555,
            "lag": 1000,
        },
        {"records": 300_000},
    )
    yield Check(
        "cast-overruns",
        "threads.c",
        "readers that are overrun all the time know how much they lost",
        OVERRUNS,
        {"records": 10_000_000},
    )
    yield from hunts(
        Check(
            "cast-hunt",
            options={"records": 20_000, "delay_one_in": 100},
            full={"records": 1_000_000, "delay_one_in": 5_000},
        ),
        HUNTS,
    )


# --- hostile memory -----------------------------------------------------------------------------


def _lies() -> Iterator[AnyCheck]:
    yield Check(
        "cast-hostile-writer",
        "fuzz.c",
        "made-up memory: a reader makes no access out of bounds, and takes nothing over the limits",
        {"what": "writer", "rounds": 600},
        {"rounds": 200_000},
        sanitizer="address",
    )
    yield Check(
        "cast-hostile-mutator",
        "fuzz.c",
        "the same while another thread rewrites it",
        {"what": "writer", "mutator": 1, "rounds": 200},
        {"rounds": 10_000},
        sanitizer="address",
    )
    yield Check(
        "cast-hostile-reader",
        "fuzz.c",
        "a reader that lies in its page disturbs nobody but itself",
        {"what": "reader", "rounds": 2_000},
        {"rounds": 150_000},
        sanitizer="address",
    )


# --- death --------------------------------------------------------------------------------------


STEPS = crashpoints(BROADCAST, "/* === reader ===")
"""Of the writer and of a reader."""


def _kills() -> Iterator[AnyCheck]:
    yield Check(
        "cast-kill-writer",
        "kill.c",
        "writer killed at any instant: everything up to some point, all acknowledged, no sleeper",
        {"victim": "writer", "kills": 40},
        {"kills": 3000},
        at_least={"kills": 1000, "records": 2_000_000},
    )
    yield Check(
        "cast-kill-reader",
        "kill.c",
        "reader killed at any instant: the writer goes on, the other reader misses nothing",
        {"victim": "reader", "kills": 40},
        {"kills": 1000},
        at_least={"kills": 300},
    )
    steps = dict(zip(("writer", "reader"), STEPS, strict=True))
    yield from step_kills("cast-", BROADCAST, steps, full_kills=200)


CHECKS = (*_INTERLEAVINGS, *_threads(), *_lies(), *_kills(), *bugs())
