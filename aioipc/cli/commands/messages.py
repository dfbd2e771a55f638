"""Messages through a channel."""

from __future__ import annotations

import shlex

import click

from aioipc.address import Address
from aioipc.cli.commands.common import (
    ADDRESSES,
    STATUSES,
    address_of,
    count_option,
    notation_options,
    once_option,
    parsed,
    seconds_option,
)
from aioipc.cli.listening import Listening, receive_messages
from aioipc.cli.notation import Notation
from aioipc.cli.problems import UsageProblem
from aioipc.cli.sending import Replies, Sending, send_messages
from aioipc.cli.session import run_session

__all__ = ["listen", "send"]


@click.command(epilog=f"{ADDRESSES}\n{STATUSES}")
@click.argument("address")
@click.option("--echo", is_flag=True, help="Send each message back as well.")
@count_option
@once_option
@notation_options
def listen(
    address: str,
    *,
    echo: bool,
    count: int | None,
    once: bool,
    codec: str | None,
    framing: str | None,
    as_json: bool,
) -> int:
    """Print what arrives at ADDRESS, one message a line.

    Text is printed as it is and other objects as JSON. Standard error says where it listens; an
    address such as unix: or tcp://127.0.0.1:0 is completed by the system.
    """
    wanted = Listening(
        address_of(address),
        Notation.of(codec, framing, as_json=as_json),
        echo=echo,
        count=1 if once else count,
    )
    return run_session(receive_messages(wanted), address)


@click.command(epilog=f"{ADDRESSES}\n{STATUSES}")
@click.argument("address")
@click.argument("message", nargs=-1)
@click.option("--wait-reply", is_flag=True, help="Print one reply for each message.")
@click.option(
    "--replies",
    metavar="N|all",
    help="Print N replies, or all until the peer ends (the default with exec:).",
)
@seconds_option("--wait-listener", "Keep trying for so long while nobody listens.", default=0)
@notation_options
def send(
    address: str,
    message: tuple[str, ...],
    *,
    wait_reply: bool,
    replies: str | None,
    wait_listener: float,
    codec: str | None,
    framing: str | None,
    as_json: bool,
) -> int:
    """Send each MESSAGE to ADDRESS, or each line of the standard input.

    Lines are sent as they come. It ends when the peer has read everything, or has been silent for
    a second; with --wait-reply or --replies when it has answered.
    """
    where = address_of(address)
    notation = Notation.of(codec, framing, as_json=as_json)
    wanted = Sending(
        where,
        notation,
        parsed(message, notation),
        _replies(where, wait_reply, replies),
        wait_listener,
    )
    remedy = f"aioipc listen {shlex.quote(address)}{notation.options}"
    return run_session(send_messages(wanted), address, remedy)


def _replies(address: Address, wait_reply: bool, replies: str | None) -> Replies | int:
    if wait_reply and replies is not None:
        raise UsageProblem("--wait-reply and --replies exclude each other")
    if wait_reply:
        return Replies.ONE_EACH
    if replies is None:
        return Replies.ALL if address.scheme == "exec" else Replies.NONE
    if replies == "all":
        return Replies.ALL
    if not replies.isdecimal():
        raise UsageProblem(f"--replies takes a number or 'all', not {replies!r}")
    return int(replies) or Replies.NONE
