"""What goes wrong with Unix sockets: strangers, stale names, floods, no descriptors left."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import re
import resource
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import aioipc
from aioipc import (
    AccessDenied,
    Channel,
    ClosedError,
    ConnectError,
    FrameTooLarge,
    Limits,
    PeerCrashed,
    PeerCredentials,
    QuotaExceeded,
    ResourceExhausted,
)
from aioipc.wire.framing import Kind, pack_header
from aioipc.wire.hello import Hello
from tests.children import Peer, Peers
from tests.echoes import is_served, serving
from tests.kernel.strangers import NOBODY, as_root, public
from tests.programs import AS_NOBODY, SERVE_ECHO, Nursery, program
from tests.scale import patience_s, scaled
from tests.shortage import open_fds

__all__ = ["public"]

pytestmark = pytest.mark.asyncio

CONNECTIONS = scaled(1_000, full=10_000)
"""Held open at once; half of them by each of two client processes."""

FLOOD = scaled(300, full=1_000)
"""Connections that say nothing."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "socket"


@as_root
class TestStrangers:
    """Another user on either side."""

    CLIENT = (
        AS_NOBODY
        + """
try:
    async with aioipc.connect(sys.argv[1]) as channel:
        await channel.send("let me in")
        say(await channel.receive())
except aioipc.IPCError as error:
    say(type(error).__name__, error)
"""
    )

    STREAMS = (
        AS_NOBODY
        + """
streams = []
for _ in range(3):
    try:
        reader, writer = await aioipc.open_connection(sys.argv[1], allow=lambda peer: True)
        streams.append(writer)
        say(await reader.read(100))
    except aioipc.QuotaExceeded as error:  # where a server can say so
        say(b"")
for writer in streams:
    writer.close()
    await writer.wait_closed()
answer = b""
while not answer:  # a place is free once the server has seen the end
    try:
        reader, writer = await aioipc.open_connection(sys.argv[1], allow=lambda peer: True)
        answer = await reader.read(100)
    except aioipc.QuotaExceeded:
        pass
    else:
        writer.close()
        await writer.wait_closed()
say(answer)
"""
    )

    @pytest.mark.parametrize("face", ["asyncio", "anyio"])
    @pytest.mark.parametrize("scheme", ["unix", "shm"])
    async def test_a_user_has_so_many_byte_streams(
        self, scheme: str, face: str, public: Path, peers: Peers
    ) -> None:
        address = f"{scheme}:{public}/socket"
        limits = Limits(max_connections_per_foreign_uid=2, ring_bytes=64 * 1024)
        options: dict[str, Any] = {"limits": limits, "allow": lambda peer: True}

        async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"welcome")
            await reader.read()
            writer.close()
            await writer.wait_closed()

        async def welcome(stream: aioipc.ByteStream) -> None:
            async with stream:
                await stream.send(b"welcome")
                with pytest.raises(anyio.EndOfStream):
                    await stream.receive()

        async with contextlib.AsyncExitStack() as stack:
            if face == "asyncio":
                await stack.enter_async_context(aioipc.start_server(greet, address, **options))
            else:
                listening = aioipc.listen_stream(address, **options)
                listener: Any = await stack.enter_async_context(listening)
                await stack.enter_async_context(serving(listener, welcome))
            peer = program(peers, self.STREAMS, address)
            for answer in (b"welcome", b"welcome", b"", b"welcome"):
                assert await peer.next_line() == repr(answer)
            assert await peer.ended() == 0

    LONG = (
        AS_NOBODY
        + """
limits = aioipc.Limits(max_foreign_message_bytes=2**26)
async with aioipc.connect(sys.argv[1], codec="raw", limits=limits) as channel:
    for size in (2**20, 2**20 + 1, 0):
        try:
            await channel.send(bytes(size))
            say(len(await channel.receive()))
        except aioipc.FrameTooLarge as error:
            say(error)
"""
    )

    async def test_their_messages_are_shorter(self, public: Path, peers: Peers) -> None:
        """Ours may have 64 MiB, theirs 1 MiB, which the server says when it greets them."""
        address = f"unix:{public}/socket"
        async with (
            aioipc.listen(address, codec="raw", allow=lambda peer: True) as listener,
            serving(listener),
            aioipc.connect(address, codec="raw") as ours,
        ):
            peer = program(peers, self.LONG, address)
            assert await peer.next_line() == f"{2**20}"
            assert "1,048,577 bytes is over the limit of 1,048,576 bytes" in await peer.next_line()
            assert await peer.next_line() == "0"
            assert await peer.ended() == 0
            await ours.send(bytes(2**20 + 1))
            assert len(await ours.receive()) == 2**20 + 1

    DEAF = (
        AS_NOBODY
        + """
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect(sys.argv[1])
    sock.sendall(bytes.fromhex(sys.argv[2]))
    while sock.recv(65536):
        pass
say("closed")
"""
    )

    async def test_who_does_not_keep_to_it_is_cut_off(self, public: Path, peers: Peers) -> None:
        """By what is announced already."""
        hello = Hello("raw", 2**26).pack()
        data = pack_header(len(hello), Kind.HELLO) + hello + pack_header(2**20 + 1, Kind.DATA)
        address = f"unix:{public}/socket"
        async with aioipc.listen(address, codec="raw", allow=lambda peer: True) as listener:
            peer = program(peers, self.DEAF, f"{public}/socket", data.hex())
            async with await listener.accept() as channel:
                with pytest.raises(FrameTooLarge) as caught:
                    await channel.receive()
                assert (caught.value.size, caught.value.limit) == (2**20 + 1, 2**20)
                assert await peer.next_line() == "closed"
            assert await peer.ended() == 0

    SERVER = (
        AS_NOBODY
        + """
async with aioipc.listen(sys.argv[1], allow=lambda peer: True) as listener:
    say("listening")
    await listener.serve(echo)
"""
    )

    async def test_the_default_keeps_them_out(self, public: Path, peers: Peers) -> None:
        """By the mode of the socket already."""
        async with aioipc.listen(f"unix:{public}/socket") as listener, serving(listener):
            client = program(peers, self.CLIENT, listener.address)
            line = await client.next_line()
            assert line.startswith("AccessDenied")
            assert "Permission denied" in line

    async def test_allow_keeps_them_out(
        self, public: Path, peers: Peers, caplog: pytest.LogCaptureFixture
    ) -> None:
        def only_us(peer: PeerCredentials) -> bool:
            return peer.uid == 0

        address = f"unix:{public}/socket"
        async with aioipc.listen(address, allow=only_us) as listener, serving(listener):
            client = program(peers, self.CLIENT, address)
            line = await client.next_line()
            assert line.startswith("AccessDenied")
            assert f"uid {NOBODY} may not connect" in line
            assert await is_served(address)
        assert len(caplog.messages) == 1
        assert f"uid {NOBODY} may not connect" in caplog.messages[0]

    async def test_an_abstract_name_asks_allow(self, peers: Peers) -> None:
        address = f"unix:@aioipc-test-{os.getpid()}"
        async with aioipc.listen(address, allow=aioipc.same_user) as listener, serving(listener):
            client = program(peers, self.CLIENT, listener.address)
            assert f"uid {NOBODY} may not connect" in await client.next_line()
            assert await is_served(address)

    async def test_a_client_does_not_talk_to_them(self, peers: Peers) -> None:
        address = f"unix:@aioipc-test-{os.getpid()}"
        server = program(peers, self.SERVER, address)
        assert await server.next_line() == "listening"
        with pytest.raises(AccessDenied, match=f"its server runs as uid {NOBODY}, which allow="):
            await aioipc.connect(address)
        async with aioipc.connect(address, allow=lambda peer: peer.uid == NOBODY) as channel:
            assert channel.peer == PeerCredentials(server.pid, NOBODY, NOBODY)
            await channel.send("if we say so")
            assert await channel.receive() == "if we say so"

    @pytest.mark.leaves_names
    async def test_a_client_does_not_trust_their_directory(
        self, public: Path, peers: Peers
    ) -> None:
        os.chown(public, NOBODY, NOBODY)
        address = f"unix:{public}/socket"
        server = program(peers, self.SERVER, address)
        assert await server.next_line() == "listening"
        with pytest.raises(AccessDenied, match=f"belongs to uid {NOBODY}"):
            await aioipc.connect(address)
        async with aioipc.connect(address, allow=lambda peer: peer.uid == NOBODY) as channel:
            await channel.send("if we say so")
            assert await channel.receive() == "if we say so"

    async def test_they_trust_a_server_of_root(self, public: Path, peers: Peers) -> None:
        address = f"unix:{public}/socket"
        async with (
            aioipc.listen(address, allow=lambda peer: True) as listener,
            serving(listener),
        ):
            client = program(peers, self.CLIENT, address)
            assert await client.next_line() == "let me in"


