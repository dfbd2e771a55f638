"""Socket activation: a service manager listens, and starts whoever serves."""

from __future__ import annotations

from aioipc.kernel.activation import listen_fds

__all__ = ["activated"]


def activated() -> dict[str, tuple[str, ...]]:
    """Tell the sockets that systemd opened for this process: sd_listen_fds(3).

    Returns:
        Addresses for `aioipc.listen`, by the name that the ``.socket`` unit gives them
        (``FileDescriptorName=``, by default the name of the unit). Empty where this process was
        not started by socket activation, also in its children.
    """
    found: dict[str, tuple[str, ...]] = {}
    for name, fd in listen_fds():
        found[name] = (*found.get(name, ()), f"fd:{fd}")
    return found
