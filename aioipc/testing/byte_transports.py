"""The contract of `aioipc.abc.ByteTransport`, for who writes one.

A rule takes ``pair()``, which returns two connected transports; the rule closes them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator

import anyio

from aioipc.abc import ByteTransport, Capability
from aioipc.errors import PeerCrashed
from aioipc.loop.waiting import wait_readable, wait_writable
from aioipc.testing._expect import PATIENCE_S, raises, steps, until

__all__ = ["TRANSPORT_RULES", "Pair", "TransportRule"]

_MOST_BYTES = 64 * 1024 * 1024
"""What no transport keeps for a peer that does not read."""

Pair = Callable[[], tuple[ByteTransport, ByteTransport]]
TransportRule = Callable[[Pair], Awaitable[None]]


async def what_is_written_is_read(pair: Pair) -> None:
    """Several buffers are written as one."""
    with _open(pair) as (left, right):
        assert left.try_write([b"one ", bytearray(b"and "), memoryview(b"two")]) == 11
        assert await _read(right, 11) == b"one and two"


async def what_was_written_may_change(pair: Pair) -> None:
    """The buffers are the caller's again when the call returns."""
    with _open(pair) as (left, right):
        ours = bytearray(b"before")
        assert left.try_write([ours]) == 6
        ours[:] = b"after!"
        assert await _read(right, 6) == b"before"


async def nothing_there_is_none(pair: Pair) -> None:
    """And not an end."""
    with _open(pair) as (left, _):
        assert left.try_read_into(memoryview(bytearray(10))) is None


async def a_full_one_writes_nothing(pair: Pair) -> None:
    """It says 0, calls back when there is room, and has lost nothing."""
    with _open(pair) as (left, right):
        written = _fill(left)
        assert left.try_write([b"x"]) == 0
        room = asyncio.ensure_future(wait_writable(left))
        try:
            await steps(3)
            assert not room.done()
            assert await _read(right, len(written)) == written
            await asyncio.wait_for(room, PATIENCE_S)
        finally:
            room.cancel()
        assert left.try_write([b"again"]) == 5
        assert await _read(right, 5) == b"again"


async def the_end_is_zero_and_stays(pair: Pair) -> None:
    """`close_write` ends one direction after what was written."""
    with _open(pair) as (left, right):
        left.try_write([b"last"])
        left.close_write()
        assert await _read(right, 4) == b"last"
        await asyncio.wait_for(_until_end(right), PATIENCE_S)
        assert right.try_read_into(memoryview(bytearray(1))) == 0
        assert right.try_write([b"still"]) == 5
        assert await _read(left, 5) == b"still"


async def a_close_comes_after_what_was_written(pair: Pair) -> None:
    """Who closes takes nothing back."""
    with _open(pair) as (left, right):
        written = _fill(left)
        left.close()
        assert await _read(right, len(written)) == written


async def a_callback_runs_once_and_from_the_loop(pair: Pair) -> None:
    """Never inside of the call that caused it, and not after it was taken back."""
    with _open(pair) as (left, right):
        calls: list[str] = []
        right.on_readable(lambda: calls.append("read"))
        left.try_write([b"x"])
        assert calls == []
        await until(lambda: calls)
        await steps(5)
        assert calls == ["read"]
        assert await _read(right, 1) == b"x"
        right.on_readable(lambda: calls.append("taken back"))
        right.on_readable(None)
        left.try_write([b"y"])
        assert await _read(right, 1) == b"y"
        assert calls == ["read"]


async def a_closed_one_says_so(pair: Pair) -> None:
    """`close` may be repeated, and nothing works afterwards."""
    with _open(pair) as (left, _):
        left.close()
        left.close()
        with raises(anyio.ClosedResourceError):
            left.try_read_into(memoryview(bytearray(1)))
        with raises(anyio.ClosedResourceError):
            left.try_write([b"x"])


async def a_peer_that_closed_reads_no_more(pair: Pair) -> None:
    """Writing to it raises PeerCrashed at last."""
    with _open(pair) as (left, right):
        right.close()
        with raises(PeerCrashed):
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    left.try_write([b"x"])
                    await asyncio.sleep(0)


async def the_facts_are_there(pair: Pair) -> None:
    """An address with a scheme, and what it can do."""
    with _open(pair) as ends:
        for end in ends:
            assert ":" in end.address
            assert Capability.STREAM in end.capabilities
            assert end.take_fds() == []


TRANSPORT_RULES: tuple[TransportRule, ...] = (
    what_is_written_is_read,
    what_was_written_may_change,
    nothing_there_is_none,
    a_full_one_writes_nothing,
    the_end_is_zero_and_stays,
    a_close_comes_after_what_was_written,
    a_callback_runs_once_and_from_the_loop,
    a_closed_one_says_so,
    a_peer_that_closed_reads_no_more,
    the_facts_are_there,
)
"""What every duplex byte transport keeps to."""


@contextlib.contextmanager
def _open(pair: Pair) -> Iterator[tuple[ByteTransport, ByteTransport]]:
    ends = pair()
    try:
        yield ends
    finally:
        for end in ends:
            end.close()


def _fill(transport: ByteTransport) -> bytes:
    """Write until there is no room for one byte more: what was written."""
    pattern = bytes(range(251)) * 261
    written = bytearray()
    for size in (len(pattern), 1):
        while count := transport.try_write([pattern[:size]]):
            written += pattern[:count]
            assert len(written) < _MOST_BYTES, "it is never full"
    return bytes(written)


async def _read(transport: ByteTransport, size: int) -> bytes:
    buffer = memoryview(bytearray(65_536))
    got = bytearray()
    async with asyncio.timeout(PATIENCE_S):
        while len(got) < size:
            count = transport.try_read_into(buffer[: size - len(got)])
            if count is None:
                await wait_readable(transport)
                continue
            assert count, f"the end after {len(got)} of {size} bytes"
            got += buffer[:count]
    return bytes(got)


async def _until_end(transport: ByteTransport) -> None:
    while (count := transport.try_read_into(memoryview(bytearray(1)))) is None:
        await wait_readable(transport)
    assert count == 0
