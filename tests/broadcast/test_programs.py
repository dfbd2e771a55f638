"""The C programs around broadcast.h: races, wake-ups, lies, death; and the bugs they find."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.broadcast.catalogue import CHECKS, STEPS
from tests.scale import patience_s
from tests.verify.build import BROADCAST
from tests.verify.checks import Check, passes

pytestmark = pytest.mark.timeout(patience_s(60))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_program(check: Check) -> None:
    passes(check)


def test_every_step_has_a_name_of_its_own() -> None:
    for steps in STEPS:
        assert len(set(steps)) == len(steps)
        assert len(steps) >= 8


@pytest.mark.parametrize("name", ["cc", "gcc", "clang"])
def test_the_header_compiles_without_a_warning(name: str, tmp_path: Path) -> None:
    if shutil.which(name) is None:
        pytest.skip(f"no {name}")
    source = tmp_path / "includes.c"
    source.write_text('#include "broadcast.h"\n#include "ring.h"\nint main(void) { return 0; }\n')
    flags = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror", "-O2"]
    where = [f"-I{BROADCAST.header.parent}", str(source), "-o", str(tmp_path / "includes")]
    for standard in ("c11", "gnu11", "c17"):
        command = [name, f"-std={standard}", *flags, *where]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
