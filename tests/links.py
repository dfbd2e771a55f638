"""Two connected channels in one process, over every transport: for the ``link`` fixture."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import aioipc
from aioipc import Channel, WouldBlock
from aioipc.address import Address
from tests.certificates import client_context, server_context

Ends = tuple[Channel[Any], Channel[Any]]
Link = Callable[..., AbstractAsyncContextManager[Ends]]
"""``async with link(codec="raw") as (left, right)``; options as for `aioipc.connect`."""

SMALL_RING = 64 * 1024
"""The least that a ring may have."""

FIFO_LIMIT = 4096 - 8
"""The longest message on a FIFO: one frame in one atomic write."""


async def _memory(**options: Any) -> Ends:
    return aioipc.pair("memory", **options)


async def _unix(**options: Any) -> Ends:
    return aioipc.pair("unix", **options)


async def _packets(**options: Any) -> Ends:
    return aioipc.pair("unix+seqpacket", **options)


async def _pipe(**options: Any) -> Ends:
    return aioipc.pair("pipe", **options)


async def _shm(**options: Any) -> Ends:
    return aioipc.pair("shm", **_small_rings(options))


async def _shm_listen(**options: Any) -> Ends:
    return await _served("shm:", _small_rings(options))


def _small_rings(options: dict[str, Any]) -> dict[str, Any]:
    """So that they are full as soon as what the kernel has for the others."""
    limits = options.get("limits") or aioipc.Limits()
    return options | {"limits": dataclasses.replace(limits, ring_bytes=SMALL_RING)}


async def _fd(**options: Any) -> Ends:
    left, right = (end.detach() for end in socket.socketpair())
    return (
        await aioipc.connect(f"fd:{left}", **options),
        await aioipc.connect(f"fd:{right}", **options),
    )


async def _fd_pipes(**options: Any) -> Ends:
    right_reads, left_writes = os.pipe()
    left_reads, right_writes = os.pipe()
    return (
        await aioipc.connect(f"fd:{left_reads},{left_writes}", **options),
        await aioipc.connect(f"fd:{right_reads},{right_writes}", **options),
    )


async def _unix_listen(**options: Any) -> Ends:
    return await _served("unix:", options)


async def _packets_listen(**options: Any) -> Ends:
    return await _served("unix+seqpacket:", options)


async def _tcp(**options: Any) -> Ends:
    return await _served("tcp://127.0.0.1:0", options)


async def _tls(**options: Any) -> Ends:
    where = Address.parse("tls://127.0.0.1:0").with_tls(server_context())
    async with aioipc.listen(where, **options) as listener:
        there = Address.parse(listener.address).with_tls(client_context())
        left = await aioipc.connect(there, **options)
        return left, await listener.accept()


async def _memory_listen(**options: Any) -> Ends:
    return await _served("memory:link", options)


async def _fifo(**options: Any) -> Ends:
    with tempfile.TemporaryDirectory(prefix="aioipc-") as directory:
        return await _served(f"fifo:{directory}/fifo", options)


async def _served(address: str, options: dict[str, Any]) -> Ends:
    async with aioipc.listen(address, **options) as listener:
        left = await aioipc.connect(listener.address, **options)
        return left, await listener.accept()


_OPENERS: dict[str, Callable[..., Awaitable[Ends]]] = {
    "memory": _memory,
    "shm": _shm,
    "shm-listen": _shm_listen,
    "unix": _unix,
    "packets": _packets,
    "pipe": _pipe,
    "fd": _fd,
    "fd-pipes": _fd_pipes,
    "unix-listen": _unix_listen,
    "memory-listen": _memory_listen,
    "packets-listen": _packets_listen,
    "tcp": _tcp,
    "tls": _tls,
    "fifo": _fifo,
}

DUPLEX = tuple(kind for kind in _OPENERS if kind != "fifo")
"""The transports with both directions."""

STREAMS = tuple(kind for kind in DUPLEX if not kind.startswith(("shm", "packets")))
"""Those over bytes; shared memory and sockets of packets carry whole messages."""

FRAMED = [
    (kind, framing)
    for kind in DUPLEX
    for framing in ("length", "lines")
    if framing == "length" or kind in STREAMS
    if (kind, framing) != ("tls", "lines")  # the same two rooms as with tcp, and a slow one
]
"""The first with a framing of our own and with one for bytes."""

EVERY = tuple(_OPENERS)
"""All of them; on a FIFO the left end only sends and the right end only receives."""

KERNEL = ("unix", "packets", "pipe", "tcp")
"""One for each way in which the kernel moves the bytes."""


async def opened(kind: str, **options: Any) -> Ends:
    """Make the ends over one transport, for the caller to close."""
    return await _OPENERS[kind](**options)


def link_over(kind: str) -> Link:
    """Make the ends over one transport; both are closed, abruptly if need be, on leaving."""

    @contextlib.asynccontextmanager
    async def link(**options: Any) -> AsyncIterator[Ends]:
        ends = await opened(kind, **options)
        try:
            yield ends
        finally:
            for end in ends:
                end.abort()

    return link


def fill(channel: Channel[Any], sizes: Sequence[int] = (4000, 8, 0)) -> list[bytes]:
    """Send until there is no room, by default not even for nothing."""
    sent = []
    for size in sizes:
        for number in itertools.count():
            message = (b"%*d" % (size, number))[:size]
            try:
                channel.send_nowait(message)
            except WouldBlock:
                break
            sent.append(message)
    return sent


async def until(holds: Callable[[], object]) -> None:
    """Let the loop turn until something holds that nothing tells of."""
    while not holds():  # noqa: ASYNC110
        await asyncio.sleep(0)


async def steps(count: int) -> None:
    """Let the loop turn."""
    for _ in range(count):
        await asyncio.sleep(0)


async def outcome(operation: Coroutine[Any, Any, Any]) -> BaseException | None:
    """What awaiting it raised, if anything."""
    try:
        await operation
    except Exception as error:
        return error
    return None
