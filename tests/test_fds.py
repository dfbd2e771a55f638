"""Descriptors that travel with messages: to their own message, once, and none is left open."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import random
import resource
import socket
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

import aioipc
from aioipc import (
    AddressError,
    Capability,
    Channel,
    EncodeError,
    HandshakeError,
    Limits,
    PeerCrashed,
    ProtocolError,
    WouldBlock,
)
from aioipc.kernel.ancillary import send_with_fds
from aioipc.wire.framing import Flag, Kind, pack_header
from aioipc.wire.hello import Hello, WireCapability
from tests.children import Peer, Peers
from tests.links import DUPLEX, Link, fill, link_over, steps
from tests.programs import AS_NOBODY, program
from tests.scale import scaled
from tests.shortage import open_fds

CARRIERS = ("unix", "unix-listen", "packets", "packets-listen", "shm", "shm-listen", "fd")
OTHERS = tuple(kind for kind in DUPLEX if kind not in CARRIERS)
MOST = 253


@pytest.fixture(params=CARRIERS)
def link(request: pytest.FixtureRequest) -> Link:
    """Every transport that carries descriptors."""
    return link_over(request.param)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The two ends of a pipe."""
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


@pytest.fixture
def files() -> Iterator[list[int]]:
    """Ten descriptors that can be told apart."""
    found = [os.memfd_create(f"aioipc-{number}") for number in range(10)]
    yield found
    for fd in found:
        os.close(fd)


def inodes(fds: Sequence[int]) -> list[int]:
    """What the descriptors refer to."""
    return [os.fstat(fd).st_ino for fd in fds]


def closed(fds: Sequence[int]) -> list[int]:
    """Close descriptors after asking what they referred to."""
    found = inodes(fds)
    for fd in fds:
        os.close(fd)
    return found


# Friends


