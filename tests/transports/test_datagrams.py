"""``unix+dgram:`` and ``udp:``: one datagram is one message, and there are no connections."""

from __future__ import annotations

import array
import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

import aioipc
from aioipc import (
    AccessDenied,
    AddressError,
    Capability,
    Channel,
    ClosedError,
    ConnectError,
    DecodeError,
    EndOfStream,
    FrameTooLarge,
    IPCAttribute,
    Limits,
    Losses,
    PeerCrashed,
    PeerCredentials,
    ResourceExhausted,
    Sender,
    WouldBlock,
)
from tests.children import Peers
from tests.kernel.strangers import NOBODY, as_root, public
from tests.links import until
from tests.programs import AS_NOBODY, program, stuck_send

__all__ = ["public"]

pytestmark = pytest.mark.asyncio

US = PeerCredentials(os.getpid(), os.getuid(), os.getgid())
ADDRESSES = ["unix+dgram:", "udp://127.0.0.1:0", "udp://[::1]:0"]

Ends = tuple[Channel[Any], Channel[Any]]


@contextlib.asynccontextmanager
async def inbox(address: str, **options: Any) -> AsyncIterator[Channel[Any]]:
    """What receives from everybody."""
    async with aioipc.listen(address, **options) as listener, await listener.accept() as far:
        yield far


@contextlib.asynccontextmanager
async def ends_of(address: str, **options: Any) -> AsyncIterator[Ends]:
    """Who sends, and who receives from everybody."""
    async with (
        inbox(address, **options) as far,
        aioipc.connect(far.address, **options) as near,
    ):
        yield near, far


def sender_of(channel: Channel[Any]) -> Sender:
    sender = channel.extra(IPCAttribute.sender)
    assert sender is not None
    return sender


def losses_of(channel: Channel[Any]) -> Losses:
    return channel.extra(IPCAttribute.losses)


