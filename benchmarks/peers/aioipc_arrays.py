"""aioipc's SharedArray, sent over a channel."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aioipc
from aioipc.memory import SharedArray
from benchmarks.arrays import ITEM, fill, look_at, shape_of
from benchmarks.contender import Contender, Loop, Plan, Seat, Wiring


class AioipcArrays(Contender):
    """Only its descriptor travels."""

    family = "aioipc"
    carries = "array"

    def __init__(self, scheme: str, loop: Loop) -> None:
        self.name = f"aioipc {scheme} SharedArray ({loop})"
        self.scheme = scheme
        self.loop = loop
        self.quick = loop == "uvloop"

    @contextmanager
    def wired(self, folder: Path, plan: Plan) -> Iterator[Wiring]:
        address = f"{self.scheme}:{folder}/{self.scheme}"
        yield address, address

    async def take(self, seat: Seat) -> None:
        """Look at each array."""
        plan = seat.plan
        async with aioipc.listen(seat.wiring, codec="arrays") as listener:
            seat.announce("listening")
            channel = await anext(aiter(listener))
            async with channel:
                for _ in range(plan.total):
                    await channel.send(look_at(await channel.receive(), plan))

    async def hand(self, seat: Seat) -> list[int]:
        """Hand over, and wait for the answer."""
        samples = []
        array = SharedArray.create(shape_of(seat.plan), ITEM)
        fill(array)
        async with aioipc.connect(seat.wiring, codec="arrays") as channel:
            for _ in range(seat.plan.total):
                before = time.perf_counter_ns()
                await channel.send(array)
                await channel.receive()
                samples.append(time.perf_counter_ns() - before)
        return samples[seat.plan.warmup :]


CONTENDERS = [
    AioipcArrays(scheme, loop) for loop in ("uvloop", "asyncio") for scheme in ("shm", "unix")
]
