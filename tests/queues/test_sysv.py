"""System V queues: with C programs, message types, removal, and the thread that watches them."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
from pathlib import Path

import pytest

import aioipc
from aioipc import queues
from aioipc.loop.line import Line
from tests.children import PATIENCE_S, Peers
from tests.kernel.strangers import as_root
from tests.links import steps
from tests.programs import AS_NOBODY, program
from tests.queues.test_mq import run
from tests.scale import scaled

pytestmark = pytest.mark.asyncio


def pumps() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "aioipc-pump"]


def lines() -> int:
    gc.collect()
    return sum(isinstance(each, Line) for each in gc.get_objects())


async def test_types_select(sysv_key: int) -> None:
    async with queues.open(f"sysv:{sysv_key}", create=True) as queue:
        for kind in (3, 1, 2, 1):
            await queue.put(f"of type {kind}", kind=kind)
        assert await queue.get(kind=2) == "of type 2"
        assert [(await queue.get_item(kind=-2)).kind for _ in range(2)] == [1, 1]
        with pytest.raises(aioipc.WouldBlock):
            queue.get_nowait(kind=-2)
        assert (await queue.statistics()).messages == 1
        assert await queue.get_item() == queues.Item("of type 3", kind=3)


async def test_each_waits_for_its_type(sysv_key: int) -> None:
    async with queues.open(f"sysv:{sysv_key}", create=True) as queue:
        waiting = {kind: asyncio.ensure_future(queue.get(kind=kind)) for kind in range(1, 6)}
        await steps(3)
        assert len(pumps()) == 1
        await queue.put("any", kind=100)
        for kind in reversed(waiting):
            await queue.put(kind, kind=kind)
            assert await waiting[kind] == kind
        assert await queue.get() == "any"


async def test_types_that_nobody_waits_for_any_more_cost_nothing(sysv_key: int) -> None:
    async with queues.open(f"sysv:{sysv_key}", create=True) as queue:
        before = lines()
        for kind in range(1, 100):  # as of answers, each of another type
            waiting = asyncio.ensure_future(queue.get(kind=kind))
            await steps(2)
            await queue.put(kind, kind=kind)
            assert await waiting == kind
        assert lines() == before


async def test_a_c_program_sends(sysv_key: int, sysv_peer: Path) -> None:
    async with queues.open(f"sysv:{sysv_key}", create=True, codec="text") as queue:
        sending = asyncio.ensure_future(run(sysv_peer, "send", sysv_key, 300))
        items = [await queue.get_item() for _ in range(300)]
        await sending
    assert [int(item.value) for item in items] == list(range(300))
    assert all(item.kind == 1 + int(item.value) % 3 for item in items)


async def test_a_c_program_receives(sysv_key: int, sysv_peer: Path) -> None:
    async with queues.open(f"sysv:{sysv_key}", create=True, codec="text") as queue:
        receiving = asyncio.ensure_future(run(sysv_peer, "receive", sysv_key, 300))
        for number in range(300):
            await queue.put(str(number), kind=1 + number % 9)
        lines = (await receiving).splitlines()
    assert sorted(int(line.split()[1]) for line in lines) == list(range(300))


async def test_channels_over_a_queue(sysv_key: int) -> None:
    async with (
        aioipc.listen(f"sysv:{sysv_key}") as listener,
        await anext(listener) as receiver,
        aioipc.connect(f"sysv:{sysv_key}") as sender,
    ):
        sent = [{"n": number, "fill": bytes(1_000)} for number in range(60)]
        sending = asyncio.ensure_future(sender.send_many(sent))
        assert [await receiver.receive() for _ in sent] == sent
        await sending
    with pytest.raises(aioipc.ConnectError, match="there is no such queue"):
        await aioipc.connect(f"sysv:{sysv_key}")


async def test_removed_while_they_wait(sysv_key: int, peers: Peers) -> None:
    """Everybody who waits gets ClosedError, and the thread ends."""
    async with (
        queues.open(f"sysv:{sysv_key}", create=True, codec="raw") as full,
        queues.open(f"sysv:{sysv_key + 1}", create=True) as empty,
    ):
        while (await full.statistics()).messages < 4:
            await full.put(bytes(4_000))
        with pytest.raises(aioipc.WouldBlock):
            full.put_nowait(bytes(4_000))
        waiting = [
            *(asyncio.ensure_future(full.put(bytes(4_000))) for _ in range(3)),
            *(asyncio.ensure_future(empty.get(kind=kind)) for kind in (0, 3, 3, -4)),
        ]
        await steps(5)
        assert not any(task.done() for task in waiting)
        remover = program(
            peers,
            f"""
            for key in {sysv_key}, {sysv_key + 1}:
                async with aioipc.queues.open(f"sysv:{{key}}") as queue:
                    queue.unlink()
                    queue.unlink()
            """,
        )
        async with asyncio.timeout(PATIENCE_S):
            for result in await asyncio.gather(*waiting, return_exceptions=True):
                assert isinstance(result, aioipc.ClosedError)
                assert "was removed from the system" in str(result)
        assert await remover.ended() == 0
        for use in (full.put(b""), full.get(), empty.statistics()):
            with pytest.raises(aioipc.ClosedError):
                await use
        for thread in pumps():
            await asyncio.to_thread(thread.join, PATIENCE_S)
        assert not pumps()


async def test_cancelling_loses_nothing(sysv_key: int, chance: random.Random) -> None:
    total = scaled(150, full=20_000)
    found: list[int] = []
    async with queues.open(f"sysv:{sysv_key}", create=True) as queue:

        async def put_all() -> None:
            for number in range(total):
                await queue.put(number)
                await steps(chance.randrange(4))

        putting = asyncio.ensure_future(put_all())
        while len(found) < total:
            task = asyncio.ensure_future(queue.get())
            await steps(chance.randrange(4))
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                found.append(task.result())
        await putting
    assert found == list(range(total))


async def test_idle_there_is_no_thread(sysv_key: int) -> None:
    async with queues.open(f"sysv:{sysv_key}", create=True) as queue:
        getting = asyncio.ensure_future(queue.get())
        await steps(3)
        await queue.put(1)
        assert await getting == 1
        for thread in pumps():
            await asyncio.to_thread(thread.join, PATIENCE_S)
        assert not pumps()


async def test_options_that_make_no_sense(sysv_key: int) -> None:
    address = f"sysv:{sysv_key}"
    with pytest.raises(ValueError, match="max_messages= is for mq: queues"):
        await queues.open(address, create=True, max_messages=3)
    async with queues.open(address, create=True, codec="raw") as queue:
        with pytest.raises(ValueError, match="neither priority= nor ttl_s="):
            await queue.put(b"", priority=1)
        with pytest.raises(ValueError, match="kind must be between 1"):
            await queue.put(b"", kind=0)
        for act in (lambda: queue.put(b"", kind=1.5), lambda: queue.get(kind=1.5)):  # type: ignore[arg-type]
            with pytest.raises(TypeError, match=r"kind must be an int, not 1\.5"):
                await act()
        limit = (await queue.statistics()).max_message_size
        with pytest.raises(aioipc.FrameTooLarge, match=f"over the limit of {limit:,}"):
            await queue.put(bytes(limit + 1))
        with pytest.raises(aioipc.ResourceExhausted, match="there is such a queue"):
            await queues.open(address, create=True, exclusive=True)
        assert (await queue.statistics()).messages == 0


@as_root
async def test_strangers(sysv_key: int, peers: Peers) -> None:
    async with queues.open(f"sysv:{sysv_key}", create=True):
        stranger = program(
            peers,
            f"""
            from aioipc import queues
            import sysv_ipc
            exec({AS_NOBODY!r})
            try:
                await queues.open("sysv:{sysv_key}")
            except aioipc.AccessDenied as error:
                say(error)
            made = sysv_ipc.MessageQueue({sysv_key + 1}, sysv_ipc.IPC_CREX, mode=0o666)
            say("made")
            await hear()
            made.remove()
            """,
        )
        assert "may not use it" in await stranger.next_line()
        assert await stranger.next_line() == "made"
        with pytest.raises(aioipc.AccessDenied, match="belongs to uid"):
            await queues.open(f"sysv:{sysv_key + 1}")
        stranger.tell()
        assert await stranger.ended() == 0
