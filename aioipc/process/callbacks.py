"""What users have given to be called, on the way of something that has to go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["call"]


def call(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *args: object) -> None:
    """Call it at once; what it raises goes to the loop's handler, as from ``call_soon``."""
    try:
        callback(*args)
    except Exception as error:  # noqa: BLE001 - the caller goes on
        loop.call_exception_handler(
            {"message": f"Exception in callback {callback!r}", "exception": error}
        )
