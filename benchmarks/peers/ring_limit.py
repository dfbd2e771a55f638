"""What the machine allows: the ring in C, where both sides spin, and memcpy.

The program (``limits/ring_limit.c``) brings both of its processes itself, and is run within one of
the two roles on the CPUs of both. It is compiled at its first use.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.contender import Contender, Flow, Plan, Seat, Wiring
from benchmarks.harness import pinned_cpus

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "benchmarks" / "limits" / "ring_limit.c"
HEADER = ROOT / "aioipc" / "native" / "ring.h"
PROGRAM = ROOT / ".build" / "ring_limit"
MILLISECONDS = 70
RUNS = 3
"""The best one counts: the harness does not see what the neighbours take from this program."""

COMPILER = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
if COMPILER is None:
    raise ImportError("no C compiler")


@dataclass(frozen=True)
class _Wiring:
    """Where the program is, and the CPUs that its two processes are for."""

    program: Path
    cpus: tuple[int, int]


class Limit(Contender):
    """One figure of the program.

    Args:
        name: The contender's name.
        only: What the program is asked for.
    """

    family = "reference"
    hidden = True

    def __init__(self, name: str, only: str) -> None:
        self.name = name
        self._only = only

    @contextmanager
    def wired(self, folder: Path, plan: Plan) -> Iterator[Wiring]:
        wiring = _Wiring(_compiled(), pinned_cpus())
        yield wiring, wiring

    def sink(self, seat: Seat) -> Flow:
        """The rate, as if that many messages had come within a second."""
        seat.announce("listening")
        seat.announce("warm")
        rate = max(_run(seat, self._only) for _ in range(RUNS))
        return Flow(round(rate), 1_000_000_000)

    def source(self, seat: Seat) -> None:
        """Everything happens in the server's role."""
        seat.wait()


class RingLimit(Limit):
    """The ring, which also goes round."""

    def echo(self, seat: Seat) -> None:
        """Everything happens in the client's role."""
        seat.announce("listening")

    def ping(self, seat: Seat) -> list[int]:
        """Each sample is the mean of some round trips: one takes no longer than a clock."""
        best = min((_run(seat, "round_trips") for _ in range(RUNS)), key=statistics.median)
        return [round(nanoseconds) for nanoseconds in best]


def _compiled() -> Path:
    """The program, newer than its sources."""
    sources = max(SOURCE.stat().st_mtime, HEADER.stat().st_mtime)
    if not PROGRAM.exists() or PROGRAM.stat().st_mtime < sources:
        PROGRAM.parent.mkdir(exist_ok=True)
        fresh = PROGRAM.with_suffix(f".{os.getpid()}")
        options = ["-O3", "-std=gnu11", "-I", str(HEADER.parent), str(SOURCE), "-o", str(fresh)]
        subprocess.run([str(COMPILER), *options], check=True)
        fresh.replace(PROGRAM)
    return PROGRAM


def _run(seat: Seat, only: str) -> Any:
    wiring: _Wiring = seat.wiring
    first, second = wiring.cpus
    words = [f"cpus={first},{second}", f"size={seat.plan.size}", f"only={only}"]
    done = subprocess.run(
        [str(wiring.program), *words, f"milliseconds={MILLISECONDS}"],
        check=True,
        stdout=subprocess.PIPE,
    )
    return json.loads(done.stdout)


CONTENDERS = [RingLimit("ring limit (C)", "stream"), Limit("memcpy limit (C)", "memcpy")]
