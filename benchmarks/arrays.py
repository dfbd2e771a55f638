"""The array that is handed over, and how the other process looks at it."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.contender import Plan, WrongMessage

ITEM = np.dtype("<u8")


def shape_of(plan: Plan) -> tuple[int]:
    """How many numbers make the plan's bytes."""
    return (plan.size // ITEM.itemsize,)


def fill(array: Any) -> None:
    """Give it its content."""
    array[:] = np.arange(array.size, dtype=ITEM)


def look_at(array: Any, plan: Plan) -> int:
    """Read its first and its last number; return the last one, for an answer.

    Raises:
        WrongMessage: It is another array.
    """
    if array.nbytes != plan.size or array[0] != 0 or array[-1] != array.size - 1:
        raise WrongMessage("this is not the array that was handed over")
    return int(array[-1])
