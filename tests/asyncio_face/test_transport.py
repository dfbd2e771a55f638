"""The contract of asyncio.Transport, and what CPython's own tests of it do not notice."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
from pathlib import Path
from typing import Any

import pytest

import aioipc
from aioipc import PeerCredentials
from tests.asyncio_face.ends import KINDS, LIMITS, InPlace, Recorder, fill, joined, until
from tests.children import PATIENCE_S, Peers
from tests.links import steps

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(PATIENCE_S)]

BOTH_KINDS = [Recorder, InPlace]
every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
@pytest.mark.parametrize("protocol", BOTH_KINDS)
async def test_there_and_back(kind: str, protocol: type[Recorder]) -> None:
    async with joined(kind, protocol(), protocol()) as (left, right):
        assert isinstance(left.transport, asyncio.Transport)
        left.transport.write(b"hello")
        assert await right.got(5) == b"hello"
        right.transport.writelines([b"and ", bytearray(b"back"), memoryview(b"!"), b""])
        assert await left.got(9) == b"and back!"
        left.transport.close()
        assert await left.lost() is None
        assert await right.lost() is None
        assert left.events == ["made", "data", "lost"]
        assert right.events == ["made", "data", "eof", "lost"]


@every_kind
async def test_nothing_comes_before_connection_made(kind: str) -> None:
    """Also where bytes wait already when the transport is made."""

    class Greeting(Recorder):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.write(b"from the first moment")

    async with joined(kind, Greeting(), Greeting()) as (left, right):
        await left.got(21)
        await right.got(21)
        assert left.events[0] == right.events[0] == "made"


@every_kind
async def test_write_eof_behind_a_full_buffer(kind: str) -> None:
    async with joined(kind, Recorder(keep_open=True), Recorder(keep_open=True)) as (left, right):
        right.transport.pause_reading()
        written = fill(left)
        left.transport.write_eof()
        left.transport.write_eof()
        with pytest.raises(RuntimeError, match="after write_eof"):
            left.transport.write(b"more")
        with pytest.raises(RuntimeError, match="after write_eof"):
            left.transport.writelines([b"more"])
        assert left.transport.get_write_buffer_size() > 0
        right.transport.resume_reading()
        await right.until(lambda: "eof" in right.events)
        assert bytes(right.data) == written
        right.transport.write(b"the other way is open")
        assert await left.got(21) == b"the other way is open"
        right.transport.close()
        await left.until(lambda: "eof" in left.events)
        left.transport.close()
        assert await left.lost() is None


@every_kind
async def test_close_delivers_what_is_buffered(kind: str) -> None:
    async with joined(kind) as (left, right):
        right.transport.pause_reading()
        written = fill(left)
        left.transport.close()
        left.transport.close()
        assert left.transport.is_closing()
        assert "lost" not in left.events
        right.transport.resume_reading()
        assert await left.lost() is None
        assert await right.lost() is None
        assert bytes(right.data) == written
        assert left.events.count("lost") == right.events.count("lost") == 1


@every_kind
async def test_abort_with_a_full_buffer(kind: str) -> None:
    async with joined(kind) as (left, right):
        right.transport.pause_reading()
        written = fill(left)
        left.transport.abort()
        left.transport.abort()
        left.transport.close()
        assert "lost" not in left.events, "never from inside abort"
        assert left.transport.get_write_buffer_size() == 0
        assert await left.lost() is None
        right.transport.resume_reading()
        await right.lost()
        assert written.startswith(bytes(right.data))
        assert len(right.data) < len(written)


@every_kind
async def test_abort_after_close_with_a_full_buffer(kind: str) -> None:
    async with joined(kind) as (left, right):
        right.transport.pause_reading()
        fill(left)
        left.transport.close()
        left.transport.abort()
        assert await left.lost() is None
        await steps(3)
        assert left.events.count("lost") == 1


@every_kind
@pytest.mark.parametrize("protocol", BOTH_KINDS)
async def test_nothing_is_delivered_while_paused(kind: str, protocol: type[Recorder]) -> None:
    async with joined(kind, right=protocol()) as (left, right):
        right.transport.pause_reading()
        right.transport.pause_reading()
        assert not right.transport.is_reading()
        left.transport.write(b"later")
        left.transport.write_eof()
        await steps(50)
        assert right.events == ["made"]
        right.transport.resume_reading()
        right.transport.resume_reading()
        assert right.transport.is_reading()
        assert await right.lost() is None
        assert right.events == ["made", "data", "eof", "lost"]


@every_kind
async def test_the_end_while_paused(kind: str) -> None:
    async with joined(kind) as (left, right):
        right.transport.pause_reading()
        left.transport.close()
        await left.lost()
        await steps(20)
        assert right.events == ["made"]
        right.transport.close()
        assert await right.lost() is None
        assert right.events == ["made", "lost"]


@every_kind
async def test_pause_from_inside_data_received(kind: str) -> None:
    class OneByOne(InPlace):
        def buffer_updated(self, count: int) -> None:
            super().buffer_updated(count)
            self.transport.pause_reading()

    async with joined(kind, right=OneByOne(size=1)) as (left, right):
        left.transport.write(b"abc")
        for count in (1, 2, 3):
            await right.got(count)
            await steps(5)
            assert len(right.data) == count
            right.transport.resume_reading()


@every_kind
async def test_a_storm_of_pauses(kind: str, chance: random.Random) -> None:
    total = 2_000_000
    data = random.Random(1).randbytes(total)

    async def storm(end: Recorder) -> None:
        while len(end.data) < total:
            for _ in range(chance.randrange(4)):
                end.transport.pause_reading()
                if chance.random() < 0.5:
                    await asyncio.sleep(0)
                end.transport.resume_reading()
            await asyncio.sleep(0)

    async def send(end: Recorder) -> None:
        start = 0
        while start < total:
            size = chance.choice([1, 100, 5_000, 70_000])
            end.transport.write(data[start : start + size])
            start += size
            await end.may_write.wait()

    async with joined(kind, InPlace(size=50_000)) as (left, right):
        await asyncio.gather(storm(left), storm(right), send(left), send(right))
        assert bytes(left.data) == bytes(right.data) == data


@every_kind
async def test_flow_control(kind: str) -> None:
    async with joined(kind) as (left, right):
        assert left.transport.get_write_buffer_limits() == (16384, 65536)
        with pytest.raises(ValueError, match="must be >= low"):
            left.transport.set_write_buffer_limits(high=1, low=2)
        left.transport.set_write_buffer_limits(low=1000)
        assert left.transport.get_write_buffer_limits() == (1000, 4000)
        right.transport.pause_reading()
        written = fill(left)
        written += b"x" * 4000
        left.transport.write(b"x" * 4000)
        left.transport.write(b"y")
        assert left.events == ["made", "pause"]
        right.transport.resume_reading()
        await left.may_write.wait()
        assert left.transport.get_write_buffer_size() <= 1000
        assert await right.got(len(written) + 1) == written + b"y"


@every_kind
async def test_high_water_of_nothing_pauses_at_the_first_byte(kind: str) -> None:
    async with joined(kind) as (left, right):
        left.transport.set_write_buffer_limits(high=0)
        right.transport.pause_reading()
        fill(left)
        assert left.events == ["made", "pause"]
        right.transport.resume_reading()
        await left.may_write.wait()
        assert left.transport.get_write_buffer_size() == 0


@every_kind
async def test_a_protocol_may_be_changed_midway(kind: str) -> None:
    first, second, third = Recorder(), InPlace(), Recorder()
    async with joined(kind, right=first) as (left, _):
        transport = first.transport
        left.transport.write(b"one")
        assert await first.got(3) == b"one"
        for now, before, text in ((second, first, b"two"), (third, second, b"three")):
            now.connection_made(transport)
            transport.set_protocol(now)
            assert transport.get_protocol() is now
            seen = bytes(before.data)
            left.transport.write(text)
            assert await now.got(len(text)) == text
            assert bytes(before.data) == seen
        left.transport.close()
        assert await third.lost() is None
        first.events.append("lost")  # for those who wait for it on leaving
        assert transport.get_protocol() is None


@every_kind
async def test_a_change_of_protocol_inside_a_callback(kind: str) -> None:
    second = InPlace()

    class First(Recorder):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            second.connection_made(self.transport)
            self.transport.set_protocol(second)

    async with joined(kind, right=First()) as (left, first):
        left.transport.write(b"a" * 200_000)
        await second.until(lambda: len(first.data) + len(second.data) == 200_000)
        assert first.events == ["made", "data"]
        first.transport.abort()
        await second.lost()
        first.events.append("lost")


@every_kind
async def test_what_was_given_to_write_may_change(kind: str) -> None:
    async with joined(kind) as (left, right):
        right.transport.pause_reading()
        written = fill(left)
        ours = bytearray(b"as it was")
        left.transport.write(ours)
        left.transport.write(memoryview(ours)[3:])
        left.transport.writelines([ours, memoryview(ours)])
        ours[:] = b"changed, and longer than it was"
        right.transport.resume_reading()
        expected = written + b"as it was" + b"it was" + b"as it was" * 2
        assert await right.got(len(expected)) == expected


@every_kind
@pytest.mark.parametrize("length", [1, 100, 5_000], ids="of {} bytes".format)
async def test_thousands_of_buffers_leave_in_order(kind: str, length: int) -> None:
    parts = [bytes([number % 256]) * length for number in range(3_000)]
    async with joined(kind) as (left, right):
        for _ in range(3):
            left.transport.writelines(iter(parts))
            left.transport.write(b"between")
        expected = (b"".join(parts) + b"between") * 3
        assert await right.got(len(expected)) == expected


@every_kind
async def test_odd_buffers(kind: str) -> None:
    async with joined(kind) as (left, right):
        left.transport.write(memoryview(bytes(range(8))).cast("I"))
        left.transport.write(memoryview(b"abcdef")[::2])
        left.transport.write(b"")
        left.transport.writelines([])
        left.transport.writelines([memoryview(b"abcdef")[::2], b"", memoryview(b"12").cast("H")])
        assert await right.got(16) == bytes(range(8)) + b"aceace12"
        for no_bytes in (5, "text", None):
            with pytest.raises(TypeError):
                left.transport.writelines([b"x", no_bytes])
        for wrong in ("text", None, 3, [b"x"]):
            with pytest.raises(TypeError, match="bytes-like"):
                left.transport.write(wrong)
        assert not left.transport.is_closing()


@every_kind
async def test_a_large_item_lets_the_loop_turn(kind: str) -> None:
    size = 8_000_000
    turns = 0

    async def count() -> None:
        nonlocal turns
        while len(right.data) < size:
            turns += 1
            await asyncio.sleep(0)

    async with joined(kind) as (left, right):
        left.transport.write(bytes(size))
        await count()
        assert turns > 20


@every_kind
async def test_writes_after_the_loss_are_swallowed(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with joined(kind) as (left, right):
        left.transport.close()
        for _ in range(4):
            left.transport.write(b"nobody hears it")
        assert not caplog.records
        await left.lost()
        left.transport.writelines([b"nor this"])
        left.transport.write(b"again")
        assert "after the connection was lost" in caplog.text
        left.transport.pause_reading()
        left.transport.resume_reading()
        left.transport.write_eof()
        assert not left.transport.is_reading()
        await right.lost()
        assert not right.data


@every_kind
async def test_a_write_to_one_who_is_gone(kind: str) -> None:
    async with joined(kind, Recorder(keep_open=True)) as (left, right):
        right.transport.abort()
        await right.lost()
        while not left.transport.is_closing():
            left.transport.write(b"x" * 1000)
            assert "lost" not in left.events, "never from inside write"
            await asyncio.sleep(0)
        error = await left.lost()
        assert isinstance(error, ConnectionResetError)
        assert isinstance(error, aioipc.PeerCrashed)


@every_kind
@pytest.mark.parametrize("callback", ["data_received", "eof_received"])
async def test_a_failing_callback_ends_the_connection(kind: str, callback: str) -> None:
    class Failing(Recorder):
        pass

    def fail(self: Recorder, *arguments: object) -> None:
        raise ZeroDivisionError("on purpose")

    setattr(Failing, callback, fail)
    seen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))
    async with joined(kind, right=Failing()) as (left, right):
        left.transport.write(b"x")
        left.transport.write_eof()
        assert isinstance(await right.lost(), ZeroDivisionError)
        assert right.events.count("lost") == 1
    assert [context["message"] for context in seen] == [
        f"Fatal error: protocol.{callback}() call failed."
    ]


@every_kind
async def test_a_buffered_protocol_without_room(kind: str) -> None:
    seen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))
    async with joined(kind, right=InPlace(size=0)) as (left, right):
        left.transport.write(b"x")
        assert isinstance(await right.lost(), RuntimeError)
    assert len(seen) == 1


@every_kind
async def test_extra_info(kind: str) -> None:
    async with joined(kind) as (left, right):
        told = left.transport.get_extra_info
        assert told("endpoint").partition(":")[0] == ("fd" if kind == "pipe" else kind)
        assert told("sslcontext") is None
        assert told("nothing", 7) == 7
        sock = told("socket")
        if kind in ("unix", "shm"):
            assert isinstance(told("peercred"), PeerCredentials)
        if kind in ("unix", "tcp"):
            assert sock.fileno() == told("fd")
            assert sock.getpeername() == told("peername")
            assert right.transport.get_extra_info("sockname") == told("peername")
            left.transport.close()
            await left.lost()
            assert sock.fileno() == -1
        else:
            assert sock is None


async def test_the_loop_guards_the_descriptor() -> None:
    loop: Any = asyncio.get_running_loop()
    async with joined("unix") as (left, right):
        if hasattr(loop, "_ensure_fd_no_transport"):
            with pytest.raises(RuntimeError, match="is used by transport"):
                loop.add_reader(left.transport.get_extra_info("fd"), print)
        left.transport.write(b"x")
        await right.got(1)


@every_kind
async def test_a_transport_that_is_dropped_warns_once(kind: str) -> None:
    async with joined(kind) as (left, right):
        left.transport.pause_reading()
        await steps(5)
        left.events.append("lost")
        dropped, left.transport = [left.transport], right.transport
        dropped[0].set_protocol(asyncio.Protocol())
        with pytest.warns(ResourceWarning, match="unclosed <aioipc transport") as caught:
            dropped.clear()
        assert len(caught) == 1
        await right.lost()


@pytest.mark.parametrize("kind", ["unix", "shm"])
async def test_a_forked_child(kind: str, peers: Peers) -> None:
    script = """
        import asyncio, os, sys, warnings, aioipc
        warnings.simplefilter("error")
        async def main():
            hears = asyncio.Event()
            class Server(asyncio.Protocol):
                def data_received(self, data): print(data.decode(), flush=True); hears.set()
            async with aioipc.create_server(Server, sys.argv[1]) as server:
                transport, _ = await aioipc.create_connection(asyncio.Protocol, server.address)
                pid = os.fork()
                if pid == 0:
                    try:
                        transport.write(b"from the child")
                    except aioipc.ForkError:
                        print("ForkError", flush=True)
                    transport.close(); transport.abort(); del transport
                    os._exit(0)
                os.waitpid(pid, 0)
                transport.write(b"from the parent")
                await hears.wait()
                transport.close()
        asyncio.run(main())
    """
    peer = peers.script(script, f"{kind}:")
    assert (await peer.next_line(), await peer.next_line()) == ("ForkError", "from the parent")
    assert await peer.ended() == 0


async def test_debug_says_why(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "aioipc")
    async with joined("unix", Recorder(keep_open=True)) as (left, right):
        left.transport.write(b"unread")
        right.transport.abort()
        await left.lost()
        assert isinstance(left.error, aioipc.PeerCrashed)
        assert "Fatal read error" in caplog.text


@pytest.mark.parametrize("chunk", [1, 7, 8, 4095, 4096, 8191])
async def test_a_ring_that_wraps_at_every_offset(chunk: int) -> None:
    assert LIMITS.ring_bytes == 65536
    total = 4 * LIMITS.ring_bytes if chunk > 1 else LIMITS.ring_bytes // 2
    data = random.Random(chunk).randbytes(total)
    async with joined("shm", right=InPlace(size=max(1, chunk - 3))) as (left, right):
        for start in range(0, total, chunk):
            left.transport.write(data[start : start + chunk])
            await left.may_write.wait()
            if start % 5 == 0:
                await asyncio.sleep(0)
        assert await right.got(total) == data


async def test_a_fifo_goes_one_way(runtime_dir: Any) -> None:
    address = f"fifo:{runtime_dir}/way"
    reading = Recorder()
    async with aioipc.create_server(lambda: reading, address):
        async with aioipc.create_connection(Recorder, address) as (transport, writing):
            await reading.until(lambda: reading.transport)
            transport.write(b"down the pipe")
            assert await reading.got(13) == b"down the pipe"
            assert not transport.readable
            assert not reading.transport.can_write_eof()
            with pytest.raises(RuntimeError, match="only read"):
                reading.transport.write(b"back")
        await writing.lost()
        await steps(5)
        assert "lost" not in reading.events, "it outlives its writers"


async def test_a_child_program() -> None:
    mine = Recorder()
    async with aioipc.create_connection(lambda: mine, "exec:cat") as (transport, _):
        transport.write(b"there and back")
        assert await mine.got(14) == b"there and back"
        transport.write_eof()
        assert await mine.lost() is None, "when the program has ended"


async def test_what_write_eof_closed_belongs_to_whoever_has_its_number_next() -> None:
    near, far = aioipc.pair("pipe")
    address, _ = near.detach()
    async with far, aioipc.create_connection(Recorder, address) as (transport, _):
        stream: Any = transport._stream
        before = stream.fds
        transport.write_eof()
        (freed,) = set(before).difference(stream.fds)
        left, right = socket.socketpair()
        with left, right:
            if left.fileno() != freed:
                os.dup2(left.fileno(), freed)
                left.close()
                left = socket.socket(fileno=freed)
            with left:
                left.setblocking(False)
                hearing = asyncio.create_task(asyncio.get_running_loop().sock_recv(left, 100))
                await asyncio.sleep(0)
                right.send(b"for somebody else")
                assert await hearing == b"for somebody else"


async def test_a_child_program_that_fails() -> None:
    mine = Recorder()
    await aioipc.create_connection(lambda: mine, "exec:false")
    error = await mine.lost()
    assert isinstance(error, aioipc.PeerCrashed)
    assert error.status == 1


async def test_a_child_program_is_killed_by_abort() -> None:
    others = children()
    mine = Recorder()
    transport, _ = await aioipc.create_connection(lambda: mine, "exec:sleep 1000")
    assert len(children() - others) == 1
    transport.close()
    transport.abort()
    assert await mine.lost() is None
    await until(lambda: children() <= others)


def children() -> set[str]:
    return set(Path("/proc/thread-self/children").read_text().split())


async def test_all_arrives_of_a_peer_that_reset_the_connection() -> None:
    """It closes with something unread (unix(7)), of which the loop may tell once only."""
    async with joined("unix") as (left, right):
        right.transport.pause_reading()
        left.transport.pause_reading()
        left.transport.write(b"nobody reads this")
        sent = fill(right)
        await steps(3)
        arrived = len(sent) - right.transport.get_write_buffer_size()
        right.transport.abort()
        await right.lost()
        left.transport.resume_reading()
        assert isinstance(await left.lost(), ConnectionError)
        assert bytes(left.data) == sent[:arrived]
