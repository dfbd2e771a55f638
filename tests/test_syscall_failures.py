"""The n-th system call fails, for every n: success or a typed exception, and no descriptor left.

tests/syscall_shim.c makes the calls fail; tests/peers/failing_calls.py runs in a child, opens,
talks and closes with one failure after the other, and says what must not be.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.children import Peer, Peers
from tests.peers.failing_calls import SCENARIOS

ROOT = Path(__file__).parents[1]
LONGEST_S = 180


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    library = tmp_path_factory.mktemp("shim") / "syscall_shim.so"
    source = ROOT / "tests" / "syscall_shim.c"
    flags = ["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([compiler, *flags, "-o", library, source, "-ldl"], check=True)
    return library


@pytest.mark.slow
@pytest.mark.timeout(LONGEST_S)
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_the_nth_call_fails(loop: str, shim: Path, peers: Peers) -> None:
    # Most of the time they wait for deadlines, so they run side by side.
    running = [failing(peers, shim, scenario, loop) for scenario in SCENARIOS]
    problems = []
    for scenario, peer in zip(SCENARIOS, running, strict=True):
        *said, runs = outcome(peer, scenario)
        problems += [f"{scenario}: {line}" for line in said]
        assert int(runs) > 100, "the shim works"
    assert problems == []


def test_the_nth_epoll_ctl_fails(shim: Path, peers: Peers) -> None:
    """In every run, for libuv aborts the process, and the test above may be on uvloop alone."""
    scenarios = ",".join(SCENARIOS)
    *problems, runs = outcome(failing(peers, shim, scenarios, "asyncio", "epoll_ctl"), scenarios)
    assert problems == []
    assert int(runs) > 6 * len(SCENARIOS), "the shim works"


def failing(peers: Peers, shim: Path, *arguments: str) -> Peer:
    preloaded = {"LD_PRELOAD": str(shim)}
    return peers.module("tests.peers.failing_calls", *arguments, env=preloaded, cwd=ROOT)


def outcome(peer: Peer, scenario: str) -> list[str]:
    """The problems, and how many runs there were."""
    *problems, last = lines_of(peer)
    assert last.startswith("done "), f"{scenario} ended with {last!r}, status {peer.wait()}"
    assert peer.wait() == 0
    return [*problems, last.removeprefix("done ")]


def lines_of(peer: Peer) -> list[str]:
    """What a child says until its end; it must not be silent for long."""
    lines = [""]
    with contextlib.suppress(EOFError):
        while True:
            line = peer.line()
            if not line.startswith("- "):
                lines.append(line)
    return lines[1:] or lines
