"""Run all tests, ``python -m tests``: two halves side by side, where there are two processors.

The second half starts programs, or computes, and hardly cares how long that takes; its report
comes when the first has ended, and then what nobody else should see. Words on the command line
are pytest's, and then there is one run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
SECOND_HALF = (
    *("asyncio_face", "broadcast", "cli", "codecs", "memory", "native", "ring", "wire"),
    *("test_docs.py", "test_examples.py", "test_house.py"),
)
"""Directories and files that take half of the time, by what they are about."""

ALONE = "tests/test_residue.py"
"""It leaves things behind on purpose."""


def main(words: list[str]) -> int:
    """Run what the command line asks for; returns the exit status."""
    pytest = [sys.executable, "-m", "pytest"]
    if words or len(os.sched_getaffinity(0)) == 1:
        return _end_of(subprocess.Popen([*pytest, *words]))
    second_half = [f"tests/{name}" for name in SECOND_HALF]
    first_half = ["tests", *(f"--ignore={name}" for name in (*second_half, ALONE))]
    with tempfile.TemporaryFile() as report:
        other = subprocess.Popen([*pytest, *second_half], cwd=ROOT, stdout=report, stderr=report)
        status = _end_of(subprocess.Popen([*pytest, *first_half], cwd=ROOT))
        print("\nthe other half:", flush=True)
        other_status = _end_of(other)
        report.seek(0)
        sys.stdout.buffer.write(report.read())
        sys.stdout.flush()
    return status or other_status or _end_of(subprocess.Popen([*pytest, ALONE], cwd=ROOT))


def _end_of(process: subprocess.Popen[bytes]) -> int:
    """Wait for the end, which Ctrl-C brings about sooner: the terminal tells them all."""
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


sys.exit(main(sys.argv[1:]))
