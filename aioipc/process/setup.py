"""What a process is started with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["Input", "Output", "Setup"]

Input = str | int
"""``"null"``, ``"pipe"``, ``"inherit"``, or a descriptor."""

Output = str | int | Callable[[str], object]
"""``"log"``, ``"pipe"``, ``"null"``, ``"inherit"``, a descriptor, or what takes each line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """How a process is started and ended, apart from its channel.

    Attributes:
        name: What it is called in logs and errors; by default as its function or program.
        stdin: "null" for an empty input, "pipe" for a stream at ``worker.stdin``, "inherit" for
            that of this process, or a descriptor.
        stdout: "log" to write its lines to the standard error of this process with its name
            and pid before each, "pipe" for a stream at ``worker.stdout``, "null" to drop what
            comes, "inherit", a descriptor, or a function that is called with each line.
        stderr: The same.
        env: Its environment; None hands down that of this process.
        pass_fds: Descriptors that it inherits under the same numbers. They stay yours to close.
        grace_s: How many seconds it has to end by itself once its channel is closed, and again
            between SIGTERM and SIGKILL.
    """

    name: str | None = None
    stdin: Input = "null"
    stdout: Output = "log"
    stderr: Output = "log"
    env: Mapping[str, str] | None = None
    pass_fds: tuple[int, ...] = ()
    grace_s: float = 5.0

    @property
    def what_needs_exec(self) -> str | None:
        """Why no server can fork a process like this; None if one can."""
        if self.env is not None:
            return "what has an environment of its own"
        return "what inherits descriptors by number" if self.pass_fds else None

    def __post_init__(self) -> None:
        """Refuse what makes no sense.

        Raises:
            ValueError: It does not.
        """
        _check("stdin", self.stdin, ("null", "pipe", "inherit"))
        _check("stdout", self.stdout, ("log", "pipe", "null", "inherit"))
        _check("stderr", self.stderr, ("log", "pipe", "null", "inherit"))
        if not self.grace_s >= 0:  # nor NaN
            raise ValueError(f"grace_s must be 0 or more, not {self.grace_s:g}")


def _check(stream: str, wanted: object, words: tuple[str, ...]) -> None:
    takes_lines = stream != "stdin"
    if wanted in words or isinstance(wanted, int) or (takes_lines and callable(wanted)):
        return
    others = "a descriptor or a function" if takes_lines else "or a descriptor"
    raise ValueError(f"{stream} must be one of {', '.join(words)}, {others}, not {wanted!r}")
