"""How the two sides of a ring find each other, and everything that keeps them from it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import aioipc
from aioipc import (
    AccessDenied,
    AddressError,
    CodecMismatch,
    ConnectError,
    HandshakeError,
    Limits,
    PeerCrashed,
    QuotaExceeded,
    ResourceExhausted,
)
from tests.children import Peers
from tests.echoes import is_served, served_again, serving
from tests.programs import ECHO, SERVE_ECHO, Nursery, converse, program
from tests.shm.bare import CAPACITY, LIMITS, BareEnd
from tests.shortage import open_fds

pytestmark = pytest.mark.asyncio


# Names


@pytest.mark.leaves_names
@pytest.mark.parametrize("form", ["shm:", "shm:name", "shm:{}/socket"])
async def test_two_processes_meet(form: str, tmp_path: Path, peers: Peers) -> None:
    server = program(peers, SERVE_ECHO, form.format(tmp_path))
    address = await server.next_line()
    async with aioipc.connect(address) as channel:
        await converse(channel)
        assert channel.peer is not None
        assert channel.peer.pid == server.pid


async def test_made_up_names_differ() -> None:
    async with aioipc.listen("shm:") as one, aioipc.listen("shm:") as other:
        assert one.address != other.address
        async with serving(one), serving(other):
            assert await is_served(one.address)
            assert await is_served(other.address)


async def test_a_name_is_no_name_of_another_transport() -> None:
    async with (
        aioipc.listen("shm:name") as one,
        aioipc.listen("unix:name") as other,
        serving(one),
        serving(other),
    ):
        assert await is_served("shm:name")
        assert await is_served("unix:name")


@pytest.mark.parametrize("scheme", ["shm", "unix"])
async def test_the_other_transport_at_a_path(scheme: str, tmp_path: Path) -> None:
    """It is said, and nobody waits for anything."""
    other = {"shm": "unix", "unix": "shm"}[scheme]
    async with aioipc.listen(f"{scheme}:{tmp_path}/socket") as listener, serving(listener):
        limits = Limits(connect_s=0.5)
        with pytest.raises((HandshakeError, ConnectError, PeerCrashed)):
            async with aioipc.connect(f"{other}:{tmp_path}/socket", limits=limits) as channel:
                await channel.receive()
        assert await is_served(listener.address)


async def test_nobody_there(tmp_path: Path) -> None:
    for address in ("shm:nobody", f"shm:{tmp_path}/nobody"):
        with pytest.raises(ConnectError, match="nobody listens there"):
            await aioipc.connect(address)


async def test_a_name_that_is_taken() -> None:
    async with aioipc.listen("shm:name"):
        with pytest.raises(ResourceExhausted) as raised:
            await aioipc.listen("shm:name")
        assert raised.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize("framing", ["lines", "netstring", "raw", "length32"])
async def test_bytes_have_no_framing_here(framing: str) -> None:
    for verb in (aioipc.connect, aioipc.listen):
        with pytest.raises(ValueError, match="framing"):
            await verb("shm:name", framing=framing)
    with pytest.raises(ValueError, match="framing"):
        aioipc.pair("shm", framing=framing)


# Killed servers


@pytest.mark.leaves_names
@pytest.mark.parametrize("name", [False, True])
async def test_a_killed_server_starts_again(name: bool, tmp_path: Path, peers: Peers) -> None:
    address = "shm:name" if name else f"shm:{tmp_path}/socket"
    for _ in range(2):
        server = program(peers, SERVE_ECHO, address)
        assert await server.next_line() == address
        assert await is_served(address)
        server.kill()
        assert not await is_served(address)
    started = time.monotonic()
    async with aioipc.listen(address) as listener, serving(listener):
        assert time.monotonic() - started < 1
        assert await is_served(address)


@pytest.mark.leaves_names
async def test_of_ten_starters_one_wins(tmp_path: Path, peers: Peers) -> None:
    address = f"shm:{tmp_path}/socket"
    code = """
    await asyncio.to_thread(os.read, int(sys.argv[2]), 1)
    try:
        listener = await aioipc.listen(sys.argv[1])
    except aioipc.ResourceExhausted as error:
        say("refused", error.errno)
    else:
        say("serving")
        await listener.serve(echo)
    """
    go_read, go_write = os.pipe()
    nursery = Nursery(peers, code, address, go_read, pass_fds=[go_read])
    pids = [nursery.start() for _ in range(10)]
    os.write(go_write, b"x" * 10)
    answers = [await nursery.peer.next_line() for _ in range(10)]
    assert sorted(answers) == [f"refused {errno.EADDRINUSE}"] * 9 + ["serving"]
    async with aioipc.connect(address) as channel:
        assert channel.peer is not None
        assert channel.peer.pid in pids
        await channel.send("hello")
        assert await channel.receive() == "hello"
        os.kill(channel.peer.pid, 9)
        with pytest.raises(PeerCrashed):
            await channel.receive()
    os.close(go_read)
    os.close(go_write)


# A pair, one end of which goes to another process


async def test_an_end_for_a_child(peers: Peers) -> None:
    ours, theirs = aioipc.pair("shm")
    address, fds = theirs.detach()
    assert address == f"shm:fd={fds[0]}"
    program(peers, ECHO, address, pass_fds=fds)
    for fd in fds:
        os.close(fd)
    async with ours:
        await converse(ours)


async def test_both_ends_for_children(peers: Peers) -> None:
    """Who made the rings need not stay."""
    left, right = aioipc.pair("shm")
    talk = """
    from tests.programs import converse
    async with await aioipc.connect(sys.argv[1]) as channel:
        await converse(channel)
    say("talked")
    """
    ends = [left.detach(), right.detach()]
    processes = [
        program(peers, code, address, pass_fds=fds)
        for code, (address, fds) in zip((ECHO, talk), ends, strict=True)
    ]
    for _, fds in ends:
        for fd in fds:
            os.close(fd)
    assert await processes[1].next_line() == "talked"
    for process in processes:
        assert await process.ended() == 0


async def test_an_end_for_a_child_that_listens(peers: Peers) -> None:
    ours, theirs = aioipc.pair("shm")
    address, fds = theirs.detach()
    code = """
    async with aioipc.listen(sys.argv[1]) as listener:
        async with await listener.accept() as channel:
            await echo(channel)
    """
    program(peers, code, address, pass_fds=fds)
    for fd in fds:
        os.close(fd)
    async with ours:
        await converse(ours)


async def test_an_end_that_was_used_stays() -> None:
    left, right = aioipc.pair("shm")
    async with left, right:
        await left.send(1)
        assert await right.receive() == 1
        for end in (left, right):
            with pytest.raises(RuntimeError, match="detach"):
                end.detach()
        await right.send(2)
        assert await left.receive() == 2


async def test_a_child_that_never_takes_its_end(peers: Peers) -> None:
    ours, theirs = aioipc.pair("shm")
    _, fds = theirs.detach()
    child = program(peers, 'say("here"); await hear()', pass_fds=fds)
    for fd in fds:
        os.close(fd)
    async with ours:
        await ours.send("into the void")
        assert await child.next_line() == "here"
        child.kill()
        with pytest.raises(PeerCrashed):
            await ours.receive()


def a_pipe() -> int:
    reads, writes = os.pipe()
    os.close(writes)
    return reads


def tcp_socket() -> int:
    return socket.socket().detach()


def datagram_socket() -> int:
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).detach()


@pytest.mark.parametrize("make", [a_pipe, tcp_socket, datagram_socket])
async def test_a_descriptor_that_is_no_such_socket(make: Callable[[], int]) -> None:
    fd = make()
    try:
        with pytest.raises(AddressError, match=f"descriptor {fd}"):
            await aioipc.connect(f"shm:fd={fd}")
    finally:
        with contextlib.suppress(OSError):
            os.close(fd)


async def test_a_descriptor_that_is_not_open() -> None:
    with pytest.raises(AddressError, match="descriptor 1000000: Bad file descriptor"):
        await aioipc.connect("shm:fd=1000000")


async def test_an_inherited_socket_without_an_offer() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        limits = Limits(connect_s=0.05)
        with pytest.raises(ConnectError, match=r"no answer within 0\.05 s"):
            await aioipc.connect(f"shm:fd={theirs.detach()}", limits=limits)
        assert ours.recv(1) == b""


# Refusals


async def test_a_client_that_is_not_allowed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    address = f"shm:{tmp_path}/socket"
    fds = open_fds()
    async with aioipc.listen(address, allow=lambda peer: False) as listener, serving(listener):
        with pytest.raises(AccessDenied, match=f"uid {os.getuid()} may not connect"):
            await aioipc.connect(address)
    assert len(caplog.messages) == 1
    assert open_fds() <= fds


async def test_a_server_that_is_not_allowed(tmp_path: Path) -> None:
    address = f"shm:{tmp_path}/socket"
    async with aioipc.listen(address) as listener, serving(listener):
        with pytest.raises(AccessDenied, match="which allow= refuses"):
            await aioipc.connect(address, allow=lambda peer: False)
        assert await is_served(address)


async def test_one_too_many(caplog: pytest.LogCaptureFixture) -> None:
    limits = Limits(max_connections=2)
    async with aioipc.listen("shm:", limits=limits) as listener, serving(listener):
        async with aioipc.connect(listener.address), aioipc.connect(listener.address):
            with pytest.raises(QuotaExceeded, match="holds 2 connections, its limit"):
                await aioipc.connect(listener.address)
        await served_again(listener.address)


async def test_two_codecs(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        aioipc.listen("shm:", codec="json") as listener,
        serving(listener),
        aioipc.connect(listener.address, codec="raw") as channel,
    ):
        with pytest.raises(CodecMismatch, match="'json'"):
            await channel.receive()
    (message,) = caplog.messages
    assert "the peer uses codec 'raw', this side 'json'" in message


async def test_no_pickle_for_strangers_is_no_matter_of_the_ring() -> None:
    async with (
        aioipc.listen("shm:", codec="pickle") as listener,
        serving(listener),
        aioipc.connect(listener.address, codec="pickle") as channel,
    ):
        await channel.send({1, 2})
        assert await channel.receive() == {1, 2}


# Handshakes that do not come to an end


async def test_a_peer_that_says_nothing(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    limits = Limits(handshake_s=0.1, ring_bytes=CAPACITY)
    address = f"shm:{tmp_path}/socket"
    async with aioipc.listen(address, limits=limits) as listener, serving(listener):
        assert await is_served(address)
        fds = open_fds()
        with await BareEnd.at(address) as end:
            await end.heard(4)  # GOODBYE
            assert await is_served(address)
        async with asyncio.timeout(10):
            while open_fds() > fds:  # noqa: ASYNC110 - nothing tells of a close
                await asyncio.sleep(0)
    (message,) = caplog.messages
    assert "no HELLO within 0.1 s" in message


@pytest.mark.parametrize("takes_the_offer", [False, True])
async def test_a_peer_that_dies_in_the_handshake(
    takes_the_offer: bool, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    address = f"shm:{tmp_path}/socket"
    async with aioipc.listen(address, limits=LIMITS) as listener, serving(listener):
        assert await is_served(address)
        fds = open_fds()
        for _ in range(10):
            if takes_the_offer:
                (await BareEnd.at(address)).close()
            else:
                with socket.socket(socket.AF_UNIX) as sock:
                    sock.connect(address.partition(":")[2])
        assert await is_served(address)
        async with asyncio.timeout(10):
            while open_fds() > fds:  # noqa: ASYNC110 - nothing tells of a close
                await asyncio.sleep(0)
    assert len(caplog.messages) <= 10


async def test_a_server_that_never_accepts(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        server.listen()
        started = time.monotonic()
        limits = Limits(connect_s=0.1)
        with pytest.raises(ConnectError, match=r"no answer within 0\.1 s"):
            await aioipc.connect(f"shm:{tmp_path}/socket", limits=limits)
        assert 0.09 < time.monotonic() - started < 5


async def test_a_stopped_server_is_waited_for_until_the_deadline(peers: Peers) -> None:
    server = program(peers, SERVE_ECHO, "shm:")
    address = await server.next_line()
    server.signal(19)
    with pytest.raises(ConnectError, match=r"no answer within 0\.1 s"):
        await aioipc.connect(address, limits=Limits(connect_s=0.1))
    connecting = asyncio.ensure_future(aioipc.connect(address).__aenter__())
    await asyncio.sleep(0)
    server.signal(18)
    async with await connecting as channel:
        await channel.send("there again")
        assert await channel.receive() == "there again"
    server.tell()
    server.signal(2)
    await server.ended()
