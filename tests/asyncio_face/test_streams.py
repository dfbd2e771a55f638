"""open_connection and start_server: asyncio's own readers and writers, on our transports."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import aioipc
from aioipc import AddressError, ConnectError, ProtocolError
from aioipc.address import Address
from tests.asyncio_face.ends import ADDRESSES, LIMITS, until
from tests.certificates import client_context, server_context
from tests.children import PATIENCE_S, Peers

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(PATIENCE_S)]

every_address = pytest.mark.parametrize("address", [*ADDRESSES.values(), "memory:"])


async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line.upper())
        await writer.drain()
    writer.close()
    await writer.wait_closed()


@every_address
async def test_lines_there_and_back(address: str) -> None:
    async with (
        aioipc.start_server(shout, address, limits=LIMITS) as server,
        aioipc.open_connection(server.address, limits=LIMITS) as (reader, writer),
    ):
        assert type(reader) is asyncio.StreamReader
        assert type(writer) is asyncio.StreamWriter
        for number in range(100):
            writer.write(b"line %d\n" % number)
            assert await reader.readuntil(b"\n") == b"LINE %d\n" % number
        writer.writelines([b"last\n", b"words"])
        writer.write_eof()
        assert await reader.read() == b"LAST\nWORDS"
        assert reader.at_eof()


@every_address
async def test_drain_waits_for_a_slow_reader(address: str) -> None:
    begin = asyncio.Event()
    total = 5_000_000

    async def sink(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await begin.wait()
        count = 0
        while data := await reader.read(100_000):
            count += len(data)
        writer.write(b"%d" % count)
        writer.close()

    async with (
        aioipc.start_server(sink, address, limits=LIMITS) as server,
        aioipc.open_connection(server.address, limits=LIMITS) as (reader, writer),
    ):

        async def send() -> None:
            for _ in range(total // 10_000):
                writer.write(b"x" * 10_000)
                await writer.drain()
            writer.write_eof()

        sending = asyncio.create_task(send())
        done, _ = await asyncio.wait([sending], timeout=0.1)
        assert not done
        begin.set()
        await sending
        assert await reader.read() == b"%d" % total


async def test_it_can_be_awaited() -> None:
    server = await aioipc.start_server(shout, "unix:")
    reader, writer = await aioipc.open_connection(server.address)
    writer.write(b"x\n")
    assert await reader.readline() == b"X\n"
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("address", ADDRESSES.values())
async def test_leaving_it_cancelled_cuts_off_who_does_not_read(address: str) -> None:
    loop = asyncio.get_running_loop()
    accepted, opened = loop.create_future(), loop.create_future()

    def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        accepted.set_result(writer)

    async with aioipc.start_server(ignore, address, limits=LIMITS) as server:

        async def write() -> None:
            async with aioipc.open_connection(server.address) as (_, writer):
                opened.set_result(writer)
                await asyncio.wait([accepted])
                writer.write(bytes(20_000_000))

        writing = asyncio.create_task(write())
        writer = await opened
        await until(writer.is_closing)
        await asyncio.sleep(0)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        await asyncio.sleep(0)
        assert " closed" in repr(writer.transport)
        accepted.result().close()


async def test_leaving_it_says_nothing_of_a_peer_that_broke_the_rules() -> None:
    """Whoever read was told."""

    async def nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    where = Address.parse("tls://127.0.0.1:0").with_tls(server_context())
    async with aioipc.start_server(nothing, where) as server:
        there = Address.parse(server.address).with_tls(client_context())
        async with aioipc.open_connection(there) as (reader, writer):
            (client,) = server._clients
            assert client._stream is not None
            client._stream._below.try_write((b"no TLS at all",))  # type: ignore[attr-defined]
            with pytest.raises(ProtocolError):
                await reader.read()
            assert writer.is_closing()


async def test_a_reader_of_what_is_only_written(runtime_dir: Path) -> None:
    address = f"fifo:{runtime_dir}/way"
    got = asyncio.get_running_loop().create_future()

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.set_result(await reader.readexactly(5))
        writer.close()

    async with (
        aioipc.start_server(hear, address),
        aioipc.open_connection(address) as (reader, writer),
    ):
        writer.write(b"words")
        assert await got == b"words"
        assert await reader.read() == b"", "nobody waits for what cannot come"


async def test_errors_are_ours() -> None:
    with pytest.raises(ConnectError):
        await aioipc.open_connection("unix:nobody")
    with pytest.raises(AddressError):
        await aioipc.open_connection("nonsense:")
    with pytest.raises(AddressError, match="has no listen"):
        await aioipc.start_server(shout, "exec:true")


async def test_a_protocol_factory_that_fails_leaves_nothing_open() -> None:
    def fail() -> asyncio.Protocol:
        raise ZeroDivisionError

    seen: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))
    async with aioipc.create_server(fail, "unix:") as server:
        with pytest.raises(ZeroDivisionError):
            await aioipc.create_connection(fail, server.address)
        reader, writer = await aioipc.open_connection(server.address)
        assert await reader.read() == b""
        writer.close()
        assert seen


STEPS = {
    "at once": "pass",
    "after a line": "await reader.readline()",
    "with unread data": "await asyncio.sleep(0); transport.pause_reading()",
    "after an answer": "await reader.readline(); writer.write(b'half'); await writer.drain()",
    "after its end": "writer.write_eof()",
    "with a full buffer": "writer.write(b'x' * 10_000_000)",
}
PEER = """
    import asyncio, os, signal, sys, aioipc
    async def main():
        reader, writer = await aioipc.open_connection(sys.argv[1])
        transport = writer.transport
        {step}
        print("now", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    asyncio.run(main())
"""


@pytest.mark.parametrize("address", ADDRESSES.values())
@pytest.mark.parametrize("step", STEPS.values(), ids=list(STEPS))
async def test_a_peer_killed_at_each_step(address: str, step: str, peers: Peers) -> None:
    """Whoever reads or drains is told, and over shared memory told that it was no clean end."""
    ended = asyncio.get_running_loop().create_future()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        read = b""
        try:
            writer.write(b"one\ntwo\n")
            while data := await reader.read(100_000):
                read = data[:10]
            while True:  # it reads no more; who writes is told
                writer.write(b"x" * 10_000)
                await writer.drain()
        except ConnectionResetError as error:
            ended.set_result((read, error))
        finally:
            writer.transport.abort()

    async with aioipc.start_server(talk, address) as server:
        peer = peers.script(PEER.replace("{step}", step), server.address)
        assert await peer.next_line() == "now"
        await peer.ended()
        read, error = await ended
    if "half" in step:
        assert read == b"half"
    assert isinstance(error, aioipc.PeerCrashed) or str(error) == "Connection lost"
