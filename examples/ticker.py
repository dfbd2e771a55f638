"""Prices for everybody, and what becomes of those who are too slow for them.

Run it with ``python ticker.py [ADDRESS]``. The parent publishes; each child subscribes, takes a
moment for every message, and has chosen in its own way what happens when that is too long. Nothing
is lost without a word: what a child received and what it missed is all that was published.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process

import aioipc
from aioipc import pubsub
from aioipc.pubsub import Gap, Message

TICKS = 400
QUEUE = 20
POLICIES = ("drop_oldest", "drop_newest", "latest", "disconnect", "block")


async def publish(address: str) -> None:
    """The parent."""
    async with pubsub.publisher(address, retain=1) as publisher:
        children = [await start(policy, publisher.address) for policy in POLICIES]
        await publisher.ready(len(children))
        for number in range(TICKS):
            symbol = "eur.usd" if number % 2 else "eur.gbp"
            await publisher.publish(symbol, {"number": number, "bid": 1 + number / TICKS})
        await publisher.aclose()  # everything that waits is delivered first
    for child in children:
        output, _ = await child.communicate()
        print(output.decode(), end="")
    counted = publisher.statistics()
    print(f"published {counted.published}, and waited {counted.waits} times for who blocks")


async def start(policy: str, address: str) -> Process:
    """Start a child."""
    return await asyncio.create_subprocess_exec(
        sys.executable, __file__, "subscribe", policy, address, stdout=PIPE
    )


async def subscribe(policy: str, address: str) -> None:
    """A child."""
    last, ending = None, "to the end"
    async with pubsub.subscriber(address, "eur.*", when_full=policy, queue=QUEUE) as ticks:
        try:
            async for item in ticks:
                match item:
                    case Message(_, tick):
                        last = tick["number"]
                        await asyncio.sleep(0.001)
                    case Gap():
                        pass  # ticks.statistics() counts them
        except aioipc.QuotaExceeded:
            ending = "until it was disconnected"
        seen = ticks.statistics()
    counts = f"{seen.received:3} received, {seen.missed:3} missed"
    print(f"{policy:12} {counts} {ending}; the last one was number {last}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["subscribe"]:
        aioipc.run(subscribe(*sys.argv[2:]))
    else:
        aioipc.run(publish(*sys.argv[1:] or ["shm:"]))
