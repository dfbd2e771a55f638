"""Real processes for tests: started, talked to, killed and reaped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

PATIENCE_S = 30.0
"""How long a test waits for a peer before it calls it stuck; never a pause."""


def is_gone(pid: int) -> bool:
    """Whether there is not even a zombie."""
    return not Path(f"/proc/{pid}").exists()


def has_ended(pid: int) -> bool:
    """Whether it runs no more; whoever is to reap it may still have to."""
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


class Peer:
    """A Python process of a test, with pipes to its stdin and from its stdout.

    Its stderr is the test's own, so a traceback shows up in the report.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        pass_fds: Sequence[int] = (),
        env: Mapping[str, str] | None = None,
        within: Sequence[str] = (),
        **options: Any,
    ) -> None:
        """Start it; ``within`` is the command that runs it, as ``nice`` does."""
        options.setdefault("stdin", subprocess.PIPE)
        options.setdefault("stdout", subprocess.PIPE)
        self.process: subprocess.Popen[bytes] = subprocess.Popen(
            [*within, sys.executable, *command],
            pass_fds=pass_fds,
            env={**os.environ, **(env or {})},
            bufsize=0,
            **options,
        )
        self._read = b""

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def status(self) -> int | None:
        """The exit code, or minus the signal; None while it runs."""
        return self.process.poll()

    def line(self) -> str:
        """Wait for the next line of the peer's stdout; it comes without the newline.

        Raises:
            EOFError: The peer closed its stdout before the line was whole.
            TimeoutError: Nothing came for `PATIENCE_S`.
        """
        deadline = time.monotonic() + PATIENCE_S
        while b"\n" not in self._read:
            self._read += self._more(deadline)
        line, _, self._read = self._read.partition(b"\n")
        return line.decode()

    async def next_line(self) -> str:
        """`line`, for a test whose own loop has to run meanwhile."""
        return await asyncio.to_thread(self.line)

    def rest(self, patience_s: float = PATIENCE_S) -> str:
        """Wait for the end of the peer's stdout and return all that was not read yet.

        Raises:
            TimeoutError: It did not end within ``patience_s``.
        """
        deadline = time.monotonic() + patience_s
        with contextlib.suppress(EOFError):
            while True:
                self._read += self._more(deadline)
        rest, self._read = self._read, b""
        return rest.decode()

    def tell(self, text: str = "") -> None:
        """Write one line to the peer's stdin."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{text}\n".encode())

    def close_stdin(self) -> None:
        """End the peer's stdin. Idempotent."""
        if self.process.stdin is not None:
            self.process.stdin.close()

    def signal(self, number: int) -> None:
        """Send a signal; a peer that has ended stays ended."""
        self.process.send_signal(number)

    def kill(self) -> int:
        """Kill the peer with SIGKILL, reap it and return its status."""
        self.signal(signal.SIGKILL)
        return self.wait()

    def wait(self) -> int:
        """Wait for the end of the peer and return its status."""
        return self.process.wait(PATIENCE_S)

    async def ended(self) -> int:
        """`wait`, for a test whose own loop has to run meanwhile."""
        return await asyncio.to_thread(self.wait)

    def close(self) -> None:
        """Kill the peer if it still runs, reap it and close the pipes. Idempotent."""
        if self.status is None:
            self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _more(self, deadline: float) -> bytes:
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError(f"peer {self.pid} said nothing in time")
        if not (data := os.read(fd, 65536)):
            raise EOFError(f"peer {self.pid} closed its stdout, status {self.status}")
        return data


class Peers:
    """The processes of one test."""

    def __init__(self) -> None:
        self._peers: list[Peer] = []

    def script(self, code: str, *arguments: object, **options: Any) -> Peer:
        """Start a peer that runs a string of code; see `Peer` for the options."""
        return self._start(["-c", textwrap.dedent(code), *map(str, arguments)], options)

    def module(self, name: str, *arguments: object, **options: Any) -> Peer:
        """Start a peer that runs a module, such as ``"tests.peers.echo"`` or ``"aioipc"``."""
        return self._start(["-m", name, *map(str, arguments)], options)

    def file(self, path: os.PathLike[str], *arguments: object, **options: Any) -> Peer:
        """Start a peer that runs a file, as a user would."""
        return self._start([os.fspath(path), *map(str, arguments)], options)

    def close(self) -> None:
        """End and reap every peer."""
        for peer in self._peers:
            peer.close()

    def _start(self, command: list[str], options: dict[str, Any]) -> Peer:
        peer = Peer(command, **options)
        self._peers.append(peer)
        return peer


def switches(pid: int) -> int:
    """How often a process was switched to, in all of its threads: proc_pid_status(5)."""
    count = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        status = (task / "status").read_text()
        count += sum(int(n) for n in re.findall(r"voluntary_ctxt_switches:\s+(\d+)", status))
    return count


async def come_to_rest(*peers: Peer) -> None:
    """Wait until, for a while, none of them has run at all."""
    deadline = time.monotonic() + PATIENCE_S
    counts = None
    while counts != (counts := [switches(peer.pid) for peer in peers]):
        assert time.monotonic() < deadline, "they never come to rest"
        await asyncio.sleep(0.25)  # a while in which nothing happens is what is measured


def in_child(look: Callable[[], object]) -> int:
    """Fork, call ``look`` in the child, and return its exit status: 0 if nothing was raised."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            look()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)
