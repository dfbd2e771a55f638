"""What becomes of a peer that says what it may not, of served queues and mailboxes."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from aioipc.channel import Channel
from aioipc.errors import DecodeError, IPCError, ProtocolError

__all__ = ["refusing"]

log = logging.getLogger("aioipc.queues")


@contextlib.contextmanager
def refusing(channel: Channel[Any], who: str) -> Iterator[None]:
    """Tell a peer why it is refused, and log that in one line. The end of its channel is raised on.

    Args:
        channel: To that peer.
        who: What it is, for the log.
    """
    try:
        yield
    except IPCError as error:
        if channel.is_ending(error):
            raise
        log.warning("%s: %s was refused: %s", channel.address, who, error)
        # What is no message may have been any of them.
        channel.abort(ProtocolError(str(error)) if isinstance(error, DecodeError) else error)