@pytest.mark.asyncio
async def test_descriptors_arrive_with_their_message(link: Link, pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    async with link() as (left, right):
        assert Capability.FDS in left.capabilities
        await asyncio.gather(left.send({"log": 1}, fds=[writer]), right.receive())
        (copy,) = right.take_fds()
        assert right.take_fds() == []
        assert not os.get_inheritable(copy)
        os.write(copy, b"hello")
        os.close(copy)
        assert os.read(reader, 5) == b"hello"
        os.write(writer, b"mine still")


@pytest.mark.asyncio
async def test_each_message_has_its_own(link: Link, files: list[int]) -> None:
    rng = random.Random(17)
    plan = [
        (rng.choice([0, 10, 1000, 70_000, 200_000]), rng.sample(files, rng.choice([0, 0, 1, 2, 5])))
        for _ in range(scaled(60, full=5_000))
    ]

    async def send_all() -> None:
        for number, (size, fds) in enumerate(plan):
            await left.send(number.to_bytes(4, "big") + bytes(size), fds=fds)

    async with link(codec="raw") as (left, right):
        sender = asyncio.create_task(send_all())
        for number, (size, fds) in enumerate(plan):
            message = await right.receive()
            assert (int.from_bytes(message[:4], "big"), len(message)) == (number, size + 4)
            assert closed(right.take_fds()) == inodes(fds)
        await sender


@pytest.mark.asyncio
async def test_both_directions_at_once(link: Link, files: list[int]) -> None:
    async with link() as ends:
        await asyncio.gather(*(end.send("first", fds=files[:3]) for end in ends))
        for end in ends:
            assert await end.receive() == "first"
            assert closed(end.take_fds()) == inodes(files[:3])


@pytest.mark.asyncio
async def test_a_list_that_grows_while_it_is_read(link: Link) -> None:
    class Growing:
        def fileno(self) -> int:
            fds.extend([1] * 20_000)
            return 1

    fds: list[Any] = [Growing()]
    async with link(codec="raw") as (left, right):
        await right.send(b"hello")  # so that the first attempt is the only one
        assert await left.receive() == b"hello"
        await left.send(b"with one", fds=fds)
        assert await right.receive() == b"with one"
        (came,) = right.take_fds()
        os.close(came)


@pytest.mark.asyncio
async def test_objects_with_a_fileno(link: Link) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        async with link() as (left, right):
            await left.send(None, fds=[theirs])
            assert await right.receive() is None
            with socket.socket(fileno=right.take_fds()[0]) as copy:
                copy.send(b"x")
            assert ours.recv(1) == b"x"


@pytest.mark.asyncio
async def test_the_next_receive_closes_what_nobody_took(link: Link, files: list[int]) -> None:
    async with link() as (left, right):
        before = open_fds()
        await left.send(1, fds=files)
        await left.send(2, fds=files[:1])
        assert await right.receive() == 1
        assert open_fds() >= before + len(files)
        assert await right.receive() == 2
        assert open_fds() == before + 1
        assert closed(right.take_fds()) == inodes(files[:1])


@pytest.mark.parametrize("end", ["aclose", "abort"])
@pytest.mark.asyncio
async def test_closing_closes_what_nobody_took(link: Link, files: list[int], end: str) -> None:
    async with link() as (left, right):
        await left.send(1, fds=files)
        await left.send(2, fds=files)
        await right.receive()
        if end == "aclose":
            await right.aclose()
        else:
            right.abort()


@pytest.mark.asyncio
async def test_receive_many_ends_after_descriptors(link: Link, files: list[int]) -> None:
    async with link() as (left, right):
        await left.send("hello")
        await right.receive()
        for number in range(3):
            await left.send(number)
        await left.send(3, fds=files[:2])
        await left.send(4)
        await left.flush()
        found = []
        while 3 not in found:
            assert right.take_fds() == []
            found += await right.receive_many()
        assert found == [0, 1, 2, 3]
        assert closed(right.take_fds()) == inodes(files[:2])
        assert await right.receive_many() == [4]


@pytest.mark.asyncio
async def test_as_many_as_the_kernel_takes(link: Link, files: list[int]) -> None:
    async with link() as (left, right):
        await left.send("most", fds=[files[0]] * MOST)
        await right.receive()
        assert len(closed(right.take_fds())) == MOST
        with pytest.raises(EncodeError, match="at most 253 descriptors along, not 254"):
            await left.send("more", fds=[files[0]] * (MOST + 1))
        await left.send("next")
        assert await right.receive() == "next"


@pytest.mark.asyncio
async def test_what_cannot_be_sent_is_not(link: Link, files: list[int]) -> None:
    async with link() as (left, right):
        gone = os.dup(files[0])
        os.close(gone)
        with pytest.raises(EncodeError, match="Bad file descriptor"):
            await left.send("never", fds=[files[0], gone])
        with pytest.raises(EncodeError, match="is closed"):
            await left.send("never", fds=[-1])
        await left.send("next", fds=files[:1])
        assert await right.receive() == "next"
        assert closed(right.take_fds()) == inodes(files[:1])


@pytest.mark.asyncio
@pytest.mark.parametrize("fds", ["x", b"\0", 5, 0, iter([0]), [None], ["x"]], ids=repr)
async def test_what_is_no_descriptor(link: Link, fds: Any) -> None:
    async with link() as (left, right):
        told = r"^fds= is a sequence of|^a descriptor is an int"
        with pytest.raises(TypeError, match=told):
            await left.send("never", fds=fds)
        with pytest.raises(TypeError, match=told):
            left.send_nowait("never", fds=fds)
        assert left.statistics().messages_sent == 0
        await left.send("next")
        assert await right.receive() == "next"


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.asyncio
async def test_other_transports_say_so(kind: str, files: list[int]) -> None:
    async with link_over(kind)() as (left, right):
        assert Capability.FDS not in left.capabilities
        with pytest.raises(AddressError, match="carries no descriptors"):
            await left.send("never", fds=files[:1])
        await left.send("next")
        assert await right.receive() == "next"
        assert right.take_fds() == []


@pytest.mark.asyncio
async def test_foreign_framings_carry_none(files: list[int]) -> None:
    async with link_over("unix")(framing="lines", codec="json") as (left, right):
        with pytest.raises(AddressError, match="carries no descriptors"):
            await left.send("never", fds=files[:1])
        await left.send("next")
        assert await right.receive() == "next"


@pytest.mark.asyncio
async def test_a_peer_that_takes_none(link: Link, files: list[int]) -> None:
    async with link(limits=Limits(max_fds=0)) as (left, right):
        with pytest.raises(AddressError, match="no descriptors"):
            await left.send("never", fds=files[:1])
        await left.send("next")
        assert await right.receive() == "next"


@pytest.mark.asyncio
async def test_a_message_with_too_many(link: Link, files: list[int]) -> None:
    async with link(limits=Limits(max_fds=3)) as (left, right):
        await left.send("most", fds=files[:3])
        assert await right.receive() == "most"
        before = open_fds()
        await left.send("more", fds=files[:4])
        with pytest.raises(ProtocolError, match="4 descriptors, over the limit of 3"):
            await right.receive()
        assert open_fds() < before
        with pytest.raises(ProtocolError):
            await left.receive()


@pytest.mark.parametrize("kind", ["unix:", "unix+seqpacket:", "shm:"])
@pytest.mark.asyncio
async def test_the_first_waits_for_the_hello(kind: str, files: list[int]) -> None:
    async with aioipc.listen(kind) as listener:
        left = await aioipc.connect(listener.address)
        with pytest.raises(WouldBlock):
            left.send_nowait("now", fds=files[:1])
        given_up = asyncio.create_task(left.send("never", fds=files[:1]))
        first = asyncio.create_task(left.send("first", fds=files[:2]))
        then = asyncio.create_task(left.send("then"))
        await asyncio.sleep(0)
        given_up.cancel()
        right = await listener.accept()
        await asyncio.gather(first, then)
        assert await right.receive() == "first"
        assert closed(right.take_fds()) == inodes(files[:2])
        assert await right.receive() == "then"
        assert given_up.cancelled()
        await left.aclose()
        await right.aclose()


@pytest.mark.asyncio
async def test_a_peer_that_ends_before_its_hello(files: list[int]) -> None:
    ours, theirs = socket.socketpair()
    async with aioipc.connect(f"fd:{ours.detach()}") as channel:
        sending = asyncio.create_task(channel.send("never", fds=files[:1]))
        await asyncio.sleep(0)
        theirs.close()
        with pytest.raises(PeerCrashed):
            await sending


CHILD = """
async with aioipc.connect(sys.argv[1]) as channel:
    fd = os.memfd_create("aioipc-test")
    os.write(fd, b"made in the child")
    async for text in channel:
        found = channel.take_fds()
        await channel.send([os.pread(each, 100, 0) for each in found], fds=[fd, *found])
        for each in found:
            os.close(each)
    os.close(fd)
"""


@pytest.mark.parametrize("kind", ["unix", "unix+seqpacket", "shm"])
@pytest.mark.asyncio
async def test_a_child_with_one_end_of_a_pair(
    kind: str, peers: Peers, files: list[int], runtime_dir: object
) -> None:
    os.write(files[0], b"made in the parent")
    left, right = aioipc.pair(kind)
    address, fds = right.detach()
    child = program(peers, CHILD, address, pass_fds=fds)
    for fd in fds:
        os.close(fd)
    async with left:
        await left.send("look", fds=files[:1])
        assert await left.receive() == [b"made in the parent"]
        theirs, mine = left.take_fds()
        assert os.pread(theirs, 100, 0) == b"made in the child"
        assert closed([theirs, mine])[1:] == inodes(files[:1])
    assert await child.ended() == 0


FLOODED = f"""
import resource
{AS_NOBODY}
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
left, right = aioipc.pair(sys.argv[1])
fd = os.memfd_create("aioipc-test")

async def send_all():
    for number in range(200):
        await left.send(number, fds=[fd])

before = len(os.listdir("/proc/self/fd"))
sender = asyncio.create_task(send_all())
while not left.statistics().send_waits:
    await asyncio.sleep(0)
for number in range(200):
    assert await right.receive() == number
    (copy,) = right.take_fds()
    os.close(copy)
await sender
assert len(os.listdir("/proc/self/fd")) == before
left.abort()
right.abort()
os.close(fd)
say("all")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
@pytest.mark.parametrize("kind", ["unix", "unix+seqpacket", "shm"])
@pytest.mark.asyncio
async def test_too_many_on_their_way(kind: str, peers: Peers) -> None:
    """ETOOMANYREFS in unix(7): no event says when it is over."""
    child = program(peers, FLOODED, kind)
    assert await child.next_line() == "all"
    assert await child.ended() == 0


# Enemies


def frame(kind: int = Kind.DATA, payload: bytes = b"", flags: int = 0, fds: int = 0) -> bytes:
    return pack_header(len(payload), kind, flags, fds) + payload


def hello(capabilities: int = WireCapability.FDS) -> bytes:
    return frame(Kind.HELLO, Hello("raw", 2**20, WireCapability(capabilities)).pack())


@contextlib.asynccontextmanager
async def victim(kind: int = socket.SOCK_STREAM, **options: object):  # type: ignore[no-untyped-def]
    """A bare socket, and the channel at its other end."""
    bare, other = socket.socketpair(socket.AF_UNIX, kind)
    with bare:
        bare.setblocking(False)
        channel = await aioipc.connect(f"fd:{other.detach()}", codec="raw", **options)  # type: ignore[call-overload]
        try:
            yield bare, channel
        finally:
            channel.abort()


KINDS = pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])


@KINDS
@pytest.mark.parametrize(
    ("data", "came", "match"),
    [
        (frame(fds=2), 1, "announces 2 descriptors, and 1 came"),
        (frame(fds=2), 0, "announces 2 descriptors, and 0 came"),
        (frame(fds=65535), 3, "announces 65535 descriptors, and 3 came"),
        (frame(Kind.PING, fds=1), 1, "kind 5 announces 1 descriptors"),
        (frame(Kind.GOODBYE, fds=1), 1, "kind 4 announces 1 descriptors"),
        (frame(flags=Flag.MORE, fds=1) + frame(fds=1), 1, "announces 1 descriptors, and 0 came"),
        (frame(Kind.PING), 3, "3 descriptors came that no frame announces"),
    ],
)
@pytest.mark.asyncio
async def test_wrong_counts(
    kind: int, data: bytes, came: int, match: str, files: list[int]
) -> None:
    async with victim(kind) as (bare, channel):
        before = open_fds()
        bare.send(hello())
        send_with_fds(bare, data, files[:came])
        with pytest.raises(ProtocolError, match=match):
            await channel.receive()
        assert open_fds() <= before
        with pytest.raises(ProtocolError, match=match):
            await channel.receive()


@KINDS
@pytest.mark.asyncio
async def test_more_than_announced(kind: int, files: list[int]) -> None:
    async with victim(kind) as (bare, channel):
        bare.send(hello())
        send_with_fds(bare, frame(fds=1), files[:3])
        assert await channel.receive() == b""
        with pytest.raises(ProtocolError, match="2 descriptors came that no frame announces"):
            await channel.receive()


@KINDS
@pytest.mark.asyncio
async def test_before_the_hello(kind: int, files: list[int]) -> None:
    async with victim(kind) as (bare, channel):
        send_with_fds(bare, frame(fds=1), files[:1])
        with pytest.raises(HandshakeError):
            await channel.receive()
    async with victim(kind) as (bare, channel):
        send_with_fds(bare, hello(), files[:1])
        with pytest.raises((HandshakeError, ProtocolError), match="no frame announces"):
            await channel.receive()


@KINDS
@pytest.mark.asyncio
async def test_a_peer_that_announced_nothing(kind: int, files: list[int]) -> None:
    async with victim(kind) as (bare, channel):
        before = open_fds()
        bare.send(hello(0))
        bare.send(frame(payload=b"x"))
        assert await channel.receive() == b"x"
        with contextlib.suppress(PermissionError):  # SO_PASSRIGHTS, from Linux 6.16 on
            send_with_fds(bare, frame(payload=b"y"), files)
        bare.send(frame(payload=b"z"))
        while await channel.receive() != b"z":
            pass
        assert open_fds() == before
        with pytest.raises(AddressError, match="the peer takes no descriptors"):
            await channel.send(b"", fds=files)
        with contextlib.suppress(PermissionError):
            send_with_fds(bare, frame(fds=1), files[:1])
            with pytest.raises(ProtocolError, match="none were agreed"):
                await channel.receive()


@contextlib.contextmanager
def until_there_is_no_room() -> Iterator[None]:
    """In the socket, or for more descriptors of one user on their way: unix(7)."""
    try:
        yield
    except OSError as error:
        assert error.errno in (errno.EAGAIN, errno.ETOOMANYREFS)


@KINDS
@pytest.mark.asyncio
async def test_a_flood(kind: int, files: list[int]) -> None:
    """Fault case 30: 253 unexpected ones per message, a hundred times."""
    for round_ in range(scaled(20, full=100)):
        async with victim(kind) as (bare, channel):
            before = open_fds()
            bare.send(hello())
            with until_there_is_no_room():
                for _ in range(100):
                    send_with_fds(bare, frame(payload=b"x"), [files[0]] * MOST)
            assert await channel.receive() == b"x"
            with pytest.raises(ProtocolError, match="that no frame announces"):
                await channel.receive()
            assert open_fds() <= before, round_


@KINDS
@pytest.mark.asyncio
async def test_no_descriptors_left(kind: int, files: list[int]) -> None:
    """Fault case 30: near RLIMIT_NOFILE the kernel cuts what it delivers (MSG_CTRUNC)."""
    async with victim(kind) as (bare, channel):
        bare.send(hello() + frame())
        await channel.receive()
        before = open_fds()
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        for announced in (MOST, 0):
            send_with_fds(bare, frame(fds=announced), [files[0]] * MOST)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(files) + 40, limits[1]))
        try:
            with pytest.raises(ProtocolError, match="this process has no room for them"):
                await channel.receive()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert open_fds() <= before


@pytest.mark.asyncio
async def test_in_any_cut(files: list[int]) -> None:
    """A frame may come in pieces of any size, its descriptors with the first byte."""
    data = frame(payload=b"first", fds=2) + frame(payload=b"plain")
    for cut in range(1, len(data)):
        async with victim() as (bare, channel):
            send_with_fds(bare, hello(), [])
            receiver = asyncio.create_task(channel.receive())
            send_with_fds(bare, data[:cut], files[:2])
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            bare.send(data[cut:])
            assert await receiver == b"first"
            assert closed(channel.take_fds()) == inodes(files[:2])
            assert await channel.receive() == b"plain"


KILLED = """
fd = os.memfd_create("aioipc-test")
async with aioipc.connect(sys.argv[1]) as channel:
    while True:
        await channel.send(bytes(1000), fds=[fd] * 7)
"""


async def count(channel: Channel[bytes], child: Peer) -> None:
    """Take the descriptors of every other message, and kill the sender on the way."""
    for number in itertools.count():
        assert await channel.receive() == bytes(1000)
        assert number % 2 or len(closed(channel.take_fds())) == 7
        if number == 100:
            child.kill()


@pytest.mark.parametrize("kind", ["unix:", "unix+seqpacket:", "shm:"])
@pytest.mark.asyncio
async def test_a_sender_that_is_killed(kind: str, peers: Peers) -> None:
    async with aioipc.listen(kind) as listener:
        child = program(peers, KILLED, listener.address)
        channel = await listener.accept()
        before = open_fds()
        with pytest.raises(PeerCrashed):
            await count(channel, child)
        await channel.aclose()
        assert open_fds() <= before


@pytest.mark.asyncio
async def test_many_wait_in_a_ring_that_nobody_reads(files: list[int]) -> None:
    """More than the socket holds: the sender waits, and the receiver takes them bit by bit."""
    async with link_over("shm")() as (left, right):
        total = 1000
        before = open_fds()

        async def send_all() -> None:
            for number in range(total):
                await left.send(number, fds=files[:3])

        sender = asyncio.create_task(send_all())
        await steps(100)
        assert left.statistics().send_waits
        assert open_fds() < before + 3 * MOST
        for number in range(total):
            assert await right.receive() == number
            assert closed(right.take_fds()) == inodes(files[:3])
        await sender


@pytest.mark.asyncio
async def test_more_behind_an_open_slot_than_the_receiver_takes(files: list[int]) -> None:
    """The others wait until it has ended, and what they go with can be seen."""
    async with link_over("shm")(codec="raw") as (left, right):
        await right.send(b"greeted")
        await left.receive()
        slot = await left.reserve(1).__aenter__()
        sending = [asyncio.create_task(left.send(b"x", fds=files * 10)) for _ in range(6)]
        await steps(20)
        with pytest.raises(WouldBlock):
            right.receive_nowait()
        await slot.__aexit__(None, None, None)
        assert await right.receive() == bytes(1)
        for _ in sending:
            assert await right.receive() == b"x"
            assert closed(right.take_fds()) == inodes(files * 10)
        await asyncio.gather(*sending)


@pytest.mark.asyncio
async def test_many_wait_behind_those_that_were_not_taken(files: list[int]) -> None:
    async with link_over("shm")(codec="raw") as (left, right):
        many = (files * 26)[:MOST]
        sending = [asyncio.create_task(left.send(b"x", fds=many)) for _ in range(4)]
        for _ in sending:
            assert await right.receive() == b"x"
            await steps(20)  # what comes next is read meanwhile
            assert closed(right.take_fds()) == inodes(many)
        await asyncio.gather(*sending)


@pytest.mark.asyncio
async def test_descriptors_for_a_peer_that_is_gone_count_nothing(files: list[int]) -> None:
    """Before the loop has heard of its end."""
    left, right = aioipc.pair("shm", codec="raw")
    async with left:
        await right.send(b"greeted")
        await left.receive()
        await left.send(b"one")
        await left.flush()
        right.abort()
        with pytest.raises(PeerCrashed) as caught:
            await left.send(b"two", fds=files[:1])
        assert caught.value.unconsumed == 1
        assert left.unconsumed() == [b"one"]


@pytest.mark.asyncio
async def test_while_many_wait_the_end_of_the_peer_is_heard(files: list[int]) -> None:
    """Also by a side that only waits for room to send."""
    async with link_over("shm")(codec="raw") as (left, right):
        await right.send(b"greeted")
        await left.receive()
        fill(right)
        sending = asyncio.create_task(right.send(b"no room"))
        with contextlib.suppress(WouldBlock):
            for _ in range(10):
                left.send_nowait(b"", fds=files * 20)
        await steps(20)
        assert not sending.done()
        left.abort()
        with pytest.raises(PeerCrashed):
            await sending


@pytest.mark.asyncio
@pytest.mark.parametrize("scheme", ["unix", "unix+seqpacket", "shm"])
async def test_an_end_that_only_receives_is_heard_of(scheme: str, peers: Peers) -> None:
    """Who sends descriptors first waits for the HELLO of a peer that may say nothing else."""
    near, far = aioipc.pair(scheme)
    address, fds = far.detach()
    code = """
    readable, writable = os.pipe()
    async with aioipc.connect(sys.argv[1]) as channel:
        await channel.send("here", fds=[readable])
    os.close(readable)
    os.close(writable)
    """
    peer = program(peers, code, address, pass_fds=fds)
    for fd in fds:
        os.close(fd)
    async with near:
        assert await near.receive() == "here"
        for fd in near.take_fds():
            os.close(fd)
    assert await peer.ended() == 0
