"""iceoryx2's publishers and subscribers: samples in shared memory, written once for all.

They are polled without a pause; or else awaited, by events that say that there is something. Its
listeners give Python no descriptor, so that each subscriber has a thread that waits for them.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import iceoryx2  # type: ignore[import-not-found, import-untyped, unused-ignore]

from benchmarks.contender import Contender, Flow, Gauge, Loop, Plan, Seat

QUEUED_MESSAGES = 256

_open_ports: list[Any] = []
"""Whoever goes takes with it what was not read yet: all stay until exit."""


def _service(seat: Seat, purpose: str) -> Any:
    iceoryx2.set_log_level(iceoryx2.LogLevel.Error)
    node = iceoryx2.NodeBuilder.new().create(iceoryx2.ServiceType.Ipc)
    return node.service_builder(iceoryx2.ServiceName.new(f"{seat.wiring}/{purpose}"))


def _samples(seat: Seat) -> Any:
    return (
        _service(seat, "samples")
        .publish_subscribe(iceoryx2.Slice[ctypes.c_uint8])
        .enable_safe_overflow(False)
        .max_publishers(1)
        .max_subscribers(seat.plan.clients)
        .subscriber_max_buffer_size(QUEUED_MESSAGES)
        .open_or_create()
    )


def _events(seat: Seat) -> Any:
    return _service(seat, "events").event().max_listeners(seat.plan.clients).open_or_create()


def _publisher(seat: Seat) -> Callable[[bytes], None]:
    """Waits until all have subscribed; gives what sends a message to them."""
    size = seat.plan.size
    samples = _samples(seat)
    publisher = (
        samples.publisher_builder()
        .initial_max_slice_len(size)
        .backpressure_strategy(iceoryx2.BackpressureStrategy.RetryUntilDelivered)
        .create()
    )
    _open_ports.append(publisher)
    seat.announce("listening")
    while samples.dynamic_config.number_of_subscribers < seat.plan.clients:
        pass
    loan, copy = publisher.loan_slice_uninit, ctypes.memmove

    def send(message: bytes) -> None:
        sample = loan(size)
        copy(sample.payload_ptr, message, size)
        sample.assume_init().send()

    return send


def _content(sample: Any) -> bytes:
    return bytes(sample.payload().as_memory_view())


class BusyIceoryx2PubSub(Contender):
    """A core is burnt on each side; nothing is copied out."""

    name = "iceoryx2 pubsub (busy polling, zero copy)"
    pace = 0.5
    quick = True

    def publish(self, seat: Seat) -> None:
        """One loop that publishes."""
        send = _publisher(seat)
        for message in seat.plan.warming():
            send(message)
        seat.wait()
        for message in seat.plan.measured():
            send(message)

    def subscribe(self, seat: Seat) -> Flow:
        """Each subscriber in its turn."""
        plan = seat.plan
        gauge = Gauge(seat, plan.clients)
        samples = _samples(seat)
        subscribers = [samples.subscriber_builder().create() for _ in range(plan.clients)]
        _open_ports.extend(subscribers)
        polls = [subscriber.receive for subscriber in subscribers]

        def receive() -> list[Any]:
            found = []
            for poll in polls:
                while (sample := poll()) is None:
                    pass
                found.append(sample)
            return found

        for _ in range(plan.warmup):
            receive()
        for _ in polls:
            gauge.warm()
        last: list[Any] = []
        for number in range(plan.messages):
            last = receive()
            if not number:
                gauge.start()
        for sample in last:
            gauge.stop(_content(sample))
        return gauge.flow()


class AsyncioIceoryx2PubSub(Contender):
    """One thread for each subscriber waits for events; the loop reads the samples."""

    name = "iceoryx2 pubsub (asyncio)"
    loop: Loop = "asyncio"
    pace = 0.1
    quick = True

    async def publish(self, seat: Seat) -> None:
        """One loop that publishes, and notifies."""
        events = _events(seat)
        send = _publisher(seat)
        notify = events.notifier_builder().create().notify
        for message in seat.plan.warming():
            send(message)
            notify()
        await seat.wait_in_loop()
        for message in seat.plan.measured():
            send(message)
            notify()

    async def subscribe(self, seat: Seat) -> Flow:
        """One task for each subscriber."""
        clients = seat.plan.clients
        gauge = Gauge(seat, clients)
        with ThreadPoolExecutor(clients) as threads:
            async with asyncio.TaskGroup() as tasks:
                events, samples = _events(seat), _samples(seat)
                for _ in range(clients):
                    tasks.create_task(self._receive(events, samples, threads, gauge))
        return gauge.flow()

    async def _receive(
        self, events: Any, samples: Any, threads: ThreadPoolExecutor, gauge: Gauge
    ) -> None:
        plan: Plan = gauge.seat.plan
        wait = events.listener_builder().create().blocking_wait
        subscriber = samples.subscriber_builder().create()
        _open_ports.append(subscriber)
        poll = subscriber.receive
        loop = asyncio.get_running_loop()

        async def receive() -> Any:
            while (sample := poll()) is None:
                await loop.run_in_executor(threads, wait)
            return sample

        for _ in range(plan.warmup):
            await receive()
        gauge.warm()
        sample = None
        for number in range(plan.messages):
            sample = await receive()
            if not number:
                gauge.start()
        gauge.stop(_content(sample))


CONTENDERS = [BusyIceoryx2PubSub(), AsyncioIceoryx2PubSub()]
