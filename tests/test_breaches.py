"""What a listener says of peers that break the protocol: one line each, and the others go on."""

from __future__ import annotations

import asyncio
import logging
import socket

import pytest

import aioipc
from aioipc.wire.framing import Kind, pack_header
from aioipc.wire.hello import Hello
from tests.children import PATIENCE_S

pytestmark = pytest.mark.asyncio

HELLO = Hello("raw", 1000).pack()
GREETING = pack_header(len(HELLO), Kind.HELLO) + HELLO
BREACHES = {
    "no hello": pack_header(1, Kind.DATA) + b"x",
    "another program": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "unknown kind": GREETING + pack_header(0, 99),
    "second hello": GREETING + GREETING,
    "too large": GREETING + pack_header(2**31, Kind.DATA),
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
