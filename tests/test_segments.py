"""Messages in lent memory: `reserve` of more than what carries the rest, over both transports."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import os
import random
import signal
import socket
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aioipc
from aioipc import Channel, EndOfStream, FrameTooLarge, Limits, PeerCrashed, ProtocolError
from aioipc.abc import PeerCredentials
from aioipc.kernel.lending import MOST_LOANS, Loan
from aioipc.kernel.memory import create_memory
from aioipc.kernel.owned import OwnedFd, owned_pipe
from aioipc.transports._segments import Segments
from aioipc.transports._session import passing
from aioipc.wire.framing import Flag, Kind, pack_header
from aioipc.wire.hello import Hello, WireCapability
from aioipc.wire.shared import Shared, What
from tests.children import PATIENCE_S, Peers
from tests.conftest import LOOPS
from tests.lent import lent_memory
from tests.links import Link, fill, link_over, steps
from tests.programs import program
from tests.scale import scaled
from tests.shm.bare import BareEnd, played_server
from tests.shortage import open_fds

asyncio_only = pytest.mark.asyncio
CARRYING = ("shm", "unix", "packets")
carrying = pytest.mark.parametrize("link", CARRYING, indirect=True)
LARGE = 200_000
"""More than a small ring has for one record, and more than a block of a socket."""


async def put(channel: Channel[Any], message: bytes, reserved: int = LARGE) -> None:
    async with channel.reserve(reserved) as slot:
        slot.view[: len(message)] = message
        slot.commit(len(message))


async def take(channel: Channel[Any]) -> bytes:
    async with channel.borrow() as view:
        return bytes(view)


async def meet(left: Channel[Any], right: Channel[Any]) -> None:
    """Until both have heard what the other one can do."""
    for one, other in ((left, right), (right, left)):
        await one.send(b"hello")
        assert await other.receive() == b"hello"


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.001)


@asyncio_only
@carrying
@pytest.mark.parametrize("size", [65_537, 1_048_576, 1_048_577, 5_000_000])
async def test_a_message_lies_in_memory_of_both(link: Link, size: int) -> None:
    async with link(codec="raw") as (left, right):
        await meet(left, right)
        for number in range(5):
            message = bytes((number,)) * size
            await put(left, message, size)
            async with right.borrow() as view:
                assert view.readonly
                assert type(view.obj).__name__ == "SegmentLease"
                assert view == message
            await put(left, message, size)
            received = await right.receive()
            assert type(received) is bytes
            assert received == message
        assert lent_memory() == 2, "one piece, mapped by both"
    assert lent_memory() == 0


@asyncio_only
@carrying
async def test_what_the_codec_makes_of_it(link: Link) -> None:
    async with link(codec="msgpack") as (left, right):
        await left.send(None)
        await right.send(None)
        assert (await right.receive(), await left.receive()) == (None, None)
        for _ in range(3):
            await put(left, b"\xc6" + LARGE.to_bytes(4, "big") + b"x" * LARGE, LARGE + 5)
            assert await right.receive() == b"x" * LARGE
            await put(left, b"\xc1" * LARGE)
            with pytest.raises(aioipc.DecodeError):
                await right.receive()
        assert lent_memory() == 2, "given back where it did not decode, too"


@asyncio_only
@carrying
async def test_nothing_is_lent_before_the_peer_has_said_that_it_takes_part(link: Link) -> None:
    async with link(codec="raw", limits=Limits(max_fds=0)) as (left, right):
        await meet(left, right)
        putting = asyncio.create_task(put(left, b"copied" * 10))
        assert await take(right) == b"copied" * 10
        await putting
        assert lent_memory() == 0


def test_memory_is_shared_with_the_same_user_only() -> None:
    me = PeerCredentials(os.getpid(), os.geteuid(), os.getegid())
    other = PeerCredentials(os.getpid(), os.geteuid() + 1, os.getegid())
    assert passing(me, 253) == WireCapability.FDS | WireCapability.SHARED_BUFFERS
    assert passing(other, 253) == passing(None, 253) == WireCapability.FDS
    assert passing(me, 0) == WireCapability(0)


@asyncio_only
@carrying
async def test_so_much_is_lent_and_then_the_sender_waits(link: Link, chance: random.Random) -> None:
    """Back-pressure, until what the receiver looks at is given back, in whatever order."""
    async with link(codec="raw") as (left, right):
        await meet(left, right)
        for number in range(MOST_LOANS):
            await put(left, b"%d" % number)
        waiting = asyncio.create_task(put(left, b"at last"))
        later = asyncio.create_task(left.send(b"after it"))
        await steps(5)
        assert not waiting.done()
        borrows = [right.borrow() for _ in range(MOST_LOANS)]
        views = [await borrow.__aenter__() for borrow in borrows]
        await steps(5)
        assert not waiting.done()
        chance.shuffle(borrows)
        for borrow in borrows[:1]:
            await borrow.__aexit__(None, None, None)
        assert await take(right) == b"at last"
        await asyncio.gather(waiting, later)
        assert await right.receive() == b"after it"
        del views
        for borrow in borrows[1:]:
            await borrow.__aexit__(None, None, None)
        assert lent_memory() == 2 * MOST_LOANS


@asyncio_only
@carrying
async def test_of_the_longest_messages_two_are_on_their_way(link: Link) -> None:
    limits = Limits(max_message_bytes=100 * 2**20)
    async with link(codec="raw", limits=limits) as (left, right):
        await meet(left, right)
        for text in (b"one", b"two"):
            await put(left, text, limits.max_message_bytes)
        waiting = asyncio.create_task(put(left, b"three", limits.max_message_bytes))
        await steps(5)
        assert not waiting.done()
        assert [await take(right) for _ in range(3)] == [b"one", b"two", b"three"]
        await waiting


@asyncio_only
@carrying
async def test_who_waits_needs_nobody_who_receives(link: Link) -> None:
    """What comes back does not stand behind messages that this side does not take."""
    async with link(codec="raw") as (left, right):
        await meet(left, right)
        await right.send(b"nobody takes this")
        for number in range(3 * MOST_LOANS):
            putting = asyncio.create_task(put(left, b"%d" % number))
            if number >= MOST_LOANS - 1:
                assert await take(right) == b"%d" % (number - MOST_LOANS + 1)
            await putting
        assert await left.receive() == b"nobody takes this"


@asyncio_only
@carrying
async def test_a_cancelled_wait_is_all_or_nothing(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        await meet(left, right)
        for step in itertools.count():
            for number in range(MOST_LOANS):
                await put(left, b"%d" % number)
            putting = asyncio.create_task(put(left, b"perhaps"))
            taking = asyncio.create_task(take(right))
            await steps(step)
            finished = putting.done()
            putting.cancel()
            await asyncio.wait([putting])
            assert await taking == b"0"
            await left.send(b"marker")
            got = [await take(right) for _ in range(MOST_LOANS - 1)]
            assert [int(message) for message in got] == list(range(1, MOST_LOANS))
            if not putting.cancelled():
                assert await take(right) == b"perhaps"
            assert await right.receive() == b"marker"
            if finished or step > 50:
                break


@asyncio_only
@carrying
async def test_an_exception_takes_it_back(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        await meet(left, right)
        for _ in range(3 * MOST_LOANS):
            with pytest.raises(ZeroDivisionError):
                async with left.reserve(LARGE):
                    raise ZeroDivisionError
        await left.send(b"after")
        assert await right.receive() == b"after"


@asyncio_only
@carrying
async def test_a_cancelled_receive_loses_nothing(link: Link) -> None:
    """Copying a long message takes several turns, and may be left in between."""
    size = 8_000_000
    async with link(codec="raw") as (left, right):
        await meet(left, right)
        for step, again in itertools.product(range(4), (right.receive, lambda: take(right))):
            async with left.reserve(size) as slot:
                slot.view[:] = message = os.urandom(1000) * (size // 1000)
            receiving = asyncio.ensure_future(right.receive())
            await steps(step)
            receiving.cancel()
            await asyncio.wait([receiving])
            if receiving.cancelled():
                assert await again() == message
            else:
                assert await receiving == message


@asyncio_only
@carrying
async def test_a_view_that_outlives_block_and_channel_is_still_memory(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        await meet(left, right)
        await put(left, b"keep me")
        with pytest.warns(ResourceWarning, match="beyond its block"):
            async with right.borrow() as view:
                kept = view[5:]
        for _ in range(2 * MOST_LOANS):
            await put(left, b"z" * 7)
            assert await take(right) == b"z" * 7
        assert bytes(kept) == b"me"
        slot = left.reserve(LARGE)
        written = (await slot.__aenter__()).view[:]
    del view, slot
    gc.collect()
    assert bytes(kept) == b"me"
    written[:] = bytes(LARGE)


@asyncio_only
@carrying
async def test_the_last_view_may_go_in_another_thread(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        await meet(left, right)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            views: list[memoryview] = []
            for _ in range(MOST_LOANS):
                await put(left, b"x")
                borrow = right.borrow()
                views.append((await borrow.__aenter__())[:])
                await borrow.__aexit__(None, None, None)
        waiting = asyncio.create_task(put(left, b"y"))
        await steps(3)
        assert not waiting.done()
        thread = threading.Thread(target=views.clear)
        thread.start()
        await waiting
        thread.join()


@asyncio_only
@carrying
@pytest.mark.parametrize("end", ["aclose", "abort"])
async def test_the_end_of_the_receiver_wakes_who_waits(link: Link, end: str) -> None:
    async with link(codec="raw") as (left, right):
        await meet(left, right)
        for _ in range(MOST_LOANS):
            await put(left, b"x")
        waiting = asyncio.create_task(put(left, b"never"))
        await steps(3)
        await right.aclose() if end == "aclose" else right.abort()
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(PeerCrashed):
                await waiting


@asyncio_only
@carrying
async def test_the_end_of_the_sender_comes_after_its_messages(link: Link) -> None:
    for end, raised in (("aclose", EndOfStream), ("abort", PeerCrashed)):
        async with link(codec="raw") as (left, right):
            await meet(left, right)
            await put(left, b"one")
            await put(left, b"two")
            await left.flush()
            await left.aclose() if end == "aclose" else left.abort()
            assert await right.receive() == b"one"
            async with right.borrow() as view:
                assert bytes(view) == b"two"
            with pytest.raises(raised):
                await right.receive()


@asyncio_only
@carrying
async def test_closed_while_somebody_waits(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        await meet(left, right)
        for _ in range(MOST_LOANS):
            await put(left, b"x")
        waiting = asyncio.create_task(put(left, b"never"))
        await steps(3)
        await left.aclose()
        with pytest.raises(aioipc.ClosedError):
            await waiting


@asyncio_only
@carrying
async def test_what_is_not_used_goes_back_to_the_kernel(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Segments, "idle_s", 0.01)
    async with link(codec="raw") as (left, right):
        await meet(left, right)
        await put(left, b"one")
        await put(left, b"two")
        assert await take(right) == b"one"
        async with right.borrow() as view:
            await until(lambda: lent_memory() == 4)
            # The peer hears that it may forget the other one when it next receives.
            await asyncio.sleep(0.05)  # with nothing to look after, nobody looks
            assert bytes(view) == b"two"
        await until(lambda: not left.port.segments._known)
        await left.send(b"so that it hears")
        assert await right.receive() == b"so that it hears"
        assert lent_memory() == 0
        await put(left, b"and again")
        assert await take(right) == b"and again"


@asyncio_only
@pytest.mark.parametrize("link", ["shm"], indirect=True)
async def test_what_cannot_be_said_now_disturbs_nobody_who_waits(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ring is full, and somebody waits for an open slot to end."""
    monkeypatch.setattr(Segments, "idle_s", 0.01)
    async with link(codec="raw") as (left, right):
        await meet(left, right)
        await put(left, b"one")
        assert await take(right) == b"one"
        async with left.reserve(8):
            sent = fill(left)
            flushing = asyncio.create_task(left.flush())
            segments = left.port.segments
            await until(segments._stale)  # which it could not say
            assert not flushing.done()
        async with asyncio.timeout(PATIENCE_S):
            await flushing
        assert len(await right.receive_many(len(sent) + 1)) == len(sent) + 1


