"""What the contenders of aioipc's patterns have in common: one address, where both sides meet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.contender import Contender, Loop, Plan, Wiring


class AtAddress(Contender):
    """A pattern of aioipc over one transport, on one loop."""

    family = "aioipc"

    def __init__(self, name: str, scheme: str, loop: Loop) -> None:
        self.name = f"aioipc {name} ({loop})"
        self.scheme = scheme
        self.loop = loop
        self.quick = loop == "uvloop"

    @contextmanager
    def wired(self, folder: Path, plan: Plan) -> Iterator[Wiring]:
        address = f"{self.scheme}:{folder}/meet"
        yield address, address
