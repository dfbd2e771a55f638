"""Other users: programs that end, but cannot be told to, as those of sudo(8); and few processes."""

from __future__ import annotations

import pytest

from tests.children import Peers
from tests.kernel.strangers import BECOME_NOBODY, as_root
from tests.programs import program

pytestmark = [pytest.mark.asyncio, as_root]

HEAD = f"""
from aioipc import process
from aioipc.process import Setup, pipeline, spawn

setup = Setup(stdin="pipe", stdout="null", stderr="null", grace_s=0.05)
fails = ["sh", "-c", "read line; exit 3"]

def become_nobody():
    {BECOME_NOBODY}

def tell(signal_it):
    try:
        signal_it()
    except aioipc.AccessDenied as error:
        say(error)

async def leave(it):
    try:
        await it.aclose()
    except aioipc.AccessDenied as error:
        say(error)
    say(it.status)
"""


async def test_its_end_is_seen(peers: Peers) -> None:
    peer = program(
        peers,
        HEAD
        + """
worker = await spawn(fails, setup=setup)
become_nobody()
await worker.stdin.send(b"\\n")
say(await worker.wait())
await worker.aclose()
say(worker.death())
""",
    )
    assert await peer.next_line() == "3"
    assert (await peer.next_line()).endswith("ended with exit status 3")


async def test_it_cannot_be_told_to_end(peers: Peers) -> None:
    peer = program(
        peers,
        HEAD
        + """
worker = await spawn(["sleep", "1000"], setup=setup)
become_nobody()
tell(worker.terminate)
tell(worker.kill)
tell(lambda: worker.send_signal(signal.SIGINT))
await leave(worker)
""",
    )
    for name in ("SIGTERM", "SIGKILL"):
        line = await peer.next_line()
        assert line.startswith(f"[Errno 1] {name} to sleep (pid ")
        assert line.endswith("), which runs as another user: Operation not permitted")
    assert (await peer.next_line()).startswith("[Errno 1] SIGINT to <Worker sleep")
    assert (await peer.next_line()).startswith("[Errno 1] SIGTERM to sleep (pid ")
    assert await peer.next_line() == "None"


async def test_it_cannot_be_told_to_end_by_its_supervisor(peers: Peers) -> None:
    peer = program(
        peers,
        HEAD
        + """
supervisor = await process.supervise([process.Child(target=["sleep", "1000"], setup=setup)])
become_nobody()
try:
    await supervisor.aclose()
except aioipc.AccessDenied as error:
    say(error)
""",
    )
    assert (await peer.next_line()).startswith("[Errno 1] SIGTERM to sleep (pid ")


async def test_its_end_is_seen_where_it_was_forked(peers: Peers) -> None:
    """How it ended is shown to its own user alone."""
    peer = program(
        peers,
        HEAD
        + """
async with aioipc.process.fork_server() as server:
    worker = await spawn("tests.process.targets:echo", start=server, setup=Setup(stderr="null"))
    await worker.channel.send(1)
    await worker.channel.receive()
    os.setresuid(65534, 65534, 0)
    await worker.channel.send_eof()
    say(await worker.wait())
    os.setresuid(0, 0, 0)
    await worker.aclose()
""",
    )
    assert await peer.next_line() == "255"


async def test_its_end_is_seen_in_a_pipeline(peers: Peers) -> None:
    peer = program(
        peers,
        HEAD
        + """
pipe = await pipeline(fails, ["cat"])
become_nobody()
await pipe.stdin.send(b"\\n")
say(await pipe.wait(), *pipe.statuses)
await pipe.aclose()
""",
    )
    assert await peer.next_line() == "3 3 0"


@pytest.mark.parametrize("start", ["spawn", "pipeline"])
async def test_too_many_processes(start: str, peers: Peers) -> None:
    """RLIMIT_NPROC holds for everybody but root."""
    peer = program(
        peers,
        HEAD
        + f"""
import resource
import aioipc.transports.shm, aioipc.codecs.msgpack  # they may lie where nobody may look
become_nobody()
resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
try:
    await {start}(["true"])
except aioipc.ResourceExhausted as error:
    say(error)
""",
    )
    assert await peer.next_line() == "[Errno 11] start true: Resource temporarily unavailable"


async def test_in_a_pipeline_it_cannot_be_told_either(peers: Peers) -> None:
    peer = program(
        peers,
        HEAD
        + """
pipe = await pipeline(["sleep", "1000"], ["cat"])
become_nobody()
tell(pipe.kill)
await leave(pipe)
""",
    )
    assert (await peer.next_line()).startswith("[Errno 1] SIGKILL to cat (pid ")
    assert (await peer.next_line()).startswith("[Errno 1] SIGTERM to sleep (pid ")
    assert await peer.next_line() == "None"
