"""process.wait: any process, whoever started it."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

import aioipc
from aioipc import process
from tests.children import Peers
from tests.links import steps

SLEEP = "exec sleep 1000"


def start(script: str) -> int:
    return os.posix_spawn("/bin/sh", ["sh", "-c", script], os.environ)


def reap(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize("code", [0, 7])
async def test_a_child(code: int) -> None:
    pid = start(f"exit {code}")
    assert await process.wait(pid) == code
    with pytest.raises(ChildProcessError):
        reap(pid)


async def test_a_killed_child() -> None:
    pid = start(SLEEP)
    waiting = asyncio.create_task(process.wait(pid))
    await asyncio.sleep(0)
    aioipc.signals.send(pid, signal.SIGKILL)
    assert await waiting == -signal.SIGKILL


async def test_somebody_elses_child(peers: Peers) -> None:
    peer = peers.script("""
        import os, sys
        pid = os.posix_spawn("/bin/sleep", ["sleep", "1000"], {})
        print(pid, flush=True)
        sys.stdin.readline()
        os.kill(pid, 9)
        sys.stdin.readline()
        os.waitpid(pid, 0)
    """)
    pid = int(peer.line())
    waiting = asyncio.create_task(process.wait(pid))
    await steps(10)
    assert not waiting.done()
    peer.tell("kill it")
    assert await waiting in {None, -signal.SIGKILL}
    peer.tell("reap it")
    assert peer.wait() == 0


async def test_no_such_process() -> None:
    pid = start("exit 0")
    await process.wait(pid)
    with pytest.raises(ProcessLookupError):
        await process.wait(pid)


async def test_cancelled_it_is_not_reaped() -> None:
    pid = start(SLEEP)
    waiting = asyncio.create_task(process.wait(pid))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    os.kill(pid, signal.SIGKILL)
    assert reap(pid) == -signal.SIGKILL
