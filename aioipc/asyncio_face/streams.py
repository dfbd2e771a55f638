"""open_connection and start_server: asyncio's StreamReader and StreamWriter at any address."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from aioipc._bytes import Place
from aioipc._opening import Opening
from aioipc.abc import Allow
from aioipc.address import Address
from aioipc.asyncio_face.connecting import create_server, open_at
from aioipc.asyncio_face.server import Server
from aioipc.errors import IPCError
from aioipc.limits import Limits

__all__ = ["open_connection", "start_server"]

LINE_BYTES = 64 * 1024
"""How much a reader buffers before it holds the peer back, and how long a line may be."""

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connected = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None]


def open_connection(
    address: str | Address,
    *,
    limit: int = LINE_BYTES,
    limits: Limits | None = None,
    allow: Allow | None = None,
) -> Opening[Streams]:
    """`asyncio.open_connection` to any address that carries bytes.

    Await it, or enter it with ``async with``, which closes the writer in the end and waits until
    what was written has left; cancelled meanwhile, it cuts the connection off.

    Args:
        address: Where to; see docs/addresses.md. On a FIFO nothing can be read.
        limit: Bytes that the reader buffers before it holds the peer back.
        limits: Sizes and deadlines.
        allow: Decides by the server's credentials whether to talk to it. By default servers
            of the same user and of root are trusted.

    Returns:
        An `asyncio.StreamReader` and an `asyncio.StreamWriter`.

    Raises:
        AddressError: The address is wrong, or carries no bytes.
        ConnectError: Nobody listens there, or not within ``limits.connect_s``.
        AccessDenied: The path or the server's user is not trusted.

    Cancellation:
        Undoes: nothing stays open.
    """
    place = Place.find(address, able_to="connect", limits=limits, allow=allow)

    async def open_() -> Streams:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=limit, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport, _ = await open_at(place, lambda: protocol)
        if not transport.readable:
            reader.feed_eof()  # who reads what cannot be read must not wait for ever
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)

    return Opening(open_, _close)


def start_server(
    client_connected_cb: Connected,
    address: str | Address,
    *,
    limit: int = LINE_BYTES,
    limits: Limits | None = None,
    allow: Allow | None = None,
    start_serving: bool = True,
) -> Opening[Server]:
    """`asyncio.start_server` at any address that can be listened on.

    Await it, or enter it with ``async with``, which closes the server and its connections in
    the end.

    Args:
        client_connected_cb: Called with a reader and a writer for each peer; where it is a
            coroutine function, asyncio runs it as a task.
        address: Where; see docs/addresses.md.
        limit: Bytes that a reader buffers before it holds its peer back.
        limits: Sizes and deadlines.
        allow: Decides by a peer's credentials whether it may connect. By default the same user.
        start_serving: Whether peers are taken in at once.

    Raises:
        AddressError: The address is wrong, or cannot be listened on.
        AccessDenied: The directory is not to be trusted.
        ResourceExhausted: The address is in use.

    Cancellation:
        Undoes: nothing stays open.
    """

    def protocol_factory() -> asyncio.StreamReaderProtocol:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=limit, loop=loop)
        return asyncio.StreamReaderProtocol(reader, client_connected_cb, loop=loop)

    return create_server(
        protocol_factory, address, limits=limits, allow=allow, start_serving=start_serving
    )


async def _close(streams: Streams) -> None:
    _, writer = streams
    writer.close()
    try:
        # The exception that ended it was the reader's to raise.
        with contextlib.suppress(OSError, IPCError):
            await writer.wait_closed()
    except asyncio.CancelledError:
        writer.transport.abort()
        raise