@asyncio_only
@carrying
async def test_nothing_is_said_about_it_when_the_direction_has_ended(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Segments, "idle_s", 0.01)
    async with link(codec="raw") as (left, right):
        await meet(left, right)
        await put(left, b"last")
        await left.send_eof()
        assert await take(right) == b"last"
        segments = left.port.segments
        await until(lambda: segments._timer is None)
        assert not segments._lender.has_some_here
        with pytest.raises(EndOfStream):
            await right.receive()


@asyncio_only
@carrying
async def test_memory_that_is_too_small_makes_room(link: Link) -> None:
    """Other sizes are wanted than those that lie here: what is not needed is forgotten."""
    async with link(codec="raw") as (left, right):
        await meet(left, right)
        for _ in range(MOST_LOANS):
            await put(left, b"x")
        for _ in range(MOST_LOANS):
            await take(right)
        for size in (60, 30, 2, 60):
            await put(left, b"large", size * 2**20)
            assert await take(right) == b"large"
            assert lent_memory() <= 2 * MOST_LOANS
        total = sum(len(loan.buffer) for loan in left.port.segments._known.values())
        assert total <= Segments.most_bytes


@asyncio_only
@carrying
async def test_a_machine_without_descriptors_copies(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> OwnedFd:
        raise OSError(24, os.strerror(24))

    async with link(codec="raw") as (left, right):
        await meet(left, right)
        monkeypatch.setattr("aioipc.kernel.lending.create_memory", fail)
        putting = asyncio.create_task(put(left, b"copied"))
        assert await take(right) == b"copied"
        await putting


# Whatever is done in whatever order

_OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(0, 100)),
        st.tuples(st.just("put"), st.sampled_from([10, 20_000, 70_000, 300_000, 1_500_000])),
        st.tuples(st.just("abort"), st.sampled_from([20_000, 300_000])),
        st.tuples(st.just("receive"), st.none()),
        st.tuples(st.just("borrow"), st.none()),
        st.tuples(st.just("release"), st.integers(0, 20)),
    ),
    max_size=60,
)


