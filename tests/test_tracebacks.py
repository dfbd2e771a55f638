"""An exception that is kept and raised again and again does not collect the frames of all times."""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable

import pytest

import aioipc
from aioipc import queues, rpc
from aioipc.wire.rpc import Credit
from tests.links import until

pytestmark = pytest.mark.asyncio


class Clock:
    async def now(self) -> float:
        return 0.0


async def depths(act: Callable[[], Awaitable[object]]) -> list[int]:
    """How many frames the exception has each time."""
    found = []
    for _ in range(4):
        try:
            await act()
        except aioipc.IPCError as error:
            found.append(len(list(traceback.walk_tb(error.__traceback__))))
    return found


async def test_a_served_queue() -> None:
    async with queues.serve("unix:") as server, queues.open(server.address) as queue:
        await queue.put(1)
        await server.aclose()
        for act in (queue.statistics, queue.get, lambda: queue.put(1)):
            _, *later = await depths(act)
            assert later == [later[0]] * 3


async def test_a_mailbox() -> None:
    async with queues.mailbox("box") as box:
        pass
    for act in (box.receive, lambda: box.send("box", 1)):
        _, *later = await depths(act)
        assert later == [later[0]] * 3


async def test_a_connection_of_calls() -> None:
    async with (
        rpc.serve("unix:", Clock()) as server,
        aioipc.connect(server.address, codec=rpc.CODEC) as channel,
    ):
        await until(lambda: bool(server.connections))
        (connection,) = server.connections
        await channel.send(Credit(1, 0))  # nobody called
        with pytest.raises(aioipc.ProtocolError):
            await channel.receive()
        _, *later = await depths(connection.wait_ended)
        assert later == [later[0]] * 3
