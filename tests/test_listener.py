"""Listeners: who gets in and who does not, what serve promises, and how they end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import aioipc
from aioipc import (
    AccessDenied,
    BusyError,
    Channel,
    ClosedError,
    CodecMismatch,
    EndOfStream,
    IPCAttribute,
    Limits,
    Listener,
    PeerCrashed,
    PeerCredentials,
    ProtocolError,
    QuotaExceeded,
    ResourceExhausted,
)
from aioipc.wire.framing import HEADER, Kind
from aioipc.wire.hello import Hello
from tests.children import Peers
from tests.echoes import echo, serving
from tests.kernel.strangers import as_root, public
from tests.programs import AS_NOBODY, ends, program

__all__ = ["public"]

pytestmark = pytest.mark.asyncio


@pytest.fixture(params=["unix:", "tcp://127.0.0.1:0", "memory:"])
def address(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def silent() -> Iterator[list[socket.socket]]:
    """Connections that nothing is said over: see `connect_silently`."""
    sockets: list[socket.socket] = []
    yield sockets
    for sock in sockets:
        sock.close()


def connect_silently(sockets: list[socket.socket], listener: Listener[Any]) -> socket.socket:
    """Connect as a program does that knows nothing of aioipc, and say nothing."""
    directory = os.environ["AIOIPC_RUNTIME_DIR"]
    sock = socket.socket(socket.AF_UNIX)
    sockets.append(sock)
    sock.connect(f"{directory}/socket/{listener.address.removeprefix('unix:')}")
    sock.setblocking(False)
    return sock


async def read_all(sock: socket.socket) -> bytes:
    """Read until the end of the stream."""
    loop = asyncio.get_running_loop()
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while more := await loop.sock_recv(sock, 65536):
            data += more
    return data


class TestTaking:
    async def test_channels_come_in_the_order_of_their_hellos(self, address: str) -> None:
        async with aioipc.listen(address) as listener, contextlib.AsyncExitStack() as stack:
            for number in range(10):
                channel = await stack.enter_async_context(aioipc.connect(listener.address))
                await channel.send(number)
            for number in range(10):
                channel = await stack.enter_async_context(await listener.accept())
                assert await channel.receive() == number

    async def test_iterating(self, address: str) -> None:
        async with aioipc.listen(address) as listener:
            async with aioipc.connect(listener.address) as near:
                await near.flush()
                async for far in listener:
                    async with far:
                        await near.send("hello")
                        assert await far.receive() == "hello"
                    break
            await listener.aclose()
            assert [channel async for channel in listener] == []
            with pytest.raises(ClosedError, match=f"closed the listener on {listener.address}"):
                await listener.accept()

    async def test_one_task_waits_at_a_time(self, address: str) -> None:
        async with aioipc.listen(address) as listener:
            first = asyncio.create_task(listener.accept())
            await asyncio.sleep(0)
            with pytest.raises(BusyError, match="another task is waiting"):
                await listener.accept()
            async with aioipc.connect(listener.address):
                await (await first).aclose()

    async def test_a_cancelled_accept_loses_nobody(self, address: str) -> None:
        async with aioipc.listen(address) as listener:
            for steps in range(12):
                async with aioipc.connect(listener.address) as near:
                    waiting = asyncio.create_task(listener.accept())
                    for _ in range(steps):
                        await asyncio.sleep(0)
                    waiting.cancel()
                    try:
                        far = await waiting
                    except asyncio.CancelledError:
                        far = await listener.accept()
                    async with far:
                        await near.send(steps)
                        assert await far.receive() == steps

    async def test_closing_wakes_who_waits(self, address: str) -> None:
        async with aioipc.listen(address) as listener:
            waiting = asyncio.create_task(listener.accept())
            await asyncio.sleep(0)
            await listener.aclose()
            with pytest.raises(ClosedError):
                await waiting
            await listener.aclose()

    async def test_channels_outlive_it(self, address: str) -> None:
        async with aioipc.listen(address) as listener:
            near = await aioipc.connect(listener.address)
            far = await listener.accept()
        async with near, far:
            await near.send("goes on")
            assert await far.receive() == "goes on"

    async def test_who_was_not_taken_is_dropped(self, address: str) -> None:
        async with aioipc.listen(address) as listener:
            waiting = asyncio.create_task(listener.accept())
            async with (
                aioipc.connect(listener.address) as taken,
                aioipc.connect(listener.address) as left,
            ):
                far = await waiting
                await listener.aclose()
                async with far:
                    with pytest.raises(PeerCrashed):
                        await left.receive()
                    await taken.send("unharmed")
                    assert await far.receive() == "unharmed"

    async def test_its_facts(self, address: str) -> None:
        limits = Limits(max_depth=3)
        async with aioipc.listen(address, codec="json", limits=limits) as listener:
            assert listener.extra(IPCAttribute.address) == listener.address
            assert listener.extra(IPCAttribute.codec) == "json"
            assert listener.extra(IPCAttribute.limits) is limits
            assert repr(listener) == f"<Listener {listener.address} json open>"
        assert repr(listener) == f"<Listener {listener.address} json closed>"


class TestAllow:
    async def test_it_is_asked_for_each_peer(self, tmp_path: Path) -> None:
        asked: list[PeerCredentials] = []

        def allow(peer: PeerCredentials) -> bool:
            asked.append(peer)
            return len(asked) != 2

        address = f"unix:{tmp_path}/socket"
        async with aioipc.listen(address, allow=allow) as listener, serving(listener):
            for number in range(3):
                async with aioipc.connect(address) as channel:
                    await channel.send(number)
                    if number == 1:
                        with pytest.raises(AccessDenied, match="the peer denied access"):
                            await channel.receive()
                    else:
                        assert await channel.receive() == number
        assert asked == [PeerCredentials(os.getpid(), os.geteuid(), os.getegid())] * 3

    async def test_it_decides_before_the_first_byte(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with aioipc.listen(f"unix:{tmp_path}/socket", allow=lambda peer: False) as listener:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(f"{tmp_path}/socket")
                sock.send(b"this is no HELLO")
                sock.setblocking(False)
                async with serving(listener):
                    await read_all(sock)
        (line,) = caplog.messages
        assert line.endswith(f"{listener.address}: uid {os.geteuid()} may not connect")

    async def test_one_that_fails_lets_nobody_in(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        calls = 0

        def allow(peer: PeerCredentials) -> bool:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise ZeroDivisionError
            return True

        address = f"unix:{tmp_path}/socket"
        async with aioipc.listen(address, allow=allow) as listener, serving(listener):
            async with aioipc.connect(address) as channel:
                with pytest.raises(AccessDenied):
                    await channel.receive()
            async with aioipc.connect(address) as channel:
                await channel.send("the next one")
                assert await channel.receive() == "the next one"
        assert "ZeroDivisionError" in caplog.text


class TestHandshake:
    async def test_a_late_hello(
        self, silent: list[socket.socket], caplog: pytest.LogCaptureFixture
    ) -> None:
        limits = Limits(handshake_s=0.3)
        async with aioipc.listen("unix:", limits=limits) as listener, serving(listener):
            started = time.monotonic()
            sock = connect_silently(silent, listener)
            answer = await read_all(sock)
            assert 0.25 < time.monotonic() - started < 2
        assert b"no HELLO within 0.3 s" in answer
        assert caplog.messages == [f"{listener.address}: a peer sent no HELLO within 0.3 s"]

    async def test_one_byte_after_the_other(self, silent: list[socket.socket]) -> None:
        """Bytes that come do not move the deadline, and others are served meanwhile."""
        hello = _frame(Kind.HELLO, Hello("msgpack", 1000).pack())
        limits = Limits(handshake_s=0.4)
        loop = asyncio.get_running_loop()
        async with aioipc.listen("unix:", limits=limits) as listener, serving(listener):
            started = time.monotonic()
            socks = [connect_silently(silent, listener) for _ in range(30)]
            reading = [asyncio.create_task(read_all(sock)) for sock in socks]
            async with aioipc.connect(listener.address) as good:
                for byte in hello[:20]:
                    for sock in socks:
                        with contextlib.suppress(BrokenPipeError):
                            sock.send(bytes([byte]))
                    await good.send(byte)
                    assert await good.receive() == byte
                for answer in await asyncio.gather(*reading):
                    assert b"no HELLO within" in answer
                assert 0.3 < time.monotonic() - started < 3
                await good.send("still served")
                assert await good.receive() == "still served"
        del loop

    async def test_one_byte_after_the_other_in_time(self, silent: list[socket.socket]) -> None:
        hello = _frame(Kind.HELLO, Hello("msgpack", 1000).pack())
        loop = asyncio.get_running_loop()
        async with aioipc.listen("unix:") as listener:
            sock = connect_silently(silent, listener)
            waiting = asyncio.create_task(listener.accept())
            for byte in hello:
                assert not waiting.done()
                await loop.sock_sendall(sock, bytes([byte]))
                await asyncio.sleep(0)
            await (await waiting).aclose()

    async def test_garbage(
        self, silent: list[socket.socket], caplog: pytest.LogCaptureFixture
    ) -> None:
        async with aioipc.listen("unix:") as listener, serving(listener):
            for garbage in (b"GET / HTTP/1.1\r\n\r\n", bytes(8), b"\xff" * 100):
                sock = connect_silently(silent, listener)
                sock.send(garbage)
                await read_all(sock)
            async with aioipc.connect(listener.address) as channel:
                await channel.send("the next one")
                assert await channel.receive() == "the next one"
        assert len(caplog.messages) == 3, "one line each"
        assert all("a handshake failed" in line for line in caplog.messages)

    async def test_a_peer_that_leaves_at_once(
        self, silent: list[socket.socket], caplog: pytest.LogCaptureFixture
    ) -> None:
        async with aioipc.listen("unix:") as listener, serving(listener):
            for _ in range(3):
                connect_silently(silent, listener).close()
            async with aioipc.connect(listener.address) as channel:
                await channel.send("the next one")
                assert await channel.receive() == "the next one"

    async def test_another_codec(self, address: str, caplog: pytest.LogCaptureFixture) -> None:
        async with (
            aioipc.listen(address, codec="json") as listener,
            serving(listener),
            aioipc.connect(listener.address, codec="text") as channel,
        ):
            with contextlib.suppress(CodecMismatch):
                for _ in range(200):
                    await channel.send("x" * 1000)
            with pytest.raises(CodecMismatch, match="'json'"):
                await channel.receive()
        assert len(caplog.messages) == 1
        assert "the peer uses codec 'text', this side 'json'" in caplog.text

    async def test_a_newer_version_is_told_why(self, silent: list[socket.socket]) -> None:
        async with aioipc.listen("unix:") as listener, serving(listener):
            sock = connect_silently(silent, listener)
            sock.send(_frame(Kind.HELLO, Hello("msgpack", 1000, version=(2, 5)).pack()))
            answer = await read_all(sock)
        assert b"the peer speaks version 2.5, this side 1.0" in answer

    @pytest.mark.parametrize(("ours", "fits"), [((2, 0), False), ((0, 9), False), ((1, 7), True)])
    async def test_peers_of_two_versions(
        self, ours: tuple[int, int], fits: bool, peers: Peers
    ) -> None:
        """Both sides name both versions; another minor one is understood."""
        code = f"""
        import functools
        from aioipc.transports import _framed
        from aioipc.wire import hello
        hello.VERSION = {ours}
        _framed.Hello = functools.partial(hello.Hello, version={ours})
        async with aioipc.connect(sys.argv[1]) as channel:
            try:
                await channel.send("hello")
                say(await channel.receive())
            except aioipc.VersionMismatch as error:
                say(error)
        """
        theirs = ".".join(map(str, ours))
        async with aioipc.listen("unix:") as listener:
            peer = program(peers, code, listener.address)
            if fits:
                async with await listener.accept() as channel:
                    assert await channel.receive() == "hello"
                    assert channel.port.peer_hello.version == ours
                    await channel.send("understood")
                    assert await peer.next_line() == "understood"
            else:
                async with serving(listener):
                    line = await peer.next_line()
                    assert f"version 1.0, this side {theirs}" in line

    async def test_closing_with_handshakes_pending(self, silent: list[socket.socket]) -> None:
        async with aioipc.listen("unix:") as listener:
            socks = [connect_silently(silent, listener) for _ in range(20)]
            waiting = asyncio.create_task(listener.accept())
            await asyncio.sleep(0)
            await listener.aclose()
            with pytest.raises(ClosedError):
                await waiting
            for sock in socks:
                assert b"HELLO" not in await read_all(sock)


class TestQuota:
    async def test_the_most_connections(self, address: str) -> None:
        limits = Limits(max_connections=3)
        async with aioipc.listen(address, limits=limits) as listener, serving(listener):
            channels = [await aioipc.connect(listener.address) for _ in range(3)]
            for number, channel in enumerate(channels):
                await channel.send(number)
                assert await channel.receive() == number
            async with aioipc.connect(listener.address) as one_more:
                with pytest.raises(QuotaExceeded, match="holds 3 connections, its limit"):
                    await one_more.receive()
            for number, channel in enumerate(channels):
                await channel.send(number)
                assert await channel.receive() == number
            await channels.pop().aclose()
            async with contextlib.AsyncExitStack() as stack:
                for channel in channels:
                    stack.push_async_exit(channel)
                channel = await stack.enter_async_context(await _admitted(listener.address))
                assert await channel.receive() == "admitted"

    async def test_unfinished_handshakes_count(self, silent: list[socket.socket]) -> None:
        limits = Limits(max_connections=2, handshake_s=0.3)
        async with aioipc.listen("unix:", limits=limits) as listener, serving(listener):
            for _ in range(2):
                connect_silently(silent, listener)
            async with aioipc.connect(listener.address) as one_more:
                with pytest.raises(QuotaExceeded):
                    await one_more.receive()
            for sock in silent:
                await read_all(sock)
            async with await _admitted(listener.address) as channel:
                assert await channel.receive() == "admitted"

    async def test_the_count_returns_to_nothing(self, silent: list[socket.socket]) -> None:
        """Whatever becomes of a connection, it is counted in once and out once."""
        limits = Limits(handshake_s=0.1)
        async with aioipc.listen("unix:", limits=limits, codec="json") as listener:
            async with serving(listener):
                await read_all(connect_silently(silent, listener))
                connect_silently(silent, listener).close()
                garbage = connect_silently(silent, listener)
                garbage.send(b"garbage!")
                await read_all(garbage)
                async with aioipc.connect(listener.address, codec="text") as channel:
                    with pytest.raises(CodecMismatch):
                        await channel.receive()
                async with aioipc.connect(listener.address, codec="json") as channel:
                    await channel.send(1)
                    assert await channel.receive() == 1
                    await channel.send_eof()
                    await ends(channel)
                aborted = await aioipc.connect(listener.address, codec="json")
                await aborted.send(1)
                assert await aborted.receive() == 1
                aborted.abort()
                async with aioipc.connect(listener.address, codec="json") as channel:
                    await channel.send(1)
                    assert await channel.receive() == 1
                    assert listener._open.total() == 1
            assert listener._open.total() == 0

    @as_root
    async def test_the_most_connections_of_another_user(self, public: Path, peers: Peers) -> None:
        code = """
        channels = [await aioipc.connect(sys.argv[1]) for _ in range(4)]
        for channel in channels:
            try:
                await channel.send("let me in")
                say(await channel.receive())
            except aioipc.QuotaExceeded as error:
                say(error)
        await hear()
        for channel in channels:
            channel.abort()
        """
        address = f"unix:{public}/socket"
        limits = Limits(max_connections_per_foreign_uid=2)
        async with (
            aioipc.listen(address, limits=limits, allow=lambda peer: True) as listener,
            serving(listener),
        ):
            peer = program(peers, AS_NOBODY + code.replace("\n        ", "\n"), address)
            lines = [await peer.next_line() for _ in range(4)]
            assert lines[:2] == ["let me in"] * 2
            for line in lines[2:]:
                assert "holds 2 connections of uid 65534, its limit" in line
            channels = [await aioipc.connect(address) for _ in range(5)]
            for channel in channels:
                async with channel:
                    await channel.send("our own user is not counted")
                    await channel.receive()
            peer.tell()
            assert await peer.ended() == 0


async def _admitted(address: str) -> Channel[Any]:
    """Connect until there is room: a place is free once the server has seen the end."""
    while True:
        channel = await aioipc.connect(address)
        try:
            await channel.send("admitted")
            await channel.flush()
            obj = await channel.receive()
        except (QuotaExceeded, PeerCrashed):
            await channel.aclose()
            continue
        await channel.send(obj)
        return channel


def _frame(kind: int, payload: bytes) -> bytes:
    return HEADER.pack(len(payload), kind, 0, 0) + payload


class TestServing:
    async def test_a_handler_that_fails_harms_nobody_else(
        self, address: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def handler(channel: Channel[Any]) -> None:
            async for obj in channel:
                if obj == "fail":
                    raise ZeroDivisionError
                await channel.send(obj)

        async with (
            aioipc.listen(address) as listener,
            serving(listener, handler),
            aioipc.connect(listener.address) as good,
            aioipc.connect(listener.address) as bad,
        ):
            await good.send("before")
            assert await good.receive() == "before"
            await bad.send("fail")
            with pytest.raises(PeerCrashed, match="the peer's handler failed"):
                await bad.receive()
            await good.send("after")
            assert await good.receive() == "after"
        (record,) = caplog.records
        assert record.getMessage() == f"{listener.address}: the handler of a channel failed"
        assert record.exc_info is not None
        assert record.exc_info[0] is ZeroDivisionError

    @pytest.mark.parametrize("scheme", ["unix", "shm"])
    @pytest.mark.parametrize(
        "error",
        [
            EndOfStream("secret"),
            AccessDenied("secret"),
            QuotaExceeded("secret"),
            ResourceExhausted("secret"),
            ProtocolError("secret"),
            CodecMismatch("secret"),
            ClosedError("secret"),
        ],
        ids=lambda error: type(error).__name__,
    )
    async def test_what_fails_in_a_handler_is_not_taken_for_the_end_of_its_channel(
        self, scheme: str, error: Exception, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def handler(channel: Channel[Any]) -> None:
            await channel.receive()
            raise error  # which came of another connection

        async with (
            aioipc.listen(f"{scheme}:") as listener,
            serving(listener, handler),
            aioipc.connect(listener.address) as channel,
        ):
            await channel.send("go")
            with pytest.raises(PeerCrashed) as crash:
                await channel.receive()
        assert str(crash.value) == f"{channel.address}: the peer's handler failed"
        assert caplog.messages == [f"{listener.address}: the handler of a channel failed"]

    async def test_a_second_one_is_busy_and_harms_nobody(self, address: str) -> None:
        async with (
            aioipc.listen(address) as listener,
            serving(listener),
            aioipc.connect(listener.address) as channel,
        ):
            await channel.send("once")
            assert await channel.receive() == "once"
            with pytest.raises(BusyError, match="another task is waiting"):
                await listener.serve(echo)
            await channel.send("again")
            assert await channel.receive() == "again"

    async def test_a_closed_listener(self, address: str) -> None:
        async with aioipc.listen(address) as listener:
            late = asyncio.create_task(listener.serve(echo))
        await late
        with pytest.raises(ClosedError, match="this side closed the listener"):
            await listener.serve(echo)

    async def test_what_is_no_handler(self, address: str, caplog: pytest.LogCaptureFixture) -> None:
        async with aioipc.listen(address) as listener:
            with pytest.raises(TypeError, match="a handler is an async function, not 5"):
                await listener.serve(5)  # type: ignore[arg-type]
            async with (
                serving(listener, lambda channel: None),
                aioipc.connect(listener.address) as channel,
            ):
                with pytest.raises(PeerCrashed, match="the peer's handler failed"):
                    await channel.receive()
        (record,) = caplog.records
        assert record.exc_info is not None
        assert re.search("a handler is an async function, and .*lambda", str(record.exc_info[1]))

    async def test_the_end_of_a_peer_is_no_news(
        self, address: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        endings: list[type[BaseException]] = []

        async def handler(channel: Channel[Any]) -> None:
            try:
                while True:
                    await channel.send(await channel.receive())
            except BaseException as error:
                endings.append(type(error))
                raise

        async with aioipc.listen(address) as listener, serving(listener, handler):
            async with aioipc.connect(listener.address) as channel:
                await channel.send("once")
                assert await channel.receive() == "once"
            channel = await aioipc.connect(listener.address)
            await channel.send("once")
            assert await channel.receive() == "once"
            channel.abort()
            async with aioipc.connect(listener.address) as channel:
                await channel.send("once")
                assert await channel.receive() == "once"
                assert endings == [EndOfStream, PeerCrashed]
        assert not caplog.messages

    async def test_a_group_of_endings_is_no_news_either(
        self, address: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def handler(channel: Channel[Any]) -> None:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_receive_for_ever, channel)
                await channel.send("ready")

        async with aioipc.listen(address) as listener, serving(listener, handler):
            async with aioipc.connect(listener.address) as channel:
                assert await channel.receive() == "ready"
            async with aioipc.connect(listener.address) as channel:
                assert await channel.receive() == "ready"
        assert not caplog.messages

    async def test_a_channel_closes_when_its_handler_ends(self, address: str) -> None:
        async def handler(channel: Channel[Any]) -> None:
            await channel.send("once, and that is all")

        async with (
            aioipc.listen(address) as listener,
            serving(listener, handler),
            aioipc.connect(listener.address) as channel,
        ):
            assert await channel.receive() == "once, and that is all"
            await ends(channel)

    async def test_cancelling_it_cancels_the_handlers(self, address: str) -> None:
        cancelled = []

        async def handler(channel: Channel[Any]) -> None:
            try:
                await channel.send("ready")
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(channel)
                raise

        async with aioipc.listen(address) as listener:
            async with serving(listener, handler):
                channels = [await aioipc.connect(listener.address) for _ in range(3)]
                for channel in channels:
                    assert await channel.receive() == "ready"
            assert len(cancelled) == 3
            for channel in channels:
                async with channel:
                    await ends(channel)

    async def test_closing_the_listener_lets_handlers_finish(self, address: str) -> None:
        async with aioipc.listen(address) as listener:
            serve = asyncio.create_task(listener.serve(echo))
            async with aioipc.connect(listener.address) as channel:
                await channel.send("before")
                assert await channel.receive() == "before"
                await listener.aclose()
                await channel.send("after")
                assert await channel.receive() == "after"
                assert not serve.done()
            await serve

    async def test_in_somebody_elses_task_group(self, address: str) -> None:
        async with aioipc.listen(address) as listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, echo, tasks)
            async with aioipc.connect(listener.address) as channel:
                await channel.send("hello")
                assert await channel.receive() == "hello"
            tasks.cancel_scope.cancel()

    async def test_a_handler_that_cancels_itself(self, address: str) -> None:
        async def handler(channel: Channel[Any]) -> None:
            with anyio.move_on_after(0):
                await channel.receive()
            await channel.send("timed out")

        async with (
            aioipc.listen(address) as listener,
            serving(listener, handler),
            aioipc.connect(listener.address) as channel,
        ):
            assert await channel.receive() == "timed out"

    async def test_many_at_once(self, address: str) -> None:
        async def one(number: int) -> None:
            async with aioipc.connect(listener.address) as channel:
                for turn in range(5):
                    await channel.send([number, turn])
                    assert await channel.receive() == [number, turn]

        async with aioipc.listen(address) as listener, serving(listener):
            await asyncio.gather(*(one(number) for number in range(200)))


async def _receive_for_ever(channel: Channel[Any]) -> None:
    while True:
        await channel.receive()


class TestOneLoop:
    async def test_another_loop_gets_nobody(self, address: str) -> None:
        async with (
            aioipc.listen(address) as listener,
            aioipc.connect(listener.address) as near,
        ):
            await near.send("for whom it was meant")
            await near.flush()
            error = await asyncio.to_thread(asyncio.run, _outcome(listener))
            assert isinstance(error, RuntimeError)
            assert "another event loop" in str(error)
            async with await listener.accept() as far:
                assert await far.receive() == "for whom it was meant"


async def _outcome(listener: Listener[Any]) -> object:
    try:
        return await listener.accept()
    except Exception as error:
        return error


class TestDropping:
    async def test_it_warns_once_and_is_closed(self, address: str) -> None:
        listener = await aioipc.listen(address)
        name = listener.address
        with pytest.warns(ResourceWarning, match=f"unclosed <Listener {re.escape(name)}"):
            del listener
        async with aioipc.listen(name):
            pass
