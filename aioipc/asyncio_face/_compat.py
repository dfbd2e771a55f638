"""What asyncio's own library looks for in a transport besides the public methods.

None of it is documented: ``loop.sendfile`` wants transports derived from its mix-in, with a mode
and a few methods (`_sendfile.py`), ``loop.start_tls`` a flag, the TLS protocol ``_force_close``.
It is the same from Python 3.11 to 3.13.
"""

from __future__ import annotations

import asyncio
from asyncio import constants, transports, trsock
from typing import TYPE_CHECKING, Any

__all__ = ["FALLBACK", "LOG_THRESHOLD", "TRY_NATIVE", "FlowControl", "TransportSocket"]

if TYPE_CHECKING:

    class FlowControl(asyncio.Transport):
        """When to call ``pause_writing`` and ``resume_writing``."""

        _loop: asyncio.AbstractEventLoop
        _protocol_paused: bool

        def __init__(self, extra: Any, loop: asyncio.AbstractEventLoop) -> None: ...
        def _maybe_pause_protocol(self) -> None: ...
        def _maybe_resume_protocol(self) -> None: ...

else:
    FlowControl = transports._FlowControlMixin

FALLBACK: Any = constants._SendfileMode.FALLBACK
"""``loop.sendfile`` reads the file and writes to the transport."""

TRY_NATIVE: Any = constants._SendfileMode.TRY_NATIVE
"""``loop.sendfile`` tries sendfile(2) first."""

LOG_THRESHOLD: int = constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES
"""Writes after the end that are swallowed without a word."""

TransportSocket = trsock.TransportSocket
"""A socket that can be looked at and set, and neither read nor written."""
