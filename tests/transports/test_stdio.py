"""``stdio:`` in a child, over whatever its standard input and output are."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import socket
import subprocess
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

import aioipc
from aioipc import AddressError, PeerCrashed
from tests.children import Peers
from tests.programs import converse, ends, program

pytestmark = pytest.mark.asyncio

ECHO = """
async with aioipc.connect("stdio:") as channel:
    await echo(channel)
"""
ECHO_LINES = """
async with aioipc.connect("stdio:", framing="lines", codec="text") as channel:
    await echo(channel)
"""


@pytest.fixture
def pipes() -> Iterator[tuple[int, int, int, int]]:
    """The child's standard input and output, and our ends of the same."""
    stdin, to_child = os.pipe()
    from_child, stdout = os.pipe()
    yield stdin, stdout, from_child, to_child
    for fd in (stdin, stdout, from_child, to_child):
        with contextlib.suppress(OSError):
            os.close(fd)


Pipes = tuple[int, int, int, int]


async def test_pipes(peers: Peers, pipes: Pipes) -> None:
    stdin, stdout, from_child, to_child = pipes
    peer = program(peers, ECHO, stdin=stdin, stdout=stdout)
    os.close(stdin)
    os.close(stdout)
    async with aioipc.connect(f"fd:{from_child},{to_child}") as channel:
        await converse(channel)
    assert await peer.ended() == 0


async def test_one_socket_for_both(peers: Peers) -> None:
    ours, theirs = socket.socketpair()
    peer = program(peers, ECHO, stdin=theirs, stdout=theirs)
    theirs.close()
    async with aioipc.connect(f"fd:{ours.detach()}") as channel:
        await converse(channel)
    assert await peer.ended() == 0


async def test_a_shared_socket_blocks_again_afterwards(peers: Peers) -> None:
    """A socket has one O_NONBLOCK for all who share it, also for a shell behind us."""
    ours, theirs = socket.socketpair()
    peer = program(peers, ECHO, stdin=theirs, stdout=theirs)
    async with aioipc.connect(f"fd:{ours.detach()}") as channel:
        await channel.send("there")
        assert await channel.receive() == "there"
        assert not os.get_blocking(theirs.fileno())
        await channel.send_eof()
        await ends(channel)
    assert await peer.ended() == 0
    assert os.get_blocking(theirs.fileno())
    theirs.close()


async def test_shared_pipes_never_change(peers: Peers, pipes: Pipes) -> None:
    stdin, stdout, from_child, to_child = pipes
    peer = program(peers, ECHO, stdin=stdin, stdout=stdout)
    async with aioipc.connect(f"fd:{from_child},{to_child}") as channel:
        await channel.send("there")
        assert await channel.receive() == "there"
        assert os.get_blocking(stdin)
        assert os.get_blocking(stdout)
    assert await peer.ended() == 0


