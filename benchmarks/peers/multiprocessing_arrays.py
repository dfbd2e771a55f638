"""Arrays by multiprocessing: pickled through a Queue, or by the name of shared memory."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.arrays import ITEM, fill, look_at, shape_of
from benchmarks.contender import Contender, Plan, Seat, Wiring

_spawn = multiprocessing.get_context("spawn")


class _Queued(Contender):
    """What is put into the one queue is answered by the other. Both block."""

    carries = "array"
    quick = True

    @contextmanager
    def wired(self, folder: Path, plan: Plan) -> Iterator[Wiring]:
        forth, back = _spawn.Queue(), _spawn.Queue()
        yield (forth, back), (forth, back)
        forth.close()
        back.close()

    def looked_at(self, found: Any, plan: Plan) -> int:
        """Look at the array that came."""
        return look_at(found, plan)

    def take(self, seat: Seat) -> None:
        """Look at each array."""
        forth, back = seat.wiring
        seat.announce("listening")
        for _ in range(seat.plan.total):
            back.put(self.looked_at(forth.get(), seat.plan))

    def hand(self, seat: Seat) -> list[int]:
        """Hand over, and wait for the answer."""
        forth, back = seat.wiring
        samples = []
        with self.filled(seat.plan) as found:
            for _ in range(seat.plan.total):
                before = time.perf_counter_ns()
                forth.put(found)
                back.get()
                samples.append(time.perf_counter_ns() - before)
        return samples[seat.plan.warmup :]

    def filled(self, plan: Plan) -> AbstractContextManager[Any]:
        """Make an array and fill it; what goes into the queue for it."""
        raise NotImplementedError


class QueuedArrays(_Queued):
    """The elements are pickled and copied."""

    name = "multiprocessing Queue (blocking)"
    pace = 0.5

    @contextmanager
    def filled(self, plan: Plan) -> Iterator[Any]:
        array = np.empty(shape_of(plan), ITEM)
        fill(array)
        yield array


class SharedMemoryArrays(_Queued):
    """The name of the memory goes through a Queue; who gets it opens it."""

    name = "multiprocessing shared_memory (blocking)"

    @contextmanager
    def filled(self, plan: Plan) -> Iterator[Any]:
        memory = SharedMemory(create=True, size=plan.size)
        try:
            fill(np.ndarray(shape_of(plan), ITEM, memory.buf))
            yield memory.name
        finally:
            memory.close()
            memory.unlink()

    def looked_at(self, found: Any, plan: Plan) -> int:
        """Open the memory of that name, and look at the array in it."""
        memory = SharedMemory(found)
        answer = look_at(np.ndarray(shape_of(plan), ITEM, memory.buf), plan)
        memory.close()
        return answer


CONTENDERS = [SharedMemoryArrays(), QueuedArrays()]
