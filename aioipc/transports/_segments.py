"""Memory that the two sides of a connection lend each other, for messages too large to copy.

Who sends makes it, sends its descriptor once, and from then on says by number where a message
lies. Who receives maps it once, and gives the number back through a pipe when nobody looks at the
message any more. A pipe, because what comes back must not have to wait behind messages that
nobody receives, and because its end is seen by who waits for that.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import stat
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal, Protocol

from aioipc.errors import IPCError, ProtocolError, ResourceExhausted, from_os_error
from aioipc.kernel.lending import Lender, Loan
from aioipc.kernel.memory import checked_size
from aioipc.kernel.owned import OwnedFd, abandon_in_child, owned_pipe
from aioipc.loop.fd import FdWatch
from aioipc.native._frames import SegmentLease
from aioipc.native._memory import Mapping
from aioipc.wire.shared import MOST_NUMBERS, Shared, What

__all__ = ["Segments"]


class _Telling(Protocol):
    def tell(self, told: bytes, /) -> bool: ...
    def try_flush(self) -> bool: ...


class Segments:
    """What one side of a connection has lent, and what it has been lent.

    Args:
        port: Sends what there is to say.
    """

    idle_s = 5.0
    """Memory that was not used for so long, or twice that, is given back to the kernel."""

    most_bytes = 64 * 1024 * 1024
    """So much may be on its way in a direction; of longer messages two."""

    def __init__(self, port: _Telling) -> None:
        self._port = port
        self._lender = Lender(self.most_bytes, always=2)
        self._known: dict[int, Loan] = {}
        """What the peer has mapped, as far as it was told."""
        self._sent: dict[int, memoryview] = {}
        """The messages that were not given back, oldest first."""
        self._returned: OwnedFd | None = None
        self._watch = FdWatch()
        self._timer: asyncio.TimerHandle | None = None
        self._borrower = _Borrower()
        abandon_in_child(self)

    # What leaves

    def lend(self, nbytes: int) -> Loan | Literal[False] | None:
        """Memory for a message.

        Returns:
            It; None if some has to come back first, False if there is none for other reasons.

        Raises:
            ProtocolError: The peer gave back what it does not have.
        """
        if not self._collect():
            return False
        try:
            return self._lender.lend(nbytes)
        except ResourceExhausted:
            return False

    def introductions(self, loan: Loan) -> Iterator[tuple[bytes, tuple[OwnedFd, ...]]]:
        """What has to be sent before a message in that memory: frames and their descriptors.

        Ask for the next one when the one before has left.
        """
        if self._returned is None:
            reader, writer = owned_pipe(os.O_NONBLOCK)
            with writer:
                yield Shared(What.PIPE).pack(), (writer,)
            self._returned = reader
        for number in self._stale():
            yield Shared(What.FORGET, number).pack(), ()
            del self._known[number]
        assert loan.number is not None
        if loan.number not in self._known:
            told = Shared(What.MEMORY, loan.number, len(loan.buffer))
            yield told.pack(), (loan.file,)
            self._known[loan.number] = loan
            loan.file.close()

    def message(self, loan: Loan, nbytes: int) -> bytes:
        """What to send for the message that begins that memory."""
        assert loan.number is not None
        return Shared(What.MESSAGE, loan.number, nbytes).pack()

    def sent(self, loan: Loan, nbytes: int) -> None:
        """That has left: the memory is the peer's for now."""
        assert loan.number is not None
        self._sent[loan.number] = loan.buffer[:nbytes]
        self._look_after()

    def when_returned(self, callback: Callable[[], object]) -> None:
        """Call ``callback`` once something may have come back, or never will."""
        assert self._returned is not None

        def readable() -> None:
            self._watch.unwatch_reading()
            self._look_after()
            callback()

        self._watch.watch_reading(self._returned.fileno(), readable)

    def unreturned(self) -> dict[bytes, memoryview]:
        """The messages that the peer did not give back, by what was sent for them."""
        with contextlib.suppress(ProtocolError):  # it is gone
            self._collect()
        return {
            Shared(What.MESSAGE, number, len(message)).pack(): message
            for number, message in self._sent.items()
        }

    def _collect(self) -> bool:
        """Take what came back; False if nothing will any more."""
        if self._returned is None:
            return True
        try:
            numbers = os.read(self._returned.fileno(), MOST_NUMBERS)
        except BlockingIOError:
            return True
        for number in numbers:
            if self._sent.pop(number, None) is None:
                raise ProtocolError(f"memory {number} was given back, which was not lent")
            self._lender.came_back(number)
        return bool(numbers)

    def _stale(self) -> list[int]:
        """What the peer need not keep."""
        return [number for number, loan in self._known.items() if not self._lender.has(loan)]

    # What is not used

    def _look_after(self) -> None:
        """Give back, after a while, what is not used; without a timer if all is in use."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self.idle_s, self._idle)

    def _idle(self) -> None:
        self._timer = None
        with contextlib.suppress(ProtocolError):  # the next message says it
            if not self._collect():
                return
        self._lender.trim()
        try:
            self._tell_stale()
        except IPCError:  # each send raises it
            return
        if self._lender.has_some_here or self._stale():
            self._look_after()
        elif self._sent and not self._watch.reading:
            self.when_returned(lambda: None)

    def _tell_stale(self) -> None:
        for number in self._stale():
            if self._port.tell(Shared(What.FORGET, number).pack()):
                del self._known[number]
        self._port.try_flush()

    # What comes

    def came(self, payload: bytes, fds: list[int]) -> SegmentLease | None:
        """Take in what the peer says.

        Args:
            payload: Of its frame.
            fds: The descriptors that came with it, which belong to this from now on.

        Returns:
            The message, if it is one.

        Raises:
            ProtocolError: It makes no sense, or is not to be trusted.
            ResourceExhausted: There is no room for it.
        """
        with contextlib.ExitStack() as undo:
            files = [undo.enter_context(OwnedFd(fd)) for fd in fds]
            told = Shared.parse(payload)
            if len(files) != told.fds:
                raise ProtocolError(
                    f"{len(files)} descriptors came with a SHARED frame, {told.fds} are due"
                )
            match told.what:
                case What.PIPE:
                    self._borrower.take_pipe(files[0])
                    undo.pop_all()
                case What.MEMORY:
                    self._borrower.take_memory(told.number, told.size, files[0])
                case What.FORGET:
                    self._borrower.forget(told.number)
                case What.MESSAGE:
                    return self._borrower.borrow(told.number, told.size)
        return None

    # The end

    def close(self) -> None:
        """Lend nothing any more, and give nothing back. What is looked at stays. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
        self._watch.close()
        if self._returned is not None:
            self._returned.close()
        self._lender.close()
        self._known.clear()
        self._sent.clear()
        self._borrower.close()

    def abandon(self) -> None:
        """Leave the loop to the parent process, in a forked child."""
        self._watch.abandon()


