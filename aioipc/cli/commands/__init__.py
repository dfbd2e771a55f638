"""The commands and their options, as click understands them."""

from __future__ import annotations

import signal

import click

from aioipc.cli.commands import (
    calls,
    demo,
    housekeeping,
    mailboxes,
    messages,
    processes,
    queues,
    topics,
    watching,
)
from aioipc.cli.commands.common import STATUSES
from aioipc.cli.problems import (
    BROKEN_PIPE,
    FAILED,
    OK,
    SIGNALLED,
    USAGE,
    MessageError,
    OutputFailed,
    UsageProblem,
    explain,
    status_of,
    tell,
)
from aioipc.errors import AddressError

__all__ = ["run"]

_COMPLETION = """\b
Completion, in ~/.bashrc or ~/.zshrc:
  eval "$(_AIOIPC_COMPLETE=bash_source aioipc)"
  eval "$(_AIOIPC_COMPLETE=zsh_source aioipc)"
"""


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
    except (OutputFailed, OSError) as error:
        if str(error):
            tell(explain(error))
        return status_of(error) or FAILED
    except SystemExit as leaving:  # of click: completions are written, or nobody reads it (EPIPE)
        return OK if leaving.code == OK else BROKEN_PIPE
    return status if isinstance(status, int) else OK


def _in_one_line(error: click.UsageError) -> str:
    text = error.format_message().rstrip(".")
    command = "aioipc" if error.ctx is None else error.ctx.command_path
    return f"{text[:1].lower()}{text[1:]}; see: {command} --help"


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=f"{STATUSES}\n{_COMPLETION}",
)
@click.version_option(package_name="aioipc", message="aioipc %(version)s")
@click.pass_context
def aioipc(context: click.Context) -> None:
    """Talk to other processes from a shell, and see how fast that is."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


for _command in (
    messages.listen,
    messages.send,
    calls.call,
    calls.serve,
    queues.queue,
    mailboxes.mailbox,
    topics.pub,
    topics.sub,
    processes.lock,
    processes.run,
    housekeeping.ls,
    housekeeping.clean,
    watching.top,
    demo.demo,
):
    aioipc.add_command(_command)