@pytest.mark.parametrize("kind", CARRYING)
@settings(max_examples=scaled(40, full=2_000), deadline=None)
@given(operations=_OPERATIONS)
def test_leases_in_any_order(kind: str, operations: Sequence[tuple[str, Any]]) -> None:
    """Everything arrives once, in order, and stays as it is for as long as it is looked at."""
    with asyncio.Runner(loop_factory=LOOPS["asyncio"]) as runner:
        runner.run(_perform(kind, operations))


async def _perform(kind: str, operations: Sequence[tuple[str, Any]]) -> None:
    sent: list[bytes] = []
    held: list[tuple[Any, memoryview, bytes]] = []
    async with link_over(kind)(codec="raw") as (left, right), AsyncExitStack() as stack:
        await meet(left, right)
        in_flight = 0
        for number, (verb, value) in enumerate(operations):
            message = b"%08d" % number * 4
            if verb == "send" and in_flight < MOST_LOANS // 2:
                await left.send(message)
            elif verb == "put" and in_flight < MOST_LOANS // 2 and len(held) < MOST_LOANS // 2:
                await put(left, message, max(value, len(message)))
            elif verb == "abort" and len(held) + in_flight < MOST_LOANS - 1:
                with pytest.raises(KeyError):
                    async with left.reserve(value):
                        raise KeyError
                continue
            elif verb == "receive" and sent:
                assert await right.receive() == sent.pop(0)
                in_flight -= 1
                continue
            elif verb == "borrow" and sent:
                borrow = right.borrow()
                held.append((borrow, await stack.enter_async_context(borrow), sent.pop(0)))
                in_flight -= 1
                continue
            elif verb == "release" and held:
                borrow, view, expected = held.pop(value % len(held))
                assert view == expected
                await borrow.__aexit__(None, None, None)
                continue
            else:
                continue
            sent.append(message)
            in_flight += 1
        for _, view, expected in held:
            assert view == expected


