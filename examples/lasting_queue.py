"""A job queue whose server is killed under its users: a journal keeps the jobs, and both wait.

Run it with ``python lasting_queue.py``: it starts a server with a journal, a producer and a worker
that reconnect, kills the server by signal 9 in the middle of it, and starts another one.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from pathlib import Path

import aioipc
from aioipc import queues

JOBS = 6


async def serve(address: str, journal: str) -> None:
    """Serve the queue until a signal ends it."""
    async with queues.serve(address, journal=journal):
        print("serving", flush=True)
        await asyncio.Event().wait()


async def start_server(address: str, journal: Path) -> asyncio.subprocess.Process:
    """A server in a process of its own, once it serves."""
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__, address, str(journal)), stdout=asyncio.subprocess.PIPE
    )
    assert server.stdout is not None
    await server.stdout.readline()
    return server


async def put(queue: queues.Queue[int]) -> None:
    """Put all jobs, each of them until a server has said that it is in the journal."""
    for number in range(JOBS):
        while True:
            try:
                await queue.put(number)
                break
            except aioipc.PeerCrashed:
                pass  # it may be there twice now, which does no harm here


async def work(queue: queues.Queue[int], halfway: asyncio.Event) -> set[int]:
    """Do jobs until each was done once, and return them."""
    done: set[int] = set()
    while len(done) < JOBS:
        job = await queue.take()
        if job.value == JOBS // 2:
            halfway.set()
            await asyncio.sleep(0.1)  # long enough for the server to be killed meanwhile
        try:
            await job.ack()
        except aioipc.PeerCrashed:
            print(f"job {job.value} was done for a server that is gone", flush=True)
        else:
            done.add(job.value)
    return done


async def main() -> None:
    """Start, kill, start again, and say what became of the jobs."""
    with tempfile.TemporaryDirectory() as folder:
        address, journal = f"unix:{folder}/jobs", Path(folder) / "jobs.db"
        server = await start_server(address, journal)
        halfway = asyncio.Event()
        async with (
            queues.open(address, reconnect=True) as producing,
            queues.open(address, reconnect=True) as working,
            asyncio.TaskGroup() as tasks,
        ):
            tasks.create_task(put(producing))
            result = tasks.create_task(work(working, halfway))
            await halfway.wait()
            server.send_signal(signal.SIGKILL)
            print(f"the server ended with status {await server.wait()}", flush=True)
            server = await start_server(address, journal)
            done = await result
        print(f"{len(done)} jobs done", flush=True)
        server.terminate()
        await server.wait()


if __name__ == "__main__":
    aioipc.run(serve(*sys.argv[1:]) if len(sys.argv) == 3 else main())