@pytest.mark.leaves_names
class TestStale:
    @pytest.mark.parametrize("name", [False, True])
    async def test_a_killed_server_starts_again(self, name: bool, path: Path, peers: Peers) -> None:
        address = "unix:name" if name else f"unix:{path}"
        for _ in range(2):
            server = program(peers, SERVE_ECHO, address)
            assert await server.next_line() == address
            assert await is_served(address)
            server.kill()
            assert not await is_served(address)
        started = time.monotonic()
        async with aioipc.listen(address) as listener, serving(listener):
            assert time.monotonic() - started < 1
            assert await is_served(address)
        assert not path.exists()

    async def test_of_ten_starters_one_wins(self, path: Path, peers: Peers) -> None:
        address = f"unix:{path}"
        code = """
        await asyncio.to_thread(os.read, int(sys.argv[2]), 1)
        try:
            listener = await aioipc.listen(sys.argv[1])
        except aioipc.ResourceExhausted as error:
            say("refused", error.errno)
        else:
            say("serving")
            await listener.serve(echo)
        """
        for _ in range(2):  # with nothing there, and with what the killed winner left
            go_read, go_write = os.pipe()
            nursery = Nursery(peers, code, address, go_read, pass_fds=[go_read])
            pids = [nursery.start() for _ in range(10)]
            os.write(go_write, b"x" * 10)
            answers = [await nursery.peer.next_line() for _ in range(10)]
            assert sorted(answers) == [f"refused {errno.EADDRINUSE}"] * 9 + ["serving"]
            async with aioipc.connect(address) as channel:
                assert channel.peer is not None
                winner = channel.peer.pid
                assert winner in pids
                await channel.send("hello")
                assert await channel.receive() == "hello"
                os.kill(winner, 9)
                with pytest.raises(PeerCrashed):
                    await channel.receive()
            os.close(go_read)
            os.close(go_write)

    async def test_a_newcomers_socket_stays(self, path: Path) -> None:
        address = f"unix:{path}"
        old = await aioipc.listen(address)
        path.unlink()
        with socket.socket(socket.AF_UNIX) as newcomer:
            newcomer.bind(str(path))
            newcomer.listen()
            await old.aclose()
            assert path.is_socket()
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))

    async def test_clients_of_the_old_server_keep_it(self, path: Path) -> None:
        """Who is connected stays so, whatever becomes of the name."""
        address = f"unix:{path}"
        old = await aioipc.listen(address)
        async with serving(old), aioipc.connect(address) as channel:
            await channel.send(1)
            assert await channel.receive() == 1
            for left in path.parent.iterdir():
                left.unlink()
            async with aioipc.listen(address) as new, serving(new):
                await channel.send(2)
                assert await channel.receive() == 2
                assert await is_served(address)
                await old.aclose()
                assert await is_served(address)


