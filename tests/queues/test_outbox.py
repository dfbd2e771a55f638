"""What is kept for a peer that does not keep up: bounded, and nobody waits for it in vain."""

from __future__ import annotations

import asyncio

import pytest

import aioipc
from aioipc import PeerCrashed, queues
from aioipc.queues._outbox import Outbox
from tests.children import PATIENCE_S, Peers
from tests.programs import program
from tests.scale import patience_s

pytestmark = pytest.mark.asyncio

LARGE = bytes(100_000)

GETS = """
async with aioipc.queues.open(sys.argv[1], prefetch=3_000) as queue:
    for _ in range(int(sys.argv[2])):
        await queue.get()
    say("all of them")
"""


async def test_who_waits_for_room_hears_of_the_end() -> None:
    near, far = aioipc.pair("unix", codec="raw")
    async with near:
        outbox = Outbox(near, pytest.fail)
        sending = asyncio.create_task(outbox.run())
        for _ in range(300):
            outbox.post(LARGE)
        waiting = asyncio.create_task(outbox.room())
        await asyncio.sleep(0)
        assert not waiting.done()
        far.abort()
        async with asyncio.timeout(PATIENCE_S):
            await waiting
            with pytest.raises(PeerCrashed):
                await sending


@pytest.mark.timeout(patience_s(60))
async def test_two_that_have_much_to_say_do_not_wait_for_each_other(peers: Peers) -> None:
    """A worker that settles each job at once, and a server that gives it many large ones."""
    jobs, job = 6_000, bytes(20_000)
    policy = queues.Policy(max_jobs=jobs)
    async with (
        queues.serve("unix:", policy=policy) as server,
        queues.open(server.address) as producer,
    ):
        async with asyncio.TaskGroup() as tasks:
            for _ in range(jobs):
                tasks.create_task(producer.put(job))
        worker = program(peers, GETS, server.address, jobs)
        assert await worker.next_line() == "all of them"
        assert await worker.ended() == 0
