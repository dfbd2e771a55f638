"""The transport beside a model of it: whatever is done, in whatever order."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.asyncio_face.ends import KINDS, InPlace, Recorder, joined, until
from tests.conftest import LOOPS
from tests.links import steps
from tests.scale import patience_s, scaled

T = TypeVar("T")
SIDES = st.sampled_from([0, 1])


class Side:
    """What one end must have been told, by what was done at both."""

    def __init__(self, end: Recorder) -> None:
        self.end = end
        self.transport = end.transport
        self.ends: list[Recorder] = [end]
        self.sent = bytearray()
        self.ended = False
        self.paused = False
        self.closed = False
        self.aborted = False

    @property
    def received(self) -> bytes:
        return b"".join(bytes(end.data) for end in self.ends)

    @property
    def is_over(self) -> bool:
        return self.closed or "lost" in self.end.events


def _has_all(side: Side, other: Side) -> bool:
    return side.received == other.sent or side.is_over


def _has_ended(side: Side) -> bool:
    return "eof" in side.end.events or side.is_over


class Machine(RuleBasedStateMachine):
    """Two ends over one kind of transport."""

    kind: str
    new_loop: Callable[[], asyncio.AbstractEventLoop]

    @initialize(keep_open=st.booleans())
    def connect(self, keep_open: bool) -> None:
        self.loop = type(self).new_loop()
        self.undo = contextlib.AsyncExitStack()

        async def connect() -> list[Side]:
            ends = [Recorder(keep_open=keep_open) for _ in range(2)]
            await self.undo.enter_async_context(joined(self.kind, *ends))
            await steps(3)
            return [Side(end) for end in ends]

        self.keep_open = keep_open
        self.sides = self.run(connect())
        self.count = 0

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(main, 20))

    @rule(number=SIDES, size=st.sampled_from([0, 1, 100, 20_000, 200_000]), many=st.booleans())
    def write(self, number: int, size: int, many: bool) -> None:
        side = self.sides[number]
        self.count += 1
        data = bytearray([self.count % 256]) * size

        def write() -> None:
            if many:
                side.transport.writelines([memoryview(data)[: size // 2], data[size // 2 :]])
            else:
                side.transport.write(data)

        if side.ended and not side.is_over:
            with pytest.raises(RuntimeError):
                write()
            return
        if side.ended:
            return
        # As with asyncio's own, what is written behind a buffer on its way out leaves with it.
        is_accepted = not side.transport.is_closing() or side.transport.get_write_buffer_size() > 0
        write()
        if is_accepted:
            side.sent += data
        data[:] = bytes(len(data))  # it is the caller's again

    @rule(number=SIDES)
    def write_eof(self, number: int) -> None:
        side = self.sides[number]
        if not side.transport.is_closing():  # as after the end of the peer, before it is lost
            side.ended = True
        side.transport.write_eof()

    @rule(number=SIDES)
    def pause(self, number: int) -> None:
        side = self.sides[number]
        side.transport.pause_reading()
        side.paused = True

    @rule(number=SIDES)
    def resume(self, number: int) -> None:
        side = self.sides[number]
        side.transport.resume_reading()
        side.paused = False

    @rule(count=st.integers(1, 20))
    def turn(self, count: int) -> None:
        self.run(steps(count))

    @rule(number=SIDES, in_place=st.booleans())
    def set_protocol(self, number: int, in_place: bool) -> None:
        side = self.sides[number]
        if "lost" in side.end.events:
            return
        end = (InPlace if in_place else Recorder)(keep_open=self.keep_open)
        end.transport, end.events = side.transport, side.end.events
        end.may_write, end.changed = side.end.may_write, side.end.changed
        side.transport.set_protocol(end)
        side.end = end
        side.ends.append(end)

    @precondition(lambda self: self.count > 2)
    @rule(number=SIDES)
    def close(self, number: int) -> None:
        side = self.sides[number]
        side.transport.close()
        side.closed = True

    @precondition(lambda self: self.count > 4)
    @rule(number=SIDES)
    def abort(self, number: int) -> None:
        side = self.sides[number]
        side.transport.abort()
        side.closed = side.aborted = True
        assert side.transport.get_write_buffer_size() == 0

    @invariant()
    def nothing_is_invented(self) -> None:
        for side, other in self.pairs():
            assert bytes(other.sent).startswith(side.received)
            assert side.end.events.count("lost") <= 1
            assert side.transport.is_closing() or not side.closed
            low, high = side.transport.get_write_buffer_limits()
            size = side.transport.get_write_buffer_size()
            if not side.transport.is_closing():
                assert side.end.may_write.is_set() or size > low
                assert not side.end.may_write.is_set() or size <= high

    def pairs(self) -> Iterator[tuple[Side, Side]]:
        yield self.sides[0], self.sides[1]
        yield self.sides[1], self.sides[0]

    def teardown(self) -> None:
        if not hasattr(self, "sides"):
            return
        try:
            self.run(self.finish())
        finally:
            self.run(self.undo.aclose())
            self.loop.close()

    async def finish(self) -> None:
        """Without an abort and without a reader that left, everything arrives, and then the end."""
        for side in self.sides:
            side.transport.resume_reading()
        for side, other in self.pairs():
            if other.aborted or side.closed or side.aborted:
                continue
            await until(functools.partial(_has_all, side, other))
            assert side.received == other.sent or side.end.error is not None
            if other.ended or other.closed:
                await until(functools.partial(_has_ended, side))


@pytest.mark.timeout(patience_s(60))
@pytest.mark.parametrize("new_loop", LOOPS.values(), ids=LOOPS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_transport_and_its_model(
    kind: str, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    class OfThisKind(Machine):
        pass

    OfThisKind.kind = kind
    OfThisKind.new_loop = staticmethod(new_loop)
    run_state_machine_as_test(
        OfThisKind,
        settings=settings(
            max_examples=scaled(40, full=5_000),
            stateful_step_count=25,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
