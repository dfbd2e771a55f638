"""wrap: channels and byte streams over what somebody else opened."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, TypeVar, overload

from aioipc._opening import ChannelOptions, check_limits
from aioipc.abc import Codec
from aioipc.channel import Channel
from aioipc.connect import greet
from aioipc.limits import Limits
from aioipc.stream import ByteStream
from aioipc.transports._foreign import Foreign, foreign_transport, is_connection

__all__ = ["wrap", "wrap_stream"]

T = TypeVar("T")


@overload
def wrap(
    obj: Foreign,
    *,
    codec: Codec[T],
    framing: str | None = None,
    limits: Limits | None = None,
    polling: str = "adaptive",
) -> Channel[T]: ...
@overload
def wrap(
    obj: Foreign,
    *,
    codec: str | None = None,
    framing: str | None = None,
    limits: Limits | None = None,
    polling: str = "adaptive",
) -> Channel[Any]: ...
def wrap(
    obj: Foreign,
    *,
    codec: str | Codec[Any] | None = None,
    framing: str | None = None,
    limits: Limits | None = None,
    polling: str = "adaptive",
) -> Channel[Any]:
    """A channel over a connection that somebody else opened. It belongs to the channel then.

    Who is at the other end is not checked: that was up to who opened it.

    Args:
        obj: A connected socket of streams or packets; a descriptor; a pair of descriptors, to read
            and to write; a `multiprocessing.connection.Connection`; or a pair of an
            `asyncio.StreamReader` and its `asyncio.StreamWriter`, together with what was read
            ahead.
        codec: As for `aioipc.connect`. Over a Connection "pickle" by default, which is what its
            ``send`` and ``recv`` speak; "raw" is for ``send_bytes`` and ``recv_bytes``.
        framing: As for `aioipc.connect`. Over a Connection "multiprocessing" by default.
        limits: As for `aioipc.connect`.
        polling: As for `aioipc.connect`.

    Raises:
        TypeError: It is nothing of the kind.
        AddressError: The socket is not connected, or a descriptor is not open. ``obj`` is as it
            was.
        ValueError: An option is unknown.
    """
    if is_connection(obj):
        codec = codec or "pickle"
        framing = framing or "multiprocessing"
    options = ChannelOptions.check(codec or "msgpack", framing, limits, polling)
    transport = foreign_transport(obj)
    try:
        channel = options.open_channel(options.open_port(transport))
    except BaseException:
        transport.close()
        raise
    with contextlib.suppress(RuntimeError):  # else the HELLO leaves with the first message
        asyncio.get_running_loop()
        greet(channel)
    return channel


def wrap_stream(obj: Foreign, *, limits: Limits | None = None) -> ByteStream:
    """A byte stream over a connection that somebody else opened. It belongs to the stream then.

    Args:
        obj: As for `wrap`. Of a Connection these are the bytes below its messages.
        limits: Sizes and deadlines.

    Raises:
        TypeError: It, or ``limits``, is nothing of the kind.
        AddressError: It carries packets, is not connected or not open. ``obj`` is as it was.
    """
    known = check_limits(limits)
    return ByteStream(foreign_transport(obj, only_bytes=True), known)
