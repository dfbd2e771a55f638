"""What goes wrong with FIFOs and pipes: nobody there, killed half way, exchanged, closed 0 to 2."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import resource
import signal
import time
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import aioipc
import aioipc.transports.fifo  # else the first test that opens one pays for it
from aioipc import AccessDenied, Channel, ClosedError, ConnectError, FrameTooLarge, Limits
from tests.children import PATIENCE_S, Peers
from tests.kernel.strangers import NOBODY, as_root
from tests.links import fill, steps
from tests.programs import Nursery, program
from tests.scale import patience_s, scaled

pytestmark = pytest.mark.asyncio

WRITERS = 8
KILLS = scaled(40, full=800)
"""Writers killed, one after the other; in the full run one every 50 ms for 40 s."""

WRITER = """
import struct, zlib

def record(writer, number):
    body = struct.pack("<IQ", writer, number) + os.urandom(1 + os.urandom(1)[0] * 15)
    return zlib.crc32(body).to_bytes(4, "little") + body

async with aioipc.connect(sys.argv[1], codec="raw") as channel:
    number = 0
    while True:
        await channel.send(record(int(sys.argv[2]), number))
        number += 1
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "fifo"


def cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class TestNobodyReads:
    @pytest.mark.parametrize("made", [False, True])
    async def test_the_sender_waits_until_its_deadline(self, path: Path, made: bool) -> None:
        if made:
            os.mkfifo(path)
        started_s, started_cpu_s = time.monotonic(), cpu_s()
        with pytest.raises(ConnectError, match=rf"connect to fifo:{path}: no answer within 1 s"):
            await aioipc.connect(f"fifo:{path}", limits=Limits(connect_s=1))
        assert 0.9 < time.monotonic() - started_s < 5
        assert cpu_s() - started_cpu_s < 0.02, "2 % of one second"

    async def test_the_wait_is_cancelled(self, path: Path) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await aioipc.connect(f"fifo:{path}")

    async def test_a_reader_comes(self, path: Path) -> None:
        connecting = asyncio.ensure_future(aioipc.connect(f"fifo:{path}").__aenter__())
        await asyncio.sleep(0)
        assert not connecting.done()
        async with (
            aioipc.listen(f"fifo:{path}") as listener,
            await listener.accept() as receiving,
            await connecting as sending,
        ):
            await sending.send("at last")
            assert await receiving.receive() == "at last"

    async def test_many_wait_for_one_reader(self, path: Path) -> None:
        async def send(number: int) -> None:
            async with aioipc.connect(f"fifo:{path}") as channel:
                await channel.send(number)

        sending = [asyncio.create_task(send(number)) for number in range(20)]
        await asyncio.sleep(0)
        async with aioipc.listen(f"fifo:{path}") as listener, await listener.accept() as receiving:
            received = [await receiving.receive() for _ in sending]
            assert sorted(received) == list(range(20))
            await asyncio.gather(*sending)


async def test_writers_come_and_go(path: Path, peers: Peers) -> None:
    code = """
    async with aioipc.connect(sys.argv[1]) as channel:
        await channel.send(os.getpid())
        await channel.flush()
        if sys.argv[2] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
    """
    async with aioipc.listen(f"fifo:{path}") as listener, await listener.accept() as channel:
        for end in ("close", "kill", "close"):
            writer = program(peers, code, f"fifo:{path}", end)
            assert await channel.receive() == writer.pid
            await writer.ended()
            with pytest.raises(aioipc.WouldBlock):
                channel.receive_nowait()


@pytest.mark.slow
@pytest.mark.timeout(patience_s(60))
async def test_writers_are_killed_at_any_moment(path: Path, peers: Peers) -> None:
    """Nothing is torn, mixed, lost in the middle or delivered twice."""
    nursery = Nursery(peers, WRITER, f"fifo:{path}")
    async with (
        aioipc.listen(f"fifo:{path}", codec="raw") as listener,
        await listener.accept() as channel,
    ):
        pids = [nursery.start(writer) for writer in range(WRITERS)]
        received = [0] * WRITERS
        kills = 0
        while kills < KILLS:
            for record in await channel.receive_many():
                writer, number = _check(record)
                assert number == received[writer]
                received[writer] += 1
            if received[kills] > 20:
                os.kill(pids[kills], signal.SIGKILL)
                kills += 1
                pids.append(nursery.start(len(pids)))
                received.append(0)
        for pid in pids[kills:]:
            os.kill(pid, signal.SIGKILL)


