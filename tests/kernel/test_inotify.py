"""kernel/inotify.py: news about files."""

from __future__ import annotations

import errno
import os
import select
from pathlib import Path

import pytest

from aioipc.kernel.inotify import Event, Inotify, Mask
from aioipc.native._os import inotify_add_watch, inotify_init1


def _is_readable(news: Inotify) -> bool:
    poller = select.poll()
    poller.register(news.fileno(), select.POLLIN)
    return bool(poller.poll(0))


def test_a_directory_tells_what_comes(tmp_path: Path) -> None:
    with Inotify() as news:
        watch = news.watch(str(tmp_path), Mask.CREATE | Mask.MOVED_TO)
        assert not _is_readable(news)
        assert news.take() == []
        (tmp_path / "ä").touch()
        (tmp_path / "ä").rename(tmp_path / "b")
        assert _is_readable(news)
        assert news.take() == [Event(watch, Mask.CREATE, "ä"), Event(watch, Mask.MOVED_TO, "b")]
        assert not _is_readable(news)


def test_a_file_tells_that_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with Inotify() as news:
        watch = news.watch(str(path), Mask.OPEN)
        path.read_bytes()
        assert news.take() == [Event(watch, Mask.OPEN, "")]


def test_the_descriptor_neither_blocks_nor_is_inherited() -> None:
    with Inotify() as news:
        assert not os.get_blocking(news.fileno())
        assert not os.get_inheritable(news.fileno())


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with Inotify() as news, pytest.raises(FileNotFoundError):
        news.watch(str(tmp_path / "missing"), Mask.OPEN)


def test_errors_carry_their_number() -> None:
    with pytest.raises(OSError, match="Invalid argument") as caught:
        inotify_init1(1 << 20)
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        inotify_add_watch(-1, b"/", int(Mask.OPEN))
    assert caught.value.errno == errno.EBADF
