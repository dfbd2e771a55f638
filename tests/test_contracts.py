"""Every transport keeps every rule of `aioipc.testing`, and the rules notice who does not."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio
import pytest

import aioipc
from aioipc import ByteStream, Channel, Limits, PeerCrashed
from aioipc.abc import ByteTransport, MessageTransport
from aioipc.address import Address
from aioipc.testing import (
    CHANNEL_RULES,
    MESSAGE_RULES,
    ONE_WAY_MESSAGE_RULES,
    ONE_WAY_RULES,
    STREAM_RULES,
    TRANSPORT_RULES,
    Faults,
    faulty_pair,
    faulty_streams,
    faulty_transports,
)
from aioipc.transports import family_of
from aioipc.transports._framed import FramedTransport
from aioipc.wire.framing import HeadersFramer
from tests.certificates import client_context, server_context
from tests.links import DUPLEX, SMALL_RING, link_over

pytestmark = pytest.mark.asyncio

LIMITS = Limits(ring_bytes=SMALL_RING)
OWN_NAMES: dict[str, Callable[[], str]] = {
    "mq": lambda: f"mq:/aioipc-test-{os.getpid()}",
    "sysv": lambda: f"sysv:{(os.getpid() << 8 | 0x5E):#x}",
}
TORN = Faults(tear_bytes=7, delay_turns=1)

Ends = AbstractAsyncContextManager[tuple[Any, Any]]


def named(rules: tuple[Any, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("rule", rules, ids=lambda rule: rule.__name__)


# Channels


@named(CHANNEL_RULES)
@pytest.mark.parametrize("kind", DUPLEX)
async def test_a_channel(rule: Any, kind: str) -> None:
    await rule(lambda: link_over(kind)(codec="raw"))


@named(CHANNEL_RULES)
async def test_a_channel_over_a_connection_that_tears(rule: Any) -> None:
    @contextlib.asynccontextmanager
    async def ends() -> AsyncIterator[tuple[Channel[Any], Channel[Any]]]:
        pair = faulty_pair(TORN, TORN, codec="raw")
        try:
            yield pair
        finally:
            for end in pair:
                end.abort()

    await rule(ends)


@named(ONE_WAY_RULES)
@pytest.mark.parametrize("scheme", ["fifo", "mq", "sysv", "udp", "unix+dgram"])
async def test_one_way(rule: Any, scheme: str, aioipc_address: Callable[[str], str]) -> None:
    address = OWN_NAMES[scheme]() if scheme in OWN_NAMES else aioipc_address(scheme)

    @contextlib.asynccontextmanager
    async def ends() -> AsyncIterator[tuple[Channel[Any], Channel[Any]]]:
        async with (
            aioipc.listen(address, codec="raw") as listener,
            aioipc.connect(listener.address, codec="raw") as left,
            await listener.accept() as right,
        ):
            yield left, right

    await rule(ends)


# Byte streams


@named(STREAM_RULES)
@pytest.mark.parametrize(
    "address", ["unix:", "tcp://127.0.0.1:0", "tls://127.0.0.1:0", "shm:", "memory:"]
)
async def test_a_byte_stream(rule: Any, address: str) -> None:
    @contextlib.asynccontextmanager
    async def ends() -> AsyncIterator[tuple[ByteStream, ByteStream]]:
        here = Address.parse(address)
        here = here.with_tls(server_context()) if here.scheme == "tls" else here
        async with aioipc.listen_stream(here, limits=LIMITS) as listener:
            there = Address.parse(listener.address)
            there = there.with_tls(client_context()) if there.scheme == "tls" else there
            accepting = asyncio.create_task(listener.accept())
            left = await aioipc.connect_stream(there, limits=LIMITS)
            right = await accepting
        async with left, right:
            yield left, right

    await rule(ends)


@named(STREAM_RULES)
async def test_a_byte_stream_that_is_torn(rule: Any) -> None:
    @contextlib.asynccontextmanager
    async def ends() -> AsyncIterator[tuple[ByteStream, ByteStream]]:
        left, right = faulty_streams(Faults(tear_bytes=5_000), Faults(tear_bytes=5_000))
        async with left, right:
            yield left, right

    await rule(ends)


# Byte transports


@named(TRANSPORT_RULES)
@pytest.mark.parametrize("kind", ["memory", "pipe", "unix", "faulty"])
async def test_a_byte_transport(rule: Any, kind: str) -> None:
    def pair() -> tuple[ByteTransport, ByteTransport]:
        if kind == "faulty":
            return faulty_transports(Faults(tear_bytes=70_000), Faults(tear_bytes=70_000))
        address = Address(kind, "")
        ends: tuple[ByteTransport, ByteTransport] = family_of(address, able_to="pair").pair(
            limits=LIMITS
        )
        return ends

    await rule(pair)


# Message transports


@named(MESSAGE_RULES)
@pytest.mark.parametrize("kind", ["memory", "pipe", "unix"])
async def test_a_message_transport(rule: Any, kind: str) -> None:
    @contextlib.asynccontextmanager
    async def ends() -> AsyncIterator[tuple[MessageTransport, MessageTransport]]:
        streams = family_of(Address(kind, ""), able_to="pair").pair(limits=LIMITS)
        pair = [FramedTransport(stream, HeadersFramer(10_000)) for stream in streams]
        try:
            yield pair[0], pair[1]
        finally:
            for end in pair:
                end.close()

    await rule(ends)


@named(ONE_WAY_MESSAGE_RULES)
@pytest.mark.parametrize("scheme", ["mq", "sysv", "udp", "unix+dgram"])
async def test_a_one_way_message_transport(
    rule: Any, scheme: str, aioipc_address: Callable[[str], str]
) -> None:
    if scheme == "udp" and rule.__name__ == "a_full_one_accepts_nothing":
        pytest.skip("udp: drops what is too much")
    address = OWN_NAMES[scheme]() if scheme in OWN_NAMES else aioipc_address(scheme)
    family = family_of(Address.parse(address), able_to="listen")

    @contextlib.asynccontextmanager
    async def ends() -> AsyncIterator[tuple[MessageTransport, MessageTransport]]:
        acceptor = await family.listen(Address.parse(address), limits=LIMITS, allow=None)
        right = acceptor.try_accept()
        where = Address.parse(acceptor.address)
        left = await family.connect(where, limits=LIMITS, allow=None)
        try:
            yield left, right
        finally:
            left.close()
            right.close()

    await rule(ends)


# Faults


async def send_and_flush(channel: Channel[Any]) -> None:
    await channel.send(b"too late")
    await channel.flush()


async def test_killed_at_every_byte() -> None:
    """What arrived whole is received, and then comes the crash, wherever it was cut (case 5)."""
    messages = [b"first", b"", b"the third"]
    for cut in range(140):
        left, right = faulty_pair(Faults(kill_at_byte=cut), codec="raw")
        try:
            with contextlib.suppress(PeerCrashed):
                for message in messages:
                    await left.send(message)
                await left.flush()
            got: list[bytes] = []
            with contextlib.suppress(PeerCrashed):
                async with asyncio.timeout(5):
                    while len(got) < len(messages):
                        got.append(await right.receive())
            assert got == messages[: len(got)]
            assert len(got) == len(messages) or cut < 110
            if len(got) < len(messages):
                with pytest.raises(PeerCrashed):
                    await right.receive()
                with pytest.raises(anyio.BrokenResourceError):
                    await send_and_flush(left)
        finally:
            left.abort()
            right.abort()


class Forgetful(ByteStream):
    """Loses what a cancelled receive had taken."""

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        data = await super().receive(max_bytes)
        await asyncio.sleep(0)
        return data


async def test_a_rule_notices_who_breaks_it() -> None:
    @contextlib.asynccontextmanager
    async def ends() -> AsyncIterator[tuple[ByteStream, ByteStream]]:
        left, right = (Forgetful(end, LIMITS) for end in faulty_transports())
        async with left, right:
            yield left, right

    (rule,) = (
        rule for rule in STREAM_RULES if rule.__name__ == "a_cancelled_receive_loses_nothing"
    )
    with pytest.raises((AssertionError, TimeoutError)):
        await asyncio.wait_for(rule(ends), 1)


class Mutant:
    """A byte transport with one fault."""

    def __init__(self, end: ByteTransport, far: ByteTransport) -> None:
        self.end = end
        self.far = far

    def __getattr__(self, name: str) -> Any:
        return getattr(self.end, name)


class Swapping(Mutant):
    """Turns the buffers of one write round."""

    def try_write(self, parts: Any) -> int:
        return self.end.try_write(parts[::-1])


class Damaging(Mutant):
    """Has one wrong byte in what is long."""

    def try_write(self, parts: Any) -> int:
        data = bytearray(b"".join(parts))
        if len(data) > 5_000:
            data[4_000] ^= 1
        return self.end.try_write([data])


class Boasting(Mutant):
    """Says that what found no room was written."""

    def try_write(self, parts: Any) -> int:
        return self.end.try_write(parts) or sum(map(len, parts))


class Late(Mutant):
    """Looks at what it was given when the call has returned."""

    def try_write(self, parts: Any) -> int:
        asyncio.get_running_loop().call_soon(self.end.try_write, parts)
        return sum(map(len, parts))


class Hasty(Mutant):
    """Throws away what the peer did not read yet when it closes."""

    def close(self) -> None:
        with contextlib.suppress(aioipc.IPCError):
            while self.far.try_read_into(memoryview(bytearray(65_536))):
                pass
        self.end.close()


class Reopening(Mutant):
    """Works on after its close."""

    closes = 0

    def close(self) -> None:
        self.closes += 1
        if self.closes == 3:
            self.end.close()


class Polite(Mutant):
    """Does not say that nobody reads any more."""

    def try_write(self, parts: Any) -> int:
        try:
            return self.end.try_write(parts)
        except aioipc.PeerCrashed:
            return 0


class Silent(Mutant):
    """Takes the end for silence."""

    def try_read_into(self, buffer: memoryview) -> int | None:
        return self.end.try_read_into(buffer) or None


class Ending(Mutant):
    """Takes silence for the end."""

    def try_read_into(self, buffer: memoryview) -> int | None:
        return self.end.try_read_into(buffer) or 0


class Prompt(Mutant):
    """Calls back inside of the call that asks for it."""

    def on_readable(self, callback: Callable[[], object] | None) -> None:
        if callback is not None:
            callback()


class Nagging(Mutant):
    """Calls back again and again."""

    def on_readable(self, callback: Callable[[], object] | None) -> None:
        def again() -> None:
            if callback is not None:
                callback()
                asyncio.get_running_loop().call_soon(callback)

        self.end.on_readable(callback and again)


class Nameless(Mutant):
    """Does not say where it is."""

    address = ""


@pytest.mark.parametrize(
    ("kind", "broken"),
    [
        (Swapping, "what_is_written_is_read"),
        (Late, "what_was_written_may_change"),
        (Ending, "nothing_there_is_none"),
        (Damaging, "a_full_one_writes_nothing"),
        (Boasting, "a_full_one_writes_nothing"),
        (Silent, "the_end_is_zero_and_stays"),
        (Hasty, "a_close_comes_after_what_was_written"),
        (Prompt, "a_callback_runs_once_and_from_the_loop"),
        (Nagging, "a_callback_runs_once_and_from_the_loop"),
        (Reopening, "a_closed_one_says_so"),
        (Polite, "a_peer_that_closed_reads_no_more"),
        (Nameless, "the_facts_are_there"),
    ],
)
async def test_a_transport_rule_notices_who_breaks_it(kind: type[Mutant], broken: str) -> None:
    def pair() -> tuple[Any, Any]:
        left, right = faulty_transports()
        return kind(left, right), kind(right, left)

    rule = next(rule for rule in TRANSPORT_RULES if rule.__name__ == broken)
    with pytest.raises((AssertionError, TimeoutError)):
        await asyncio.wait_for(rule(pair), 1)


class Impatient(FramedTransport):
    """Calls back inside of the call that asks for it."""

    def on_readable(self, callback: Callable[[], object] | None, /) -> None:
        if callback is not None:
            callback()
        super().on_readable(callback)


class Aliasing(FramedTransport):
    """Holds on to the buffers that it was given."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._parts: Any = ()

    def try_send(self, parts: Any, /, fds: Any = ()) -> bool:
        self._parts = parts
        return True

    def try_flush(self) -> bool:
        parts, self._parts = self._parts, ()
        return super().try_send(parts) if parts else super().try_flush()


