"""Server: what asyncio.Server promises, at any address."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
from itertools import pairwise
from pathlib import Path

import pytest

import aioipc
from aioipc import Limits
from tests.asyncio_face.ends import ADDRESSES, Recorder, until
from tests.children import PATIENCE_S
from tests.links import steps

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(PATIENCE_S)]

every_address = pytest.mark.parametrize("address", ADDRESSES.values())


@every_address
async def test_life(address: str) -> None:
    server = await aioipc.create_server(Recorder, address, start_serving=False)
    assert isinstance(server, asyncio.AbstractServer)
    assert server.get_loop() is asyncio.get_running_loop()
    assert not server.is_serving()
    await server.start_serving()
    await server.start_serving()
    assert server.is_serving()
    assert [sock.fileno() > 2 for sock in server.sockets] == [True]
    server.close()
    server.close()
    assert not server.is_serving()
    assert not server.sockets
    await server.wait_closed()
    with pytest.raises(RuntimeError, match="is closed"):
        await server.serve_forever()


async def test_the_port_is_known_by_its_socket() -> None:
    async with aioipc.create_server(Recorder, "tcp://127.0.0.1:0") as server:
        assert server.address.endswith(f":{server.sockets[0].getsockname()[1]}")


@every_address
async def test_wait_closed_waits_for_connections(address: str) -> None:
    theirs = Recorder()
    server = await aioipc.create_server(lambda: theirs, address)
    transport, mine = await aioipc.create_connection(Recorder, server.address)
    await theirs.until(lambda: theirs.transport)
    server.close()
    waiting = asyncio.create_task(server.wait_closed())
    transport.write(b"still there")
    assert await theirs.got(11) == b"still there"
    assert not waiting.done()
    transport.close()
    await waiting
    assert theirs.events[-1] == "lost"
    await mine.lost()


@every_address
@pytest.mark.parametrize("how", ["close_clients", "abort_clients"])
async def test_clients_are_ended(address: str, how: str) -> None:
    theirs: list[Recorder] = []

    def factory() -> Recorder:
        theirs.append(Recorder())
        return theirs[-1]

    server = await aioipc.create_server(factory, address)
    mine = [(await aioipc.create_connection(Recorder, server.address))[1] for _ in range(5)]
    await until(lambda: sum(1 for end in theirs if end.events) == 5)
    getattr(server, how)()
    server.close()
    await server.wait_closed()
    for end in mine:
        await end.lost()


async def test_serve_forever() -> None:
    server = await aioipc.create_server(Recorder, "unix:", start_serving=False)
    serving = asyncio.create_task(server.serve_forever())
    await steps(2)
    assert server.is_serving()
    with pytest.raises(RuntimeError, match="already being awaited"):
        await server.serve_forever()
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert not server.is_serving()
    await server.wait_closed()


async def test_closing_ends_serve_forever() -> None:
    server = await aioipc.create_server(Recorder, "unix:")
    serving = asyncio.create_task(server.serve_forever())
    await steps(2)
    server.close()
    with pytest.raises(asyncio.CancelledError):
        await serving


async def test_not_more_than_so_many_connections() -> None:
    made: list[Recorder] = []

    def factory() -> Recorder:
        made.append(Recorder())
        return made[-1]

    async with aioipc.create_server(factory, "unix:", limits=Limits(max_connections=2)) as server:
        mine = [await aioipc.create_connection(Recorder, server.address) for _ in range(3)]
        await steps(20)
        assert len(made) == 2
        mine[0][0].close()
        await mine[0][1].lost()
        await until(lambda: len(made) == 3)
        for transport, protocol in mine[1:]:
            transport.close()
            await protocol.lost()


async def test_others_have_a_turn_while_many_come(tmp_path: Path) -> None:
    many = 200
    made: list[Recorder] = []

    def factory() -> Recorder:
        made.append(Recorder())
        return made[-1]

    path = str(tmp_path / "socket")
    async with aioipc.create_server(factory, f"unix:{path}", start_serving=False) as server:
        with contextlib.ExitStack() as stack:
            for _ in range(many):
                stack.enter_context(socket.socket(socket.AF_UNIX)).connect(path)
            server.start()
            counts = [0, len(made)]
            while len(made) < many:
                await asyncio.sleep(0)
                counts.append(len(made))
        assert max(after - before for before, after in pairwise(counts)) <= 64


async def test_a_refused_peer(caplog: pytest.LogCaptureFixture) -> None:
    async with aioipc.create_server(Recorder, "unix:@aioipc-face", allow=lambda _: False) as server:
        _, mine = await aioipc.create_connection(Recorder, server.address, allow=aioipc.same_user)
        await mine.lost()
    assert "may not connect" in caplog.text


async def test_a_server_that_is_dropped_warns() -> None:
    server = await aioipc.create_server(Recorder, "unix:")
    server._acceptor.on_readable(None)  # or the loop would hold it
    del server
    with pytest.warns(ResourceWarning, match="unclosed <aioipc server"):
        gc.collect()


@every_address
async def test_leaving_it_closes_the_connections_too(address: str) -> None:
    mine = Recorder()
    async with aioipc.create_server(Recorder, address) as server:
        await aioipc.create_connection(lambda: mine, server.address)
    assert await mine.lost() is None
