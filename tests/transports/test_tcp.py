"""``tcp:`` over loopback, between processes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest

import aioipc
from aioipc import (
    AccessDenied,
    AddressError,
    Capability,
    ConnectError,
    EndOfStream,
    HandshakeError,
    Limits,
    PeerCrashed,
    ResourceExhausted,
)
from aioipc.address import Address
from tests.certificates import client_context, server_context
from tests.children import Peers
from tests.links import fill, steps
from tests.programs import ECHO, SERVE_ECHO, converse, program

pytestmark = pytest.mark.asyncio

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""For SO_LINGER: close(2) sends a reset and drops what was not sent: socket(7)."""


def _has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as sock:
        sock.bind(("::1", 0))
        return True
    return False


HOSTS = [
    "127.0.0.1",
    "localhost",
    "127.1.2.3",
    pytest.param("[::1]", marks=pytest.mark.skipif(not _has_ipv6(), reason="no IPv6 here")),
]


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


@pytest.mark.parametrize("host", HOSTS)
async def test_a_server_in_another_process(host: str, peers: Peers) -> None:
    server = program(peers, SERVE_ECHO, f"tcp://{host}:0")
    address = await server.next_line()
    assert re.fullmatch(rf"tcp://{re.escape(host)}:[1-9][0-9]*", address)
    async with aioipc.connect(address) as channel:
        assert channel.address == address
        assert channel.peer is None, "TCP does not know the peer's user"
        assert Capability.CREDENTIALS not in channel.capabilities
        assert Capability.REMOTE not in channel.capabilities, "loopback"
        await converse(channel)


async def test_a_client_in_another_process(peers: Peers) -> None:
    async with aioipc.listen("tcp://127.0.0.1:0") as listener:
        client = program(peers, ECHO, listener.address)
        async with await listener.accept() as channel:
            assert channel.address == listener.address
            await converse(channel)
        assert await client.ended() == 0


async def test_small_messages_do_not_wait_for_each_other() -> None:
    """Nagle's algorithm and delayed acknowledgements would cost 40 ms per round."""
    async with (
        aioipc.listen("tcp://127.0.0.1:0") as listener,
        aioipc.connect(listener.address) as near,
        await listener.accept() as far,
    ):
        started = time.monotonic()
        for _ in range(100):
            await near.send("first")
            await asyncio.sleep(0)
            await near.send("second")
            assert await far.receive() == "first"
            assert await far.receive() == "second"
            await far.send("answer")
            assert await near.receive() == "answer"
        assert time.monotonic() - started < 3


async def test_a_process_without_standard_input(peers: Peers) -> None:
    """Its first socket is number 0, until the transport moves it out of the way."""
    server = program(peers, f"os.close(0)\n{SERVE_ECHO.strip()}", "tcp://127.0.0.1:0")
    async with aioipc.connect(await server.next_line()) as channel:
        await converse(channel)
    async with aioipc.connect(channel.address) as channel:
        await converse(channel)


async def test_a_killed_server(peers: Peers) -> None:
    server = program(peers, SERVE_ECHO, "tcp://127.0.0.1:0")
    address = await server.next_line()
    async with aioipc.connect(address) as channel:
        await channel.send("works")
        assert await channel.receive() == "works"
        server.kill()
        with pytest.raises(PeerCrashed):
            await channel.receive()
    with pytest.raises(ConnectError, match=re.escape(f"connect to {address}: Connection refused")):
        await aioipc.connect(address)
    async with aioipc.listen(address) as listener:  # TIME_WAIT does not stand in the way
        assert listener.address == address


async def test_what_arrived_before_a_reset_is_delivered() -> None:
    async with aioipc.listen("tcp://127.0.0.1:0", codec="raw") as listener:
        near = await aioipc.connect(listener.address, codec="raw")
        async with near, await listener.accept() as far:
            messages = [b"%d" % n * 100 for n in range(200)]
            await near.send_many(messages)
            await near.flush()
            assert await far.receive() == messages[0]
            view = socket.socket(fileno=near._transport.fileno())  # type: ignore[union-attr]
            view.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            view.detach()
            near.port.close()
            for message in messages[1:]:
                assert await far.receive() == message
            with pytest.raises(PeerCrashed):
                await far.receive()
            with pytest.raises(PeerCrashed):
                await far.send(b"too late")


