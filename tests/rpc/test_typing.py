"""What type checkers see: the interface's own signatures, for a Protocol and for a class."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]

PROGRAM = """
from collections.abc import AsyncIterator
from typing import Protocol
from aioipc import rpc

class Store(Protocol):
    async def get(self, key: str) -> int: ...
    def watch(self, prefix: str) -> AsyncIterator[bytes]: ...

class Clock:
    async def now(self, zone: str = "UTC") -> float:
        return 0.0

async def main() -> None:
    async with rpc.connect("unix:store", Store) as store, rpc.connect("unix:c", Clock) as clock:
        reveal_type(store)
        reveal_type(await store.get("a"))
        reveal_type(await clock.now())
        async for item in store.watch("a"):
            reveal_type(item)
        async with rpc.closing(store.watch("a")) as items:
            reveal_type(await anext(items))
        await store.get(5)
        await store.put("a")
        await clock.now(zone=1)
    reveal_type(await rpc.connect("unix:store", Store, reconnect=True))
    reveal_type(rpc.current_call().client(Store))
    async with rpc.serve("unix:c", Clock()) as server:
        reveal_type(server)
"""
EXPECTED = """
note: Revealed type is "program.Store"
note: Revealed type is "int"
note: Revealed type is "float"
note: Revealed type is "bytes"
note: Revealed type is "bytes"
error: Argument 1 to "get" of "Store" has incompatible type "int"; expected "str"
error: "Store" has no attribute "put"
error: Argument "zone" to "now" of "Clock" has incompatible type "int"; expected "str"
note: Revealed type is "program.Store"
note: Revealed type is "program.Store"
note: Revealed type is "aioipc.rpc.server.Server"
"""


def test_mypy_sees_the_interface(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary"]
    done = subprocess.run(
        [*command, "--hide-error-codes", "--config-file=", str(program)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    said = [line.split(": ", 1)[1] for line in done.stdout.splitlines()]
    assert said == EXPECTED.strip().splitlines(), done.stderr
