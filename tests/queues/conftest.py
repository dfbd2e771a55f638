"""Kernel queues of one test: names of its own, removed at the end; C programs that use them."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import posix_ipc
import pytest
import sysv_ipc

from tests.kernel.strangers import public

__all__ = ["public"]

HERE = Path(__file__).parent
_numbers = itertools.count()


@pytest.fixture
def mq_name() -> Iterator[str]:
    """A name with its slash that only this test knows."""
    name = f"/aioipc-test-{os.getpid()}-{next(_numbers)}"
    yield name
    with contextlib.suppress(posix_ipc.ExistentialError):
        posix_ipc.unlink_message_queue(name)


@pytest.fixture
def sysv_key() -> Iterator[int]:
    """A key that only this test knows, as it does the next one."""
    key = 0x61000000 + os.getpid() % 0x10000 * 0x80 + next(_numbers) * 2 % 0x80
    yield key
    with contextlib.suppress(sysv_ipc.ExistentialError):
        sysv_ipc.MessageQueue(key).remove()
    with contextlib.suppress(sysv_ipc.ExistentialError):
        sysv_ipc.MessageQueue(key + 1).remove()


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Compile a C program of this directory, once."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    folder = tmp_path_factory.mktemp("programs")

    def compile_(name: str) -> Path:
        program = folder / name
        if not program.exists():
            flags = ["-O1", "-Wall", "-Wextra", "-Werror"]
            source = HERE / f"{name}.c"
            subprocess.run([compiler, *flags, "-o", program, source, "-lrt"], check=True)
        return program

    return compile_


@pytest.fixture
def mq_peer(compiled: Callable[[str], Path]) -> Path:
    return compiled("mq_peer")


@pytest.fixture
def sysv_peer(compiled: Callable[[str], Path]) -> Path:
    return compiled("sysv_peer")
