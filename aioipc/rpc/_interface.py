"""What an interface declares: which methods there are, and what goes in and out of them."""

from __future__ import annotations

import collections.abc
import enum
import functools
import inspect
import re
import typing
from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec

from aioipc.errors import BadArguments, DecodeError, ProtocolError, RemoteError, said
from aioipc.native._calls import StraightMethod
from aioipc.rpc._codec import decoder
from aioipc.rpc._packing import Enclosed, is_packed, unpacker

__all__ = [
    "Interface",
    "Method",
    "Shape",
    "describe",
    "idempotent",
    "notification",
    "raises",
]

F = TypeVar("F", bound=Callable[..., Any])

Packed = msgspec.Raw | bytes
"""A value in msgpack, as it came."""

_STREAMS: Final = (
    collections.abc.AsyncIterator,
    collections.abc.AsyncIterable,
    collections.abc.AsyncGenerator,
)
_NOT_OURS: Final = (object, Protocol, Generic)
_PLACE = re.compile(r"(?s)(?P<what>.*) - at `\$\[(?P<index>\d+)\](?P<inside>.*)`$")
"""The last one that is named: an earlier one is part of a value that the peer sent."""
_MARKS: Final = "__aioipc_rpc__"


class Shape(enum.Enum):
    """What a call gives back."""

    CALL = "call"
    STREAM = "stream"
    NOTIFICATION = "notification"


# Marks on the methods of an interface


def raises(*errors: type[Exception]) -> Callable[[F], F]:
    """Declare exceptions that come back to the caller as themselves.

    They are rebuilt from their ``args``, which have to be plain values. Any other exception of the
    method becomes a RemoteError.

    Args:
        errors: Exception types, known to both sides, each by another name.

    Raises:
        TypeError: Something is no exception type, or two have one name.
    """
    known: dict[str, type[Exception]] = {}
    for error in errors:
        if Exception not in getattr(error, "__mro__", ()):
            raise TypeError(f"rpc.raises takes exception types, not {error!r}")
        if known.setdefault(error.__qualname__, error) is not error:
            raise TypeError(f"rpc.raises takes one exception type named {error.__qualname__!r}")
    return lambda function: _mark(function, raises=errors)


def idempotent(function: F) -> F:
    """Declare that a method may run twice, so that a reconnecting client repeats it.

    A call with a stream among its arguments is not repeated: a part of that was taken.
    """
    return _mark(function, idempotent=True)


def notification(function: F) -> F:
    """Declare that nobody waits for a method: awaiting it only hands it over.

    What it raises is logged on both sides. It returns None, and counts as a call until it has run:
    who notifies faster than the far side runs it waits.
    """
    return _mark(function, notification=True)


def _mark(function: F, **marks: Any) -> F:
    known = getattr(function, _MARKS, {})
    setattr(function, _MARKS, known | marks)
    return function


