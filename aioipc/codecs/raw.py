"""The ``raw`` codec: a message is bytes, as they are."""

from __future__ import annotations

from aioipc.abc import Buffer

__all__ = ["decode", "encode", "format", "name"]

name = "raw"
format = None  # noqa: A001 - the contract's word
decode = bytes


def encode(obj: Buffer, /) -> Buffer:
    """Return ``obj``, which may be anything with the buffer interface.

    Raises:
        TypeError: It has none.
    """
    if type(obj) is not bytes:
        memoryview(obj).release()
    return obj
