"""Transports: one module per address scheme. A new one is its file and one row here.

A module has those of the functions ``connect``, ``listen`` and ``pair`` that make sense for
it. Other packages add a scheme with an entry point in the group ``aioipc.transports``.
"""

from __future__ import annotations

import importlib
from typing import Any

from aioipc.address import Address
from aioipc.errors import AddressError

__all__ = ["ENTRY_POINTS", "FAMILIES", "can_listen", "family_of"]

FAMILIES = {
    "exec": "aioipc.transports.exec",
    "fd": "aioipc.transports.fd",
    "fifo": "aioipc.transports.fifo",
    "memory": "aioipc.transports.memory",
    "mq": "aioipc.transports.mq",
    "pipe": "aioipc.transports.pipe",
    "shm": "aioipc.transports.shm",
    "stdio": "aioipc.transports.stdio",
    "sysv": "aioipc.transports.sysv",
    "tcp": "aioipc.transports.tcp",
    "tls": "aioipc.transports.tls",
    "udp": "aioipc.transports.udp",
    "unix": "aioipc.transports.unix",
    "unix+dgram": "aioipc.transports.dgram",
    "unix+seqpacket": "aioipc.transports.seqpacket",
    "vsock": "aioipc.transports.vsock",
}
"""Scheme to module."""

ENTRY_POINTS = "aioipc.transports"
"""The entry point group in which other packages offer transports."""


def family_of(address: Address, *, able_to: str) -> Any:
    """The module for ``address``, which has the function ``able_to``.

    Raises:
        AddressError: There is no such scheme, or it cannot do that.
    """
    family = _load(address)
    if not hasattr(family, able_to):
        able = [verb for verb in ("connect", "listen", "pair") if hasattr(family, verb)]
        raise AddressError(
            f"address '{address}': {address.scheme}: has no {able_to}, only {' and '.join(able)}"
        )
    return family


def can_listen(address: Address) -> bool:
    """Whether peers connect to such an address; else there is one peer at most.

    Raises:
        AddressError: There is no such scheme.
    """
    return hasattr(_load(address), "listen")


def _load(address: Address) -> Any:
    if address.scheme in FAMILIES:
        return importlib.import_module(FAMILIES[address.scheme])
    # It costs more to import than all of aioipc, and only strangers need it.
    from importlib.metadata import entry_points  # noqa: PLC0415

    points = entry_points(group=ENTRY_POINTS)
    if address.scheme in points.names:
        return points[address.scheme].load()
    known = ", ".join(sorted({*FAMILIES, *points.names}))
    raise AddressError(
        f"address '{address}': no transport is called {address.scheme!r}; known are {known}"
    )
