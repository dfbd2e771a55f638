"""Peers that speak aioipc: short async programs in processes of their own."""

from __future__ import annotations

import asyncio
import contextlib
import textwrap
from collections.abc import Sequence
from typing import Any

from aioipc import Channel, EndOfStream, WouldBlock
from tests.children import Peer, Peers
from tests.kernel.strangers import BECOME_NOBODY

HEAD = """
import asyncio, contextlib, os, signal, socket, sys
import aioipc

def say(*words):
    # In one write, for others may share the pipe.
    print(" ".join(map(str, words)) + "\\n", end="", flush=True)

async def hear():
    return (await asyncio.to_thread(sys.stdin.readline)).rstrip("\\n")

async def echo(channel):
    async for obj in channel:
        await channel.send(obj)

async def main():
"""
FACTORY = """
if sys.argv.pop(1) == "uvloop":
    import uvloop
    factory = uvloop.new_event_loop
else:
    factory = asyncio.new_event_loop

def run():
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
"""
TAIL = f"""
{FACTORY}
run()
"""
NURSERY = f"""
import traceback
from importlib import import_module
for name in (
    "aioipc.pubsub",
    "aioipc.queues",
    "concurrent.futures.thread",
    "sqlite3",
    "stamina",
    *aioipc.transports.FAMILIES.values(),
):
    import_module(name)
{FACTORY}
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
arguments = sys.argv[1:]
for line in sys.stdin:
    if os.fork() == 0:
        say(os.getpid())  # before whatever else it says
        sys.argv[1:] = [*arguments, *line.split()]
        status = 1
        try:
            run()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
"""

ECHO = """
async with await aioipc.connect(sys.argv[1]) as channel:
    await echo(channel)
"""
"""Connects to its argument and sends back what it receives, until the other side ends."""

SERVE_ECHO = """
async with await aioipc.listen(sys.argv[1]) as listener:
    say(listener.address)
    await listener.serve(echo)
"""
"""Listens at its argument, says where, and sends back what it receives, for ever."""

AS_NOBODY = f"""
from importlib import import_module
for name in (
    *("transports.dgram", "transports.fifo", "transports.unix", "codecs.msgpack", "codecs.pickle"),
):
    import_module(f"aioipc.{{name}}")  # they may lie where nobody may look
import_module("concurrent.futures.thread")
{BECOME_NOBODY}
"""
"""Goes on as another user. Only root can run this."""

MESSAGES: tuple[object, ...] = (
    None,
    b"",
    "x",
    {"a": [1, 2.5, True], "ü": b"\0\n\r"},
    b"b" * 5_000,
    b"f" * 70_000,
    b"m" * 3_000_000,
    "last",
)
"""Nothing, little, more than PIPE_BUF, more than one read, more than any kernel buffer."""


def loop_name() -> str:
    """The loop that the test runs on, for its peers to run on the same."""
    try:
        module = type(asyncio.get_running_loop()).__module__
    except RuntimeError:
        return "asyncio"
    return "uvloop" if module.startswith("uvloop") else "asyncio"


def source(code: str, tail: str = TAIL) -> str:
    """The whole program around the body of its ``main``."""
    return HEAD + textwrap.indent(textwrap.dedent(code).strip("\n"), "    ") + "\n" + tail


def program(peers: Peers, code: str, *arguments: object, **options: Any) -> Peer:
    """Start a peer whose ``main`` is ``code``, on the same loop as the test.

    There it finds ``say(*words)`` for its stdout, ``await hear()`` for its stdin, and
    ``await echo(channel)``.
    """
    return peers.script(source(code), loop_name(), *arguments, **options)


class Nursery:
    """A process that forks many short-lived peers: each starts in a few milliseconds.

    Their ``main`` has no standard input, and its ``say`` writes to the nursery's ``peer``.
    """

    def __init__(self, peers: Peers, code: str, *arguments: object, **options: Any) -> None:
        self.peer = peers.script(source(code, NURSERY), loop_name(), *arguments, **options)

    def start(self, *arguments: object) -> int:
        """Start one, which finds the arguments behind those of the nursery; return its pid.

        Call it only while the others say nothing.
        """
        self.peer.tell(" ".join(map(str, arguments)))
        return int(self.peer.line())


async def converse(channel: Channel[Any], messages: Sequence[object] = MESSAGES) -> None:
    """Send messages one by one and all together to an echo, and end cleanly."""
    for message in messages:
        await channel.send(message)
        assert await channel.receive() == message
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(channel.send_many(messages))
        for message in messages:
            assert await channel.receive() == message
    await channel.send_eof()
    await ends(channel)


async def stuck_send(channel: Channel[Any]) -> asyncio.Task[None]:
    """Send until there is no more room; the task has started and waits for some."""
    message = "x" * 1_000
    with contextlib.suppress(WouldBlock):
        while True:
            channel.send_nowait(message)
    task = asyncio.ensure_future(channel.send(message))
    await asyncio.sleep(0)
    assert not task.done()
    return task


async def ends(channel: Channel[Any]) -> None:
    """Check that the other side finishes cleanly, and keeps to it."""
    for _ in range(2):
        try:
            left = await channel.receive()
        except EndOfStream:
            continue
        raise AssertionError(f"{left!r} was left instead of the end")
