"""Served queues: acknowledgement, redelivery, back-pressure, time, dead jobs, journals."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import random
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

import aioipc
from aioipc import queues
from aioipc.queues import _protocol as protocol
from aioipc.queues._journal import Journal
from tests.children import PATIENCE_S, Peers
from tests.echoes import serving
from tests.links import steps, until
from tests.programs import Nursery, program
from tests.scale import SCALE, patience_s, scaled

pytestmark = pytest.mark.asyncio

ADDRESSES = ["unix:", "shm:", "tcp://127.0.0.1:0"]


@contextlib.asynccontextmanager
async def served(
    address: str = "unix:", *, prefetch: int = 0, **options: Any
) -> AsyncIterator[tuple[queues.WorkQueue[Any], queues.WorkQueue[Any], queues.QueueServer]]:
    """A server, a producer and a worker."""
    async with (
        queues.serve(address, **options) as server,
        queues.open(server.address) as producer,
        queues.open(server.address, prefetch=prefetch) as worker,
    ):
        assert isinstance(producer, queues.WorkQueue)
        assert isinstance(worker, queues.WorkQueue)
        yield producer, worker, server


async def counters(queue: queues.WorkQueue[Any]) -> dict[str, int]:
    return dict((await queue.statistics()).counters)


async def reach(queue: queues.WorkQueue[Any], what: str, number: int) -> None:
    """Ask the server again and again until a counter is there."""
    async with asyncio.timeout(PATIENCE_S):
        while (await counters(queue))[what] != number:
            pass


async def died(queue: queues.WorkQueue[Any]) -> queues.DeadJob[Any]:
    """Ask the server again and again until there is a dead job."""
    async with asyncio.timeout(PATIENCE_S):
        while not (dead := await queue.dead_jobs()):
            pass
    return dead[0]


@pytest.mark.parametrize("address", ADDRESSES)
async def test_put_take_acknowledge(address: str) -> None:
    async with served(address) as (producer, worker, _):
        for number in range(20):
            await producer.put({"n": number}, priority=number % 2)
        taken = []
        for _ in range(20):
            async with worker.take() as job:
                taken.append(job.value["n"])
                assert job.attempt == 1
        assert taken == [*range(1, 20, 2), *range(0, 20, 2)]
        found = await counters(producer)
        assert (found["done"], found["ready"], found["redelivered"]) == (20, 0, 0)


async def test_get_acknowledges_at_once() -> None:
    async with served() as (producer, worker, _):
        await producer.put("a", priority=3)
        await producer.put("b")
        assert await worker.get_item() == queues.Item("a", priority=3)
        async for obj in worker:
            assert obj == "b"
            break
        await reach(worker, "done", 2)


async def test_the_server_closes() -> None:
    async with served() as (producer, worker, server):
        taking = asyncio.ensure_future(worker.get())
        iterating = asyncio.ensure_future(collect(worker))
        await producer.put(1)
        assert await taking == 1
        await server.aclose()
        await server.aclose()
        assert await iterating == []
        with pytest.raises(aioipc.EndOfStream):
            await worker.get()
        with pytest.raises(aioipc.IPCError):
            await producer.put(2)


async def collect(queue: queues.Queue[Any]) -> list[Any]:
    return [obj async for obj in queue]


async def test_a_job_that_fails_is_given_again() -> None:
    async with served(policy=queues.Policy(max_attempts=3)) as (producer, worker, _):
        await producer.put("hard")
        for attempt in (1, 2):
            with pytest.raises(LookupError, match="not found"):
                await fail_at(worker, attempt)
        job = await worker.take()
        await job.fail("given up")
        await job.ack()  # it is settled already
        (dead,) = await producer.dead_jobs()
        assert (dead.value, dead.attempts, dead.death, dead.reason) == (
            *("hard", 3, "failed", "given up"),
        )
        assert await producer.revive(dead.id)
        assert not await producer.revive(dead.id)
        async with worker.take() as job:
            assert job.attempt == 1
        found = await counters(producer)
        assert (found["failed"], found["redelivered"], found["done"]) == (3, 2, 1)


async def fail_at(worker: queues.WorkQueue[Any], attempt: int) -> None:
    async with worker.take() as job:
        assert job.attempt == attempt
        raise LookupError("not found")


async def test_dead_jobs_can_be_dropped() -> None:
    async with served(policy=queues.Policy(max_attempts=1)) as (producer, worker, _):
        for number in range(3):
            await producer.put(number)
            await (await worker.take()).fail()
        assert [dead.value for dead in await producer.dead_jobs(2)] == [0, 1]
        assert await producer.drop_dead((await producer.dead_jobs())[0].id)
        assert [dead.value for dead in await producer.dead_jobs()] == [1, 2]


@pytest.mark.parametrize(
    ("act", "error", "text"),
    [
        (
            lambda queue, _: queue.put(1, priority="high"),
            TypeError,
            "priority is a whole number, not 'high'",
        ),
        (
            lambda queue, _: queue.put(1, priority=1.5),
            TypeError,
            "priority is a whole number, not 1.5",
        ),
        (
            lambda queue, _: queue.put(1, ttl_s="1"),
            TypeError,
            "ttl_s is a number of seconds, not '1'",
        ),
        (
            lambda queue, _: queue.put(1, priority=2**70),
            ValueError,
            "priority does not fit 64 bits",
        ),
        (
            lambda queue, _: queue.put(1, ttl_s=10**400),
            ValueError,
            "ttl_s is longer than a float can say",
        ),
        (lambda queue, _: queue.revive(None), TypeError, "job_id is a whole number, not None"),
        (lambda queue, _: queue.drop_dead("x"), TypeError, "job_id is a whole number, not 'x'"),
        (lambda queue, _: queue.dead_jobs("x"), TypeError, "most is a whole number, not 'x'"),
        (lambda _, job: job.fail(5), TypeError, "reason is a str, not 5"),
    ],
)
async def test_a_wrong_argument_is_named_and_harms_nothing(
    act: Callable[[Any, Any], Any], error: type[Exception], text: str
) -> None:
    async with served() as (producer, worker, _):
        await producer.put("x", priority=True, ttl_s=5)
        job = await worker.take()
        with pytest.raises(error) as wrong:
            await act(producer, job)
        assert str(wrong.value) == text
        await job.ack()
        assert (await counters(producer))["done"] == 1


@pytest.mark.parametrize(
    "said",
    [
        protocol.Put(1, b"", "high"),  # type: ignore[arg-type]
        protocol.Revive(1, None),  # type: ignore[arg-type]
        protocol.Accepted(1),
        protocol.Unask(0),
    ],
)
async def test_what_is_no_request_is_the_breach_of_that_client(
    said: object, caplog: pytest.LogCaptureFixture
) -> None:
    async with served() as (producer, _, server):
        async with aioipc.connect(server.address, codec=protocol) as foreign:
            await foreign.send(said)
            with pytest.raises(aioipc.ProtocolError, match="a breach of the protocol"):
                await foreign.receive()
        await producer.put(1)
    (record,) = caplog.records
    assert ": a client was refused: " in record.getMessage()
    assert record.exc_info is None


@pytest.mark.parametrize(
    ("act", "perhaps"),
    [
        (lambda queue: queue.put(1), "; the job may have been accepted"),
        (lambda queue: queue.revive(7), "; dead job 7 may have been revived"),
        (lambda queue: queue.drop_dead(7), "; dead job 7 may have been dropped"),
        (lambda queue: queue.dead_jobs(), ""),
        (lambda queue: queue.statistics(), ""),
    ],
)
async def test_what_may_have_come_of_a_request(act: Callable[[Any], Any], perhaps: str) -> None:
    async def hear_and_end(channel: aioipc.Channel[Any]) -> None:
        await channel.receive()

    async with (
        aioipc.listen("unix:", codec=protocol) as listener,
        serving(listener, hear_and_end),
        queues.open(listener.address) as queue,
    ):
        with pytest.raises(aioipc.PeerCrashed) as lost:
            await act(queue)
        what = f"{listener.address}: the server ended before it answered"
        assert str(lost.value) == what + perhaps


@pytest.mark.parametrize("reconnect", [False, True])
async def test_a_server_of_something_else(reconnect: bool) -> None:
    async with (
        aioipc.listen("unix:") as listener,
        serving(listener),
        asyncio.timeout(PATIENCE_S),
    ):
        acts: list[Callable[[queues.Queue[Any]], Any]] = [
            lambda queue: queue.put(1),
            lambda queue: queue.get(),
            lambda queue: queue.statistics(),
        ]
        for act in acts:
            async with queues.open(listener.address, reconnect=reconnect) as queue:
                for _ in range(2):
                    with pytest.raises(aioipc.CodecMismatch, match="'msgpack', this side 'queue'"):
                        await act(queue)


async def test_a_worker_that_is_killed(peers: Peers) -> None:
    async with served() as (producer, worker, server):
        victim = program(
            peers,
            f"""
            async with aioipc.queues.open("{server.address}") as queue:
                job = await queue.take()
                say(job.value, job.attempt)
                await hear()
            """,
        )
        await producer.put("precious")
        assert await victim.next_line() == "precious 1"
        taking = asyncio.ensure_future(anext_job(worker))
        await steps(3)
        assert not taking.done()
        victim.kill()
        job = await taking
        assert (job.value, job.attempt) == ("precious", 2)
        await job.ack()
        found = await counters(producer)
        assert (found["lost"], found["redelivered"], found["done"]) == (1, 1, 1)


async def anext_job(queue: queues.WorkQueue[Any]) -> queues.Job[Any]:
    return await queue.take()


async def test_a_lease_runs_out() -> None:
    async with (
        served(policy=queues.Policy(lease_s=0.05)) as (producer, slow, server),
        queues.open(server.address) as other,
    ):
        assert isinstance(other, queues.WorkQueue)
        await producer.put("x")
        first = await slow.take()
        second = await other.take()
        assert (first.attempt, second.attempt) == (1, 2)
        await second.ack()
        with pytest.raises(aioipc.DeadlineExceeded, match="lease ran out"):
            await first.ack()


async def test_time_to_live() -> None:
    async with served() as (producer, worker, _):
        await producer.put("stale", ttl_s=0.02)
        await producer.put("fresh", ttl_s=1_000)
        dead = await died(producer)
        assert (dead.value, dead.death) == ("stale", "expired")
        assert await worker.get() == "fresh"


async def test_a_full_queue_makes_producers_wait() -> None:
    async with served(policy=queues.Policy(max_jobs=2)) as (producer, worker, _):
        putting = [asyncio.ensure_future(producer.put(number)) for number in range(6)]
        await reach(worker, "waiting", 4)
        assert [task.done() for task in putting] == [True] * 2 + [False] * 4
        putting[2].cancel()
        await steps(3)
        assert [await worker.get() for _ in range(5)] == [0, 1, 3, 4, 5]
        await asyncio.wait(putting)
        assert (await counters(worker))["accepted"] == 5


async def test_a_producer_that_is_gone_leaves_no_wait() -> None:
    async with served(policy=queues.Policy(max_jobs=1)) as (producer, worker, server):
        await producer.put(0)
        async with queues.open(server.address) as other:
            putting = asyncio.ensure_future(other.put("never"))
            await reach(worker, "waiting", 1)
            await other.aclose()
            with pytest.raises(aioipc.ClosedError):
                await putting
        await reach(worker, "waiting", 0)
        assert await worker.get() == 0
        assert (await counters(worker))["accepted"] == 1


async def test_more_puts_than_may_wait_at_once() -> None:
    limits = aioipc.Limits(max_calls=4)
    async with (
        queues.serve("unix:", limits=limits) as server,
        queues.open(server.address, limits=limits) as queue,
    ):
        await asyncio.gather(*(queue.put(number) for number in range(100)))
        assert [await queue.get() for _ in range(100)] == list(range(100))


async def test_work_goes_to_who_is_idle() -> None:
    """A worker that is busy holds no more than its prefetch."""
    async with (
        served() as (producer, busy, server),
        queues.open(server.address) as idle,
    ):
        async with asyncio.timeout(PATIENCE_S):
            for number in range(10):
                await producer.put(number)
            job = await busy.take()
            assert [await idle.get() for _ in range(9)] == list(range(1, 10))
            await job.ack()


async def test_jobs_to_come_are_asked_for_together() -> None:
    jobs, prefetch = 200, 16
    async with served(prefetch=prefetch) as (producer, worker, _):
        for number in range(jobs):
            await producer.put(number)
        for number in range(jobs):
            async with worker.take() as job:
                assert job.value == number
        asked = worker._channel.statistics().messages_sent - jobs
        assert asked <= jobs // (prefetch // 2) + 3, "beside one acknowledgement for each"


async def test_prefetched_jobs_come_back_when_a_worker_leaves() -> None:
    async with served() as (producer, worker, server):
        for number in range(5):
            await producer.put(number)
        async with queues.open(server.address, prefetch=3) as greedy:
            assert await greedy.get() == 0
            await reach(producer, "leased", 3)
        assert sorted([await worker.get() for _ in range(4)]) == [1, 2, 3, 4]


@pytest.mark.parametrize("address", ADDRESSES)
async def test_a_job_that_kills_its_workers_takes_no_other_along(
    peers: Peers, address: str
) -> None:
    """What a worker has fetched and not begun costs no attempt, however it ends."""
    code = """
    async with aioipc.queues.open(sys.argv[1], prefetch=20) as queue:
        while True:
            job = await queue.take()
            if job.value == "poison":
                os.kill(os.getpid(), signal.SIGKILL)
            say(job.value, job.attempt)
            await job.ack()
    """
    async with served(address, policy=queues.Policy(max_attempts=3)) as (producer, _, server):
        for value in ("poison", *range(10)):
            await producer.put(value)
        for _ in range(3):
            assert await program(peers, code, server.address).ended() == -signal.SIGKILL
        peer = program(peers, code, server.address)
        assert [await peer.next_line() for _ in range(10)] == [f"{n} 1" for n in range(10)]
        (dead,) = await producer.dead_jobs()
        assert (dead.value, dead.attempts, dead.death) == ("poison", 3, "lost")
        peer.kill()
        await peer.ended()


async def test_several_at_a_time_cost_what_was_begun(peers: Peers) -> None:
    async with served() as (producer, worker, server):
        peer = program(
            peers,
            """
            async with aioipc.queues.open(sys.argv[1], prefetch=5) as queue:
                for _ in range(2):
                    say((await queue.take()).value)
                while (await queue.statistics()).counters["leased"] < 6:
                    pass
                os.kill(os.getpid(), signal.SIGKILL)
            """,
            server.address,
        )
        for number in range(10):
            await producer.put(number)
        assert await peer.ended() == -signal.SIGKILL
        attempts = []
        for _ in range(10):
            async with worker.take() as job:
                attempts.append(job.attempt)
        assert attempts == [2, 2, *[1] * 8]


@pytest.mark.parametrize("prefetch", [0, 5])
async def test_servers_that_close_cost_no_attempt(tmp_path: Path, prefetch: int) -> None:
    options: dict[str, Any] = {
        "journal": tmp_path / "jobs.db",
        "policy": queues.Policy(max_attempts=2),
        "prefetch": prefetch,
        "limits": aioipc.Limits(linger_s=0.01),
    }
    async with served(**options) as (producer, _, _):
        for number in range(4):
            await producer.put(number)
    for attempt in range(1, 6):
        async with served(**options) as (_, worker, server):
            job = await worker.take()
            assert (job.value, job.attempt) == (0, attempt)
            await server.aclose()
            with pytest.raises(aioipc.PeerCrashed):
                await job.ack()
    async with served(**options) as (producer, worker, _):
        attempts: dict[int, list[int]] = {}
        for _ in range(5):
            job = await worker.take()
            attempts.setdefault(job.value, []).append(job.attempt)
            await (job.ack() if job.value else job.fail("no"))
        assert attempts == {0: [6, 7], 1: [1], 2: [1], 3: [1]}
        (dead,) = await producer.dead_jobs()
        assert (dead.value, dead.attempts, dead.reason) == (0, 7, "no")


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("prefetch", [0, 5])
async def test_a_server_that_closes_waits_for_what_is_begun(
    tmp_path: Path, address: str, prefetch: int
) -> None:
    """And for nothing else: neither for what a worker has beside, nor for what is put."""
    options: dict[str, Any] = {"journal": tmp_path / "jobs.db", "prefetch": prefetch}
    async with served(address, **options) as (producer, worker, server):
        for number in range(4):
            await producer.put(number)
        first, second = await worker.take(), await worker.take()
        closing = asyncio.ensure_future(server.aclose())
        await until(lambda: worker.unusable and producer.unusable)
        for refused in (worker.take(), producer.put("late"), producer.statistics()):
            with pytest.raises(aioipc.EndOfStream, match="the server was closed"):
                await refused
        assert not closing.done()
        await first.ack()
        assert not closing.done()
        await second.fail("no")
        await closing
    async with served(address, **options) as (producer, worker, server):
        found = []
        for _ in range(3):
            async with worker.take() as job:
                found.append((job.value, job.attempt))
        assert sorted(found) == [(1, 2), (2, 1), (3, 1)]
        assert server.numbers["ready"] == 0


async def test_a_server_that_closes_does_not_wait_for_the_dead() -> None:
    async with served() as (producer, worker, server):
        await producer.put(1)
        await worker.take()
        closing = asyncio.ensure_future(server.aclose())
        await until(lambda: worker.peer_is_closing)
        worker._channel.abort()
        await closing
        assert server.numbers["lost"] == 1


async def test_nor_beyond_its_time() -> None:
    async with served(limits=aioipc.Limits(linger_s=0.01)) as (producer, worker, server):
        await producer.put(1)
        job = await worker.take()
        await server.aclose()
        with pytest.raises(aioipc.PeerCrashed, match=r"the server (was closed|ended) before it"):
            await job.ack()


async def test_a_close_that_is_cancelled_meanwhile_costs_no_attempt(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "journal": tmp_path / "jobs.db",
        "policy": queues.Policy(max_attempts=1),
    }
    async with served(**options) as (producer, worker, server):
        await producer.put(1)
        await worker.take()
        closing = asyncio.ensure_future(server.aclose())
        await until(lambda: worker.peer_is_closing)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
    async with served(**options) as (_, worker, _), worker.take() as job:
        assert (job.value, job.attempt) == (1, 2)


async def test_a_worker_that_is_stuck_keeps_what_it_began_with_only() -> None:
    policy = queues.Policy(lease_s=1_000)
    async with served(policy=policy, prefetch=5) as (producer, stuck, server):
        for number in range(4):
            await producer.put(number)
        job = await stuck.take()
        server._broker.advance(time.monotonic() + 1_000)
        server._changed.set()
        async with queues.open(server.address) as other:
            found = []
            for _ in range(4):
                async with other.take() as taken:
                    found.append((taken.value, taken.attempt))
            assert found == [(0, 2), (1, 1), (2, 1), (3, 1)]
            await producer.put("for others")
            assert await other.get() == "for others"
        with pytest.raises(aioipc.DeadlineExceeded, match="lease ran out"):
            await job.ack()
        await producer.put("for all")
        async with stuck.take() as job:
            assert (job.value, job.attempt) == ("for all", 1)


async def test_cancelled_takers_lose_nothing(chance: random.Random) -> None:
    total = scaled(150, full=20_000)
    found: list[int] = []
    async with served() as (producer, worker, _):
        putting = asyncio.ensure_future(put_all(producer, total))
        while len(found) < total:
            task = asyncio.ensure_future(worker.get())
            await steps(chance.randrange(12))
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                found.append(task.result())
        await putting
        assert sorted(found) == list(range(total))
        await reach(producer, "done", total)


async def put_all(queue: queues.Queue[Any], total: int) -> None:
    for number in range(total):
        await queue.put(number)


async def test_what_does_not_decode_fails() -> None:
    async with (
        served(policy=queues.Policy(max_attempts=1)) as (_, worker, server),
        queues.open(server.address, codec="raw") as raw,
    ):
        await raw.put(b"\xc1")
        with pytest.raises(aioipc.DecodeError):
            await worker.get()
        dead = await died(worker)
        assert dead.value is None
        assert "0xC1" in dead.reason


async def test_options_that_make_no_sense() -> None:
    async with served() as (producer, _, server):
        with pytest.raises(ValueError, match="does not fit 32 bits"):
            await producer.put(1, priority=2**40)
        with pytest.raises(ValueError, match="not some time to come"):
            await producer.put(1, ttl_s=-1)
        with pytest.raises(ValueError, match="no message types"):
            await producer.put(1, kind=1)
        with pytest.raises(ValueError, match="put_nowait"):
            producer.put_nowait(1)
        with pytest.raises(aioipc.FrameTooLarge):
            await producer.put(bytes(70 * 1024 * 1024))
        with pytest.raises(ValueError, match="is there when its server is"):
            await queues.open(server.address, create=True)
        with pytest.raises(ValueError, match="prefetch must be at least 0"):
            await queues.open(server.address, prefetch=-1)
        assert (await counters(producer))["accepted"] == 0
    with pytest.raises(ValueError, match="needs journal="):
        await queues.serve("unix:", fsync=True)
    with pytest.raises(aioipc.ConnectError):
        await queues.open("unix:nobody")


async def test_hostile_clients_hurt_themselves_only() -> None:
    async with served() as (producer, worker, server):
        for wrong in (
            protocol.Accepted(1),
            protocol.Ask(0),
            protocol.Unask(0),
            protocol.WorkOn(0),
            [1, 2, 3],
        ):
            async with aioipc.connect(server.address, codec=protocol) as channel:
                await channel.send(wrong)
                with pytest.raises(aioipc.IPCError):
                    await channel.receive()
        async with aioipc.connect(server.address, codec=protocol) as channel:
            for nonsense in (protocol.Done(1, 77), protocol.Fail(2, 78), protocol.Revive(3, 9)):
                await channel.send(nonsense)
                assert await channel.receive() == protocol.Settled(nonsense.id, held=False)
        await producer.put("still served")
        assert await worker.get() == "still served"


# The journal


async def test_a_journal_remembers(tmp_path: Path) -> None:
    journal = tmp_path / "jobs.db"
    async with served(journal=journal, policy=queues.Policy(max_attempts=2)) as (
        *(producer, worker, _),
    ):
        for number in range(6):
            await producer.put(number, priority=-number, ttl_s=1_000)
        await (await worker.take()).ack()
        await worker.take()  # and never says a word again
        for _ in range(2):
            job = await worker.take()
            await job.fail()
    async with served(journal=journal, fsync=True) as (producer, worker, _):
        found = await counters(producer)
        assert (found["ready"], found["dead"], found["accepted"]) == (4, 1, 0)
        attempts = {}
        for _ in range(4):
            job = await worker.take()
            attempts[job.value] = job.attempt
            await job.ack()
        assert attempts == {1: 2, 3: 1, 4: 1, 5: 1}
        await producer.put("new")
        assert (await worker.take()).id == 7, "no number is given twice"
    assert journal.stat().st_mode & 0o777 == 0o600


async def test_a_journal_of_the_first_version(tmp_path: Path) -> None:
    journal = tmp_path / "jobs.db"
    async with served(journal=journal) as (producer, _, _):
        await producer.put("old")
    change(journal, "ALTER TABLE jobs DROP COLUMN spared", "PRAGMA user_version = 1")
    for attempt in (1, 2):
        async with served(journal=journal) as (_, worker, _):
            job = await worker.take()
            assert (job.value, job.attempt) == ("old", attempt)


async def test_an_opening_that_is_cancelled_leaves_the_journal(tmp_path: Path) -> None:
    began, disk = threading.Event(), threading.Event()

    class Slow(Journal):
        def _open(self) -> tuple[list[Any], int]:
            began.set()
            disk.wait()
            return super()._open()

    path = tmp_path / "jobs.db"
    opening = asyncio.ensure_future(Slow(str(path)).open())
    await asyncio.to_thread(began.wait)
    opening.cancel()
    await steps(3)
    disk.set()
    await asyncio.wait([opening])
    async with queues.serve("unix:", journal=path):
        pass


async def test_one_journal_for_one_server(tmp_path: Path) -> None:
    journal = tmp_path / "jobs.db"
    async with served(journal=journal) as (producer, _, _):
        await producer.put(1)
        with pytest.raises(aioipc.ResourceExhausted, match="database is locked"):
            await queues.serve("unix:", journal=journal)


def make_foreign(path: Path) -> None:
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as file:
        file.execute("CREATE TABLE other (x)")
        file.commit()


def change(path: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as file:
        for statement in statements:
            file.execute(statement)


def overwrite(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


WRONG_JOURNALS: dict[str, tuple[Callable[[Path], object], str]] = {
    "text": (lambda path: path.write_bytes(b"this is no journal" * 100), "not a database"),
    "another program's": (make_foreign, "this is another program's file"),
    "newer": (lambda path: change(path, "PRAGMA user_version = 3"), "it is of version 3, not 2"),
    "truncated": (lambda path: os.truncate(path, path.stat().st_size // 2), "malformed|damaged"),
    "cut in the header": (lambda path: os.truncate(path, 50), "malformed|not a database"),
    "a page of zeros": (lambda path: overwrite(path, 4096, bytes(4096)), "malformed|damaged"),
    "a page of noise": (lambda path: overwrite(path, 8192, b"\xa5" * 4096), "malformed|damaged"),
    "another table": (
        lambda path: change(path, "DROP TABLE jobs", "CREATE TABLE jobs (id, body)"),
        "no such column: priority",
    ),
    "an unknown state": (
        lambda path: change(path, "UPDATE jobs SET state = 'lost'"),
        "it is damaged: 'lost' is not a valid State",
    ),
    "no number": (
        lambda path: change(path, "UPDATE facts SET value = 'x' WHERE name = 'last'"),
        "damaged",
    ),
}


@pytest.mark.parametrize(("spoil", "reason"), WRONG_JOURNALS.values(), ids=WRONG_JOURNALS.keys())
async def test_a_wrong_journal_is_refused_and_left_as_it_is(
    tmp_path: Path, spoil: Callable[[Path], object], reason: str
) -> None:
    path = tmp_path / "jobs.db"
    async with queues.serve("unix:", journal=path) as server, queues.open(server.address) as queue:
        for number in range(20):
            await queue.put([number, bytes(2_000)])
    spoil(path)
    before = path.read_bytes()
    with pytest.raises(aioipc.ResourceExhausted, match=f"the journal {path}: .*({reason})"):
        await queues.serve("unix:", journal=path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["jobs.db"]


@pytest.mark.parametrize("name", ["jobs.db", ":memory:", "file:jobs?mode=memory", b"jobs.db"])
async def test_whatever_a_journal_is_called_it_remembers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    async with served(journal=name) as (producer, _, _):
        await producer.put(1)
    assert os.listdir(tmp_path) == [os.fsdecode(name)]
    async with asyncio.timeout(PATIENCE_S), served(journal=name) as (_, worker, _):
        assert await worker.get() == 1


async def test_a_journal_nowhere(tmp_path: Path) -> None:
    with pytest.raises(aioipc.ResourceExhausted, match=r"unable to open|No such file"):
        await queues.serve("unix:", journal=tmp_path / "no" / "where")


def limit(server: queues.QueueServer, pages: int) -> None:
    """Let the journal grow no more, as on a disk that is full."""
    assert server._journal is not None
    assert server._journal._file is not None
    server._journal._file.execute(f"PRAGMA max_page_count = {pages}")


async def test_a_full_disk_refuses_jobs_and_serves_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = tmp_path / "jobs.db"
    async with served(journal=journal) as (producer, worker, server):
        await producer.put("small")
        waiting = await worker.take()
        limit(server, 1)
        puts = [asyncio.ensure_future(producer.put([n, bytes(100_000)])) for n in range(20)]
        taking = asyncio.ensure_future(worker.take())
        for put in puts:
            with pytest.raises(aioipc.ResourceExhausted, match=r"jobs\.db: .*full"):
                await put
        found = await counters(producer)
        assert (found["accepted"], found["ready"], found["leased"]) == (1, 0, 1)
        await waiting.ack()
        assert not taking.done()
        limit(server, 1_000_000)
        await producer.put("there is room")
        job = await taking
        assert (job.value, job.attempt) == ("there is room", 1)
        await job.ack()
        await reach(producer, "done", 2)
    assert [record.getMessage().partition(": ")[2] for record in caplog.records][1:] == [
        "the journal has room again"
    ]
    async with queues.serve("unix:", journal=journal) as server:
        assert server.numbers["ready"] == 0


@pytest.mark.leaves_names
async def test_no_room_for_anything_keeps_answers_back(peers: Peers, tmp_path: Path) -> None:
    """RLIMIT_FSIZE stands for the full disk: not even an acknowledgement can be written down."""
    address = f"unix:{tmp_path}/jobs"
    peer = program(
        peers,
        """
        import resource
        async with aioipc.queues.serve(sys.argv[1], journal=sys.argv[2]):
            say("serving")
            _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
            while line := await hear():
                resource.setrlimit(resource.RLIMIT_FSIZE, (int(line), most))
                say("limited")
        """,
        address,
        tmp_path / "jobs.db",
    )
    assert await peer.next_line() == "serving"
    async with queues.open(address) as producer, queues.open(address) as worker:
        await producer.put("a")
        job = await worker.take()
        peer.tell("1")
        assert await peer.next_line() == "limited"
        acknowledging = asyncio.ensure_future(job.ack())
        with pytest.raises(aioipc.ResourceExhausted, match=r"jobs\.db"):
            await producer.put("b")
        assert (await producer.statistics()).counters["done"] == 1
        assert not acknowledging.done()
        peer.tell(str(2**40))
        assert await peer.next_line() == "limited"
        await producer.put("c")
        await acknowledging
        assert await worker.get() == "c"
    peer.tell("")
    assert await peer.ended() == 0


# Servers that come and go


@contextlib.asynccontextmanager
async def lasting(address: str, **options: Any) -> AsyncIterator[queues.ReconnectingQueue[Any]]:
    async with queues.open(address, reconnect=True, **options) as queue:
        assert isinstance(queue, queues.ReconnectingQueue)
        yield queue


async def test_producers_and_workers_outlive_a_server(tmp_path: Path) -> None:
    address, journal = f"unix:{tmp_path}/jobs", tmp_path / "jobs.db"
    limits = aioipc.Limits(linger_s=0)
    server = await queues.serve(address, journal=journal, limits=limits)
    async with lasting(address) as producer, lasting(address) as worker:
        await producer.put("kept")
        job = await worker.take()
        await server.aclose()
        with pytest.raises(aioipc.PeerCrashed):
            await job.ack()
        puts = [asyncio.ensure_future(producer.put(number)) for number in range(5)]
        taking = asyncio.ensure_future(worker.take())
        await steps(20)
        assert not any(put.done() for put in puts)
        async with queues.serve(address, journal=journal):
            await asyncio.gather(*puts)
            again = await taking
            assert (again.value, again.attempt) == ("kept", 2)
            await again.ack()
            assert sorted([await worker.get() for _ in range(5)]) == list(range(5))
            assert (await producer.statistics()).counters["accepted"] == 5
            assert await producer.dead_jobs() == []
            assert not await producer.revive(1)
            assert not await producer.drop_dead(1)


async def test_a_put_that_nobody_answered_may_have_been_accepted(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/jobs"
    server = await queues.serve(address, policy=queues.Policy(max_jobs=1))
    async with lasting(address) as producer, lasting(address) as looker:
        await producer.put("first")
        put = asyncio.ensure_future(producer.put("second"))
        async with asyncio.timeout(PATIENCE_S):
            while not (await looker.statistics()).counters["waiting"]:
                pass
        for client in server._clients:
            client.channel.abort()
        with pytest.raises(aioipc.PeerCrashed, match="the job may have been accepted"):
            await put
        await server.aclose()
        async with queues.serve(address):
            await producer.put("third")
            assert await looker.get() == "third"


async def test_a_restart_in_good_order_fails_nothing(tmp_path: Path) -> None:
    """Neither a put, nor a job that is begun; and none is given twice."""
    address, journal = f"unix:{tmp_path}/jobs", tmp_path / "jobs.db"
    policy = queues.Policy(max_jobs=1)
    server = await queues.serve(address, journal=journal, policy=policy)
    async with lasting(address) as producer, lasting(address, prefetch=4) as worker:
        await producer.put("first")
        job = await worker.take()
        old = worker._renewal.current
        puts = [asyncio.ensure_future(producer.put(number)) for number in range(5)]
        await until(lambda: server.numbers["waiting"])
        closing = asyncio.ensure_future(server.aclose())
        await until(lambda: old.peer_is_closing)
        next_ = asyncio.ensure_future(worker.take())
        await steps(20)
        assert not any(each.done() for each in (closing, next_, *puts))
        await job.ack()
        await closing
        async with queues.serve(address, journal=journal):
            await asyncio.gather(*puts)
            found = [await next_]
            await found[0].ack()
            for _ in range(4):
                found.append(await worker.take())
                await found[-1].ack()
            assert sorted(each.value for each in found) == [*range(5)]
            assert {each.attempt for each in found} == {1}
            assert worker._renewal.current is not old


async def test_nobody_is_let_in_before_the_journal_is_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who was would be sent away again where another server still has it."""
    address, found = f"unix:{tmp_path}/jobs", []
    open_journal = Journal.open

    async def open_late(self: Journal) -> Any:
        with pytest.raises(aioipc.ConnectError) as refused:
            await queues.open(address)
        found.append(refused.value)
        return await open_journal(self)

    monkeypatch.setattr(Journal, "open", open_late)
    async with queues.serve(address, journal=tmp_path / "jobs.db"):
        assert len(found) == 1


