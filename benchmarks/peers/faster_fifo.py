"""faster-fifo: a lock and a ring in shared memory, blocking; one queue each way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import faster_fifo  # type: ignore[import-not-found, import-untyped, unused-ignore]

from benchmarks.contender import Plan, Seat, Wiring
from benchmarks.peers._blocking import BlockingContender, Ends

RING_BYTES = 4 * 1024 * 1024
WAIT_S = 60.0


class FasterFifo(BlockingContender):
    """put and get of bytes, unpickled; a ring of 4 MiB, or four messages."""

    name = "faster-fifo (blocking)"
    pace = 0.25

    @contextmanager
    def wired(self, folder: Path, plan: Plan) -> Iterator[Wiring]:
        size = max(RING_BYTES, 4 * plan.size)
        forth, back = (
            faster_fifo.Queue(max_size_bytes=size, loads=bytes, dumps=bytes) for _ in range(2)
        )
        yield (back, forth), (forth, back)

    @contextmanager
    def server(self, seat: Seat) -> Iterator[Ends]:
        seat.announce("listening")
        yield _ends(*seat.wiring)

    @contextmanager
    def client(self, seat: Seat) -> Iterator[Ends]:
        yield _ends(*seat.wiring)


def _ends(outgoing: Any, incoming: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    return partial(outgoing.put, timeout=WAIT_S), partial(incoming.get, timeout=WAIT_S)


CONTENDERS = [FasterFifo()]
