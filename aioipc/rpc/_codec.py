"""The codec of a channel that carries calls: msgpack, straight into the messages."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import msgspec

from aioipc.codecs import msgpack
from aioipc.kernel.owned import OwnedFd
from aioipc.native._plain import Unreadable, read_head
from aioipc.rpc._packing import Enclosed
from aioipc.wire.rpc import Call, Code, Item, Message, Raise, Return

__all__ = ["attach", "decode", "decoder", "encode", "format", "name", "salvage"]

name = "rpc"
format = "msgpack-any-key"  # noqa: A001 - the contract's word
encode = msgpack.encode


@functools.lru_cache(maxsize=4096)
def decoder(type_: Any) -> Callable[[Any], Any]:
    """Decodes msgpack into ``type_``, and checks that it is that."""
    return msgspec.msgpack.Decoder(type_, ext_hook=msgpack.refuse_ext).decode


decode: Callable[[Any], Message] = decoder(Message)


def salvage(message: bytes, error: Exception) -> Message:
    """What a message is whose value is over the limits: then no more fails than what that is for.

    Raises:
        Exception: The given one, where nothing can be told from how the message begins.
    """
    match read_head(message):
        case Call.__struct_config__.tag, number, str(method):
            return Call(number, method, Unreadable(error))
        case Return.__struct_config__.tag, number, _:
            return Return(number, Unreadable(error))
        case Item.__struct_config__.tag, number, _:
            return Item(number, Unreadable(error))
        case Raise.__struct_config__.tag, number, _:
            return Raise(number, Code.RAISED, message=f"what it raised is not taken here: {error}")
    raise error


def attach(message: Message, fds: list[int]) -> Enclosed:
    """What a message is that came with descriptors."""
    return Enclosed(message, [OwnedFd(fd) for fd in fds])
