"""Real processes, killed -9 in the middle of things (cases 1 and 2).

The full figure, 1,000 kills of a sender per transport and as many of a receiver, takes 500 on each
of the two loops: ``AIOIPC_TEST_SCALE=1`` with ``AIOIPC_TEST_BOTH_LOOPS=1``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import aioipc
from aioipc import Channel, IPCError, PeerCrashed, TruncatedFrame
from tests.children import PATIENCE_S, Peers
from tests.links import FIFO_LIMIT
from tests.peers.nursery import Counter, Nursery, is_whole, message
from tests.scale import patience_s, scaled

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(patience_s(60))]

KILLS = scaled(20, full=500)
LONGEST_LIFE_S = 0.02

transports = pytest.mark.parametrize(
    "kind", ["unix", "unix-pair", "unix+seqpacket", "pipe", "tcp", "shm", "shm-pair"]
)


@pytest.fixture
def delivered(tmp_path: Path) -> Iterator[Counter]:
    """How many messages a sender had handed to the kernel when it died."""
    with Counter.at_zero(tmp_path / "counter") as counter:
        yield counter


def other_loop() -> str:
    """The loop that this test does not run on, for the processes that it starts."""
    return "uvloop" if "asyncio" in repr(asyncio.get_running_loop()) else "asyncio"


@asynccontextmanager
async def peer_process(
    kind: str, nursery: Nursery, role: str, **options: Any
) -> AsyncIterator[tuple[Channel[bytes], int]]:
    """Yield a channel to a forked process, and the pid."""
    loop = other_loop()
    if kind in ("pipe", "unix-pair", "shm-pair"):
        options |= {"scheme": "shm"} if kind == "shm-pair" else {}
        channel, theirs = aioipc.pair(kind.removesuffix("-pair"), codec="raw")
        _, fds = theirs.detach()
        pid = nursery.start(loop, role, fds=fds, **options)
        for fd in fds:
            os.close(fd)
    else:
        address = {"tcp": "tcp://127.0.0.1:0"}.get(kind, f"{kind}:")
        async with aioipc.listen(address, codec="raw") as listener:
            pid = nursery.start(loop, role, address=listener.address, **options)
            async with asyncio.timeout(PATIENCE_S):
                channel = await listener.accept()
    try:
        yield channel, pid
    finally:
        channel.abort()


async def receive_all(channel: Channel[bytes]) -> tuple[list[bytes], type[IPCError]]:
    got: list[bytes] = []
    while True:
        try:
            got.append(await channel.receive())
        except IPCError as ending:
            return got, type(ending)


# Case 1


@transports
async def test_a_killed_sender_delivers_a_prefix_of_whole_messages(
    kind: str, nursery: Nursery, delivered: Counter, chance: random.Random
) -> None:
    """All that was flushed, each message once and whole, then PeerCrashed."""
    for _ in range(KILLS):
        delivered.value = 0
        large = chance.random() < 0.7
        async with peer_process(kind, nursery, "send", counter=delivered.path, large=large) as (
            channel,
            pid,
        ):
            receiving = asyncio.create_task(receive_all(channel))
            await asyncio.sleep(chance.random() * LONGEST_LIFE_S)  # the instant of the kill
            nursery.kill(pid)
            async with asyncio.timeout(PATIENCE_S):
                got, ending = await receiving
            assert got == [message(number, large=large) for number in range(len(got))]
            assert len(got) >= delivered.value, "a message that was flushed is lost"
            assert ending in (PeerCrashed, TruncatedFrame)


async def test_killed_writers_of_a_fifo_leave_whole_records(
    nursery: Nursery, delivered: Counter, chance: random.Random, tmp_path: Path
) -> None:
    """On a FIFO a writer has no end; the next one goes on at a record boundary."""
    address = f"fifo:{tmp_path}/fifo"
    loop = other_loop()
    async with (
        aioipc.listen(address, codec="raw") as listener,
        await listener.accept() as channel,
    ):
        for round_ in range(KILLS):
            delivered.value = 0
            marker = b"the end of round %d" % round_
            pid = nursery.start(loop, "send", address=address, counter=delivered.path, large=False)
            got: list[bytes] = []
            life = asyncio.create_task(asyncio.sleep(chance.random() * LONGEST_LIFE_S))
            while not life.done() or not got:
                got.append(await channel.receive())
            nursery.kill(pid)
            async with aioipc.connect(address, codec="raw") as finisher:
                sending = asyncio.create_task(finisher.send(marker))
                async with asyncio.timeout(PATIENCE_S):
                    while (record := await channel.receive()) != marker:
                        got.append(record)
                await sending
            assert all(is_whole(record, large=False) for record in got)
            assert got == [message(number, large=False) for number in range(len(got))]
            assert len(got) >= delivered.value
            assert max(map(len, got)) <= FIFO_LIMIT


# Case 2


@transports
async def test_sending_to_a_killed_receiver_raises(
    kind: str, nursery: Nursery, chance: random.Random
) -> None:
    for _ in range(KILLS):
        size = chance.choice([0, 100, 10_000, 300_000])
        async with peer_process(kind, nursery, "receive") as (channel, pid):
            senders = [asyncio.create_task(send_until_it_fails(channel, size)) for _ in range(3)]
            await asyncio.sleep(chance.random() * LONGEST_LIFE_S)  # the instant of the kill
            nursery.kill(pid)
            async with asyncio.timeout(PATIENCE_S):
                endings = await asyncio.gather(*senders)
            assert endings == [PeerCrashed] * 3
            with pytest.raises(PeerCrashed):
                await channel.receive()
            for send in (channel.send(b""), channel.flush(), channel.send_many([b""])):
                with pytest.raises(PeerCrashed):
                    await send


async def send_until_it_fails(channel: Channel[bytes], size: int) -> type[IPCError]:
    try:
        while True:
            await channel.send(bytes(size))
    except IPCError as error:
        return type(error)


@pytest.mark.parametrize("kind", ["unix", "unix-pair", "tcp"])
async def test_a_socket_sends_no_sigpipe(
    kind: str, nursery: Nursery, chance: random.Random
) -> None:
    """The process would die of it: outside Python the default action is to terminate."""
    for crash in (True, False):
        async with peer_process(kind, nursery, "flood") as (channel, pid):
            for _ in range(chance.randrange(100)):
                await channel.receive()
            if crash:
                channel.abort()
            else:
                await channel.aclose()
            async with asyncio.timeout(PATIENCE_S):
                assert await asyncio.to_thread(nursery.wait, pid) == 0


async def test_a_process_that_ends_without_a_close_has_crashed(peers: Peers) -> None:
    """GOODBYE is what makes an end a clean one, not the exit status."""
    code = """
        import asyncio, os, sys, aioipc
        async def main():
            channel = await aioipc.connect(sys.argv[1])
            await channel.send("last words")
            await channel.flush()
            os._exit(0)
        asyncio.run(main())
    """
    async with aioipc.listen("unix:") as listener:
        peer = peers.script(code, listener.address)
        async with await listener.accept() as channel:
            assert await channel.receive() == "last words"
            with pytest.raises(PeerCrashed):
                await channel.receive()
        assert await peer.ended() == 0
    with contextlib.suppress(ProcessLookupError):
        os.kill(peer.pid, 0)