class Endless(FramedTransport):
    """Takes the end of the stream for silence."""

    def try_receive(self) -> bytes | None:
        try:
            return super().try_receive()
        except aioipc.EndOfStream:
            return None


@pytest.mark.parametrize(
    ("kind", "broken"),
    [
        (Impatient, "a_message_calls_back_once_and_from_the_loop"),
        (Aliasing, "a_full_one_accepts_nothing"),
        (Endless, "the_end_comes_last_and_stays"),
    ],
)
async def test_a_message_rule_notices_who_breaks_it(
    kind: type[FramedTransport], broken: str
) -> None:
    @contextlib.asynccontextmanager
    async def ends() -> AsyncIterator[tuple[MessageTransport, MessageTransport]]:
        left, right = (kind(end, HeadersFramer(10_000)) for end in faulty_transports())
        yield left, right
        left.close()
        right.close()

    rule = next(rule for rule in MESSAGE_RULES if rule.__name__ == broken)
    with pytest.raises((AssertionError, TimeoutError)):
        await asyncio.wait_for(rule(ends), 1)


# The plugin

PLUGGED = """
import os, pytest, aioipc
pytest_plugins = ["aioipc.testing.plugin"]

@pytest.mark.parametrize("scheme", ["unix", "tcp", "udp", "fifo", "memory"])
async def test_addresses(aioipc_no_residue, aioipc_address, scheme):
    async with aioipc.listen(aioipc_address(scheme)) as listener:
        async with aioipc.connect(listener.address) as near, await listener.accept():
            await near.send(1)

def test_leaves_a_name(aioipc_no_residue, aioipc_runtime_dir):
    (aioipc_runtime_dir / "left").touch()

def test_leaves_a_descriptor(aioipc_no_residue):
    os.pipe()

def test_that_does_not_ask():
    os.pipe()
"""


@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_the_plugin(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(PLUGGED)
    options = ("-q", "-o", "asyncio_mode=auto", "-p", "no:cacheprovider")
    result = await asyncio.to_thread(pytester.runpytest_subprocess, *options)
    result.assert_outcomes(passed=8, errors=2)
    result.stdout.fnmatch_lines(["*name in the runtime directory: left", "*fd * -> pipe:*"])
