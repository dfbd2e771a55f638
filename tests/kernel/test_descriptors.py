"""kernel/descriptors.py: what was opened by somebody else."""

from __future__ import annotations

import os
import pty
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from aioipc.kernel.descriptors import Kind, adopt, find_facts, replace_with_null
from tests.children import Peers
from tests.kernel.strangers import BECOME_NOBODY, as_root


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


class TestPipes:
    @pytest.mark.parametrize("end", [0, 1])
    def test_it_gets_a_description_of_its_own(self, end: int) -> None:
        ends = os.pipe()
        descriptor = adopt(ends[end], keep=True)
        assert descriptor.own
        assert descriptor.facts.kind is Kind.PIPE
        assert (descriptor.facts.readable, descriptor.facts.writable) == (end == 0, end == 1)
        assert not os.get_blocking(descriptor.fileno())
        assert not os.get_inheritable(descriptor.fileno())
        assert os.get_blocking(ends[end]), "whoever shares it sees nothing"
        descriptor.close()
        for fd in ends:
            os.close(fd)

    def test_it_is_the_same_pipe(self) -> None:
        read, write = os.pipe()
        with adopt(read) as reader, adopt(write) as writer:
            os.write(writer.fileno(), b"x")
            assert os.read(reader.fileno(), 10) == b"x"
            with pytest.raises(BlockingIOError):
                os.read(reader.fileno(), 10)
            writer.close()
            assert os.read(reader.fileno(), 10) == b""

    def test_what_is_adopted_is_closed_in_exchange(self) -> None:
        read, write = os.pipe()
        before = os.listdir("/proc/self/fd")
        with adopt(read) as reader:
            assert len(os.listdir("/proc/self/fd")) == len(before)
            assert reader.fileno() == read or not _is_open(read)
        os.close(write)

    def test_a_pipe_that_nobody_reads(self) -> None:
        read, write = os.pipe()
        os.close(read)
        with adopt(write) as writer, pytest.raises(BrokenPipeError):
            os.write(writer.fileno(), b"x")

    def test_a_fifo_that_nobody_reads_is_taken_as_it_is(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "fifo")
        read = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
        write = os.open(tmp_path / "fifo", os.O_WRONLY)
        os.close(read)
        with adopt(write, keep=True) as writer:  # to open it anew would be ENXIO
            assert not writer.own
            assert not os.get_blocking(write)
        assert os.get_blocking(write)
        os.close(write)

    @as_root
    def test_another_users_pipe_is_taken_as_it_is(self, peers: Peers) -> None:
        peer = peers.script(f"""
            import os
            from aioipc.kernel.descriptors import adopt

            read, write = os.pipe()
            {BECOME_NOBODY}
            with adopt(read, keep=True) as reader:
                assert not reader.own
                assert not os.get_blocking(read)
            assert os.get_blocking(read)
            print("fine")
        """)
        assert peer.line() == "fine"


class TestSockets:
    def test_what_others_see_is_restored(self) -> None:
        left, right = socket.socketpair()
        with left, right:
            descriptor = adopt(left.fileno(), keep=True)
            assert descriptor.facts.kind is Kind.SOCKET
            assert descriptor.facts.readable
            assert descriptor.facts.writable
            assert not descriptor.own
            assert descriptor.fileno() != left.fileno()
            assert not os.get_blocking(left.fileno())
            descriptor.close()
            descriptor.close()
            assert os.get_blocking(left.fileno())

    def test_what_did_not_block_before_does_not_afterwards(self) -> None:
        left, right = socket.socketpair()
        with left, right:
            left.setblocking(False)
            adopt(left.fileno(), keep=True).close()
            assert not os.get_blocking(left.fileno())

    def test_it_is_taken_over_with_its_number(self) -> None:
        left, right = socket.socketpair()
        os.set_inheritable(left.fileno(), True)
        fd = left.detach()
        with right, adopt(fd) as descriptor:
            assert descriptor.fileno() == fd
            assert not os.get_inheritable(fd)
        assert not _is_open(fd)

    def test_a_forked_child_does_not_restore(self, peers: Peers) -> None:
        peer = peers.script("""
            import os, socket
            from aioipc.kernel.descriptors import adopt

            left, right = socket.socketpair()
            descriptor = adopt(left.fileno(), keep=True)
            if os.fork() == 0:
                descriptor.close()
                os._exit(0)
            os.wait()
            print(os.get_blocking(left.fileno()))
        """)
        assert peer.line() == "False"


