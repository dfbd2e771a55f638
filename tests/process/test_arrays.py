"""Arrays on their way to workers and back: by shared memory where they are large."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aioipc
from aioipc import Limits, PeerCrashed, process
from tests.process import grids
from tests.process.grids import Abacus, Grids

pytestmark = pytest.mark.asyncio

SIZES = [3, 1_000_000]
LARGE = SIZES[-1]


def members_of(proxy: Any) -> list[Any]:
    return process.pool_of(proxy)._crew._members


def lent(proxy: Any) -> int:
    """How many pieces of memory the workers of a pool have at present."""
    return sum(len(each.connection.parcels._lender._lent) for each in members_of(proxy))


async def test_arguments_and_results() -> None:
    async with process.pool(Abacus, Grids, size=2) as pool:
        for size in SIZES:
            grid = np.arange(float(size))
            assert await pool.total(grid) == grid.sum()
            assert np.array_equal(await pool.scaled(grid, 3.0), 3 * grid)
            assert np.array_equal(await pool.echo(grid), grid)
            assert not (await pool.echo(grid)).flags.writeable
        with pytest.raises(aioipc.BadArguments, match=r"'grid': Expected an array of float64"):
            await pool.total(np.arange(5))  # type: ignore[arg-type]

        await check_many(pool)


async def test_calls_that_are_still_copied_count() -> None:
    """So one each, and after as many as it may have a worker is replaced, not before."""
    async with process.pool(Abacus, Grids, size=2, max_tasks_per_worker=2) as pool:
        pids = process.pool_of(pool).pids
        grid = np.ones(LARGE)
        assert sorted(await asyncio.gather(*(pool.keep(grid) for _ in range(2)))) == sorted(pids)
        with pytest.raises(aioipc.BadArguments):
            await pool.keep([object()])  # type: ignore[arg-type]
        later = await asyncio.gather(*(pool.keep(grid) for _ in range(5)))
        assert max(map(later.count, later)) <= 2


async def check_many(pool: Grids) -> None:
    items = [np.full(LARGE // 8, float(number)) for number in range(24)]
    totals = await process.map(pool.total, items)
    assert totals == [item.sum() for item in items]
    async with process.imap(pool.scaled, items) as results:
        firsts = [grid[0] async for grid in results]
    assert firsts == [2 * number for number in range(24)]
    small = [np.full(3, float(number)) for number in range(200)]
    assert await process.map(pool.total, small) == [3 * number for number in range(200)]


async def test_memory_goes_back_when_the_last_view_is_gone() -> None:
    async with process.pool(Abacus, Grids, size=1) as pool:
        for _ in range(4):
            await pool.total(np.ones(LARGE))
        assert lent(pool) == 0
        await pool.keep(np.ones(LARGE))
        assert lent(pool) == 1
        assert await pool.total(np.full(LARGE, 5.0)) == 5 * LARGE
        assert await pool.kept() == LARGE
        await pool.total(np.ones(3))
        assert lent(pool) == 0
        (member,) = members_of(pool)
        assert len(member.connection.parcels._lender._here) == 2


async def test_over_a_channel_without_descriptors() -> None:
    limits = Limits(max_fds=0)
    async with process.pool(Abacus, Grids, size=1, limits=limits) as pool:
        assert (await pool.scaled(np.ones(LARGE))).sum() == 2 * LARGE


async def test_a_worker_that_dies_with_an_array(tmp_path: Path) -> None:
    async with process.pool(Abacus, Grids, size=1, args=(str(tmp_path / "died"),)) as pool:
        kept = await pool.scaled(np.ones(LARGE))
        with pytest.raises(PeerCrashed):
            await pool.die(np.ones(LARGE))
        assert await pool.die_once(np.ones(LARGE)) == LARGE
        assert lent(pool) == 0
        assert kept.sum() == 2 * LARGE, "what came from a worker outlives it"
    assert kept.sum() == 2 * LARGE


@pytest.mark.parametrize(
    ("function", "size"),
    [(grids.overwritten, LARGE), (grids.overwritten_later, LARGE), (grids.overwritten, 3)],
)
async def test_run(function: Any, size: int) -> None:
    """What is passed is the worker's own, and so is what comes back ours."""
    grid = np.ones(size)
    part, before = await process.run(function, grid, value=7.0)
    assert before == size
    assert grid.sum() == size
    assert part.sum() == 7 * (size // 2)
    part[:] = 1


async def test_run_raises_what_has_an_array() -> None:
    with pytest.raises(grids.TooLarge) as caught:
        await process.run(grids.complain, np.ones(LARGE))
    assert caught.value.grid.sum() == 2 * LARGE


async def test_run_of_more_than_a_message_holds() -> None:
    grid = np.ones(9_000_000)
    part, _ = await process.run(grids.overwritten, grid, 2.0)
    assert part.nbytes * 2 == grid.nbytes
    assert part[-1] == 2
