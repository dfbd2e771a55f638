"""Fixtures for pytest: say ``pytest_plugins = ["aioipc.testing.plugin"]`` in your conftest.py.

It is not loaded by itself, so that other projects in the same environment pay nothing for it, and
none of its fixtures is used unless a test asks.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aioipc.testing.residue import Snapshot, residue
from aioipc.transports import FAMILIES

__all__ = ["aioipc_address", "aioipc_no_residue", "aioipc_runtime_dir", "private_runtime_dir"]


@contextlib.contextmanager
def private_runtime_dir() -> Iterator[Path]:
    """A runtime directory of its own, with a path short enough for sockets; removed at the end."""
    path = Path(tempfile.mkdtemp(prefix="aioipc-"))
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AIOIPC_RUNTIME_DIR", str(path))
            yield path
    finally:
        shutil.rmtree(path)


@pytest.fixture
def aioipc_runtime_dir() -> Iterator[Path]:
    """The runtime directory of this test alone, where bare names live."""
    with private_runtime_dir() as path:
        yield path


@pytest.fixture
def aioipc_address(aioipc_runtime_dir: Path) -> Callable[[str], str]:
    """Makes an address to listen on that nobody else has, of a scheme: ``aioipc_address("unix")``.

    What a listener there says in ``listener.address`` is where to connect.
    """

    def address(scheme: str) -> str:
        if scheme in ("tcp", "udp"):
            return f"{scheme}://127.0.0.1:0"
        if scheme == "fifo":
            return f"fifo:{tempfile.mkdtemp(dir=aioipc_runtime_dir)}/fifo"
        if scheme in FAMILIES:
            return f"{scheme}:"
        raise ValueError(f"there is no scheme {scheme!r}; known are {', '.join(FAMILIES)}")

    return address


@pytest.fixture
def aioipc_no_residue(aioipc_runtime_dir: Path) -> Iterator[None]:
    """Fail the test that leaves a descriptor, a thread, a process, shared memory or a name behind.

    Ask for it before other fixtures, so that these are torn down first.
    """
    before = Snapshot()
    yield
    found = residue(before, aioipc_runtime_dir)
    if found:
        pytest.fail("the test left behind:\n" + "\n".join(found), pytrace=False)