@pytest.fixture
def port() -> Iterator[int]:
    """A port of UDP that nobody receives on, and nobody else gets meanwhile."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        # Connected elsewhere, so what comes from us is refused as if nobody were there.
        one.connect(("127.0.0.1", 9))
        yield one.getsockname()[1]


@pytest.mark.parametrize("address", ADDRESSES)
async def test_messages_keep_their_boundaries(address: str) -> None:
    messages = [None, "x", {"a": [1, 2.5]}, b"b" * 5_000, b"", b"f" * 60_000, "last"]
    async with ends_of(address) as (near, far):
        for message in messages:
            await near.send(message)
            assert await far.receive() == message
        await near.send_many(messages[:4])
        assert [await far.receive() for _ in range(4)] == messages[:4]


@pytest.mark.parametrize("address", ADDRESSES)
async def test_nothing_at_all_is_a_message(address: str) -> None:
    """An empty datagram is no end (case 36), and to msgpack it is no object."""
    async with ends_of(address, codec="raw") as (near, far):
        await near.send_many([b"", b"x", b""])
        assert [await far.receive() for _ in range(3)] == [b"", b"x", b""]
    async with inbox(address) as far, aioipc.connect(far.address, codec="raw") as near:
        await near.send_many([b"", b"\xc0"])
        with pytest.raises(DecodeError):
            await far.receive()
        assert await far.receive() is None


@pytest.mark.parametrize("address", ADDRESSES)
async def test_an_answer(address: str) -> None:
    async with ends_of(address) as (near, far):
        assert far.extra(IPCAttribute.sender) is None
        async with aioipc.connect(far.address) as other:
            for asker in (near, other, near):
                await asker.send("question")
                assert await far.receive() == "question"
                where = sender_of(far).address
                assert where is not None
                async with far.to(where) as back:
                    await back.send(f"answer to {where}")
                    with pytest.raises(ClosedError, match="only sends"):
                        await back.receive()
                assert await asker.receive() == f"answer to {where}"
                assert sender_of(asker).address == far.address


@pytest.mark.parametrize("address", ADDRESSES)
async def test_what_the_ends_can_do(address: str) -> None:
    one_way = Capability.MESSAGE | (
        Capability.REMOTE
        if address.startswith("udp")
        else Capability.BACKPRESSURE | Capability.CREDENTIALS
    )
    async with ends_of(address) as (near, far):
        assert (near.capabilities, far.capabilities) == (one_way | Capability.DUPLEX, one_way)
        assert near.address == far.address
        assert near.peer is far.peer is None
        with pytest.raises(AddressError, match="receives from many"):
            await far.send("to whom?")
        with pytest.raises(AddressError, match="cannot send to"):
            near.to(far.address).abort()
        with pytest.raises(AddressError, match="cannot send to unix:x"):
            far.to("unix:x").abort()
        with pytest.raises(AddressError, match="carries no descriptors"):
            await near.send("x", fds=[0])
        with pytest.raises(AddressError, match="carries messages, not bytes"):
            await aioipc.connect_stream(near.address)
    with pytest.raises(ClosedError):
        far.to(near.address)
    with pytest.raises(ValueError, match="carries whole messages"):
        await aioipc.listen(address, framing="lines")


@pytest.mark.parametrize("address", ADDRESSES)
async def test_the_receiver_outlives_its_senders(address: str) -> None:
    async with aioipc.listen(address) as listener, await listener.accept() as far:
        for name in ("first", "second"):
            async with aioipc.connect(listener.address) as near:
                await near.send(name)
                await near.send_eof()
            assert await far.receive() == name
        with pytest.raises(EndOfStream):
            await listener.accept()
        waiting = asyncio.create_task(far.receive())
        await asyncio.sleep(0)
    with pytest.raises(ClosedError):
        await waiting


@pytest.mark.parametrize("address", ADDRESSES)
async def test_a_cancelled_receive_loses_nothing(address: str) -> None:
    async with ends_of(address) as (near, far):
        for number in range(200):
            receiving = asyncio.create_task(far.receive())
            for _ in range(number % 4):
                await asyncio.sleep(0)
            await near.send(number)
            for _ in range(number % 3):
                await asyncio.sleep(0)
            receiving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                assert await receiving == number
                continue
            assert await far.receive() == number


# Sizes (case 35)


@pytest.mark.parametrize(
    ("address", "limit"), [("udp://127.0.0.1:0", 65_507), ("udp://[::1]:0", 65_527)]
)
async def test_the_longest_datagram_of_udp(address: str, limit: int) -> None:
    async with ends_of(address, codec="raw") as (near, far):
        with pytest.raises(FrameTooLarge) as caught:
            await near.send(bytes(limit + 1))
        assert (caught.value.size, caught.value.limit) == (limit + 1, limit)
        await near.send(bytes(limit))
        assert await far.receive() == bytes(limit)


async def test_the_longest_datagram_of_unix() -> None:
    async with ends_of("unix+dgram:", codec="raw") as (near, far):
        with pytest.raises(FrameTooLarge) as caught:
            await near.send(bytes(10_000_000))
        limit = caught.value.limit
        assert limit >= 200_000
        await near.send(bytes(limit))
        assert await far.receive() == bytes(limit)
        with pytest.raises(FrameTooLarge):
            near.send_nowait(bytes(limit + 1))


@pytest.mark.parametrize("address", ADDRESSES)
async def test_one_over_the_limit_is_dropped_and_counted(address: str) -> None:
    few = Limits(max_message_bytes=1_000)
    async with (
        inbox(address, codec="raw", limits=few) as far,
        aioipc.connect(far.address, codec="raw") as near,
    ):
        await near.send_many([b"a" * 1_000, b"b" * 1_001, b"c" * 60_000, b"d"])
        assert await far.receive() == b"a" * 1_000
        assert await far.receive() == b"d"
        assert losses_of(far) == Losses(truncated=2)
        async with aioipc.connect(far.address, codec="raw", limits=few) as strict:
            with pytest.raises(FrameTooLarge, match="1,000"):
                await strict.send(bytes(1_001))


@pytest.mark.parametrize("address", ADDRESSES)
async def test_many_to_drop_in_a_row_let_the_loop_turn(address: str) -> None:
    few = Limits(max_message_bytes=10)
    async with (
        inbox(address, codec="raw", limits=few) as far,
        aioipc.connect(far.address, codec="raw") as near,
    ):
        receiving = asyncio.create_task(far.receive())
        for _ in range(150):
            await near.send(bytes(11))
        await near.send(b"good")
        assert await receiving == b"good"
        assert losses_of(far) == Losses(truncated=150)


# The network (case 35)


async def test_a_refusal_is_counted_and_ends_nothing(
    port: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with aioipc.connect(f"udp://127.0.0.1:{port}") as near:
        for number in range(1, 4):
            await near.send("nobody hears this")
            assert losses_of(near).unreachable >= number - 1
        receiving = asyncio.create_task(near.receive())
        await until(lambda: losses_of(near).unreachable == 3)
        assert not receiving.done()
        receiving.cancel()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "a datagram reached nobody: Connection refused" in caplog.text


async def test_a_refusal_loses_no_other_datagram() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as first:
        first.bind(("127.0.0.1", 0))
        where = first.getsockname()
    async with aioipc.connect(f"udp://127.0.0.1:{where[1]}", codec="raw") as near:
        await near.send(b"too early")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as late:
            late.bind(where)
            await near.send(b"in time")
            late.settimeout(5)
            data, back = late.recvfrom(100)
            assert data == b"in time"
            assert losses_of(near) == Losses(unreachable=1)
            late.sendto(b"answer", back)
            assert await near.receive() == b"answer"


async def test_no_other_machine() -> None:
    with pytest.raises(AccessDenied, match="udp: authenticates nobody"):
        await aioipc.listen("udp://0.0.0.0:0")
    with pytest.raises(ConnectError, match="has no address"):
        await aioipc.connect("udp://256.0.0.1:9")
    with pytest.raises(ValueError, match="udp: does not know the peer's user"):
        await aioipc.connect("udp://127.0.0.1:9", allow=aioipc.same_user)
    with pytest.raises(ValueError, match="pickle"):
        await aioipc.connect("udp://127.0.0.1:9", codec="pickle")
    async with ends_of("udp://127.0.0.1:0") as (near, far):
        with pytest.raises(ResourceExhausted):
            await aioipc.listen(near.address)
        with pytest.raises(AddressError, match="no numbers"):
            far.to("udp://localhost:9")
        with pytest.raises(AddressError, match="no numbers"):
            far.to("udp://[::1]:9")


# Who sends (unix+dgram)


async def test_the_kernel_says_who_sends(peers: Peers) -> None:
    async with aioipc.listen("unix+dgram:name") as listener, await listener.accept() as far:
        peer = program(
            peers,
            """
            async with aioipc.connect("unix+dgram:name") as channel:
                await channel.send("from elsewhere")
                say(await channel.receive(), channel.extra(aioipc.IPCAttribute.sender))
            """,
        )
        assert await far.receive() == "from elsewhere"
        sender = sender_of(far)
        assert sender.credentials == PeerCredentials(peer.pid, os.getuid(), os.getgid())
        assert sender.address is not None
        async with far.to(sender.address) as back:
            await back.send("hello")
        assert await peer.next_line() == f"hello {Sender('unix+dgram:name', US)!r}"
        assert await peer.ended() == 0


async def test_programs_that_know_nothing_of_aioipc(tmp_path: Path) -> None:
    """One without an address, and one with a file that an answer goes to."""
    path = tmp_path / "mine"
    async with inbox(f"unix+dgram:{tmp_path}/ours", codec="text") as far:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as plain:
            plain.sendto(b"READY=1", f"{tmp_path}/ours")
            assert await far.receive() == "READY=1"
            credentials = sender_of(far).credentials
            assert credentials is not None
            assert credentials.pid == os.getpid()
            plain.bind(str(path))
            plain.sendto(b"and now?", f"{tmp_path}/ours")
            assert await far.receive() == "and now?"
            assert sender_of(far).address == f"unix+dgram:{path}"
            async with far.to(f"unix+dgram:{path}") as back:
                await back.send("so")
                assert plain.recv(100) == b"so"
                path.unlink()
                plain.close()
                with pytest.raises(PeerCrashed, match="nobody receives there"):
                    await back.send("lost")
            with pytest.raises(ConnectError):
                far.to(f"unix+dgram:{path}")


async def test_descriptors_that_come_along_are_not_taken() -> None:
    """A fixture sees to it that none is left open."""
    async with inbox("unix+dgram:name", codec="raw") as far:
        where = Path(os.environ["AIOIPC_RUNTIME_DIR"], "dgram", "name")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as plain:
            plain.connect(str(where))
            rights = array.array("i", [0, 1, 2]).tobytes()
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
            with contextlib.suppress(PermissionError):  # the kernel refuses since 6.16
                plain.sendmsg([b"with descriptors"], ancillary)
            plain.send(b"without")
        while await far.receive() != b"without":
            pass


SEND_FROM_NOBODY = """
async with aioipc.connect(sys.argv[1], allow=lambda peer: peer.uid == 0) as channel:
    await channel.send("from nobody")
    say("sent")
