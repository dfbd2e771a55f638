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
    preloaded = {"LD_PRELOAD": str(shim)}
    # Most of the time they wait for deadlines, so they run side by side.
    running = {
        scenario: peers.module("tests.peers.failing_calls", scenario, loop, env=preloaded, cwd=ROOT)
        for scenario in SCENARIOS
    }
    problems = []
    for scenario, peer in running.items():
        *said, last = lines_of(peer)
        problems += [f"{scenario}: {line}" for line in said]
        assert last.startswith("done "), f"{scenario} ended with {last!r}, status {peer.wait()}"
        assert int(last.removeprefix("done ")) > 100, "the shim works"
        assert peer.wait() == 0
    assert problems == []


def lines_of(peer: Peer) -> list[str]:
    """What a child says until its end; it must not be silent for long."""
    lines = [""]
    with contextlib.suppress(EOFError):
        while True:
            line = peer.line()
            if not line.startswith("- "):
                lines.append(line)
    return lines[1:] or lines
