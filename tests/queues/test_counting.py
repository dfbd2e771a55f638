"""What a served queue counts for `aioipc top`."""

from __future__ import annotations

import os

import pytest

from aioipc import queues
from aioipc.kernel.pages import Counted, read_pages
from aioipc.kernel.statistics import Kind


def served() -> list[Counted]:
    (reading,) = read_pages([os.getpid()])
    return [row for row in reading.rows if row.kind is Kind.QUEUE and not row.is_sum]


@pytest.mark.asyncio
async def test_what_a_queue_holds_and_has_done() -> None:
    before = served() if read_pages([os.getpid()]) else []
    async with queues.serve("unix:jobs") as server:
        async with queues.open("unix:jobs") as queue:
            for number in range(5):
                await queue.put(number)
            job = await queue.take()
            (row,) = (each for each in served() if each not in before)
            assert row.name == server.address
            assert (row.counts["ready"], row.counts["leased"]) == (4, 1)
            assert (row.counts["accepted"], row.counts["given"]) == (5, 1)
            await job.ack()
            numbers = (await queue.statistics()).counters
        (row,) = served()
        assert {name: numbers[name] for name in row.counts} == row.counts
        assert row.counts["done"] == 1
    assert served() == []
