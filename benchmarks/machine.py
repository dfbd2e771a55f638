"""Where and with what a run was made: without it a figure says little."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from benchmarks.harness import pinned_cpus

_DISTRIBUTIONS = (
    "aioipc",
    "anyio",
    "faster-fifo",
    "grpcio",
    "iceoryx2",
    "msgpack",
    "msgspec",
    "pyzmq",
    "uvloop",
)


def describe() -> dict[str, object]:
    """Date, machine, versions and the commit that was measured."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpu": _cpu_kind(),
        "cpus": os.cpu_count(),
        "pinned_to": list(pinned_cpus()),
        "load_before": os.getloadavg()[0],
        "python": sys.version.split()[0],
        "versions": _versions(),
        "commit": _commit(),
    }


def _cpu_kind() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() in {"model name", "Model", "uarch"}:
            return value.strip()
    return "unknown"


def _versions() -> dict[str, str]:
    versions = {}
    for name in _DISTRIBUTIONS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _commit() -> str | None:
    """The commit of the sources beside this file; "+" marks changes that are not committed."""
    here = Path(__file__).parent
    try:
        head = _git(here, "rev-parse", "--short=12", "HEAD")
        changed = _git(here, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changed else "")


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.strip()
