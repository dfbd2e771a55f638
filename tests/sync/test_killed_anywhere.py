"""Killed before or after any system call of taking and releasing: the next one has it at once.

The child runs from one stop to the next under ptrace(2), so each kill hits the same point again.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aioipc import WouldBlock, sync
from aioipc.memory import SharedValue
from tests.scale import SCALE

EVERY = 1 if SCALE >= 1 else 7
"""How many stops lie between two kills; where they begin is random."""

TRACE_ME, NEXT_CALL = 0, 24
OUTSIDE, INSIDE, BETWEEN = range(3)

libc = ctypes.CDLL(None, use_errno=True)

Step = Callable[[int], None]
"""Says where the child is."""


def hold(subject: Any, at: Step, *, take: str = "acquire_nowait") -> None:
    at(BETWEEN)
    guard = getattr(subject, take)()
    at(INSIDE)
    if isinstance(subject, sync.Condition):
        subject.notify()
    at(BETWEEN)
    guard.release()
    at(OUTSIDE)
    subject.close()


def read(subject: sync.RWLock, at: Step) -> None:
    hold(subject, lambda step: None, take="acquire_reading_nowait")


def write(subject: sync.RWLock, at: Step) -> None:
    hold(subject, at, take="acquire_writing_nowait")


def flag(event: sync.Event, at: Step) -> None:
    event.set()
    event.clear()
    event.close()


def assign(value: SharedValue[str], at: Step) -> None:
    for text in ("a" * 1000, "b" * 1000):
        value.set(text)
    value.close()


def may_be_taken(subject: Any, was: int | None, *, take: str = "acquire_nowait") -> None:
    guard = getattr(subject, take)()
    if was == INSIDE:
        assert guard.owner_died
    if was == OUTSIDE:
        assert not guard.owner_died
    guard.mark_consistent()
    guard.release()


def may_be_written(lock: sync.RWLock, was: int) -> None:
    may_be_taken(lock, was, take="acquire_writing_nowait")


def is_whole(event: sync.Event, was: int) -> None:
    event.set()
    assert event.is_set()
    event.clear()
    assert not event.is_set()


def is_one_of_them(value: SharedValue[str], was: int) -> None:
    with contextlib.suppress(WouldBlock):  # it had not set it yet
        assert value.get() in ("a" * 1000, "b" * 1000)
    value.set("c")
    assert value.get() == "c"


KINDS: dict[str, tuple[Callable[[], Any], Callable[..., None], Callable[..., None]]] = {
    "lock": (lambda: sync.Lock("x"), hold, may_be_taken),
    "semaphore": (lambda: sync.Semaphore("x", 1), hold, may_be_taken),
    "condition": (lambda: sync.Condition("x"), hold, may_be_taken),
    "writer": (lambda: sync.RWLock("x"), write, may_be_written),
    "reader": (lambda: sync.RWLock("x"), read, may_be_written),
    "event": (lambda: sync.Event("x"), flag, is_whole),
    "value": (lambda: SharedValue[str]("x"), assign, is_one_of_them),
    "file": (
        lambda: sync.FileLock(os.environ["AIOIPC_RUNTIME_DIR"] + "/data"),
        hold,
        lambda lock, was: may_be_taken(lock, None),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_next_one_has_it_at_once(kind: str, runtime_dir: Path, chance: random.Random) -> None:
    make, use, check = KINDS[kind]
    with mmap.mmap(-1, 1) as page:
        stop = chance.randrange(EVERY)
        kills = 0
        while killed_at(stop, lambda: use(make(), lambda step: page.__setitem__(0, step)), page):
            subject = make()
            check(subject, page[0])
            subject.close()
            (runtime_dir / "data").unlink(missing_ok=True)
            left = [path for path in runtime_dir.rglob("*") if not path.is_dir()]
            assert left == [], f"after stop {stop}"
            kills += 1
            stop += EVERY
    assert kills > 20 // EVERY
    (runtime_dir / "data").unlink(missing_ok=True)


def killed_at(stop: int, run: Callable[[], None], page: mmap.mmap) -> bool:
    """Run something in a child up to a stop, and kill it; False if it ended before that."""
    page[0] = OUTSIDE
    pid = os.fork()
    if pid == 0:
        try:
            if libc.ptrace(TRACE_ME, 0, None, None) != 0:
                os._exit(3)
            os.kill(os.getpid(), signal.SIGSTOP)
            run()
            os._exit(0)
        finally:
            os._exit(2)
    status = 0
    for stops_left in range(stop, -1, -1):
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status):
            break
        if stops_left:
            libc.ptrace(NEXT_CALL, pid, None, None)
    else:
        os.kill(pid, signal.SIGKILL)
        while not os.WIFSIGNALED(status):
            _, status = os.waitpid(pid, 0)
        return True
    if os.WEXITSTATUS(status) == 3:
        pytest.skip("this process may not trace its children")
    assert os.WEXITSTATUS(status) == 0
    return False