class TestRefusal:
    async def test_a_symlink(self, path: Path, tmp_path: Path) -> None:
        async with aioipc.listen(f"unix:{tmp_path}/target") as listener, serving(listener):
            path.symlink_to("target")
            for verb in (aioipc.connect, aioipc.listen):
                with pytest.raises(AccessDenied, match=re.escape(f"{path} is a symlink")):
                    await verb(f"unix:{path}")
            assert path.is_symlink()
            assert await is_served(listener.address)

    @pytest.mark.parametrize("mode", [0o770, 0o777])
    async def test_a_directory_that_others_may_change(
        self, path: Path, tmp_path: Path, mode: int
    ) -> None:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
            server.listen()
            tmp_path.chmod(mode)
            for verb in (aioipc.connect, aioipc.listen):
                with pytest.raises(AccessDenied, match="others may replace what is in it"):
                    await verb(f"unix:{path}")

    @as_root
    async def test_a_directory_of_somebody_else(self, path: Path, tmp_path: Path) -> None:
        os.chown(tmp_path, NOBODY, NOBODY)
        for verb in (aioipc.connect, aioipc.listen):
            with pytest.raises(AccessDenied, match=f"belongs to uid {NOBODY}"):
                await verb(f"unix:{path}")

    @pytest.mark.parametrize("mode", [0o750, 0o777])
    async def test_a_runtime_directory_that_others_may_enter(
        self, runtime_dir: Path, mode: int
    ) -> None:
        runtime_dir.chmod(mode)
        for verb in (aioipc.connect, aioipc.listen):
            with pytest.raises(AccessDenied, match="which lets others in; it must be 0700"):
                await verb("unix:name")


