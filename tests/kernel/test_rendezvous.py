"""kernel/rendezvous.py: who serves a name, and who is found there."""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aioipc.errors import AccessDenied, AddressError, ConnectError, ResourceExhausted
from aioipc.kernel.credentials import peer_credentials
from aioipc.kernel.directory import Directory
from aioipc.kernel.rendezvous import bind_unix, check_path
from tests.children import Peer, Peers
from tests.kernel.strangers import BECOME_NOBODY, NOBODY, as_root

KINDS = [socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM]

STARTER = """
    import sys
    from aioipc.errors import ResourceExhausted
    from aioipc.kernel.rendezvous import bind_unix

    print("ready", flush=True)
    sys.stdin.readline()
    try:
        server = bind_unix(sys.argv[1])
    except ResourceExhausted as error:
        assert "address in use" in str(error), error
        print(f"refused {error.errno}", flush=True)
    else:
        print("serving", flush=True)
        sys.stdin.readline()
        server.close()
        print("closed", flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "socket")


@pytest.fixture
def foreign(path: str) -> Iterator[socket.socket]:
    """A server that knows nothing of guards."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        yield server


def _connect(target: str, kind: int = socket.SOCK_STREAM) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, kind)
    client.settimeout(10)
    with check_path(target) as file:
        client.connect(file.address)
    return client


def _is_served(target: str) -> bool:
    try:
        _connect(target).close()
    except OSError:
        return False
    return True


def _names(directory: str | Path) -> list[str]:
    return sorted(os.listdir(directory))


def _wait_readable(fd: int) -> None:
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    assert poller.poll(30_000)


