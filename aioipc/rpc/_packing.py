"""Values that are more than msgpack: arrays, and what travels by a descriptor.

Which of the declared types may hold such values is known before a call. Only these are packed here,
by hooks of msgspec; all others go straight into the message.

In the message an array is an ext of type 65, ``[dtype, shape, order, elements]``. What travels by a
descriptor is an ext of type 68, ``[index, facts, number]``: which of the descriptors that come with
the message, and what else is known of it; of an array ``[dtype, shape, order]``.
"""

from __future__ import annotations

import functools
import sys
import typing
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final, Protocol, Self

import msgspec

from aioipc.abc import HasFileno
from aioipc.codecs.msgpack import plain, refuse_ext
from aioipc.errors import EncodeError, ProtocolError
from aioipc.kernel.owned import OwnedFd

__all__ = ["Enclosed", "Packing", "Parcel", "Segment", "is_packed", "unpacker"]

_ARRAY: Final = 65
_PASSED: Final = 68
_MOST_FILES: Final = 253
_MOST_SEGMENTS: Final = 64
"""Arrays of one message that lie in memory of their own; further ones go with the message."""

LARGE_BYTES: Final = 256 * 1024
"""From here on the elements of an array are faster in memory of their own than in the message."""


class _Passed(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """What stands in a value for something that travels by its descriptor."""

    index: int
    facts: Any = None
    number: int | None = None


class Segment(Protocol):
    """Memory to write an array to."""

    number: int | None
    """What it is called when it is given back; None if it is used once."""

    buffer: memoryview

    def fileno(self) -> int: ...
    def give_back(self) -> None:
        """It was not used after all."""


# Which types these are


def is_packed(type_: Any) -> bool:
    """Whether values of a declared type may hold arrays or descriptors."""
    return bool(_kinds_of(type_))


@functools.lru_cache(maxsize=4096)
def _kinds_of(type_: Any) -> frozenset[str]:
    """What values of a type may hold: "array", "passed"."""
    try:
        info = msgspec.inspect.type_info(type_)
    except (TypeError, NotImplementedError):  # who decodes it says so
        return frozenset()
    found: set[str] = set()
    seen: set[int] = set()
    to_do: list[Any] = [info]
    while to_do:
        one = to_do.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, msgspec.inspect.CustomType):
            found |= _kinds_of_class(one.cls)
        elif isinstance(one, msgspec.Struct):
            to_do += [getattr(one, name) for name in one.__struct_fields__]
        elif isinstance(one, tuple):
            to_do += one
    return frozenset(found)


def _kinds_of_class(cls: Any) -> set[str]:
    kinds = {"passed"} if hasattr(cls, "from_passed") else set()
    if any(base.__module__ == "numpy" and base.__name__ == "ndarray" for base in cls.__mro__):
        kinds.add("array")
    return kinds


# Packing


class Parcel:
    """A value on its way: use it in ``with``, and say `sent` when it has left.

    Attributes:
        packed: It in msgpack.
        files: What travels with it.
    """

    def __init__(self, packed: bytes, files: list[HasFileno], segments: list[Segment]) -> None:
        self.packed: Any = msgspec.Raw(packed)
        self.files = files
        self._segments = segments

    def sent(self) -> None:
        """The memory is the receiver's until it says otherwise."""
        self._segments = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for segment in self._segments:
            segment.give_back()