class TestBacklog:
    """A server that does not accept: connect(2) answers EAGAIN, which nothing tells the end of."""

    @pytest.fixture
    def busy(self, path: Path) -> Iterator[socket.socket]:
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(socket.socket(socket.AF_UNIX))
            server.bind(str(path))
            server.listen(0)
            server.setblocking(False)
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.connect(str(path))
            yield server

    async def test_it_stays_full(self, busy: socket.socket, path: Path) -> None:
        started, started_cpu = time.monotonic(), time.process_time()
        with pytest.raises(ConnectError, match=r"no answer within 0\.5 s; a server is there"):
            await aioipc.connect(f"unix:{path}", limits=Limits(connect_s=0.5))
        assert 0.45 < time.monotonic() - started < 5
        assert time.process_time() - started_cpu < 0.1

    async def test_there_is_room_again(self, busy: socket.socket, path: Path) -> None:
        connecting = asyncio.ensure_future(aioipc.connect(f"unix:{path}").__aenter__())
        for _ in range(3):
            await asyncio.sleep(0)
        assert not connecting.done()
        busy.accept()[0].close()
        async with await connecting as channel:
            assert channel.peer is not None

    async def test_a_cancelled_connect(self, busy: socket.socket, path: Path) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await aioipc.connect(f"unix:{path}")


SILENT = """
sockets = []
for _ in range(int(sys.argv[2])):
    sock = socket.socket(socket.AF_UNIX, int(sys.argv[3]))
    sock.connect(sys.argv[1])
    sockets.append(sock)
say("connected")
await hear()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheme", "kind"),
    [("unix", socket.SOCK_STREAM), ("unix+seqpacket", socket.SOCK_SEQPACKET)],
)
async def test_a_flood_of_silent_connections(
    scheme: str, kind: int, path: Path, peers: Peers
) -> None:
    """The full figure has 1,000 of them before a good client, which gets in within 6 s."""
    limits = Limits(handshake_s=5)
    most_pending = 0
    async with (
        aioipc.listen(f"{scheme}:{path}", limits=limits) as listener,
        serving(listener),
        aioipc.connect(listener.address) as early,
    ):
        await early.send("there before")
        await early.receive()
        flood = program(peers, SILENT, path, FLOOD, int(kind))
        assert await flood.next_line() == "connected"
        started = time.monotonic()
        async with aioipc.connect(listener.address, limits=Limits(connect_s=30)) as good:
            waiting = asyncio.ensure_future(_ask(good))
            while not waiting.done():
                most_pending = max(most_pending, len(listener._greeting))
                await early.send("served meanwhile")
                assert await early.receive() == "served meanwhile"
            await waiting
        assert time.monotonic() - started < 6
        assert 0 < most_pending <= limits.max_handshakes
        flood.tell()
        assert await flood.ended() == 0


async def _ask(channel: Channel[Any]) -> None:
    await channel.send("hello")
    assert await channel.receive() == "hello"


HOLD_CONNECTIONS = """
import resource, time
count = int(sys.argv[2])
channels = []
for _ in range(count):
    channels.append(await aioipc.connect(sys.argv[1]))
