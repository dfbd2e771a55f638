"""Compile a program around a native header, or around a copy with a bug in it."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
_NATIVE = HERE.parents[1] / "aioipc" / "native"
_CACHE = HERE.parents[1] / ".build" / "ring"


@dataclass(frozen=True)
class Subject:
    """What programs are about.

    Attributes:
        folder: Where they are.
        header: What they include, each of them.
    """

    folder: Path
    header: Path


RING = Subject(HERE.parent / "ring", _NATIVE / "ring.h")
BROADCAST = Subject(HERE.parent / "broadcast", _NATIVE / "broadcast.h")
HEADER = RING.header

_COMMON = ("-std=gnu11", "-O2", "-g", "-pthread")
_STRICT = ("-Wall", "-Wextra", "-Wshadow", "-Werror")
SANITIZERS = {
    "": (),
    "thread": ("-fsanitize=thread",),
    "address": ("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
}


@dataclass(frozen=True)
class Mutation:
    """A bug that somebody could have written.

    Attributes:
        old: What stands in the header; exactly once, or the bug is out of date.
        new: What stands there instead.
    """

    old: str
    new: str

    def apply(self, text: str) -> str:
        found = text.count(self.old)
        assert found == 1, f"the header has {found} times, not once: {self.old}"
        return text.replace(self.old, self.new)


class Unavailable(Exception):
    """This machine lacks what it takes to compile a program; the message says what."""


@functools.cache
def compiler() -> str:
    """The C compiler.

    Raises:
        Unavailable: There is none.
    """
    for name in (os.environ.get("CC", "cc"), "gcc", "clang"):
        if found := shutil.which(name):
            return found
    raise Unavailable("no C compiler: neither $CC nor cc, gcc or clang")


@functools.cache
def require(sanitizer: str) -> None:
    """Check that programs with this sanitizer compile and run.

    Raises:
        Unavailable: They do not.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder, "trivial.c"), Path(folder, "trivial")
        source.write_text("int main(void) { return 0; }\n")
        command = [compiler(), *SANITIZERS[sanitizer], str(source), "-o", str(program)]
        for step in (command, [str(program)]):
            done = subprocess.run(step, check=False, capture_output=True, text=True)
            if done.returncode != 0:
                said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
                raise Unavailable(f"no -fsanitize={sanitizer}: {said[-1]}")


@functools.cache
def program(
    source: str,
    *,
    subject: Subject = RING,
    sanitizer: str = "",
    mutation: Mutation | None = None,
    shared: bool = False,
) -> Path:
    """Compile a source; what did not change is not compiled again.

    Args:
        source: Name of the file, in the folder of the subject.
        subject: What it is about.
        sanitizer: A key of `SANITIZERS`.
        mutation: The bug to put into the header.
        shared: Make a library for ctypes.

    Raises:
        Unavailable: There is no compiler, or no such sanitizer.
    """
    require(sanitizer)
    header = subject.header.read_text()
    if mutation is not None:
        header = mutation.apply(header)
    flags = (*_COMMON, *SANITIZERS[sanitizer], *(("-shared", "-fPIC") if shared else ()))
    flags += _STRICT if mutation is None else ("-w",)  # a bug may look like one
    path = subject.folder / source
    inputs = [compiler(), *flags, header, *(file.read_text() for file in _sources(subject, path))]
    name = hashlib.sha256("\0".join(inputs).encode()).hexdigest()[:24]
    target = _CACHE / f"{subject.folder.name}-{path.stem}-{name}"
    if not target.exists():
        _compile(path, {subject.header.name: header}, flags, target)
    return target


def _sources(subject: Subject, source: Path) -> list[Path]:
    """All that the program is made of, but for the header; one header may include another."""
    folders = (subject.folder, HERE, _NATIVE)
    return [source, *(file for folder in folders for file in sorted(folder.glob("*.h")))]


def _compile(source: Path, headers: dict[str, str], flags: tuple[str, ...], target: Path) -> None:
    """Compile beside the target and move it there, for whoever else does the same just now."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        for name, text in headers.items():
            Path(folder, name).write_text(text)
        made = Path(folder, "made")
        where = [f"-I{folder}", f"-I{HERE}", f"-I{_NATIVE}"]
        command = [compiler(), *flags, *where, str(source), "-o", str(made)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"
        made.replace(target)
