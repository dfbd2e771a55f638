"""create_connection and create_server: a protocol at any address."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from aioipc._bytes import Place
from aioipc._opening import Opening
from aioipc.abc import Allow
from aioipc.address import Address
from aioipc.asyncio_face.server import Server
from aioipc.asyncio_face.transport import Transport
from aioipc.limits import Limits

__all__ = ["close_transport", "create_connection", "create_server", "open_at"]

P = TypeVar("P", bound=asyncio.BaseProtocol)


def create_connection(
    protocol_factory: Callable[[], P],
    address: str | Address,
    *,
    limits: Limits | None = None,
    allow: Allow | None = None,
) -> Opening[tuple[Transport, P]]:
    """`loop.create_connection` to any address that carries bytes.

    Await it, or enter it with ``async with``, which closes the transport in the end. A FIFO is
    only written, and only read at the other end.

    Args:
        protocol_factory: Makes the protocol.
        address: Where to; see docs/addresses.md.
        limits: Sizes and deadlines.
        allow: Decides by the server's credentials whether to talk to it. By default servers
            of the same user and of root are trusted.

    Returns:
        The transport, a real `asyncio.Transport`, and the protocol.

    Raises:
        AddressError: The address is wrong, or carries no bytes.
        ConnectError: Nobody listens there, or not within ``limits.connect_s``.
        AccessDenied: The path or the server's user is not trusted.

    Cancellation:
        Undoes: nothing stays open.
    """
    place = Place.find(address, able_to="connect", limits=limits, allow=allow)

    async def open_() -> tuple[Transport, P]:
        return await open_at(place, protocol_factory)

    return Opening(open_, lambda opened: close_transport(opened[0]))


def create_server(
    protocol_factory: Callable[[], asyncio.BaseProtocol],
    address: str | Address,
    *,
    limits: Limits | None = None,
    allow: Allow | None = None,
    start_serving: bool = True,
) -> Opening[Server]:
    """`loop.create_server` at any address that can be listened on.

    Await it, or enter it with ``async with``, which closes the server and its connections in
    the end. ``async with`` on the server itself does what asyncio's does: it closes the server
    and waits for the connections to end.

    Args:
        protocol_factory: Makes the protocol for each peer.
        address: Where; see docs/addresses.md.
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
    place = Place.find(address, able_to="listen", limits=limits, allow=allow)

    async def open_() -> Server:
        loop = asyncio.get_running_loop()
        server = Server(loop, await place.listen(), protocol_factory, place)
        if start_serving:
            server.start()
        return server

    return Opening(open_)


async def open_at(place: Place, protocol_factory: Callable[[], P]) -> tuple[Transport, P]:
    """Connect, and wait until the protocol was told."""
    loop = asyncio.get_running_loop()
    stream = await place.connect()
    try:
        protocol = protocol_factory()
        waiter = loop.create_future()
        transport = Transport(loop, stream, protocol, waiter=waiter, limits=place.limits)
    except BaseException:
        stream.close()
        raise
    try:
        await waiter
    except BaseException:
        transport.close()
        raise
    return transport, protocol


async def close_transport(transport: Any) -> None:
    """Close a transport; its protocol is told soon."""
    transport.close()
    await asyncio.sleep(0)
