"""``tls:`` between processes and against peers that cannot prove who they are."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import errno
import os
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

import aioipc
from aioipc import (
    AccessDenied,
    AddressError,
    Capability,
    Channel,
    ConnectError,
    EndOfStream,
    HandshakeError,
    IPCAttribute,
    IPCError,
    Limits,
    PeerCrashed,
)
from aioipc.address import Address
from aioipc.loop.waiting import pacer_of
from tests.certificates import authority, client_context, server_context
from tests.children import Peers
from tests.programs import ECHO, SERVE_ECHO, converse, ends, program

pytestmark = pytest.mark.asyncio

HERE = "tls://127.0.0.1:0"


class Files:
    """A certificate, its key and its authority, as files."""

    def __init__(self, directory: Path, *names: str, **options: Any) -> None:
        certificate = authority().issue_cert(*names, **options)
        self.ca = directory / "ca.pem"
        self.cert = directory / f"{names[0]}.pem"
        self.key = directory / f"{names[0]}.key"
        authority().cert_pem.write_to_path(str(self.ca))
        certificate.private_key_pem.write_to_path(str(self.key))
        for blob in certificate.cert_chain_pems:
            blob.write_to_path(str(self.cert), append=True)


@pytest.fixture
def server(tmp_path: Path) -> Files:
    return Files(tmp_path, "127.0.0.1")


@pytest.fixture
def client(tmp_path: Path) -> Files:
    return Files(tmp_path, "client@example.org")


async def test_a_server_in_another_process(server: Files, peers: Peers) -> None:
    process = program(peers, SERVE_ECHO, f"{HERE}?cert={server.cert}&key={server.key}")
    address = await process.next_line()
    assert "?" not in address
    async with aioipc.connect(f"{address}?ca={server.ca}") as channel:
        assert channel.peer is None
        assert Capability.REMOTE not in channel.capabilities
        certificate = channel.extra(IPCAttribute.peer_certificate)
        assert certificate is not None
        assert ("IP Address", "127.0.0.1") in certificate["subjectAltName"]
        await converse(channel)
    async with aioipc.connect(f"{address}?ca={server.ca}") as channel:
        await channel.send("works")
        assert await channel.receive() == "works"
        process.kill()
        with pytest.raises(PeerCrashed):
            await channel.receive()


async def test_a_client_in_another_process_that_says_who_it_is(
    server: Files, client: Files, peers: Peers
) -> None:
    where = f"{HERE}?cert={server.cert}&key={server.key}&ca={server.ca}"
    async with aioipc.listen(where) as listener:
        there = f"{listener.address}?ca={server.ca}&cert={client.cert}&key={client.key}"
        process = program(peers, ECHO, there)
        async with await listener.accept() as channel:
            certificate = channel.extra(IPCAttribute.peer_certificate)
            assert certificate is not None
            assert ("email", "client@example.org") in certificate["subjectAltName"]
            await converse(channel)
        assert await process.ended() == 0


@asynccontextmanager
async def serving(address: str | Address) -> AsyncIterator[str]:
    """An echo in this loop."""

    async def echo(channel: Channel[Any]) -> None:
        async for message in channel:
            await channel.send(message)

    async with aioipc.listen(address) as listener:
        task = asyncio.create_task(listener.serve(echo))
        try:
            yield listener.address
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def refusal(address: str | Address, **options: Any) -> IPCError:
    """Why a connection comes to nothing."""
    try:
        async with aioipc.connect(address, **options) as channel:
            await channel.send("hello")
            await channel.receive()
    except IPCError as error:
        return error
    raise AssertionError("it was accepted")


async def test_who_waits_polls_the_connection() -> None:
    address = Address.parse(HERE)
    async with serving(address.with_tls(server_context())) as where:
        there = Address.parse(where).with_tls(client_context())
        async with aioipc.connect(there) as channel:
            budget = pacer_of(asyncio.get_running_loop()).budget
            polls = 0
            while not polls:  # a loop that was crowded lately does not poll
                for _ in range(2):
                    budget.blocked(1_000)
                await channel.send("echo")
                assert await channel.receive() == "echo"
                polls = channel.statistics().polls


async def test_a_server_that_falls_silent(server: Files, peers: Peers) -> None:
    process = program(peers, SERVE_ECHO, f"{HERE}?cert={server.cert}&key={server.key}")
    address = await process.next_line()
    limits = Limits(heartbeat_s=0.2, silence_s=1)
    async with aioipc.connect(f"{address}?ca={server.ca}", limits=limits) as channel:
        await channel.send("x")
        assert await channel.receive() == "x"
        process.signal(signal.SIGSTOP)
        with pytest.raises(PeerCrashed, match="silent for"):
            await channel.receive()


# Who is not trusted, and why


async def test_an_unknown_authority(server: Files) -> None:
    async with serving(f"{HERE}?cert={server.cert}&key={server.key}") as address:
        error = await refusal(address)
    assert isinstance(error, AccessDenied)
    assert error.errno == errno.EACCES
    assert "the certificate of the server is not trusted: unable to get local issuer" in str(error)


async def test_another_host(tmp_path: Path) -> None:
    other = Files(tmp_path, "elsewhere.example")
    async with serving(f"{HERE}?cert={other.cert}&key={other.key}") as address:
        error = await refusal(f"{address}?ca={other.ca}")
        assert isinstance(error, AccessDenied)
        assert "certificate is not valid for '127.0.0.1'" in str(error)
        # Who knows under which name the server is to be found says so.
        async with aioipc.connect(f"{address}?ca={other.ca}&name=elsewhere.example") as channel:
            await channel.send("x")
            assert await channel.receive() == "x"


async def test_an_expired_certificate(tmp_path: Path) -> None:
    past = datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC)
    old = Files(tmp_path, "127.0.0.1", not_after=past)
    async with serving(f"{HERE}?cert={old.cert}&key={old.key}") as address:
        error = await refusal(f"{address}?ca={old.ca}")
    assert isinstance(error, AccessDenied)
    assert "certificate has expired" in str(error)


async def test_a_client_without_a_certificate(
    server: Files, caplog: pytest.LogCaptureFixture
) -> None:
    where = f"{HERE}?cert={server.cert}&key={server.key}&ca={server.ca}"
    async with serving(where) as address:
        error = await refusal(f"{address}?ca={server.ca}")
    assert isinstance(error, AccessDenied | PeerCrashed), "a reset may overtake the reason"
    if isinstance(error, AccessDenied):
        assert "certificate required" in str(error)
    assert "peer did not return a certificate" in caplog.text


async def test_a_client_of_another_authority(
    server: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    context = ssl.create_default_context(cafile=str(server.ca))
    trustme.CA().issue_cert("client@example.org").configure_cert(context)
    where = f"{HERE}?cert={server.cert}&key={server.key}&ca={server.ca}"
    async with serving(where) as address:
        error = await refusal(Address.parse(address).with_tls(context))
    assert isinstance(error, AccessDenied | PeerCrashed), "a reset may overtake the reason"
    assert "the certificate of the client is not trusted" in caplog.text


async def test_a_server_that_does_not_speak_tls() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        loop = asyncio.get_running_loop()

        async def chat() -> None:
            sock, _ = await loop.sock_accept(listening)
            with sock:
                await loop.sock_sendall(sock, b"220 mail.example ready\r\n")
                await loop.sock_recv(sock, 65536)

        chatting = asyncio.create_task(chat())
        error = await refusal(f"tls://127.0.0.1:{listening.getsockname()[1]}")
        await chatting
    assert isinstance(error, HandshakeError)
    assert "no TLS with this peer: wrong version number" in str(error)


async def test_a_server_that_hangs_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)

        async def hang_up() -> None:
            sock, _ = await asyncio.get_running_loop().sock_accept(listening)
            sock.close()

        hanging = asyncio.create_task(hang_up())
        error = await refusal(f"tls://127.0.0.1:{listening.getsockname()[1]}")
        await hanging
    assert isinstance(error, ConnectError)


async def test_a_server_that_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"tls://127.0.0.1:{listening.getsockname()[1]}"
        error = await refusal(address, limits=Limits(connect_s=0.1))
    assert isinstance(error, ConnectError)
    assert "no answer within 0.1 s" in str(error)


async def test_a_client_that_does_not_speak_tls(
    server: Files, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(f"{HERE}?cert={server.cert}&key={server.key}") as address:
        host, _, port = address.removeprefix("tls://").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
        async with aioipc.connect(f"{address}?ca={server.ca}") as good:
            await good.send("still served")
            assert await good.receive() == "still served"
    assert "no TLS with this peer: http request" in caplog.text


async def test_the_end_of_tcp_is_not_the_end_of_tls() -> None:
    """Else who sits in between could cut what it cannot read."""
    async with (
        aioipc.listen_stream(Address.parse(HERE).with_tls(server_context())) as listener,
        aioipc.connect_stream(there(listener.address)) as near,
        await listener.accept() as far,
    ):
        await near.send(b"whole")
        assert await far.receive() == b"whole"
        near.transport._below.close_write()  # type: ignore[attr-defined]
        with pytest.raises(PeerCrashed, match="without the end of TLS"):
            await far.receive()


async def _cut_off_transport(where: Address) -> None:
    transport, _ = await aioipc.create_connection(asyncio.Protocol, where)
    transport.write(b"half\n")
    transport.abort()


async def _cut_off_stream(where: Address) -> None:
    stream = await aioipc.connect_stream(where)
    await stream.send(b"half\n")
    stream.abort()


async def _cut_off_channel(where: Address) -> None:
    channel = await aioipc.connect(where, framing="lines", codec="raw")
    await channel.send(b"half")
    await channel.flush()
    channel.abort()


@pytest.mark.parametrize("cut_off", [_cut_off_transport, _cut_off_stream, _cut_off_channel])
async def test_what_is_cut_off_has_no_end_of_tls(cut_off: Callable[[Address], Any]) -> None:
    """As with asyncio: RFC 8446, 6.1, has it say that all was sent."""
    async with aioipc.listen_stream(Address.parse(HERE).with_tls(server_context())) as listener:
        cutting = asyncio.create_task(cut_off(there(listener.address)))
        async with await listener.accept() as far:
            received = b""
            while received != b"half\n":  # one record or two
                received += await far.receive()
            with pytest.raises(PeerCrashed, match="without the end of TLS"):
                await far.receive()
        await cutting


# Byte streams


def there(address: str) -> Address:
    return Address.parse(address).with_tls(client_context())


async def test_a_byte_stream() -> None:
    async with (
        aioipc.listen_stream(Address.parse(HERE).with_tls(server_context())) as listener,
        aioipc.connect_stream(there(listener.address)) as near,
        await listener.accept() as far,
    ):
        data = os.urandom(3_000_000)

        async def read(stream: aioipc.ByteStream) -> bytes:
            got = bytearray()
            with contextlib.suppress(EndOfStream):
                while True:
                    got += await stream.receive()
            return bytes(got)

        reading = [asyncio.create_task(read(stream)) for stream in (near, far)]
        await asyncio.gather(near.send(data), far.send(data[::-1]))
        await near.send_eof()
        assert await reading[1] == data
        await far.send(b"one direction goes on")
        await far.send_eof()
        assert await reading[0] == data[::-1] + b"one direction goes on"
        assert near.extra(IPCAttribute.peer_certificate)
        assert far.extra(IPCAttribute.peer_certificate) is None


async def test_records_that_come_together_are_all_read() -> None:
    """Nothing else comes that would wake who reads."""
    size = 60_000  # in records of at most 16 KiB, read from the socket at once

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"%d" % len(await reader.readexactly(size)))
        writer.close()

    where = Address.parse(HERE).with_tls(server_context())
    async with (
        aioipc.start_server(answer, where) as server,
        aioipc.open_connection(there(server.address)) as (reader, writer),
    ):
        writer.write(b"x" * size)
        assert await reader.read() == b"%d" % size


async def test_what_a_transport_tells() -> None:
    where = Address.parse(HERE).with_tls(server_context())
    async with (
        start_server(where) as server,
        aioipc.create_connection(asyncio.Protocol, there(server.address)) as (transport, _),
    ):
        told = transport.get_extra_info
        assert told("peername") == server.sockets[0].getsockname()
        assert told("socket").getsockname() == told("sockname")
        assert told("socket").fileno() == told("fd")
        assert told("ssl_object").context is client_context()
        assert ("IP Address", "127.0.0.1") in told("peercert")["subjectAltName"]
        assert told("cipher") == told("ssl_object").cipher()
        assert told("compression") is None
        assert told("sslcontext") is None


@pytest.mark.parametrize("size", [10, 300_000])
async def test_a_file_is_encrypted(tmp_path: Path, size: int) -> None:
    loop = asyncio.get_running_loop()
    if not isinstance(loop, asyncio.BaseEventLoop):
        pytest.skip("uvloop has no sendfile")
    path = tmp_path / "file"
    path.write_bytes(b"x" * size)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"%d" % len(await reader.readexactly(size)))
        writer.close()

    where = Address.parse(HERE).with_tls(server_context())
    async with (
        aioipc.start_server(answer, where) as server,
        aioipc.open_connection(there(server.address)) as (reader, writer),
    ):
        with path.open("rb") as file:
            await loop.sendfile(writer.transport, file)
        assert await reader.read() == b"%d" % size


async def test_who_reads_the_end_may_still_answer() -> None:
    where = Address.parse(HERE).with_tls(server_context())

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        question = await reader.read()
        await asyncio.sleep(0)
        writer.write(question.upper())
        writer.close()

    async with (
        aioipc.start_server(answer, where) as server,
        aioipc.open_connection(there(server.address)) as (reader, writer),
    ):
        writer.write(b"question")
        writer.write_eof()
        assert await reader.read() == b"QUESTION"


async def test_an_end_with_much_unread() -> None:
    async with (
        aioipc.listen_stream(Address.parse(HERE).with_tls(server_context())) as listener,
        aioipc.connect_stream(there(listener.address)) as near,
        await listener.accept() as far,
    ):
        await near.send(b"x" * 50_000)
        assert await far.receive(10) == b"x" * 10
        await far.send_eof()
        with pytest.raises(EndOfStream):
            await near.receive()
        left = 50_000 - 10
        while left:
            left -= len(await far.receive(1_000))


@pytest.mark.parametrize("framing", ["lines", "headers"])
async def test_foreign_framings(framing: str) -> None:
    where = Address.parse(HERE).with_tls(server_context())
    options: dict[str, Any] = {"framing": framing, "codec": "json"}
    async with (
        aioipc.listen(where, **options) as listener,
        aioipc.connect(there(listener.address), **options) as near,
        await listener.accept() as far,
    ):
        for message in ({"n": 1}, "x" * 300_000):
            sending = asyncio.create_task(near.send(message))
            assert await far.receive() == message
            await sending
        await near.send_eof()
        await ends(far)


def start_server(where: Address, **options: Any) -> Any:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(100))
        writer.close()
        await writer.wait_closed()

    return aioipc.start_server(echo, where, **options)


@pytest.mark.parametrize("listen", [aioipc.listen_stream, start_server])
async def test_a_client_that_says_nothing_is_thrown_out(
    listen: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Else so many of them would keep everybody out for ever."""
    limits = Limits(handshake_s=0.2, max_handshakes=5)
    where = Address.parse(HERE).with_tls(server_context())
    async with listen(where, limits=limits) as server:
        port = Address.parse(server.address).port
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
        async with aioipc.connect_stream(there(server.address)) as near:
            await near.send(b"still served")
            if listen is start_server:
                assert await near.receive() == b"still served"
            else:
                async with await server.accept() as far:
                    assert await far.receive() == b"still served"
        for reader, writer in silent:
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()
    assert caplog.text.count("no handshake within 0.2 s") == 4
    assert "others wait" not in caplog.text


