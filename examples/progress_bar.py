"""A long job in another process, with a progress bar here and Ctrl-C that stops the job there.

Run it with ``python progress_bar.py [SECONDS]``. The job calls back: the client serves ``Progress``
over the same connection. With a time limit of SECONDS the job is cancelled when it is over.
"""

from __future__ import annotations

import sys
from typing import Protocol

import anyio
import anyio.lowlevel
from rich.progress import Progress as Bar

import aioipc
from aioipc import rpc

CHUNKS = 200


class Progress(Protocol):
    """What the client serves to the job."""

    @rpc.notification
    async def done(self, chunks: int, of: int) -> None: ...


class Job:
    """What runs in the child."""

    async def count_primes(self, to: int) -> int:
        """How many primes there are below ``to``, chunk by chunk."""
        client = rpc.current_call().client(Progress)
        found = 0
        try:
            for chunk in range(CHUNKS):
                found += sum(map(is_prime, range(chunk, to, CHUNKS)))
                await client.done(chunk + 1, CHUNKS)
                await anyio.lowlevel.checkpoint()  # a chance to be cancelled
        except BaseException:
            print("the job was stopped", file=sys.stderr, flush=True)
            raise
        return found


def is_prime(number: int) -> bool:
    """Whether it is one, found out the slow way."""
    return number > 1 and all(number % each for each in range(2, int(number**0.5) + 1))


class BarOnScreen:
    """What runs in the parent."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._task = bar.add_task("counting primes", total=CHUNKS)

    async def done(self, chunks: int, of: int) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=chunks, total=of)


async def serve() -> None:
    """The child."""
    async with rpc.serve("stdio:", Job()) as server:
        await server.wait()


async def use(seconds: float) -> None:
    """The parent."""
    with Bar() as bar:
        command = f"exec:{sys.executable} {__file__} serve"
        async with rpc.connect(command, Job, serve=BarOnScreen(bar)) as job:
            with anyio.move_on_after(seconds) as limit:
                primes = await job.count_primes(200_000)
                bar.console.print(f"{primes} primes")
            if limit.cancelled_caught:
                bar.console.print("out of time")


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        aioipc.run(serve())
    else:
        aioipc.run(use(float((*sys.argv[1:], "60")[0])))
