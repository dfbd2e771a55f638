"""The system calls of a script, phase by phase, as strace(1) sees them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest

HEAD = """
import asyncio, os, sys
import aioipc, uvloop
from aioipc import pubsub

def phase(name):
    os.write(2, f"phase {name}".encode())

async def main():
"""
TAIL = """
factory = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}[sys.argv.pop(1)]
with asyncio.Runner(loop_factory=factory) as runner:
    runner.run(main())
"""

_PHASE = re.compile(r'write\(2<[^>]*>, "phase ([^"]*)"')
_CALL = re.compile(r"^(\w+)\((?:\d+<([^>]*)>?)?")
_MEMORY = ("brk", "mmap", "munmap", "madvise", "mremap", "mprotect")
_THINGS = {"eventfd": "bell", "socket": "line", "UNIX": "line", "TCP": "line", "pipe": "line"}


def calls_by_phase(body: str, *arguments: str, tmp_path: Path) -> dict[str, Counter[str]]:
    """Run a script and count its main thread's calls, but those for memory, by ``phase(name)``.

    Args:
        body: Of ``async def main()``.
        arguments: ``"asyncio"`` or ``"uvloop"``, and then those of the script.
        tmp_path: Where the trace goes.

    Returns:
        For each phase the calls by their names; those on an eventfd as in ``write of a bell``,
        on a socket or a pipe as in ``write of a line``.
    """
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    trace = tmp_path / "trace"
    command = [strace, "-qq", "-y", "-s", "64", "-o", str(trace)]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("strace may not trace here")
    script = HEAD + textwrap.indent(body, "    ") + TAIL
    command += [sys.executable, "-c", script, *arguments]
    subprocess.run(command, check=True, capture_output=True)
    return _count(trace.read_text().splitlines())


def _count(trace: list[str]) -> dict[str, Counter[str]]:
    counted: dict[str, Counter[str]] = {}
    phase = ""
    for line in trace:
        if match := _PHASE.search(line):
            phase = match[1]
            counted[phase] = Counter()
        elif phase and (match := _CALL.match(line)) and match[1] not in _MEMORY:
            counted[phase][_named(match[1], match[2] or "")] += 1
    return counted


def _named(call: str, what: str) -> str:
    for kind, thing in _THINGS.items():
        if kind in what:
            return f"{call} of a {thing}"
    return call