class TestServing:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("target", ["name", "path", "@aioipc-test-of-kinds"])
    def test_a_client_reaches_the_server(self, kind: int, target: str, path: str) -> None:
        target = path if target == "path" else target
        with bind_unix(target, kind) as server, _connect(target, kind) as client:
            client.send(b"hello")
            _wait_readable(server.fileno())
            if kind == socket.SOCK_DGRAM:
                assert server.socket.recv(10) == b"hello"
            else:
                connection, _ = server.socket.accept()
                with connection:
                    assert connection.recv(10) == b"hello"

    def test_the_socket_is_ready_for_an_event_loop(self, path: str) -> None:
        with bind_unix(path) as server:
            assert server.fileno() == server.socket.fileno() > 2
            assert not os.get_inheritable(server.fileno())
            assert not os.get_blocking(server.fileno())
            with pytest.raises(BlockingIOError):
                server.socket.accept()

    def test_a_name_lies_in_the_runtime_directory(self, runtime_dir: Path) -> None:
        with bind_unix("name") as server:
            assert server.target == "name"
            assert server.path == str(runtime_dir / "socket" / "name")
            assert _names(runtime_dir / "socket") == [".name.guard", "name"]
        with bind_unix("name", folder="shm") as server:
            assert server.path == str(runtime_dir / "shm" / "name")

    @pytest.mark.parametrize("umask", [0, 0o022, 0o777])
    @pytest.mark.parametrize(("others", "mode"), [(False, 0o600), (True, 0o666)])
    def test_the_mode_does_not_depend_on_the_umask(
        self, path: str, umask: int, others: bool, mode: int
    ) -> None:
        if umask == 0o777 and os.geteuid() != 0:
            pytest.skip("the guard would be ours to make but not to open")
        old = os.umask(umask)
        try:
            server = bind_unix(path, others=others)
        finally:
            os.umask(old)
        with server:
            assert stat.S_IMODE(os.stat(path).st_mode) == mode

    def test_close_leaves_nothing(self, path: str, tmp_path: Path) -> None:
        server = bind_unix(path)
        server.close()
        server.close()
        assert server.fileno() == -1
        assert _names(tmp_path) == []

    def test_dropped_open_it_leaves_nothing(self, path: str, tmp_path: Path) -> None:
        server = bind_unix(path)
        del server
        assert _names(tmp_path) == []

    def test_dropped_open_in_a_cycle_it_says_nothing(self, path: str) -> None:
        # Nothing but the name can be left: the collector may close the directory first.
        cycle: list[object] = [bind_unix(path)]
        cycle.append(cycle)
        del cycle

    def test_paths_longer_than_the_kernel_takes(self, tmp_path: Path) -> None:
        deep = tmp_path / ("d" * 100) / ("e" * 100)
        deep.mkdir(parents=True)
        target = str(deep / ("n" * 200))
        with bind_unix(target), _connect(target):
            pass
        assert _names(deep) == []

    def test_a_relative_path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with bind_unix("./socket"), _connect("./socket"):
            pass

    def test_what_fails_half_way_leaves_nothing(
        self, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        before = os.listdir("/proc/self/fd")
        for owner, name in ((Directory, "rename"), (os, "chmod"), (os, "fchmod")):
            with monkeypatch.context() as patch:
                patch.setattr(owner, name, fail)
                with pytest.raises(OSError, match="No space left"):
                    bind_unix(path)
            assert _names(tmp_path) == []
        assert os.listdir("/proc/self/fd") == before


class TestInUse:
    def test_by_this_process(self, path: str) -> None:
        with bind_unix(path):
            with pytest.raises(ResourceExhausted, match="address in use") as caught:
                bind_unix(path)
            assert caught.value.errno == errno.EADDRINUSE
            assert _is_served(path)
        with bind_unix(path):
            assert _is_served(path)

    def test_by_a_foreign_program(self, path: str, foreign: socket.socket) -> None:
        with pytest.raises(ResourceExhausted, match="by another program") as caught:
            bind_unix(path)
        assert caught.value.errno == errno.EADDRINUSE
        assert _is_served(path)

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("theirs", KINDS)
    def test_by_a_foreign_program_of_any_kind(self, path: str, kind: int, theirs: int) -> None:
        with socket.socket(socket.AF_UNIX, theirs) as server:
            server.bind(path)
            if theirs != socket.SOCK_DGRAM:
                server.listen(0)
            with pytest.raises(ResourceExhausted, match="by another program"):
                bind_unix(path, kind)

    def test_by_a_foreign_program_with_a_full_backlog(self, path: str) -> None:
        with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as waiting:
            server.bind(path)
            server.listen(0)
            waiting.connect(path)
            with pytest.raises(ResourceExhausted, match="by another program"):
                bind_unix(path)

    def test_by_something_else(self, path: str) -> None:
        Path(path).write_text("untouched")
        with pytest.raises(ResourceExhausted, match="is no socket") as caught:
            bind_unix(path)
        assert caught.value.errno == errno.EADDRINUSE
        assert Path(path).read_text() == "untouched"

    def test_an_abstract_name(self) -> None:
        with bind_unix("@aioipc-test-in-use") as server:
            assert server.path is None
            with pytest.raises(ResourceExhausted, match="@aioipc-test-in-use: address in use"):
                bind_unix("@aioipc-test-in-use")
        bind_unix("@aioipc-test-in-use").close()


class TestStale:
    @pytest.mark.parametrize("kind", KINDS)
    def test_what_a_foreign_program_left_is_taken_over(self, path: str, kind: int) -> None:
        with socket.socket(socket.AF_UNIX, kind) as server:
            server.bind(path)
        with bind_unix(path, kind), _connect(path, kind):
            pass

    def test_what_a_killed_server_left_is_taken_over(
        self, path: str, tmp_path: Path, peers: Peers
    ) -> None:
        server = _start(peers, path)
        assert server.line() == "serving"
        server.kill()
        assert _names(tmp_path) == [".socket.guard", "socket"]
        started = time.monotonic()
        with bind_unix(path):
            assert time.monotonic() - started < 1
            assert _is_served(path)
        assert _names(tmp_path) == []

    def test_what_a_server_left_that_was_killed_while_it_bound(
        self, path: str, tmp_path: Path, peers: Peers
    ) -> None:
        server = peers.script(
            """
            import os, sys
            from aioipc.kernel.directory import Directory
            from aioipc.kernel.rendezvous import bind_unix

            Directory.rename = lambda *_: os.kill(os.getpid(), 9)
            bind_unix(sys.argv[1])
            """,
            path,
        )
        assert server.wait() == -9
        assert len(_names(tmp_path)) == 2
        with bind_unix(path):
            assert _is_served(path)
        assert _names(tmp_path) == []

    @as_root
    def test_what_somebody_else_left_is_not(self, path: str) -> None:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path)
        os.chown(path, NOBODY, NOBODY)
        with pytest.raises(AccessDenied, match=f"belongs to uid {NOBODY}"):
            bind_unix(path)
        assert os.path.exists(path)


