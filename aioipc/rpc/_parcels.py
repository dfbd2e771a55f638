"""What goes along with the calls of one connection, both ways."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from aioipc.abc import Capability
from aioipc.channel import Channel
from aioipc.errors import ProtocolError, from_os_error
from aioipc.kernel.lending import Lender, Loan
from aioipc.kernel.memory import checked_size, map_memory
from aioipc.kernel.owned import OwnedFd
from aioipc.rpc._packing import Enclosed, Packing, Parcel
from aioipc.wire.rpc import Freed, Message

__all__ = ["Parcels"]

_SLICE_BYTES: Final = 512 * 1024
"""So much is copied before others get a turn."""

_MOST_KEPT_BYTES: Final = 256 * 1024 * 1024
"""What one side has lent out and keeps at most; what goes beyond is used once."""


class Parcels:
    """Packs values that may hold arrays or descriptors, and unwraps what came with some.

    Args:
        channel: Where they go.
        tell: Sends a message of a few bytes.
        breach: Ends the connection.
    """

    def __init__(
        self,
        channel: Channel[Any],
        tell: Callable[[Message], object],
        breach: Callable[[BaseException], None],
    ) -> None:
        self._channel = channel
        self._tell = tell
        self._breach = breach
        self._loop = asyncio.get_running_loop()
        self._lender = Lender(_MOST_KEPT_BYTES)
        self._watched: dict[int, weakref.ref[object]] = {}
        self._gone: deque[int] = deque()

    # What leaves

    @property
    def carries(self) -> bool:
        """Whether descriptors travel; before the far side has said so it is hoped."""
        port = self._channel.port
        return (
            Capability.FDS in self._channel.capabilities
            and self._channel.limits.max_fds > 0
            and (port.passes_fds or not port.greeted)
        )

    def _lend(self, nbytes: int) -> Loan:
        """Memory for an array: a message does not wait for some to come back."""
        return self._lender.lend(nbytes) or Loan.once(nbytes)

    async def pack(self, value: Any) -> Parcel:
        """Make a value ready to travel; what is in it stays the caller's.

        Raises:
            EncodeError: It holds what cannot travel, or not over this connection.
            ResourceExhausted: There is no memory for its arrays.

        Cancellation:
            Undoes.
        """
        packing = Packing(self._lend if self.carries else None)
        with contextlib.ExitStack() as undo:
            undo.callback(packing.give_back)
            packed = packing.pack(value)
            for elements, segment in packing.copies:
                await _copy(elements, segment.buffer)
            undo.pop_all()
        return Parcel(packed, packing.files, packing.segments)

    def check(self, value: Any) -> None:
        """Raise what `pack` would say about a value.

        Raises:
            EncodeError: It holds what cannot travel.
        """
        packing = Packing(self._lend if self.carries else None)
        try:
            packing.pack(value)
        finally:
            packing.give_back()

    async def send(self, message: Callable[[Any], Message], value: Any) -> None:
        """Send a message that has a packed value.

        Raises:
            EncodeError: As `pack`.
            Others: As `Channel.send`.

        Cancellation:
            All or nothing.
        """
        with await self.pack(value) as parcel:
            sending = self._channel.send(message(parcel.packed), fds=parcel.files)
            try:
                await sending
            except BaseException:
                if sending.is_accepted:
                    parcel.sent()
                raise
            parcel.sent()

    def came_back(self, message: Freed) -> None:
        """The far side needs memory no more.

        Raises:
            ProtocolError: It was not lent.
        """
        for number in message.numbers:
            self._lender.came_back(number)

    # What comes

    def enclosed(self, came: Enclosed, value: Any) -> Enclosed:
        """A value of a message that brought descriptors."""
        return Enclosed(value, came.fds, self._map, self._breach)

    def _map(self, file: OwnedFd, number: int | None, nbytes: int) -> memoryview:
        """Memory that came, to be read; that its last view is gone will be told.

        Raises:
            ProtocolError: It is none, or too small.
            ResourceExhausted: There is no room for it.
        """
        with file:
            try:
                size = checked_size(file)
                if size < nbytes:
                    raise ProtocolError(f"{size:,} bytes came for an array of {nbytes:,}")
                view = map_memory(file, max(nbytes, 1), writable=False, populate=False)
            except OSError as error:
                raise from_os_error(error, f"map {nbytes:,} bytes of shared memory") from error
        if number is not None:
            self._watched[number] = weakref.ref(view.obj, functools.partial(self._left, number))
        return view

    def _left(self, number: int, _: object) -> None:
        """The last view is gone; whose that was may be another thread."""
        self._gone.append(number)
        with contextlib.suppress(RuntimeError):  # the loop is closed, and so is all else
            self._loop.call_soon_threadsafe(self.tell_gone)

    def tell_gone(self) -> None:
        """Give back what nobody looks at any more."""
        gone = [self._gone.popleft() for _ in range(len(self._gone))]
        for number in gone:
            self._watched.pop(number, None)
        if gone:
            self._tell(Freed(gone))

    def close(self) -> None:
        """The connection is over."""
        self._watched.clear()
        self._lender.close()


async def _copy(source: memoryview, target: memoryview) -> None:
    for at in range(0, len(source), _SLICE_BYTES):
        target[at : min(at + _SLICE_BYTES, len(source))] = source[at : at + _SLICE_BYTES]
        await asyncio.sleep(0)
