"""One run of a C program around a native header, with what must come of it.

Each check has two sizes: a usual one for the test suite and a full one for ``make verify``.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from tests.scale import SCALE
from tests.verify.build import RING, Mutation, Subject, Unavailable, program

Options = Mapping[str, int | str]

HANG_S = 200.0


@dataclass(frozen=True)
class Check:
    """One run of one program.

    Attributes:
        name: What the command line calls it.
        source: The program.
        claim: What holds if it passes.
        options: Of the program; numbers.
        full: Options that differ in the full size.
        sanitizer: What watches it.
        mutation: A bug; then the program must fail.
        symptom: What it says about the bug, as a regular expression.
        at_least: Figures that the full size has to reach.
        subject: What it is about.
    """

    name: str
    source: str = ""
    claim: str = ""
    options: Options = field(default_factory=dict)
    full: Options = field(default_factory=dict)
    sanitizer: str = ""
    mutation: Mutation | None = None
    symptom: str = ""
    at_least: Mapping[str, int] = field(default_factory=dict)
    subject: Subject = RING


@dataclass(frozen=True)
class Outcome:
    """What came of a check.

    Attributes:
        problem: Why it failed, with the command that replays it; empty if it passed.
        figures: What the program printed.
    """

    problem: str
    figures: dict[str, float]


def run(check: Check, *, full: bool = False, **changes: int | str) -> Outcome:
    """Compile and run.

    Args:
        check: What to run.
        full: Take the full size.
        changes: Other options, for example the ``seed`` that failed.

    Raises:
        Unavailable: This machine lacks a compiler or a sanitizer.
    """
    options = {**check.options, **(check.full if full else {}), **changes}
    options.setdefault("seed", random.SystemRandom().randrange(2**32))
    words = [f"{name}={value}" for name, value in options.items()]
    hang_s = HANG_S * (4 if full else 1)
    binary = program(
        check.source, subject=check.subject, sanitizer=check.sanitizer, mutation=check.mutation
    )
    try:
        done = subprocess.run(
            [binary, *words],
            check=False,
            capture_output=True,
            text=True,
            timeout=hang_s,
            env={**os.environ, "TSAN_OPTIONS": "halt_on_error=1"},
        )
        status, said = done.returncode, done.stderr
    except subprocess.TimeoutExpired as error:
        status, said = -1, f"still running after {hang_s} s\n{_text(error.stderr)}"
        done = None
    problem = _judge(check, status, said)
    if problem:
        problem += f"\n{said}\nreplay: python -m tests.verify {check.name} {' '.join(words)}"
    figures = json.loads(done.stdout) if done is not None and done.stdout else {}
    return Outcome(problem, figures)


def passes(check: Check) -> None:
    """Run it as a test."""
    try:
        outcome = run(check, full=SCALE >= 1)
    except Unavailable as missing:
        pytest.skip(str(missing))
    assert not outcome.problem, outcome.problem


def _judge(check: Check, status: int, said: str) -> str:
    if check.mutation is None:
        return f"{check.name}: exit status {status}" if status != 0 else ""
    if status == 0:
        return f"{check.name}: the bug was not noticed"
    if not re.search(check.symptom, said):
        return f"{check.name}: no {check.symptom!r} was said"
    return ""


def _text(output: str | bytes | None) -> str:
    return output.decode() if isinstance(output, bytes) else output or ""
