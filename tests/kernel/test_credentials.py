"""kernel/credentials.py: whom the kernel says we are talking to."""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from aioipc.abc import PeerCredentials
from aioipc.kernel import credentials
from aioipc.kernel.credentials import (
    peer_credentials,
    peer_pidfd,
    same_user,
    same_user_or_root,
)
from aioipc.kernel.pidfd import is_alive
from aioipc.kernel.rendezvous import bind_unix
from tests.children import Peer, Peers
from tests.kernel.strangers import BECOME_NOBODY, NOBODY, as_root

CLIENT = """
    import os, socket, sys
    client = socket.socket(socket.AF_UNIX)
    {before}
    client.connect(sys.argv[1])
    print("connected", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        yield listener


def _connect(peers: Peers, listener: socket.socket) -> tuple[Peer, socket.socket]:
    peer = peers.script(CLIENT.format(before=""), listener.getsockname())
    assert peer.line() == "connected"
    return peer, listener.accept()[0]


def test_a_server_sees_the_client(listener: socket.socket, peers: Peers) -> None:
    peer, connection = _connect(peers, listener)
    with connection:
        found = peer_credentials(connection.fileno())
    assert found == PeerCredentials(peer.pid, os.geteuid(), os.getegid())


def test_a_client_sees_who_listens(listener: socket.socket) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(listener.getsockname())
        found = peer_credentials(client.fileno())
    assert found == PeerCredentials(os.getpid(), os.geteuid(), os.getegid())


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
def test_a_pair_sees_itself(kind: int) -> None:
    left, right = socket.socketpair(socket.AF_UNIX, kind)
    with left, right:
        assert peer_credentials(left.fileno()) == peer_credentials(right.fileno())
        assert peer_credentials(left.fileno()) is not None


def test_the_kernel_knows_nobody_behind_other_descriptors(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        assert peer_credentials(client.fileno()) is None
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagram:
        datagram.bind(str(tmp_path / "datagram"))
        datagram.connect(str(tmp_path / "datagram"))
        assert peer_credentials(datagram.fileno()) is None
    with socket.socket(socket.AF_UNIX) as unconnected:
        assert peer_credentials(unconnected.fileno()) is None
    read, write = os.pipe()
    assert peer_credentials(read) is None
    assert peer_pidfd(read) is None
    os.close(read)
    os.close(write)


def test_a_closed_descriptor_is_an_error() -> None:
    read, write = os.pipe()
    os.close(read)
    os.close(write)
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        peer_credentials(read)
    assert caught.value.errno == errno.EBADF


@as_root
def test_another_user_is_told_apart(public: Path, peers: Peers) -> None:
    with bind_unix(str(public / "socket"), others=True) as server:
        client = peers.script(CLIENT.format(before=BECOME_NOBODY), server.path)
        assert client.line() == "connected"
        server.socket.setblocking(True)
        connection, _ = server.socket.accept()
        with connection:
            found = peer_credentials(connection.fileno())
    assert found == PeerCredentials(client.pid, NOBODY, NOBODY)
    assert not same_user(found)
    assert not same_user_or_root(found)


def test_who_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    us, root, other = (PeerCredentials(1, uid, 1) for uid in (1000, 0, 1001))
    assert [same_user(who) for who in (us, root, other)] == [True, False, False]
    assert [same_user_or_root(who) for who in (us, root, other)] == [True, True, False]


def test_the_pidfd_tells_when_the_peer_is_dead(listener: socket.socket, peers: Peers) -> None:
    peer, connection = _connect(peers, listener)
    with connection:
        pidfd = peer_pidfd(connection.fileno())
        if pidfd is None:
            pytest.skip("SO_PEERPIDFD needs Linux 6.5")
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        assert not os.get_inheritable(pidfd)
        assert poller.poll(0) == []
        peer.signal(9)
        assert poller.poll(10_000) != []
        os.close(pidfd)


def test_an_old_kernel_tells_the_pid(
    listener: socket.socket, peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials, "_SO_PEERPIDFD", 9999)  # ENOPROTOOPT, as before 6.5
    peer, connection = _connect(peers, listener)
    with connection:
        pidfd = peer_pidfd(connection.fileno())
        assert pidfd is not None
        assert not os.get_inheritable(pidfd)
        assert is_alive(pidfd)
        peer.kill()
        assert not is_alive(pidfd)
        os.close(pidfd)
        assert peer_pidfd(connection.fileno()) is None, "it was reaped"
