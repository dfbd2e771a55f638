"""What computes with arrays in the workers of the tests."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from aioipc import rpc

Grid = NDArray[np.float64]


class Grids(Protocol):
    async def total(self, grid: Grid) -> float: ...
    async def scaled(self, grid: Grid, by: float = 2.0) -> Grid: ...
    async def echo(self, grid: Grid) -> Grid: ...
    async def keep(self, grid: Grid) -> int: ...
    async def kept(self) -> float: ...
    async def die(self, grid: Grid) -> None: ...

    @rpc.idempotent
    async def die_once(self, grid: Grid) -> float: ...


class Abacus:
    """Keeps `Grids`."""

    def __init__(self, died: str = "") -> None:
        self.died = Path(died)
        self.grid: Any = None

    def total(self, grid: Grid) -> float:
        return float(grid.sum())

    def scaled(self, grid: Grid, by: float = 2.0) -> Grid:
        return grid * by

    def echo(self, grid: Grid) -> Grid:
        return grid

    def keep(self, grid: Grid) -> int:
        self.grid = grid
        return os.getpid()

    def kept(self) -> float:
        total, self.grid = float(self.grid.sum()), None
        return total

    def die(self, grid: Grid) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def die_once(self, grid: Grid) -> float:
        if not self.died.exists():
            self.died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return float(grid.sum())


def overwritten(grid: Any, value: float) -> Any:
    """Write to an argument, and return a part of it and what it was."""
    before = float(grid.sum())
    grid[:] = value
    return grid[: len(grid) // 2], before


async def overwritten_later(grid: Any, value: float) -> Any:
    return overwritten(grid, value)


class TooLarge(Exception):
    def __init__(self, grid: Any) -> None:
        super().__init__(grid)
        self.grid = grid


def complain(grid: Any) -> None:
    raise TooLarge(grid + 1)
