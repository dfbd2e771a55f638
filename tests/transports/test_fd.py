"""``fd:`` descriptors of every kind that a process may inherit."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import socket
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

import aioipc
from aioipc import (
    AccessDenied,
    AddressError,
    Capability,
    ClosedError,
    EndOfStream,
    PeerCrashed,
    PeerCredentials,
)
from tests.children import Peers
from tests.programs import ECHO, converse, ends, program

pytestmark = pytest.mark.asyncio


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def close(*fds: int) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    close(*ends)


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """Both ends of a terminal that does not echo and does not wait for lines."""
    outer, inner = pty.openpty()
    tty.setraw(inner)
    yield outer, inner
    close(outer, inner)


class TestSockets:
    async def test_one_for_both_ways(self, peers: Peers) -> None:
        ours, theirs = socket.socketpair()
        peer = program(peers, ECHO, f"fd:{theirs.fileno()}", pass_fds=[theirs.fileno()])
        theirs.close()
        async with aioipc.connect(f"fd:{ours.detach()}") as channel:
            assert channel.peer == PeerCredentials(os.getpid(), os.geteuid(), os.getegid())
            assert Capability.CREDENTIALS in channel.capabilities
            await converse(channel)
        assert await peer.ended() == 0

    async def test_two_of_them(self) -> None:
        near_in, far_out = socket.socketpair()
        far_in, near_out = socket.socketpair()
        near = await aioipc.connect(f"fd:{near_in.detach()},{near_out.detach()}")
        far = await aioipc.connect(f"fd:{far_in.detach()},{far_out.detach()}")
        async with near, far:
            await near.send("there")
            assert await far.receive() == "there"
            await far.send_eof()
            await ends(near)
            await near.send("goes on")
            assert await far.receive() == "goes on"

    async def test_the_flag_of_a_shared_one_is_restored(self) -> None:
        """A socket cannot be opened anew, so O_NONBLOCK shows to whoever shares it."""
        ours, theirs = socket.socketpair()
        with theirs:
            shared = os.dup(ours.fileno())
            assert os.get_blocking(shared)
            async with aioipc.connect(f"fd:{ours.detach()}"):
                assert not os.get_blocking(shared)
            assert os.get_blocking(shared)
            os.close(shared)

    async def test_one_that_did_not_block_stays_so(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setblocking(False)
            shared = os.dup(ours.fileno())
            async with aioipc.connect(f"fd:{ours.detach()}"):
                pass
            assert not os.get_blocking(shared)
            os.close(shared)

    async def test_allow_decides_about_the_peer(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            fd = ours.detach()
            with pytest.raises(AccessDenied, match="which allow= refuses"):
                await aioipc.connect(f"fd:{fd}", allow=lambda peer: False)
            close(fd)

    async def test_allow_needs_somebody_to_decide_about(self, pipe: tuple[int, int]) -> None:
        with pytest.raises(AccessDenied, match="the kernel cannot say"):
            await aioipc.connect(f"fd:{pipe[0]}", allow=lambda peer: True)

    async def test_a_tcp_connection(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            client = socket.create_connection(server.getsockname())
            accepted, _ = server.accept()
        near = await aioipc.connect(f"fd:{client.detach()}")
        far = await aioipc.connect(f"fd:{accepted.detach()}")
        async with near, far:
            assert near.peer is None
            await near.send("over TCP")
            assert await far.receive() == "over TCP"


class TestPipes:
    async def test_one_to_read_and_one_to_write(self, peers: Peers) -> None:
        in_read, in_write = os.pipe()
        out_read, out_write = os.pipe()
        fds = (in_read, out_write)
        peer = program(peers, ECHO, f"fd:{in_read},{out_write}", pass_fds=fds)
        close(*fds)
        async with aioipc.connect(f"fd:{out_read},{in_write}") as channel:
            assert channel.peer is None
            await converse(channel)
        assert await peer.ended() == 0

    async def test_one_end_goes_one_way(self, pipe: tuple[int, int]) -> None:
        receiving = await aioipc.connect(f"fd:{pipe[0]}")
        sending = await aioipc.connect(f"fd:{pipe[1]}")
        async with receiving, sending:
            assert Capability.DUPLEX not in sending.capabilities | receiving.capabilities
            with pytest.raises(AddressError, match="only sends"):
                await sending.receive()
            with pytest.raises(AddressError, match="only receives"):
                await receiving.send("backwards")
            await sending.send("one way")
            assert await receiving.receive() == "one way"
            await sending.aclose()
            await ends(receiving)

    async def test_one_end_is_finished_and_then_closed(self, pipe: tuple[int, int]) -> None:
        receiving = await aioipc.connect(f"fd:{pipe[0]}")
        sending = await aioipc.connect(f"fd:{pipe[1]}")
        async with receiving, sending:
            await sending.send("last")
            await sending.send_eof()
            assert await receiving.receive() == "last"
            await ends(receiving)

    async def test_they_do_not_change_for_others(self, pipe: tuple[int, int]) -> None:
        copies = [os.dup(fd) for fd in pipe]
        async with aioipc.connect(f"fd:{pipe[0]},{pipe[1]}"):
            assert all(os.get_blocking(copy) for copy in copies)
        assert all(os.get_blocking(copy) for copy in copies)
        close(*copies)

    async def test_they_are_closed_with_the_channel(self, pipe: tuple[int, int]) -> None:
        channel = await aioipc.connect(f"fd:{pipe[0]},{pipe[1]}")
        await channel.aclose()
        assert not any(is_open(fd) for fd in pipe)

    async def test_ends_in_the_wrong_order(self, pipe: tuple[int, int]) -> None:
        with pytest.raises(AddressError, match=f"descriptor {pipe[1]} cannot be read"):
            await aioipc.connect(f"fd:{pipe[1]},{pipe[0]}")
        assert all(is_open(fd) for fd in pipe), "a refusal leaves them to the caller"

    async def test_two_reading_ends(self, pipe: tuple[int, int]) -> None:
        copy = os.dup(pipe[0])
        with pytest.raises(AddressError, match=f"descriptor {copy} cannot be written"):
            await aioipc.connect(f"fd:{pipe[0]},{copy}")
        assert is_open(pipe[0])
        assert is_open(copy)
        close(copy)

    async def test_nobody_reads(self, pipe: tuple[int, int]) -> None:
        close(pipe[0])
        async with aioipc.connect(f"fd:{pipe[1]}") as channel:
            with pytest.raises(PeerCrashed):
                await channel.send("to nobody")


class TestFiles:
    """epoll refuses regular files, so they count as always ready."""

    async def test_lines_of_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "lines"
        path.write_text("".join(f"line {n}\n" for n in range(20_000)) + "without newline")
        fd = os.open(path, os.O_RDONLY)
        async with aioipc.connect(f"fd:{fd}", codec="text", framing="lines") as channel:
            lines = [line async for line in channel]
        assert lines == [f"line {n}" for n in range(20_000)] + ["without newline"]

    async def test_it_is_read_from_where_it_stands(self, tmp_path: Path) -> None:
        path = tmp_path / "lines"
        path.write_text("first\nsecond\n")
        fd = os.open(path, os.O_RDONLY)
        os.lseek(fd, len("first\n"), os.SEEK_SET)
        async with aioipc.connect(f"fd:{fd}", codec="text", framing="lines") as channel:
            assert await channel.receive() == "second"
            with pytest.raises(EndOfStream):
                await channel.receive()

    async def test_frames_into_a_file_and_out_again(self, tmp_path: Path) -> None:
        path = tmp_path / "frames"
        objects = [{"n": n, "data": bytes(n)} for n in (0, 1, 70_000, 1_000_000)]
        fd = os.open(path, os.O_WRONLY | os.O_CREAT)
        async with aioipc.connect(f"fd:{fd}") as channel:
            await channel.send_many(objects)
        fd = os.open(path, os.O_RDONLY)
        async with aioipc.connect(f"fd:{fd}") as channel:
            assert [obj async for obj in channel] == objects

    async def test_a_receiver_does_not_starve_others(self, tmp_path: Path) -> None:
        path = tmp_path / "empty"
        path.touch()
        turns = 0

        async def turn() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        fd = os.open(path, os.O_RDONLY)
        async with aioipc.connect(f"fd:{fd}", framing="lines", codec="text") as channel:
            other = asyncio.create_task(turn())
            with pytest.raises(EndOfStream):
                await channel.receive()
            other.cancel()

    async def test_null(self) -> None:
        fd = os.open(os.devnull, os.O_RDWR)
        async with aioipc.connect(f"fd:{fd}") as channel:
            await channel.send("away")
            with pytest.raises(PeerCrashed):
                await channel.receive()


class TestTerminals:
    async def test_both_ways(self, terminal: tuple[int, int]) -> None:
        outer, inner = terminal
        channel = await aioipc.connect(f"fd:{inner}", codec="text", framing="lines")
        async with channel:
            os.write(outer, b"typed\n")
            assert await channel.receive() == "typed"
            await channel.send("shown")
            assert os.read(outer, 100) == b"shown\n"

    async def test_the_flags_of_the_terminal_stay(self, terminal: tuple[int, int]) -> None:
        _, inner = terminal
        shared = os.dup(inner)
        before = fcntl.fcntl(shared, fcntl.F_GETFL)
        async with aioipc.connect(f"fd:{inner}", framing="lines"):
            assert fcntl.fcntl(shared, fcntl.F_GETFL) == before
        assert fcntl.fcntl(shared, fcntl.F_GETFL) == before
        close(shared)

    async def test_it_hangs_up(self, terminal: tuple[int, int]) -> None:
        outer, inner = terminal
        channel = await aioipc.connect(f"fd:{inner}", codec="text", framing="lines")
        async with channel:
            os.write(outer, b"typed\n")
            assert await channel.receive() == "typed"
            waiting = asyncio.create_task(channel.receive())
            await asyncio.sleep(0)
            close(outer)
            with pytest.raises(EndOfStream):
                await waiting

    async def test_the_outer_end_outlives_the_inner_one(self, terminal: tuple[int, int]) -> None:
        outer, inner = terminal
        channel = await aioipc.connect(f"fd:{outer}", codec="text", framing="lines")
        async with channel:
            os.write(inner, b"printed\n")
            assert await channel.receive() == "printed"
            close(inner)
            with pytest.raises(EndOfStream):
                await channel.receive()


class TestAddress:
    @pytest.mark.parametrize(
        ("address", "part"),
        [
            ("fd:", "wrong descriptor ''"),
            ("fd:x", "wrong descriptor 'x'"),
            ("fd:-1", "wrong descriptor '-1'"),
            ("fd:3,", "wrong descriptor ''"),
            ("fd:3,4,5", "wrong descriptors '3,4,5'"),
            ("fd:3,3", "wrong descriptors '3,3'"),
            ("fd:4294967296", "wrong descriptor '4294967296'"),
        ],
    )
    async def test_a_wrong_one(self, address: str, part: str) -> None:
        with pytest.raises(AddressError) as caught:
            await aioipc.connect(address)
        assert part in str(caught.value)

    async def test_a_descriptor_that_is_not_open(self) -> None:
        with pytest.raises(AddressError, match="fd:19999: descriptor 19999: Bad file descriptor"):
            await aioipc.connect("fd:19999")

    async def test_only_one_of_two_is_open(self, pipe: tuple[int, int]) -> None:
        with pytest.raises(AddressError, match="descriptor 19999: Bad file descriptor"):
            await aioipc.connect(f"fd:{pipe[0]},19999")
        assert is_open(pipe[0]), "a refusal leaves them to the caller"

    async def test_it_has_no_pairs(self) -> None:
        with pytest.raises(AddressError, match="fd: has no pair, only connect and listen"):
            aioipc.pair("fd:3")


class TestListening:
    async def test_it_yields_one_channel(self) -> None:
        ours, theirs = socket.socketpair()
        async with aioipc.connect(f"fd:{ours.detach()}") as near:
            await near.send("hello")
            async with aioipc.listen(f"fd:{theirs.detach()}") as listener:
                channels = [channel async for channel in listener]
            (far,) = channels
            async with far:
                assert await far.receive() == "hello"
            with pytest.raises(ClosedError):
                await listener.accept()

    async def test_nobody_takes_it(self) -> None:
        ours, theirs = socket.socketpair()
        fd = theirs.detach()
        async with aioipc.listen(f"fd:{fd}"):
            pass
        assert not is_open(fd)
        ours.close()

    async def test_there_is_no_other(self) -> None:
        ours, theirs = socket.socketpair()
        async with (
            aioipc.connect(f"fd:{ours.detach()}") as near,
            aioipc.listen(f"fd:{theirs.detach()}") as listener,
        ):
            await near.flush()
            async with await listener.accept():
                with pytest.raises(EndOfStream, match="has no other connection"):
                    await listener.accept()
