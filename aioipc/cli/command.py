"""The commands and their options, as click understands them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click

from aioipc import codecs
from aioipc.address import Address
from aioipc.cli.listening import Listening, receive_messages
from aioipc.cli.locking import Locking, run_locked
from aioipc.cli.notation import Notation
from aioipc.cli.problems import OK, SIGNALLED, USAGE, MessageError, UsageProblem, tell
from aioipc.cli.sending import Replies, Sending, send_messages
from aioipc.cli.session import run_session
from aioipc.errors import AddressError
from aioipc.wire.framing import FRAMERS
from aioipc.wire.pubsub import WhenFull

__all__ = ["run"]

F = TypeVar("F", bound=Callable[..., Any])

_ADDRESSES = """\b
An ADDRESS says how and where (docs/addresses.md):
  unix:name              a socket that only your programs reach
  unix:/path             a socket in the file system
  shm:name, shm:/path    shared memory, with programs that use aioipc
  tcp://127.0.0.1:4000   TCP, on this machine
  fifo:/path             one way: listen reads, send writes
  fd:3                   a descriptor that the shell opened
  exec:"sort -r"         a program and its standard input and output (send)
"""

_STATUSES = """\b
Exit status:
    0  done
    1  nobody listens, the peer died or refused, the system said no
    2  the command is wrong: an option, the address, a message
  130  ended by Ctrl-C (128 + the number of the signal)
  141  nobody reads the standard output any more
"""

_COMPLETION = """\b
Completion, in ~/.bashrc or ~/.zshrc:
  eval "$(_AIOIPC_COMPLETE=bash_source aioipc)"
  eval "$(_AIOIPC_COMPLETE=zsh_source aioipc)"
"""

_NOT_IN_A_SHELL = {
    "memory": "it joins the tasks of one process; between processes take unix:name",
    "pipe": "it has no name; in a shell take fifo:/path, or fd:0 and fd:1",
}


def run(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status.

    Args:
        arguments: Without the name of the program; by default those of this process.
    """
    try:
        status = aioipc.main(arguments, prog_name="aioipc", standalone_mode=False)
    except click.UsageError as error:
        tell(_in_one_line(error))
        return USAGE
    except click.ClickException as error:
        tell(error.format_message())
        return error.exit_code
    except (AddressError, MessageError, UsageProblem) as error:
        tell(str(error))
        return USAGE
    except click.Abort:  # Ctrl-C before the command ran
        return SIGNALLED + signal.SIGINT
    return status if isinstance(status, int) else OK


