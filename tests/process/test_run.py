"""run: one function in a process of its own."""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
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


async def test_exception_that_cannot_be_unpickled() -> None:
    with pytest.raises(RemoteError, match="Quarrel: one against the other cannot be") as caught:
        await process.run(targets.quarrel)
    assert (caught.value.type, caught.value.text) == ("Quarrel", "one against the other")
    (note,) = caught.value.__notes__
    assert note.startswith("In the worker:\nTraceback")


async def test_result_that_cannot_be_unpickled() -> None:
    with pytest.raises(RemoteError, match=r"the result of settle: .* missing 1 required"):
        await process.run(targets.settle)


async def test_death() -> None:
    with pytest.raises(WorkerDied, match=r"leave_at_once .* exit status 9"):
        await process.run(targets.leave_at_once)


@pytest.mark.parametrize("leave", [os._exit, sys.exit, targets.leave_later])
async def test_death_with_status_0(leave: Any) -> None:
    with pytest.raises(WorkerDied, match="exit status 0") as caught:
        await process.run(leave, 0)
    assert caught.value.status == 0


async def test_death_in_a_process_of_the_process() -> None:
    with pytest.raises(WorkerDied, match=r"leave_at_once .* exit status 9") as caught:
        await process.run(targets.run_what_dies)
    assert caught.value.status == 9


async def test_arguments_that_cannot_travel() -> None:
    with pytest.raises(ValueError, match="cannot be pickled"):
        await process.run(targets.power, lambda: None)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="define it at the top of a module"):
        await process.run(lambda: None)
    with pytest.raises(TypeError, match=r"process\.run\(\) takes a function, not 'os:getpid'"):
        await process.run("os:getpid")  # type: ignore[call-overload]


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
