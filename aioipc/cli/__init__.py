"""The command line: ``aioipc demo``, ``aioipc listen`` and ``aioipc send``.

It needs the extra ``cli`` (click and rich); this module does not, so that it can say so.
"""

from __future__ import annotations

import signal
import sys

__all__ = ["main"]

_EXTRA = frozenset({"click", "rich"})


def main() -> int:
    """Run the command in ``sys.argv`` and return its exit status (docs/cli.md)."""
    try:
        return _run()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRA:
            raise
        install = "install it with: pip install 'aioipc[cli]'"
        print(f"aioipc: the command line needs {missing}; {install}", file=sys.stderr)
        return 1
    finally:
        # One more Ctrl-C now would end the interpreter in the middle of its own end.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _drop_unwritten()


def _drop_unwritten() -> None:
    """Let go of what could not be written, which was said already.

    The interpreter would try again at its end, complain, and change the exit status to 120.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            from aioipc.kernel.descriptors import replace_with_null  # noqa: PLC0415 - rare

            replace_with_null(stream.fileno())


def _run() -> int:
    from aioipc.cli.commands import run  # noqa: PLC0415 - an optional extra

    return run()
