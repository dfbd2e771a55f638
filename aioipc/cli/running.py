"""``aioipc run``: some workers that run the same function, until they end or are told to."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sys
from dataclasses import dataclass
from typing import NoReturn, TextIO

from aioipc.cli.importing import find_module
from aioipc.cli.notation import Notation
from aioipc.cli.problems import OutputFailed, UsageProblem, write_to
from aioipc.cli.session import first_of
from aioipc.errors import PeerCrashed
from aioipc.process.life import Child
from aioipc.process.setup import Setup
from aioipc.process.supervisor import supervise
from aioipc.process.target import Target
from aioipc.process.worker import Worker, spawn

__all__ = ["Running", "run_workers"]

_JSON = Notation.of(None, None, as_json=True)


@dataclass(frozen=True, slots=True)
class Running:
    """What to run.

    Attributes:
        target: ``module:function``.
        workers: How many processes.
        grace_s: How long each may take to end after SIGTERM.
        restart: Whether those that die are started again.
    """

    target: str
    workers: int
    grace_s: float
    restart: bool = False


async def run_workers(wanted: Running) -> None:
    """Start the workers and print what they write, and what they send as JSON.

    When one of them fails, or this is cancelled, all are told to end; with ``restart`` only when
    one fails too often.

    Raises:
        UsageProblem: The target is not written as it should be, or there is no such module.
        WorkerDied: One failed.
        OutputClosed: Nobody reads what they write.
        OutputFailed: It cannot be written: a full disk, for example.
    """
    try:
        target = Target.of(wanted.target)
    except ValueError as error:
        raise UsageProblem(str(error)) from None
    find_module(target.module)
    name = target.function
    output = _Output()
    if wanted.restart:
        await _supervise(wanted, name, output)
        return
    workers: list[Worker] = []
    try:
        for number in range(1, wanted.workers + 1):
            setup = output.setup_of(f"{name}-{number}", wanted.grace_s)
            workers.append(await spawn(wanted.target, setup=setup))
        await first_of(output.wait_failed(), _until_all_end(workers, output))
    finally:
        await _see_off(workers)


async def _supervise(wanted: Running, name: str, output: _Output) -> None:
    """Start again who dies, and replace all on SIGHUP."""
    names = [f"{name}-{number}" for number in range(1, wanted.workers + 1)]
    children = [
        Child(
            target=wanted.target,
            restart="on_failure",
            on_message=functools.partial(output.show, each),
            setup=output.setup_of(each, wanted.grace_s),
        )
        for each in names
    ]
    async with supervise(children) as supervisor:
        try:
            await first_of(output.wait_failed(), supervisor.wait())
        finally:
            supervisor.terminate()


async def _until_all_end(workers: list[Worker], output: _Output) -> None:
    async with asyncio.TaskGroup() as tasks:
        for worker in workers:
            tasks.create_task(_until_end(worker, output))


async def _until_end(worker: Worker, output: _Output) -> None:
    """Print what a worker sends, until it ends.

    Raises:
        WorkerDied: It did not end well.
    """
    with contextlib.suppress(PeerCrashed):
        async for obj in worker.channel:
            output.show(worker.name, obj)
    await worker.wait()
    if (death := worker.death()) is not None:
        raise death


async def _see_off(workers: list[Worker]) -> None:
    """Tell those that still run to end, and wait for that.

    Cancellation:
        They are killed at once.
    """
    for worker in workers:
        worker.terminate()
    async with asyncio.TaskGroup() as tasks:
        for worker in workers:
            tasks.create_task(worker.aclose())


class _Output:
    """Lines on our standard output and error, with the name of a worker before each."""

    def __init__(self) -> None:
        self._failed = asyncio.Event()
        self._error = OutputFailed()

    def setup_of(self, name: str, grace_s: float) -> Setup:
        return Setup(
            name=name,
            stdout=functools.partial(self.write, sys.stdout, name),
            stderr=functools.partial(self.write, sys.stderr, name),
            grace_s=grace_s,
        )

    def show(self, name: str, obj: object) -> None:
        self.write(sys.stdout, name, _JSON.show(obj, to_terminal=False).decode())

    def write(self, stream: TextIO | None, name: str, line: str) -> None:
        if stream is None:
            return
        try:
            write_to(stream, f"[{name}] {line.rstrip()}\n")
        except OutputFailed as error:
            self._error = error
            self._failed.set()

    async def wait_failed(self) -> NoReturn:
        """Wait until what is written gets nowhere.

        Raises:
            OutputClosed: Nobody reads it.
            OutputFailed: It cannot be written.
        """
        await self._failed.wait()
        raise self._error
