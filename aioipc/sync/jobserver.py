"""GNU make's jobserver, both sides: job slots that make and its relatives share."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from typing import Self

from aioipc.errors import AddressError, ClosedError, ConnectError, ForkError, WouldBlock
from aioipc.kernel.owned import outlive
from aioipc.kernel.tokens import TokenPipe
from aioipc.limits import check_count
from aioipc.sync._guard import Enterable, Guard, Holding, kernel_errors

__all__ = ["JobServer"]

_MOST_JOBS = 4096  # PIPE_BUF: so many tokens are written whole, and always fit
_AUTH = re.compile(r"--jobserver-(?:auth|fds)=(?:fifo:(?P<path>.+)|(?P<read>\d+),(?P<write>\d+))")


class JobServer(Enterable):
    """Job slots, shared with every ``make`` and every compiler below this process.

    A server is made with a number of jobs; its children get ``environment()`` and
    ``pass_fds=server.fds``. A program below some ``make -j`` is a client:
    ``JobServer.from_environment()``. Either way a process has one slot of its own, and takes
    the others as tokens from a pipe; ``async with server:`` takes one or the other.

    Tokens are bytes in a pipe, so one whose holder is killed is lost, as with make itself.
    Start each child while holding a slot: the child then uses that one as its own.

    Args:
        jobs: How many may run at the same time, 1 to 4,096, this process's own included.
        fifo: Where to make a FIFO, for make 4.4 or newer. By default a pipe is inherited, as
            every make understands.

    Raises:
        ValueError: ``jobs`` is out of range.
        FileExistsError: Something is at the path.
        ResourceExhausted: There are no descriptors left.
    """

    def __init__(self, jobs: int, *, fifo: str | os.PathLike[str] | None = None) -> None:
        jobs = check_count("jobs", jobs, 1, _MOST_JOBS)
        with kernel_errors("make a jobserver"):
            if fifo is None:
                pipe = TokenPipe.create(jobs - 1)
            else:
                pipe = TokenPipe.create_fifo(os.path.abspath(fifo), jobs - 1)
        self._start(pipe, jobs)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Be a client of the jobserver that ``MAKEFLAGS`` names.

        Raises:
            ConnectError: It names none, or its descriptors were not inherited: make hands
                them only to recipes that are marked with ``+`` or call ``$(MAKE)``.
        """
        found = None
        for word in _words(environment.get("MAKEFLAGS", "")):
            found = _AUTH.fullmatch(word) or found  # the last one counts, says make's manual
        if found is None:
            raise ConnectError("MAKEFLAGS names no jobserver; run this below make -j")
        try:
            if found["path"] is not None:
                pipe = TokenPipe.open_fifo(found["path"])
            else:
                pipe = TokenPipe.inherit(int(found["read"]), int(found["write"]))
        except OSError as error:
            raise ConnectError(
                f"{found[0]}: {error.strerror}; is the recipe marked with + ?"
            ) from error
        server = cls.__new__(cls)
        server._start(pipe, None)
        return server

    @property
    def jobs(self) -> int | None:
        """How many may run at the same time; None for a client, who is not told."""
        return self._jobs

    @property
    def fds(self) -> tuple[int, ...]:
        """What children inherit: for ``pass_fds``."""
        return tuple(end.fileno() for end in self._pipe.ends)

    @property
    def auth(self) -> str:
        """The option that tells make of this server: ``--jobserver-auth=...``.

        Raises:
            AddressError: This is a client.
        """
        if self._jobs is None:
            raise AddressError("a client's children get MAKEFLAGS as it got them")
        where = f"fifo:{self._pipe.path}" if self._pipe.path else ",".join(map(str, self.fds))
        return f"--jobserver-auth={where}"

    def environment(self, base: Mapping[str, str] = os.environ) -> dict[str, str]:
        """The environment for children: ``base`` with ``MAKEFLAGS`` exchanged."""
        return {**base, "MAKEFLAGS": f" -j{self._jobs} {self.auth}"}

    def tokens(self) -> int:
        """How many tokens are in the pipe, taken by nobody."""
        self._check()
        return self._pipe.count()

    async def acquire(self) -> Guard:
        """Wait for a slot and take it. A task may hold several.

        Raises:
            ClosedError: It was closed.
            ForkError: It belongs to the parent of this process.

        Cancellation:
            Safe: no slot was taken.
        """
        return await self._turns.here().take(self._attempt, self._pipe)

    def acquire_nowait(self) -> Guard:
        """Take a slot if one is free.

        Raises:
            WouldBlock: All are taken.
        """
        guard = self._attempt()
        if guard is None:
            raise WouldBlock("all job slots are taken")
        return guard

    def close(self) -> None:
        """Give back what is held, and close the pipe. Idempotent."""
        if self._unusable is None:
            self._unusable = ClosedError("this jobserver was closed")
            self._drop_all()
            self._turns.close()
            self._pipe.close()

    def abandon(self) -> None:
        """Belong to the parent, in a forked child."""
        super().abandon()
        self._pipe.abandon()
        self._unusable = ForkError("this jobserver belongs to the parent")

    def _start(self, pipe: TokenPipe, jobs: int | None) -> None:
        self._pipe = pipe
        self._jobs = jobs
        self._own_slot_free = True
        super().__init__("this jobserver")
        outlive(self, pipe)

    def _attempt(self) -> Guard | None:
        self._check()
        if self._own_slot_free:
            self._own_slot_free = False
            return self._keep(Guard(self._forget, _OwnSlot(self)))
        token = self._pipe.try_take()
        if token is None:
            return None
        return self._keep(Guard(self._forget, _Token(self._pipe, token)))

    def give_own_slot(self) -> None:
        """Take back the slot that needs no token, and let those who wait look for it."""
        self._own_slot_free = True
        self._turns.end()

    def __del__(self) -> None:
        super().__del__()
        if getattr(self, "_unusable", self) is None:
            self.close()

    def __repr__(self) -> str:
        return f"<JobServer jobs={self._jobs}>"


class _OwnSlot(Holding):
    __slots__ = ("_server",)

    def __init__(self, server: JobServer) -> None:
        self._server = server

    def close(self) -> None:
        self._server.give_own_slot()


class _Token(Holding):
    __slots__ = ("_pipe", "_token")

    def __init__(self, pipe: TokenPipe, token: bytes) -> None:
        self._pipe = pipe
        self._token = token

    def close(self) -> None:
        self._pipe.give(self._token)


def _words(flags: str) -> list[str]:
    try:
        return shlex.split(flags)
    except ValueError:  # a quote of a variable's value that make passes on
        return flags.split()
