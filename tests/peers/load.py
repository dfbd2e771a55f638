"""A process that offers, or takes, more than any buffer holds.

``python -m tests.peers.load LOOP SIDE ADDRESS COUNT SIZE``

It says on its stdout how far it is, and in the end by how much its memory ever grew. ``produce``
says "blocked" once when there is no room; ``consume`` may be stopped from outside, and with
``consume-later`` receives nothing until it is told to on its stdin.
"""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from typing import NoReturn

import uvloop

import aioipc
from aioipc import Channel

NUMBER_BYTES = 8
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def payload(number: int, size: int) -> bytes:
    """The message of that number."""
    return number.to_bytes(NUMBER_BYTES, "little") + bytes([number % 251]) * (size - NUMBER_BYTES)


def kib(field: str) -> int:
    """A figure of this process: VmRSS is what it holds now, VmHWM what it ever held."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found, field
    return int(found[1])


def say(*words: object) -> None:
    """Tell the test."""
    print(*words, flush=True)


async def heard() -> str:
    """Wait for the test."""
    line: str = await asyncio.to_thread(sys.stdin.readline)
    return line.strip()


async def produce(channel: Channel[bytes], count: int, size: int) -> None:
    """Offer all the messages as fast as they are taken."""
    say("connected")
    await heard()
    before = kib("VmRSS")
    blocked = False
    for number in range(count):
        message = payload(number, size)
        if blocked:
            await channel.send(message)
            continue
        try:
            channel.send_nowait(message)
        except aioipc.WouldBlock:
            blocked = True
            say("blocked", number, channel.statistics().bytes_sent)
            await channel.send(message)
    await channel.flush()
    say("produced", count, kib("VmHWM") - before)


async def consume(channel: Channel[bytes], count: int, size: int, *, later: bool) -> None:
    """Take messages until the end, and check that they are all there in order."""
    say("accepted")
    before = kib("VmRSS")
    if later:
        await heard()
        say("idle", kib("VmHWM") - before)
    number = 0
    async for message in channel:
        if message != payload(number, size):
            fail(f"message {number} is not what was sent: {message[:20]!r}")
        number += 1
        if number == count and channel.address.startswith("fifo:"):
            break  # a FIFO outlives its writers
    say("consumed", number, kib("VmHWM") - before)


def fail(why: str) -> NoReturn:
    """End this process, and the test with it."""
    raise SystemExit(why)


async def main(side: str, address: str, count: int, size: int) -> None:
    """Play one side."""
    later = side == "consume-later"
    if side == "produce":
        async with aioipc.connect(address, codec="raw") as channel:
            await produce(channel, count, size)
    elif address.startswith("fd:"):
        async with aioipc.connect(address, codec="raw") as channel:
            await consume(channel, count, size, later=later)
    else:
        async with aioipc.listen(address, codec="raw") as listener:
            say(listener.address)
            async with await listener.accept() as channel:
                await consume(channel, count, size, later=later)


if __name__ == "__main__":
    _, loop, *words, count, size = sys.argv
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main(words[0], words[1], int(count), int(size)))
