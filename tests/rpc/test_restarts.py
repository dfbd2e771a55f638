"""Servers in processes of their own that are replaced under load, in good order or by kill -9."""

from __future__ import annotations

import asyncio
import collections
import os
import signal
from pathlib import Path

import pytest

import aioipc
from aioipc import rpc
from tests.children import Peers
from tests.links import until
from tests.programs import Nursery
from tests.rpc.marking import Marking, marks
from tests.scale import patience_s, scaled

pytestmark = pytest.mark.asyncio

SERVE = """
from aioipc import rpc
from tests.rpc.marking import Marker, Marking
asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)
with contextlib.suppress(asyncio.CancelledError):
    while True:  # as long as another one has the address
        with contextlib.suppress(aioipc.IPCError):
            async with rpc.serve(sys.argv[1], Marker(sys.argv[2]), interface=Marking) as server:
                await server.wait()
        await asyncio.sleep(0.002)
"""


KILLS = scaled(8, full=400)


class Callers:
    """Tasks that make one call after the other, and what came of them."""

    def __init__(self, proxy: Marking) -> None:
        self.done: list[int] = []
        self.failed: dict[int, Exception] = {}
        self._proxy = proxy
        self._made = 0
        self._is_over = False
        self._tasks = [
            asyncio.ensure_future(self._make(kind)) for kind in ("fast", "slow", "several") * 3
        ]

    async def _make(self, kind: str) -> None:
        while not self._is_over:
            self._made += 1
            number = self._made
            try:
                await self._call(kind, number)
                self.done.append(number)
            except aioipc.IPCError as error:
                self.failed[number] = error

    async def _call(self, kind: str, number: int) -> None:
        match kind:
            case "fast":
                assert await self._proxy.fast(number) == number
            case "slow":
                assert await self._proxy.slow(number) == number
            case _:
                assert [item async for item in self._proxy.several(number)] == [0, 1, 2]

    async def make(self, calls: int) -> None:
        """Wait for so many more to succeed."""
        enough = len(self.done) + calls
        await until(lambda: len(self.done) >= enough)

    async def end(self) -> None:
        self._is_over = True
        await asyncio.gather(*self._tasks)


async def connected(address: str) -> Marking:
    """A client of the server that is about to serve there."""
    while True:
        try:
            return await rpc.connect(address, Marking, reconnect=True)
        except aioipc.ConnectError:
            await asyncio.sleep(0.001)


async def serve_in_turn(address: str, number: int, peers: Peers, told: Path) -> Callers:
    """Have one server after the other, and call all the time."""
    told.touch()
    servers = Nursery(peers, SERVE, address, told)
    pids = [servers.start()]
    proxy = await connected(address)
    callers = Callers(proxy)
    for _ in range(KILLS):
        await callers.make(100)
        pids.append(servers.start())
        os.kill(pids[-2], number)
    await callers.make(100)
    await callers.end()
    await rpc.aclose(proxy)
    os.kill(pids[-1], signal.SIGTERM)
    await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    return callers


@pytest.mark.slow
@pytest.mark.timeout(patience_s(60))
@pytest.mark.parametrize("address", ["unix:restarts", "shm:restarts"])
async def test_in_good_order_they_fail_no_call(address: str, peers: Peers, tmp_path: Path) -> None:
    callers = await serve_in_turn(address, signal.SIGTERM, peers, tmp_path / "ran")
    assert not callers.failed
    assert sorted(marks(tmp_path / "ran")) == sorted(callers.done), "each ran once"


@pytest.mark.slow
@pytest.mark.leaves_names
@pytest.mark.timeout(patience_s(60))
@pytest.mark.parametrize("address", ["unix:restarts", "shm:restarts"])
async def test_killed_they_run_no_call_twice(address: str, peers: Peers, tmp_path: Path) -> None:
    callers = await serve_in_turn(address, signal.SIGKILL, peers, tmp_path / "ran")
    ran = collections.Counter(marks(tmp_path / "ran"))
    assert set(ran.values()) == {1}
    assert ran.keys() >= set(callers.done)
    for number, error in callers.failed.items():
        assert isinstance(error, aioipc.PeerCrashed)
        assert "may have run" in str(error), f"{number} was to be made again: {error}"
    if address.startswith("shm:"):  # where each call is known that had begun
        assert len(callers.failed.keys() - ran.keys()) <= KILLS