def _start(peers: Peers, target: str) -> Peer:
    peer = peers.script(STARTER, target)
    assert peer.line() == "ready"
    peer.tell("go")
    return peer


class TestStarters:
    @pytest.mark.parametrize("target", ["name", "path"])
    def test_of_ten_at_once_one_wins(self, target: str, path: str, peers: Peers) -> None:
        """Three rounds: nothing there yet, after a kill -9, and after a clean close."""
        target = path if target == "path" else target
        for end in ("kill", "close", "close"):
            starters = [peers.script(STARTER, target) for _ in range(10)]
            for starter in starters:
                assert starter.line() == "ready"
            for starter in starters:
                starter.tell("go")
            answers = [starter.line() for starter in starters]
            assert sorted(answers) == [f"refused {errno.EADDRINUSE}"] * 9 + ["serving"]
            winner = starters[answers.index("serving")]
            with _connect(target) as client:
                found = peer_credentials(client.fileno())
            assert found is not None
            assert found.pid == winner.pid
            if end == "kill":
                winner.kill()
            else:
                winner.tell("close")
                assert winner.line() == "closed"

    def test_a_newcomers_file_stays_when_the_old_server_closes(
        self, path: str, tmp_path: Path
    ) -> None:
        old = bind_unix(path)
        os.unlink(path)
        with socket.socket(socket.AF_UNIX) as newcomer:
            newcomer.bind(path)
            newcomer.listen()
            old.close()
            assert _names(tmp_path) == ["socket"]
            assert _is_served(path)

    def test_also_when_the_newcomer_removed_the_guard(self, path: str, tmp_path: Path) -> None:
        old = bind_unix(path)
        for name in _names(tmp_path):
            (tmp_path / name).unlink()
        with bind_unix(path):
            old.close()
            assert _names(tmp_path) == [".socket.guard", "socket"]
            assert _is_served(path)
            with pytest.raises(ResourceExhausted):
                bind_unix(path)
        assert _names(tmp_path) == []

    def test_a_forked_child_neither_holds_nor_removes_the_name(
        self, path: str, peers: Peers
    ) -> None:
        peer = peers.script(
            """
            import os, socket, sys
            from aioipc.kernel.rendezvous import bind_unix, check_path

            server = bind_unix(sys.argv[1])
            child_read, child_write = os.pipe()
            go_read, go_write = os.pipe()
            if os.fork() == 0:
                assert server.fileno() == -1
                server.close()
                os.write(child_write, b"x")
                os.read(go_read, 1)
                os._exit(0)
            os.read(child_read, 1)
            with check_path(sys.argv[1]) as file, socket.socket(socket.AF_UNIX) as client:
                client.connect(file.address)
            server.close()
            assert os.listdir(os.path.dirname(sys.argv[1])) == []
            bind_unix(sys.argv[1]).close()
            os.write(go_write, b"x")
            print(os.wait()[1])
            """,
            path,
        )
        assert peer.line() == "0"


