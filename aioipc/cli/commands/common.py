"""What several commands share: options, and the end of their help."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from aioipc import codecs
from aioipc.address import Address
from aioipc.cli.problems import UsageProblem
from aioipc.wire.framing import FRAMERS

__all__ = [
    "ADDRESSES",
    "STATUSES",
    "address_of",
    "codec_option",
    "complete",
    "json_option",
    "notation_options",
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


def complete(words: Iterable[str]) -> Callable[..., list[str]]:
    """What completes a word in a shell to one of these."""
    known = tuple(words)

    def complete(_context: object, _parameter: object, begun: str) -> list[str]:
        return [word for word in known if word.startswith(begun)]

    return complete


codec_option = click.option(
    "--codec",
    metavar="NAME",
    shell_complete=complete(codecs.BUILT_IN),
    help="msgpack, json, text, raw or pickle, as the peer does. Default: msgpack, as "
    "in Python; text with the framings lines and headers, raw with none.",
)
framing_option = click.option(
    "--framing",
    metavar="NAME",
    shell_complete=complete(("length", *FRAMERS)),
    help="length (the default) between programs that use aioipc; lines, headers or "
    "none to talk to others.",
)
json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Messages are written as JSON, here: objects, numbers, quoted text.",
)


def notation_options(command: F) -> F:
    """Add what listen and send have in common."""
    return codec_option(framing_option(json_option(command)))


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