@pytest.mark.parametrize("listen", [aioipc.listen_stream, start_server])
async def test_who_is_silent_for_longest_gives_way_to_who_waits(
    listen: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Else each two of them would keep everybody out for two seconds."""
    limits = Limits(handshake_s=2, max_handshakes=2)
    where = Address.parse(HERE).with_tls(server_context())
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(listen(where, limits=limits))
        to = ("127.0.0.1", Address.parse(server.address).port)
        for _ in range(6):
            stack.enter_context(socket.create_connection(to))
        near = await stack.enter_async_context(aioipc.connect_stream(there(server.address)))
        if listen is aioipc.listen_stream:
            await stack.enter_async_context(await server.accept())
        else:
            await near.send(b"served")
            assert await near.receive() == b"served"
    assert caplog.text.count("and others wait") == 5


async def test_more_come_at_once_than_may_shake_hands_at_once() -> None:
    where = Address.parse(HERE).with_tls(server_context())
    async with start_server(where, limits=Limits(max_handshakes=2)) as server:

        async def ask(question: bytes) -> bytes:
            async with aioipc.connect_stream(there(server.address)) as near:
                await near.send(question)
                return await near.receive()

        for _ in range(2):
            questions = [b"%d" % number for number in range(6)]
            assert await asyncio.gather(*map(ask, questions)) == questions


async def test_many_who_wait_and_do_not_speak_tls(caplog: pytest.LogCaptureFixture) -> None:
    where = Address.parse(HERE).with_tls(server_context())
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(start_server(where, start_serving=False))
        to = ("127.0.0.1", Address.parse(server.address).port)
        for _ in range(300):
            stack.enter_context(socket.create_connection(to)).send(b"GET / HTTP/1.1\r\n\r\n")
        await server.start_serving()
        async with aioipc.connect_stream(there(server.address)) as near:
            await near.send(b"still served")
            assert await near.receive() == b"still served"
    assert caplog.text.count("a handshake failed") == 300


async def test_a_listener_that_closes_ends_its_handshakes() -> None:
    where = Address.parse(HERE).with_tls(server_context())
    async with aioipc.listen_stream(where) as listener:
        port = Address.parse(listener.address).port
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x16\x03\x01")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(listener.accept(), 0.05)
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


async def test_who_stumbles_in_a_handshake_never_becomes_a_stream(
    caplog: pytest.LogCaptureFixture,
) -> None:
    where = Address.parse(HERE).with_tls(server_context())
    async with aioipc.listen_stream(where) as listener:
        port = Address.parse(listener.address).port
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        accepting = asyncio.create_task(listener.accept())
        await reader.read()
        assert not accepting.done()
        async with aioipc.connect_stream(there(listener.address)), await accepting:
            pass
        writer.close()
        await writer.wait_closed()
    assert "a handshake failed" in caplog.text


# Addresses


@pytest.mark.parametrize(
    ("address", "part"),
    [
        ("tls://127.0.0.1", "the port is missing"),
        ("tls://127.0.0.1:1?secret=x", "wrong parameter 'secret'"),
        ("tls://127.0.0.1:1?ca", "wrong parameters 'ca'"),
        ("tls://127.0.0.1:1?ca=", "wrong parameter ca ''"),
        ("tls://127.0.0.1:1?ca=/a&ca=/b", "each only once"),
        ("tls://127.0.0.1:1?ca=/does/not/exist", "cannot use ca=/does/not/exist: No such file"),
    ],
)
async def test_a_wrong_address(address: str, part: str) -> None:
    with pytest.raises(AddressError) as caught:
        await aioipc.connect(address)
    assert part in str(caught.value)


async def test_a_server_needs_a_certificate(tmp_path: Path) -> None:
    with pytest.raises(AddressError, match="a server needs a certificate"):
        await aioipc.listen(HERE)
    (tmp_path / "empty").touch()
    with pytest.raises(AddressError, match="cannot use cert="):
        await aioipc.listen(f"{HERE}?cert={tmp_path}/empty")


async def test_only_tls_has_a_context() -> None:
    with pytest.raises(AddressError, match="only tls: has a context"):
        Address.parse("tcp://127.0.0.1:1").with_tls(client_context())


async def test_users_are_not_known() -> None:
    for call in (aioipc.connect, aioipc.listen):
        with pytest.raises(ValueError, match="does not know the peer's user"):
            await call("tls://127.0.0.1:1", allow=aioipc.same_user)
        with pytest.raises(ValueError, match="pickle codec runs what a peer sends"):
            call("tls://127.0.0.1:1", codec="pickle")
