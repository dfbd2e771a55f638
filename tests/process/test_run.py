"""run: one function in a process of its own."""

from __future__ import annotations

import asyncio
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from aioipc import RemoteError, WorkerDied, process
from aioipc.process import bundle
from tests.process import targets
from tests.process.ends import gone, until

pytestmark = pytest.mark.asyncio

LARGE = 8 * 1024 * 1024


@pytest.mark.parametrize("function", [targets.power, targets.power_later])
async def test_result(function: Any) -> None:
    value, pid = await process.run(function, 3, exponent=4)
    assert value == targets.Point(81, 0)
    assert pid != os.getpid()
    await gone(pid)


@pytest.mark.parametrize("function", [targets.complain, targets.complain_later])
async def test_exception(function: Any) -> None:
    with pytest.raises(targets.Complaint, match="too loud") as caught:
        await process.run(function, "too loud")
    assert caught.value.args == ("too loud",)
    (note,) = caught.value.__notes__
    assert note.startswith("In the worker:\nTraceback")
    assert "tests/process/targets.py" in note
    assert "oneoff.py" not in note


@pytest.mark.parametrize("what", ["result", "exception"])
async def test_what_cannot_be_pickled(what: str) -> None:
    with pytest.raises(RemoteError, match="cannot be sent"):
        await process.run(targets.unpicklable, what)


async def test_death() -> None:
    with pytest.raises(WorkerDied, match=r"leave_at_once .* exit status 9"):
        await process.run(targets.leave_at_once)


async def test_arguments_that_cannot_travel() -> None:
    with pytest.raises(ValueError, match="cannot be pickled"):
        await process.run(targets.power, lambda: None)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="define it at the top of a module"):
        await process.run(lambda: None)


@pytest.mark.parametrize("function", [targets.hang, targets.hang_later, targets.hang_for_ever])
async def test_cancelled(function: Any, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    task = asyncio.create_task(process.run(function, str(path)))
    await until(lambda: path.exists() and path.read_text())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await gone(int(path.read_text()))
    if function is targets.hang_later:
        assert path.with_suffix(".cancelled").exists(), "a coroutine is cancelled"


async def test_large_arguments_are_copied_between_the_turns_of_others() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    data = bytearray(b"a" * LARGE)
    counting = asyncio.create_task(count())
    async with bundle.kept([pickle.PickleBuffer(data)]) as copies:
        turns_taken = turns
        (file,) = copies.files
        assert os.pread(file.fileno(), 2 * LARGE, 0) == data
    counting.cancel()
    assert turns_taken >= LARGE // 2**20
    assert file.fileno() == -1
    await asyncio.wait([counting])
