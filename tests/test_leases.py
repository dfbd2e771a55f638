"""reserve and borrow: messages written and read in place, over every transport."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import random
import sys
import threading
import warnings
from typing import Any

import pytest

import aioipc
from aioipc import Channel, ClosedError, EndOfStream, FrameTooLarge, Limits, PeerCrashed
from tests.children import PATIENCE_S
from tests.links import DUPLEX, SMALL_RING, Link, fill, steps

pytestmark = pytest.mark.asyncio
duplex = pytest.mark.parametrize("link", DUPLEX, indirect=True)
shm = pytest.mark.parametrize("link", ["shm", "shm-listen"], indirect=True)

MOST_BORROWS = 64
MOST_SLOTS = 64


async def put(channel: Channel[Any], message: bytes) -> None:
    async with channel.reserve(len(message)) as slot:
        slot.view[:] = message


async def take(channel: Channel[Any]) -> bytes:
    async with channel.borrow() as view:
        assert view.readonly
        return bytes(view)


async def until_refused(channel: Channel[Any]) -> None:
    """Wait until the end of the peer is noticed, and send nothing more for that."""
    with contextlib.suppress(aioipc.WouldBlock):
        while True:
            channel.receive_nowait()
    with contextlib.suppress(PeerCrashed, EndOfStream):
        await channel.receive()
    await channel.flush()


async def until_crashed(channel: Channel[Any]) -> None:
    with contextlib.suppress(PeerCrashed):
        for _ in range(1_000):
            await put(channel, b"nobody hears this")
            await asyncio.sleep(0)
        raise AssertionError("the peer is gone, and nobody says so")


@duplex
@pytest.mark.parametrize("size", [0, 1, 7, 8, 4_000, 16_384, 16_385, 70_000, 1_000_000])
async def test_written_in_place_and_read_in_place(link: Link, size: int) -> None:
    message = bytes(number % 251 for number in range(size))
    async with link(codec="raw") as (left, right):
        taking = asyncio.create_task(take(right))
        await put(left, message)
        assert await taking == message
        receiving = asyncio.create_task(right.receive())
        await put(left, message)
        assert await receiving == message
        taking = asyncio.create_task(take(right))
        await left.send(message)
        assert await taking == message


@duplex
async def test_a_part_of_what_was_reserved(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        for reserved in (10, 30_000):
            for used in (0, 1, 7, 8, 9, reserved):
                async with left.reserve(reserved) as slot:
                    slot.view[:used] = b"x" * used
                    slot.commit(used)
                assert await right.receive() == b"x" * used


@duplex
async def test_what_is_sent_meanwhile_comes_after_it(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        async with left.reserve(5) as slot:
            later = [asyncio.create_task(left.send(b"later %d" % n)) for n in range(3)]
            await steps(5)
            with pytest.raises(aioipc.WouldBlock):
                right.receive_nowait()
            slot.view[:] = b"first"
        await asyncio.gather(*later)
        got = [await right.receive() for _ in range(4)]
        assert got == [b"first", b"later 0", b"later 1", b"later 2"]


@duplex
async def test_an_exception_takes_it_back(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        for _ in range(200):  # more than the ring would hold
            with pytest.raises(ZeroDivisionError):
                async with left.reserve(10_000):
                    raise ZeroDivisionError
        await left.send(b"after")
        assert await right.receive() == b"after"


@shm
async def test_slots_may_end_in_any_order(link: Link, chance: random.Random) -> None:
    async with link(codec="raw") as (left, right):
        for _ in range(50):
            slots = [left.reserve(100) for _ in range(chance.randrange(1, 10))]
            opened = [await slot.__aenter__() for slot in slots]
            expected = []
            for number, slot in enumerate(opened):
                slot.view[:] = b"%100d" % number
            order = list(enumerate(slots))
            chance.shuffle(order)
            for number, slot in order:
                if chance.random() < 0.3:
                    await slot.__aexit__(ValueError, ValueError(), None)
                else:
                    expected.append(number)
                    await slot.__aexit__(None, None, None)
            got = [int(await right.receive()) for _ in expected]
            assert got == sorted(expected)


@duplex
async def test_a_reservation_waits_for_room(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        sent = fill(left)
        putting = asyncio.create_task(put(left, b"at last"))
        await asyncio.sleep(0)
        assert [await right.receive() for _ in sent] == sent
        assert await right.receive() == b"at last"
        await putting


@duplex
async def test_cancelled_at_each_step_it_is_all_or_nothing(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        for step in itertools.count():
            sent = fill(left)
            putting = asyncio.create_task(put(left, b"perhaps"))
            receiving = [asyncio.create_task(right.receive()) for _ in sent[:1]]
            for _ in range(step):
                await asyncio.sleep(0)
            finished = putting.done()
            putting.cancel()
            await asyncio.wait([putting])
            first = await receiving[0]
            marking = asyncio.create_task(left.send(b"marker"))
            got = [first]
            while got[-1] != b"marker":
                got.append(await right.receive())
            await marking
            assert got[: len(sent)] == sent
            assert got[len(sent) : -1] == ([] if putting.cancelled() else [b"perhaps"])
            if finished or step > 50:
                break


@duplex
async def test_a_cancelled_borrow_loses_nothing(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        taking = asyncio.create_task(take(right))
        await asyncio.sleep(0)
        taking.cancel()
        await asyncio.wait([taking])
        await left.send(b"kept")
        assert await take(right) == b"kept"


async def test_wrong_use(link: Link) -> None:
    async with link(codec="raw", limits=Limits(max_message_bytes=1_000)) as (left, _):
        with pytest.raises(ValueError, match="at least 0, not -1"):
            left.reserve(-1)
        with pytest.raises(FrameTooLarge, match="1,001 bytes is over the limit of 1,000"):
            async with left.reserve(1_001):
                pass
        slot = left.reserve(10)
        with pytest.raises(RuntimeError, match="inside its block"):
            slot.view  # noqa: B018
        with pytest.raises(RuntimeError, match="inside its block"):
            slot.commit(1)
        async with slot:
            with pytest.raises(ValueError, match="11 bytes cannot be committed: 10 were reserved"):
                slot.commit(11)
        with pytest.raises(RuntimeError, match="inside its block"):
            slot.commit(1)


@shm
async def test_a_slot_that_somebody_keeps_stays_what_it_was(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        kept = []
        for number in range(8):
            slot = left.reserve(10)
            async with slot as entered:
                assert entered is slot
                slot.view[:] = b"0123456789"
                if number % 3 == 0:
                    slot.commit(number)
            assert await take(right) == b"0123456789"[: number if number % 3 == 0 else 10]
            if number % 2:
                kept.append(slot)
        assert len(set(map(id, kept))) == 4
        for slot in kept:
            with pytest.raises(RuntimeError, match="awaited only once"):
                await slot.__aenter__()
            with pytest.raises(RuntimeError, match="inside its block"):
                slot.view  # noqa: B018
        assert left.statistics().messages_sent == 8


@shm
async def test_slots_that_are_used_again_keep_no_channel(link: Link) -> None:
    async with link(codec="raw") as (left, _):
        for _ in range(3):
            async with left.reserve(1):
                pass
        slot = left.reserve(1)
        async with slot:
            pass
        assert not [each for each in gc.get_referents(slot) if isinstance(each, Channel)]


@duplex
async def test_the_end_of_the_peer(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        await left.send(b"last")
        await left.aclose()
        assert await take(right) == b"last"
        with pytest.raises(EndOfStream):
            await take(right)
    async with link(codec="raw") as (left, right):
        await left.send(b"last")
        left.abort()
        assert await take(right) == b"last"
        with pytest.raises(PeerCrashed):
            await take(right)
        await until_crashed(right)


@duplex
async def test_closed_within_the_block(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        await left.send(b"read on")
        async with right.borrow() as view:
            await right.aclose()
            assert bytes(view) == b"read on"
        slot = await left.reserve(10).__aenter__()
        left.abort()
        slot.view[:] = b"0123456789"  # still memory
        with pytest.raises(ClosedError):
            await slot.__aexit__(None, None, None)


@shm
async def test_what_was_sent_behind_an_open_slot_is_delivered_when_that_is_closed(
    link: Link,
) -> None:
    async with link(codec="raw") as (left, right):
        first, second, third = [await left.reserve(3).__aenter__() for _ in range(3)]
        await left.send(b"one")
        third.view[:] = b"two"
        await third.__aexit__(None, None, None)
        await left.send_many([b"and"] * 3)
        await left.aclose()
        with pytest.raises(ClosedError):
            await first.__aexit__(None, None, None)
        assert [message async for message in right] == [b"two", b"one", b"and", b"and", b"and"]
        with pytest.raises(ClosedError):
            await second.__aexit__(None, None, None)


@shm
async def test_an_open_slot_leaves_before_the_direction_ends(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        slot = await left.reserve(3).__aenter__()
        await left.send(b"behind")
        ending = asyncio.create_task(left.send_eof())
        await steps(5)
        assert not ending.done()
        slot.view[:] = b"one"
        await slot.__aexit__(None, None, None)
        await ending
        assert [message async for message in right] == [b"one", b"behind"]


@shm
async def test_the_same_where_the_ring_is_full(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        slot = await left.reserve(100).__aenter__()
        sent = fill(left)
        closing = asyncio.create_task(left.aclose())
        assert [message async for message in right] == sent
        await closing
        with pytest.raises(ClosedError):
            await slot.__aexit__(None, None, None)


@shm
async def test_flush_waits_for_the_slot_that_holds_something_back(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        async with left.reserve(10) as alone:
            alone.view[:] = b"0123456789"
            await left.flush()  # nothing is behind it
        outer, inner = left.reserve(20), left.reserve(20)
        async with outer:
            async with inner as slot:
                slot.view[:] = b"x" * 20
            flushing = asyncio.create_task(left.flush())
            await steps(5)
            assert not flushing.done()
        await flushing
        assert [len(right.receive_nowait()) for _ in range(3)] == [10, 20, 20]


@shm
async def test_more_slots_than_there_may_be_wait_for_one_to_end(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        slots = [await left.reserve(8).__aenter__() for _ in range(MOST_SLOTS)]
        waiting = asyncio.create_task(left.reserve(8).__aenter__())
        await steps(5)
        assert not waiting.done()
        turns = left.statistics().send_waits
        await steps(50)
        assert left.statistics().send_waits == turns  # it sleeps
        await slots[0].__aexit__(None, None, None)
        for slot in [*slots[1:], await waiting]:
            await slot.__aexit__(None, None, None)
        assert len([await right.receive() for _ in range(MOST_SLOTS + 1)]) == MOST_SLOTS + 1


@shm
async def test_the_end_of_the_peer_wakes_who_waits_for_a_slot(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        slot = await left.reserve(8).__aenter__()
        await left.send(b"behind")
        flushing = asyncio.create_task(left.flush())
        await steps(5)
        right.abort()
        with pytest.raises(PeerCrashed):
            await flushing
        with pytest.raises(PeerCrashed):
            await slot.__aexit__(None, None, None)


@shm
async def test_slots_that_are_taken_back_make_room(link: Link) -> None:
    """The peer, which has taken everything, sees no change."""
    quarter = SMALL_RING // 4 - 8
    async with link(codec="raw") as (left, _):
        slots = [await left.reserve(quarter).__aenter__() for _ in range(3)]
        waiting = asyncio.create_task(left.reserve(quarter).__aenter__())
        await steps(10)
        waits = waiting.done()
        for slot in reversed(slots):
            await slot.__aexit__(ValueError, ValueError(), None)
        await (await waiting).__aexit__(None, None, None)
        assert not waits


@shm
async def test_a_flush_that_is_given_up_leaves_the_others_their_room(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        await left.send(bytes(8_000))
        slot = await left.reserve(8).__aenter__()
        fill(left)
        flushing = asyncio.create_task(left.flush())
        await steps(5)
        sending = asyncio.create_task(left.send(bytes(3_000)))
        await steps(5)
        flushing.cancel()
        await asyncio.wait([flushing])
        assert len(await right.receive()) == 8_000
        with pytest.raises(aioipc.WouldBlock):
            right.receive_nowait()  # asleep, it gives back what it took
        receiving = asyncio.create_task(right.receive())
        await sending  # the slot is open yet
        await slot.__aexit__(None, None, None)
        assert await receiving == bytes(8)


@shm
async def test_a_close_with_a_waiting_sender_and_an_open_slot(link: Link) -> None:
    """The ring is full to the last byte behind the slot, and not even GOODBYE fits."""
    length = SMALL_RING // 16 - 8
    async with link(codec="raw") as (left, right):
        await left.send(b"greeted")
        await right.receive()
        await right.send(b"greeted")
        await left.receive()
        slot = await left.reserve(length).__aenter__()
        sent = len(fill(left, (length, 0)))
        waiting = asyncio.create_task(left.send(b"no room"))
        await steps(10)
        closing = asyncio.create_task(left.aclose())
        assert len([message async for message in right]) == sent
        await closing
        with pytest.raises(ClosedError):
            await waiting
        with pytest.raises(ClosedError):
            await slot.__aexit__(None, None, None)


@shm
async def test_what_was_sent_behind_an_open_slot_counts_when_the_peer_dies(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        await left.send(b"one")
        slot = await left.reserve(100).__aenter__()
        await left.send(b"two")
        await left.send(b"three")
        right.abort()
        with pytest.raises(PeerCrashed) as caught:
            await until_refused(left)
        assert caught.value.unconsumed == 3
        with pytest.raises(PeerCrashed):
            await slot.__aexit__(None, None, None)


@shm
async def test_many_out_at_a_time_and_given_back_in_any_order(
    link: Link, chance: random.Random
) -> None:
    async with link(codec="raw") as (left, right):
        for number in range(MOST_BORROWS + 1):
            await left.send(b"%d" % number)
        borrows = [right.borrow() for _ in range(MOST_BORROWS)]
        views = [await borrow.__aenter__() for borrow in borrows]
        assert [int(bytes(view)) for view in views] == list(range(MOST_BORROWS))
        waiting = asyncio.create_task(take(right))
        await steps(5)
        assert not waiting.done()
        later = borrows[1:]
        chance.shuffle(later)
        for borrow in (*later, borrows[0]):
            await borrow.__aexit__(None, None, None)
        assert int(await waiting) == MOST_BORROWS


@shm
async def test_a_full_ring_goes_on_when_what_was_borrowed_is_given_back(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        sent = fill(left)
        async with right.borrow() as view:
            rest = [await right.receive() for _ in sent[1:]]
            sending = asyncio.create_task(left.send(b"x" * (SMALL_RING // 4)))
            await steps(5)
            filled = [asyncio.create_task(left.send(b"y" * (SMALL_RING // 4))) for _ in range(8)]
            await steps(5)
            assert not all(task.done() for task in filled)
            assert [bytes(view), *rest] == sent
        got = [await right.receive() for _ in range(9)]
        assert [len(message) for message in got] == [SMALL_RING // 4] * 9
        await asyncio.gather(sending, *filled)


@shm
async def test_a_view_that_outlives_its_block_keeps_the_message(link: Link) -> None:
    async with link(codec="raw") as (left, right):
        await left.send(b"keep me")
        with pytest.warns(ResourceWarning, match="beyond its block"):
            async with right.borrow() as view:
                kept = view[5:]
        for _ in range(20):  # the ring goes round as far as it can
            try:
                left.send_nowait(b"z" * 8_000)
            except aioipc.WouldBlock:
                break
            await right.receive()
        else:
            raise AssertionError("the message was given back while somebody looked at it")
        assert bytes(kept) == b"me"
        del kept
        await asyncio.sleep(0)
        for _ in range(20):
            await left.send(b"z" * 8_000)
            await right.receive()


@shm
async def test_a_view_that_outlives_its_channel_is_still_memory(link: Link) -> None:
    """Case 53."""
    async with link(codec="raw") as (left, right):
        await left.send(b"still there")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            async with right.borrow() as view:
                kept = view[:]
        slot = left.reserve(100)
        written = (await slot.__aenter__()).view[:]
    del view, slot
    gc.collect()
    assert bytes(kept) == b"still there"
    written[:] = bytes(100)


@shm
async def test_random_slots_borrows_sends_and_receives(link: Link, chance: random.Random) -> None:
    """Everything that is sent arrives once, in order, with every byte."""
    count = 2_000

    def message(number: int) -> bytes:
        size = random.Random(number).choice([0, 8, 100, 3_000, 16_384, 20_000, 90_000])
        return (b"%08d" % number * (size // 8 + 1))[:size]

    async def send_all() -> None:
        for number in range(count):
            data = message(number)
            if chance.random() < 0.5:
                await left.send(data)
                continue
            async with left.reserve(len(data) + chance.randrange(100)) as slot:
                slot.view[: len(data)] = data
                slot.commit(len(data))
            if chance.random() < 0.1:
                with pytest.raises(KeyError):
                    async with left.reserve(chance.randrange(20_000)):
                        raise KeyError

    async with link(codec="raw") as (left, right):
        sending = asyncio.create_task(send_all())
        for number in range(count):
            if chance.random() < 0.5:
                assert await take(right) == message(number)
            else:
                assert await right.receive() == message(number)
        await sending


@shm
@pytest.mark.parametrize("codec", ["msgpack", "json", "text", "pickle"])
async def test_long_messages_are_decoded_where_they_lie(link: Link, codec: str) -> None:
    async with link(codec=codec) as (left, right):
        for number in range(30):
            text = str(number) * 14_000  # from 14 to 28 KB, in a ring of 64
            receiving = asyncio.create_task(right.receive())
            await left.send(text)
            assert await receiving == text


@shm
async def test_who_collects_views_holds_nobody_up(link: Link) -> None:
    """What `receive` returned is the caller's, also where it refers to its message."""
    async with link(codec=aioipc.codecs.typed(memoryview)) as (left, right):
        got = []
        for number in range(10):
            await left.send(memoryview(b"%d" % number * 16_000))
            got.append(await right.receive())
        assert [bytes(view[:1]) for view in got] == [b"%d" % number for number in range(10)]


