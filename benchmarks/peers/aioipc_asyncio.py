"""The programs for asyncio's own transports, on aioipc's: nothing but the address is another."""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable

import aioipc
from benchmarks.contender import Family, Loop, Role
from benchmarks.peers._framed_protocol import FramedProtocol
from benchmarks.peers.asyncio_streams import READ_LIMIT, AsyncioStreams, Connected
from benchmarks.peers.tuned_protocol import P, TunedProtocol


class StreamsOverAioipc(AsyncioStreams):
    """`aioipc.open_connection` and `aioipc.start_server`."""

    family: Family = "aioipc"
    refuses: tuple[Role, ...] = ("hold",)

    def __init__(self, scheme: str, loop: Loop) -> None:
        super().__init__(loop)
        self.scheme = scheme
        self.name = f"aioipc {scheme} asyncio streams ({loop})"

    async def serve(self, connected: Connected, where: str) -> asyncio.AbstractServer:
        return await aioipc.start_server(connected, f"{self.scheme}:{where}", limit=READ_LIMIT)

    async def open(self, where: str) -> tuple[StreamReader, StreamWriter]:
        return await aioipc.open_connection(f"{self.scheme}:{where}", limit=READ_LIMIT)


class ProtocolOverAioipc(TunedProtocol):
    """`aioipc.create_connection` and `aioipc.create_server`."""

    family: Family = "aioipc"
    refuses: tuple[Role, ...] = ("hold", "paced_ping", "paced_source", "call")

    def __init__(self, scheme: str, loop: Loop) -> None:
        super().__init__(loop)
        self.quick = loop == "uvloop"
        self.scheme = scheme
        self.name = f"aioipc {scheme} Protocol ({loop})"

    async def serve(
        self, factory: Callable[[], FramedProtocol], where: str
    ) -> asyncio.AbstractServer:
        return await aioipc.create_server(factory, f"{self.scheme}:{where}")

    async def connect(self, factory: Callable[[], P], where: str) -> P:
        _, protocol = await aioipc.create_connection(factory, f"{self.scheme}:{where}")
        return protocol


CONTENDERS = [
    kind(scheme, loop)
    for kind in (StreamsOverAioipc, ProtocolOverAioipc)
    for scheme in ("unix", "shm")
    for loop in ("uvloop", "asyncio")
]
