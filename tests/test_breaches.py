"""What a listener says of peers that break the protocol: one line each, and the others go on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import tracemalloc
from collections.abc import AsyncIterator

import pytest

import aioipc
from aioipc.wire.framing import Flag, Kind, pack_header
from aioipc.wire.hello import Hello
from tests.children import PATIENCE_S

pytestmark = pytest.mark.asyncio

HELLO = Hello("raw", 2**26).pack()
GREETING = pack_header(len(HELLO), Kind.HELLO) + HELLO
PART = pack_header(2, Kind.DATA, Flag.MORE) + b"ab"
PING = pack_header(4, Kind.PING) + b"ping"
BREACHES = {
    "no hello": pack_header(1, Kind.DATA) + b"x",
    "another program": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "unknown kind": GREETING + pack_header(0, 99),
    "second hello": GREETING + GREETING,
    "too large": GREETING + pack_header(2**31, Kind.DATA),
    "goodbye between parts": GREETING + PART + pack_header(0, Kind.GOODBYE),
    "descriptors": GREETING + pack_header(0, Kind.DATA, fds=1),
}


async def answer_to(address: str, data: bytes) -> bytes:
    """What a peer is told that sends this and nothing else."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, (host, int(port)))
        await loop.sock_sendall(sock, data)
        answer = b""
        while more := await loop.sock_recv(sock, 1000):
            answer += more
    return answer


async def echo(channel: aioipc.Channel[bytes]) -> None:
    async for message in channel:
        await channel.send(message)


async def echo_in_a_group(channel: aioipc.Channel[bytes]) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(echo(channel))


@pytest.mark.parametrize("handler", [echo, echo_in_a_group])
@pytest.mark.parametrize("breach", BREACHES)
async def test_a_breach_is_one_line_of_the_log(
    breach: str,
    handler: object,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with asyncio.timeout(PATIENCE_S):
        async with aioipc.listen("tcp://127.0.0.1:0", codec="raw") as listener:
            serving = asyncio.create_task(listener.serve(handler))  # type: ignore[arg-type]
            async with aioipc.connect(listener.address, codec="raw") as good:
                answer = await answer_to(listener.address, BREACHES[breach])
                await good.send(b"still served")
                assert await good.receive() == b"still served"
            serving.cancel()
    assert answer.startswith(pack_header(len(HELLO), Kind.HELLO)), "HELLO comes first"
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.exc_info is None
    assert "\n" not in record.getMessage()
    assert record.getMessage().startswith(listener.address)


async def test_the_failure_of_a_handler_has_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(channel: aioipc.Channel[bytes]) -> None:
        await channel.receive()
        raise RuntimeError("a bug of ours")

    async with asyncio.timeout(PATIENCE_S):
        async with aioipc.listen("unix:", codec="raw") as listener:
            serving = asyncio.create_task(listener.serve(fail))
            async with aioipc.connect(listener.address, codec="raw") as channel:
                await channel.send(b"x")
                with pytest.raises(aioipc.PeerCrashed, match="the peer's handler failed"):
                    await channel.receive()
            serving.cancel()
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.levelno == logging.ERROR


async def test_a_handler_that_runs_out_of_time_is_no_late_hello() -> None:
    async def hurry(channel: aioipc.Channel[bytes]) -> None:
        async with asyncio.timeout(0.01):
            await channel.receive()

    async with asyncio.timeout(PATIENCE_S):
        async with aioipc.listen("unix:") as listener:
            serving = asyncio.create_task(listener.serve(hurry))
            async with aioipc.connect(listener.address) as channel:
                with pytest.raises(aioipc.PeerCrashed, match="the peer's handler failed"):
                    await channel.receive()
            serving.cancel()


@contextlib.asynccontextmanager
async def raw_peer() -> AsyncIterator[tuple[aioipc.Channel[bytes], socket.socket]]:
    """A channel, and the bare socket at its other end, which has said HELLO."""
    ours, theirs = socket.socketpair()
    with ours:
        ours.setblocking(False)
        async with aioipc.connect(f"fd:{theirs.detach()}", codec="raw") as channel:
            await asyncio.get_running_loop().sock_sendall(ours, GREETING)
            yield channel, ours


async def test_a_message_in_many_small_parts_costs_its_length() -> None:
    parts = 100_000
    last = pack_header(0, Kind.DATA)
    async with asyncio.timeout(PATIENCE_S), raw_peer() as (channel, peer):
        sending = asyncio.create_task(
            asyncio.get_running_loop().sock_sendall(peer, PART * parts + last)
        )
        tracemalloc.start()
        try:
            message = await channel.receive()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        await sending
        assert message == b"ab" * parts
        assert peak < 8 * len(message) + 500_000, "a list of the parts would take 50 times as much"
        peer.close()


async def test_pings_of_a_peer_that_does_not_read_are_not_kept() -> None:
    async with asyncio.timeout(PATIENCE_S), raw_peer() as (channel, peer):
        sending = asyncio.create_task(channel.send(bytes(10_000_000)))
        await asyncio.sleep(0)  # now it is on its way, and there is no room
        await asyncio.get_running_loop().sock_sendall(peer, PING * 1000)
        with pytest.raises(aioipc.ProtocolError, match="the peer does not read"):
            await channel.receive()
        with pytest.raises(aioipc.ProtocolError, match="the peer does not read"):
            await sending


async def test_a_breach_ends_the_sends_that_wait_for_room() -> None:
    async with asyncio.timeout(PATIENCE_S), raw_peer() as (channel, peer):
        sending = [asyncio.create_task(channel.send(bytes(10_000_000))) for _ in range(3)]
        receiving = asyncio.create_task(channel.receive())
        await asyncio.get_running_loop().sock_sendall(peer, pack_header(0, 99))
        for task in (receiving, *sending, asyncio.ensure_future(channel.send(b"later"))):
            with pytest.raises(aioipc.ProtocolError, match="unknown kind 99"):
                await task
