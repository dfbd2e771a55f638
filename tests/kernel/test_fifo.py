"""kernel/fifo.py: opened safely and without waiting."""

from __future__ import annotations

import errno
import os
import select
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aioipc.errors import AccessDenied, AddressError, ConnectError, ResourceExhausted
from aioipc.kernel import fifo as module
from aioipc.kernel import lockfile
from aioipc.kernel.fifo import FifoReader, PendingWriter, open_reader, open_writer
from tests.children import Peers
from tests.kernel.strangers import NOBODY, as_root

READER = """
    import sys
    from aioipc.kernel.fifo import open_reader

    reader = open_reader(sys.argv[1])
    print("reading", flush=True)
    sys.stdin.readline()
"""
SINGLE_WRITER = """
    import os, sys
    from aioipc.kernel.fifo import open_writer

    fd = open_writer(sys.argv[1], single=True)
    os.write(fd, b"from the first")
    print("written", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "fifo")


@pytest.fixture
def reader(path: str) -> Iterator[FifoReader]:
    with open_reader(path) as reader:
        yield reader


def _inherited() -> list[str]:
    return subprocess.check_output(["ls", "/proc/self/fd"], close_fds=False).decode().split()


def _open_writer(path: str, *, single: bool = False) -> int:
    fd = open_writer(path, single=single)
    assert fd is not None
    return fd


class TestReader:
    def test_it_is_made_for_us_alone_and_removed(self, path: str) -> None:
        with open_reader(path) as reader:
            status = os.stat(path)
            assert stat.S_ISFIFO(status.st_mode)
            assert stat.S_IMODE(status.st_mode) == 0o600
            assert reader.path == path
        assert not os.path.exists(path)
        reader.close()

    def test_one_that_was_there_stays(self, path: str) -> None:
        os.mkfifo(path)
        open_reader(path).close()
        assert os.path.exists(path)

    def test_somebody_elses_is_not_removed(self, path: str) -> None:
        with open_reader(path):
            os.unlink(path)
            os.mkfifo(path)
        assert os.path.exists(path)

    def test_it_outlives_its_writers(self, reader: FifoReader, path: str) -> None:
        for text in (b"first", b"second"):
            writer = _open_writer(path)
            os.write(writer, text)
            os.close(writer)
            assert os.read(reader.fileno(), 100) == text
            with pytest.raises(BlockingIOError):
                os.read(reader.fileno(), 100)

    def test_its_descriptors_are_close_on_exec(self, path: str) -> None:
        before = _inherited()
        with open_reader(path):
            assert _inherited() == before

    def test_there_is_one(self, reader: FifoReader, path: str) -> None:
        with pytest.raises(ResourceExhausted, match="has a reader already") as caught:
            open_reader(path)
        assert caught.value.errno == errno.EADDRINUSE
        os.close(_open_writer(path))

    def test_a_killed_one_makes_room(self, path: str, peers: Peers) -> None:
        peer = peers.script(READER, path)
        assert peer.line() == "reading"
        with pytest.raises(ResourceExhausted):
            open_reader(path)
        peer.kill()
        open_reader(path).close()

    def test_one_removed_meanwhile_is_made_again(
        self, path: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = open_reader(path)
        real = lockfile.try_lock

        def lock_late(fd: int) -> bool:
            first.close()
            return real(fd)

        monkeypatch.setattr(module, "try_lock", lock_late)
        with open_reader(path) as second:
            assert os.stat(path).st_ino == os.fstat(second.fileno()).st_ino


class TestWriter:
    def test_nobody_reads(self, path: str) -> None:
        assert open_writer(path) is None
        os.mkfifo(path)
        assert open_writer(path) is None

    def test_it_neither_blocks_nor_is_inherited(self, reader: FifoReader, path: str) -> None:
        writer = _open_writer(path)
        assert not os.get_blocking(writer)
        assert not os.get_inheritable(writer)
        os.close(writer)

    def test_a_single_one_keeps_others_out(self, reader: FifoReader, path: str) -> None:
        writer = _open_writer(path, single=True)
        for single in (True, False):
            with pytest.raises(ConnectError, match=path):
                open_writer(path, single=single)
        os.close(writer)
        os.close(_open_writer(path, single=True))

    def test_a_single_one_does_not_join_others(self, reader: FifoReader, path: str) -> None:
        first, second = _open_writer(path), _open_writer(path)
        with pytest.raises(ConnectError, match="has other writers"):
            open_writer(path, single=True)
        os.close(first)
        os.close(second)

    def test_a_killed_single_one_makes_room(
        self, reader: FifoReader, path: str, peers: Peers
    ) -> None:
        peer = peers.script(SINGLE_WRITER, path)
        assert peer.line() == "written"
        with pytest.raises(ConnectError):
            open_writer(path)
        peer.kill()
        os.close(_open_writer(path))
        assert os.read(reader.fileno(), 100) == b"from the first"


def _is_readable(pending: PendingWriter) -> bool:
    poller = select.poll()
    poller.register(pending.fileno(), select.POLLIN)
    return bool(poller.poll(0))


def _wait(pending: PendingWriter) -> None:
    poller = select.poll()
    poller.register(pending.fileno(), select.POLLIN)
    assert poller.poll(30_000)


class TestWaiting:
    def test_for_a_fifo_and_for_its_reader(self, path: str) -> None:
        with PendingWriter(path) as pending:
            assert pending.try_open() is None
            assert not _is_readable(pending)
            os.mkfifo(path)
            assert _is_readable(pending)
            assert pending.try_open() is None
            assert not _is_readable(pending)
            with open_reader(path):
                assert _is_readable(pending)
                writer = pending.try_open()
                assert writer is not None
                os.close(writer)

    def test_looking_does_not_wake_itself(self, path: str) -> None:
        os.mkfifo(path)
        with PendingWriter(path) as pending:
            for _ in range(100):
                assert pending.try_open() is None
                assert not _is_readable(pending)

    def test_for_a_fifo_in_the_place_of_another(self, path: str, tmp_path: Path) -> None:
        os.mkfifo(path)
        with PendingWriter(path) as pending:
            assert pending.try_open() is None
            os.mkfifo(tmp_path / "new")
            os.rename(tmp_path / "new", path)
            assert _is_readable(pending)
            assert pending.try_open() is None
            with open_reader(path):
                assert _is_readable(pending)
                writer = pending.try_open()
                assert writer is not None
                os.close(writer)

    def test_for_a_reader_in_another_process(self, path: str, peers: Peers) -> None:
        with PendingWriter(path) as pending:
            assert pending.try_open() is None
            peer = peers.script(READER, path)
            while (writer := pending.try_open()) is None:
                _wait(pending)
            os.close(writer)
            peer.kill()

    def test_the_directory_is_missing(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            PendingWriter(str(tmp_path / "missing" / "fifo"))

    def test_closing_twice(self, path: str) -> None:
        pending = PendingWriter(path)
        pending.close()
        pending.close()
        assert pending.fileno() == -1


Opener = Callable[[str], object]


@pytest.mark.parametrize("opener", [open_reader, open_writer], ids=["reader", "writer"])
class TestRefusal:
    def test_a_symlink(self, opener: Opener, path: str, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "target")
        os.symlink("target", path)
        with pytest.raises(AccessDenied, match="is a symlink"):
            opener(path)
        assert os.readlink(path) == "target"

    def test_a_dangling_symlink(self, opener: Opener, path: str, tmp_path: Path) -> None:
        os.symlink("target", path)
        with pytest.raises(AccessDenied, match="is a symlink"):
            opener(path)
        assert not (tmp_path / "target").exists()

    def test_a_regular_file(self, opener: Opener, path: str) -> None:
        Path(path).write_text("untouched")
        with pytest.raises(AccessDenied, match="is no FIFO"):
            opener(path)
        assert Path(path).read_text() == "untouched"

    @as_root
    def test_somebody_elses_fifo(self, opener: Opener, path: str) -> None:
        os.mkfifo(path)
        os.chown(path, NOBODY, NOBODY)
        with pytest.raises(AccessDenied, match=f"belongs to uid {NOBODY}"):
            opener(path)

    def test_a_directory_that_others_may_change(
        self, opener: Opener, path: str, tmp_path: Path
    ) -> None:
        tmp_path.chmod(0o777)
        with pytest.raises(AccessDenied, match="may replace what is in it"):
            opener(path)

    def test_a_path_that_names_no_file(self, opener: Opener, tmp_path: Path) -> None:
        with pytest.raises(AddressError):
            opener(f"{tmp_path}/")

    def test_a_missing_directory(self, opener: Opener, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            opener(str(tmp_path / "missing" / "fifo"))
