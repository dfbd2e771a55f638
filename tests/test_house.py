"""The rules of the house: the top level, the floors, the face, what an import costs."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import aioipc
from tests.children import Peers

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "aioipc"
MODULES = sorted(PACKAGE.rglob("*.py"))
STUBS = sorted(PACKAGE.rglob("*.pyi"))
NATIVE = sorted([*PACKAGE.rglob("*.pyx"), *PACKAGE.rglob("*.pxd")])

TOP_LEVEL = {
    *("pyproject.toml", "Makefile", "README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md"),
    *("aioipc", "tests", "examples", "docs", "benchmarks"),
}

FD_FLOORS = {"kernel", "loop", "transports"}
FD_CALLS = {
    *("open", "close", "closerange", "fdopen", "dup", "dup2", "pipe", "pipe2", "openpty"),
    *("read", "readv", "pread", "preadv", "write", "writev", "pwrite", "pwritev"),
    *("sendfile", "splice", "copy_file_range", "lseek", "ftruncate", "memfd_create"),
    *("eventfd", "eventfd_read", "eventfd_write", "pidfd_open", "set_blocking"),
    *("set_inheritable", "get_blocking", "get_inheritable"),
}

NATIVE_MAY_IMPORT = re.compile(
    r"aioipc\.(native|errors|abc|limits|address)\b|cpython\b|cython\b|libc\b|posix\b"
    r"|(collections|contextvars|itertools|operator|os|sys|threading|time|types|typing|weakref)\b"
)
MOST_MODULES_ADDED = 68
STRANGERS_TO_NATIVE = ["errors.py", "abc.py", "limits.py", "address.py", "wire", "codecs"]


def ids(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(PACKAGE)) for path in paths]


def imports(path: Path) -> Iterator[str]:
    """Name what a file imports: ``a.b`` for ``import a.b`` and for ``from a import b``."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def native_imports(path: Path) -> Iterator[str]:
    """Name every module that a Cython file imports or cimports."""
    for line in path.read_text().splitlines():
        if match := re.match(r"\s*from\s+([\w.]+)\s+c?import\b", line):
            yield match[1]
        elif match := re.match(r"\s*c?import\s+([\w., ]+)", line):
            yield from (name.split()[0] for name in match[1].split(","))


def test_top_level() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if tracked.returncode:
        pytest.skip("not a git checkout")
    names = {line.partition("/")[0] for line in tracked.stdout.splitlines()}
    assert {name for name in names if not name.startswith(".")} <= TOP_LEVEL


@pytest.mark.parametrize("path", [*MODULES, *PACKAGE.rglob("*.pyx")], ids=str)
def test_every_module_has_a_docstring(path: Path) -> None:
    text = path.read_text()
    if path.suffix == ".pyx":
        text = re.sub(r"\A(#.*\n|\s)*", "", text)
        assert text.startswith('"""')
    else:
        assert ast.get_docstring(ast.parse(text))


def test_import_rules() -> None:
    result = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("path", MODULES, ids=ids(MODULES))
def test_nobody_inside_imports_the_face(path: Path) -> None:
    inside = {f"aioipc.{child.stem}" for child in PACKAGE.iterdir()}
    for name in imports(path):
        assert name != "aioipc"
        if name.startswith("aioipc."):
            assert ".".join(name.split(".")[:2]) in inside


@pytest.mark.parametrize("path", MODULES, ids=ids(MODULES))
def test_nobody_reaches_into_another_pattern(path: Path) -> None:
    """What patterns have for each other, and for the tools, is no private module."""
    own = path.relative_to(PACKAGE).parts[0]
    for name in imports(path):
        reached = re.match(r"aioipc\.(rpc|pubsub|queues|sync|memory|process)\._", name)
        assert not reached or reached[1] == own, f"{name} is private"


@pytest.mark.parametrize("path", MODULES, ids=ids(MODULES))
def test_descriptors_are_touched_on_floors_2_to_4_only(path: Path) -> None:
    if path.relative_to(PACKAGE).parts[0] in FD_FLOORS:
        return
    calls = [
        node.attr
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
    ]
    assert not FD_CALLS & {*calls}
    assert not FD_CALLS & {name.removeprefix("os.") for name in imports(path) if "os." in name}


@pytest.mark.parametrize("path", NATIVE, ids=ids(NATIVE))
def test_native_code_imports_only_words(path: Path) -> None:
    """import-linter reads no Cython, so the floor of native code is checked here."""
    for name in native_imports(path):
        assert NATIVE_MAY_IMPORT.match(name), f"{path.name} imports {name}"


def test_every_native_module_is_built_and_has_a_stub() -> None:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())
    built = {entry["name"] for entry in table["tool"]["setuptools"]["ext-modules"]}
    native = PACKAGE / "native"
    assert built == {f"aioipc.native.{path.stem}" for path in native.glob("*.pyx")}
    assert built == {f"aioipc.native.{path.stem}" for path in native.glob("*.pyi")}


@pytest.mark.parametrize("path", STUBS, ids=ids(STUBS))
def test_stubs_name_only_what_exists(path: Path) -> None:
    def check(body: list[ast.stmt], owner: object) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef):
                check(node.body, getattr(owner, node.name))
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                # The buffer protocol of a native type has this name since Python 3.12.
                there = hasattr(owner, node.name) or node.name == "__buffer__"
                assert there, f"{owner} has no {node.name}"
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                assert hasattr(owner, node.target.id), f"{owner} has no {node.target.id}"

    check(ast.parse(path.read_text()).body, importlib.import_module(f"aioipc.native.{path.stem}"))


@pytest.mark.parametrize("place", STRANGERS_TO_NATIVE)
def test_words_wire_and_codecs_do_without_native_code(place: str) -> None:
    path = PACKAGE / place
    for module in [path] if path.suffix else path.rglob("*.py"):
        assert not [name for name in imports(module) if name.startswith("aioipc.native")]


def test_every_name_of_the_face_exists() -> None:
    assert len(aioipc.__all__) == len(set(aioipc.__all__))
    for name in aioipc.__all__:
        assert getattr(aioipc, name) is not None


def test_what_an_import_costs(peers: Peers) -> None:
    """Counted in modules, because a time would depend on the machine."""
    peer = peers.script("""
        import sys, asyncio
        before = set(sys.modules)
        import aioipc
        print(*sorted(set(sys.modules) - before))
    """)
    added = peer.rest().split()
    assert peer.wait() == 0
    roots = {name.partition(".")[0] for name in added}
    assert not roots & {"numpy", "click", "rich", "uvloop", "multiprocessing", "posix_ipc"}
    assert "importlib.metadata" not in added, "brings email, zipfile and csv; look up plugins late"
    ours = [name for name in added if name.partition(".")[0] not in sys.stdlib_module_names]
    assert len(ours) < MOST_MODULES_ADDED, ours  # CPython's own are other ones in each version
