"""Bytes between two processes that wait in every way: none is lost, and nobody is forgotten."""

from __future__ import annotations

import asyncio
import random

import pytest

import aioipc
from tests.children import Peers
from tests.peers.byte_talk import LIMITS, Hearing, Talk, talk_by_protocol, talk_by_stream
from tests.programs import loop_name
from tests.scale import patience_s, scaled

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(patience_s(60))]

PEER = "tests.peers.byte_talk"
COUNT = scaled(1_000, full=30_000)
every_address = pytest.mark.parametrize("address", ["unix:", "shm:", "tcp://127.0.0.1:0"])


@every_address
async def test_by_streams(address: str, peers: Peers, chance: random.Random) -> None:
    seed = chance.getrandbits(32)
    async with aioipc.listen_stream(address, limits=LIMITS) as listener:
        peer = peers.module(PEER, loop_name(), "stream", listener.address, seed, COUNT)
        async with await listener.accept() as stream:
            sent, came = await talk_by_stream(Talk(seed + 1, COUNT), stream)
            assert (await peer.next_line()).split() == [came, sent]
            peer.tell()
            assert await peer.ended() == 0


@every_address
async def test_by_protocols(address: str, peers: Peers, chance: random.Random) -> None:
    seed = chance.getrandbits(32)
    connected: asyncio.Queue[Hearing] = asyncio.Queue()

    class Announced(Hearing):
        def __init__(self) -> None:
            super().__init__(Talk(seed + 1, COUNT))

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            connected.put_nowait(self)

    async with aioipc.create_server(Announced, address, limits=LIMITS) as server:
        peer = peers.module(PEER, loop_name(), "protocol", server.address, seed, COUNT)
        hearing = await connected.get()
        sent, came = await talk_by_protocol(hearing.talk, hearing)
        assert (await peer.next_line()).split() == [came, sent]
        peer.tell()
        assert await peer.ended() == 0
        hearing.transport.close()