class TestFiles:
    def test_a_file_keeps_the_offset_that_others_share(self, tmp_path: Path) -> None:
        with (tmp_path / "file").open("w+b", buffering=0) as file:
            file.write(b"abc")
            with adopt(file.fileno(), keep=True) as descriptor:
                assert descriptor.facts.kind is Kind.FILE
                assert not descriptor.facts.pollable
                os.write(descriptor.fileno(), b"def")
            file.write(b"ghi")
        assert (tmp_path / "file").read_bytes() == b"abcdefghi"

    def test_access_is_found_out(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.touch()
        expected = {os.O_RDONLY: (True, False), os.O_WRONLY: (False, True), os.O_RDWR: (True, True)}
        for flags, access in expected.items():
            with adopt(os.open(path, flags)) as descriptor:
                assert (descriptor.facts.readable, descriptor.facts.writable) == access


class TestDevices:
    def test_a_terminal_gets_a_description_of_its_own(self) -> None:
        control, terminal = pty.openpty()
        with adopt(terminal, keep=True) as descriptor:
            assert descriptor.facts.kind is Kind.TERMINAL
            assert descriptor.own
            assert descriptor.facts.pollable
            assert os.get_blocking(terminal)
            with pytest.raises(BlockingIOError):
                os.read(descriptor.fileno(), 1)
            os.write(control, b"hello\n")
            assert os.read(descriptor.fileno(), 100) == b"hello\n"
        os.close(terminal)
        os.close(control)

    def test_dev_null_is_always_ready(self) -> None:
        with adopt(os.open(os.devnull, os.O_RDWR)) as descriptor:
            assert descriptor.facts.kind is Kind.DEVICE
            assert not descriptor.facts.pollable
            assert os.read(descriptor.fileno(), 1) == b""

    @pytest.mark.parametrize(
        ("make", "pollable"),
        [
            (lambda: os.eventfd(0) if hasattr(os, "eventfd") else -1, True),
            (lambda: os.open("/", os.O_RDONLY | os.O_DIRECTORY), False),
        ],
        ids=["eventfd", "directory"],
    )
    def test_the_rest(self, make: Callable[[], int], pollable: bool) -> None:
        with adopt(make()) as descriptor:
            assert descriptor.facts.kind is Kind.OTHER
            assert descriptor.facts.pollable is pollable


def test_a_closed_descriptor_is_an_error() -> None:
    read, write = os.pipe()
    os.close(read)
    os.close(write)
    with pytest.raises(OSError, match="Bad file descriptor"):
        adopt(read)
    with pytest.raises(OSError, match="Bad file descriptor"):
        find_facts(read)


def test_standard_streams_are_left_in_peace(peers: Peers) -> None:
    peer = peers.script("""
        import os
        from aioipc.kernel.descriptors import adopt

        with adopt(0, keep=True) as reader, adopt(1, keep=True) as writer:
            assert reader.own and writer.own
            assert min(reader.fileno(), writer.fileno()) > 2
            assert os.get_blocking(0) and os.get_blocking(1)
            assert os.get_inheritable(0) and os.get_inheritable(1)
            os.write(writer.fileno(), b"ready\\n")
        print("still here", flush=True)
        print(input())
    """)
    assert peer.line() == "ready"
    assert peer.line() == "still here"
    peer.tell("heard")
    assert peer.line() == "heard"


def test_a_stream_ends_although_its_number_lives_on(peers: Peers) -> None:
    peer = peers.script("""
        import os, sys
        from aioipc.kernel.descriptors import adopt, replace_with_null

        with adopt(1, keep=True) as writer:
            replace_with_null(1)
            print("stray", flush=True)
            os.system("echo stray too")
            os.write(writer.fileno(), b"meant\\n")
        sys.stdin.readline()
    """)
    assert peer.rest() == "meant\n"
    peer.tell("go")
    assert peer.wait() == 0


def test_replacing_what_is_closed(peers: Peers) -> None:
    peer = peers.script("""
        import os
        from aioipc.kernel.descriptors import replace_with_null

        os.close(0)
        replace_with_null(0)
        assert os.read(0, 1) == b""
        assert os.get_inheritable(0)
        print("fine")
    """)
    assert peer.line() == "fine"


def test_replacing_stays_inheritable() -> None:
    fd = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    replace_with_null(fd)
    assert os.readlink(f"/proc/self/fd/{fd}") == os.devnull
    assert os.get_inheritable(fd)
    os.close(fd)
