"""A signal that comes just after asyncio.Runner has set its handler, which forgets it then."""

from __future__ import annotations

import functools
import signal
from typing import Any


def raise_in_the_next_runner() -> None:
    """Raise SIGINT at the very place where the next one begins."""
    real = signal.signal

    def set_and_raise(number: int, handler: Any) -> Any:
        before = real(number, handler)
        if isinstance(handler, functools.partial):
            signal.signal = real
            signal.raise_signal(number)
        return before

    signal.signal = set_and_raise  # type: ignore[assignment]
