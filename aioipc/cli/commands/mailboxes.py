"""Mailboxes: messages from process to process, by name."""

from __future__ import annotations

import os

import click

from aioipc.address import check_name
from aioipc.cli.commands.common import (
    STATUSES,
    codec_option,
    count_option,
    json_option,
    number_option,
    once_option,
    parsed,
)
from aioipc.cli.notation import Notation
from aioipc.cli.problems import UsageProblem
from aioipc.cli.session import run_session

__all__ = ["mailbox"]


@click.group()
def mailbox() -> None:
    """Send to a mailbox, or own one.

    A mailbox is a name of one process, to which all programs of the same user can write.
    """


@mailbox.command(epilog=STATUSES)
@click.argument("name")
@click.argument("message", nargs=-1)
@click.option("--ask", is_flag=True, help="Each message is a question: print its reply.")
@click.option(
    "--from", "sender", metavar="NAME", help="The own mailbox meanwhile; shell-PID by default."
)
@codec_option
@json_option
def send(
    name: str,
    message: tuple[str, ...],
    *,
    ask: bool,
    sender: str | None,
    codec: str | None,
    as_json: bool,
) -> int:
    """Send each MESSAGE to the mailbox NAME, or each line of the standard input.

    Lines are sent as they come, each when the one before lies in the mailbox, or was answered.
    """
    from aioipc.cli.mailing import Writing, write_letters  # noqa: PLC0415 - only this needs queues

    to = check_name(name, part="mailbox name")
    own = check_name(sender or f"shell-{os.getpid()}", part="mailbox name")
    notation = Notation.of(codec, None, as_json=as_json)
    wanted = Writing(to, own, notation, parsed(message, notation), ask)
    return run_session(
        write_letters(wanted), remedy=f"aioipc mailbox listen {to}{notation.options}"
    )


@mailbox.command(epilog=STATUSES)
@click.argument("name")
@count_option
@once_option
@number_option("--size", "How many messages may wait in it; then senders do.", default=128)
@click.option("--echo", is_flag=True, help="Answer each question with itself.")
@click.option(
    "--reply", is_flag=True, help="Answer each question with a line of the standard input."
)
@codec_option
@json_option
def listen(
    name: str,
    *,
    count: int | None,
    once: bool,
    size: int,
    echo: bool,
    reply: bool,
    codec: str | None,
    as_json: bool,
) -> int:
    """Own the mailbox NAME, and print what arrives there, one message a line.

    Each line is the name of the sender's mailbox, which was verified, and the message. With --json
    it is an object that has the credentials of the sending process as well.
    """
    from aioipc.cli.mailing import Owning, own_mailbox  # noqa: PLC0415 - the same

    if echo and reply:
        raise UsageProblem("--echo and --reply exclude each other")
    wanted = Owning(
        check_name(name, part="mailbox name"),
        Notation.of(codec, None, as_json=as_json),
        1 if once else count,
        size,
        echo,
        reply,
    )
    return run_session(own_mailbox(wanted))
