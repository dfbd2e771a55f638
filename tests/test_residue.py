"""The guard is guarded: each kind of residue fails the test that leaves it."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

import pytest

from aioipc.memory import SharedMemory
from aioipc.testing.residue import Snapshot, residue
from tests.children import Peers

ROOT = Path(__file__).parent.parent

HEAD = """
import asyncio, os, threading
from multiprocessing import shared_memory
from pathlib import Path
import pytest, pytest_asyncio
from tests.children import Peer

kept = []
kept_fd, foreign_fd = os.pipe()
stop = threading.Event()

"""

LEFT = {
    "fd": ("kept.append(os.pipe())", "fd * -> pipe:*"),
    "foreign_fd": ("os.close(foreign_fd)", "*was closed, and was not the test's to close*"),
    "thread": (
        "threading.Thread(target=stop.wait, name='left', daemon=True).start()",
        "thread left",
    ),
    "child": (
        "peer = Peer(['-c', 'print(1); input()']); kept.append(peer); peer.line()",
        "child process *input()*",
    ),
    "zombie": (
        "os.waitid(os.P_PID, os.spawnlp(os.P_NOWAIT, 'true', 'true'), os.WEXITED | os.WNOWAIT)",
        "child process *: ended, not reaped",
    ),
    "shared_memory": (
        "left = shared_memory.SharedMemory('aioipc-left-%d' % os.getpid(), True, 1); left.close()",
        "shared memory /dev/shm/*",
    ),
    "name": (
        "Path(os.environ['AIOIPC_RUNTIME_DIR'], 'left').touch()",
        "name in the runtime directory: left",
    ),
    "task": ("kept.append(asyncio.create_task(asyncio.Event().wait()))", "task <Task pending*"),
    "reader": ("asyncio.get_running_loop().add_reader(kept_fd, print)", "*of fd *"),
}

LEAVER = """
@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_leaves_{kind}():
    {statement}
"""


def test_whatever_is_left_fails_the_test(pytester: pytest.Pytester) -> None:
    tests = [LEAVER.format(kind=kind, statement=left) for kind, (left, _) in LEFT.items()]
    result = run(pytester, "".join(tests))
    for kind, (_, complaint) in LEFT.items():
        result.stdout.fnmatch_lines([f"*ERROR at teardown of test_leaves_{kind} *", complaint])
    result.assert_outcomes(passed=len(LEFT), errors=len(LEFT))


def test_nothing_left_passes_on_both_loops(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        @pytest_asyncio.fixture
        async def background():
            task = asyncio.create_task(asyncio.Event().wait())
            yield
            task.cancel()

        @pytest.mark.asyncio
        async def test_clean(background, peers):
            peer = peers.script("print('ready'); input()")
            assert await peer.next_line() == "ready"
            peer.tell()
            assert await peer.ended() == 0
            reading, writing = os.pipe()
            done = asyncio.Event()
            asyncio.get_running_loop().add_reader(reading, done.set)
            os.write(writing, b"x")
            await done.wait()
            asyncio.get_running_loop().remove_reader(reading)
            os.close(reading)
            os.close(writing)

        def test_sync(peers):
            assert peers.script("import time; time.sleep(3600)").kill() == -9

        @pytest.mark.leaves_names
        def test_kills(runtime_dir):
            (runtime_dir / "left").touch()
        """,
    )
    result.assert_outcomes(passed=4)


STRANGER = """
import os, sys
from aioipc.memory import SharedMemory
if os.fork():
    os._exit(0)
with SharedMemory.create(1, sys.argv[1]):
    print("made", flush=True)
    input()
print("closed", flush=True)
"""


def test_what_a_stranger_uses_is_not_ours(runtime_dir: Path, peers: Peers) -> None:
    """Such as another run of these tests at the same time."""
    before = Snapshot()
    name = f"/aioipc-stranger-{os.getpid()}"
    orphan = peers.script(STRANGER, name)
    assert orphan.line() == "made"
    assert orphan.wait() == 0  # its parent has ended
    try:
        assert not [line for line in residue(before, runtime_dir) if name in line]
        orphan.tell()
        assert orphan.line() == "closed"
        assert f"shared memory /dev/shm{name}" in residue(before, runtime_dir)
    finally:
        SharedMemory.open(name).unlink()


def test_a_stuck_test_is_interrupted_on_both_loops(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        @pytest.mark.timeout(1)
        @pytest.mark.asyncio
        async def test_stuck():
            await asyncio.Event().wait()

        def test_next():
            pass
        """,
    )
    result.stdout.fnmatch_lines(["*TimedOut: Timeout (>1.0s)*"])
    result.assert_outcomes(failed=2, errors=2, passed=1)  # the errors: its task is left


def run(pytester: pytest.Pytester, test: str) -> pytest.RunResult:
    """Run a test file under our settings and our conftest, in a process of its own."""
    path = pytester.makepyfile(HEAD + textwrap.dedent(test))
    settings = ("-c", ROOT / "pyproject.toml", "-p", "tests.conftest", "-p", "no:cacheprovider")
    return pytester.runpytest_subprocess(*settings, path, timeout=50)
