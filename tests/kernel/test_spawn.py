"""kernel/spawn.py: what a child gets, and what it does not."""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import sys
from pathlib import Path

import pytest

from aioipc.kernel.spawn import Child, spawn
from tests.children import Peers, is_gone

REPORT = """
import json, os, signal, sys
fds = {}
for name in os.listdir("/proc/self/fd"):
    try:
        fds[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    except OSError:
        pass
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({
    "fds": fds,
    "blocked": int(status["SigBlk"], 16),
    "argv": sys.argv[1:],
    "env": dict(os.environ),
}))
"""
IGNORED = """
IGNORED=$(sed -n 's/^SigIgn:[[:space:]]*//p' /proc/self/status); echo "$IGNORED"
"""


def _finish(child: Child) -> int | None:
    poller = select.poll()
    poller.register(child.pidfd, select.POLLIN)
    assert poller.poll(30_000)
    with child:
        return child.status()


def _read_all(fd: int) -> bytes:
    with open(fd, "rb") as file:
        return file.read()


def _report(**options: object) -> dict[str, object]:
    read, write = os.pipe()
    child = spawn([sys.executable, "-c", REPORT], stdout=write, **options)  # type: ignore[arg-type]
    os.close(write)
    answer = _read_all(read)
    assert _finish(child) == 0
    report: dict[str, object] = json.loads(answer)
    return report


def test_it_gets_its_arguments() -> None:
    read, write = os.pipe()
    child = spawn(["printf", "%s|", "a b", "", "ä"], stdout=write)
    os.close(write)
    assert _read_all(read).decode() == "a b||ä|"
    assert _finish(child) == 0


def test_it_gets_its_environment() -> None:
    report = _report(env={"ONLY": "this"})
    environment = report["env"]
    assert isinstance(environment, dict)
    assert environment["ONLY"] == "this"
    assert "PATH" not in environment


def test_it_gets_its_standard_streams() -> None:
    in_read, in_write = os.pipe()
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    child = spawn(
        ["sh", "-c", "cat; echo oops >&2"], stdin=in_read, stdout=out_write, stderr=err_write
    )
    for fd in (in_read, out_write, err_write):
        os.close(fd)
    os.write(in_write, b"through")
    os.close(in_write)
    assert _read_all(out_read) == b"through"
    assert _read_all(err_read) == b"oops\n"
    assert _finish(child) == 0


def test_the_same_descriptor_may_serve_twice() -> None:
    read, write = os.pipe()
    child = spawn(["sh", "-c", "echo out; echo err >&2"], stdout=write, stderr=write)
    os.close(write)
    assert _read_all(read) == b"out\nerr\n"
    assert _finish(child) == 0


def test_only_passed_descriptors_arrive_and_at_the_same_numbers() -> None:
    read, write = os.pipe()
    kept, secret = os.open(os.devnull, os.O_RDONLY), os.open(os.devnull, os.O_WRONLY)
    report = _report(pass_fds=(kept, write))
    fds = report["fds"]
    assert isinstance(fds, dict)
    assert str(kept) in fds
    assert fds[str(write)].startswith("pipe:")
    assert str(secret) not in fds
    assert str(read) not in fds
    assert not os.get_inheritable(kept), "close-on-exec stays set here"
    for fd in (read, write, kept, secret):
        os.close(fd)


def test_it_starts_with_an_open_signal_mask() -> None:
    old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, signal.SIGTERM})
    try:
        report = _report()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
    assert report["blocked"] == 0


def test_what_python_ignores_is_not_ignored_there() -> None:
    read, write = os.pipe()
    child = spawn(["sh", "-c", IGNORED], stdout=write)
    os.close(write)
    ignored = int(_read_all(read), 16)
    assert not ignored & (1 << (signal.SIGPIPE - 1))
    assert not ignored & (1 << (signal.SIGXFSZ - 1))
    assert _finish(child) == 0


