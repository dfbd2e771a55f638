"""The codec of a channel that carries calls: msgpack, straight into the messages."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import msgspec

from aioipc.codecs import msgpack
from aioipc.wire.rpc import Message

__all__ = ["decode", "decoder", "encode", "format", "name"]

name = "rpc"
format = "msgpack-any-key"  # noqa: A001 - the contract's word
encode = msgpack.encode


@functools.lru_cache(maxsize=4096)
def decoder(type_: Any) -> Callable[[Any], Any]:
    """Decodes msgpack into ``type_``, and checks that it is that."""
    return msgspec.msgpack.Decoder(type_, ext_hook=msgpack.refuse_ext).decode


decode: Callable[[Any], Message] = decoder(Message)
