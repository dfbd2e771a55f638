"""Going to sleep and being woken, as our protocols do it, and the ways to get it wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Any

from tests.verify.explorer import Operation, Order, load, store, swap, system_call

__all__ = ["Steps", "WaitingDesign", "arm", "assert_all_are_looked_for", "take_sleeper"]

Steps = Generator[Operation, Any, Any]


@dataclass(frozen=True)
class WaitingDesign:
    """How sleeping and waking are done. The defaults are ours; the rest is known to be wrong.

    Only `flag_left_set` and `retires_each` are other ways to get it right.
    """

    tail: Order = Order.SEQ_CST
    closed: Order = Order.SEQ_CST
    flag_left_set: bool = False
    retires_each: bool = False
    bell_before_swap: bool = False
    bell_read_after_arming: bool = False
    arms_without_looking: bool = False
    waits_without_looking: bool = False
    arms_without_retiring: bool = False
    waits_without_publishing: bool = False
    closes_without_bell: bool = False
    closed_read_before_arming: bool = False
    ends_without_looking: bool = False
    closes_before_publishing: bool = False
    publishes_before_copying: bool = False
    retires_before_copying: bool = False
    no_drain_after_death: bool = False


def take_sleeper(design: WaitingDesign, flag: str, bell: str) -> Steps:
    """Wake a sleeper if there is one. Returns whether there was."""
    if not (yield load(flag)):
        return False
    if design.bell_before_swap:
        yield system_call(bell, 1)
        yield swap(flag, 0)
        return False
    if (yield swap(flag, 0)):
        yield system_call(bell, 1)
        return True
    return False


def arm(design: WaitingDesign, flag: str, order: Order, cursor: int) -> Steps:
    """Before sleeping. Returns "sleep", "retry" or "end"."""
    closed = 0
    if design.closed_read_before_arming:
        closed = yield load("closed")
    yield store(flag, 1, order)
    if design.arms_without_looking:
        return "sleep"
    if (yield load("tail")) != cursor:
        if not design.flag_left_set:
            yield store(flag, 0, order)
        return "retry"
    if not design.closed_read_before_arming:
        closed = yield load("closed")
    if not closed:
        return "sleep"
    if design.ends_without_looking:
        return "end"
    return "end" if (yield load("tail")) == cursor else "retry"


def assert_all_are_looked_for(kind: type[WaitingDesign], designs: Iterable[WaitingDesign]) -> None:
    """A field that none of these designs changes would be a bug that nobody looks for."""
    fields = dataclasses.fields(kind)
    changed = {
        field.name
        for design in designs
        for field in fields
        if getattr(design, field.name) != field.default
    }
    assert changed == {field.name for field in fields}
