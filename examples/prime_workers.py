"""Two workers count primes, each asked over its own channel for one range after the other.

Run it with ``python prime_workers.py``. The workers compute in a plain function: nothing there
has to await, and each has an interpreter of its own, so both CPUs are busy.
"""

import asyncio
from collections.abc import Iterator
from typing import Any

import aioipc

STEP = 10_000
RANGES = [(start, start + STEP) for start in range(0, 200_000, STEP)]


def count_primes(channel: aioipc.BlockingChannel[Any]) -> None:
    """In a worker: answer ranges until the parent closes the channel."""
    done = 0
    for start, stop in channel:
        channel.send(sum(1 for number in range(max(start, 2), stop) if is_prime(number)))
        done += 1
    print(f"that was all: {done} ranges")  # goes to the standard error of the parent


def is_prime(number: int) -> bool:
    """Whether nothing but 1 divides it."""
    return all(number % divisor for divisor in range(2, int(number**0.5) + 1))


async def ask(worker: aioipc.process.Worker, ranges: Iterator[tuple[int, int]]) -> int:
    """Give a worker one range after the other, as long as there are any."""
    total = 0
    for wanted in ranges:  # shared with the other task: who is done first takes the next
        await worker.channel.send(wanted)
        total += await worker.channel.receive()
    return total


async def main() -> None:
    """Start two workers, and share the ranges out."""
    spawn = aioipc.process.spawn
    ranges = iter(RANGES)
    async with spawn(count_primes) as one, spawn(count_primes) as other:
        totals = await asyncio.gather(ask(one, ranges), ask(other, ranges))
    print(f"{sum(totals)} primes below {RANGES[-1][1]}, statuses {one.status} and {other.status}")


if __name__ == "__main__":
    aioipc.run(main())
