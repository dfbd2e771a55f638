"""iceoryx2: publish and subscribe in shared memory, polled without a pause, read in place."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import iceoryx2  # type: ignore[import-not-found, import-untyped, unused-ignore]

from benchmarks.contender import Plan, Seat
from benchmarks.peers._blocking import BlockingContender, Ends

QUEUED_BYTES = 64 * 1024 * 1024
QUEUED_MESSAGES = 1024

_open_ports: list[Any] = []
"""A publisher that goes takes with it what its subscriber did not read yet: all stay until exit."""


class BusyIceoryx2(BlockingContender):
    """A core is burnt on each side; the payload is written once and never copied out."""

    name = "iceoryx2 (busy polling, zero copy)"
    pace = 0.25
    refuses = ("hold",)

    @contextmanager
    def server(self, seat: Seat) -> Iterator[Ends]:
        receive = _receiver(seat, "forth")
        send = _sender(seat, "back")
        seat.announce("listening")
        send(receive())
        yield send, receive

    @contextmanager
    def client(self, seat: Seat) -> Iterator[Ends]:
        receive = _receiver(seat, "back")
        send = _sender(seat, "forth")
        send(seat.plan.payload)
        receive()  # what is sent before both sides know each other may be lost
        yield send, receive

    def content(self, message: Any) -> bytes:
        return bytes(message.payload().as_memory_view())


def _service(seat: Seat, direction: str) -> Any:
    iceoryx2.set_log_level(iceoryx2.LogLevel.Error)
    node = iceoryx2.NodeBuilder.new().create(iceoryx2.ServiceType.Ipc)
    return (
        node.service_builder(iceoryx2.ServiceName.new(f"{seat.wiring}/{direction}"))
        .publish_subscribe(iceoryx2.Slice[ctypes.c_uint8])
        .enable_safe_overflow(False)
        .max_publishers(1)
        .max_subscribers(1)
        .subscriber_max_buffer_size(_queued(seat.plan))
        .open_or_create()
    )


def _queued(plan: Plan) -> int:
    return max(2, min(QUEUED_MESSAGES, QUEUED_BYTES // plan.size))


def _sender(seat: Seat, direction: str) -> Callable[[Any], None]:
    size = seat.plan.size
    publisher = (
        _service(seat, direction)
        .publisher_builder()
        .initial_max_slice_len(size)
        .backpressure_strategy(iceoryx2.BackpressureStrategy.RetryUntilDelivered)
        .create()
    )
    _open_ports.append(publisher)
    loan, copy = publisher.loan_slice_uninit, ctypes.memmove

    def send(message: Any) -> None:
        sample = loan(size)
        source = message if isinstance(message, bytes) else message.payload_ptr
        copy(sample.payload_ptr, source, size)
        sample.assume_init().send()

    return send


def _receiver(seat: Seat, direction: str) -> Callable[[], Any]:
    subscriber = _service(seat, direction).subscriber_builder().create()
    _open_ports.append(subscriber)
    poll = subscriber.receive

    def receive() -> Any:
        while (sample := poll()) is None:
            pass
        return sample

    return receive


CONTENDERS = [BusyIceoryx2()]
