"""A service in a process of its own, behind every kind of address."""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Protocol

import pytest

import aioipc
from aioipc import rpc
from tests.programs import loop_name, program, source

pytestmark = pytest.mark.asyncio

SERVE = """
from collections.abc import AsyncIterator
from aioipc import rpc

class Calculator:
    async def add(self, a: int, b: int) -> int:
        return a + b
    async def pid(self) -> int:
        return os.getpid()
    async def up(self, to: int) -> AsyncIterator[int]:
        for number in range(to):
            yield number
    async def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

async with rpc.serve(sys.argv[1], Calculator()) as server:
    if len(sys.argv) == 2 and not sys.argv[1].startswith(("stdio", "fd")):
        say(server.address)
    await server.wait()
"""


class Calculator(Protocol):
    async def add(self, a: int, b: int) -> int: ...
    async def pid(self) -> int: ...
    def up(self, to: int) -> AsyncIterator[int]: ...
    async def die(self) -> None: ...


async def check(calculator: Calculator, pid: int | None = None) -> None:
    for number in range(100):
        assert await calculator.add(number, 1) == number + 1
    sums = await asyncio.gather(*(calculator.add(number, 1) for number in range(500)))
    assert sums == [number + 1 for number in range(500)]
    assert [number async for number in calculator.up(500)] == list(range(500))
    if pid is not None:
        assert await calculator.pid() == pid


@pytest.mark.parametrize("address", ["unix:calc", "shm:calc", "tcp://127.0.0.1:0"])
@pytest.mark.leaves_names
async def test_a_server(peers: Any, address: str) -> None:
    server = program(peers, SERVE, address)
    where = await asyncio.to_thread(server.line)
    async with rpc.connect(where, Calculator) as calculator:
        await check(calculator, server.pid)
        with pytest.raises(aioipc.PeerCrashed, match=r"Calculator\.die may have run"):
            await calculator.die()
        with pytest.raises(aioipc.PeerCrashed):
            await calculator.add(1, 2)


async def test_a_child_over_its_standard_streams(tmp_path: Path) -> None:
    script = tmp_path / "child.py"
    script.write_text(source(SERVE))
    command = shlex.join([sys.executable, str(script), loop_name(), "stdio:"])
    async with rpc.connect(f"exec:{command}", Calculator) as calculator:
        await check(calculator)
        with pytest.raises(aioipc.PeerCrashed) as caught:
            await calculator.die()
        assert caught.value.status == -9


@pytest.mark.parametrize("kind", ["pipe", "unix", "shm"])
async def test_a_child_with_one_end_of_a_pair(peers: Any, kind: str) -> None:
    import os

    ours, theirs = aioipc.pair(kind, codec=rpc.CODEC)
    address, fds = theirs.detach()
    child = program(peers, SERVE, address, "quiet", pass_fds=fds)
    for fd in fds:
        os.close(fd)
    async with rpc.connect(ours, Calculator) as calculator:
        await check(calculator, child.pid)
    assert await asyncio.to_thread(child.wait) == 0


@pytest.mark.leaves_names
async def test_many_clients_in_many_processes(peers: Any) -> None:
    server = program(peers, SERVE, "unix:calc")
    where = await asyncio.to_thread(server.line)
    clients = [
        program(
            peers,
            """
            from aioipc import rpc
            class Calculator:
                async def add(self, a: int, b: int) -> int: ...
            async with rpc.connect(sys.argv[1], Calculator) as calculator:
                for number in range(500):
                    assert await calculator.add(number, 1) == number + 1
            """,
            where,
        )
        for _ in range(4)
    ]
    for client in clients:
        assert await asyncio.to_thread(client.wait) == 0
    server.process.terminate()