# Processes that die

_HOLDS = """
async with await aioipc.connect(sys.argv[1], codec="raw") as channel:
    await channel.send(b"hello")
    borrows = [channel.borrow() for _ in range(int(sys.argv[2]))]
    for borrow in borrows:
        view = await borrow.__aenter__()
        say(bytes(view[:8]).decode())
    await hear()
"""
_LENDS = """
async with await aioipc.connect(sys.argv[1], codec="raw") as channel:
    await channel.send(b"hello")
    await channel.receive()
    for number in range(3):
        async with channel.reserve(500_000) as slot:
            slot.view[:] = b"%d" % number * 500_000
    slot = await channel.reserve(500_000).__aenter__()
    slot.view[:] = b"x" * 500_000
    say("lent")
    await hear()
"""
schemes = pytest.mark.parametrize("address", ["shm:", "unix:", "unix+seqpacket:"])


@asyncio_only
@schemes
async def test_a_receiver_killed_with_memory_in_its_hands(address: str, peers: Peers) -> None:
    async with aioipc.listen(address, codec="raw") as listener:
        peer = program(peers, _HOLDS, listener.address, 5)
        channel = await listener.accept()
        async with channel:
            assert await channel.receive() == b"hello"
            for number in range(MOST_LOANS):
                await put(channel, b"%08d" % number, 500_000)
            waiting = asyncio.create_task(put(channel, b"never", 500_000))
            for number in range(5):
                assert await peer.next_line() == f"{number:08d}"
            await steps(3)
            assert not waiting.done()
            assert lent_memory(peer.pid) >= 5
            assert peer.kill() == -signal.SIGKILL
            async with asyncio.timeout(PATIENCE_S):
                with pytest.raises(PeerCrashed) as caught:
                    await waiting
            if address == "shm:":
                left = [b"%08d" % number for number in range(MOST_LOANS)]
                assert channel.unconsumed() == left
                assert caught.value.unconsumed == MOST_LOANS
    assert lent_memory() == 0