def _in_one_line(error: click.UsageError) -> str:
    text = error.format_message().rstrip(".")
    command = "aioipc" if error.ctx is None else error.ctx.command_path
    return f"{text[:1].lower()}{text[1:]}; see: {command} --help"


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=f"{_STATUSES}\n{_COMPLETION}",
)
@click.version_option(package_name="aioipc", message="aioipc %(version)s")
@click.pass_context
def aioipc(context: click.Context) -> None:
    """Talk to other processes from a shell, and see how fast that is."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def _complete(words: Iterable[str]) -> Callable[..., list[str]]:
    known = tuple(words)

    def complete(_context: object, _parameter: object, begun: str) -> list[str]:
        return [word for word in known if word.startswith(begun)]

    return complete


_codec_option = click.option(
    "--codec",
    metavar="NAME",
    shell_complete=_complete(codecs.BUILT_IN),
    help="msgpack, json, text, raw or pickle, as the peer does. Default: msgpack, as "
    "in Python; text with the framings lines and headers, raw with none.",
)
_framing_option = click.option(
    "--framing",
    metavar="NAME",
    shell_complete=_complete(("length", *FRAMERS)),
    help="length (the default) between programs that use aioipc; lines, headers or "
    "none to talk to others.",
)
_json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Messages are written as JSON, here: objects, numbers, quoted text.",
)


def _notation_options(command: F) -> F:
    """Add what listen and send have in common."""
    return _codec_option(_framing_option(_json_option(command)))


@aioipc.command(epilog=f"{_ADDRESSES}\n{_STATUSES}")
@click.argument("address")
@click.option("--echo", is_flag=True, help="Send each message back as well.")
@click.option("--count", type=click.IntRange(1), metavar="N", help="End after N messages.")
@click.option("--once", is_flag=True, help="End after one message: --count 1.")
@_notation_options
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
        _address(address),
        Notation.of(codec, framing, as_json=as_json),
        echo=echo,
        count=1 if once else count,
    )
    return run_session(receive_messages(wanted), address)


@aioipc.command(epilog=f"{_ADDRESSES}\n{_STATUSES}")
@click.argument("address")
@click.argument("message", nargs=-1)
@click.option("--wait-reply", is_flag=True, help="Print one reply for each message.")
@click.option(
    "--replies",
    metavar="N|all",
    help="Print N replies, or all until the peer ends (the default with exec:).",
)
@click.option(
    "--wait-listener",
    type=click.FloatRange(0),
    default=0.0,
    metavar="SECONDS",
    help="Keep trying for so long while nobody listens.",
)
@_notation_options
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
    where = _address(address)
    notation = Notation.of(codec, framing, as_json=as_json)
    wanted = Sending(
        where,
        notation,
        [notation.parse(os.fsencode(text)) for text in message] or None,
        _replies(where, wait_reply, replies),
        wait_listener,
    )
    return run_session(send_messages(wanted), address, notation.options)


@aioipc.command(epilog=f"{_ADDRESSES}\n{_STATUSES}")
@click.argument("address")
@click.argument("method", required=False)
@click.argument("arguments", metavar="[NAME=VALUE]...", nargs=-1)
def call(address: str, method: str | None, arguments: tuple[str, ...]) -> int:
    """Call METHOD of the service at ADDRESS, or list what can be called there.

    A value is JSON, or text as it stands. The result is printed as JSON; the items of a stream are
    printed one a line, as they come.
    """
    from aioipc.cli.calling import Calling, call_method  # noqa: PLC0415 - only this needs rpc

    return run_session(call_method(Calling(_address(address), method, arguments)), address)


@aioipc.command(epilog=f"{_ADDRESSES}\n{_STATUSES}")
@click.argument("address")
@click.argument("service", metavar="MODULE:CLASS")
def serve(address: str, service: str) -> int:
    """Serve an object of MODULE:CLASS at ADDRESS: its public methods can be called.

    MODULE is looked for in the current directory as well. Ctrl-C lets the calls that run finish.
    """
    from aioipc.cli.calling import import_object, serve_forever  # noqa: PLC0415 - the same

    return run_session(serve_forever(_address(address), import_object(service)), address)


@aioipc.group()
def queue() -> None:
    """Put something into a queue, take something out, look at one, serve one.

    A queue is mq:/name (POSIX), sysv:KEY (System V), or where one is served, such as unix:jobs.
    """


def _queue_options(command: F) -> F:
    """Add what put and get have in common."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Messages are written as JSON, here."),
        click.option(
            "--codec",
            metavar="NAME",
            shell_complete=_complete(codecs.BUILT_IN),
            help="msgpack (the default), json, text, raw or pickle, as the others do.",
        ),
        click.option("--create", is_flag=True, help="Make the queue if it is not there."),
    ):
        command = option(command)
    return command


@queue.command(epilog=_STATUSES)
@click.argument("address")
@click.argument("message", nargs=-1)
@click.option("--priority", type=int, default=0, metavar="N", help="More urgent ones come first.")
@click.option(
    "--ttl",
    type=click.FloatRange(0.001),
    metavar="SECONDS",
    help="How long it may wait.",
)
@_queue_options
def put(
    address: str,
    message: tuple[str, ...],
    *,
    priority: int,
    ttl: float | None,
    create: bool,
    codec: str | None,
    as_json: bool,
) -> int:
    """Put each MESSAGE into the queue at ADDRESS, or each line of the standard input."""
    from aioipc.cli.queueing import Putting, put_jobs  # noqa: PLC0415 - only this needs queues

    notation = Notation.of(codec, None, as_json=as_json)
    messages = [notation.parse(os.fsencode(text)) for text in message] or None
    wanted = Putting(_address(address), notation, messages, priority, ttl, create)
    return run_session(put_jobs(wanted), address)


