"""What the kernel says about a process: context switches, CPU time, memory (proc(5))."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Effort:
    """What a process has cost so far, all its threads together.

    Attributes:
        switches: Voluntary and involuntary context switches; an idle process makes none.
        cpu_ns: Time on a CPU.
    """

    switches: int
    cpu_ns: int

    def __add__(self, other: Effort) -> Effort:
        return Effort(self.switches + other.switches, self.cpu_ns + other.cpu_ns)

    def __sub__(self, other: Effort) -> Effort:
        return Effort(self.switches - other.switches, self.cpu_ns - other.cpu_ns)


def effort(pid: int) -> Effort:
    """The effort of all threads of a process, from its status and schedstat files."""
    total = Effort(0, 0)
    for thread in Path(f"/proc/{pid}/task").iterdir():
        total += Effort(_switches(thread / "status"), _cpu_ns(thread))
    return total


def queued_ns() -> int:
    """How long this process's main thread waited for a CPU that others had (schedstat)."""
    schedstat = Path("/proc/self/schedstat")
    return int(schedstat.read_text().split()[1]) if schedstat.exists() else 0


def resident_bytes(pid: int) -> int:
    """Memory of the process that is in RAM and shared with nobody (RssAnon)."""
    return _field(Path(f"/proc/{pid}/status"), "RssAnon") * 1024


def _switches(status: Path) -> int:
    return _field(status, "voluntary_ctxt_switches") + _field(status, "nonvoluntary_ctxt_switches")


def _cpu_ns(thread: Path) -> int:
    """From schedstat (nanoseconds); from stat (clock ticks) where the kernel has no schedstat."""
    schedstat = thread / "schedstat"
    if schedstat.exists():
        return int(schedstat.read_text().split()[0])
    user, system = (thread / "stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) * 10_000_000


def _field(status: Path, name: str) -> int:
    for line in status.read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0])
    raise LookupError(f"{status} has no {name}")
