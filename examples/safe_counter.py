"""A counter in a file that many processes raise, and that the next one repairs after a crash.

    python examples/safe_counter.py

Each step takes two writes: the journal says what is to be, then the counter becomes it. One of the
workers dies between the two, holding the lock. Whoever takes the lock next is told
(``guard.owner_died``), finishes the step from the journal and says that all is well.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path

from aioipc import run, sync

WORKERS = 4
STEPS = 25


async def raise_counter(folder: Path, *, crash: bool) -> None:
    """Add one to the counter, or die in the middle of it."""
    counter, journal = folder / "counter", folder / "journal"
    async with sync.Lock(folder / "lock") as guard:
        if guard.owner_died:
            counter.write_text(journal.read_text())
            guard.mark_consistent()
            print(f"repaired: the counter is {counter.read_text()}", flush=True)
        journal.write_text(str(int(counter.read_text()) + 1))
        if crash:
            os.kill(os.getpid(), 9)
        counter.write_text(journal.read_text())


async def work(folder: Path, number: int) -> None:
    """Be one of the workers; number 0 dies in its last step."""
    for step in range(STEPS):
        await raise_counter(folder, crash=number == 0 and step == STEPS - 1)


async def main() -> None:
    """Start the workers, and see what they counted."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "counter").write_text("0")
        workers = [
            await asyncio.create_subprocess_exec(sys.executable, __file__, name, str(number))
            for number in range(WORKERS)
        ]
        statuses = [await worker.wait() for worker in workers]
        await raise_counter(folder, crash=False)  # repairs, if the last worker was the one to die
        print(f"workers ended with {statuses}")
        print(f"{(folder / 'counter').read_text()} steps, {WORKERS * STEPS + 1} expected")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        run(work(Path(sys.argv[1]), int(sys.argv[2])))
    else:
        run(main())
