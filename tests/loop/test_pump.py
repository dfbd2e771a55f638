"""The thread that looks now and then: it is there as long as somebody waits."""

from __future__ import annotations

import asyncio
import threading

import pytest

from aioipc.loop.pump import Watched, _Pump
from tests.children import PATIENCE_S

pytestmark = pytest.mark.asyncio


def started(name: str = "aioipc-pump") -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


async def test_a_thread_that_does_not_start_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pump, found = _Pump(), asyncio.Event()
    watched = Watched(lambda: True, found.set)

    def start(_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="new thread"):
            pump.watch(watched)
    pump.watch(watched)
    async with asyncio.timeout(PATIENCE_S):
        await found.wait()
    for thread in started():
        await asyncio.to_thread(thread.join)


async def test_it_goes_when_nobody_waits_and_comes_again() -> None:
    pump = _Pump()
    for _ in range(2):
        found = asyncio.Event()
        pump.watch(Watched(lambda: True, found.set))
        async with asyncio.timeout(PATIENCE_S):
            await found.wait()
        (thread,) = started()
        await asyncio.to_thread(thread.join)