async def test_regular_files(peers: Peers, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("first\nsecond\nthird")
    with (tmp_path / "in").open() as stdin, (tmp_path / "out").open("w") as stdout:
        peer = program(peers, ECHO_LINES, stdin=stdin, stdout=stdout)
        assert await peer.ended() == 0
    assert (tmp_path / "out").read_text() == "first\nsecond\nthird\n"


async def test_an_output_that_is_appended_to(peers: Peers, tmp_path: Path) -> None:
    """The description is shared with those before and after us, and so is the offset."""
    with (tmp_path / "out").open("wb", buffering=0) as stdout:
        stdout.write(b"before\n")
        peer = program(peers, ECHO_LINES, stdin=subprocess.PIPE, stdout=stdout)
        peer.tell("ours")
        peer.close_stdin()
        assert await peer.ended() == 0
        stdout.write(b"after\n")
    assert (tmp_path / "out").read_text() == "before\nours\nafter\n"


async def test_a_terminal(peers: Peers) -> None:
    outer, inner = pty.openpty()
    tty.setraw(inner)
    before = fcntl.fcntl(inner, fcntl.F_GETFL)
    peer = program(peers, ECHO_LINES, stdin=inner, stdout=inner)
    async with aioipc.connect(f"fd:{outer}", framing="lines", codec="text") as channel:
        for text in ("typed", "x" * 2000, ""):
            await channel.send(text)
            assert await channel.receive() == text
        assert fcntl.fcntl(inner, fcntl.F_GETFL) == before
        os.close(inner)
    assert await peer.ended() == 0, "the end of the terminal ends its program"


async def test_input_from_a_file_and_output_to_a_socket(peers: Peers, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("a\n" * 50_000)
    ours, theirs = socket.socketpair()
    with (tmp_path / "in").open() as stdin:
        peer = program(peers, ECHO_LINES, stdin=stdin, stdout=theirs)
    theirs.close()
    address = f"fd:{ours.detach()}"
    async with aioipc.connect(address, framing="lines", codec="text") as channel:
        assert [line async for line in channel] == ["a"] * 50_000
    assert await peer.ended() == 0


async def test_the_peer_sees_the_end_while_the_process_lives(peers: Peers, pipes: Pipes) -> None:
    """Nothing but the channel holds the standard streams open."""
    stdin, stdout, from_child, to_child = pipes
    go_read, go_write = os.pipe()
    peer = program(
        peers,
        """
        async with aioipc.connect("stdio:", framing="lines", codec="text") as channel:
            await channel.send("last")
        await asyncio.to_thread(os.read, int(sys.argv[1]), 1)
        """,
        go_read,
        stdin=stdin,
        stdout=stdout,
        pass_fds=[go_read],
    )
    for fd in (stdin, stdout, go_read):
        os.close(fd)
    address = f"fd:{from_child},{to_child}"
    async with aioipc.connect(address, framing="lines", codec="text") as channel:
        assert await channel.receive() == "last"
        await ends(channel)
        with pytest.raises(PeerCrashed):
            await channel.send("nobody reads")
        assert peer.status is None
        os.write(go_write, b"x")
    os.close(go_write)
    assert await peer.ended() == 0


async def test_what_is_printed_goes_to_standard_error(
    peers: Peers, pipes: Pipes, tmp_path: Path
) -> None:
    stdin, stdout, from_child, to_child = pipes
    code = """
    async with aioipc.connect("stdio:") as channel:
        print("printed", flush=True)
        os.system("echo by a child")
        assert sys.stdin.readline() == ""
        await echo(channel)
    """
    with (tmp_path / "stderr").open("wb") as stderr:
        peer = program(peers, code, stdin=stdin, stdout=stdout, stderr=stderr)
    os.close(stdin)
    os.close(stdout)
    async with aioipc.connect(f"fd:{from_child},{to_child}") as channel:
        await converse(channel, ["only", "messages"])
    assert await peer.ended() == 0
    assert (tmp_path / "stderr").read_text() == "printed\nby a child\n"


async def test_a_closed_standard_stream(peers: Peers) -> None:
    for fd in (0, 1):
        peer = program(
            peers,
            f"""
            os.close({fd})
            try:
                await aioipc.connect("stdio:")
            except aioipc.AddressError as error:
                print(error, file=sys.stderr, flush=True)
            """,
            stderr=subprocess.PIPE,
        )
        stderr = peer.process.stderr
        assert stderr is not None
        with stderr:
            text = await asyncio.to_thread(stderr.read)
        assert text.decode() == f"stdio:: descriptor {fd}: Bad file descriptor\n"
        assert await peer.ended() == 0


async def test_a_listener_yields_it_once(peers: Peers, pipes: Pipes) -> None:
    stdin, stdout, from_child, to_child = pipes
    peer = program(
        peers,
        """
        async with aioipc.listen("stdio:") as listener:
            assert listener.address == "stdio:"
            await listener.serve(echo)
        """,
        stdin=stdin,
        stdout=stdout,
    )
    os.close(stdin)
    os.close(stdout)
    async with aioipc.connect(f"fd:{from_child},{to_child}") as channel:
        await converse(channel, ["a", b"b" * 100_000])
    assert await peer.ended() == 0


async def test_the_child_is_killed(peers: Peers, pipes: Pipes) -> None:
    stdin, stdout, from_child, to_child = pipes
    peer = program(peers, ECHO, stdin=stdin, stdout=stdout)
    os.close(stdin)
    os.close(stdout)
    async with aioipc.connect(f"fd:{from_child},{to_child}") as channel:
        await channel.send("works")
        assert await channel.receive() == "works"
        peer.kill()
        with pytest.raises(PeerCrashed):
            await channel.receive()


async def test_it_takes_nothing_more() -> None:
    with pytest.raises(AddressError, match="wrong rest 'x'; right would be nothing"):
        await aioipc.connect("stdio:x")
    with pytest.raises(AddressError, match="stdio: has no pair, only connect and listen"):
        aioipc.pair("stdio")
