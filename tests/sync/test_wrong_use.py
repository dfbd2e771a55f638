"""What cannot be made is refused at the call, and nothing of it is left."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aioipc import AddressError, sync

POSIX = "/aioipc-wrong"
COUNTED: dict[str, tuple[str, Callable[[Any], object], int, int]] = {
    "semaphore": ("permits", lambda count: sync.Semaphore("x", count), 1, 512),
    "barrier": ("parties", lambda count: sync.Barrier("x", count), 1, 512),
    "anonymous": ("permits", sync.AnonymousSemaphore, 0, 2**32 - 1),
    "POSIX": ("permits", lambda count: sync.PosixSemaphore(POSIX, count), 0, 2**31 - 1),
    "System V": ("permits", lambda count: sync.SysVSemaphore(None, count), 0, 32_767),
    "jobserver": ("jobs", sync.JobServer, 1, 4_096),
}
NAMED: dict[str, Callable[[Any], object]] = {
    "lock": sync.Lock,
    "event": sync.Event,
    "condition": sync.Condition,
    "rwlock": sync.RWLock,
    "file lock": sync.FileLock,
    "POSIX": lambda name: sync.PosixSemaphore(name, 1),
    "System V": lambda name: sync.SysVSemaphore(name, 1),
}


@pytest.mark.parametrize("name", COUNTED)
def test_how_many(name: str) -> None:
    argument, make, least, most = COUNTED[name]
    for wrong in (least - 1, most + 1, -(2**70), 2**70):
        words = f"^{argument} must be between {least:,} and {most:,}, not {wrong:,}$"
        with pytest.raises(ValueError, match=words):
            make(wrong)
    for other in ("3", 3.0, True, float("nan")):
        with pytest.raises(TypeError, match=f"^{argument} must be an int, not {other!r} of type "):
            make(other)
    assert not os.path.exists(f"/dev/shm/sem.{POSIX[1:]}")


@pytest.mark.parametrize("name", NAMED)
def test_what_is_no_name(name: str) -> None:
    make = NAMED[name]
    with pytest.raises(TypeError):
        make(3.5)
    if name != "System V":
        for wrong in ("", "nul\0", "/tmp/nul\0"):
            with pytest.raises(AddressError):
                make(wrong)


@pytest.mark.parametrize("name", ["/", "/..", "/a/b", "a/b", "/" + 252 * "x", "/\udc80\udfff"])
def test_what_no_posix_semaphore_is_called(name: str) -> None:
    with pytest.raises(AddressError, match="wrong semaphore name"):
        sync.PosixSemaphore(name, 1)


def test_what_is_no_key() -> None:
    for wrong in (0, 2**32, 2**40, 2**70, -(2**31) - 1):
        for permits in (None, 1):
            with pytest.raises(AddressError, match=f"32 bits that is not 0, not {wrong:,}$"):
                sync.SysVSemaphore(wrong, permits)
    with pytest.raises(TypeError, match="a key is an int, not bool"):
        sync.SysVSemaphore(True)
    for right in (2**32 - 1, -(2**31)):
        with pytest.raises(AddressError, match="there is no System V semaphore"):
            sync.SysVSemaphore(right)


def test_what_is_no_anonymous_semaphore() -> None:
    plain, pipe = os.eventfd(5), os.pipe()
    for fd, why in (
        (987_654, "not open here"),
        (-1, "not open here"),
        (pipe[0], "no eventfd"),
        (plain, "without EFD_SEMAPHORE"),
    ):
        if fd == plain and "eventfd-semaphore" not in Path(f"/proc/self/fdinfo/{fd}").read_text():
            continue  # the kernel does not tell
        with pytest.raises(ValueError, match=f"^descriptor {fd} is .*{why}"):
            sync.AnonymousSemaphore.from_fd(fd)
    for fd in (plain, *pipe):
        os.close(fd)


def test_regions() -> None:
    for start, length in ((-1, 0), (0, -1), (2**63 - 1, 1), (2**70, 0)):
        with pytest.raises(AddressError, match=f"no region of {length:,} bytes from {start:,}"):
            sync.FileLock("x", start, length)
    for region in (("a", 0), (0, "a"), (0.5, 0)):
        with pytest.raises(TypeError, match="integer"):
            sync.FileLock("x", *region)