class Method(StraightMethod):
    """One method of an interface.

    Attributes:
        name: What it is called by.
        owner: The name of the interface.
        signature: As declared, without ``self``, annotations resolved.
        shape: What a call gives back.
        is_streaming: Whether that is a stream.
        is_notification: Whether nobody waits for it.
        upload: The position of the parameter that is a stream; None if there is none.
        packs: Whether arguments, or what comes back, may hold arrays or descriptors.
        packs_args: Whether arguments may hold arrays or descriptors.
        packs_result: Whether its result, or the items of its stream, may.
        packs_upload: Whether the items of the caller's stream may.
        raises: The declared exceptions, by name.
        is_idempotent: Whether it may run twice.
        is_positional: Whether all parameters can be passed by position.
        is_plain: Whether a call has arguments by position, a result, and nothing else.
        doc: Its docstring.
    """

    def __init__(self, owner: str, name: str, function: Callable[..., Any]) -> None:
        marks: Mapping[str, Any] = getattr(function, _MARKS, {})
        self.owner = owner
        self.name = name
        self.doc = inspect.getdoc(function)
        self.is_idempotent: bool = marks.get("idempotent", False)
        self.raises: Mapping[str, type[Exception]] = {
            error.__qualname__: error for error in marks.get("raises", ())
        }
        self.signature, self.shape, self._result = self._read(function, marks)
        self.is_streaming = self.shape is Shape.STREAM
        self.is_notification = self.shape is Shape.NOTIFICATION
        parameters = self.signature.parameters
        self.names = tuple(parameters)
        self.count = len(self.names)
        self.types = tuple(_plain(each.annotation) for each in parameters.values())
        self.upload = self._find_upload()
        self._keywords = tuple(
            each.name for each in parameters.values() if each.kind is each.KEYWORD_ONLY
        )
        self.is_positional = not self._keywords
        self.packs_args = any(map(is_packed, self._sent_types(self.count)))
        self.packs_result = is_packed(self._result)
        self.packs_upload = self.upload is not None and is_packed(self._item)
        self.packs = self.packs_args or self.packs_result
        is_one_answer = self.shape is Shape.CALL and self.upload is None
        self.is_plain = self.is_positional and is_one_answer and not self.packs
        self._defaults = tuple(each.default for each in parameters.values())
        self._least = sum(each is inspect.Parameter.empty for each in self._defaults)

    def __str__(self) -> str:
        return f"{self.owner}.{self.name}"

    def _read(
        self, function: Callable[..., Any], marks: Mapping[str, Any]
    ) -> tuple[inspect.Signature, Shape, Any]:
        """The signature, the shape, and the type of the result or of its items."""
        try:
            hints = typing.get_type_hints(function, include_extras=True)
        except Exception as error:
            raise TypeError(f"{self}: its annotations cannot be resolved: {error}") from error
        declared = inspect.signature(function)
        _, *parameters = declared.parameters.values()
        for each in parameters:
            if each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD):
                stars = "*" if each.kind is each.VAR_POSITIONAL else "**"
                raise TypeError(
                    f"{self}: {stars}{each.name} cannot be sent; name the parameters one by one"
                )
        result = hints.pop("return", Any)
        signature = declared.replace(
            parameters=[each.replace(annotation=hints.get(each.name, Any)) for each in parameters],
            return_annotation=result,
        )
        shape, item = self._shape(function, result, marks)
        return signature, shape, item

    def _shape(
        self, function: Callable[..., Any], result: Any, marks: Mapping[str, Any]
    ) -> tuple[Shape, Any]:
        item = _stream_of(result)
        if inspect.iscoroutinefunction(function):
            if item is not None:
                raise TypeError(
                    f"{self}: an `async def` with this return type gives an iterator only after it "
                    f"was awaited; declare it `def {self.name}(...) -> AsyncIterator[...]`"
                )
            if marks.get("notification"):
                return Shape.NOTIFICATION, None
            return Shape.CALL, _plain(result)
        if item is None and result is Any and inspect.isasyncgenfunction(function):
            item = (Any,)
        if item is not None:
            return Shape.STREAM, _plain(item[0])
        raise TypeError(
            f"{self}: a call takes time, so declare it `async def {self.name}(...)`; "
            "what is not to be called from outside has a name with an underscore"
        )

    def _find_upload(self) -> int | None:
        found = [
            position
            for position, each in enumerate(self.signature.parameters.values())
            if _stream_of(each.annotation) is not None
        ]
        if len(found) > 1:
            raise TypeError(f"{self}: one parameter may be a stream, not {len(found)}")
        return found[0] if found else None

    # The calling side

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        """All arguments in the order of the declaration, defaults filled in.

        Raises:
            BadArguments: They do not fit the signature.
        """
        if not kwargs and self.is_positional and self._least <= len(args) <= self.count:
            return args + self._defaults[len(args) :]
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise BadArguments(f"{self}: {self._unbound(error, kwargs)}") from None
        bound.apply_defaults()
        return tuple(bound.arguments.values())

    def _unbound(self, error: TypeError, kwargs: Mapping[str, Any]) -> str:
        """Why arguments do not fit; where one is missing the interpreter tells no wrong name."""
        said = str(error)
        for name in kwargs:
            if name not in self.names and repr(name) not in said:
                return f"{said}; there is no argument {name!r}"
        return said

    def check_upload(self, args: tuple[Any, ...]) -> None:
        """See that what is to be sent as a stream is one.

        Raises:
            BadArguments: It is not.
        """
        assert self.upload is not None, "asked for only where there is one"
        stream = args[self.upload]
        if not isinstance(stream, collections.abc.AsyncIterable):
            raise BadArguments(
                f"{self}: argument {self.names[self.upload]!r} is a stream: "
                f"give an async iterable, not {type(stream).__name__}"
            )

    def decode_result(self, raw: Packed) -> Any:
        """The result of a call, or one item of its stream.

        Raises:
            RemoteError: The far side broke the declaration.
        """
        try:
            return self.result_decoder(raw)
        except DecodeError as error:
            raise RemoteError(f"{self} gave what is not taken here: {error}") from error
        except (msgspec.DecodeError, ValueError) as error:
            raise RemoteError(f"{self} gave what it does not declare: {error}") from error

    def make_result_decoder(self) -> Callable[[Any], Any]:
        """As `result_decoder`, which is made once it is needed."""
        return unpacker(self._result) if self.packs_result else decoder(self._result)

    # The called side

    def decode_args(self, raw: Packed | Enclosed) -> Any:
        """The arguments, checked against their annotations.

        Raises:
            BadArguments: They do not fit; the message has the parameter's name.
        """
        fewer = _length(raw) if isinstance(raw, Enclosed) else None
        if fewer is not None and fewer < self.count:
            return self._decode_fewer(raw, fewer)  # at once: it can be unpacked only once
        try:
            return self.args_decoder(raw)
        except (DecodeError, ProtocolError) as error:  # of which the connection knows
            raise BadArguments(f"{self}: {error}") from error
        except Exception as error:  # noqa: BLE001 - of the declared types' own code
            count = _length(raw)
            if count is None or count >= self.count:
                raise self._bad(error, count) from None
        return self._decode_fewer(raw, count)

    @functools.cached_property
    def args_decoder(self) -> Callable[[Any], Any]:
        """Decodes all arguments into a tuple, and says no more than that they do not fit."""
        return self._decoder_of(self.count)

    def _decoder_of(self, count: int) -> Callable[[Any], Any]:
        make = unpacker if self.packs_args else decoder
        return make(tuple[tuple(self._sent_types(count))])  # type: ignore[misc]

    def _sent_types(self, count: int) -> list[Any]:
        """The types of the first arguments as they are sent: of a stream there is nothing."""
        types = list(self.types[:count])
        if self.upload is not None and self.upload < count:
            types[self.upload] = None
        return types

    def _decode_fewer(self, raw: Packed | Enclosed, count: int) -> Any:
        """The arguments of a caller who knows an older declaration."""
        for name, default in zip(self.names[count:], self._defaults[count:], strict=True):
            if default is inspect.Parameter.empty:
                if isinstance(raw, Enclosed):
                    raw.close()
                raise BadArguments(f"{self}: argument {name!r} is missing")
        try:
            return self._decoder_of(count)(raw) + self._defaults[count:]
        except ProtocolError as error:  # as above
            raise BadArguments(f"{self}: {error}") from error
        except Exception as error:  # noqa: BLE001 - likewise
            raise self._bad(error, count) from None

    def _bad(self, error: Exception, count: int | None) -> BadArguments:
        """What is wrong with so many arguments, None if they are no array at all."""
        if count is None or count > self.count:
            given = "none" if count is None else count
            return BadArguments(f"{self} takes {self.count} arguments, not {given}")
        if not isinstance(error, msgspec.DecodeError | ValueError):
            kind = type(error).__name__
            return BadArguments(f"{self}: {kind} while arguments were decoded: {said(error)}")
        place = _PLACE.match(str(error))
        if place is None:
            return BadArguments(f"{self}: {error}")
        name = self.names[int(place["index"])] + place["inside"]
        return BadArguments(f"{self}: argument {name!r}: {place['what']}")

    def invoke(self, function: Callable[..., Any], args: Any) -> Any:
        """Call the implementation with arguments in the order of the declaration."""
        if self.is_positional:
            return function(*args)
        split = self.count - len(self._keywords)
        return function(*args[:split], **dict(zip(self._keywords, args[split:], strict=True)))

    def decode_item(self, raw: Packed) -> Any:
        """One item of the caller's stream.

        Raises:
            BadArguments: It is not of the declared type.
        """
        try:
            return self._decode_item(raw)
        except (msgspec.DecodeError, DecodeError, ValueError) as error:
            assert self.upload is not None, "else there are no items"
            name = self.names[self.upload]
            raise BadArguments(f"{self}: an item of {name!r}: {error}") from None

    @functools.cached_property
    def _decode_item(self) -> Callable[[Any], Any]:
        return unpacker(self._item) if self.packs_upload else decoder(self._item)

    @property
    def _item(self) -> Any:
        """The type of what the caller's stream gives."""
        assert self.upload is not None, "asked for only where there is one"
        (item,) = _stream_of(self.types[self.upload]) or (Any,)
        return _plain(item)


