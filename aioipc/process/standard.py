"""The standard streams of a child, from the side of its parent."""

from __future__ import annotations

import contextlib

from aioipc.abc import Capability
from aioipc.kernel.descriptors import open_null
from aioipc.kernel.owned import OwnedFd, pipe_from_child, pipe_to_child
from aioipc.limits import Limits
from aioipc.process.output import Lines, to_stderr
from aioipc.process.setup import Setup
from aioipc.stream import ByteStream
from aioipc.transports._stream import descriptor_stream

__all__ = ["StandardStreams", "stream_from", "stream_to"]

_ONE_WAY = Capability.STREAM | Capability.BACKPRESSURE


def stream_from(pipe: OwnedFd, address: str) -> ByteStream:
    """What comes out of a pipe, whose end it takes over."""
    fd = pipe.detach()
    return ByteStream(descriptor_stream(fd, -1, address=address, capabilities=_ONE_WAY), Limits())


def stream_to(pipe: OwnedFd, address: str) -> ByteStream:
    """What goes into a pipe, whose end it takes over."""
    fd = pipe.detach()
    return ByteStream(descriptor_stream(-1, fd, address=address, capabilities=_ONE_WAY), Limits())


class StandardStreams:
    """What a `Setup` wants of the three, in two steps: before the child starts, and after.

    Attributes:
        fds: What becomes 0, 1 and 2 of the child; None hands down our own.
        stdin: Our end, once it has started, where a pipe was wanted.
        stdout: The same.
        stderr: The same.
    """

    def __init__(self, setup: Setup) -> None:
        """Open what is needed.

        Raises:
            OSError: There are no descriptors left.
        """
        self.stdin: ByteStream | None = None
        self.stdout: ByteStream | None = None
        self.stderr: ByteStream | None = None
        self._setup = setup
        self._child_ends = contextlib.ExitStack()
        self._our_ends: dict[str, OwnedFd] = {}
        self._lines: dict[str, Lines] = {}
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            self.fds = (self._open("stdin"), self._open("stdout"), self._open("stderr"))
            undo.pop_all()

    def _open(self, which: str) -> int | None:
        wanted = getattr(self._setup, which)
        if wanted == "inherit":
            return None
        if isinstance(wanted, int):
            return wanted
        if wanted == "null":
            return self._child_ends.enter_context(open_null()).fileno()
        ours, theirs = pipe_to_child() if which == "stdin" else pipe_from_child()
        self._our_ends[which] = ours
        return self._child_ends.enter_context(theirs).fileno()

    def started(self, name: str, pid: int) -> None:
        """The child has its ends: begin to read what is to be logged."""
        self._child_ends.close()
        ends, self._our_ends = self._our_ends, {}
        for which, end in ends.items():
            wanted = getattr(self._setup, which)
            address = f"{which} of {name} {pid}"
            if wanted == "log":
                self._lines[which] = Lines(end, to_stderr(f"[{name} {pid}] "))
            elif callable(wanted):
                self._lines[which] = Lines(end, wanted)
            elif which == "stdin":
                self.stdin = stream_to(end, address)
            else:
                setattr(self, which, stream_from(end, address))

    @property
    def last_lines(self) -> tuple[str, ...]:
        """The last lines of the standard error, where they were logged."""
        lines = self._lines.get("stderr")
        return lines.last if lines is not None else ()

    def finish(self) -> None:
        """The child has ended: take what it wrote last."""
        for lines in self._lines.values():
            lines.finish()

    def close(self) -> None:
        """Close everything at once. Idempotent."""
        self._child_ends.close()
        for end in self._our_ends.values():
            end.close()
        for lines in self._lines.values():
            lines.close()
        for stream in self._streams():
            stream.abort()

    async def aclose(self) -> None:
        """Close everything, delivering what was sent. Idempotent.

        Cancellation:
            Closes at once.
        """
        try:
            for stream in self._streams():
                await stream.aclose()
        finally:
            self.close()

    def _streams(self) -> list[ByteStream]:
        return [stream for stream in (self.stdin, self.stdout, self.stderr) if stream is not None]