@queue.command(epilog=_STATUSES)
@click.argument("address")
@click.option("--count", type=click.IntRange(1), metavar="N", help="Take N messages, not one.")
@click.option("--all", "is_endless", is_flag=True, help="Take messages until the queue ends.")
@_queue_options
def get(
    address: str,
    *,
    count: int | None,
    is_endless: bool,
    create: bool,
    codec: str | None,
    as_json: bool,
) -> int:
    """Take a message from the queue at ADDRESS, waiting for one, and print it.

    A job of a served queue is acknowledged once it is printed.
    """
    from aioipc.cli.queueing import Getting, get_jobs  # noqa: PLC0415 - the same

    if is_endless and count is not None:
        raise UsageProblem("--count and --all exclude each other")
    notation = Notation.of(codec, None, as_json=as_json)
    wanted = Getting(_address(address), notation, None if is_endless else count or 1, create)
    return run_session(get_jobs(wanted), address)


@queue.command(epilog=_STATUSES)
@click.argument("address")
def stat(address: str) -> int:
    """Print how full the queue at ADDRESS is, as JSON."""
    from aioipc.cli.queueing import show_queue  # noqa: PLC0415 - the same

    return run_session(show_queue(_address(address)), address)


@queue.command("serve", epilog=_STATUSES)
@click.argument("address")
@click.option(
    "--journal",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Remember accepted jobs in FILE, for when this process is killed.",
)
@click.option("--fsync", is_flag=True, help="Accept a job when it is on the disk.")
@click.option("--max-jobs", type=click.IntRange(1), default=10_000, show_default=True)
@click.option("--max-attempts", type=click.IntRange(1), default=5, show_default=True)
@click.option("--lease", type=click.FloatRange(0.001), metavar="SECONDS", help="Of each job.")
def serve_queue(
    address: str,
    *,
    journal: Path | None,
    fsync: bool,
    max_jobs: int,
    max_attempts: int,
    lease: float | None,
) -> int:
    """Serve a work queue at ADDRESS, until Ctrl-C."""
    from aioipc.cli import queueing  # noqa: PLC0415 - the same
    from aioipc.queues import Policy  # noqa: PLC0415 - the same

    policy = Policy(max_jobs=max_jobs, max_attempts=max_attempts, lease_s=lease)
    wanted = queueing.Serving(_address(address), journal, fsync, policy)
    return run_session(queueing.serve_queue(wanted), address)


@aioipc.command(epilog=f"{_ADDRESSES}\n{_STATUSES}")
@click.argument("address")
@click.argument("topic")
@click.argument("value", nargs=-1)
@click.option(
    "--subscribers",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    metavar="N",
    help="Wait for N subscribers first.",
)
@click.option(
    "--retain",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="Give the last N values to who subscribes later.",
)
@_codec_option
@_json_option
def pub(
    address: str,
    topic: str,
    value: tuple[str, ...],
    *,
    subscribers: int,
    retain: int,
    codec: str | None,
    as_json: bool,
) -> int:
    """Publish each VALUE under TOPIC at ADDRESS, or each line of the standard input.

    Lines are published as they come. It ends when the subscribers have everything.
    """
    from aioipc.cli.publishing import (  # noqa: PLC0415 - only this needs pubsub
        Publishing,
        publish_values,
    )

    notation = Notation.of(codec, None, as_json=as_json)
    values = [notation.parse(os.fsencode(text)) for text in value] or None
    wanted = Publishing(_address(address), topic, notation, values, subscribers, retain)
    return run_session(publish_values(wanted), address)