async def test_a_reset_inside_a_message() -> None:
    async with aioipc.listen("tcp://127.0.0.1:0", codec="raw") as listener:
        near = await aioipc.connect(listener.address, codec="raw")
        async with near, await listener.accept() as far:
            await near.send(b"whole")
            near.send_nowait(bytes(20_000_000))
            view = socket.socket(fileno=near._transport.fileno())  # type: ignore[union-attr]
            view.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            view.detach()
            near.port.close()
            assert await far.receive() == b"whole"
            with pytest.raises(aioipc.TruncatedFrame):
                await far.receive()


FOR_EVER = Limits(linger_s=3_600)
UNREAD = bytes(500_000)
"""The kernel takes it all, and cannot send all of it while nobody reads."""


def over(scheme: str) -> tuple[Address, Callable[[str], Address]]:
    """Where to listen, and how to connect to what came of it."""
    where = Address.parse(f"{scheme}://127.0.0.1:0")
    if scheme == "tcp":
        return where, Address.parse
    return (
        where.with_tls(server_context()),
        lambda address: Address.parse(address).with_tls(client_context()),
    )


both = pytest.mark.parametrize("scheme", ["tcp", "tls"])


@both
async def test_what_was_accepted_arrives_although_the_peer_goes_on_sending(scheme: str) -> None:
    """Closed too early, the socket would answer with a reset and drop what did not leave yet."""
    where, there = over(scheme)
    async with (
        aioipc.listen(where, codec="raw") as listener,
        aioipc.connect(there(listener.address), codec="raw", limits=FOR_EVER) as near,
    ):
        await near.send(b"hello")
        async with await listener.accept() as far:
            assert await far.receive() == b"hello"
            sent = fill(near)
            closing = asyncio.create_task(near.aclose())
            got = []
            with contextlib.suppress(EndOfStream):
                while True:
                    got.append(await far.receive())
                    with contextlib.suppress(PeerCrashed):  # who closes receives no more
                        await far.send(b"and you?")
            assert got == sent
            await closing


@both
async def test_what_a_byte_stream_accepted_arrives_although_the_peer_sends(scheme: str) -> None:
    where, there = over(scheme)
    async with (
        aioipc.listen_stream(where) as listener,
        aioipc.connect_stream(there(listener.address), limits=FOR_EVER) as near,
        await listener.accept() as far,
    ):
        await far.send(b"hello")
        assert await near.receive() == b"hello"
        await near.send(UNREAD)
        closing = asyncio.create_task(near.aclose())
        await steps(3)
        got = b""
        with contextlib.suppress(EndOfStream):
            while True:
                got += await far.receive()
                with contextlib.suppress(PeerCrashed):  # who closes receives no more
                    await far.send(b"and you?")
        assert got == UNREAD
        await closing


@both
async def test_a_close_that_waits_for_the_peer_is_cut_short(scheme: str) -> None:
    where, there = over(scheme)
    async with (
        aioipc.listen(where, codec="raw") as listener,
        aioipc.connect(there(listener.address), codec="raw", limits=FOR_EVER) as near,
    ):
        await near.send(UNREAD)
        async with await listener.accept():
            closing = asyncio.create_task(near.aclose())
            await steps(20)
            assert not closing.done()
            near.abort()
            await closing


async def test_a_close_does_not_wait_for_acknowledgements_on_one_machine() -> None:
    """They take 40 ms, where the peer has nothing to say."""
    async with (
        aioipc.listen("tcp://127.0.0.1:0") as listener,
        aioipc.connect(listener.address, limits=FOR_EVER) as near,
        await listener.accept() as far,
    ):
        for _ in range(10):
            await near.send("a question")
            await far.receive()
            await far.send("an answer")
            await near.receive()
        closing = asyncio.create_task(near.aclose())
        await steps(3)
        assert closing.done()


