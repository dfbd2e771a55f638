"""kernel/owned.py: closed exactly once, never 0 to 2, and gone in forked children."""

from __future__ import annotations

import gc
import os
import socket

import pytest

from aioipc.kernel.owned import (
    OwnedFd,
    OwnedSocket,
    above_stdio,
    outlive,
    owned_pipe,
    socket_above_stdio,
)
from tests.children import Peers


def test_it_is_closed_once() -> None:
    read, write = os.pipe()
    os.close(write)
    owner = OwnedFd(read)
    assert owner.fileno() == read
    owner.close()
    successor = os.open(os.devnull, os.O_RDONLY)
    assert successor == read
    owner.close()
    os.fstat(successor)  # still open
    os.close(successor)
    assert owner.fileno() == -1


def test_leaving_the_context_closes() -> None:
    with OwnedFd(os.open(os.devnull, os.O_RDONLY)) as owner:
        fd = owner.fileno()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


@pytest.mark.parametrize("part_first", [True, False])
def test_a_part_is_open_while_its_owner_is_finalized(part_first: bool) -> None:
    class Whole:
        def __init__(self, part: OwnedFd) -> None:
            self.part = part
            outlive(self, part)

        def __del__(self) -> None:
            seen.append(self.part.fileno())

    seen: list[int] = []
    reader, part = owned_pipe()
    fd = part.fileno()
    cycle: list[object] = [part] if part_first else []
    cycle += [Whole(part), cycle]
    del part, cycle
    gc.collect()
    assert seen == [fd]
    assert os.read(reader.fileno(), 1) == b"", "the part was closed after it"
    reader.close()


def test_detach_gives_the_descriptor_away() -> None:
    owner = OwnedFd(os.open(os.devnull, os.O_RDONLY))
    fd = owner.detach()
    owner.close()
    os.close(fd)


def test_dropped_open_it_closes_without_a_word() -> None:
    read, write = os.pipe()
    owner = OwnedFd(write)
    del owner
    assert os.read(read, 1) == b""
    os.close(read)


def test_a_dropped_socket_closes_without_a_word() -> None:
    owner = OwnedSocket(socket.AF_UNIX, socket.SOCK_STREAM)
    fd = owner.fileno()
    del owner
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_socket_does_not_block() -> None:
    with OwnedSocket(socket.AF_UNIX, socket.SOCK_STREAM) as owner:
        assert owner.gettimeout() == 0
        assert not os.get_blocking(owner.fileno())
        assert not os.get_inheritable(owner.fileno())


def test_a_higher_descriptor_stays_where_it_is() -> None:
    fd = os.open(os.devnull, os.O_RDONLY)
    assert above_stdio(fd) == fd
    os.close(fd)
    assert above_stdio(-1) == -1
    with socket.socket() as sock:
        assert socket_above_stdio(sock) is sock


def test_descriptors_that_come_out_as_0_to_2_are_moved(peers: Peers) -> None:
    peer = peers.script("""
        import os, socket
        from aioipc.kernel.owned import OwnedFd, OwnedSocket, above_stdio, socket_above_stdio

        tell = os.dup(1)
        for fd in (0, 1, 2):
            os.close(fd)
        read, write = os.pipe()
        assert (read, write) == (0, 1)
        owner, moved = OwnedFd(read), above_stdio(write)
        client = OwnedSocket(socket.AF_UNIX, socket.SOCK_STREAM)
        left, right = socket.socketpair()
        assert left.fileno() == 0
        left.settimeout(5)
        left = socket_above_stdio(left)
        assert left.gettimeout() == 5
        fds = owner.fileno(), moved, client.fileno(), left.fileno()
        assert min(fds) > 2, fds
        right.close()
        assert not any(map(os.get_inheritable, fds)), fds
        os.write(moved, b"x")
        assert os.read(owner.fileno(), 1) == b"x"
        for fd in (0, 1, 2):
            try:
                os.fstat(fd)
            except OSError:
                continue
            raise AssertionError(fd)
        os.write(tell, b"fine\\n")
    """)
    assert peer.line() == "fine"
    assert peer.wait() == 0


def test_a_forked_child_closes_its_copies(peers: Peers) -> None:
    peer = peers.script("""
        import os, socket, sys
        from aioipc.kernel.owned import OwnedFd, OwnedSocket

        read, write = os.pipe()
        owner = OwnedFd(write)
        left, right = socket.socketpair()
        connection = OwnedSocket(socket.AF_UNIX, socket.SOCK_STREAM)
        os.dup2(left.fileno(), connection.fileno(), inheritable=False)
        left.close()
        go_read, go_write = os.pipe()
        pid = os.fork()
        if pid == 0:
            assert owner.fileno() == connection.fileno() == -1
            owner.close()
            os.read(go_read, 1)
            os._exit(0)
        owner.close()
        connection.close()
        # The child is alive and holds no copy of these: both ends see the end.
        assert os.read(read, 1) == b""
        assert right.recv(1) == b""
        os.write(go_write, b"x")
        print(os.waitpid(pid, 0)[1], flush=True)
    """)
    assert peer.line() == "0"
