"""SharedValue: the latest value of something, from one process to any number of others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Generic, Self, TypeVar

from aioipc import codecs
from aioipc.abc import Buffer, Codec
from aioipc.address import check_name
from aioipc.errors import (
    BusyError,
    ClosedError,
    DecodeError,
    EncodeError,
    EndOfStream,
    ForkError,
    FrameTooLarge,
    IPCError,
    PeerCrashed,
    ProtocolError,
    WouldBlock,
    from_os_error,
)
from aioipc.kernel.ledger import State, Tenure
from aioipc.kernel.owned import Closing, abandon_in_child
from aioipc.kernel.value_place import ValuePlace, ValueWatch, open_value_place
from aioipc.loop.waiting import Waits
from aioipc.native._value import MAX_BYTES, SHARED_BYTES, ValueCell

__all__ = ["SharedValue"]

T = TypeVar("T")


class SharedValue(Closing, Generic[T]):
    """The latest value that one process has set, for any number of processes to look at.

    A look is a copy out of shared memory, without a system call, and never torn, however often
    the value is set and wherever its writer was killed. Values that nobody looked at in time are
    gone: what has to arrive each time goes over `aioipc.pubsub`. Waiting costs no thread and no
    timer; setting a value makes a system call only where somebody waits.

    ``async for value in shared`` is the latest value, again and again as it changes.

    Args:
        name: A name in the runtime directory.
        codec: As for `aioipc.connect`, and the same for all of them.

    Raises:
        AddressError: It cannot be a name.
    """

    def __init__(self, name: str, *, codec: str | Codec[T] = "msgpack") -> None:
        check_name(name)
        self.name = name
        self._codec: Codec[T] = codecs.get(codec)
        self._place: ValuePlace | None = None
        self._cell: ValueCell | None = None
        self._hold: Tenure | None = None
        self._owes_bell = False  # somebody sleeps who could not be woken
        self._waits = Waits()
        self._seen = 0
        self._ended = 0
        self._unusable: IPCError | None = None
        abandon_in_child(self)

    def set(self, value: T) -> None:
        """Show a value, and wake who waits for it. The first time makes this the writer.

        Raises:
            BusyError: Another process, or another object, is the writer, and alive.
            FrameTooLarge: It has more than 64 KiB, encoded.
            EncodeError: The codec cannot encode it.
            ResourceExhausted: There is no memory or no descriptor left.
            ClosedError: It was closed.
            ForkError: It belongs to the parent of this process.
        """
        data = self._encode(value)
        with self._kernel_errors("set"):
            place, cell = self._open()
            if self._hold is None:
                self._become_writer(place, cell)
            self._owes_bell = cell.store(data) or self._owes_bell
            if self._owes_bell:
                place.pull().close()
                self._owes_bell = False

    def get(self) -> T:
        """The latest value, also of a writer that is gone.

        Raises:
            WouldBlock: None was set yet.
            DecodeError: It does not fit the codec.
            ClosedError: It was closed.
            ForkError: It belongs to the parent of this process.
        """
        with self._kernel_errors("look at"):
            _, cell = self._open()
            data = self._load(cell)
        if data is None:
            raise WouldBlock(f"nothing has set {self._what} yet")
        return self._decode(data)

    async def changed(self) -> T:
        """Wait for a value that this object has not seen yet, and return the latest.

        Raises:
            EndOfStream: The writer has closed, and its last value was seen. The next call waits
                for the next writer.
            PeerCrashed: The writer died; as before.
            DecodeError: The value does not fit the codec; it counts as seen.
            ClosedError: It was closed.
            ForkError: It belongs to the parent of this process.

        Cancellation:
            Safe: the next call returns what this one would have.
        """
        while (data := self._news()) is None:
            with self._watch() as watch:
                if not self._is_stale(watch):
                    await self._waits.fd(watch.fileno())
        return self._decode(data)

    @property
    def writer(self) -> int | None:
        """The pid of the writer, None if there is none, or none that lives."""
        with self._kernel_errors("look at"):
            place, _ = self._open()
            return place.note().pid if place.is_written() else None

    def close(self) -> None:
        """Let go of it, and end its waits with `ClosedError`. Idempotent.

        The last one to close removes the files, and so the value.
        """
        if self._unusable is None:
            self._unusable = ClosedError(f"{self._what} was closed")
            self._release()
            self._waits.end()

    def abandon(self) -> None:
        """Belong to the parent, in a forked child that inherits it."""
        if self._place is not None:
            # The child has not the mapping: touching it would be a segmentation fault.
            self._place = self._cell = self._hold = None
            self._unusable = ForkError(f"{self._what} belongs to the parent; make one in the child")

    # Inside

    @property
    def _what(self) -> str:
        return f"shared value {self.name!r}"

    def _open(self) -> tuple[ValuePlace, ValueCell]:
        if self._unusable is not None:
            raise self._unusable.with_traceback(None)
        if self._place is None or self._cell is None:
            self._place = open_value_place(self.name, SHARED_BYTES)
            self._cell = ValueCell(self._place.memory)
        return self._place, self._cell

    def _become_writer(self, place: ValuePlace, cell: ValueCell) -> None:
        with place.pull():  # who waits has to watch this writer's life from now on
            self._hold = place.try_write()
            if self._hold is None:
                raise BusyError(f"process {place.note().pid} is the writer of {self._what}")
            cell.claim()

    def _load(self, cell: ValueCell) -> bytes | None:
        try:
            found = cell.load()
        except ValueError as error:
            raise ProtocolError(f"{self._what}: {error}") from error
        if found is None:
            return None
        self._seen, data = found
        return data

    def _news(self) -> bytes | None:
        """What was not seen yet: a value, or else, raised, the end of its writer."""
        with self._kernel_errors("look at"):
            place, cell = self._open()
            ended = place.ended()  # first: who is gone sets nothing any more
            if cell.latest != self._seen:
                return self._load(cell)
        if ended is None or ended.number == self._ended:
            return None
        self._ended = ended.number
        if ended.state & State.HELD:
            raise PeerCrashed(f"process {ended.pid}, the writer of {self._what}, died")
        raise EndOfStream(f"the writer of {self._what} closed it")

    def _watch(self) -> ValueWatch:
        """Something that becomes readable when there may be news that come from now on."""
        with self._kernel_errors("wait for"):
            place, cell = self._open()
            watch = place.watch()
            cell.arm()
            return watch

    def _is_stale(self, watch: ValueWatch) -> bool:
        """Whether there may be news that came before the watch."""
        with self._kernel_errors("wait for"):
            place, cell = self._open()
            if cell.latest != self._seen or place.is_written() != watch.is_written:
                return True
            ended = place.ended()
            return ended is not None and ended.number != self._ended

    def _encode(self, value: T) -> Buffer:
        try:
            parts = self._codec.encode(value)
        except IPCError:
            raise
        except Exception as error:
            raise EncodeError(
                f"the {self._codec.name} codec cannot encode this {type(value).__name__}: {error}"
            ) from error
        data: Any = b"".join(parts) if isinstance(parts, list | tuple) else parts
        size = memoryview(data).nbytes  # len() of an array counts elements
        if size > MAX_BYTES:
            raise FrameTooLarge(size, MAX_BYTES)
        return data  # type: ignore[no-any-return]

    def _decode(self, data: bytes) -> T:
        try:
            return self._codec.decode(data)
        except IPCError:
            raise
        except Exception as error:
            raise DecodeError(
                f"the {self._codec.name} codec cannot decode the {len(data):,} bytes of "
                f"{self._what}: {error}"
            ) from error

    @contextlib.contextmanager
    def _kernel_errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except IPCError:
            raise
        except OSError as error:
            raise from_os_error(error, f"{doing} {self._what}") from error

    def _release(self) -> None:
        place, self._place = self._place, None
        hold, self._hold = self._hold, None
        self._cell = None
        if place is not None:
            with contextlib.suppress(OSError):
                if hold is not None:
                    hold.let_go()
                place.close()

    async def aclose(self) -> None:
        """As `close`."""
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *details: object) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        try:
            return await self.changed()
        except EndOfStream:
            raise StopAsyncIteration from None

    def __del__(self) -> None:
        if getattr(self, "_place", None) is not None:
            self._release()

    def __repr__(self) -> str:
        return f"<SharedValue {self.name!r}>"
