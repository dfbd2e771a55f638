"""The n-th system call fails, for every n: success or a typed exception, and no descriptor left.

tests/syscall_shim.c makes the calls fail; tests/peers/failing_calls.py runs in a child, opens,
talks and closes with one failure after the other, and says what must not be.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.children import Peers
from tests.peers.failing_calls import SCENARIOS

ROOT = Path(__file__).parents[1]
LONGEST_S = 60


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
@pytest.mark.timeout(2 * LONGEST_S)
@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_the_nth_call_fails(scenario: str, loop: str, shim: Path, peers: Peers) -> None:
    peer = peers.module(
        "tests.peers.failing_calls", scenario, loop, env={"LD_PRELOAD": str(shim)}, cwd=ROOT
    )
    *problems, last = peer.rest().splitlines() or [""]
    assert problems == []
    assert last.startswith("done ")
    assert int(last.removeprefix("done ")) > 10, "the shim works"
    assert peer.wait() == 0
