"""Operations as asyncio knows coroutines: awaited once, by one task, in one loop, and cancelled."""

from __future__ import annotations

import asyncio
import collections.abc
import contextvars
import gc
import inspect
import io
import sys
import warnings
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import aioipc
from aioipc import Channel
from tests.conftest import LOOPS
from tests.links import KERNEL, Link, outcome

asyncio_only = pytest.mark.asyncio
links = pytest.mark.parametrize("link", ["unix", "memory"], indirect=True)
unix = pytest.mark.parametrize("link", ["unix"], indirect=True)

OPERATIONS: dict[str, Callable[[Channel[Any]], Coroutine[Any, Any, Any]]] = {
    "send": lambda channel: channel.send(1),
    "send_many": lambda channel: channel.send_many([1, 2]),
    "flush": lambda channel: channel.flush(),
    "receive": lambda channel: channel.receive(),
    "receive_many": lambda channel: channel.receive_many(),
    "anext": lambda channel: channel.__anext__(),
}
every_operation = pytest.mark.parametrize("operate", OPERATIONS.values(), ids=OPERATIONS)


# Whatever takes a coroutine takes an operation


@asyncio_only
@links
async def test_as_the_coroutine_of_a_task(link: Link) -> None:
    async with link() as (left, right):
        receiving = asyncio.create_task(right.receive(), name="receiving")
        sending = asyncio.create_task(left.send("hello"))
        assert await receiving == "hello"
        await sending
        async with asyncio.TaskGroup() as tasks:
            many = tasks.create_task(right.receive_many())
            tasks.create_task(left.send_many([1, 2, 3]))
        assert many.result() == [1, 2, 3]


@asyncio_only
@links
async def test_gather(link: Link) -> None:
    async with link() as (left, right):
        results = await asyncio.gather(right.receive(), left.send(1), left.send(2), left.flush())
        assert results == [1, None, None, None]
        assert await right.receive() == 2


@asyncio_only
@links
async def test_wait_for(link: Link) -> None:
    async with link() as (left, right):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(right.receive(), 0.001)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(right.receive(), 0)
        await asyncio.wait_for(left.send("late"), 30)
        assert await asyncio.wait_for(right.receive(), 30) == "late"


@asyncio_only
@links
async def test_shield(link: Link) -> None:
    async with link() as (left, right):
        receiving = asyncio.ensure_future(right.receive())
        outer = asyncio.create_task(asyncio.wait_for(asyncio.shield(receiving), 30))
        await asyncio.sleep(0)
        outer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await outer
        assert not receiving.done()
        await left.send("shielded")
        assert await receiving == "shielded"


@asyncio_only
@links
async def test_wait_and_as_completed(link: Link) -> None:
    async with link() as (left, right):
        receiving = asyncio.create_task(right.receive())
        done, pending = await asyncio.wait([receiving], timeout=0.001)
        assert (done, pending) == (set(), {receiving})
        await left.send(1)
        for completed in asyncio.as_completed([receiving]):
            assert await completed == 1


@every_operation
@asyncio_only
@unix
async def test_an_operation_is_a_coroutine_to_those_who_ask(
    link: Link, operate: Callable[[Channel[Any]], Coroutine[Any, Any, Any]]
) -> None:
    def state() -> str:
        """As every Python has it, for those before 3.15 look elsewhere."""
        assert inspect.getcoroutinestate(operation) == operation.cr_state  # type: ignore[attr-defined]
        return inspect.getcoroutinestate(operation)

    async with link() as (left, _):
        operation = operate(left)
        assert asyncio.iscoroutine(operation)
        assert isinstance(operation, collections.abc.Coroutine)
        assert inspect.isawaitable(operation)
        assert state() == inspect.CORO_CREATED
        assert "Channel" in repr(getattr(operation, "__qualname__", None))
        operation.close()
        operation.close()
        assert state() == inspect.CORO_CLOSED


def test_asyncio_run_takes_an_operation() -> None:
    left, right = aioipc.pair("unix")
    with asyncio.Runner() as runner:
        runner.run(left.send("from one run"))
        assert runner.run(right.receive()) == "from one run"
        runner.run(left.aclose())
        runner.run(right.aclose())


# Debuggers


