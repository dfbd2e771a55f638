"""POSIX message queues: with C programs, priorities, limits, and every way to be wrong."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import subprocess
from pathlib import Path

import posix_ipc
import pytest

import aioipc
from aioipc import queues
from aioipc.kernel.mqueue import open_queue
from tests.children import PATIENCE_S, Peers
from tests.kernel.strangers import as_root
from tests.links import steps
from tests.programs import AS_NOBODY, program
from tests.scale import scaled

AS_NOBODY_HERE = f"exec({AS_NOBODY!r})"

pytestmark = pytest.mark.asyncio


async def run(program: Path, *arguments: object) -> str:
    """Let a C program do its work, and return what it printed."""
    command = [str(program), *map(str, arguments)]
    return (await asyncio.to_thread(subprocess.check_output, command, timeout=PATIENCE_S)).decode()


async def test_the_most_urgent_first(mq_name: str) -> None:
    async with queues.open(f"mq:{mq_name}", create=True) as queue:
        for number in range(6):
            await queue.put({"n": number}, priority=number % 3)
        items = [await queue.get_item() for _ in range(6)]
        assert [(item.priority, item.value["n"]) for item in items] == [
            *((2, 2), (2, 5), (1, 1), (1, 4), (0, 0), (0, 3))
        ]
        assert (await queue.statistics()).messages == 0


async def test_a_c_program_sends(mq_name: str, mq_peer: Path) -> None:
    async with queues.open(f"mq:{mq_name}", create=True, codec="text") as queue:
        sending = asyncio.ensure_future(run(mq_peer, "send", mq_name, 500))
        items = [await queue.get_item() for _ in range(500)]
        await sending
    assert sorted(int(item.value) for item in items) == list(range(500))
    assert all(item.priority == int(item.value) % 10 for item in items)


async def test_a_c_program_receives(mq_name: str, mq_peer: Path) -> None:
    async with queues.open(f"mq:{mq_name}", create=True, codec="text", max_messages=5) as queue:
        receiving = asyncio.ensure_future(run(mq_peer, "receive", mq_name, 500))
        for number in range(500):
            await queue.put(str(number), priority=number % 10)
        lines = (await receiving).splitlines()
    assert sorted(int(line.split()[1]) for line in lines) == list(range(500))
    assert all(int(line.split()[0]) == int(line.split()[1]) % 10 for line in lines)


async def test_channels_over_a_queue(mq_name: str) -> None:
    async with (
        aioipc.listen(f"mq:{mq_name}") as listener,
        await anext(listener) as receiver,
        aioipc.connect(f"mq:{mq_name}") as sender,
    ):
        assert sender.capabilities & aioipc.Capability.PRIORITY
        sent = [{"n": number} for number in range(100)]
        sending = asyncio.ensure_future(sender.send_many(sent))
        assert [await receiver.receive() for _ in sent] == sent
        await sending
        await sender.aclose()
        with pytest.raises(aioipc.WouldBlock):  # a queue outlives its senders
            receiver.receive_nowait()
        with pytest.raises(StopAsyncIteration):
            await anext(listener)
    with pytest.raises(aioipc.ConnectError, match="there is no such queue"):
        await aioipc.connect(f"mq:{mq_name}")


async def test_a_listener_leaves_a_queue_that_it_found(mq_name: str) -> None:
    async with queues.open(f"mq:{mq_name}", create=True) as queue:
        async with aioipc.listen(f"mq:{mq_name}"):
            pass
        assert not (await queue.statistics()).is_unlinked


async def test_nowait(mq_name: str) -> None:
    async with queues.open(f"mq:{mq_name}", create=True, max_messages=2) as queue:
        with pytest.raises(aioipc.WouldBlock, match="has nothing to get"):
            queue.get_nowait()
        queue.put_nowait(1)
        queue.put_nowait(2, priority=1)
        with pytest.raises(aioipc.WouldBlock, match="is full"):
            queue.put_nowait(3)
        assert queue.get_nowait() == 2
        assert queue.get_nowait() == 1


async def test_iterating(mq_name: str) -> None:
    async with queues.open(f"mq:{mq_name}", create=True) as queue:
        for number in range(5):
            await queue.put(number)
        found = []
        async for number in queue:
            found.append(number)
            if number == 4:
                break
        assert found == [0, 1, 2, 3, 4]


async def test_full_queue_makes_putters_wait_in_order(mq_name: str) -> None:
    async with queues.open(f"mq:{mq_name}", create=True, max_messages=2) as queue:
        putting = [asyncio.ensure_future(queue.put(number)) for number in range(8)]
        await steps(5)
        assert [task.done() for task in putting] == [True] * 2 + [False] * 6
        putting[3].cancel()
        await steps(2)
        assert [await queue.get() for _ in range(7)] == [0, 1, 2, 4, 5, 6, 7]
        await asyncio.wait(putting)


async def test_waiting_getters_are_served_in_order(mq_name: str) -> None:
    async with queues.open(f"mq:{mq_name}", create=True) as queue:
        getting = [asyncio.ensure_future(queue.get()) for _ in range(5)]
        await steps(3)
        getting[1].cancel()
        for number in range(4):
            await queue.put(number)
        done = await asyncio.gather(*getting, return_exceptions=True)
        assert [each for each in done if isinstance(each, int)] == [0, 1, 2, 3]


async def test_cancelling_loses_nothing(mq_name: str, chance: random.Random) -> None:
    """Getters and putters are cancelled in every state; each object arrives once, in order."""
    total = scaled(200, full=20_000)
    found: list[int] = []
    async with queues.open(f"mq:{mq_name}", create=True, max_messages=3) as queue:

        async def put_all() -> None:
            for number in range(total):
                while True:
                    task = asyncio.ensure_future(queue.put(number))
                    await steps(chance.randrange(3))
                    task.cancel()
                    await asyncio.wait([task])
                    if not task.cancelled():
                        break

        putting = asyncio.ensure_future(put_all())
        while len(found) < total:
            task = asyncio.ensure_future(queue.get())
            await steps(chance.randrange(3))
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                found.append(task.result())
        await putting
    assert found == list(range(total))


async def test_a_deleted_queue_keeps_working_and_says_so(mq_name: str) -> None:
    async with (
        queues.open(f"mq:{mq_name}", create=True) as left,
        queues.open(f"mq:{mq_name}") as right,
    ):
        waiting = asyncio.ensure_future(right.get())
        await steps(3)
        left.unlink()
        left.unlink()
        assert (await right.statistics()).is_unlinked
        await left.put("still here")
        assert await waiting == "still here"
        with pytest.raises(aioipc.ConnectError):
            await queues.open(f"mq:{mq_name}")
        async with queues.open(f"mq:{mq_name}", create=True, exclusive=True) as another:
            right.unlink()
            assert not (await another.statistics()).is_unlinked


async def test_a_message_above_the_size_is_refused_before_it_is_sent(mq_name: str) -> None:
    async with queues.open(
        f"mq:{mq_name}", create=True, max_message_size=100, codec="raw"
    ) as queue:
        await queue.put(bytes(100))
        with pytest.raises(
            aioipc.FrameTooLarge, match="101 bytes is over the limit of 100"
        ) as info:
            await queue.put(bytes(101))
        assert (info.value.size, info.value.limit) == (101, 100)
        with pytest.raises(aioipc.FrameTooLarge):
            queue.put_nowait(bytes(1_000_000))
        assert (await queue.statistics()).messages == 1
        assert await queue.get() == bytes(100)


async def test_options_that_make_no_sense(mq_name: str) -> None:
    address = f"mq:{mq_name}"
    with pytest.raises(ValueError, match="max_messages= needs create=True"):
        await queues.open(address, max_messages=3)
    with pytest.raises(ValueError, match="exclusive= needs create=True"):
        await queues.open(address, exclusive=True)
    with pytest.raises(ValueError, match="nobody to allow="):
        await queues.open(address, allow=aioipc.same_user)
    with pytest.raises(ValueError, match="at least 1, not 0"):
        await queues.open(address, create=True, max_messages=0)
    with pytest.raises(ValueError, match=r"1,000,000,000 messages of .* are over what"):
        await queues.open(address, create=True, max_messages=1_000_000_000)
    with pytest.raises(aioipc.AddressError, match="has no queues"):
        await queues.open("fifo:/tmp/x")
    with pytest.raises(aioipc.AddressError, match="wrong queue name"):
        await queues.open("mq:/a/b")
    async with queues.open(address, create=True) as queue:
        with pytest.raises(ValueError, match="neither kind= nor ttl_s="):
            await queue.put(1, ttl_s=3)
        with pytest.raises(ValueError, match="no message types"):
            await queue.get(kind=2)
        with pytest.raises(ValueError, match="priority must be between 0 and 32,767, not 32,768"):
            await queue.put(1, priority=32_768)
        with pytest.raises(TypeError, match=r"priority must be an int, not 1\.5"):
            await queue.put(1, priority=1.5)  # type: ignore[arg-type]
        with pytest.raises(aioipc.EncodeError):
            await queue.put(object())
        with pytest.raises(aioipc.ResourceExhausted, match="there is such a queue"):
            await queues.open(address, create=True, exclusive=True)
        assert (await queue.statistics()).messages == 0


async def test_what_does_not_decode_is_consumed(mq_name: str) -> None:
    async with (
        queues.open(f"mq:{mq_name}", create=True, codec="raw") as raw,
        queues.open(f"mq:{mq_name}") as queue,
    ):
        await raw.put(b"\xc1")
        await raw.put(100 * b"\x91" + b"\x90")
        await queue.put("good")
        for _ in range(2):
            with pytest.raises(aioipc.DecodeError):
                await queue.get()
        assert await queue.get() == "good"


async def test_closing_wakes_who_waits(mq_name: str) -> None:
    queue = await queues.open(f"mq:{mq_name}", create=True, max_messages=1)
    getting = [asyncio.ensure_future(queue.get()) for _ in range(3)]
    await steps(3)
    await queue.aclose()
    await queue.aclose()
    for task in getting:
        with pytest.raises(aioipc.ClosedError):
            await task
    for use in (queue.put(1), queue.get(), queue.statistics()):
        with pytest.raises(aioipc.ClosedError):
            await use


async def test_a_dropped_queue_warns(mq_name: str) -> None:
    queue = await queues.open(f"mq:{mq_name}", create=True)
    assert repr(queue) == f"<PosixQueue mq:{mq_name} msgpack open>"
    with pytest.warns(ResourceWarning, match=f"unclosed <PosixQueue mq:{mq_name} msgpack open>"):
        del queue


async def test_in_a_forked_child(mq_name: str) -> None:
    async with queues.open(f"mq:{mq_name}", create=True) as queue:
        pid = os.fork()
        if pid == 0:
            status = 1
            with contextlib.suppress(BaseException):
                try:
                    queue.put_nowait(1)
                except aioipc.ForkError:
                    status = 0
            os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0  # noqa: ASYNC222 - it ends at once
        await queue.put(2)
        assert await queue.get() == 2


@as_root
async def test_strangers(mq_name: str, peers: Peers) -> None:
    """A queue of another user is refused; one of ours cannot be opened by strangers."""
    async with queues.open(f"mq:{mq_name}", create=True, mode=0o666):
        stranger = program(
            peers,
            f"""
            from aioipc import queues
            import posix_ipc
            {AS_NOBODY_HERE}
            os.umask(0)
            try:
                await queues.open("mq:{mq_name}")
            except aioipc.AccessDenied as error:
                say(error)
            made = posix_ipc.MessageQueue("{mq_name}-theirs", posix_ipc.O_CREX, mode=0o666)
            say("made")
            await hear()
            made.unlink()
            made.close()
            """,
        )
        assert "Permission denied" in await stranger.next_line()
        assert await stranger.next_line() == "made"
        with pytest.raises(aioipc.AccessDenied, match="belongs to uid 65534"):
            await queues.open(f"mq:{mq_name}-theirs")
        stranger.tell()
        assert await stranger.ended() == 0


async def test_pickle_needs_a_queue_of_our_own(mq_name: str) -> None:
    mask = os.umask(0)
    try:
        async with queues.open(f"mq:{mq_name}", create=True, mode=0o622):
            with pytest.raises(aioipc.AccessDenied, match="mode 0622"):
                await queues.open(f"mq:{mq_name}", codec="pickle")
    finally:
        os.umask(mask)


async def test_no_room_for_another_queue(mq_name: str) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_MSGQUEUE)
    resource.setrlimit(resource.RLIMIT_MSGQUEUE, (0, hard))
    try:
        with pytest.raises(aioipc.ResourceExhausted, match="RLIMIT_MSGQUEUE"):
            await queues.open(f"mq:{mq_name}", create=True)
    finally:
        resource.setrlimit(resource.RLIMIT_MSGQUEUE, (soft, hard))


async def test_no_descriptor_left(mq_name: str) -> None:
    with open_queue_of(mq_name):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            with pytest.raises(aioipc.ResourceExhausted):
                open_queue(mq_name)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def open_queue_of(name: str):  # type: ignore[no-untyped-def]
    queue = posix_ipc.MessageQueue(name, posix_ipc.O_CREX)
    try:
        yield
    finally:
        queue.close()


async def test_many_processes_share_the_work(mq_name: str, peers: Peers) -> None:
    total = 300
    async with queues.open(f"mq:{mq_name}", create=True, max_messages=4) as queue:
        workers = [
            program(
                peers,
                f"""
                async with aioipc.queues.open("mq:{mq_name}") as queue:
                    say("ready")
                    async for number in queue:
                        if number < 0:
                            break
                        say(number)
                """,
            )
            for _ in range(3)
        ]
        for worker in workers:
            assert await worker.next_line() == "ready"
        for number in range(total):
            await queue.put(number, priority=1)
        for _ in workers:
            await queue.put(-1)
        found = []
        for worker in workers:
            assert await worker.ended() == 0
            found += [int(line) for line in worker.rest().split()]
    assert sorted(found) == list(range(total))
