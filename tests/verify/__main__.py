"""Verify the rings in full: ``make verify``, or ``python -m tests.verify``.

    python -m tests.verify                         everything, within ten minutes
    python -m tests.verify --short                 as the test suite does it
    python -m tests.verify kill-producer seed=7    one check, with other options

Exits with 1 if anything failed, or was not available.
"""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tests.broadcast.catalogue import CHECKS as BROADCAST_CHECKS
from tests.ring.catalogue import CHECKS as RING_CHECKS
from tests.verify.build import BROADCAST, RING, Subject, Unavailable, compiler
from tests.verify.checks import Check, Outcome, run

CHECKS = (*RING_CHECKS, *BROADCAST_CHECKS)
_PROTOCOL = ("test_protocol.py", "every interleaving of the protocol; every bug found")
_MODEL = ("test_against_model.py", "every order of calls answers like a list")
_MODELS: dict[str, tuple[Subject, str, str]] = {
    "interleavings": (RING, *_PROTOCOL),
    "model": (RING, *_MODEL),
    "cast-interleavings": (BROADCAST, *_PROTOCOL),
    "cast-model": (BROADCAST, *_MODEL),
}


def main(words: list[str]) -> int:
    """Run what the command line asks for; returns the exit status."""
    full = "--short" not in words
    names = [word for word in words if "=" not in word and not word.startswith("-")]
    changes = dict(word.split("=", 1) for word in words if "=" in word)
    known = {check.name: check for check in CHECKS}
    if unknown := set(names) - known.keys() - _MODELS.keys():
        print(f"no such check: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    print(_machine())
    begun = time.monotonic()
    models = [name for name in _MODELS if not names or name in names]
    chosen = [check for check in CHECKS if not names or check.name in names]
    report = partial(_report, full=full, changes=changes)
    # Side by side: they sleep and wait a lot, and meet more often where processors are scarce.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        running = [pool.submit(_models, name, full=full) for name in models]
        running += [pool.submit(report, check) for check in chosen]
        passed = [each.result() for each in running]
    print(f"{sum(passed)} of {len(passed)} passed in {time.monotonic() - begun:.0f} s")
    return 0 if all(passed) else 1


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    kinds = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    version = subprocess.run([compiler(), "--version"], check=True, capture_output=True, text=True)
    return "\n".join(
        (
            f"date      {datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
            f"machine   {platform.machine()}, {os.cpu_count()} x {kinds[0] if kinds else 'CPU'}",
            f"kernel    {platform.release()}",
            f"compiler  {version.stdout.splitlines()[0]}",
        )
    )


def _report(check: Check, *, full: bool, changes: dict[str, str]) -> bool:
    begun = time.monotonic()
    try:
        outcome = run(check, full=full, **changes)
    except Unavailable as missing:
        outcome = Outcome(str(missing), {})
    problem = outcome.problem or ", ".join(_short_of(check, outcome) if full else ())
    _row(check.name, problem, time.monotonic() - begun, check.claim, outcome.figures)
    return not problem


def _short_of(check: Check, outcome: Outcome) -> Iterable[str]:
    for figure, least in check.at_least.items():
        if outcome.figures[figure] < least:
            yield f"{figure}: {outcome.figures[figure]:,} instead of {least:,}"


def _models(name: str, *, full: bool) -> bool:
    subject, file, claim = _MODELS[name]
    begun = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", str(subject.folder / file)]
    environment = {**os.environ, "AIOIPC_TEST_SCALE": "1" if full else "0"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    problem = done.stdout if done.returncode != 0 else ""
    _row(name, problem, time.monotonic() - begun, claim, {})
    return not problem


def _row(name: str, problem: str, seconds: float, claim: str, figures: dict[str, float]) -> None:
    verdict = "FAILED" if problem else "passed"
    numbers = ", ".join(f"{value:,} {key}" for key, value in figures.items() if key != "seconds")
    details = [f"        {line}" for line in (numbers, *problem.splitlines()) if line]
    print("\n".join((f"{verdict}  {name:32}{seconds:7.1f} s  {claim}", *details)), flush=True)


sys.exit(main(sys.argv[1:]))
