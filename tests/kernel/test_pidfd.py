"""kernel/pidfd.py: processes held by descriptor."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Iterator

import pytest

from aioipc.kernel import pidfd as module
from aioipc.kernel.descriptors import file_name
from aioipc.kernel.pidfd import exit_status, holder_pidfd, is_alive, open_pidfd, send_signal
from aioipc.kernel.spawn import Child, spawn
from tests.children import Peers

GRANDPARENT = """
    import os, sys
    pid = os.posix_spawn("/bin/sleep", ["sleep", "1000"], {})
    print(pid, flush=True)
    sys.stdin.readline()
    os.kill(pid, 9)
    sys.stdin.readline()
    os.waitpid(pid, 0)
    print("reaped", flush=True)
"""


def _wait(pidfd: int) -> None:
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    assert poller.poll(30_000)


@pytest.mark.parametrize("code", [0, 1, 3, 255])
def test_an_exit_code(code: int) -> None:
    with spawn(["sh", "-c", f"exit {code}"]) as child:
        _wait(child.pidfd)
        assert exit_status(child.pidfd) == code


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_killing_signal(number: int) -> None:
    with spawn(["sleep", "1000"]) as child:
        assert child.status() is None
        assert is_alive(child.pidfd)
        assert send_signal(child.pidfd, number)
        _wait(child.pidfd)
        assert not is_alive(child.pidfd)
        assert child.status() == -number


def test_a_status_without_reaping() -> None:
    with spawn(["false"]) as child:
        _wait(child.pidfd)
        assert exit_status(child.pidfd, reap=False) == 1
        assert os.waitpid(child.pid, os.WNOHANG) == (child.pid, 1 << 8)


@pytest.fixture
def ends() -> Iterator[tuple[int, int]]:
    """An anonymous pipe: to read, and to write."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


@pytest.mark.parametrize("side", [0, 1])
def test_only_who_can_write_holds_a_pipe(side: int, ends: tuple[int, int], peers: Peers) -> None:
    assert file_name(ends[0]) == file_name(ends[1])
    peer = peers.script("input()", pass_fds=[ends[side]])
    pidfd = holder_pidfd(peer.pid, file_name(ends[0]))
    assert (pidfd is not None) == (side == 1)
    if pidfd is not None:
        assert not os.get_inheritable(pidfd)
        os.close(pidfd)
    peer.kill()
    assert holder_pidfd(peer.pid, file_name(ends[0])) is None


@pytest.mark.parametrize("pid", [0, 1, 2**31, 2**32 - 1])
def test_a_pid_of_nobody_who_could_be_meant(pid: int, ends: tuple[int, int]) -> None:
    assert holder_pidfd(pid, file_name(ends[0])) is None


def test_the_first_status_reaps_and_stays() -> None:
    with spawn(["true"]) as child:
        _wait(child.pidfd)
        assert child.status() == 0
        assert child.status() == 0
        with pytest.raises(ChildProcessError):
            os.waitpid(child.pid, os.WNOHANG)
        assert not child.send_signal(signal.SIGTERM)
    assert child.status() == 0
    assert child.pidfd == -1


def test_no_process() -> None:
    with spawn(["true"]) as child:
        _wait(child.pidfd)
        child.status()
        with pytest.raises(ProcessLookupError):
            open_pidfd(child.pid)
        assert not send_signal(child.pidfd, signal.SIGTERM)


def test_a_process_that_is_not_our_child(peers: Peers) -> None:
    parent = peers.script(GRANDPARENT)
    pidfd = open_pidfd(int(parent.line()))
    assert is_alive(pidfd)
    assert exit_status(pidfd) is None
    parent.tell("kill")
    _wait(pidfd)
    assert not is_alive(pidfd)
    assert exit_status(pidfd) is None
    parent.tell("reap")
    assert parent.line() == "reaped"
    assert exit_status(pidfd) == (-signal.SIGKILL if _tells_of_strangers() else None)
    os.close(pidfd)


def test_no_status_after_reaping_from_an_old_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PIDFD_GET_INFO", 0)  # ENOTTY
    with spawn(["true"]) as child:
        _wait(child.pidfd)
        assert exit_status(child.pidfd) == 0
        assert exit_status(child.pidfd) is None


@pytest.mark.parametrize("code", [0, 7])
def test_the_status_can_be_asked_for_after_reaping(code: int) -> None:
    if not _tells_of_strangers():
        pytest.skip("PIDFD_GET_INFO tells the status from Linux 6.15 on")
    with spawn(["sh", "-c", f"exit {code}"]) as child:
        _wait(child.pidfd)
        os.waitpid(child.pid, 0)
        assert exit_status(child.pidfd) == code


def test_a_child_let_go_of_is_reaped_later() -> None:
    child = spawn(["sleep", "1000"])
    other = open_pidfd(child.pid)
    child.close()
    child.close()
    send_signal(other, signal.SIGKILL)
    _wait(other)
    os.close(other)
    with spawn(["true"]) as last:
        with pytest.raises(ProcessLookupError):
            open_pidfd(child.pid)
        _wait(last.pidfd)


def test_a_child_that_has_ended_is_reaped_by_close() -> None:
    child = spawn(["true"])
    _wait(child.pidfd)
    child.close()
    with pytest.raises(ProcessLookupError):
        open_pidfd(child.pid)


COUNT = """
import os, signal, sys
if sys.argv[1] == "elsewhere":
    os.setpgid(0, os.getpgid(os.getppid()))
wanted = {signal.SIGRTMIN}
signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
print("ready", flush=True)
sys.stdin.readline()
count = 0
while signal.sigtimedwait(wanted, 0):
    count += 1
print(count, flush=True)
"""


@pytest.mark.parametrize("where", ["at home", "elsewhere"])
def test_a_signal_to_its_group_reaches_the_child_once(where: str) -> None:
    heard, told = os.pipe()
    asked, answers = os.pipe()
    argv = [sys.executable, "-c", COUNT, where]
    with spawn(argv, stdin=heard, stdout=answers, new_group=True) as child:
        os.close(answers)
        os.close(heard)
        with open(asked) as lines:
            assert lines.readline() == "ready\n"
            assert child.signal_group(signal.SIGRTMIN)
            os.close(told)
            assert lines.readline() == "1\n"
        _wait(child.pidfd)


def test_a_foreign_child_is_no_business_of_close(peers: Peers) -> None:
    parent = peers.script(GRANDPARENT)
    pid = int(parent.line())
    Child(pid, open_pidfd(pid)).close()
    with spawn(["true"]) as child:  # finds that it is not ours to reap
        _wait(child.pidfd)
    assert module._left_running == []
    parent.tell("kill")
    parent.tell("reap")
    assert parent.line() == "reaped"


def _tells_of_strangers() -> bool:
    major, minor = os.uname().release.split(".")[:2]
    return (int(major), int(minor)) >= (6, 15)