@aioipc.command(epilog=f"{_ADDRESSES}\n{_STATUSES}")
@click.argument("address")
@click.argument("pattern", nargs=-1, required=True)
@click.option(
    "--when-full",
    type=click.Choice([policy.value for policy in WhenFull]),
    default=WhenFull.DROP_OLDEST.value,
    show_default=True,
    help="What happens to messages when whoever reads the output does not keep up.",
)
@click.option(
    "--queue",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    metavar="N",
    help="How many messages may wait.",
)
@click.option("--count", type=click.IntRange(1), metavar="N", help="End after N messages.")
@click.option(
    "--wait-publisher",
    type=click.FloatRange(0),
    default=0.0,
    metavar="SECONDS",
    help="Keep trying for so long while nobody publishes.",
)
@_codec_option
@_json_option
def sub(
    address: str,
    pattern: tuple[str, ...],
    *,
    when_full: str,
    queue: int,
    count: int | None,
    wait_publisher: float,
    codec: str | None,
    as_json: bool,
) -> int:
    """Print what is published at ADDRESS under topics that match a PATTERN, one message a line.

    A pattern is a topic, in which * stands for one level and > at the end for the rest: 'eur.*'.
    Each line is the topic and the value. Standard error tells how many messages were lost.
    """
    from aioipc.cli.subscribing import (  # noqa: PLC0415 - the same
        Subscribing,
        print_messages,
    )

    notation = Notation.of(codec, None, as_json=as_json)
    wanted = Subscribing(
        _address(address), pattern, notation, when_full, queue, count, wait_publisher
    )
    return run_session(print_messages(wanted), address)


def _address(text: str) -> Address:
    address = Address.parse(text)
    if address.scheme in _NOT_IN_A_SHELL:
        raise UsageProblem(f"{address}: {_NOT_IN_A_SHELL[address.scheme]}")
    return address


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


@aioipc.command(context_settings={"ignore_unknown_options": True})
@click.argument("name")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("-n", "--nonblock", is_flag=True, help="Do not wait: the same as --timeout 0.")
@click.option(
    "-w", "--timeout", type=click.FloatRange(0), metavar="SECONDS", help="Wait no longer than this."
)
@click.option(
    "-E",
    "--conflict-exit-code",
    type=click.IntRange(0, 255),
    default=1,
    show_default=True,
    metavar="N",
    help="The exit status if the lock was not to be had.",
)
def lock(
    name: str,
    command: tuple[str, ...],
    *,
    nonblock: bool,
    timeout: float | None,
    conflict_exit_code: int,
) -> int:
    """Run COMMAND while holding the lock NAME, as flock(1) does with files.

    It is the lock of aioipc.sync.Lock(NAME) in Python; a NAME with a slash is a path. The exit
    status is that of the command. Write -- before a command with options.
    """
    wanted = Locking(name, command, 0.0 if nonblock else timeout, conflict_exit_code)
    return run_session(run_locked(wanted))


@aioipc.command()
@click.option(
    "--seconds",
    type=click.FloatRange(0.01, 60),
    default=0.3,
    show_default=True,
    help="How long each measurement takes; there are three for each transport.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the results as one JSON object.")
def demo(seconds: float, as_json: bool) -> int:
    """Let two processes talk over every transport, check every message, and say how fast it was."""
    from aioipc.cli.demo import run_demo  # noqa: PLC0415 - rich takes as long to load as the rest

    return run_demo(seconds, as_json=as_json)


@aioipc.command("run", epilog=_STATUSES)
@click.argument("target", metavar="MODULE:FUNCTION")
@click.option(
    "--workers",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="How many processes.",
)
@click.option(
    "--grace",
    type=click.FloatRange(0),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How long each may take to end after it was told to, before it is killed.",
)
@click.option(
    "--restart",
    is_flag=True,
    help="Start those that die again, until one dies six times in a minute. SIGHUP replaces all.",
)
def run_command(target: str, workers: int, grace: float, restart: bool) -> int:
    """Run FUNCTION in N worker processes, each with a channel as its first argument.

    The module is looked for in the current directory, too. What a worker writes is printed with
    its name before each line, and so is what it sends, as JSON. SIGINT and SIGTERM end all of
    them; when one dies the others are ended, and the exit status is 1, unless --restart is given.
    """
    from aioipc.cli.running import Running, run_workers  # noqa: PLC0415 - brings subprocess

    return run_session(run_workers(Running(target, workers, grace, restart)))