def _check(record: bytes) -> tuple[int, int]:
    crc, body = record[:4], record[4:]
    assert int.from_bytes(crc, "little") == zlib.crc32(body)
    return int.from_bytes(body[:4], "little"), int.from_bytes(body[4:12], "little")


async def test_a_single_writer_is_killed_inside_a_message(path: Path, peers: Peers) -> None:
    """What it did not finish is not completed with the words of the next one."""
    address = f"fifo:{path}?single"
    first = """
    async with aioipc.connect(sys.argv[1], codec="raw") as channel:
        await channel.send(b"whole")
        channel.send_nowait(b"1" * 10_000_000)
        say("sending")
        await asyncio.Event().wait()
    """
    second = """
    async with aioipc.connect(sys.argv[1], codec="raw") as channel:
        await channel.send(b"2" * 200_000)
    """
    async with aioipc.listen(address, codec="raw") as listener, await listener.accept() as channel:
        writer = program(peers, first, address)
        assert await channel.receive() == b"whole"
        assert await writer.next_line() == "sending"
        writer.kill()
        program(peers, second, address)
        assert await channel.receive() == b"2" * 200_000


async def test_a_long_record_among_writers(path: Path) -> None:
    async with (
        aioipc.listen(f"fifo:{path}", codec="raw") as listener,
        await listener.accept() as receiving,
        aioipc.connect(f"fifo:{path}", codec="raw") as one,
        aioipc.connect(f"fifo:{path}", codec="raw") as other,
    ):
        for size in (4089, 1_000_000):
            with pytest.raises(FrameTooLarge, match=f"{size:,} bytes is over the limit of 4,088"):
                await one.send(bytes(size))
        await one.send(b"still good")
        await other.send(b"the other too")
        assert await receiving.receive() == b"still good"
        assert await receiving.receive() == b"the other too"


class TestFull:
    """Nobody reads; the other writer goes on afterwards (cases 13 and 14)."""

    async def test_a_close_delivers_what_was_accepted(self, path: Path) -> None:
        async with connected(path, Limits(linger_s=3_600)) as (receiving, sending, other):
            sent = fill(sending)
            waiting = asyncio.create_task(sending.send(b"not accepted"))
            closing = asyncio.create_task(sending.aclose())
            await steps(3)
            assert not closing.done()
            with pytest.raises(ClosedError):
                await waiting
            assert [await receiving.receive() for _ in sent] == sent
            await closing
            await other.send(b"the next")
            assert await receiving.receive() == b"the next"

    @pytest.mark.parametrize("linger_s", [0, 0.02])
    async def test_a_close_that_gives_up_tears_nothing(self, path: Path, linger_s: float) -> None:
        async with connected(path, Limits(linger_s=linger_s)) as (receiving, sending, other):
            sent = fill(sending)
            waiting = [asyncio.create_task(sending.send(b"%4000d" % n)) for n in range(3)]
            await steps(2)
            await sending.aclose()
            results = await asyncio.gather(*waiting, return_exceptions=True)
            assert [type(result) for result in results] == [ClosedError] * 3
            last = asyncio.create_task(other.send(b"the next"))
            got = []
            while (message := await receiving.receive()) != b"the next":
                got.append(message)
            await last
            assert 0 < len(got) < len(sent)
            assert got == sent[: len(got)]


@contextlib.asynccontextmanager
async def connected(
    path: Path, limits: Limits
) -> AsyncIterator[tuple[Channel[bytes], Channel[bytes], Channel[bytes]]]:
    """The receiving end, and two that send to it."""
    address = f"fifo:{path}"
    async with (
        asyncio.timeout(PATIENCE_S),
        aioipc.listen(address, codec="raw") as listener,
        await listener.accept() as receiving,
        aioipc.connect(address, codec="raw", limits=limits) as sending,
        aioipc.connect(address, codec="raw") as other,
    ):
        yield receiving, sending, other