class _Borrower:
    """What the peer has lent."""

    def __init__(self) -> None:
        self._memory: dict[int, Mapping] = {}
        self._out: set[int] = set()
        self._pipe: OwnedFd | None = None
        self._thread = threading.get_ident()
        self._loop = asyncio.get_running_loop()

    def take_pipe(self, pipe: OwnedFd) -> None:
        """Give back there.

        Raises:
            ProtocolError: It is no end of a pipe to write to, or there was one already.
        """
        if self._pipe is not None:
            raise ProtocolError("the peer sent a second pipe to give memory back through")
        fd = pipe.fileno()
        if not stat.S_ISFIFO(os.fstat(fd).st_mode):
            raise ProtocolError("the peer sent a pipe to give memory back through that is none")
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_WRONLY:
            raise ProtocolError("the peer sent the wrong end of a pipe")
        os.set_blocking(fd, False)
        self._pipe = pipe

    def take_memory(self, number: int, size: int, file: OwnedFd) -> None:
        """Map memory, in the place of what had its number before.

        Raises:
            ProtocolError: It is not what `create_memory` makes, or the one before is in use.
            ResourceExhausted: There is no room for it.
        """
        self._check_here(number)
        try:
            if (actual := checked_size(file)) != size:
                raise ProtocolError(f"memory of {actual:,} bytes came, announced were {size:,}")
            self._memory[number] = Mapping(file.fileno(), size, writable=False)
        except OSError as error:
            raise from_os_error(error, f"map {size:,} bytes of shared memory") from error

    def forget(self, number: int) -> None:
        """Unmap memory.

        Raises:
            ProtocolError: There is none, or it is in use.
        """
        self._check_here(number)
        if self._memory.pop(number, None) is None:
            raise ProtocolError(f"memory {number} is to be forgotten, which never came")

    def borrow(self, number: int, size: int) -> SegmentLease:
        """A message in memory that came.

        Raises:
            ProtocolError: It is not there, or in use, or not so long.
        """
        self._check_here(number)
        memory = self._memory.get(number)
        if memory is None or self._pipe is None:
            raise ProtocolError(f"a message lies in memory {number}, which never came")
        if size > len(memory):
            raise ProtocolError(
                f"a message of {size:,} bytes lies in memory of {len(memory):,} bytes"
            )
        self._out.add(number)
        return SegmentLease(memory, size, partial(self._give_back, number))

    def _check_here(self, number: int) -> None:
        if number in self._out:
            raise ProtocolError(f"memory {number} was not given back yet")

    def _give_back(self, number: int) -> None:
        """Nobody looks at it any more; whose view was the last may be another thread."""
        if threading.get_ident() == self._thread:
            self._write(number)
        else:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and so is all else
                self._loop.call_soon_threadsafe(self._write, number)

    def _write(self, number: int) -> None:
        self._out.discard(number)
        if self._pipe is not None:
            with contextlib.suppress(OSError):  # the peer is gone, or does not want it
                os.write(self._pipe.fileno(), bytes((number,)))

    def close(self) -> None:
        """Keep nothing but what is looked at."""
        self._memory.clear()
        if self._pipe is not None:
            self._pipe.close()
