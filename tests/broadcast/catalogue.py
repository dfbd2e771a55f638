"""What is checked with C programs: the broadcast ring as it is, and that its bugs are noticed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial

from tests.broadcast.bugs import HUNTS, NEAR_2_64, OVERRUNS, bugs
from tests.ring.build import BROADCAST
from tests.ring.checks import Check as AnyCheck

Check = partial(AnyCheck, subject=BROADCAST)

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
    for name, changes in HUNTS.items():
        yield Check(
            f"cast-hunt-{name}",
            "threads.c",
            f"no lost wake-up, {name}, with delays of up to 50 µs between any two steps",
            {"records": 20_000, "delay_one_in": 100, **changes},
            {"records": 1_000_000, "delay_one_in": 5_000},
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
        {"rounds": 200_000},
        sanitizer="address",
    )


# --- death --------------------------------------------------------------------------------------


def crashpoints() -> tuple[list[str], list[str]]:
    """The steps that broadcast.h names, of the writer and of a reader."""
    writer, reader = BROADCAST.header.read_text().split("/* === reader ===")
    pattern = r"AIOIPC_CRASHPOINT\((\w+)\);"
    # The header knows no bells; the harness names the moments before and after one.
    bells = ["bell", "bell_rung"]
    return re.findall(pattern, writer) + bells, re.findall(pattern, reader) + bells


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
    for victim, steps in zip(("writer", "reader"), crashpoints(), strict=True):
        for step in steps:
            yield Check(
                f"cast-kill-{victim}-at-{step}",
                "kill.c",
                f"{victim} killed at {step}",
                {"victim": victim, "at": step, "kills": 5},
                {"kills": 200},
                at_least={"kills": 200},
            )


CHECKS = (*_threads(), *_lies(), *_kills(), *bugs())
