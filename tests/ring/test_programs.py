"""The C programs around ring.h: races, wake-ups, hostile memory, death; and the bugs they find."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.ring.catalogue import CHECKS, STEPS
from tests.scale import patience_s
from tests.verify.build import HEADER, compiler
from tests.verify.checks import Check, passes

pytestmark = pytest.mark.timeout(patience_s(60))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_program(check: Check) -> None:
    passes(check)


def test_every_step_has_a_name_of_its_own() -> None:
    for steps in STEPS:
        assert len(set(steps)) == len(steps)
        assert len(steps) > 8


@pytest.mark.parametrize("name", ["cc", "gcc", "clang"])
@pytest.mark.parametrize("standard", ["c11", "gnu11", "c17"])
def test_the_header_compiles_without_a_warning(name: str, standard: str, tmp_path: Path) -> None:
    if shutil.which(name) is None:
        pytest.skip(f"no {name}")
    source = tmp_path / "includes.c"
    source.write_text('#include "ring.h"\n#include "ring.h"\nint main(void) { return 0; }\n')
    flags = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror", "-O2"]
    command = [name, f"-std={standard}", *flags, f"-I{HEADER.parent}", str(source)]
    done = subprocess.run(
        [*command, "-o", str(tmp_path / "includes")], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_limit_program_runs(tmp_path: Path) -> None:
    source = HEADER.parents[2] / "benchmarks" / "limits" / "ring_limit.c"
    program = tmp_path / "ring_limit"
    flags = ["-O3", "-std=gnu11", "-Wall", "-Wextra", "-Werror", f"-I{HEADER.parent}"]
    subprocess.run([compiler(), *flags, str(source), "-o", str(program)], check=True)
    done = subprocess.run(
        [program, "milliseconds=20"], check=True, capture_output=True, text=True, timeout=60
    )
    figures = json.loads(done.stdout)
    for size in ("16", "1024", "65536", "1048576"):
        assert min(figures[size].values()) > 0


def test_there_is_a_compiler() -> None:
    """Not a skip: the native modules are built on every machine that runs the tests."""
    assert compiler()
