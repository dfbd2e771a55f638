"""Programs in C that say what the machine allows, compiled at their first use."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.harness import pinned_cpus

ROOT = Path(__file__).parents[2]
HEADERS = ROOT / "aioipc" / "native"

COMPILER = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
if COMPILER is None:
    raise ImportError("no C compiler")


@dataclass(frozen=True)
class Program:
    """One file in ``benchmarks/limits``.

    Such a program brings both of its processes itself, and prints JSON. A contender runs it within
    one of the two roles, on the CPUs of both.

    Attributes:
        name: The file's, without its ending.
        header: A file in ``aioipc/native`` that it includes, if any.
    """

    name: str
    header: str | None = None

    @cached_property
    def cpus(self) -> tuple[int, int]:
        """The CPUs of the two roles, as long as this process may use both."""
        return pinned_cpus()

    def ready(self) -> Program:
        """Compile it if need be, and know the CPUs, before a role is pinned to one of them."""
        _ = self.cpus
        shared = [HEADERS / self.header] if self.header else []
        sources = [self._source, *self._source.parent.glob("*.h"), *shared]
        newest = max(source.stat().st_mtime for source in sources)
        if not self._binary.exists() or self._binary.stat().st_mtime < newest:
            self._compile()
        return self

    def run(self, *words: str) -> Any:
        """Run it with these arguments; return what it printed."""
        first, second = self.cpus
        done = subprocess.run(
            [str(self._binary), f"cpus={first},{second}", *words], check=True, capture_output=True
        )
        return json.loads(done.stdout)

    @property
    def _source(self) -> Path:
        return ROOT / "benchmarks" / "limits" / f"{self.name}.c"

    @property
    def _binary(self) -> Path:
        return ROOT / ".build" / self.name

    def _compile(self) -> None:
        self._binary.parent.mkdir(exist_ok=True)
        fresh = self._binary.with_suffix(f".{os.getpid()}")
        options = ["-O3", "-std=gnu11", "-I", str(HEADERS), str(self._source), "-o", str(fresh)]
        subprocess.run([str(COMPILER), *options], check=True)
        fresh.replace(self._binary)
