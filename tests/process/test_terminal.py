"""Ctrl-C in a terminal: the kernel interrupts who is in front there, and nobody is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.children import Peer, Peers, has_ended
from tests.process.ends import LIMIT_S, until

CTRL_C = b"\x03"

HEAD = """
    import asyncio, itertools, os, sys
    import aioipc
    from aioipc import process
    from tests.process import models
    from tests.process.models import Model

    os.open(sys.argv[1], os.O_RDWR)  # the first terminal that the leader of a session opens is its
"""

POOL = """
    async def main():
        print("starts", flush=True)
        async with process.pool(models.Worker, Model, size=2) as model:
            print(*process.pool_of(model).pids, flush=True)
            {body}

    aioipc.run(main())
"""

COMMAND = """
    print("starts", flush=True)
    target = "tests.process.targets:echo"
    command = [sys.executable, "-m", "aioipc", "run", target, "--workers", "2"]
    os.execv(sys.executable, command)
"""

WHILE = {
    "a map runs": "await process.map(model.add, itertools.count())",
    "a worker computes": "await model.compute_for_ever(sys.argv[2])",
}


@pytest.fixture
def terminal() -> Iterator[tuple[int, str]]:
    """The keyboard of a terminal, and its path."""
    keyboard, screen = os.openpty()
    yield keyboard, os.ttyname(screen)
    os.close(keyboard)
    os.close(screen)


def session(leader: int) -> list[int]:
    """The processes of a session that still run: proc_pid_stat(5)."""
    return [
        pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _is_of(pid, leader)
    ]


def _is_of(pid: int, leader: int) -> bool:
    try:
        _, _, facts = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return int(facts.split()[3]) == leader and not has_ended(pid)


async def ends(peer: Peer) -> None:
    """It ends as who is interrupted does, and all its workers with it."""
    assert await asyncio.to_thread(peer.wait) in (-signal.SIGINT, 128 + signal.SIGINT)
    async with asyncio.timeout(LIMIT_S):
        await until(lambda: not session(peer.pid))


@pytest.mark.asyncio
class TestInterruption:
    @pytest.mark.parametrize("body", WHILE.values(), ids=WHILE)
    async def test_while(
        self, body: str, terminal: tuple[int, str], peers: Peers, tmp_path: Path
    ) -> None:
        keyboard, path = terminal
        began = tmp_path / "began"
        script = HEAD + POOL.format(body=body)
        peer = peers.script(script, path, began, start_new_session=True)
        assert await peer.next_line() == "starts"
        await peer.next_line()
        if "compute" in body:
            await until(began.exists)
        assert len(session(peer.pid)) >= 3, "workers, with groups of their own, are of the session"
        os.write(keyboard, CTRL_C)
        await ends(peer)

    async def test_while_the_pool_starts(self, terminal: tuple[int, str], peers: Peers) -> None:
        keyboard, path = terminal
        script = HEAD + POOL.format(body="await asyncio.Event().wait()")
        peer = peers.script(script, path, start_new_session=True)
        assert await peer.next_line() == "starts"
        await until(lambda: len(session(peer.pid)) > 1)
        os.write(keyboard, CTRL_C)
        await ends(peer)

    async def test_of_the_command(self, terminal: tuple[int, str], peers: Peers) -> None:
        keyboard, path = terminal
        peer = peers.script(HEAD + COMMAND, path, start_new_session=True)
        assert await peer.next_line() == "starts"
        await until(lambda: len(session(peer.pid)) > 2)
        os.write(keyboard, CTRL_C)
        await ends(peer)
