"""What is checked with C programs: the ring as it is, and that its possible bugs are noticed."""

from __future__ import annotations

from collections.abc import Iterator

from tests.ring.bugs import HUNTS, NEAR_2_32, bugs
from tests.verify.build import RING
from tests.verify.checks import Check
from tests.verify.kinds import crashpoints, hunts, step_kills

NEAR_2_64 = 0xFFFFFFFFFFFFFFC0

# --- every interleaving ------------------------------------------------------------------------

_INTERLEAVINGS = (
    Check(
        "interleave",
        "interleave.c",
        "every interleaving of ring.h itself, nobody dies: all arrives, nobody sleeps for ever",
        {"records": 2, "works": 15},
        {"records": 3, "works": 50},
    ),
    Check(
        "interleave-kills",
        "interleave.c",
        "the same with both sides killed anywhere",
        {"records": 2, "works": 10, "kill_producer": 1, "kill_consumer": 1},
        {"works": 120},
    ),
    Check(
        "interleave-recalls",
        "recall.c",
        "tasks that were taken back never run, all others do, whoever is killed",
        {"tasks": 4, "works": 30, "kill_consumer": 1, "kill_producer": 1},
        {"tasks": 5, "works": 100},
    ),
)

# --- threads ------------------------------------------------------------------------------------


def _threads() -> Iterator[Check]:
    for mode in ("copy", "batch", "lease"):
        yield Check(
            f"races-{mode}",
            "threads.c",
            f"no data race, {mode}; positions wrap at 2^64",
            {
                "mode": mode,
                "records": 340_000,
                "capacity": 65536,
                "max_bytes": 64,
                "start": NEAR_2_64,
            },
            {"records": 1_000_000},
            sanitizer="thread",
        )
        yield Check(
            f"integrity-{mode}",
            "threads.c",
            f"every message once, in order, every byte, {mode}; positions wrap at 2^32",
            {"mode": mode, "records": 300_000, "start": NEAR_2_32},
            {"records": 3_400_000},
        )
    yield from hunts(
        Check(
            "hunt",
            options={"records": 20_000, "delay_one_in": 100},
            # A record takes about a dozen steps.
            full={"records": 5_000_000, "delay_one_in": 200},
        ),
        HUNTS,
    )


# --- hostile memory -----------------------------------------------------------------------------

_FUZZ = (
    Check(
        "fuzz-headers",
        "fuzz.c",
        "made-up headers and words: no access out of bounds, no record over the limits",
        {"what": "headers", "rounds": 600_000},
        {"rounds": 30_000_000},
        sanitizer="address",
    ),
    # Case 44.
    Check(
        "fuzz-mutator",
        "fuzz.c",
        "the same while another thread rewrites them",
        {"what": "mutator", "milliseconds": 2000, "rounds": 10**12},
        {"milliseconds": 60_000},
        sanitizer="address",
        at_least={"attempts": 200_000_000},
    ),
)

# --- death --------------------------------------------------------------------------------------


STEPS = crashpoints(RING, "/* === consumer ===")
"""Of the producer and of the consumer."""


def _kills() -> Iterator[Check]:
    yield Check(
        "kill-producer",
        "kill.c",
        "producer killed at any instant: an exact prefix, nothing acknowledged lost, no sleeper",
        {"victim": "producer", "kills": 100},
        {"kills": 3000},
        at_least={"kills": 1000, "records": 2_000_000},
    )
    yield Check(
        "kill-consumer",
        "kill.c",
        "consumer killed at any instant: exactly what it did not give back is left, no sleeper",
        {"victim": "consumer", "kills": 100},
        {"kills": 1000},
        at_least={"kills": 300},
    )
    steps = dict(zip(("producer", "consumer"), STEPS, strict=True))
    yield from step_kills("", RING, steps, full_kills=20)


CHECKS = (
    Check(
        "litmus",
        "litmus.c",
        "this machine reorders stores and loads, but not those of the ring",
        {"rounds": 500_000},
        {"rounds": 5_000_000},
    ),
    *_INTERLEAVINGS,
    *_threads(),
    *_FUZZ,
    *_kills(),
    *bugs(),
)
