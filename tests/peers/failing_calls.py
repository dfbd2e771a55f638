"""A child that lets one system call fail after the other: see tests/test_syscall_failures.py.

Its arguments are scenarios with commas between them, a loop, and the functions that fail if not
all do. It says "- " and a function before each of those, one
line for each problem, and "done N" at last.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import faulthandler
import gc
import logging
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import aioipc
import aioipc.listener
from aioipc import Channel, EndOfStream, IPCError, Limits
from aioipc.kernel.statistics import Kind, open_row
from tests.conftest import LOOPS

PATIENCE_S = 15.0
LIMITS = Limits(handshake_s=10, linger_s=0.01, connect_s=10, max_message_bytes=2**20)
LARGE = bytes(range(256)) * 1100  # more than a socket holds, and sent from where it lies
messages = [LARGE, b"", b"x", LARGE]
Options = dict[str, Any]
OPTIONS: Options = {"codec": "raw", "limits": LIMITS}

RETRIED = ("EINTR", "EAGAIN")
"""What a call says that is to be made again, so that nobody learns of it."""

NO_MORE = ("EMFILE", "ENFILE", "ENOMEM")
FAILURES: dict[str, tuple[str, ...]] = {
    "socket": (*NO_MORE, "ENOBUFS"),
    "socketpair": NO_MORE,
    "accept4": (*RETRIED, *NO_MORE, "ENOBUFS", "ECONNABORTED", "EPROTO", "ENETDOWN", "EPERM"),
    "connect": (*RETRIED, "ECONNREFUSED", "ENOMEM", "ETIMEDOUT", "EACCES"),
    "bind": ("EADDRINUSE", "ENOMEM", "ENOSPC", "EACCES"),
    "listen": ("EADDRINUSE",),
    "getpeername": ("ENOTCONN", "ENOBUFS"),
    "recv": (*RETRIED, "ENOMEM", "ECONNRESET"),
    "send": (*RETRIED, "ENOMEM", "ENOBUFS", "EPIPE", "ECONNRESET"),
    "sendmsg": (*RETRIED, "ENOMEM", "ENOBUFS", "EPIPE", "ECONNRESET"),
    "sendmsg with descriptors": (*NO_MORE, "ENOBUFS", "EPIPE", "ECONNRESET", "ETOOMANYREFS"),
    "recvmsg": (*RETRIED, "ENOMEM", "ECONNRESET"),
    "memfd_create": NO_MORE,
    "ftruncate": ("EINTR", "EFBIG", "ENOSPC", "ENOMEM"),
    "posix_fallocate": ("EINTR", "ENOSPC", "ENOMEM", "EFBIG"),
    "eventfd": NO_MORE,
    "mmap": ("ENOMEM", "EAGAIN", "ENFILE"),
    "read": (*RETRIED, "EIO"),
    "write": (*RETRIED, "EPIPE", "ENOMEM"),
    "writev": (*RETRIED, "EPIPE", "ENOMEM"),
    "epoll_ctl": ("ENOMEM", "ENOSPC"),
    "open": ("EINTR", *NO_MORE, "ENOSPC", "EACCES"),
    "openat": ("EINTR", *NO_MORE, "ENOSPC", "EACCES"),
    "pipe2": NO_MORE,
    "mkfifoat": ("ENOSPC", "EDQUOT"),
    "renameat": ("ENOSPC", "ENOMEM"),
    "dup": ("EMFILE",),
    "lock": ("EAGAIN", "ENOLCK"),
    "posix_spawnp": ("EAGAIN", "ENOMEM", "ENOENT"),
}
"""The functions, and what each can answer: the ERRORS of their man pages."""

FINAL = {("lock", "EAGAIN"), ("posix_spawnp", "EAGAIN"), ("mmap", "EAGAIN")}
"""Answers that are not to be tried again although they sound like it."""


# Scenarios: open, talk in both directions, close


async def echo(channel: Channel[bytes]) -> None:
    async for message in channel:
        await channel.send(message)


async def talk(channel: Channel[bytes]) -> None:
    await channel.send(b"small")
    _same(await channel.receive(), b"small")
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_all_sent(channel))
        for message in messages:
            _same(await channel.receive(), message)
    await channel.send_eof()
    with contextlib.suppress(EndOfStream):
        _same(await channel.receive(), b"the end")


async def _all_sent(channel: Channel[bytes]) -> None:
    await channel.send(messages[0])
    await channel.send_many(messages[1:-1])
    await channel.send(messages[-1])


def _same(got: bytes, expected: bytes) -> None:
    assert got == expected, f"got {len(got)} bytes, not {len(expected)}"


async def served(address: str) -> None:
    async def call(address: str) -> None:
        async with aioipc.connect(address, **OPTIONS) as channel:
            await talk(channel)

    async with aioipc.listen(address, **OPTIONS) as listener:
        serving = asyncio.create_task(listener.serve(echo))
        calling = asyncio.create_task(call(listener.address))
        await asyncio.wait([serving, calling], return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            await listener.aclose()  # then whoever waits in the backlog is told
            await asyncio.wait([calling])
        serving.cancel()
        await both(serving, calling)


async def unix(directory: Path) -> None:
    await served(f"unix:{directory}/socket")


async def tcp(directory: Path) -> None:
    await served("tcp://127.0.0.1:0")


async def pair(kind: str) -> None:
    async def closing(work: Coroutine[Any, Any, None], channel: Channel[Any]) -> None:
        async with channel:
            await work

    left, right = aioipc.pair(kind, **OPTIONS)
    await both(closing(talk(left), left), closing(echo(right), right))


async def shm(directory: Path) -> None:
    await served(f"shm:{directory}/socket")


async def shm_pair(directory: Path) -> None:
    await pair("shm")


async def unix_pair(directory: Path) -> None:
    await pair("unix")


async def pipe(directory: Path) -> None:
    await pair("pipe")


async def fifo(directory: Path) -> None:
    records = [bytes([number]) * 4000 for number in range(40)]
    address = f"fifo:{directory}/fifo"

    async def write() -> None:
        async with aioipc.connect(address, **OPTIONS) as channel:  # there is no reader yet
            await channel.send_many(records)
            await channel.flush()

    async def read() -> None:
        async with (
            aioipc.listen(address, **OPTIONS) as listener,
            await listener.accept() as channel,
        ):
            receiving = asyncio.create_task(_take(channel, records))
            await asyncio.wait([receiving, writing], return_when=asyncio.FIRST_COMPLETED)
            if writing.done() and writing.exception():
                receiving.cancel()  # on a FIFO the end of a writer is no end
            with contextlib.suppress(asyncio.CancelledError):
                await receiving

    writing = asyncio.create_task(write())
    await asyncio.sleep(0)
    reading = asyncio.create_task(read())
    await asyncio.wait([reading])
    if reading.exception():
        writing.cancel()  # it would wait for another reader
    await both(writing, reading)


async def _take(channel: Channel[bytes], records: Sequence[bytes]) -> None:
    for record in records:
        _same(await channel.receive(), record)


async def exec_(directory: Path) -> None:
    async with aioipc.connect("exec:cat", framing="lines", **OPTIONS) as channel:
        await channel.send(b"line")
        _same(await channel.receive(), b"line")
        await channel.send_eof()
        with contextlib.suppress(EndOfStream):
            await channel.receive()


async def fds(directory: Path) -> None:
    try:
        reads, writes = os.pipe()
    except OSError:
        return  # this call is not the library's
    try:
        channel = await aioipc.connect(f"fd:{reads},{writes}", **OPTIONS)
    except BaseException:
        os.close(reads)
        os.close(writes)
        raise
    async with channel:  # which talks to itself, and hears that it does
        await channel.send(b"x")
        with contextlib.suppress(aioipc.HandshakeError):
            await channel.receive()


SCENARIOS: dict[str, Callable[[Path], Awaitable[None]]] = {
    "unix": unix,
    "shm": shm,
    "shm-pair": shm_pair,
    "tcp": tcp,
    "unix-pair": unix_pair,
    "pipe": pipe,
    "fifo": fifo,
    "exec": exec_,
    "fd": fds,
}


async def both(*works: Awaitable[None]) -> None:
    """Wait for all of them, whatever becomes of the others."""
    results = await asyncio.gather(*works, return_exceptions=True)
    errors = [result for result in results if isinstance(result, Exception)]
    if errors:
        raise ExceptionGroup("what came of it", errors)


# One scenario with one failure


class Failing:
    """Runs a scenario again and again, and writes down what must not be."""

    def __init__(self, scenario: Callable[[Path], Awaitable[None]], directory: Path) -> None:
        self._scenario = scenario
        self._directory = directory
        self._shim = ctypes.CDLL(os.environ["LD_PRELOAD"])
        self._met: list[BaseException] = []  # what nobody waited for
        self._told: set[str] = set()
        self.runs = 0
        handler = logging.Handler()
        handler.emit = self._note_record  # type: ignore[method-assign]
        logging.getLogger().addHandler(handler)

    def _note_record(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self._met.append(record.exc_info[1])
        elif record.levelno >= logging.ERROR:
            self._met.append(AssertionError(record.getMessage()))

    def note(self, _: object, context: dict[str, Any]) -> None:
        """Take in what the loop complains of."""
        error = context.get("exception") or AssertionError(context["message"])
        self._met.append(AssertionError("the loop complains"))
        self._met.append(error)

    async def sweep(self, function: str, name: str) -> None:
        """Let the first, the second, ... call fail, until there is none."""
        n = 1
        while await self.run(function, n, name):
            n += 1

    async def run(self, function: str, n: int, name: str) -> bool:
        where = f"call {n} of {function} says {name}"
        fds = os.listdir("/proc/self/fd")
        watched = _watched()
        self._met.clear()
        began_s = time.monotonic()
        faulthandler.dump_traceback_later(3 * PATIENCE_S, exit=True)
        self.runs += 1
        self._shim.shim_arm(function.encode(), ctypes.c_long(n), getattr(errno, name))
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._scenario(self._directory)
        except Exception as error:
            self._met.append(error)
        finally:
            reached = bool(self._shim.shim_disarm())
            faulthandler.cancel_dump_traceback_later()
        took_s = time.monotonic() - began_s
        if took_s > PATIENCE_S / 2 and function != "nothing":
            self.tell(where, AssertionError(f"took {took_s:.1f} s"))
        must_succeed = not reached or (name in RETRIED and (function, name) not in FINAL)
        self._judge(where, must_succeed=must_succeed)
        if not must_succeed:
            self._tidy()
        await self._check_residue(where, fds, watched)
        return reached

    def _judge(self, where: str, *, must_succeed: bool) -> None:
        """Tell what should not have been raised; nothing holds a traceback afterwards."""
        for met in _leaves(self._met):
            if must_succeed or not isinstance(met, IPCError):
                self.tell(where, met)
        self._met.clear()

    def _tidy(self) -> None:
        """Remove what a failure may leave: a file that others may have found already."""
        for name in ("fifo", ".socket.guard"):
            (self._directory / name).unlink(missing_ok=True)

    async def _check_residue(self, where: str, fds: list[str], watched: int) -> None:
        for _ in range(100):
            if self._is_clean(fds, watched):
                return
            await asyncio.sleep(0.01)  # a child that is killed ends some time later
        now = [fd for fd in os.listdir("/proc/self/fd") if fd not in fds]
        kinds = [_target(fd) for fd in now]
        tasks = len(asyncio.all_tasks()) - 1
        left = f"left {kinds=} {tasks=} names={self._names()} watched={_watched() - watched}"
        self.tell(where, AssertionError(left))
        gc.collect()
        for name in os.listdir(self._directory):
            (self._directory / name).unlink()

    def _names(self) -> list[str]:
        return os.listdir(self._directory)

    def _is_clean(self, fds: list[str], watched: int) -> bool:
        return (
            len(os.listdir("/proc/self/fd")) == len(fds)
            and len(asyncio.all_tasks()) == 1
            and not self._names()
            and _watched() == watched
        )

    def tell(self, where: str, error: BaseException) -> None:
        """Say what was wrong, with where it comes from, once."""
        trace = traceback.extract_tb(error.__traceback__)[-3:]
        path = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(trace))
        text = f"{where}: {type(error).__name__}: {error} ({path})".replace("\n", " ")
        if text not in self._told:
            self._told.add(text)
            print(text, flush=True)


def _leaves(errors: Sequence[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in errors:
        if isinstance(error, BaseExceptionGroup):
            found += _leaves(error.exceptions)
        else:
            found.append(error)
    return found


def _watched() -> int:
    """How many descriptors the loop watches, where it tells."""
    selector = getattr(asyncio.get_running_loop(), "_selector", None)
    return 0 if selector is None else len(selector.get_map())


def _target(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:
        return "gone"


async def main(scenarios: str, loop: str, *only: str) -> None:
    runs = [await swept(scenario, loop, only) for scenario in scenarios.split(",")]
    print(f"done {sum(runs)}")


async def swept(scenario: str, loop: str, only: Sequence[str]) -> int:
    directory = Path(tempfile.mkdtemp(prefix="aioipc-"))
    failing = Failing(SCENARIOS[scenario], directory)
    asyncio.get_running_loop().set_exception_handler(failing.note)
    open_row(Kind.CHANNEL, "")  # the page of statistics lives as long as the process
    try:
        for _ in range(2):  # import what is imported late, fill what is cached
            await failing.run("nothing", 1, "EIO")
        for function in only or FAILURES:
            if loop == "uvloop" and function == "epoll_ctl":
                continue  # libuv aborts the process
            print("-", function, flush=True)
            for name in FAILURES[function]:
                await failing.sweep(function, name)
        await failing.run("nothing", 1, "EIO")
        if not only:
            await shortened(failing)
    finally:
        shutil.rmtree(directory)
    return failing.runs


async def shortened(failing: Failing) -> None:
    """Every read and write moves a few bytes only."""
    shim = ctypes.CDLL(os.environ["LD_PRELOAD"])
    for longest, size in ((4099, len(LARGE)), (11, 66_000), (1, 5_000)):
        messages[:] = [message[:size] for message in messages]
        shim.shim_shorten(ctypes.c_size_t(longest))
        await failing.run("nothing", 1, "EIO")
    shim.shim_shorten(ctypes.c_size_t(0))


if __name__ == "__main__":
    aioipc._doorkeeper._RETRY_S = 0.001
    with asyncio.Runner(loop_factory=LOOPS[sys.argv[2]]) as runner:
        runner.run(main(*sys.argv[1:]))
