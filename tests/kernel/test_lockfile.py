"""kernel/lockfile.py: one holder, whatever dies and whatever is removed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from aioipc.errors import AccessDenied
from aioipc.kernel import lockfile
from aioipc.kernel.directory import Directory, open_trusted
from aioipc.kernel.lockfile import try_guard
from tests.children import Peers
from tests.kernel.strangers import NOBODY, as_root

HOLDER = """
    import sys
    from aioipc.kernel.directory import open_trusted
    from aioipc.kernel.lockfile import try_guard

    directory = open_trusted(sys.argv[1])
    guard = try_guard(directory, "guard")
    print("held" if guard else "refused", flush=True)
    sys.stdin.readline()
"""

# Takes and removes the guard again and again. "inside" must never be there twice.
CONTENDER = """
    import os, sys
    from aioipc.kernel.directory import open_trusted
    from aioipc.kernel.lockfile import try_guard

    directory = open_trusted(sys.argv[1])
    print("ready", flush=True)
    sys.stdin.readline()
    taken = 0
    while taken < int(sys.argv[2]):
        guard = try_guard(directory, "guard")
        if guard is None:
            os.sched_yield()
            continue
        os.close(directory.open("inside", os.O_CREAT | os.O_EXCL))
        directory.unlink("inside")
        taken += 1
        guard.remove(directory) if taken % 2 else guard.close()
    print("overlaps: 0", flush=True)
"""


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Directory]:
    with open_trusted(str(tmp_path)) as directory:
        yield directory


def test_there_is_one_holder(directory: Directory) -> None:
    guard = try_guard(directory, "guard")
    assert guard is not None
    assert try_guard(directory, "guard") is None
    guard.close()
    again = try_guard(directory, "guard")
    assert again is not None
    again.close()


def test_closing_another_descriptor_of_the_file_releases_nothing(directory: Directory) -> None:
    with try_guard(directory, "guard") or pytest.fail("not free"):
        os.close(directory.open("guard", os.O_RDWR))
        assert try_guard(directory, "guard") is None


def test_removing_leaves_no_file(directory: Directory, tmp_path: Path) -> None:
    guard = try_guard(directory, "guard")
    assert guard is not None
    guard.remove(directory)
    guard.remove(directory)
    assert list(tmp_path.iterdir()) == []


def test_only_our_own_file_is_removed(directory: Directory, tmp_path: Path) -> None:
    guard = try_guard(directory, "guard")
    assert guard is not None
    (tmp_path / "guard").unlink()
    newcomer = try_guard(directory, "guard")
    assert newcomer is not None
    guard.remove(directory)
    assert try_guard(directory, "guard") is None
    newcomer.remove(directory)


def test_a_file_removed_while_it_is_taken_does_not_count(
    directory: Directory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = try_guard(directory, "guard")
    assert first is not None
    locked = []
    real = lockfile.try_lock

    def try_lock_late(fd: int) -> bool:
        # The holder removes the file after we opened it and before we lock it.
        first.remove(directory)
        locked.append(fd)
        return real(fd)

    monkeypatch.setattr(lockfile, "try_lock", try_lock_late)
    guard = try_guard(directory, "guard")
    assert guard is not None
    assert len(locked) == 2
    assert directory.identity("guard") == guard.identity
    guard.remove(directory)


def test_a_killed_holder_releases(directory: Directory, tmp_path: Path, peers: Peers) -> None:
    holder = peers.script(HOLDER, tmp_path)
    assert holder.line() == "held"
    assert try_guard(directory, "guard") is None
    holder.kill()
    guard = try_guard(directory, "guard")
    assert guard is not None
    guard.remove(directory)


def test_never_two_holders_while_the_file_comes_and_goes(tmp_path: Path, peers: Peers) -> None:
    contenders = [peers.script(CONTENDER, tmp_path, 1_000) for _ in range(4)]
    for contender in contenders:
        assert contender.line() == "ready"
    for contender in contenders:
        contender.tell("go")
    for contender in contenders:
        assert contender.line() == "overlaps: 0"


def test_a_forked_child_does_not_hold_it(peers: Peers, tmp_path: Path) -> None:
    peer = peers.script(
        """
        import os, sys
        from aioipc.kernel.directory import open_trusted
        from aioipc.kernel.lockfile import try_guard

        directory = open_trusted(sys.argv[1])
        guard = try_guard(directory, "guard")
        go_read, go_write = os.pipe()
        if os.fork() == 0:
            os.read(go_read, 1)
            os._exit(0)
        guard.close()
        print("free" if try_guard(directory, "guard") else "held", flush=True)
        os.write(go_write, b"x")
        os.wait()
        """,
        tmp_path,
    )
    assert peer.line() == "free"
    assert peer.wait() == 0


def test_a_symlink_is_refused(directory: Directory, tmp_path: Path) -> None:
    (tmp_path / "target").write_text("theirs")
    (tmp_path / "guard").symlink_to("target")
    with pytest.raises(AccessDenied, match="is a symlink"):
        try_guard(directory, "guard")
    assert (tmp_path / "target").read_text() == "theirs"


def test_something_that_is_no_file_is_refused(directory: Directory, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "guard")
    with pytest.raises(AccessDenied, match="is not a file"):
        try_guard(directory, "guard")


@as_root
def test_somebody_elses_file_is_refused(directory: Directory, tmp_path: Path) -> None:
    (tmp_path / "guard").touch()
    os.chown(tmp_path / "guard", NOBODY, NOBODY)
    with pytest.raises(AccessDenied, match="is not a file of uid"):
        try_guard(directory, "guard")
