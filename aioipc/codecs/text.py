"""The ``text`` codec: a message is a str, as UTF-8."""

from __future__ import annotations

from aioipc.abc import Buffer

__all__ = ["decode", "encode", "format", "name"]

name = "text"
format = None  # noqa: A001 - the contract's word
encode = str.encode


def decode(buffer: Buffer, /) -> str:
    """Return the text in ``buffer``.

    Raises:
        UnicodeDecodeError: It is not UTF-8.
    """
    return str(buffer, "utf-8")
