"""The commands and their options, as click understands them."""

from __future__ import annotations

import importlib
import signal

import click

from aioipc.cli.commands.common import STATUSES
from aioipc.cli.problems import OK, SIGNALLED, USAGE, MessageError, UsageProblem, tell
from aioipc.errors import AddressError

__all__ = ["run"]

_MODULES = {
    "call": "calls",
    "clean": "housekeeping",
    "demo": "demo",
    "listen": "messages",
    "lock": "processes",
    "ls": "housekeeping",
    "mailbox": "mailboxes",
    "pub": "topics",
    "queue": "queues",
    "run": "processes",
    "send": "messages",
    "serve": "calls",
    "sub": "topics",
    "top": "watching",
}
"""Where each command is. Only the one that runs is loaded; the help loads all."""

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
    return status if isinstance(status, int) else OK


def _in_one_line(error: click.UsageError) -> str:
    text = error.format_message().rstrip(".")
    command = "aioipc" if error.ctx is None else error.ctx.command_path
    return f"{text[:1].lower()}{text[1:]}; see: {command} --help"


class _Commands(click.Group):
    """Loads each command when somebody asks for it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _MODULES:
            return None
        module = importlib.import_module(f"{__name__}.{_MODULES[cmd_name]}")
        command: click.Command = getattr(module, cmd_name)
        return command


@click.group(
    cls=_Commands,
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