class Interface:
    """The methods that can be called, by name.

    Attributes:
        name: The name of the class.
        methods: By name, in the order of their declaration.
        doc: The docstring of the class.
    """

    def __init__(self, name: str, methods: Mapping[str, Method], doc: str | None) -> None:
        self.name = name
        self.methods = methods
        self.doc = doc


@functools.lru_cache(maxsize=256)
def describe(interface: type) -> Interface:
    """Look an interface over: a ``typing.Protocol`` or any class.

    Its public methods can be called, and nothing else: not what begins with an underscore, no
    attribute, no property.

    Raises:
        TypeError: It is no class, or one of its methods cannot be called remotely; the message
            says what to declare instead.
    """
    if not isinstance(interface, type):
        raise TypeError(f"an interface is a class, not {interface!r}")
    methods: dict[str, Method] = {}
    for base in reversed(interface.__mro__):
        if base in _NOT_OURS:
            continue
        for name, value in vars(base).items():
            if name.startswith("_"):
                continue
            methods.pop(name, None)
            if inspect.isfunction(value):
                methods[name] = Method(interface.__name__, name, value)
    if not methods:
        raise TypeError(f"{interface.__name__} declares no public method")
    return Interface(interface.__name__, methods, inspect.getdoc(interface))


def _stream_of(annotation: Any) -> tuple[Any, ...] | None:
    """The type of the items, in a tuple, if the annotation is that of a stream."""
    origin = typing.get_origin(annotation) or annotation
    if origin not in _STREAMS:
        return None
    return typing.get_args(annotation)[:1] or (Any,)


def _plain(annotation: Any) -> Any:
    return Any if annotation is inspect.Parameter.empty else annotation


def _length(raw: Packed | Enclosed) -> int | None:
    try:
        return len(decoder(list[msgspec.Raw])(raw.value if isinstance(raw, Enclosed) else raw))
    except msgspec.DecodeError:
        return None
