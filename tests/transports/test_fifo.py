"""``fifo:`` one receiver, many senders, between processes."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import stat
from pathlib import Path
from typing import Any

import pytest

import aioipc
from aioipc import (
    AddressError,
    Capability,
    CodecMismatch,
    ConnectError,
    FrameTooLarge,
    Limits,
    PeerCrashed,
    ResourceExhausted,
)
from tests.children import Peers
from tests.programs import program

pytestmark = pytest.mark.asyncio

SEND = """
async with aioipc.connect(sys.argv[1]) as channel:
    for number in range(int(sys.argv[2])):
        await channel.send([os.getpid(), number])
"""
RECEIVE = """
async with aioipc.listen(sys.argv[1]) as listener, await listener.accept() as channel:
    say(listener.address)
    async for obj in channel:
        say(obj)
"""
MOST = 4096 - 8
"""Bytes of a message in one write that the kernel keeps whole, after its header: pipe(7)."""


async def _connect(address: str, framing: str) -> aioipc.Channel[Any]:
    return await aioipc.connect(address, codec="text", framing=framing)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "fifo"


@pytest.fixture(params=["fifo:{}", "fifo://{}", "fifo:{}?single"])
def address(request: pytest.FixtureRequest, path: Path) -> str:
    return str(request.param).format(path)


async def test_a_sender_in_another_process(address: str, peers: Peers) -> None:
    async with aioipc.listen(address) as listener:
        assert listener.address == address
        peer = program(peers, SEND, address, 1000)
        async with await listener.accept() as channel:
            assert channel.address == address
            assert channel.peer is None
            for number in range(1000):
                assert await channel.receive() == [peer.pid, number]
        assert await peer.ended() == 0


@pytest.mark.leaves_names
async def test_a_receiver_in_another_process(address: str, peers: Peers) -> None:
    peer = program(peers, RECEIVE, address)
    async with aioipc.connect(address) as channel:
        assert channel.address == address
        assert channel.peer is None
        assert await peer.next_line() == address
        for number in range(100):
            await channel.send(number)
        for number in range(100):
            assert await peer.next_line() == str(number)


async def test_it_goes_one_way(path: Path) -> None:
    async with (
        aioipc.listen(f"fifo:{path}") as listener,
        await listener.accept() as receiving,
        aioipc.connect(f"fifo:{path}") as sending,
    ):
        assert Capability.DUPLEX not in sending.capabilities
        with pytest.raises(AddressError, match="only sends"):
            await sending.receive()
        with pytest.raises(AddressError, match="only receives"):
            await receiving.send("backwards")
        await sending.send("forwards")
        assert await receiving.receive() == "forwards"


async def test_the_hello_tells_who_sends(path: Path, peers: Peers) -> None:
    async with aioipc.listen(f"fifo:{path}") as listener, await listener.accept() as channel:
        for _ in range(3):
            peer = program(peers, SEND, f"fifo:{path}", 1)
            assert await channel.receive() == [peer.pid, 0]
            hello = channel.port.peer_hello
            assert hello is not None
            assert hello.pid == peer.pid
            assert await peer.ended() == 0


async def test_it_is_made_for_us_alone_and_removed(path: Path) -> None:
    async with aioipc.listen(f"fifo:{path}") as listener:
        status = path.stat()
        assert stat.S_ISFIFO(status.st_mode)
        assert stat.S_IMODE(status.st_mode) == 0o600
        channel = await listener.accept()
        await listener.aclose()
        assert path.exists(), "the channel goes on"
        await channel.aclose()
        assert not path.exists()


async def test_one_that_was_there_stays(path: Path) -> None:
    os.mkfifo(path)
    async with aioipc.listen(f"fifo:{path}"):
        pass
    assert path.is_fifo()


async def test_a_listener_yields_one_channel(path: Path) -> None:
    async with aioipc.listen(f"fifo:{path}") as listener:
        channels = [channel async for channel in listener]
        assert len(channels) == 1
        await channels[0].aclose()


async def test_there_is_one_receiver(path: Path) -> None:
    async with aioipc.listen(f"fifo:{path}"):
        with pytest.raises(ResourceExhausted, match="has a reader already"):
            await aioipc.listen(f"fifo:{path}")


async def test_messages_of_the_most_that_fits(path: Path) -> None:
    address = f"fifo:{path}"
    async with (
        aioipc.listen(address, codec="raw") as listener,
        await listener.accept() as receiving,
        aioipc.connect(address, codec="raw") as sending,
    ):
        await sending.send(b"x" * MOST)
        with pytest.raises(FrameTooLarge) as caught:
            await sending.send(b"y" * (MOST + 1))
        assert (caught.value.size, caught.value.limit) == (MOST + 1, MOST)
        await sending.send(b"")
        assert await receiving.receive() == b"x" * MOST
        assert await receiving.receive() == b""


async def test_a_single_sender_sends_anything(path: Path, peers: Peers) -> None:
    address = f"fifo:{path}?single"
    code = """
    async with aioipc.connect(sys.argv[1], codec="raw") as channel:
        for size in (1, 4088, 4089, 100_000, 3_000_000):
            await channel.send(b"x" * size)
    """
    async with aioipc.listen(address, codec="raw") as listener, await listener.accept() as channel:
        peer = program(peers, code, address)
        for size in (1, 4088, 4089, 100_000, 3_000_000):
            assert await channel.receive() == b"x" * size
        assert await peer.ended() == 0


async def test_a_single_sender_is_alone(path: Path) -> None:
    async with (
        aioipc.listen(f"fifo:{path}") as listener,
        await listener.accept() as receiving,
        aioipc.connect(f"fifo:{path}?single") as single,
    ):
        for address in (f"fifo:{path}?single", f"fifo:{path}"):
            with pytest.raises(ConnectError, match="has "):
                await aioipc.connect(address)
        await single.send("alone")
        assert await receiving.receive() == "alone"


async def test_a_full_fifo_holds_the_sender_back(path: Path) -> None:
    address = f"fifo:{path}"
    async with (
        aioipc.listen(address, codec="raw") as listener,
        await listener.accept() as receiving,
        aioipc.connect(address, codec="raw") as sending,
    ):
        messages = [b"%d" % n * 500 for n in range(300)]
        filling = asyncio.create_task(sending.send_many(messages))
        await asyncio.sleep(0)
        assert not filling.done()
        assert [await receiving.receive() for _ in messages] == messages
        await filling


async def test_the_receiver_is_killed(path: Path, peers: Peers) -> None:
    address = f"fifo:{path}"
    peer = program(peers, RECEIVE, address)
    async with aioipc.connect(address) as channel:
        await peer.next_line()
        peer.kill()
        with pytest.raises(PeerCrashed):
            await channel.send("to nobody")
    path.unlink()


async def test_the_receiver_is_killed_while_the_sender_waits(path: Path, peers: Peers) -> None:
    address = f"fifo:{path}"
    code = """
    async with aioipc.listen(sys.argv[1]) as listener, await listener.accept() as channel:
        say("reading nothing")
        await asyncio.Event().wait()
    """
    peer = program(peers, code, address)
    async with aioipc.connect(address) as channel:
        await peer.next_line()
        sending = asyncio.create_task(channel.send_many(["x" * 1000] * 1000))
        await asyncio.sleep(0)
        assert not sending.done()
        peer.kill()
        with pytest.raises(PeerCrashed):
            await sending
    path.unlink()


async def test_another_codec(path: Path) -> None:
    """A FIFO carries no answer, so only the receiver learns of it."""
    address = f"fifo:{path}"
    async with (
        aioipc.listen(address, codec="json") as listener,
        await listener.accept() as receiving,
        aioipc.connect(address, codec="text") as sending,
    ):
        await sending.send("not json")
        with pytest.raises(CodecMismatch, match="'text', this side 'json'"):
            await receiving.receive()


class TestForeignPrograms:
    async def test_a_shell_writes_lines(self, path: Path) -> None:
        address = f"fifo:{path}"
        async with (
            aioipc.listen(address, codec="text", framing="lines") as listener,
            await listener.accept() as channel,
        ):
            for text in ("first", "second"):
                command = f"echo {text} > {shlex.quote(str(path))}"
                shell = "exec:" + shlex.join(["sh", "-c", command])
                async with aioipc.connect(shell, framing="none"):
                    assert await channel.receive() == text

    async def test_cat_reads_lines(self, path: Path, tmp_path: Path) -> None:
        """It is held in its open(2) until there is a writer, of which nothing tells."""
        os.mkfifo(path)
        connecting = asyncio.ensure_future(_connect(f"fifo:{path}", "lines"))
        await asyncio.sleep(0)
        assert not connecting.done()
        cat = f"cat {shlex.quote(str(path))} > {shlex.quote(str(tmp_path / 'out'))}"
        async with (
            aioipc.connect("exec:" + shlex.join(["sh", "-c", cat]), framing="none"),
            await connecting as channel,
        ):
            await channel.send_many(["first", "second"])
        assert (tmp_path / "out").read_text() == "first\nsecond\n"

    @pytest.mark.parametrize("framing", ["lines", "headers", "none"])
    async def test_a_record_stays_whole(self, path: Path, framing: str) -> None:
        """What one write cannot hold, other writers would interrupt."""
        address = f"fifo:{path}"
        async with (
            aioipc.listen(address, codec="raw", framing="none"),
            aioipc.connect(address, codec="raw", framing=framing) as channel,
        ):
            await channel.send(b"x" * 4000)
            with pytest.raises(FrameTooLarge):
                await channel.send(b"x" * 4097)
        address = f"fifo:{path}?single"
        async with (
            aioipc.listen(address, codec="raw", framing="none") as listener,
            await listener.accept() as receiving,
            aioipc.connect(address, codec="raw", framing=framing) as channel,
        ):
            sending = asyncio.create_task(channel.send(b"x" * 100_000))
            received = b""
            while received.count(b"x") < 100_000:
                received += await receiving.receive()
            await sending


class TestAddress:
    @pytest.mark.parametrize(
        ("address", "part"),
        [
            ("fifo:", "wrong path ''"),
            ("fifo:relative", "wrong path 'relative'"),
            ("fifo:/path?double", "wrong option 'double'"),
            ("fifo://host/path", "wrong host"),
        ],
    )
    async def test_a_wrong_one(self, address: str, part: str) -> None:
        with pytest.raises(AddressError, match=re.escape(part)):
            await aioipc.connect(address)

    async def test_no_directory(self, tmp_path: Path) -> None:
        address = f"fifo:{tmp_path}/missing/fifo"
        for verb in (aioipc.connect, aioipc.listen):
            with pytest.raises(ConnectError, match=re.escape(f"{address}: No such file")):
                await verb(address)

    async def test_nobody_reads(self, path: Path) -> None:
        with pytest.raises(ConnectError, match=rf"connect to fifo:{path}: no answer within 0\.1 s"):
            await aioipc.connect(f"fifo:{path}", limits=Limits(connect_s=0.1))

    async def test_it_knows_no_users(self, path: Path) -> None:
        for verb in (aioipc.connect, aioipc.listen):
            with pytest.raises(ValueError, match="fifo: does not know the peer's user"):
                await verb(f"fifo:{path}", allow=aioipc.same_user)