async def test_a_server_that_never_said_a_word_accepted_nothing(tmp_path: Path) -> None:
    path = tmp_path / "jobs"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        queue = await queues.open(f"unix:{path}", reconnect=True)
        put = asyncio.ensure_future(queue.put(1))
        await steps(20)
    path.unlink()
    async with queues.serve(f"unix:{path}"):
        await put
        assert await queue.get() == 1
        await queue.aclose()


async def test_closing_while_nobody_serves(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/jobs"
    server = await queues.serve(address)
    queue = await queues.open(address, reconnect=True)
    await server.aclose()
    getting = asyncio.ensure_future(queue.get())
    putting = asyncio.ensure_future(queue.put(1))
    await steps(20)
    await queue.aclose()
    for waiting in (getting, putting):
        with pytest.raises(aioipc.ClosedError):
            await waiting
    await queue.aclose()
    with pytest.raises(aioipc.ClosedError):
        await queue.put(2)


async def test_whoever_gives_up_lets_others_connect(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/jobs"
    server = await queues.serve(address)
    async with lasting(address) as queue:
        await server.aclose()
        getting = [asyncio.ensure_future(queue.get()) for _ in range(3)]
        await steps(20)
        getting[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await getting[0]
        async with queues.serve(address), queues.open(address) as producer:
            await producer.put("a")
            await producer.put("b")
            assert sorted(await asyncio.gather(*getting[1:])) == ["a", "b"]


async def test_what_reconnecting_is_not_for() -> None:
    with pytest.raises(ValueError, match="the kernel keeps this queue, so there is no reconnect="):
        _ = queues.open("mq:/none", reconnect=True)
    with pytest.raises(aioipc.ConnectError):
        await queues.open("unix:nobody", reconnect=True)


# Chaos

LEAST_TOLD = 20_000
"""How many bytes of history prove something; a busy machine takes longer to write them."""

SERVER = """
policy = aioipc.queues.Policy(max_jobs=50, max_attempts=10_000)
address, journal, _ = sys.argv[1:]
while True:
    try:
        async with aioipc.queues.serve(address, journal=journal, policy=policy) as server:
            await server.wait()
    except aioipc.ResourceExhausted:
        await asyncio.sleep(0.01)
"""

TELL = """
history = os.open(sys.argv[3], os.O_WRONLY | os.O_APPEND)

def tell(*words):
    os.write(history, (" ".join(map(str, words)) + "\\n").encode())
"""

PRODUCER = f"""
{TELL}
lasts = bool(int(sys.argv[4]))
number = 0
while True:
    try:
        async with aioipc.queues.open(sys.argv[1], reconnect=lasts) as queue:
            while True:
                number += 1
                job = f"{{os.getpid()}}-{{number}}"
                try:
                    await queue.put(job, priority=number % 3)
                except aioipc.PeerCrashed:
                    if not lasts:
                        raise
                else:
                    tell("accepted", job)
    except (aioipc.IPCError, OSError):
        await asyncio.sleep(0.01)
"""

WORKER = f"""
{TELL}
prefetch, lasts = map(int, sys.argv[4:])
while True:
    try:
        async with aioipc.queues.open(sys.argv[1], prefetch=prefetch, reconnect=lasts) as queue:
            while True:
                job = await queue.take()
                tell("taken", job.value, job.attempt)
                try:
                    await job.ack()
                except aioipc.PeerCrashed:
                    if not lasts:
                        raise
                else:
                    tell("done", job.value)
    except (aioipc.IPCError, OSError):
        await asyncio.sleep(0.01)
"""


@pytest.mark.slow
@pytest.mark.leaves_names
@pytest.mark.timeout(patience_s(60))
async def test_chaos(peers: Peers, tmp_path: Path, chance: random.Random) -> None:
    """Producers, workers and the server are killed at random under load; some reconnect."""
    address = f"unix:chaos-{os.getpid()}"
    told = tmp_path / "history"
    told.touch()
    arguments = (address, tmp_path / "jobs.db", told)
    servers, producers, workers = (
        Nursery(peers, code, *arguments) for code in (SERVER, PRODUCER, WORKER)
    )
    starts: list[Callable[[], int]] = [
        servers.start,
        functools.partial(producers.start, 0),
        functools.partial(producers.start, 1),
        functools.partial(workers.start, 0, 0),
        functools.partial(workers.start, 0, 1),
        functools.partial(workers.start, 3, 1),
    ]
    running = [start() for start in starts]
    kills = 0
    ends_s = time.monotonic() + max(4.0, 60 * SCALE)
    while time.monotonic() < ends_s or told.stat().st_size < LEAST_TOLD:
        await asyncio.sleep(chance.uniform(0.02, 0.2))
        index = chance.randrange(len(running))
        os.kill(running[index], signal.SIGKILL)
        kills += 1
        running[index] = starts[index]()
    for pid in running[1:]:
        os.kill(pid, signal.SIGKILL)
    survivors = await drain(address)
    os.kill(running[0], signal.SIGKILL)

    history = History()
    for line in told.read_text().splitlines():
        history.hear(*line.split())
    for job, attempt in survivors:
        history.hear("taken", job, attempt)
    lost = history.accepted - history.attempts.keys()
    assert not lost, f"accepted and lost: {sorted(lost)}"
    assert kills >= 10
    assert len(history.accepted) > 50
    assert len(history.done) > 50
    print(f"{kills} kills, {len(history.accepted)} accepted, {len(history.done)} done")


class History:
    """What producers and workers said, and what must never be among it."""

    def __init__(self) -> None:
        self.accepted: set[str] = set()
        self.done: set[str] = set()
        self.attempts: dict[str, int] = {}

    def hear(self, event: str = "", job: str = "", attempt: str | int = 0) -> None:
        if event == "accepted":
            self.accepted.add(job)
        elif event == "done":
            self.done.add(job)
        elif event == "taken":
            assert job not in self.done, f"{job} was given again after its acknowledgement"
            assert int(attempt) > self.attempts.get(job, 0), f"a delivery of {job} was not counted"
            self.attempts[job] = int(attempt)


async def drain(address: str) -> list[tuple[str, int]]:
    """What is still in the queue, after the last death."""
    while True:
        try:
            async with queues.open(address) as queue:
                assert isinstance(queue, queues.WorkQueue)
                found = []
                while (await queue.statistics()).messages:
                    job = await queue.take()
                    found.append((job.value, job.attempt))
                    await job.ack()
                return found
        except (aioipc.ConnectError, aioipc.PeerCrashed):
            await asyncio.sleep(0.02)


async def test_a_job_that_is_too_long_for_one_worker_is_for_others() -> None:
    limits = aioipc.Limits(max_message_bytes=10_000)
    async with (
        served() as (producer, worker, server),
        queues.open(server.address, limits=limits) as small,
        asyncio.timeout(PATIENCE_S),
    ):
        short = asyncio.ensure_future(small.get())
        await producer.statistics()  # the server has heard that one is wanted
        for size in (20_000, 15_000, 30_000):
            await producer.put(b"x" * size)
        assert (await counters(producer))["ready"] == 3
        await producer.put(b"short")
        assert await short == b"short"
        for size in (20_000, 15_000, 30_000):
            async with worker.take() as job:
                assert (len(job.value), job.attempt) == (size, 1)


async def test_a_job_that_could_be_given_to_nobody_is_refused() -> None:
    limits = aioipc.Limits(max_message_bytes=10_000)
    async with served(limits=limits) as (producer, worker, _):
        with pytest.raises(ValueError, match="would be over the limit"):
            await producer.put(b"x" * 9_960)
        await producer.put(b"x" * 9_900)
        assert len(await worker.get()) == 9_900


async def test_an_answer_that_is_too_long_is_refused() -> None:
    limits = aioipc.Limits(max_message_bytes=10_000)
    policy = queues.Policy(max_attempts=1)
    async with served(policy=policy) as (producer, worker, server):
        await producer.put(b"x" * 20_000)
        await (await worker.take()).fail("no")
        async with queues.open(server.address, limits=limits) as small:
            async with asyncio.timeout(PATIENCE_S):
                with pytest.raises(ValueError, match="the answer is longer than it may be"):
                    await small.dead_jobs()  # type: ignore[attr-defined]
                assert (await small.statistics()).messages == 0


async def test_a_reason_that_is_no_text() -> None:
    async with served(policy=queues.Policy(max_attempts=1)) as (producer, worker, _):
        await producer.put(1)
        with pytest.raises(FileNotFoundError):
            async with worker.take():
                raise FileNotFoundError("no \udcff")
        assert (await died(producer)).reason == r"FileNotFoundError: no \udcff"


async def test_a_reason_that_cannot_be_told() -> None:
    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    class Codec:
        name, format = "unspeakable", None

        def encode(self, obj: Any) -> bytes:
            return b""

        def decode(self, buffer: Any) -> Any:
            raise Unspeakable

    async with served(policy=queues.Policy(max_attempts=1)) as (producer, worker, server):
        await producer.put(1)
        with pytest.raises(Unspeakable):
            async with worker.take():
                raise Unspeakable
        assert (await died(producer)).reason.startswith("Unspeakable: ")
        async with queues.open(server.address, codec=Codec()) as other:
            await producer.put(2)
            with pytest.raises(aioipc.DecodeError, match="the unspeakable codec cannot decode"):
                await other.get()
            await reach(producer, "dead", 2)


async def test_what_was_said_of_a_job_is_said_though_nobody_waits() -> None:
    """Also while there is no room to say it."""
    async with served() as (producer, worker, _):
        await producer.put(1)
        job = await worker.take()
        acknowledging = asyncio.ensure_future(job.ack())
        await steps(1)
        acknowledging.cancel()
        await asyncio.wait([acknowledging])
        await reach(producer, "done", 1)


async def test_what_was_said_without_room_for_it_leaves_before_the_worker_does() -> None:
    """It stands behind a job that is longer than what the kernel takes at once."""
    async with served() as (producer, _, server):
        await producer.put(1)
        worker = await queues.open(server.address)
        job = await worker.take()
        saying = [asyncio.ensure_future(worker.put(bytes(10_000_000)))]
        await steps(1)
        saying.append(asyncio.ensure_future(job.ack()))
        await steps(1)
        for each in saying:
            each.cancel()
        await asyncio.wait(saying)
        await worker.aclose()
        await reach(producer, "leased", 0)
        found = await counters(producer)
        assert (found["done"], found["lost"]) == (1, 0)


async def test_a_worker_leaves_a_server_that_does_not_listen(peers: Peers) -> None:
    server = program(
        peers,
        """
        from aioipc import queues
        async with queues.serve("unix:") as server:
            say(server.address)
            await hear()
        """,
    )
    worker = await queues.open(await server.next_line(), limits=aioipc.Limits(linger_s=0.1))
    await worker.put(1)
    job = await worker.take()
    server.signal(signal.SIGSTOP)
    saying = [asyncio.ensure_future(worker.put(bytes(10_000_000)))]
    await steps(1)
    saying.append(asyncio.ensure_future(job.ack()))
    async with asyncio.timeout(PATIENCE_S):
        await worker.aclose()
        for each in saying:
            with pytest.raises(aioipc.ClosedError):
                await each
    server.signal(signal.SIGCONT)
    server.tell("close")
    assert await server.ended() == 0


@pytest.mark.parametrize("how", ["in a cancelled scope", "cancelled"])
async def test_a_worker_that_is_left_in_a_hurry_holds_no_job(how: str) -> None:
    async with served() as (producer, other, server):
        await producer.put(1)
        worker = await queues.open(server.address)
        await worker.take()
        if how == "cancelled":
            closing = asyncio.ensure_future(worker.aclose())
            await steps(1)
            closing.cancel()
            await asyncio.wait([closing])
        else:
            with anyio.CancelScope() as scope:
                scope.cancel()
                await worker.aclose()
        async with asyncio.timeout(PATIENCE_S):
            assert await other.get() == 1


async def test_what_a_worker_has_not_begun_when_it_leaves_has_cost_no_attempt() -> None:
    async with served(prefetch=10) as (producer, worker, server):
        for number in range(3):
            await producer.put(number)
        await worker.get()
        await until(lambda: len(worker._given) == 2)
        await worker.aclose()
        async with queues.open(server.address) as next_:
            assert (await next_.take()).attempt == 1


async def test_a_journal_that_fails_ends_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: Any) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
        raise error

    async with served(journal=tmp_path / "jobs.db") as (producer, _, server):
        with monkeypatch.context() as patch:
            patch.setattr(Journal, "_write", fails)
            with pytest.raises(aioipc.PeerCrashed):
                await producer.put(1)
        with pytest.raises(aioipc.ConnectError):
            await queues.open(server.address)
        assert "is not served any more: [Errno" in caplog.text


@pytest.mark.leaves_names
async def test_why_a_job_is_dead_that_was_out_when_its_server_died(
    peers: Peers, tmp_path: Path
) -> None:
    address, journal = f"unix:{tmp_path}/jobs", tmp_path / "jobs.db"
    peer = program(
        peers,
        """
        policy = aioipc.queues.Policy(max_attempts=1)
        async with aioipc.queues.serve(sys.argv[1], journal=sys.argv[2], policy=policy):
            say("serving")
            await hear()
        """,
        address,
        journal,
    )
    assert await peer.next_line() == "serving"
    async with queues.open(address, prefetch=5) as queue:
        for number in range(4):
            await queue.put(number)
        await queue.take()
        peer.kill()
        await peer.ended()
    async with served(journal=journal, policy=queues.Policy(max_attempts=1)) as (producer, _, _):
        (dead,) = await producer.dead_jobs()
        assert (dead.death, dead.reason) == ("lost", "the server ended while a worker had it")
        assert (await counters(producer))["ready"] == 3, "nobody began with those"


async def test_numbers_are_given_once_whatever_was_done_last(tmp_path: Path) -> None:
    journal = tmp_path / "jobs.db"
    async with served(journal=journal) as (producer, worker, _):
        for number in range(12):
            await producer.put(number)
        for job in reversed([await worker.take() for _ in range(12)]):
            await job.ack()
    async with served(journal=journal) as (producer, worker, _):
        await producer.put("new")
        assert (await worker.take()).id == 13


async def test_more_puts_than_may_wait_are_refused_one_by_one() -> None:
    policy = queues.Policy(max_jobs=1)
    limits = aioipc.Limits(max_calls=16)
    async with served(policy=policy, limits=limits) as (producer, _, server):
        await producer.put(1)
        async with aioipc.connect(server.address, codec=protocol) as channel:
            await channel.send_many([protocol.Put(number, b"", 0) for number in range(1, 100)])
            answers = [await channel.receive() for _ in range(99 - 2 * 16)]
        assert {(type(each), each.is_full) for each in answers} == {(protocol.Refused, True)}
        assert (await counters(producer))["ready"] == 1