async def test_nobody_listens(free_port: int) -> None:
    with pytest.raises(ConnectError, match=f"connect to tcp://127.0.0.1:{free_port}: .*refused"):
        await aioipc.connect(f"tcp://127.0.0.1:{free_port}")


async def test_every_address_of_the_host_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """As localhost often has ::1 first, where nobody listens."""

    async def resolve(address: aioipc.Address) -> list[object]:
        return [(socket.AF_INET, (host, address.port)) for host in ("127.0.0.2", "127.0.0.1")]

    async with aioipc.listen("tcp://127.0.0.1:0") as listener:
        monkeypatch.setattr("aioipc.transports._tcp.resolve", resolve)
        async with aioipc.connect(listener.address) as near, await listener.accept() as far:
            await near.send("reached")
            assert await far.receive() == "reached"


async def test_an_address_in_numbers_needs_no_thread() -> None:
    """As getaddrinfo(3) does, which asyncio then keeps."""
    threads = threading.active_count()
    async with aioipc.listen("tcp://127.0.0.1:0") as listener, aioipc.connect(listener.address):
        pass
    assert threading.active_count() == threads
    async with aioipc.listen("tcp://localhost:0"):
        pass


async def test_a_host_without_address() -> None:
    with pytest.raises(ConnectError, match=r"'no-such-host\.invalid' has no address"):
        await aioipc.connect("tcp://no-such-host.invalid:1")
    with pytest.raises(ConnectError, match=r"'no-such-host\.invalid' has no address"):
        await aioipc.listen("tcp://no-such-host.invalid:1")


@pytest.fixture
def deaf() -> Iterator[int]:
    """The port of a server whose backlog is full: more connects are not answered."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        yield server.getsockname()[1]


async def test_a_server_that_does_not_answer(deaf: int) -> None:
    started = time.monotonic()
    with pytest.raises(ConnectError, match=r"no answer within 0\.2 s"):
        await aioipc.connect(f"tcp://127.0.0.1:{deaf}", limits=Limits(connect_s=0.2))
    assert 0.15 < time.monotonic() - started < 5


async def test_a_connect_is_cancelled(deaf: int) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await aioipc.connect(f"tcp://127.0.0.1:{deaf}")


async def test_the_port_is_taken() -> None:
    async with aioipc.listen("tcp://127.0.0.1:0") as listener:
        with pytest.raises(ResourceExhausted, match="already in use") as caught:
            await aioipc.listen(listener.address)
        assert caught.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "192.0.2.1"])
async def test_only_loopback_is_bound(host: str) -> None:
    with pytest.raises(AccessDenied, match="authenticates nobody"):
        await aioipc.listen(f"tcp://{host}:0")


async def test_it_knows_no_users() -> None:
    for verb in (aioipc.connect, aioipc.listen):
        with pytest.raises(ValueError, match="tcp: does not know the peer's user"):
            await verb("tcp://127.0.0.1:1", allow=aioipc.same_user)


async def test_pickle_is_refused() -> None:
    for verb in (aioipc.connect, aioipc.listen):
        with pytest.raises(ValueError, match="pickle codec runs what a peer sends"):
            await verb("tcp://127.0.0.1:1", codec="pickle")


@pytest.mark.parametrize(
    ("address", "part"),
    [
        ("tcp:127.0.0.1:80", "wrong"),
        ("tcp://127.0.0.1", "port"),
        ("tcp://127.0.0.1:x", "port"),
        ("tcp://127.0.0.1:65536", "port"),
        ("tcp://:80", "host"),
        ("tcp://::1:80", "host"),
        ("tcp://a b:80", "host"),
    ],
)
async def test_a_wrong_address(address: str, part: str) -> None:
    with pytest.raises(AddressError) as caught:
        await aioipc.connect(address)
    assert part in str(caught.value)
    assert address in str(caught.value)


async def test_a_connection_to_itself() -> None:
    """TCP connects a socket to its own port: RFC 793, simultaneous open. The nonce tells."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.connect(sock.getsockname())
    async with aioipc.connect(f"fd:{sock.detach()}") as channel:
        await channel.send("to me")
        with pytest.raises(HandshakeError, match="leads back to this side itself"):
            await channel.receive()
