"""Telling a service manager how we are: sd_notify(3), a datagram to the socket in NOTIFY_SOCKET."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Final

from aioipc.kernel.owned import OwnedSocket

__all__ = ["notify", "watchdog_s"]

_SOCKET: Final = "NOTIFY_SOCKET"


def notify(*lines: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Say something to the service manager, such as ``READY=1``.

    Returns:
        Whether it was told. It is left unsaid where there is no manager, or where it does not
        listen or has no room.
    """
    address = environ.get(_SOCKET, "")
    if address[:1] not in ("/", "@"):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    with OwnedSocket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        try:
            sock.sendto("\n".join(lines).encode(), address)
        except OSError:
            return False
    return True


def watchdog_s(environ: Mapping[str, str] = os.environ) -> float | None:
    """Within how many seconds the manager wants to hear from us: sd_watchdog_enabled(3).

    None if it does not, or means another process.
    """
    try:
        limit_s = int(environ["WATCHDOG_USEC"]) / 1e6
        process = int(environ.get("WATCHDOG_PID", os.getpid()))
    except (KeyError, ValueError):
        return None
    return limit_s if limit_s > 0 and process == os.getpid() else None