"""


@as_root
@pytest.mark.parametrize("allowed", [True, False])
async def test_another_user(
    allowed: bool, public: Path, peers: Peers, caplog: pytest.LogCaptureFixture
) -> None:
    address = f"unix+dgram:{public}/socket"

    def allow(peer: PeerCredentials) -> bool:
        return allowed or peer.uid == os.geteuid()

    async with aioipc.listen(address, allow=allow) as listener, await listener.accept() as far:
        peer = program(peers, AS_NOBODY + SEND_FROM_NOBODY, address)
        assert await peer.next_line() == "sent"
        async with aioipc.connect(address) as near:
            await near.send("from us")
        if allowed:
            assert await far.receive() == "from nobody"
            credentials = sender_of(far).credentials
            assert credentials is not None
            assert credentials.uid == NOBODY
        assert await far.receive() == "from us"
        assert losses_of(far).refused == (not allowed)
    async with aioipc.listen(address, allow=allow, codec="pickle") as listener:
        with pytest.raises(EndOfStream):
            await listener.accept()
    assert "the pickle codec runs what a peer sends" in caplog.text


async def test_names() -> None:
    async with aioipc.listen("unix+dgram:name"), aioipc.listen("unix:name"):
        with pytest.raises(ResourceExhausted, match="address in use"):
            await aioipc.listen("unix+dgram:name")
    with pytest.raises(ConnectError, match="nobody listens there"):
        await aioipc.connect("unix+dgram:name")
    abstract = f"unix+dgram:@aioipc-test-{os.getpid()}"
    with pytest.raises(AccessDenied, match="say allow="):
        await aioipc.listen(abstract)
    with pytest.raises(AccessDenied, match="does not say who receives"):
        await aioipc.connect(abstract)
    async with inbox(abstract, allow=aioipc.same_user, codec="raw") as far:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as plain:
            plain.sendto(b"x", "\0" + abstract.partition("@")[2])
        assert await far.receive() == b"x"


async def test_a_socket_of_another_kind(tmp_path: Path) -> None:
    async with aioipc.listen(f"unix:{tmp_path}/socket"):
        with pytest.raises(ConnectError, match="Protocol wrong type"):
            await aioipc.connect(f"unix+dgram:{tmp_path}/socket")


RECEIVE = """
async with aioipc.listen("unix+dgram:name") as listener, await listener.accept() as channel:
    say("ready")
    async for message in channel:
        say(len(message))
