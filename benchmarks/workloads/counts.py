"""How many system calls does a message take? Counted by strace, so neighbours do not matter."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.contender import Contender, Plan
from benchmarks.harness import Pair, RoleFailed, cast
from benchmarks.workload import Case, Measurement, Metric, carries_bytes, with_messages

TOTAL = Metric("calls_per_message", "calls/message", "fraction")
SENDING = Metric("calls_per_message_client", "client", "fraction")
RECEIVING = Metric("calls_per_message_server", "server", "fraction")
METRICS = (TOTAL, SENDING, RECEIVING)
ONE_WAY = "one way, 128 B"


class Counts:
    """strace is attached when everything is connected; what closing costs is included."""

    name = "counts"
    title = "System calls per message"
    rounds = 1

    def cases(self, *, quick: bool) -> list[Case]:
        """A stream and round trips."""
        return [
            Case(ONE_WAY, Plan(128, 20_000 if quick else 100_000, 1_000), METRICS),
            Case("round trips, 64 B", Plan(64, 500 if quick else 2_000, 10), METRICS),
        ]

    def accepts(self, contender: Contender, case: Case) -> bool:
        """Everyone, where strace is installed."""
        playable = contender.plays("echo", "ping", "sink", "source") and not contender.hidden
        return carries_bytes(contender, case) and playable and shutil.which("strace") is not None

    def measure(self, contender: Contender, case: Case) -> Measurement:
        """One counted run."""
        plan = with_messages(case.plan, round(case.plan.messages * contender.pace))
        count = _count_stream if case.name == ONE_WAY else _count_round_trips
        client, server = count(contender, plan)
        metrics = {
            "calls_per_message": (client.total() + server.total()) / plan.messages,
            "calls_per_message_client": client.total() / plan.messages,
            "calls_per_message_server": server.total() / plan.messages,
        }
        note = f"client {_commonest(client)}; server {_commonest(server)}"
        return Measurement(metrics, plan.messages, note=note)


def _count_stream(contender: Contender, plan: Plan) -> tuple[Counter[str], Counter[str]]:
    with cast(contender, "sink", "source", plan) as pair:
        pair.expect("server", "warm")
        with _counted(pair) as counters:
            pair.client.release()
            pair.outcome("server")
            pair.outcome("client")
        return counters


def _count_round_trips(contender: Contender, plan: Plan) -> tuple[Counter[str], Counter[str]]:
    with cast(contender, "echo", "ping", plan, hesitate=True) as pair, _counted(pair) as counters:
        pair.client.release()
        pair.outcome("client")
        pair.outcome("server")
    return counters


@contextmanager
def _counted(pair: Pair) -> Iterator[tuple[Counter[str], Counter[str]]]:
    """Count the system calls of the client and of the server until both have exited."""
    counters: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    with tempfile.TemporaryDirectory(prefix="aioipc-bench-") as folder:
        files = Path(folder) / "client", Path(folder) / "server"
        with _attached(pair.client.pid, files[0]), _attached(pair.server.pid, files[1]):
            yield counters
        for counter, file in zip(counters, files, strict=True):
            counter.update(_parse(file.read_text()))


@contextmanager
def _attached(pid: int, output: Path) -> Iterator[None]:
    command = ["strace", "-c", "-f", "-U", "calls,name", "-o", str(output), "-p", str(pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        try:
            assert strace.stderr is not None
            greeting = strace.stderr.readline()
            if "attached" not in greeting:
                raise RoleFailed(greeting.strip() or "strace did not attach")
            yield
        finally:
            strace.send_signal(signal.SIGINT)  # it lets go of the process and writes its table
            strace.wait()


def _parse(summary: str) -> dict[str, int]:
    """The table that ``strace -c -U calls,name`` writes."""
    rows = (line.split() for line in summary.splitlines())
    counts = {row[1]: int(row[0]) for row in rows if len(row) == 2 and row[0].isdigit()}
    counts.pop("total", None)
    return counts


def _commonest(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counter.most_common(2))
