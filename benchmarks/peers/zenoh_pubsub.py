"""zenoh's publishers and subscribers, peer to peer over a Unix socket, without discovery.

Each subscriber has a session, as if it were a process. The publisher waits for who is slow, and
what arrives waits in memory, as with zmq: a bounded channel that is full stops a thread of zenoh's,
of which there are fewer than subscribers. zenoh knows no asyncio: what those threads give to a
callback goes to the loop by ``call_soon_threadsafe``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import zenoh  # type: ignore[import-not-found, import-untyped, unused-ignore]

from benchmarks.contender import Contender, Flow, Gauge, Loop, Plan, Seat, Wiring

KEY = "bench/tick"
ALIVE = "bench/alive"


def _session(side: str, seat: Seat) -> Any:
    config = zenoh.Config()
    config.insert_json5("listen/endpoints", "[]")
    config.insert_json5(f"{side}/endpoints", f'["{seat.wiring}"]')
    for key in (
        "scouting/multicast/enabled",
        "scouting/gossip/enabled",
        "open/return_conditions/connect_scouted",
        "transport/shared_memory/enabled",
    ):
        config.insert_json5(key, "false")
    return zenoh.open(config)


@contextmanager
def _publisher(seat: Seat) -> Iterator[Callable[[bytes], None]]:
    with _session("listen", seat) as session:
        alive = session.liveliness().declare_subscriber(f"{ALIVE}/*", history=True)
        seat.announce("listening")
        for _ in range(seat.plan.clients):
            alive.recv()
        waits = zenoh.CongestionControl.BLOCK
        yield session.declare_publisher(KEY, congestion_control=waits).put
        for _ in range(seat.plan.clients):
            alive.recv()  # each says goodbye: what had not left by the end would be lost


@contextmanager
def _subscriber(seat: Seat, number: int, handler: Any) -> Iterator[Any]:
    with _session("connect", seat) as session:
        subscriber = session.declare_subscriber(KEY, handler)
        # Declarations are heard in their order: whoever is alive has subscribed.
        with session.liveliness().declare_token(f"{ALIVE}/{number}"):
            yield subscriber


class ZenohPubSub(Contender):
    """What blocking code and asyncio have in common."""

    quick = True

    @contextmanager
    def wired(self, folder: Path, plan: Plan) -> Iterator[Wiring]:
        """A Unix socket."""
        endpoint = f"unixsock-stream/{folder}/socket"
        yield endpoint, endpoint


class BlockingZenohPubSub(ZenohPubSub):
    """Channels that block; zenoh's own threads do the I/O."""

    name = "zenoh (blocking)"
    pace = 0.2

    def publish(self, seat: Seat) -> None:
        """One loop that publishes."""
        with _publisher(seat) as put:
            for message in seat.plan.warming():
                put(message)
            seat.wait()
            for message in seat.plan.measured():
                put(message)

    def subscribe(self, seat: Seat) -> Flow:
        """Each subscriber in its turn."""
        plan = seat.plan
        gauge = Gauge(seat, plan.clients)
        with ExitStack() as stack:
            subscribers = [
                stack.enter_context(
                    _subscriber(seat, number, zenoh.handlers.FifoChannel(plan.total))
                )
                for number in range(plan.clients)
            ]
            for _ in range(plan.warmup):
                for subscriber in subscribers:
                    subscriber.recv()
            for _ in subscribers:
                gauge.warm()
            last: list[Any] = []
            for number in range(plan.messages):
                last = [subscriber.recv() for subscriber in subscribers]
                if not number:
                    gauge.start()
            for sample in last:
                gauge.stop(sample.payload.to_bytes())
        return gauge.flow()


class AsyncioZenohPubSub(ZenohPubSub):
    """Callbacks, and one queue of the loop for each subscriber."""

    name = "zenoh (asyncio)"
    loop: Loop = "asyncio"
    pace = 0.1

    async def publish(self, seat: Seat) -> None:
        """One loop that publishes; a put does not wait for the subscribers."""
        with _publisher(seat) as put:
            for message in seat.plan.warming():
                put(message)
            await seat.wait_in_loop()
            for message in seat.plan.measured():
                put(message)

    async def subscribe(self, seat: Seat) -> Flow:
        """One task for each subscriber."""
        gauge = Gauge(seat, seat.plan.clients)
        async with asyncio.TaskGroup() as tasks:
            for number in range(seat.plan.clients):
                tasks.create_task(self._receive(seat, number, gauge))
        return gauge.flow()

    async def _receive(self, seat: Seat, number: int, gauge: Gauge) -> None:
        plan = seat.plan
        call_soon = asyncio.get_running_loop().call_soon_threadsafe
        arrived: asyncio.Queue[bytes] = asyncio.Queue()

        def hand_over(sample: Any) -> None:
            call_soon(arrived.put_nowait, sample.payload.to_bytes())

        with _subscriber(seat, number, hand_over):
            for _ in range(plan.warmup):
                await arrived.get()
            gauge.warm()
            message = b""
            for count in range(plan.messages):
                message = await arrived.get()
                if not count:
                    gauge.start()
            gauge.stop(message)


CONTENDERS = [BlockingZenohPubSub(), AsyncioZenohPubSub()]
