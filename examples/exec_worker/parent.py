"""A parent that gives jobs to a worker program over ``exec:`` and survives its crash.

Run it with ``python parent.py``. The worker is an ordinary program (worker.py). When it dies, the
parent knows at once and why; it starts another one and goes on with the next job.
"""

import shlex
import sys
from collections import deque
from pathlib import Path

import aioipc

WORKER = Path(__file__).with_name("worker.py")
ADDRESS = "exec:" + shlex.join([sys.executable, str(WORKER)])


async def work_off(jobs: deque[object]) -> int:
    """Let one worker do jobs until none is left or it dies; return how many it did."""
    done = 0
    async with aioipc.connect(ADDRESS) as worker:
        while jobs:
            job = jobs.popleft()
            try:
                await worker.send(job)
                answer = await worker.receive()
            except (aioipc.PeerCrashed, aioipc.EndOfStream) as death:
                print(f"job {job!r} was lost: {death}")
                break
            print(f"job {job!r}: {answer['result']}")
            done += 1
    return done


async def main() -> None:
    """Do five jobs, one of which kills its worker."""
    jobs: deque[object] = deque([1, 2, "crash", 3, 4])
    workers = done = 0
    while jobs:
        workers += 1
        done += await work_off(jobs)
    print(f"{done} jobs done by {workers} workers")


if __name__ == "__main__":
    aioipc.run(main())
