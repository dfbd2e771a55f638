"""A fork server and the workers that it forks: ``python -c 'from aioipc.process.forked ...'``."""

from __future__ import annotations

import contextlib
import importlib
import pickle
import sys
from dataclasses import dataclass

from aioipc.kernel.forkserver import Forked, ForkServer
from aioipc.kernel.leash import die_with_parent
from aioipc.kernel.owned import OwnedFd
from aioipc.loop.run import new_event_loop
from aioipc.process.bootstrap import prepare_streams, work
from aioipc.process.order import Order
from aioipc.process.surroundings import Surroundings
from aioipc.process.target import loading

__all__ = ["ForkOrder", "main"]

_NEEDED = ("aioipc.process.service", "aioipc.transports.shm", "aioipc.transports._adopted")
"""What workers would import at their first use of it."""


@dataclass(frozen=True, slots=True)
class ForkOrder:
    """What is asked of a fork server.

    Attributes:
        order: What the worker has to do.
        fds: The numbers of its channel's descriptors where the order was written.
        surroundings: What it is to find.
        preloads: Whether the server imports the worker's modules too, for the next ones.
    """

    order: Order
    fds: tuple[int, ...]
    surroundings: Surroundings
    preloads: bool

    def dump(self) -> bytes:
        """The bytes for `load`."""
        return pickle.dumps(self)

    @staticmethod
    def load(data: bytes) -> ForkOrder:
        """What was dumped."""
        order: ForkOrder = pickle.loads(data)  # noqa: S301 - comes from the parent alone
        return order


def main() -> None:
    """Serve forks; in each of them, work.

    ``sys.argv`` has three numbers and a name for people to read: the descriptors of the leash and
    of the requests, and the pid of the parent.
    """
    leash, requests, parent = map(int, sys.argv[1:4])
    die_with_parent(parent)
    held = OwnedFd(leash)
    prepare_streams()
    for name in _NEEDED:
        importlib.import_module(name)
    new_event_loop().close()  # which imports that of uvloop
    forked = ForkServer(requests, _preload).serve()
    held.close()
    if forked is not None:
        _begin(forked)


def _preload(data: bytes) -> None:
    """Import what a worker will need. What fails here fails there as well, and is heard of."""
    wanted = ForkOrder.load(data)
    if not wanted.preloads:
        return
    order = wanted.order
    sys.path[:], sys.argv[:] = order.path, order.argv
    with contextlib.suppress(Exception, SystemExit), loading():
        if order.main is not None:
            order.main.load()
        for module in order.modules:
            if module != "__main__":
                importlib.import_module(module)


def _begin(forked: Forked) -> None:
    wanted = ForkOrder.load(forked.order)
    wanted.surroundings.enter()
    work(wanted.order.renumbered(wanted.fds, forked.fds))