@asyncio_only
@schemes
async def test_a_sender_killed_while_it_writes(address: str, peers: Peers) -> None:
    async with aioipc.listen(address, codec="raw") as listener:
        peer = program(peers, _LENDS, listener.address)
        async with await listener.accept() as channel:
            assert await channel.receive() == b"hello"
            await channel.send(b"go")
            assert await peer.next_line() == "lent"
            async with channel.borrow() as first:
                assert peer.kill() == -signal.SIGKILL
                assert first == b"0" * 500_000
                assert await channel.receive() == b"1" * 500_000
                assert await take(channel) == b"2" * 500_000
                with pytest.raises(PeerCrashed):
                    await channel.receive()
                assert first == b"0" * 500_000
    assert lent_memory() == 0


@asyncio_only
@carrying
async def test_a_forked_child_gives_nothing_back(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        await meet(left, right)
        await put(left, b"mine")
        async with right.borrow() as view:
            pid = os.fork()
            if pid == 0:  # the objects of the parent end here, one after the other
                del link, left, right
                gc.collect()
                os._exit(0)
            await asyncio.to_thread(os.waitpid, pid, 0)
            for number in range(2 * MOST_LOANS):
                await put(left, b"%d" % number)
                assert await take(right) == b"%d" % number
            assert bytes(view) == b"mine"


# Peers that lie


class Liar:
    """A peer that says what it likes, and has what it sent."""

    def __init__(self, say: Callable[[bytes, int, Sequence[int]], None]) -> None:
        self._say = say
        self.loan = Loan.once(1)
        self.pipe, self.pipe_end = owned_pipe(os.O_NONBLOCK)

    def say(
        self, payload: bytes | Shared, *files: OwnedFd | Loan, flags: int = Flag.SHARED
    ) -> None:
        data = payload.pack() if isinstance(payload, Shared) else payload
        self._say(data, flags, [file.fileno() for file in files])

    def lend(self) -> None:
        """Do what is right."""
        self.say(Shared(What.PIPE), self.pipe_end)
        self.say(Shared(What.MEMORY, 1, len(self.loan.buffer)), self.loan)

    def close(self) -> None:
        self.pipe.close()
        self.pipe_end.close()
        self.loan.file.close()


GREETING = Hello("raw", 2**26, WireCapability.FDS | WireCapability.SHARED_BUFFERS).pack()


@contextlib.asynccontextmanager
async def over_a_socket(runtime_dir: Any) -> AsyncIterator[tuple[Channel[bytes], Liar, Any]]:
    near, far = socket.socketpair()

    def say(payload: bytes, flags: int, fds: Sequence[int]) -> None:
        with contextlib.suppress(BrokenPipeError):
            header = pack_header(len(payload), Kind.DATA, flags, len(fds))
            socket.send_fds(far, [header + payload], fds)

    with far:
        async with await aioipc.connect(f"fd:{near.detach()}", codec="raw", limits=LIMITS) as end:
            far.sendall(pack_header(len(GREETING), Kind.HELLO) + GREETING)
            liar = Liar(say)
            try:
                yield end, liar, far
            finally:
                liar.close()


@contextlib.asynccontextmanager
async def over_a_ring(runtime_dir: Any) -> AsyncIterator[tuple[Channel[bytes], Liar, Any]]:
    async with played_server(runtime_dir, limits=LIMITS) as (opening, sock):
        with BareEnd.offering(sock.dup()) as bare:
            sock.close()

            def say(payload: bytes, flags: int, fds: Sequence[int]) -> None:
                with contextlib.suppress(BrokenPipeError):
                    if fds:
                        socket.send_fds(bare.sock, [b"!"], fds)
                    bare.writes.put(Kind.DATA, payload, flags, len(fds))
                    bare.ring()

            async with await opening as channel:
                bare.say(Kind.HELLO, GREETING)
                liar = Liar(say)
                try:
                    yield channel, liar, bare.sock
                finally:
                    liar.close()


LIMITS = Limits(ring_bytes=64 * 1024, max_message_bytes=2**20)
PLACES = {"socket": over_a_socket, "ring": over_a_ring}
places = pytest.mark.parametrize("place", PLACES)


def _in_use(told: Shared) -> Callable[[Liar], None]:
    def lie(liar: Liar) -> None:
        liar.lend()
        liar.say(Shared(What.MESSAGE, 1, 5))
        liar.say(told, *([liar.loan] if told.fds else []))

    return lie


def _lent(*payloads: bytes | Shared) -> Callable[[Liar], None]:
    def lie(liar: Liar) -> None:
        liar.lend()
        for payload in payloads:
            liar.say(payload)

    return lie


def _unsealed(liar: Liar) -> None:
    with create_memory(4096, sealed=False) as file:
        liar.say(Shared(What.MEMORY, 1, 4096), file)


def _wrong_end(liar: Liar) -> None:
    liar.say(Shared(What.PIPE), liar.pipe)


def _no_pipe(liar: Liar) -> None:
    liar.say(Shared(What.MEMORY, 1, len(liar.loan.buffer)), liar.loan)
    liar.say(Shared(What.MESSAGE, 1, 1))


def _two_pipes(liar: Liar) -> None:
    liar.lend()
    liar.say(Shared(What.PIPE), liar.pipe_end)


def _between_parts(liar: Liar) -> None:
    liar.say(b"part", flags=Flag.MORE)
    liar.lend()


LIES: dict[str, tuple[Callable[[Liar], None], str]] = {
    "a byte": (_lent(b"x"), "a SHARED frame of 1 bytes: 16 are due"),
    "nothing": (_lent(b""), "a SHARED frame of 0 bytes"),
    "a long one": (_lent(bytes(5_000)), "a SHARED frame of"),
    "an unknown thing": (_lent(bytes((9, *bytes(15)))), "about the unknown thing 9"),
    "number 0": (_lent(Shared(What.MESSAGE, 0)), "cannot have number 0"),
    "number 65": (_lent(Shared(What.MESSAGE, 65)), "cannot have number 65: 1 to 64"),
    "number 2^32-1": (_lent(Shared(What.FORGET, 2**32 - 1)), "cannot have number 4,294,967,295"),
    "a message nowhere": (_lent(Shared(What.MESSAGE, 2, 1)), "in memory 2, which never came"),
    "nothing to forget": (_lent(Shared(What.FORGET, 2)), "memory 2 is to be forgotten"),
    "no way back": (_no_pipe, "which never came"),
    "longer than its memory": (
        _lent(Shared(What.MESSAGE, 1, 2**20 + 1)),
        "a message of 1,048,577 bytes lies in memory of 1,048,576 bytes",
    ),
    "endless": (_lent(Shared(What.MESSAGE, 1, 2**64 - 1)), "lies in memory of 1,048,576 bytes"),
    "no memory": (_lent(Shared(What.MEMORY, 1, 1)), "0 descriptors came with a SHARED frame, 1"),
    "a descriptor too many": (
        lambda liar: liar.say(Shared(What.MESSAGE, 1, 1), liar.loan),
        "1 descriptors came with a SHARED frame, 0 are due",
    ),
    "two descriptors": (
        lambda liar: liar.say(Shared(What.PIPE), liar.pipe_end, liar.loan),
        "2 descriptors came with a SHARED frame, 1 are due",
    ),
    "a pipe that is memory": (lambda liar: liar.say(Shared(What.PIPE), liar.loan), "that is none"),
    "the wrong end": (_wrong_end, "the wrong end of a pipe"),
    "two pipes": (_two_pipes, "a second pipe"),
    "memory that is a pipe": (
        lambda liar: liar.say(Shared(What.MEMORY, 1, 1), liar.pipe_end),
        "is no shared memory: it is no file in memory",
    ),
    "memory that may shrink": (_unsealed, "its seals are"),
    "a wrong size": (
        lambda liar: liar.say(Shared(What.MEMORY, 1, 2**50), liar.loan),
        "memory of 1,048,576 bytes came, announced were 1,125,899,906,842,624",
    ),
    "other memory while it is in use": (
        _in_use(Shared(What.MEMORY, 1, 2**20)),
        "memory 1 was not given back yet",
    ),
    "forgotten while in use": (_in_use(Shared(What.FORGET, 1)), "was not given back yet"),
    "another message in it": (_in_use(Shared(What.MESSAGE, 1, 9)), "was not given back yet"),
    "between the parts of a message": (_between_parts, "a SHARED "),
}


async def _borrow_all(channel: Channel[bytes], held: AsyncExitStack) -> None:
    while True:
        await held.enter_async_context(channel.borrow())


@asyncio_only
@places
@pytest.mark.parametrize("lie", LIES)
async def test_a_lie_ends_its_connection(lie: str, place: str, runtime_dir: Any) -> None:
    tell, says = LIES[lie]
    fds = open_fds()
    async with PLACES[place](runtime_dir) as (channel, liar, _):
        tell(liar)
        async with asyncio.timeout(PATIENCE_S), AsyncExitStack() as held:
            with pytest.raises(ProtocolError) as caught:
                await _borrow_all(channel, held)
            assert says in str(caught.value)
    assert open_fds() == fds


@asyncio_only
@places
async def test_a_message_over_the_limit(place: str, runtime_dir: Any) -> None:
    async with PLACES[place](runtime_dir) as (channel, liar, _):
        liar.loan.file.close()
        liar.loan = Loan.once(2**21)
        liar.lend()
        liar.say(Shared(What.MESSAGE, 1, 2**20 + 1))
        with pytest.raises(FrameTooLarge, match="1,048,577 bytes is over the limit of 1,048,576"):
            await channel.receive()


@asyncio_only
@places
async def test_a_peer_that_changes_what_it_sent(place: str, runtime_dir: Any) -> None:
    """It is looked at where it lies, so it changes; what was received is one copy."""
    async with PLACES[place](runtime_dir) as (channel, liar, _):
        liar.lend()
        liar.loan.buffer[:5] = b"first"
        liar.say(Shared(What.MESSAGE, 1, 5))
        async with channel.borrow() as view:
            assert bytes(view) == b"first"
            liar.loan.buffer[:5] = b"other"
            assert bytes(view) == b"other"
            with pytest.raises(TypeError, match="read-only"):
                view[0] = 0
        assert os.read(liar.pipe.fileno(), 10) == b"\x01"
        liar.say(Shared(What.MESSAGE, 1, 5))
        received = await channel.receive()
        liar.loan.buffer[:5] = b"third"
        assert received == b"other"
        liar.say(Shared(What.FORGET, 1))
        liar.say(b"an ordinary one", flags=0)
        assert await channel.receive() == b"an ordinary one"
        assert lent_memory() == 1, "the liar's own"


@asyncio_only
@places
@pytest.mark.parametrize("returned", [b"\x07", b"\x01\x01", b"\x00", b"\xff" * 64])
async def test_what_was_not_lent_is_given_back(
    returned: bytes, place: str, runtime_dir: Any
) -> None:
    fds = open_fds()
    async with PLACES[place](runtime_dir) as (channel, liar, sock):
        with await _borrowed(channel, liar, sock) as pipe:
            os.write(pipe.fileno(), returned)
            for _ in range(2):
                with pytest.raises(ProtocolError, match="given back, which was not lent"):
                    await put(channel, b"x")
    assert open_fds() == fds


@asyncio_only
@places
async def test_a_peer_that_will_never_give_back_gets_copies(place: str, runtime_dir: Any) -> None:
    async with PLACES[place](runtime_dir) as (channel, liar, sock):
        (await _borrowed(channel, liar, sock)).close()
        size = {"ring": 20_000, "socket": 70_000}[place]
        async with channel.reserve(size) as slot:
            assert type(slot.view.obj) is bytearray


@asyncio_only
async def test_what_a_sender_says(runtime_dir: Any) -> None:
    """What is in docs/wire-format.md."""
    told = (
        Shared(What.PIPE),
        Shared(What.MEMORY, 1, 2**20),
        Shared(What.MESSAGE, 1, 70_000),
        Shared(What.MEMORY, 2, 2**20),
        Shared(What.MESSAGE, 2, 70_001),
    )
    async with over_a_socket(runtime_dir) as (channel, liar, sock):
        liar.say(b"hello", flags=0)
        await channel.receive()
        for size in (70_000, 70_001):
            await put(channel, bytes(size), size)
        said, fds = b"", list[int]()
        while said.count(told[-1].pack()) == 0:
            more, came, _, _ = socket.recv_fds(sock, 65536, 10)
            said, fds = said + more, fds + came
        for fd in fds:
            os.close(fd)
        expected = [
            pack_header(16, Kind.DATA, Flag.SHARED, each.fds) + each.pack() for each in told
        ]
        assert said.endswith(b"".join(expected))
        assert len(fds) == 3


async def _borrowed(channel: Channel[bytes], liar: Liar, sock: socket.socket) -> OwnedFd:
    """Have something lent by the victim, and the pipe to give it back through."""
    liar.say(b"hello", flags=0)
    await channel.receive()
    await put(channel, b"hi")
    await channel.flush()
    fds: list[int] = []
    while len(fds) < 2:
        fds += socket.recv_fds(sock, 65536, 10)[1]
    os.close(fds[1])
    return OwnedFd(fds[0])
