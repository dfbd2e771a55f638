"""Memory that processes share: bytes, arrays and values. docs/memory.md has the rules."""

import importlib
from typing import TYPE_CHECKING, Any

from aioipc.memory.shared import SharedMemory
from aioipc.memory.value import SharedValue

if TYPE_CHECKING:
    from aioipc.memory.array import SharedArray

__all__ = ["SharedArray", "SharedMemory", "SharedValue"]


def __getattr__(name: str) -> Any:
    # It needs numpy, which is an extra.
    if name == "SharedArray":
        return importlib.import_module("aioipc.memory.array").SharedArray
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
