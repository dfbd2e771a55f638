"""Calls that failed keep nothing of what they were called with, though no collector runs."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
import pytest_asyncio

import aioipc
from aioipc import PeerCrashed, WorkerDied, process, rpc
from aioipc.process import Setup
from tests.process import models, targets
from tests.process.models import Model

pytestmark = pytest.mark.asyncio

QUIET = Setup(stdout="null", stderr="null", grace_s=0.5)


class Text(str):
    """A str that can be looked for."""


@pytest.fixture
def uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest_asyncio.fixture
async def model() -> AsyncIterator[Model]:
    async with process.pool(models.Worker, Model, size=1, setup=QUIET) as model:
        yield model


async def let_go(
    text: str, call: Callable[[str], Awaitable[object]], error: type[Exception]
) -> None:
    """Have a call fail, and wait until nobody has its argument any more."""
    argument = Text(text)
    gone = asyncio.Event()
    loop = asyncio.get_running_loop()
    weakref.finalize(argument, loop.call_soon_threadsafe, gone.set)
    with pytest.raises(error):
        await call(argument)
    del argument
    await asyncio.wait_for(gone.wait(), 5)


@pytest.mark.usefixtures("uncollected")
class TestLettingGo:
    async def test_where_a_worker_of_a_pool_died(self, model: Model) -> None:
        await let_go("kill", model.die, PeerCrashed)

    async def test_where_a_method_failed(self, model: Model) -> None:
        await let_go("lost", model.fail, aioipc.RemoteError)

    async def test_where_the_arguments_are_wrong(self, model: Model) -> None:
        await let_go("five", model.add, aioipc.BadArguments)  # type: ignore[arg-type]

    async def test_where_the_far_side_left(self) -> None:
        far, near = aioipc.pair("shm", codec=rpc.CODEC)

        async def leave(text: str) -> None:
            leaving = asyncio.get_running_loop().call_later(0.05, far.abort)
            try:
                await store.fail(text)
            finally:
                leaving.cancel()

        async with rpc.connect(near, Model) as store:
            await let_go("left", leave, PeerCrashed)

    async def test_where_a_function_of_its_own_process_failed(self) -> None:
        await let_go("too loud", lambda text: process.run(targets.complain, text), Exception)

    async def test_where_a_process_of_its_own_died(self) -> None:
        await let_go("9", lambda text: process.run(targets.leave_at_once_with, text), WorkerDied)
