"""Two who send bytes to each other at random, and know by a hash whether all of them came.

``python -m tests.peers.byte_talk LOOP FACE ADDRESS SEED COUNT`` is one side; a test is the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import sys
import time
from typing import cast

import uvloop

import aioipc
from aioipc import ByteStream, EndOfStream, Limits

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
LIMITS = Limits(ring_bytes=65_536)
SIZES = [1, 4, 16, 500, 4_096, 60_000, 150_000]
MOST_RECEIVED = [1, 7, 1_000, 65_536]
LONGEST_PAUSE_S = 300e-6
BLOB = random.Random(5).randbytes(1 << 19)

Outcome = tuple[str, str]
"""Hashes of what was sent, and of what came."""


class Talk:
    """Says something COUNT times, and hears what the other one says."""

    def __init__(self, seed: int, count: int) -> None:
        self.chance = random.Random(seed)
        self.count = count
        self.sent = hashlib.sha256()
        self.came = hashlib.sha256()

    def words(self) -> bytes:
        """What to send next."""
        size = self.chance.choice(SIZES)
        start = self.chance.randrange(len(BLOB) - size)
        self.sent.update(BLOB[start : start + size])
        return BLOB[start : start + size]

    async def pause(self) -> None:
        """Mostly none: in the loop, at work, or asleep, so that the peer waits in every way."""
        kind = self.chance.random()
        if kind < 0.02:
            await asyncio.sleep(self.chance.random() * LONGEST_PAUSE_S)
        elif kind < 0.1:
            await asyncio.sleep(0)
        elif kind < 0.15:
            until_s = time.perf_counter() + self.chance.random() * LONGEST_PAUSE_S
            while time.perf_counter() < until_s:
                pass

    @property
    def outcome(self) -> Outcome:
        return self.sent.hexdigest(), self.came.hexdigest()


async def talk_by_stream(talk: Talk, stream: ByteStream) -> Outcome:
    """One receive in ten is cancelled."""

    async def say() -> None:
        for _ in range(talk.count):
            await stream.send(talk.words())
            await talk.pause()
        await stream.send_eof()

    async def receive() -> bytes:
        receiving = asyncio.ensure_future(stream.receive(talk.chance.choice(MOST_RECEIVED)))
        if talk.chance.random() < 0.1:
            for _ in range(talk.chance.randrange(4)):
                await asyncio.sleep(0)
            receiving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            return await receiving
        return b""

    saying = asyncio.create_task(say())
    with contextlib.suppress(EndOfStream):
        while True:
            talk.came.update(await receive())
            await talk.pause()
    await saying
    return talk.outcome


class Hearing(asyncio.Protocol):
    """Stops reading now and then."""

    transport: asyncio.Transport

    def __init__(self, talk: Talk) -> None:
        self.talk = talk
        self.ended = asyncio.Event()
        self.has_room = asyncio.Event()
        self.has_room.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.talk.came.update(data)
        if self.talk.chance.random() < 0.1:
            self.transport.pause_reading()
            loop = asyncio.get_running_loop()
            if self.talk.chance.random() < 0.5:
                loop.call_soon(self.transport.resume_reading)
            else:
                pause_s = self.talk.chance.random() * LONGEST_PAUSE_S
                loop.call_later(pause_s, self.transport.resume_reading)

    def pause_writing(self) -> None:
        self.has_room.clear()

    def resume_writing(self) -> None:
        self.has_room.set()

    def eof_received(self) -> bool:
        self.ended.set()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self.ended.set()
        self.has_room.set()


async def talk_by_protocol(talk: Talk, hearing: Hearing) -> Outcome:
    """What is said is written as one buffer, or as many."""
    for _ in range(talk.count):
        words = talk.words()
        if talk.chance.random() < 0.2:
            hearing.transport.writelines([words[:1], words[1:20], words[20:]])
        else:
            hearing.transport.write(words)
        await talk.pause()
        await hearing.has_room.wait()
    hearing.transport.write_eof()
    await hearing.ended.wait()
    return talk.outcome


async def main(face: str, address: str, seed: int, count: int) -> None:
    """The side that connects."""
    talk = Talk(seed, count)
    if face == "stream":
        async with aioipc.connect_stream(address, limits=LIMITS) as stream:
            print(*await talk_by_stream(talk, stream), flush=True)
            await asyncio.to_thread(sys.stdin.readline)
    else:
        transport, hearing = await aioipc.create_connection(
            lambda: Hearing(talk), address, limits=LIMITS
        )
        print(*await talk_by_protocol(talk, hearing), flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        transport.close()


if __name__ == "__main__":
    loop, face, address, seed, count = sys.argv[1:]
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main(face, address, int(seed), int(count)))