@pytest.mark.parametrize("verb", ["connect", "listen"])
class TestRefusal:
    async def test_a_symlink(self, path: Path, tmp_path: Path, verb: str) -> None:
        os.mkfifo(tmp_path / "target")
        path.symlink_to("target")
        with pytest.raises(AccessDenied, match=re.escape(f"{path} is a symlink")):
            await getattr(aioipc, verb)(f"fifo:{path}")
        assert path.is_symlink()
        assert (tmp_path / "target").is_fifo()

    async def test_a_regular_file(self, path: Path, verb: str) -> None:
        path.write_text("untouched")
        with pytest.raises(AccessDenied, match=re.escape(f"{path} is no FIFO")):
            await getattr(aioipc, verb)(f"fifo:{path}")
        assert path.read_text() == "untouched"

    @as_root
    async def test_somebody_elses(self, path: Path, verb: str) -> None:
        os.mkfifo(path)
        os.chown(path, NOBODY, NOBODY)
        with pytest.raises(AccessDenied, match=f"belongs to uid {NOBODY}"):
            await getattr(aioipc, verb)(f"fifo:{path}")

    async def test_a_directory_that_others_may_change(
        self, path: Path, tmp_path: Path, verb: str
    ) -> None:
        tmp_path.chmod(0o777)
        with pytest.raises(AccessDenied, match="others may replace what is in it"):
            await getattr(aioipc, verb)(f"fifo:{path}")

    async def test_it_is_exchanged_while_a_sender_waits(
        self, path: Path, tmp_path: Path, verb: str
    ) -> None:
        if verb == "listen":
            pytest.skip("a receiver does not wait")
        os.mkfifo(path)
        connecting = asyncio.ensure_future(aioipc.connect(f"fifo:{path}").__aenter__())
        await asyncio.sleep(0)
        assert not connecting.done()
        (tmp_path / "link").symlink_to("target")
        (tmp_path / "link").rename(path)
        with pytest.raises(AccessDenied, match="is a symlink"):
            await connecting


WITHOUT_STANDARD_STREAMS = """
report = os.dup(1)
os.dup2(report, 60)
os.close(report)
for fd in (0, 1, 2):
    os.close(fd)

def is_open(fd):
    with contextlib.suppress(OSError):
        return bool(os.fstat(fd))
    return False

def lowest():
    return [fd for fd in (0, 1, 2) if is_open(fd)]

async def talk(left, right):
    await left.send("there")
    assert await right.receive() == "there"
    if aioipc.Capability.DUPLEX in left.capabilities:
        await right.send("back")
        assert await left.receive() == "back"

async def served(address, **options):
    async with aioipc.listen(address, **options) as listener:
        near = await aioipc.connect(listener.address)
        await near.send("hello")
        far = await listener.accept()
        assert await far.receive() == "hello"
        return near, far

async def pairs():
    yield aioipc.pair("pipe")
    yield aioipc.pair("unix")
    yield aioipc.pair("memory")
    yield await served("unix:name")
    yield await served("unix:@" + os.environ["AIOIPC_RUNTIME_DIR"], allow=aioipc.same_user)
    yield await served("tcp://127.0.0.1:0")
    yield await served("fifo:" + os.environ["AIOIPC_RUNTIME_DIR"] + "/fifo")
    read, write = os.pipe()         # 0 and 1, whatever we think of that
    yield await aioipc.connect(f"fd:{write}"), await aioipc.connect(f"fd:{read}")
    left, right = socket.socketpair()
    yield (
        await aioipc.connect(f"fd:{left.detach()}"),
        await aioipc.connect(f"fd:{right.detach()}"),
    )

async def check():
    async for left, right in pairs():
        async with left, right:
            await talk(left, right)
            found = lowest()
            # The numbers belong to somebody else from here on.
            own = [os.open(os.devnull, os.O_RDWR) for _ in range(3 - len(found))]
            assert lowest() == [0, 1, 2], (left, lowest())
            await talk(left, right)
        assert lowest() == [0, 1, 2], f"{left} closed what is not its own"
        for fd in own:
            os.close(fd)
        if found:
            raise AssertionError(f"{left} has taken {found}")
    async with aioipc.connect("exec:cat", framing="lines", codec="text") as channel:
        await channel.send("through cat")
        assert await channel.receive() == "through cat"
        assert not lowest()

try:
    await check()
    answer = "fine"
except BaseException as error:
    import traceback
    answer = "".join(traceback.format_exception(error))
os.write(60, answer.encode())
"""


async def test_descriptors_0_to_2_are_closed(peers: Peers) -> None:
    """The kernel then hands out these numbers; print and children would meddle."""
    peer = program(peers, WITHOUT_STANDARD_STREAMS)
    answer = await asyncio.to_thread(peer.rest)
    assert answer == "fine", answer