class Packing:
    """One value that is packed.

    Args:
        borrow: Gives memory for so many bytes; None where no descriptors travel.
    """

    def __init__(self, borrow: Callable[[int], Segment] | None) -> None:
        self.files: list[HasFileno] = []
        self.segments: list[Segment] = []
        self.copies: list[tuple[Any, Segment]] = []
        """The arrays to copy, and where to."""
        self._borrow = borrow

    def pack(self, value: Any) -> bytes:
        """Its bytes.

        Raises:
            EncodeError: It holds what cannot travel, or not here.
        """
        try:
            return msgspec.msgpack.Encoder(enc_hook=self._replace).encode(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise EncodeError(str(error)) from error

    def give_back(self) -> None:
        """It does not leave."""
        for segment in self.segments:
            segment.give_back()

    def _replace(self, obj: Any) -> Any:
        """What stands in the message for an object that msgspec does not know."""
        passed = obj.passed() if hasattr(obj, "passed") else None
        if passed is not None and self._borrow is not None:
            return self._enclosed(*passed)
        if (arrays := _arrays_of(obj)) is not None:
            return self._array(arrays, obj)
        if hasattr(obj, "passed"):
            raise TypeError(f"a {type(obj).__name__} cannot travel {self._why(passed)}")
        return plain(obj)

    def _why(self, passed: object) -> str:
        if self._borrow is None:
            return "over this connection, which carries no descriptors"
        return "by its descriptor, which is closed or belongs to a name" if passed is None else ""

    def _enclosed(self, file: HasFileno, facts: Any, number: int | None = None) -> Any:
        if len(self.files) == _MOST_FILES:
            raise ValueError(f"a message takes at most {_MOST_FILES} descriptors along")
        self.files.append(file)
        stands = _Passed(len(self.files) - 1, facts, number)
        return msgspec.msgpack.Ext(_PASSED, msgspec.msgpack.encode(stands))

    def _array(self, arrays: Any, array: Any) -> Any:
        found = arrays.of_numpy(array)
        if found is not array:
            return found  # a scalar
        facts = arrays.described(array)
        if (
            self._borrow is None
            or array.nbytes < LARGE_BYTES
            or len(self.segments) == _MOST_SEGMENTS
        ):
            return msgspec.msgpack.Ext(_ARRAY, arrays.inline(array, facts))
        segment = self._borrow(array.nbytes)
        self.segments.append(segment)
        self.copies.append((arrays.elements(array), segment))
        return self._enclosed(segment, facts, segment.number)


def _arrays_of(obj: Any) -> Any:
    """What knows of arrays, if that is one or a part of one; then numpy is there."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not isinstance(obj, numpy.ndarray | numpy.generic):
        return None
    return _arrays()


def _arrays() -> Any:
    from aioipc.rpc import _arrays  # noqa: PLC0415 - numpy is an extra

    return _arrays


# Unpacking


class Enclosed:
    """A value that came with descriptors, and a message that did before it is known for which.

    Those that nobody takes are closed with it.

    Args:
        value: The value, in msgpack; or the message.
        fds: What came.
        map_: Maps one as memory, to be given back under a number, of so many bytes at least.
        breach: What came makes no sense: the connection is of no more use.
    """

    __slots__ = ("breach", "fds", "map_", "value")

    def __init__(
        self,
        value: Any,
        fds: list[OwnedFd],
        map_: Callable[[OwnedFd, int | None, int], memoryview] | None = None,
        breach: Callable[[ProtocolError], None] | None = None,
    ) -> None:
        self.value = value
        self.fds = fds
        self.map_ = map_
        self.breach = breach

    def emptied(self) -> Enclosed:
        """The same in another object; this one, which who receives may still have, has nothing."""
        other = Enclosed(self.value, self.fds, self.map_, self.breach)
        self.value, self.fds = None, []
        return other

    def close(self) -> None:
        """Close what nobody took. Idempotent."""
        for file in self.fds:
            file.close()


class _Came:
    """One of them, until it is known what was declared."""

    __slots__ = ("passed",)

    def __init__(self, passed: _Passed) -> None:
        self.passed = passed


class _Opening:
    """One value that is unpacked."""

    def __init__(self, enclosed: Enclosed | None) -> None:
        self._map = enclosed.map_ if enclosed is not None else None
        self._fds: list[OwnedFd | None] = list(enclosed.fds) if enclosed is not None else []
        self._pending = 0

    def came(self, passed: _Passed) -> _Came:
        if not 0 <= passed.index < len(self._fds):
            raise ProtocolError(
                f"a value refers to descriptor {passed.index:,} of {len(self._fds):,} that came"
            )
        self._pending += 1
        return _Came(passed)

    def take(self, index: int) -> OwnedFd:
        file = self._fds[index]
        if file is None:
            raise ProtocolError(f"a value refers twice to descriptor {index:,}")
        self._fds[index] = None
        self._pending -= 1
        return file

    def resolve(self, type_: Any, came: _Came) -> Any:
        """What was declared, made of what came."""
        passed = came.passed
        file = self.take(passed.index)
        cls = typing.get_origin(type_) or type_
        if hasattr(cls, "from_passed"):
            try:
                return cls.from_passed(file.detach(), passed.facts)
            except ProtocolError as error:  # one bad value
                raise ValueError(str(error)) from None
        if "array" not in _kinds_of_class(cls):
            raise ValueError("a descriptor came where none is declared")
        return _arrays().view(passed.facts, functools.partial(self._mapped, file, passed.number))

    def _mapped(self, file: OwnedFd, number: int | None, nbytes: int) -> memoryview:
        assert self._map is not None, "there are descriptors"
        try:
            return self._map(file, number, nbytes)
        except ProtocolError as error:
            raise ValueError(str(error)) from None

    def finish(self) -> None:
        """All of it was unpacked.

        Raises:
            ProtocolError: Not all that came belongs to it.
            ValueError: Some came for what is not declared to have any.
        """
        left = sum(file is not None for file in self._fds) - self._pending
        if left > 0:
            raise ProtocolError(f"{left} descriptors came to which no value refers")
        if self._pending:
            raise ValueError("a descriptor came where none is declared")


_opening: ContextVar[_Opening] = ContextVar("aioipc_opening")
_unpack_passed = msgspec.msgpack.Decoder(_Passed).decode


def _on_ext(code: int, data: memoryview) -> Any:
    if code == _PASSED:
        return _opening.get().came(_unpack_passed(data))
    return refuse_ext(code, data)


def _on_ext_of_arrays(code: int, data: memoryview) -> Any:
    return _arrays().outline(data) if code == _ARRAY else _on_ext(code, data)


def _on_custom(type_: Any, obj: Any) -> Any:
    if type(obj) is not _Came:
        return obj
    try:
        return _opening.get().resolve(type_, obj)
    except msgspec.ValidationError as error:  # to which the decoder would not add the place
        raise ValueError(str(error)) from None


def _on_custom_of_arrays(type_: Any, obj: Any) -> Any:
    return _arrays().fitting(_on_custom(type_, obj), type_)


@functools.lru_cache(maxsize=4096)
def unpacker(type_: Any) -> Callable[[Any], Any]:
    """Decodes msgpack, or an `Enclosed` value, into a type that `is_packed`, and checks it.

    What it gives raises as decoders do, and ProtocolError, after the connection was told, where
    descriptors and value do not belong together.
    """
    with_arrays = "array" in _kinds_of(type_)
    decode = msgspec.msgpack.Decoder(
        type_,
        ext_hook=_on_ext_of_arrays if with_arrays else _on_ext,
        dec_hook=_on_custom_of_arrays if with_arrays else _on_custom,
    ).decode

    def unpack(value: Any) -> Any:
        enclosed = value if isinstance(value, Enclosed) else None
        opening = _Opening(enclosed)
        token = _opening.set(opening)
        unpacked = None
        try:
            unpacked = decode(value if enclosed is None else enclosed.value)
            opening.finish()
        except BaseException as error:
            if enclosed is not None:
                enclosed.close()  # now, because whoever keeps the error keeps its frames
            unpacked = None
            if not isinstance(error, ProtocolError):
                raise
            if enclosed is None or enclosed.breach is None:
                raise ValueError(str(error)) from None
            enclosed.breach(error)
            raise
        finally:
            _opening.reset(token)
        return unpacked

    return unpack
