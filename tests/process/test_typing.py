"""What type checkers see of pools, maps and runs: the user's own types."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
from typing import Protocol
from aioipc import process

class Model(Protocol):
    async def predict(self, x: float) -> list[str]: ...

class Implementation:
    def predict(self, x: float) -> list[str]:
        return []

def plain(x: int, *, y: str = "") -> bytes:
    return b""

async def later(x: int) -> bytes:
    return b""

async def main() -> None:
    async with process.pool(Implementation, Model, size=4) as model:
        reveal_type(model)
        reveal_type(await model.predict(1.0))
        reveal_type(await process.map(model.predict, [1.0]))
        async with process.imap_unordered(model.predict, [1.0]) as results:
            async for result in results:
                reveal_type(result)
        await model.predict("a")
        await process.map(model.predict, ["a"])
        reveal_type(process.pool_of(model).statistics().calls)
    reveal_type(await process.run(plain, 1, y="a"))
    reveal_type(await process.run(later, 1))
    await process.run(plain, 1, z=2)
"""
EXPECTED = """
note: Revealed type is "program.Model"
note: Revealed type is "list[str]"
note: Revealed type is "list[list[str]]"
note: Revealed type is "list[str]"
note: Revealed type is "int"
note: Revealed type is "bytes"
note: Revealed type is "bytes"
"""
WRONG = {
    'await model.predict("a")',
    'await process.map(model.predict, ["a"])',
    "await process.run(plain, 1, z=2)",
}


def test_mypy_sees_the_users_types(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary"]
    done = subprocess.run(
        [*command, "--hide-error-codes", "--config-file=", "program.py"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    said = [line.split(":", 2) for line in done.stdout.splitlines()]
    revealed = [text.strip() for _, _, text in said if "Revealed type" in text]
    assert revealed == EXPECTED.strip().splitlines(), done.stdout
    lines = PROGRAM.splitlines()
    refused = {lines[int(number) - 1].strip() for _, number, text in said if " error: " in text}
    assert refused == WRONG, done.stdout
