"""What a worker is told at its start, through memory that it inherits."""

from __future__ import annotations

import dataclasses
import importlib
import io
import pickle
import re
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from aioipc.abc import Codec
from aioipc.limits import Limits
from aioipc.process.target import MainModule, Target

__all__ = ["ChannelFacts", "Order", "pack"]


@dataclass(frozen=True, slots=True)
class ChannelFacts:
    """How the worker opens its end of the channel: see `aioipc.connect`."""

    codec: str | Codec[Any]
    framing: str | None
    limits: Limits | None
    polling: str


class _Pickler(pickle.Pickler):
    """Pickles modules by name: a module may keep the contract of a codec."""

    def reducer_override(self, obj: object) -> Any:
        if isinstance(obj, types.ModuleType):
            return importlib.import_module, (obj.__name__,)
        return NotImplemented


def pack(facts: ChannelFacts, args: tuple[Any, ...]) -> bytes:
    """The bytes for `Order.unpack`."""
    buffer = io.BytesIO()
    _Pickler(buffer).dump((facts, args))
    return buffer.getvalue()


@dataclass(frozen=True, slots=True)
class Order:
    """Everything that a worker needs to begin.

    Attributes:
        address: Its end of the channel.
        path: The ``sys.path`` of the parent.
        argv: Its ``sys.argv``.
        main: The parent's program, where something in it is needed.
        target: The function to run.
        others: The modules of functions and classes among the arguments.
        rest: `ChannelFacts` and the arguments, pickled, to be loaded when all modules can be
            found. Pickle is no danger here: it comes from the parent alone.
    """

    address: str
    path: list[str]
    argv: list[str]
    main: MainModule | None
    target: Target
    others: tuple[str, ...]
    rest: bytes

    @property
    def modules(self) -> Iterator[str]:
        """What the worker will import: the modules of its target and of the other functions."""
        yield self.target.module
        yield from self.others

    def renumbered(self, fds: Sequence[int], as_: Sequence[int]) -> Order:
        """The same for a process that has the descriptors of its channel under other numbers."""
        numbers = dict(zip(map(str, fds), map(str, as_), strict=True))
        address = re.sub(r"\d+", lambda number: numbers[number[0]], self.address)
        return dataclasses.replace(self, address=address)

    def dump(self) -> bytes:
        """The bytes for `load`."""
        return pickle.dumps(self)

    @staticmethod
    def load(data: bytes) -> Order:
        """What was dumped."""
        order: Order = pickle.loads(data)  # noqa: S301 - comes from the parent alone
        return order

    def unpack(self) -> tuple[ChannelFacts, tuple[Any, ...]]:
        """The channel and the arguments."""
        facts, args = pickle.loads(self.rest)  # noqa: S301 - as above
        return facts, args
