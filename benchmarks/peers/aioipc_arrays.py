"""aioipc's SharedArray, sent over a channel."""

from __future__ import annotations

import time

import aioipc
from aioipc.memory import SharedArray
from benchmarks.arrays import ITEM, fill, look_at, shape_of
from benchmarks.contender import Loop, Seat
from benchmarks.peers._at_address import AtAddress


class AioipcArrays(AtAddress):
    """Only its descriptor travels."""

    carries = "array"

    def __init__(self, scheme: str, loop: Loop) -> None:
        super().__init__(f"{scheme} SharedArray", scheme, loop)

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
