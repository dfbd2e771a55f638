"""What the workers of a pool do: serve an object to the one process at the other end."""

from __future__ import annotations

import inspect
from typing import Any

from aioipc.channel import Channel
from aioipc.process.batch import EACH, serve_each
from aioipc.process.target import Target
from aioipc.rpc import Connection
from aioipc.rpc.parts import handlers_of

__all__ = ["serve"]


async def serve(
    channel: Channel[Any], maker: Target, args: tuple[Any, ...], interface: type, at_once: int
) -> None:
    """In a worker: make the object, and let its methods be called until the parent leaves.

    Args:
        channel: To the parent.
        maker: A class, or a function that gives the object, ``async`` or not.
        args: For that.
        interface: What can be called.
        at_once: How many calls may run.
    """
    service = maker.load()(*args)
    if inspect.isawaitable(service):
        service = await service
    handlers = dict(handlers_of(service, interface))
    handlers[EACH.name] = EACH, serve_each(channel, handlers)
    async with Connection(channel, connected=False, handlers=handlers) as connection:
        connection.serve_in_order(at_once)
        await connection.wait_ended()