"""


@pytest.mark.leaves_names
async def test_a_server_that_was_killed_is_replaced(peers: Peers) -> None:
    server = program(peers, RECEIVE)
    assert await server.next_line() == "ready"
    async with aioipc.connect("unix+dgram:name") as near:
        await near.send("to the first")
        await asyncio.sleep(0)
        server.kill()
        await server.ended()
        for _ in range(2):
            with pytest.raises(PeerCrashed, match="nobody receives there any more"):
                await near.send("too late")
    with pytest.raises(ConnectError):
        await aioipc.connect("unix+dgram:name")
    async with ends_of("unix+dgram:name") as (near, far):
        await near.send("to the second")
        assert await far.receive() == "to the second"


# Back-pressure (case 36)


@pytest.mark.leaves_names
@pytest.mark.parametrize("size", [10, 100_000])
async def test_a_stopped_receiver(size: int, peers: Peers) -> None:
    peer = program(peers, RECEIVE)
    assert await peer.next_line() == "ready"
    async with aioipc.connect("unix+dgram:name") as near:
        peer.signal(signal.SIGSTOP)
        sent = 0
        with contextlib.suppress(WouldBlock):
            while True:
                near.send_nowait("x" * size)
                sent += 1
        cancelled = [asyncio.create_task(near.send("y" * (size + 1))) for _ in range(5)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in cancelled)
        for task in cancelled:
            task.cancel()
        await asyncio.wait(cancelled)
        assert all(task.cancelled() for task in cancelled)
        last = asyncio.create_task(near.send("last"))
        peer.signal(signal.SIGCONT)
        await last
        assert [await peer.next_line() for _ in range(sent)] == [str(size)] * sent
        assert await peer.next_line() == "4"
    peer.kill()
    await peer.ended()


@pytest.mark.leaves_names
async def test_a_receiver_that_dies_ends_the_wait(peers: Peers) -> None:
    peer = program(peers, RECEIVE)
    assert await peer.next_line() == "ready"
    peer.signal(signal.SIGSTOP)
    async with aioipc.connect("unix+dgram:name") as near:
        waiting = await stuck_send(near)
        peer.kill()
        with pytest.raises(PeerCrashed):
            await waiting


async def test_many_senders_wait_for_one_receiver() -> None:
    async with aioipc.listen("unix+dgram:") as listener, await listener.accept() as far:

        async def send(name: int) -> None:
            async with aioipc.connect(listener.address) as near:
                for number in range(100):
                    await near.send([name, number])

        sending = [asyncio.create_task(send(name)) for name in range(5)]
        got: list[list[int]] = [[] for _ in range(5)]
        for _ in range(500):
            name, number = await far.receive()
            got[name].append(number)
        assert got == [list(range(100))] * 5
        await asyncio.gather(*sending)


async def test_an_answer_waits_for_room() -> None:
    """For which the kernel has no event: the queue that is full belongs to nobody's peer."""
    async with ends_of("unix+dgram:") as (near, far):
        await near.send("question")
        await far.receive()
        where = sender_of(far).address
        assert where is not None
        async with far.to(where) as back:
            waiting = await stuck_send(back)
            await asyncio.sleep(0.01)  # the time it takes to look again a few times
            assert not waiting.done()
            received = 0
            while not waiting.done():
                assert await near.receive() == "x" * 1_000
                received += 1
                await asyncio.sleep(0)
            assert received
            cancelled = await stuck_send(back)
            cancelled.cancel()
            await asyncio.wait([cancelled])
