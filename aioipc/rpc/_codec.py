"""The codec of a channel that carries calls: msgpack, straight into the messages."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import msgspec

from aioipc.codecs import msgpack
from aioipc.kernel.owned import OwnedFd
from aioipc.rpc._packing import Enclosed
from aioipc.wire.rpc import Message

__all__ = ["attach", "decode", "decoder", "encode", "format", "name"]

name = "rpc"
format = "msgpack-any-key"  # noqa: A001 - the contract's word
encode = msgpack.encode


@functools.lru_cache(maxsize=4096)
def decoder(type_: Any) -> Callable[[Any], Any]:
    """Decodes msgpack into ``type_``, and checks that it is that."""
    return msgspec.msgpack.Decoder(type_, ext_hook=msgpack.refuse_ext).decode


decode: Callable[[Any], Message] = decoder(Message)


def attach(message: Message, fds: list[int]) -> Enclosed:
    """What a message is that came with descriptors."""
    return Enclosed(message, [OwnedFd(fd) for fd in fds])
