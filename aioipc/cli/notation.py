"""How a message looks in a shell: a line, and the object that it stands for."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from aioipc import codecs
from aioipc.cli.problems import MessageError, UsageProblem

__all__ = ["Notation"]

_CODECS = {"length": "msgpack", "lines": "text", "headers": "text", "none": "raw"}
"""The codec that goes without saying for each framing."""

_CONTROL = re.compile(
    r"(?!\r\n)[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)
"""What can move the cursor or turn the text of a terminal; tab and newline may stay."""


@dataclass(frozen=True, slots=True)
class Notation:
    """What the options say about messages: see docs/cli.md.

    Attributes:
        codec: Name of the channel's codec.
        framing: Name of the channel's framing.
        as_json: Whether messages are written as JSON, whatever the codec.
    """

    codec: str
    framing: str
    as_json: bool
    _decode: Callable[[bytes], Any] = field(repr=False, compare=False)

    @classmethod
    def of(cls, codec: str | None, framing: str | None, *, as_json: bool) -> Notation:
        """Fill in what the user left out.

        Raises:
            UsageProblem: There is no such framing or codec.
        """
        framing = framing or "length"
        if framing not in _CODECS:
            raise UsageProblem(f"no framing is called {framing!r}; known are {', '.join(_CODECS)}")
        codec = codec or _CODECS[framing]
        try:
            codecs.get(codec)
        except (ValueError, TypeError) as error:
            raise UsageProblem(str(error)) from None
        # The json codec speaks JSON as it is; bytes are base64 in JSON, both ways.
        decoder = msgspec.json.Decoder(bytes) if codec == "raw" else msgspec.json.Decoder(Any)
        return cls(codec, framing, as_json or codec == "json", decoder.decode)

    @property
    def options(self) -> str:
        """What the other side has to be told on its command line, with a space in front."""
        framing = "" if self.framing == "length" else f" --framing {self.framing}"
        return framing + ("" if self.codec == _CODECS[self.framing] else f" --codec {self.codec}")

    @property
    def is_stream(self) -> bool:
        """Whether there are no messages, only bytes as they come."""
        return self.framing == "none"

    def parse(self, line: bytes) -> object:
        """The object that a line stands for.

        Raises:
            MessageError: The line is not in this notation.
        """
        if self.as_json:
            return self._parse_json(line)
        if self.codec == "raw":
            return line
        try:
            return line.decode()
        except UnicodeDecodeError:
            raise MessageError(
                f"message {_shown(line)} is not UTF-8; to send bytes as they are, say --codec raw"
            ) from None

    def _parse_json(self, line: bytes) -> object:
        try:
            return self._decode(line)
        except (ValueError, RecursionError) as error:
            raise MessageError(f"message {_shown(line)} is not JSON: {error}") from None

    def show(self, obj: object, *, to_terminal: bool = False) -> bytes:
        """The line, with its end, that stands for an object.

        Args:
            obj: What was received.
            to_terminal: Whether a person reads it: then what would control the terminal is
                shown instead of obeyed.
        """
        text = _as_json(obj) if self.as_json else _as_text(obj)
        if to_terminal:
            text = _harmless(text)
        return text if self.is_stream else text + b"\n"

    def labelled(self, label: str, obj: object) -> bytes:
        """The line, without its end, that stands for an object behind a word about it."""
        return label.encode() + b" " + self.show(obj).removesuffix(b"\n")


def _as_text(obj: object) -> bytes:
    if isinstance(obj, (bytes, bytearray)):
        return bytes(obj)
    if isinstance(obj, str):
        return obj.encode("utf-8", "backslashreplace")
    return _as_json(obj)


def _as_json(obj: object) -> bytes:
    try:
        return msgspec.json.encode(obj)
    except (TypeError, ValueError, RecursionError):  # what JSON has no word for
        return msgspec.json.encode(repr(obj))


def _harmless(data: bytes) -> bytes:
    text = data.decode("utf-8", "backslashreplace")
    return _CONTROL.sub(_escaped, text).encode()


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def _shown(line: bytes) -> str:
    text = repr(line[:40])[1:]
    return text if len(line) <= 40 else f"{text}..."
