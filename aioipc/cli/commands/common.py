"""What several commands share: options, and the end of their help."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import click

from aioipc import codecs
from aioipc.address import Address
from aioipc.cli.notation import Notation
from aioipc.cli.problems import UsageProblem
from aioipc.wire.framing import FRAMERS

__all__ = [
    "ADDRESSES",
    "STATUSES",
    "Seconds",
    "address_of",
    "codec_option",
    "count_option",
    "json_option",
    "notation_options",
    "number_option",
    "once_option",
    "parsed",
    "seconds_option",
]

F = TypeVar("F", bound=Callable[..., Any])

ADDRESSES = """\b
An ADDRESS says how and where (docs/addresses.md):
  unix:name              a socket that only your programs reach
  unix:/path             a socket in the file system
  shm:name, shm:/path    shared memory, with programs that use aioipc
  tcp://127.0.0.1:4000   TCP, on this machine
  fifo:/path             one way: listen reads, send writes
  fd:3                   a descriptor that the shell opened
  exec:"sort -r"         a program and its standard input and output (send)
"""

STATUSES = """\b
Exit status:
    0  done
    1  nobody listens, the peer died or refused, the system said no
    2  the command is wrong: an option, the address, a message
  130  ended by Ctrl-C (128 + the number of the signal)
  141  nobody reads the standard output any more
"""

_NOT_IN_A_SHELL = {
    "memory": "it joins the tasks of one process; between processes take unix:name",
    "pipe": "it has no name; in a shell take fifo:/path, or fd:0 and fd:1",
}


def _complete(words: Iterable[str]) -> Callable[..., list[str]]:
    """What completes a word in a shell to one of these."""
    known = tuple(words)

    def complete(_context: object, _parameter: object, begun: str) -> list[str]:
        return [word for word in known if word.startswith(begun)]

    return complete


def codec_option_with(more: str = "") -> Callable[[F], F]:
    """The option ``--codec``, whose help says more."""
    return click.option(
        "--codec",
        metavar="NAME",
        shell_complete=_complete(codecs.BUILT_IN),
        help=f"msgpack (the default), json, text, raw or pickle, as the other side does.{more}",
    )


class Seconds(click.FloatRange):
    """A time within a range. NaN is none, and no comparison tells."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Take a time from the command line."""
        seconds = float(super().convert(value, param, ctx))
        if math.isnan(seconds):
            self.fail(f"{value!r} is no time", param, ctx)
        return seconds


def number_option(
    name: str, about: str, *, default: int | None = None, least: int = 1, most: int | None = None
) -> Callable[[F], F]:
    """An option that takes a whole number."""
    return click.option(
        name,
        type=click.IntRange(least, most),
        default=default,
        show_default=default is not None,
        metavar="N",
        help=about,
    )


def seconds_option(
    name: str,
    about: str,
    *,
    default: float | None = None,
    least: float = 0,
    short: str | None = None,
) -> Callable[[F], F]:
    """An option that takes a time in seconds."""
    return click.option(
        *([short] if short else []),
        name,
        type=Seconds(least),
        default=default,
        show_default=bool(default),
        metavar="SECONDS",
        help=about,
    )


codec_option = codec_option_with()
json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Messages are written as JSON, here: objects, numbers, quoted text.",
)
count_option = number_option("--count", "End after N messages.")
once_option = click.option("--once", is_flag=True, help="End after one message: --count 1.")


def notation_options(command: F) -> F:
    """Add what listen and send have in common."""
    codec = codec_option_with(" With the framings lines and headers text, with none raw.")
    framing = click.option(
        "--framing",
        metavar="NAME",
        shell_complete=_complete(("length", *FRAMERS)),
        help="length (the default) between programs that use aioipc; lines, headers or "
        "none to talk to others.",
    )
    return codec(framing(json_option(command)))


def parsed(texts: Sequence[str], notation: Notation) -> list[object] | None:
    """The messages that stand on the command line; None if there are none.

    Raises:
        MessageError: One is not in the notation.
    """
    return [notation.parse(os.fsencode(text)) for text in texts] or None


def address_of(text: str) -> Address:
    """The address that was given.

    Raises:
        AddressError: It is none.
        UsageProblem: It makes no sense in a shell.
    """
    address = Address.parse(text)
    if address.scheme in _NOT_IN_A_SHELL:
        raise UsageProblem(f"{address}: {_NOT_IN_A_SHELL[address.scheme]}")
    return address
