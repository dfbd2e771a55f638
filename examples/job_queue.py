"""A job queue whose workers may crash: what one leaves undone, another does.

Run it with ``python job_queue.py``: it serves a queue with a journal and starts two workers. One
of them is killed in the middle of a job, by signal 9; the other one does that job again.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import aioipc
from aioipc import queues

JOBS = 6
FATAL = 3


async def work(address: str, name: str) -> None:
    """Take jobs until the queue ends; the worker called "clumsy" does not survive one of them."""
    async with queues.open(address) as queue:
        while True:
            async with queue.take() as job:
                if job.value == FATAL and name == "clumsy":
                    signal.raise_signal(signal.SIGKILL)
                print(f"{name} did job {job.value} at attempt {job.attempt}", flush=True)
                await asyncio.sleep(0.01)


async def start_worker(address: str, name: str) -> asyncio.subprocess.Process:
    """A worker in a process of its own."""
    return await asyncio.create_subprocess_exec(sys.executable, __file__, address, name)


async def wait_done(queue: queues.Queue[int]) -> Mapping[str, int]:
    """Wait until all jobs are done, and return what has happened to them."""
    while True:
        counters = (await queue.statistics()).counters
        if counters["done"] == JOBS:
            return counters
        await asyncio.sleep(0.02)


async def main() -> None:
    """Serve, put, watch, and say what became of the jobs."""
    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder) / "jobs.db"
        async with (
            queues.serve("unix:", journal=journal) as server,
            queues.open(server.address) as queue,
        ):
            clumsy = await start_worker(server.address, "clumsy")
            for number in range(JOBS):
                await queue.put(number)
            print(f"clumsy ended with status {await clumsy.wait()}", flush=True)

            careful = await start_worker(server.address, "careful")
            counters = await wait_done(queue)
            careful.terminate()
            await careful.wait()
            print(f"{counters['done']} jobs done, {counters['redelivered']} given twice")


if __name__ == "__main__":
    aioipc.run(work(*sys.argv[1:]) if len(sys.argv) == 3 else main())