@asyncio_only
@links
async def test_a_task_can_be_shown_at_every_moment(link: Link) -> None:
    def show(task: asyncio.Task[Any]) -> str:
        out = io.StringIO()
        task.print_stack(file=out)
        return f"{task!r} {task.get_stack()} {out.getvalue()}"

    async with link() as (left, right):
        receiving = asyncio.create_task(right.receive(), name="looking")
        assert "looking" in show(receiving)
        await asyncio.sleep(0)
        assert "receive" in show(receiving).lower()
        state = inspect.getcoroutinestate(receiving.get_coro())  # type: ignore[arg-type]
        assert state == inspect.CORO_SUSPENDED
        await left.send(1)
        await receiving
        show(receiving)


@pytest.mark.parametrize("factory", LOOPS.values(), ids=LOOPS)
def test_debug_mode(factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> None:
        left, right = aioipc.pair("unix", polling="block")
        async with left, right:
            receiving = asyncio.create_task(right.receive())
            await asyncio.sleep(0)
            await left.send_many(range(1_000))
            assert await receiving == 0
            for number in range(1, 1_000):
                assert await right.receive() == number

    with asyncio.Runner(debug=True, loop_factory=factory) as runner:
        runner.run(main())


# The task that waits runs as itself


@asyncio_only
@links
async def test_current_task_and_context_are_right_after_a_wait(link: Link) -> None:
    variable = contextvars.ContextVar[str]("variable", default="nobody's")

    async def receive() -> None:
        variable.set("mine")
        await right.receive()
        assert asyncio.current_task() is receiving
        assert variable.get() == "mine"
        async with asyncio.timeout(30):
            await right.receive()
        assert asyncio.current_task() is receiving

    async with link() as (left, right):
        receiving = asyncio.create_task(receive())
        await asyncio.sleep(0)
        await left.send(1)
        await asyncio.sleep(0)
        await left.send(2)
        await receiving
        assert variable.get() == "nobody's"
        assert asyncio.current_task() is not receiving


@asyncio_only
@unix
async def test_what_a_woken_task_raises_stays_its_own(link: Link) -> None:
    async def receive_and_fail() -> None:
        await right.receive()
        raise ValueError("mine")

    async with link() as (left, right):
        failing = asyncio.create_task(receive_and_fail())
        await asyncio.sleep(0)
        await left.send(1)
        with pytest.raises(ValueError, match="mine"):
            await failing
        await left.send(2)
        assert await right.receive() == 2


# Once, by one task


@every_operation
@asyncio_only
@unix
async def test_an_operation_is_awaited_once(
    link: Link, operate: Callable[[Channel[Any]], Coroutine[Any, Any, Any]]
) -> None:
    async with link() as (left, right):
        await right.send_many([1, 2, 3])
        operation = operate(left)
        await operation
        before = left.statistics()
        for _ in range(2):
            with pytest.raises(RuntimeError, match="awaited only once"):
                await operation
        assert left.statistics() == before


@asyncio_only
@unix
async def test_two_tasks_cannot_await_one_operation(link: Link) -> None:
    async with link() as (left, right):
        operation = right.receive()

        async def wait() -> Any:
            return await operation

        first = asyncio.create_task(wait())
        second = asyncio.create_task(wait())
        with pytest.raises(RuntimeError, match="another task is already awaiting"):
            await second
        await left.send(1)
        assert await first == 1


@pytest.mark.parametrize("name", ["send", "send_many"])
@asyncio_only
@unix
async def test_a_forgotten_send_warns(link: Link, name: str) -> None:
    async with link() as (left, right):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            getattr(left, name)([1])
        (warning,) = caught
        assert warning.category is RuntimeWarning
        assert str(warning.message) == f"channel.{name}() was never awaited: nothing was sent"
        assert warning.filename == __file__
        await left.send(2)
        assert await right.receive() == 2


@asyncio_only
@unix
async def test_a_send_that_was_cancelled_before_it_began_does_not_warn(link: Link) -> None:
    async with link() as (left, right):
        sending = asyncio.create_task(left.send(1))
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        left.send(1).close()
        await left.send(2)
        assert await right.receive() == 2


@asyncio_only
@unix
async def test_receives_that_were_never_awaited_take_nothing(link: Link) -> None:
    async with link() as (left, right):
        await left.send(1)
        right.receive()  # type: ignore[unused-coroutine]
        right.receive_many()  # type: ignore[unused-coroutine]
        right.__anext__()  # type: ignore[unused-coroutine]
        assert await right.receive() == 1


# One thread, one loop


@pytest.mark.parametrize("link", [*KERNEL, "memory"], indirect=True)
@asyncio_only
async def test_use_from_another_thread_fails_at_once(link: Link) -> None:
    def use(channel: Channel[Any]) -> list[BaseException | None]:
        async def each() -> list[BaseException | None]:
            return [await outcome(operate(channel)) for operate in OPERATIONS.values()]

        async def cold() -> list[BaseException | None]:
            return [await outcome(channel.send_eof()), await outcome(channel.aclose())]

        with asyncio.Runner() as runner:
            failures = runner.run(each()) + runner.run(cold())
        for call in (
            channel.receive_nowait,
            lambda: channel.send_nowait(1),
            channel.abort,
            channel.detach,
        ):
            try:
                call()
            except Exception as error:
                failures.append(error)
            else:
                failures.append(None)
        return failures

    async with link() as (left, right):
        await left.send("hello")
        assert await right.receive() == "hello"
        await right.send("waits")
        await right.flush()
        failures = await asyncio.to_thread(use, left)
        assert [type(failure) for failure in failures] == [RuntimeError] * 12
        assert {str(failure) for failure in failures} == {
            "this channel belongs to the event loop of another thread"
        }
        assert await left.receive() == "waits"
        await left.send("still here")
        assert await right.receive() == "still here"


@pytest.mark.parametrize("factory", LOOPS.values(), ids=LOOPS)
@pytest.mark.parametrize("kind", ["unix", "pipe", "memory"])
def test_use_from_another_loop_fails_when_it_would_wait(
    kind: str, factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def first() -> tuple[Channel[Any], Channel[Any]]:
        left, right = aioipc.pair(kind, codec="raw")
        await left.send(b"1")
        assert await right.receive() == b"1"
        receiving = asyncio.create_task(right.receive())
        await asyncio.sleep(0)
        receiving.cancel()
        return left, right

    async def second() -> None:
        for wait in (right.receive, right.receive_many, right.__anext__):
            with pytest.raises(RuntimeError, match="loop"):
                await wait()
        with pytest.raises(RuntimeError, match="loop"):
            await left.send(bytes(5_000_000))

    async def third() -> None:
        sending = asyncio.create_task(left.send(b"2"))
        begun = 0
        while (message := await right.receive()) != b"2":
            assert message == bytes(5_000_000)
            begun += 1
        assert begun <= 1
        await sending
        await left.aclose()
        await right.aclose()

    with asyncio.Runner(loop_factory=factory) as home:
        left, right = home.run(first())
        with asyncio.Runner(loop_factory=factory) as other:
            other.run(second())
        home.run(third())


def test_without_a_loop_there_is_nothing_to_belong_to() -> None:
    left, right = aioipc.pair("unix")
    with pytest.raises(RuntimeError, match="no running event loop"):
        left.send_nowait(1)
    with pytest.raises(RuntimeError, match="no running event loop"):
        right.receive_nowait()
    left.abort()
    right.abort()


# Eager tasks


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
@pytest.mark.parametrize("factory", LOOPS.values(), ids=LOOPS)
@pytest.mark.parametrize("kind", ["unix", "pipe", "memory"])
def test_eager_tasks(kind: str, factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
        left, right = aioipc.pair(kind)
        async with left, right:
            await left.send("there already")
            assert await asyncio.create_task(right.receive()) == "there already"
            receiving = asyncio.create_task(right.receive())
            await asyncio.create_task(left.send("later"))
            assert await receiving == "later"
            results = await asyncio.gather(
                right.receive(), *(left.send(number) for number in range(100))
            )
            assert results[0] == 0
            for number in range(1, 100):
                assert await right.receive() == number
            waiting = asyncio.create_task(right.receive())
            waiting.cancel()
            await asyncio.wait([waiting])
            assert waiting.cancelled()
            await left.send("the next one gets it")
            assert await right.receive() == "the next one gets it"

    if factory is LOOPS["uvloop"] and (3, 13) <= sys.version_info < (3, 13, 3):
        pytest.skip("uvloop passes eager_start on, which this Python does not know")
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


@asyncio_only
@unix
async def test_what_cannot_be_sent_at_all_is_nothing_to_await(link: Link) -> None:
    async with link() as (left, _):
        nothing: Any = 5
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with pytest.raises(TypeError, match="not iterable"):
                await left.send_many(nothing)
            gc.collect()
        assert not caught
