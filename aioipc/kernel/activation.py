"""Sockets that a service manager opened for this process: sd_listen_fds(3)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from aioipc.kernel.descriptors import keep_from_children

__all__ = ["listen_fds"]

_FIRST: Final = 3
_MOST: Final = 4096
_NAMELESS: Final = "unknown"


def listen_fds(environ: Mapping[str, str] = os.environ) -> list[tuple[str, int]]:
    """The name and the descriptor of each; none if they are meant for another process.

    They are closed to children from here on.
    """
    try:
        count = int(environ["LISTEN_FDS"])
        process = int(environ["LISTEN_PID"])
    except (KeyError, ValueError):
        return []
    if process != os.getpid() or not 0 < count <= _MOST:
        return []
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    if len(names) != count:
        names = [_NAMELESS] * count
    found = [(name or _NAMELESS, _FIRST + number) for number, name in enumerate(names)]
    for _, fd in found:
        keep_from_children(fd)
    return found
