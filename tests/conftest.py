"""What every test gets: both event loops, a runtime directory, real peers, no residue."""

from __future__ import annotations

import asyncio
import functools
import os
import random
import signal
import tempfile
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import hypothesis
import pytest
import uvloop

from aioipc.kernel.statistics import Kind, open_row
from aioipc.testing.plugin import aioipc_address, private_runtime_dir
from aioipc.testing.residue import NAME_LEFT, Snapshot, residue, tasks_left
from tests.children import Peers
from tests.links import EVERY, Link, link_over
from tests.peers.nursery import Nursery

__all__ = ["aioipc_address"]

# An example may take as long as the machine makes it take. Whoever develops gets new examples each
# time; a build is judged by the same ones.
hypothesis.settings.register_profile("aioipc", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("aioipc")

LONGEST_TEMPORARY = 16
"""Characters of the directory for temporary files: the paths below it have up to 90 more."""


def pytest_configure() -> None:
    """Let a run be the same wherever it was started.

    Programs that know nothing of aioipc reach sockets by paths of 107 bytes: unix(7). And what
    a shell script runs in the background ignores Ctrl-C, as would the processes of the tests.
    """
    if len(tempfile.gettempdir()) > LONGEST_TEMPORARY:
        os.environ["TMPDIR"] = tempfile.tempdir = "/tmp"
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


LOOPS: Mapping[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every async test once on each loop."""
    return LOOPS


ON_ONE_LOOP = frozenset(
    {
        *("asyncio_face", "broadcast", "cli", "memory", "process", "pubsub", "queues", "rpc"),
        *("shm", "sync", "transports"),
        *("test_backpressure", "test_cancellation", "test_contracts", "test_dropped"),
        *("test_fifo_faults", "test_hostile_peer", "test_lifecycle", "test_peer_death"),
        *("test_polling", "test_segments", "test_silence", "test_unix_faults"),
    }
)
"""Directories and files of tests that take long together: each test runs on one loop."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run what takes long on one of the two loops, every second test on each.

    With AIOIPC_TEST_BOTH_LOOPS=1, as in ``make test-all``, everything runs on both.
    """
    if os.environ.get("AIOIPC_TEST_BOTH_LOOPS"):
        return
    left_out = [item for item in items if not _runs_here(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if _runs_here(item)]


def _runs_here(item: pytest.Item) -> bool:
    takes_long = not ON_ONE_LOOP.isdisjoint((item.path.parent.name, item.path.stem))
    if not takes_long and item.get_closest_marker("slow") is None:
        return True
    name, _, variant = item.nodeid.partition("[")
    loop = next((loop for loop in LOOPS if loop in variant), None)
    rest = variant.replace(loop, "", 1) if loop is not None else variant
    chosen = tuple(LOOPS)[zlib.crc32(f"{name}[{rest}".encode()) % len(LOOPS)]
    return loop is None or loop == chosen


class TimedOut(SystemExit):
    """A test took too long. uvloop lets nothing else out that a signal handler raises."""


@pytest.hookimpl(wrapper=True)
def pytest_timeout_set_timer(settings: Any) -> Generator[None, object, object]:
    """Let the timeout of one test interrupt both loops, and not end the run."""
    result = yield
    fail = signal.getsignal(signal.SIGALRM)
    if settings.method == "signal" and callable(fail):

        def interrupt(number: int, frame: FrameType | None) -> None:
            try:
                fail(number, frame)
            except pytest.fail.Exception as failure:
                raise TimedOut(failure.msg) from None

        signal.signal(signal.SIGALRM, interrupt)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> Generator[None, object, object]:
    """Look for tasks where they still are: before pytest-asyncio's runner cancels them.

    Finalizers run in reverse order. This one is added right after the runner's own and
    before those of the async fixtures, so it runs when they are all torn down.
    """
    value = yield
    if isinstance(value, asyncio.Runner):
        fixturedef.addfinalizer(functools.partial(_no_task_left, value))
    return value


def _no_task_left(runner: asyncio.Runner) -> None:
    if found := tasks_left(runner):
        pytest.fail("the test left on its loop:\n" + "\n".join(found), pytrace=False)


@pytest.fixture(scope="session", autouse=True)
def warm_loops() -> None:
    """Let the loops and the library open now what they keep for the life of the process."""
    if row := open_row(Kind.CHANNEL, "nothing"):
        row.close()
    for factory in LOOPS.values():
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(asyncio.sleep(0))


@pytest.fixture(autouse=True)
def runtime_dir(warm_loops: None) -> Iterator[Path]:
    """Give the test a runtime directory of its own, with a path short enough for sockets."""
    with private_runtime_dir() as path:
        yield path


@pytest.fixture(autouse=True)
def no_residue(runtime_dir: Path, request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the test that leaves something behind: see aioipc/testing/residue.py.

    Set up before everything else that belongs to one test, and torn down after it. A loop
    with a wider scope than one test would count as residue of its first test.
    """
    before = Snapshot()
    yield
    found = residue(before, runtime_dir)
    if request.node.get_closest_marker("leaves_names"):
        found = [line for line in found if not line.startswith(NAME_LEFT)]
    if found:
        pytest.fail("the test left behind:\n" + "\n".join(found), pytrace=False)


@pytest.fixture
def aioipc_runtime_dir(runtime_dir: Path) -> Path:
    """The one that each test has anyway, for the fixtures of the plugin."""
    return runtime_dir


@pytest.fixture
def peers(no_residue: None) -> Iterator[Peers]:
    """Start real processes, which are killed and reaped when the test ends."""
    peers = Peers()
    yield peers
    peers.close()


@pytest.fixture
def nursery(peers: Peers) -> Iterator[Nursery]:
    """Fork short-lived processes that use channels: each takes milliseconds, not a start."""
    nursery = Nursery(peers)
    yield nursery
    nursery.close()


@pytest.fixture(params=EVERY)
def link(request: pytest.FixtureRequest) -> Link:
    """Connected channels over one transport after the other.

    ``@pytest.mark.parametrize("link", DUPLEX, indirect=True)`` chooses transports.
    """
    return link_over(request.param)


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers; the report of a failure says how to have the same ones again."""
    seed = int(os.environ.get("AIOIPC_TEST_SEED", "0")) or random.SystemRandom().getrandbits(32)
    print(f"replay with: AIOIPC_TEST_SEED={seed} python -m pytest {request.node.nodeid!r}")
    return random.Random(seed)
