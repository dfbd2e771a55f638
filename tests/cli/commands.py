"""The real command in processes of its own: with pipes, in a shell, in a terminal."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import NamedTuple

from tests.children import PATIENCE_S

PROGRAM = Path(sys.executable).with_name("aioipc")

TAKE_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Makes descriptor 0 the controlling terminal, whose Ctrl-C is a SIGINT for all of its group."""


def environment() -> dict[str, str]:
    """That of the test, and the command is in PATH and buffers what it writes, as usual."""
    own = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return {**own, "PATH": f"{PROGRAM.parent}:{os.environ['PATH']}"}


class Result(NamedTuple):
    """How a command ended, and what it wrote."""

    status: int
    out: bytes
    err: str


class Command:
    """``aioipc ...`` with pipes on all sides.

    Attributes:
        stdin: The way to its standard input.
        address: Where it listens, once it does.
    """

    def __init__(self, *arguments: str, env: dict[str, str] | None = None) -> None:
        self.process: subprocess.Popen[bytes] = subprocess.Popen(
            [PROGRAM, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env={**environment(), **(env or {})},
        )
        assert self.process.stdin
        assert self.process.stdout
        assert self.process.stderr
        self.stdin = self.process.stdin
        self.address = ""
        self._out = Lines(self.process.stdout.fileno())
        self._err = Lines(self.process.stderr.fileno())

    def listening(self) -> str:
        """Wait until it listens, and return the address."""
        while not (found := re.match(r"aioipc: listening on (.*)", self._err.line())):
            pass
        return found[1]

    def line(self) -> str:
        """The next line of its standard output."""
        return self._out.line()

    def take(self, size: int) -> bytes:
        """The next bytes of its standard output."""
        return self._out.take(size)

    def complaint(self) -> str:
        """The next line of its standard error."""
        return self._err.line()

    def tell(self, *lines: str) -> None:
        """Write lines to its standard input."""
        self.stdin.write("".join(f"{line}\n" for line in lines).encode())

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> Result:
        """End its standard input, and wait for its end."""
        self.stdin.close()
        out, err = self._out.rest(), self._err.rest()
        return Result(self.process.wait(PATIENCE_S), out, err.decode())

    async def ended(self) -> Result:
        """`end`, for a test whose own loop has to run meanwhile."""
        return await asyncio.to_thread(self.end)

    def close(self) -> None:
        """End it if it still runs, in a way that leaves no names, and release everything."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(PATIENCE_S)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


class Lines:
    """Lines from a descriptor, awaited with patience."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._read = b""

    def line(self) -> str:
        """The next line, without its end."""
        while b"\n" not in self._read:
            more = read_some(self._fd)
            assert more, f"ended inside of {self._read!r}"
            self._read += more
        line, _, self._read = self._read.partition(b"\n")
        return line.decode()

    def take(self, size: int) -> bytes:
        """As many bytes, or all if it ends before."""
        while len(self._read) < size and (more := read_some(self._fd)):
            self._read += more
        taken, self._read = self._read[:size], self._read[size:]
        return taken

    def rest(self) -> bytes:
        """Everything up to the end."""
        while more := read_some(self._fd):
            self._read += more
        rest, self._read = self._read, b""
        return rest


def read_some(fd: int, patience_s: float = PATIENCE_S) -> bytes:
    """What is there, as soon as something is; nothing at the end."""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    assert poller.poll(patience_s * 1000), f"nothing came for {patience_s:g} s"
    return os.read(fd, 65536)


class Terminal:
    """``aioipc ...`` at a terminal of 80 columns."""

    def __init__(self, *arguments: str) -> None:
        self._outer, inner = pty.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-c", TAKE_TERMINAL, PROGRAM, *arguments],
            stdin=inner,
            stdout=inner,
            stderr=inner,
            env={**environment(), "TERM": "xterm-256color"},
        )
        os.close(inner)
        self.shown = ""

    def wait_for(self, pattern: str) -> str:
        """Wait until the screen has shown ``pattern``; returns what that was."""
        deadline = time.monotonic() + PATIENCE_S
        while not (found := re.search(pattern, self.shown)):
            assert time.monotonic() < deadline, self.shown
            self.shown += read_some(self._outer).decode()
        return found[0]

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._outer, text.encode())

    def end(self) -> int:
        """Wait for the end, and return the status; `shown` has everything then."""
        with contextlib.suppress(OSError):  # EIO: nobody has the terminal open any more
            while more := read_some(self._outer):
                self.shown += more.decode()
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        """End it if it still runs, and release everything."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(PATIENCE_S)
        os.close(self._outer)


class Commands:
    """The commands of one test, which end with it."""

    def __init__(self) -> None:
        self._running: list[Command | Terminal] = []

    def start(self, *arguments: str, env: dict[str, str] | None = None) -> Command:
        """Start one with pipes."""
        command = Command(*arguments, env=env)
        self._running.append(command)
        return command

    def run(self, *arguments: str, stdin: bytes = b"") -> Result:
        """Run one to its end."""
        command = self.start(*arguments)
        with contextlib.suppress(BrokenPipeError):
            command.stdin.write(stdin)
        return command.end()

    def listen(self, *arguments: str, address: str = "unix:test") -> Command:
        """Start a listener, and wait until it listens."""
        command = self.start("listen", address, *arguments)
        command.address = command.listening()
        return command

    def terminal(self, *arguments: str) -> Terminal:
        """Start one at a terminal."""
        command = Terminal(*arguments)
        self._running.append(command)
        return command

    def shell(self, script: str, stdin: bytes = b"") -> Result:
        """Run a script of bash, which finds the command in PATH."""
        done = subprocess.run(
            ["bash", "-uc", script],
            input=stdin,
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
            env=environment(),
        )
        return Result(done.returncode, done.stdout, done.stderr.decode())

    def close(self) -> None:
        """End all that still run."""
        for command in self._running:
            command.close()