@shm
async def test_a_message_that_does_not_decode_is_given_back(link: Link) -> None:
    async with link(codec="json") as (left, right):
        for _ in range(30):
            async with left.reserve(16_384) as slot:
                slot.view[:] = b"[" * 16_384
            with pytest.raises(aioipc.DecodeError):
                await right.receive()
        await left.send("after")
        assert await right.receive() == "after"


@shm
async def test_who_waits_to_borrow_hears_of_a_view_that_goes_in_another_thread(link: Link) -> None:
    loop = asyncio.get_running_loop()
    async with link(codec="raw") as (left, right):
        for number in range(MOST_BORROWS + 1):
            await left.send(b"%d" % number)
        borrows = [right.borrow() for _ in range(MOST_BORROWS)]
        kept = [(await borrow.__aenter__())[:] for borrow in borrows]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            for borrow in borrows:
                await borrow.__aexit__(None, None, None)
        waiting = asyncio.create_task(take(right))
        await steps(5)
        assert not waiting.done()
        asleep_since = loop.time()
        late = loop.call_later(PATIENCE_S, lambda: None)  # else a loop that is not woken sleeps on
        thread = threading.Timer(0.05, kept.clear)  # when the loop sleeps
        thread.start()
        assert int(await waiting) == MOST_BORROWS
        late.cancel()
        thread.join()
        assert loop.time() - asleep_since < PATIENCE_S


@shm
async def test_who_waits_for_a_slot_hears_that_it_was_dropped_in_another_thread(link: Link) -> None:
    loop = asyncio.get_running_loop()
    async with link(codec="raw") as (left, right):
        slots = [left.reserve(8)]
        await slots[0].__aenter__()
        await left.send(b"behind")
        flushing = asyncio.create_task(left.flush())
        await steps(5)
        assert not flushing.done()
        asleep_since = loop.time()
        late = loop.call_later(PATIENCE_S, lambda: None)  # else a loop that is not woken sleeps on
        thread = threading.Timer(0.05, slots.clear)  # when the loop sleeps
        thread.start()
        await flushing
        late.cancel()
        thread.join()
        assert loop.time() - asleep_since < PATIENCE_S
        assert await right.receive() == b"behind"


@shm
async def test_the_count_of_references_to_none_stays(link: Link) -> None:
    async with link(codec="raw") as (left, right):

        async def there_and_back() -> None:
            for _ in range(100):
                await put(left, b"x")
                assert await take(right) == b"x"

        await there_and_back()
        before = sys.getrefcount(None)
        await there_and_back()
        assert sys.getrefcount(None) < before + 50