def test_no_such_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.defpath)  # a directory closed to us would be EACCES
    before = os.listdir("/proc/self/fd")
    with pytest.raises(FileNotFoundError):
        spawn(["no-such-program-anywhere"])
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("new_group", [False, True])
def test_what_cannot_be_watched_does_not_run(
    new_group: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []

    def no_room(pid: int) -> int:
        started.append(pid)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "pidfd_open", no_room)
    with pytest.raises(OSError, match="Too many open files"):
        spawn(["sleep", "1000"], new_group=new_group)
    assert all(map(is_gone, started))
    assert started


def test_a_program_that_may_not_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch(mode=0o644)
    with pytest.raises(PermissionError):
        spawn([str(tmp_path / "file")])


def test_a_closed_descriptor_cannot_be_passed() -> None:
    fd = os.open(os.devnull, os.O_RDONLY)
    os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        spawn(["true"], pass_fds=[fd])


def test_a_standard_stream_cannot_be_passed_and_replaced() -> None:
    with pytest.raises(ValueError, match="descriptor 1 cannot be passed"):
        spawn(["true"], stdout=2, pass_fds=[1])


def test_standard_streams_of_our_own_may_be_exchanged(peers: Peers) -> None:
    peer = peers.script("""
        import os, select
        from aioipc.kernel.spawn import spawn

        said = os.dup(1)
        read, write = os.pipe()
        os.dup2(write, 0)           # our 0 is to become the child's 1, and our 1 its 0
        in_read, in_write = os.pipe()
        os.dup2(in_read, 1)
        os.write(in_write, b"crosswise\\n")
        for fd in (write, in_read, in_write):
            os.close(fd)
        child = spawn(["cat"], stdin=1, stdout=0)
        os.close(0)
        os.close(1)
        text = b""
        while more := os.read(read, 100):
            text += more
        poller = select.poll()
        poller.register(child.pidfd, select.POLLIN)
        poller.poll()
        assert child.status() == 0
        os.write(said, text)
    """)
    assert peer.line() == "crosswise"


def test_closed_standard_streams_become_dev_null_in_the_child(peers: Peers) -> None:
    peer = peers.script("""
        import os, select
        from aioipc.kernel.spawn import spawn

        said = os.dup(1)
        os.close(0)
        os.close(1)
        read, write = os.pipe()     # 0 and 1, close-on-exec
        list_out, list_in = os.pipe()
        # $$ is the shell itself; a plain redirection would show up among its descriptors.
        script = f"found=$(readlink /proc/$$/fd/0 /proc/$$/fd/1); echo $found >&{list_in}"
        child = spawn(["sh", "-c", script], pass_fds=[list_in])
        poller = select.poll()
        poller.register(child.pidfd, select.POLLIN)
        poller.poll()
        assert child.status() == 0
        os.write(said, os.read(list_out, 100))
    """)
    assert peer.line() == "/dev/null /dev/null"


def test_passing_a_standard_stream_keeps_it(peers: Peers) -> None:
    peer = peers.script("""
        import os, select
        from aioipc.kernel.spawn import spawn

        os.set_inheritable(1, False)
        child = spawn(["echo", "heard"], pass_fds=[1])
        poller = select.poll()
        poller.register(child.pidfd, select.POLLIN)
        poller.poll()
        assert child.status() == 0
    """)
    assert peer.line() == "heard"


def test_an_ignored_sigchld_does_not_yield_a_wrong_pidfd(peers: Peers) -> None:
    peer = peers.script("""
        import select, signal
        from aioipc.kernel.spawn import spawn

        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        gone = 0
        for _ in range(50):
            try:
                child = spawn(["true"])
            except ChildProcessError as error:
                assert "SIGCHLD is ignored" in str(error)
            else:
                poller = select.poll()
                poller.register(child.pidfd, select.POLLIN)
                poller.poll()
                assert child.status() in (None, 0)
                child.close()
        print("fine")
    """)
    assert peer.line() == "fine"
