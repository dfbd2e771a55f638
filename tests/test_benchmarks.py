"""The benchmarks run, judge, and leave nothing behind. No test asserts a time."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.peers.descriptor_limit import PROGRAM
from benchmarks.results import UVLOOP_REFERENCE, Entry, Results, Table
from benchmarks.targets import Target, Verdict, judge_one
from benchmarks.workload import Measurement
from benchmarks.workloads.one_way import RATE

ROOT = Path(__file__).parent.parent
REFERENCE = "tuned Protocol (asyncio)"
OURS = "aioipc unix (asyncio)"


def start(*arguments: str, folder: Path) -> subprocess.Popen[str]:
    """Start the command in a session of its own, with its temporary files in ``folder``."""
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks", "--quick", "--patience=0", *arguments],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def lives(session: int) -> bool:
    """Whether any process of the group is left."""
    try:
        os.killpg(session, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_run_measures_saves_and_judges(tmp_path: Path) -> None:
    (folder := tmp_path / "temporary").mkdir()
    saved, plot = tmp_path / "results.json", tmp_path / "plot.svg"
    arguments = ["--workload", "round_trip", "--rounds", "2", "--only", OURS]
    output, _ = start(*arguments, "--json", str(saved), folder=folder).communicate()

    document = json.loads(saved.read_text())
    assert document["failures"] == [], output
    (table,) = document["tables"]
    entries = {entry["contender"]: entry for entry in table["entries"]}
    assert {OURS, REFERENCE} <= entries.keys()
    assert all(len(entry["rounds"]) == 2 for entry in entries.values())
    assert entries[REFERENCE]["ratio_to_asyncio"] == 1
    assert entries[OURS]["median"]["p50_us"] > 0
    assert document["environment"]["python"]
    assert not list(folder.iterdir())

    arguments = ["--load", str(saved), "--check-targets", "--plot", str(plot)]
    output, _ = start(*arguments, folder=folder).communicate()
    assert "unix round trip, adaptive" in output
    assert "not measured in this run" in output
    assert plot.read_text().startswith("<svg")


def test_an_interrupt_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    arguments = ["--workload", "idle", "--only", OURS]
    benchmark = start(*arguments, folder=tmp_path)
    while not list(tmp_path.glob("aioipc-bench-*")):
        assert benchmark.poll() is None, benchmark.communicate()[0]
        time.sleep(0.01)
    os.killpg(benchmark.pid, signal.SIGINT)
    output, _ = benchmark.communicate()

    assert benchmark.returncode == 130, output
    assert "interrupted" in output
    assert not list(tmp_path.iterdir())
    while lives(benchmark.pid):  # multiprocessing's tracker leaves a moment later
        time.sleep(0.01)


def found(case: str = "any", **figures: list[float]) -> Results:
    """The results of a run: the figures of each contender, one for each round."""
    results = Results({}, {})
    table = Table("one_way", "One-way stream", case, (RATE,))
    results.tables.append(table)
    for word, rounds in figures.items():
        name = UVLOOP_REFERENCE if word == "reference" else word
        measured = [Measurement({RATE.key: figure}, 1) for figure in rounds]
        table.entries[name] = Entry(name, "peer", [*measured])
    return results


def test_what_the_machine_does_in_silence_is_not_wanted_from_us() -> None:
    lag = Target("lag", "one_way", "any", "ours", "≤", 10.0, RATE.key, at_rest="silent")
    results = found(ours=[30.0])
    results.tables += found("silent", ours=[40.0]).tables
    assert judge_one(lag, results) == Verdict(lag, 40.0, 30.0)


@pytest.mark.parametrize("size", [16, 1024, 100_000])
@pytest.mark.parametrize("kind", ["unix", "pipe", "fifo"])
def test_the_program_that_says_what_a_descriptor_allows(
    tmp_path: Path, kind: str, size: int
) -> None:
    words = [f"size={size}", f"only={kind}", f"path={tmp_path}/fifo", "milliseconds=10"]
    assert PROGRAM.ready().run(*words) > 0
    assert not list(tmp_path.iterdir())