say("connected")
await hear()
took = []
for number, channel in enumerate(channels):
    started = time.perf_counter()
    await channel.send([os.getpid(), number])
    assert await channel.receive() == [os.getpid(), number]
    took.append(time.perf_counter() - started)
say(sorted(took)[count * 99 // 100])
await hear()
for channel in channels:
    await channel.aclose()
say("closed")
"""


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """As many as the system lets this process and its children have: often 1,024 are usual."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < CONNECTIONS + 200:
        pytest.skip(f"no more than {hard:,} descriptors are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.slow
@pytest.mark.timeout(patience_s(60))
@pytest.mark.usefixtures("many_descriptors")
async def test_many_connections(path: Path, peers: Peers) -> None:
    """The full figure is 10,000; the default run has fewer, to be quick."""
    limits = Limits(max_connections=CONNECTIONS)
    before = open_fds()
    async with aioipc.listen(f"unix:{path}", limits=limits) as listener, serving(listener):
        clients = [
            program(peers, HOLD_CONNECTIONS, listener.address, CONNECTIONS // 2) for _ in range(2)
        ]
        for client in clients:
            assert await client.next_line() == "connected"
        for client in clients:
            client.tell("send")
        for client in clients:
            assert float(await client.next_line()) < 1, "p99, in seconds"
        assert listener._open.total() == CONNECTIONS
        async with aioipc.connect(listener.address) as one_more:
            with pytest.raises(QuotaExceeded, match=f"holds {CONNECTIONS:,} connections"):
                await one_more.receive()
        for client in clients:
            client.tell("close")
        for client in clients:
            assert await client.next_line() == "closed"
            assert await client.ended() == 0
        async with asyncio.timeout(10):
            while listener._open.total():
                # Its end has to be seen, too.
                assert await is_served(listener.address)
                await asyncio.sleep(0)
    for client in clients:
        client.close()
    assert open_fds() <= before


SERVE_WITH_FEW_DESCRIPTORS = """
import logging, resource, time
logging.basicConfig(stream=sys.stdout, format="log: %(message)s")

async def tell_and_echo(channel):
    say("accepted")
    await echo(channel)

async with aioipc.listen(sys.argv[1]) as listener:
    used = len(os.listdir("/proc/self/fd")) - 1
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    for_the_client = 1  # its process is watched
    for_statistics = 1  # the page of this process, from its first channel on
    most = used + int(sys.argv[2]) + for_the_client + for_statistics
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    say("listening")
    await listener.serve(tell_and_echo)
"""


@pytest.mark.slow
async def test_no_descriptors_are_left_to_accept_with(path: Path, peers: Peers) -> None:
    room, more = 6, 4
    address = f"unix:{path}"
    server = program(peers, SERVE_WITH_FEW_DESCRIPTORS, address, room)
    assert await server.next_line() == "listening"
    began_serving = time.monotonic()
    async with contextlib.AsyncExitStack() as stack:
        served = [await stack.enter_async_context(aioipc.connect(address)) for _ in range(room)]
        for channel in served:
            await _ask(channel)
        waiting = [await stack.enter_async_context(aioipc.connect(address)) for _ in range(more)]
        asking = [asyncio.ensure_future(_ask(channel)) for channel in waiting]
        used_cpu = _cpu_ticks(server)
        started = time.monotonic()
        rounds: list[float] = []
        while time.monotonic() - started < 1.5:  # for the warnings to be counted
            for channel in served:
                began = time.monotonic()
                await _ask(channel)
                rounds.append(time.monotonic() - began)
            await asyncio.sleep(0.01)
        assert not any(task.done() for task in asking), "there is no room"
        assert statistics.quantiles(rounds, n=100)[-1] < 0.5
        assert (_cpu_ticks(server) - used_cpu) / os.sysconf("SC_CLK_TCK") < 0.8
        released = time.monotonic()
        for channel in served[:more]:
            await channel.aclose()
        await asyncio.gather(*asking)
        assert time.monotonic() - released < 1.5
    elapsed = time.monotonic() - began_serving
    server.kill()
    lines = (await asyncio.to_thread(server.rest)).splitlines()
    assert lines.count("accepted") == room + more
    warnings = [line for line in lines if line.startswith("log: ")]
    assert 1 <= len(warnings) <= elapsed + 1
    assert all("cannot accept for now" in line for line in warnings)
    assert "Too many open files" in warnings[0]
    path.unlink()


async def _hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize(
    "listen", [aioipc.listen_stream, functools.partial(aioipc.start_server, _hang_up)]
)
async def test_no_descriptors_are_left_to_accept_byte_streams_with(
    listen: Callable[[str], Any], path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with listen(f"unix:{path}") as server:
        acceptor = server._entrance._acceptor
        tries = 0
        enough = asyncio.Event()

        def try_accept(really: Callable[[], Any] = acceptor.try_accept) -> Any:
            nonlocal tries
            tries += 1
            if tries == 4:
                enough.set()
            return really()

        acceptor.try_accept = try_accept
        accepting = None
        if listen is aioipc.listen_stream:
            accepting = asyncio.create_task(server.accept())
            await asyncio.sleep(0)
            tries = 0
        with socket.socket(socket.AF_UNIX) as client:
            lowest_free = os.dup(client.fileno())
            os.close(lowest_free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
            try:
                started = time.monotonic()
                client.connect(str(path))
                await enough.wait()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            elapsed_s = time.monotonic() - started
            if accepting is not None:
                await (await accepting).aclose()
            else:
                client.setblocking(False)
                assert await asyncio.get_running_loop().sock_recv(client, 1) == b""
    assert 1 <= caplog.text.count("cannot accept for now") <= 1 + elapsed_s


def _cpu_ticks(peer: Peer) -> int:
    """User and system time of a process: proc_pid_stat(5)."""
    fields = Path(f"/proc/{peer.pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


async def test_no_descriptors_are_left_to_connect_with(path: Path, peers: Peers) -> None:
    code = """
    import resource
    channels = []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd")) - 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 4, hard))
    try:
        while True:
            channels.append(await aioipc.connect(sys.argv[1]))
    except aioipc.ResourceExhausted as error:
        say(error.errno)
    for channel in channels:
        await channel.send("still good")
        assert await channel.receive() == "still good"
        await channel.aclose()
    async with aioipc.connect(sys.argv[1]) as channel:
        await channel.send("again")
        say(await channel.receive())
    """
    async with aioipc.listen(f"unix:{path}") as listener, serving(listener):
        peer = program(peers, code, listener.address)
        assert await peer.next_line() == str(errno.EMFILE)
        assert await peer.next_line() == "again"
        assert await peer.ended() == 0


async def test_a_reset_comes_after_what_was_sent(path: Path) -> None:
    """Closing with something unread resets the connection; what left before is delivered."""
    async with aioipc.listen(f"unix:{path}", codec="raw") as listener:
        near = await aioipc.connect(listener.address, codec="raw")
        async with near, await listener.accept() as far:
            await far.send_many([b"%d" % n * 50 for n in range(100)])
            await far.flush()
            await near.send(b"never read")
            await near.flush()
            far.abort()
            for number in range(100):
                assert await near.receive() == b"%d" % number * 50
            with pytest.raises(PeerCrashed):
                await near.receive()
            writes = near.statistics().write_calls
            with pytest.raises(PeerCrashed):
                await near.send(b"too late")
            assert near.statistics().write_calls == writes, "it is known without another try"
        with pytest.raises(ClosedError):
            await near.receive()


async def test_names_in_a_full_directory(path: Path) -> None:
    """ResourceExhausted tells a name in use from everything else by its errno."""
    path.write_text("no socket")
    with pytest.raises(ResourceExhausted) as caught:
        await aioipc.listen(f"unix:{path}")
    assert caught.value.errno == errno.EADDRINUSE
