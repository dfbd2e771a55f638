"""kernel/runtime_dir.py and kernel/directory.py: whom a directory lets in."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from aioipc.errors import AccessDenied
from aioipc.kernel.directory import open_private, open_trusted
from aioipc.kernel.runtime_dir import open_runtime_dir, runtime_path
from tests.kernel.strangers import NOBODY, as_root


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the runtime directory is going to be."""
    path = tmp_path / "runtime"
    monkeypatch.setenv("AIOIPC_RUNTIME_DIR", str(path))
    return path


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


class TestPath:
    def test_the_environment_decides(self, place: Path) -> None:
        assert runtime_path() == str(place)

    def test_else_the_session_directory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AIOIPC_RUNTIME_DIR")
        session = f"/run/user/{os.geteuid()}"
        monkeypatch.setattr(os.path, "isdir", lambda path: path == session)
        assert runtime_path() == f"{session}/aioipc"

    def test_else_the_temporary_directory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AIOIPC_RUNTIME_DIR")
        monkeypatch.setattr(os.path, "isdir", lambda _path: False)
        monkeypatch.setenv("TMPDIR", "/elsewhere")
        assert runtime_path() == f"/elsewhere/aioipc-{os.geteuid()}"
        monkeypatch.delenv("TMPDIR")
        assert runtime_path() == f"/tmp/aioipc-{os.geteuid()}"


class TestOpening:
    def test_it_is_made_for_us_alone(self, place: Path) -> None:
        old = os.umask(0)
        try:
            open_runtime_dir().close()
        finally:
            os.umask(old)
        assert _mode(place) == 0o700

    def test_it_is_found_again(self, place: Path) -> None:
        with open_runtime_dir() as first, open_runtime_dir(create=False) as second:
            assert os.path.sameopenfile(first.fileno(), second.fileno())

    def test_subdirectories_are_made_on_demand(self, place: Path) -> None:
        with open_runtime_dir("sync", "mutex") as directory:
            assert directory.path == str(place / "sync" / "mutex")
        assert _mode(place / "sync") == _mode(place / "sync" / "mutex") == 0o700

    def test_nothing_is_made_unless_asked(self, place: Path) -> None:
        with pytest.raises(FileNotFoundError):
            open_runtime_dir("socket", create=False)
        assert not place.exists()

    def test_the_descriptor_is_close_on_exec(self, place: Path) -> None:
        with open_runtime_dir() as directory:
            assert not os.get_inheritable(directory.fileno())

    def test_a_missing_parent_is_an_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AIOIPC_RUNTIME_DIR", str(tmp_path / "a" / "b"))
        with pytest.raises(FileNotFoundError):
            open_runtime_dir()


class TestRefusal:
    @pytest.mark.parametrize("mode", [0o750, 0o701, 0o770, 0o777, 0o1777])
    def test_others_may_enter(self, place: Path, mode: int) -> None:
        place.mkdir()
        place.chmod(mode)
        with pytest.raises(AccessDenied, match=f"mode {mode:04o}") as caught:
            open_runtime_dir("socket")
        assert caught.value.errno == errno.EACCES
        assert _mode(place) == mode
        assert list(place.iterdir()) == []

    def test_it_is_a_symlink(self, place: Path, tmp_path: Path) -> None:
        target = tmp_path / "target"
        target.mkdir(mode=0o700)
        place.symlink_to(target)
        with pytest.raises(AccessDenied, match="is not a directory"):
            open_runtime_dir("socket")
        assert list(target.iterdir()) == []

    def test_it_is_a_file(self, place: Path) -> None:
        place.write_text("mine")
        with pytest.raises(AccessDenied, match="is not a directory"):
            open_runtime_dir()
        assert place.read_text() == "mine"

    @as_root
    def test_somebody_else_owns_it(self, place: Path) -> None:
        place.mkdir(mode=0o700)
        os.chown(place, NOBODY, NOBODY)
        with pytest.raises(AccessDenied, match=f"belongs to uid {NOBODY}"):
            open_runtime_dir("socket")
        assert list(place.iterdir()) == []

    def test_a_subdirectory_is_a_symlink(self, place: Path, tmp_path: Path) -> None:
        target = tmp_path / "target"
        target.mkdir(mode=0o700)
        place.mkdir(mode=0o700)
        (place / "socket").symlink_to(target)
        with pytest.raises(AccessDenied):
            open_runtime_dir("socket")


class TestTrust:
    """`open_trusted`, for paths that the user chose."""

    def test_ours_is_trusted(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o755)
        open_trusted(str(tmp_path)).close()

    def test_a_sticky_directory_is_trusted(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o1777)
        open_trusted(str(tmp_path)).close()

    @pytest.mark.parametrize("mode", [0o720, 0o702, 0o777, 0o2775])
    def test_one_that_others_may_change_is_not(self, tmp_path: Path, mode: int) -> None:
        tmp_path.chmod(mode)
        with pytest.raises(AccessDenied, match="may replace what is in it"):
            open_trusted(str(tmp_path))
        with pytest.raises(AccessDenied):
            open_trusted(str(tmp_path), any_owner=True)

    @as_root
    def test_somebody_elses_is_not_unless_he_is_checked_otherwise(self, tmp_path: Path) -> None:
        os.chown(tmp_path, NOBODY, NOBODY)
        with pytest.raises(AccessDenied, match=f"belongs to uid {NOBODY}"):
            open_trusted(str(tmp_path))
        open_trusted(str(tmp_path), any_owner=True).close()

    def test_symlinks_on_the_way_lead_to_what_is_checked(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir(mode=0o777)
        (tmp_path / "real").chmod(0o777)
        (tmp_path / "link").symlink_to("real")
        with pytest.raises(AccessDenied):
            open_trusted(str(tmp_path / "link"))
        (tmp_path / "real").chmod(0o700)
        open_trusted(str(tmp_path / "link")).close()


class TestDirectory:
    def test_it_stays_the_one_that_was_opened(self, tmp_path: Path) -> None:
        with open_private(str(tmp_path / "a"), create=True) as directory:
            (tmp_path / "a").rename(tmp_path / "b")
            (tmp_path / "a").mkdir()
            os.close(directory.open("file", os.O_WRONLY | os.O_CREAT))
            Path(directory.through_proc("other")).touch()
            assert sorted(os.listdir(tmp_path / "b")) == ["file", "other"]
            assert os.listdir(tmp_path / "a") == []

    def test_it_does_not_open_through_a_symlink(self, tmp_path: Path) -> None:
        (tmp_path / "target").touch()
        (tmp_path / "link").symlink_to("target")
        with (
            open_trusted(str(tmp_path)) as directory,
            pytest.raises(AccessDenied, match="is a symlink"),
        ):
            directory.open("link", os.O_RDONLY)

    def test_it_removes_only_the_file_that_is_meant(self, tmp_path: Path) -> None:
        (tmp_path / "name").touch()
        with open_trusted(str(tmp_path)) as directory:
            identity = directory.identity("name")
            assert identity is not None
            (tmp_path / "other").touch()
            (tmp_path / "other").rename(tmp_path / "name")
            directory.unlink_if("name", identity)
            assert (tmp_path / "name").exists()
            newer = directory.identity("name")
            assert newer is not None
            directory.unlink_if("name", newer)
            assert not (tmp_path / "name").exists()
            directory.unlink_if("name", newer)
