"""aioipc's publishers and subscribers, which block rather than lose a message."""

from __future__ import annotations

import asyncio

from aioipc import pubsub
from benchmarks.contender import Flow, Gauge, Loop, Seat
from benchmarks.peers._at_address import AtAddress

TOPIC = "bench.tick"


class AioipcPubSub(AtAddress):
    """``pubsub.publisher`` and ``pubsub.subscriber`` with ``when_full="block"``."""

    def __init__(self, scheme: str, loop: Loop) -> None:
        super().__init__(f"pubsub {scheme}", scheme, loop)

    async def publish(self, seat: Seat) -> None:
        """One loop that publishes."""
        plan = seat.plan
        async with pubsub.publisher(seat.wiring, codec="raw") as publisher:
            seat.announce("listening")
            await publisher.ready(plan.clients)
            for message in plan.warming():
                await publisher.publish(TOPIC, message)
            await seat.wait_in_loop()
            for message in plan.measured():
                await publisher.publish(TOPIC, message)

    async def subscribe(self, seat: Seat) -> Flow:
        """One task for each subscription."""
        gauge = Gauge(seat, seat.plan.clients)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(seat.plan.clients):
                tasks.create_task(self._receive(seat, gauge))
        return gauge.flow()

    async def _receive(self, seat: Seat, gauge: Gauge) -> None:
        plan = seat.plan
        opening = pubsub.subscriber(seat.wiring, TOPIC, codec="raw", when_full="block")
        async with opening as subscription:
            for _ in range(plan.warmup):
                item = await subscription.receive()
            gauge.warm()
            item = await subscription.receive()
            gauge.start()
            for _ in range(plan.messages - 1):
                item = await subscription.receive()
            assert isinstance(item, pubsub.Message)
            gauge.stop(item.value)


CONTENDERS = [
    AioipcPubSub(scheme, loop) for loop in ("uvloop", "asyncio") for scheme in ("shm", "unix")
]