class TestRefusal:
    def test_to_bind_at_a_symlink(self, path: str, tmp_path: Path) -> None:
        (tmp_path / "target").write_text("untouched")
        os.symlink("target", path)
        with pytest.raises(AccessDenied, match="is a symlink"):
            bind_unix(path)
        assert (tmp_path / "target").read_text() == "untouched"
        assert _names(tmp_path) == ["socket", "target"]

    def test_to_bind_at_a_dangling_symlink(self, path: str, tmp_path: Path) -> None:
        os.symlink("target", path)
        with pytest.raises(AccessDenied, match="is a symlink"):
            bind_unix(path)
        assert _names(tmp_path) == ["socket"]

    @pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
    def test_a_directory_that_others_may_change(
        self, path: str, tmp_path: Path, foreign: socket.socket, mode: int
    ) -> None:
        tmp_path.chmod(mode)
        with pytest.raises(AccessDenied, match="may replace what is in it"):
            bind_unix(path)
        with pytest.raises(AccessDenied, match="may replace what is in it"):
            check_path(path)
        with pytest.raises(AccessDenied, match="may replace what is in it"):
            check_path(path, any_owner=True)
        assert _names(tmp_path) == ["socket"]

    @as_root
    def test_a_directory_of_somebody_else(
        self, path: str, tmp_path: Path, foreign: socket.socket
    ) -> None:
        os.chown(tmp_path, NOBODY, NOBODY)
        with pytest.raises(AccessDenied, match=f"belongs to uid {NOBODY}"):
            bind_unix(path)
        with pytest.raises(AccessDenied, match=f"belongs to uid {NOBODY}"):
            check_path(path)
        check_path(path, any_owner=True).close()

    def test_a_runtime_directory_that_others_may_enter(self, runtime_dir: Path) -> None:
        runtime_dir.chmod(0o755)
        with pytest.raises(AccessDenied, match="mode 0755"):
            bind_unix("name")
        with pytest.raises(AccessDenied, match="mode 0755"):
            check_path("name")
        assert _names(runtime_dir) == []

    def test_a_sticky_directory_is_good_enough(self, path: str, tmp_path: Path) -> None:
        tmp_path.chmod(0o1777)
        with bind_unix(path):
            assert _is_served(path)

    def test_a_missing_directory(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            bind_unix(str(tmp_path / "missing" / "socket"))

    def test_a_name_that_others_cannot_reach(self) -> None:
        with pytest.raises(AddressError, match="cannot reach"):
            bind_unix("name", others=True)

    @pytest.mark.parametrize(
        "target", ["", ".hidden", "n" * 65, "a b", "@", "/", "/tmp/", "/tmp/.."]
    )
    def test_what_is_no_name(self, target: str) -> None:
        with pytest.raises(AddressError):
            bind_unix(target)
        with pytest.raises(AddressError):
            check_path(target)


class TestFinding:
    def test_nothing_there(self, path: str) -> None:
        with pytest.raises(FileNotFoundError):
            check_path(path)
        with pytest.raises(FileNotFoundError):
            check_path("name")

    def test_looking_makes_no_directory(self, runtime_dir: Path) -> None:
        with pytest.raises(FileNotFoundError):
            check_path("name")
        assert _names(runtime_dir) == []

    def test_no_socket(self, path: str) -> None:
        Path(path).touch()
        with pytest.raises(ConnectError, match="is no socket"):
            check_path(path)

    def test_a_symlink_to_a_server(self, path: str, tmp_path: Path) -> None:
        with bind_unix(str(tmp_path / "real")):
            os.symlink("real", path)
            with pytest.raises(AccessDenied, match="is a symlink"):
                check_path(path)

    @as_root
    def test_a_file_of_somebody_else(self, path: str, foreign: socket.socket) -> None:
        os.chown(path, NOBODY, NOBODY)
        with pytest.raises(AccessDenied, match=f"belongs to uid {NOBODY}"):
            check_path(path)
        check_path(path, any_owner=True).close()

    def test_the_connection_goes_to_what_was_checked(self, path: str, tmp_path: Path) -> None:
        with bind_unix(path) as checked, check_path(path) as file:
            os.rename(path, tmp_path / "moved")
            with socket.socket(socket.AF_UNIX) as impostor, socket.socket(socket.AF_UNIX) as client:
                impostor.bind(path)
                impostor.listen()
                client.connect(file.address)
                checked.socket.accept()[0].close()
            os.unlink(path)
            os.unlink(tmp_path / "moved")

    def test_a_server_that_has_gone_refuses(self, path: str) -> None:
        with bind_unix(path) as server, check_path(path) as file:
            server.close()
            with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
                client.connect(file.address)

    @as_root
    @pytest.mark.parametrize("others", [True, False])
    def test_another_user(self, public: Path, others: bool, peers: Peers) -> None:
        target = str(public / "socket")
        with bind_unix(target, others=others):
            client = peers.script(
                f"""
                import os, socket, sys
                from aioipc.kernel.rendezvous import check_path

                client = socket.socket(socket.AF_UNIX)
                {BECOME_NOBODY}
                with check_path(sys.argv[1]) as file:
                    print(client.connect_ex(file.address))
                """,
                target,
            )
            assert client.line() == str(0 if others else errno.EACCES)

    @as_root
    def test_another_user_cannot_take_our_name(self, public: Path, peers: Peers) -> None:
        public.chmod(0o1777)
        target = str(public / "socket")
        with bind_unix(target, others=True):
            rival = peers.script(
                f"""
                import os, sys
                from aioipc.kernel.rendezvous import bind_unix

                {BECOME_NOBODY}
                try:
                    bind_unix(sys.argv[1])
                except PermissionError as error:
                    print("refused", flush=True)
                """,
                target,
            )
            assert rival.line() == "refused"
            assert _is_served(target)
