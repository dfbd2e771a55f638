"""Socket activation, with a test in the part of systemd: sd_listen_fds(3), sd_notify(3)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import aioipc
from aioipc import AccessDenied, AddressError
from aioipc.kernel.activation import listen_fds
from aioipc.process import Setup, activated, spawn
from tests.children import Peer, Peers
from tests.process import targets
from tests.process.ends import until

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "activated_service.py"


@contextlib.contextmanager
def listening(path: Path, kind: int = socket.SOCK_STREAM) -> Iterator[socket.socket]:
    """A socket that systemd has opened."""
    with socket.socket(socket.AF_UNIX, kind) as sock:
        sock.bind(str(path))
        sock.listen()
        yield sock


class TestListening:
    pytestmark = pytest.mark.asyncio

    async def test_on_a_unix_socket(self, tmp_path: Path) -> None:
        with listening(tmp_path / "socket") as sock:
            fd = os.dup(sock.fileno())
            async with aioipc.listen(f"fd:{fd}") as listener:
                assert str(listener.address) == f"unix:{tmp_path}/socket"
                async with aioipc.connect(listener.address) as client:
                    server = await anext(aiter(listener))
                    async with server:
                        assert server.peer is not None
                        assert server.peer.pid == os.getpid()
                        await client.send("hello", fds=[sock.fileno()])
                        assert await server.receive() == "hello"
                        for received in server.take_fds():
                            os.close(received)
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(fd)
            assert (tmp_path / "socket").exists(), "it is systemd's"

    @pytest.mark.parametrize(
        ("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
    )
    async def test_on_a_tcp_socket(self, family: int, host: str) -> None:
        with socket.socket(family) as sock:
            sock.bind((host, 0))
            sock.listen()
            async with (
                aioipc.listen(f"fd:{os.dup(sock.fileno())}") as listener,
                aioipc.connect(listener.address) as client,
            ):
                await client.send(1)
                async with await anext(aiter(listener)) as server:
                    assert await server.receive() == 1

    async def test_streams_of_bytes(self, tmp_path: Path) -> None:
        with listening(tmp_path / "socket") as sock:
            address = f"fd:{os.dup(sock.fileno())}"
            async with (
                await aioipc.listen_stream(address) as listener,
                asyncio.TaskGroup() as tasks,
            ):

                async def shout(stream: Any) -> None:
                    async with stream:
                        await stream.send((await stream.receive()).upper())

                serving = tasks.create_task(listener.serve(shout))
                async with await aioipc.connect_stream(f"unix:{tmp_path}/socket") as stream:
                    await stream.send(b"hello")
                    assert await stream.receive() == b"HELLO"
                serving.cancel()

    async def test_not_for_other_machines(self) -> None:
        with socket.socket() as sock:
            sock.bind(("0.0.0.0", 0))
            sock.listen()
            with pytest.raises(AccessDenied, match="nobody is authenticated there"):
                await aioipc.listen(f"fd:{sock.fileno()}")
            assert sock.getsockname()

    async def test_not_for_packets(self, tmp_path: Path) -> None:
        with listening(tmp_path / "socket", socket.SOCK_SEQPACKET) as sock:
            with pytest.raises(AddressError, match="listens for SOCK_SEQPACKET of AF_UNIX"):
                await aioipc.listen(f"fd:{sock.fileno()}")
            assert sock.getsockname()

    async def test_from_several_workers(self, tmp_path: Path) -> None:
        with listening(tmp_path / "socket") as sock:
            setup = Setup(pass_fds=(sock.fileno(),))
            address = f"fd:{sock.fileno()}"
            async with (
                spawn(targets.greet_at, address, setup=setup) as one,
                spawn(targets.greet_at, address, setup=setup) as other,
            ):
                met: set[int] = set()
                async with contextlib.AsyncExitStack() as clients:
                    while len(met) < 2:
                        opening = aioipc.connect(f"unix:{tmp_path}/socket")
                        client = await clients.enter_async_context(opening)
                        await client.send("who are you?")
                        met.add(await client.receive())
                assert met == {one.pid, other.pid}


class TestEnvironment:
    def said(self, peers: Peers, tmp_path: Path, **environ: str) -> str:
        """What a process finds that was started with two sockets at 3 and 4."""
        code = "from aioipc.process import activated; print(sorted(activated().items()))"
        with (
            listening(tmp_path / "one") as one,
            listening(tmp_path / "two") as two,
        ):
            service = as_systemd(peers, [sys.executable, "-c", code], [one, two], **environ)
            return service.rest().strip()

    @pytest.mark.parametrize(
        ("names", "found"),
        [
            ("web:control", "[('control', ('fd:4',)), ('web', ('fd:3',))]"),
            ("web:web", "[('web', ('fd:3', 'fd:4'))]"),
            ("web", "[('unknown', ('fd:3', 'fd:4'))]"),
            ("", "[('unknown', ('fd:3', 'fd:4'))]"),
        ],
    )
    def test_names(self, peers: Peers, tmp_path: Path, names: str, found: str) -> None:
        assert self.said(peers, tmp_path, LISTEN_FDNAMES=names) == found

    @pytest.mark.parametrize(
        "environ",
        [
            {},
            {"LISTEN_FDS": "1"},
            {"LISTEN_FDS": "1", "LISTEN_PID": "1"},
            {"LISTEN_FDS": "many", "LISTEN_PID": str(os.getpid())},
            {"LISTEN_FDS": "0", "LISTEN_PID": str(os.getpid())},
            {"LISTEN_FDS": "-1", "LISTEN_PID": str(os.getpid())},
        ],
    )
    def test_nothing_for_this_process(self, environ: dict[str, str]) -> None:
        assert listen_fds(environ) == []
        assert activated() == {}


def as_systemd(
    peers: Peers, command: list[str], sockets: list[socket.socket], **environ: str
) -> Peer:
    """Start a service with its sockets from 3 on, and its own pid in LISTEN_PID."""
    fds = [sock.fileno() for sock in sockets]
    code = """
        import fcntl, os, sys
        fds = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 100) for fd in sys.argv[1].split(",")]
        for number, fd in enumerate(fds):
            os.dup2(fd, 3 + number)
            os.close(fd)
        os.environ["LISTEN_PID"] = str(os.getpid())
        os.execv(sys.argv[2], sys.argv[2:])
    """
    environ["LISTEN_FDS"] = str(len(fds))
    return peers.script(code, ",".join(map(str, fds)), *command, pass_fds=fds, env=environ)


@pytest.mark.asyncio
async def test_a_service_that_is_reloaded(peers: Peers, tmp_path: Path) -> None:
    """The example: a connection made before the reload goes on, and one made after it works."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as manager:
        manager.bind(str(tmp_path / "notify"))
        told: list[str] = []

        def heard(what: str, times: int) -> bool:
            with contextlib.suppress(BlockingIOError):
                told.append(manager.recv(4096).decode().split("\n")[0])
            return told.count(what) == times

        with listening(tmp_path / "greeter") as sock:
            service = as_systemd(
                peers,
                [sys.executable, str(EXAMPLE)],
                [sock],
                LISTEN_FDNAMES="greeter",
                NOTIFY_SOCKET=str(tmp_path / "notify"),
            )
            address = f"unix:{tmp_path}/greeter"
            async with aioipc.connect(address) as early:  # nobody accepts yet
                await early.send("Ada")
                await until(lambda: heard("READY=1", 1))
                first = await early.receive()
                service.process.send_signal(signal.SIGHUP)
                await until(lambda: heard("READY=1", 2))
                assert told == ["READY=1", "RELOADING=1", "READY=1"]
                async with aioipc.connect(address) as late:
                    await late.send("Ada")
                    assert await late.receive() != first
                await early.send("Ada")
                assert await early.receive() == first
            service.process.send_signal(signal.SIGTERM)
            await until(lambda: heard("STOPPING=1", 1))
            assert service.wait() == 0
