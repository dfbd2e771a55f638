"""The page on which a process counts, and reading those of others, whatever they say."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as some

import aioipc
from aioipc.kernel.memory import create_memory, map_memory, seal
from aioipc.kernel.owned import OwnedFd
from aioipc.kernel.pages import Counted, Reading, read_pages
from aioipc.kernel.statistics import LINK, Kind
from aioipc.native._statistics import HEADER_BYTES, ROW_BYTES, Page, read_rows
from tests.children import Peers, come_to_rest
from tests.kernel.strangers import BECOME_NOBODY, as_root
from tests.programs import program
from tests.scale import patience_s, scaled

NAME = LINK.removeprefix("/memfd:").removesuffix(" (deleted)")

HOLD = """
left, right = aioipc.pair("memory")
async with left, right:
    say("ready")
    while word := await hear():
        await left.send(word)
        say(await right.receive())
"""
"""Has two channels, and sends every word that it hears through them."""


def reading_of(pid: int) -> Reading:
    (reading,) = read_pages([pid])
    return reading


def is_counted(pid: int) -> bool:
    return bool(read_pages([pid]))


def open_rows(reading: Reading) -> list[Counted]:
    return [row for row in reading.rows if not row.is_sum]


def page_links(pid: int) -> list[str]:
    links = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since: the process is at work
            links.append(os.readlink(link))
    return [link for link in links if link == LINK]


# The page of a process


def test_what_a_process_counts(peers: Peers) -> None:
    peer = program(peers, HOLD)
    assert peer.line() == "ready"
    for word in ("one", "three"):
        peer.tell(word)
        assert peer.line() == word
    reading = reading_of(peer.pid)
    assert reading.pid == peer.pid
    assert "import aioipc" in reading.command
    assert reading.refused == 0
    left, right = open_rows(reading)
    assert (left.kind, left.name) == (Kind.CHANNEL, "memory:pair")
    assert left.counts["messages_sent"] == right.counts["messages_received"] == 2
    assert left.counts["bytes_sent"] == right.counts["bytes_received"] > 8
    assert [row.closed for row in reading.rows if row.is_sum] == [0]
    peer.tell()
    assert peer.wait() == 0
    assert not is_counted(peer.pid)


def test_an_import_makes_no_page(peers: Peers) -> None:
    peer = peers.script("""
        import os, sys
        before = os.listdir("/proc/self/fd")
        import aioipc
        aioipc.connect, aioipc.rpc, aioipc.sync
        print(os.listdir("/proc/self/fd") == before)
    """)
    assert peer.rest() == "True\n"


def test_it_can_be_turned_off(peers: Peers) -> None:
    peer = program(peers, HOLD, env={"AIOIPC_STATISTICS": "0"})
    assert peer.line() == "ready"
    assert page_links(peer.pid) == []
    assert not is_counted(peer.pid)
    peer.tell("still works")
    assert peer.line() == "still works"


def test_without_memory_for_it_everything_else_works(peers: Peers) -> None:
    code = """
    import resource
    for limit in (1_000_000, resource.RLIM_INFINITY):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        left, right = aioipc.pair("memory")
        async with left, right:
            await left.send("hello")
            assert await right.receive() == "hello"
            say("ready")
            await hear()
    """
    peer = program(peers, code)
    assert peer.line() == "ready"
    assert not is_counted(peer.pid)
    peer.tell()
    assert peer.line() == "ready"
    assert len(open_rows(reading_of(peer.pid))) == 2
    peer.tell()
    assert peer.wait() == 0


def test_channels_that_were_closed_are_summed(peers: Peers) -> None:
    code = """
    for number in range(3):
        left, right = aioipc.pair("memory")
        await left.send("x")
        await right.receive()
        await left.aclose()
        await right.aclose()
        assert left.statistics().messages_sent == 1, "they keep their own counts"
    left, right = aioipc.pair("memory")
    async with left, right:
        say("ready")
        await hear()
    """
    peer = program(peers, code)
    assert peer.line() == "ready"
    first = reading_of(peer.pid)
    (total,) = (row for row in first.rows if row.is_sum)
    assert total.closed == 6
    assert total.counts["messages_sent"] == total.counts["messages_received"] == 3
    rows = open_rows(first)
    assert len(rows) == 2
    assert all(row.counts["messages_sent"] == 0 for row in rows), "a row begins at zero"
    assert {row.serial for row in rows} == {8, 9}


@pytest.mark.asyncio
async def test_a_channel_that_is_dropped_gives_its_row_back() -> None:
    serials = {row.serial for row in open_rows(reading_of(os.getpid()))}
    left, right = aioipc.pair("memory")
    assert len(open_rows(reading_of(os.getpid()))) == len(serials) + 2
    with pytest.warns(ResourceWarning):
        del left
    await right.aclose()
    assert {row.serial for row in open_rows(reading_of(os.getpid()))} == serials


@pytest.mark.asyncio
async def test_senders_that_wait_are_seen() -> None:
    left, right = aioipc.pair("unix")
    async with right:
        sends = [asyncio.ensure_future(left.send(b"x" * 3_000_000)) for _ in range(3)]
        while left.statistics().senders_waiting < 2:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0)
        rows = open_rows(reading_of(os.getpid()))
        assert max(row.counts["senders_waiting"] for row in rows) >= 2
        for _ in sends:
            await right.receive()
        await asyncio.gather(*sends)
        assert left.statistics().senders_waiting == 0
        await left.aclose()


def test_killed_it_leaves_nothing(peers: Peers, runtime_dir: Path) -> None:
    names = set(os.listdir("/dev/shm"))
    peer = program(peers, HOLD)
    assert peer.line() == "ready"
    assert page_links(peer.pid) == [LINK]
    assert is_counted(peer.pid)
    peer.kill()
    peer.wait()
    assert not is_counted(peer.pid)
    assert not list(runtime_dir.rglob("*"))
    assert not {name for name in set(os.listdir("/dev/shm")) - names if "statistics" in name}


def test_one_that_is_stopped_can_be_read(peers: Peers) -> None:
    peer = program(peers, HOLD)
    assert peer.line() == "ready"
    peer.signal(signal.SIGSTOP)
    assert len(open_rows(reading_of(peer.pid))) == 2
    peer.signal(signal.SIGCONT)


@pytest.mark.asyncio
async def test_reading_does_not_wake_it(peers: Peers) -> None:
    peer = program(peers, "left, right = aioipc.pair('unix')\nsay('ready')\nawait right.receive()")
    assert await peer.next_line() == "ready"
    await come_to_rest(peer)
    status = Path(f"/proc/{peer.pid}/status")
    before = [line for line in status.read_text().splitlines() if "ctxt_switches" in line]
    for _ in range(50):
        assert len(open_rows(reading_of(peer.pid))) == 2
    assert [line for line in status.read_text().splitlines() if "ctxt_switches" in line] == before


# Forks


def test_a_forked_child_has_a_page_of_its_own(peers: Peers) -> None:
    code = """
    left, right = aioipc.pair("memory")
    await left.send("parent")
    say("ready")
    await hear()
    pid = os.fork()
    if pid == 0:
        print(left, left.statistics().messages_sent, flush=True)
        for channel in (left, right):
            try:
                await channel.send("child")
            except aioipc.ForkError:
                await channel.aclose()
        sys.stdin.readline()
        async def count():
            own, other = aioipc.pair("memory")
            async with own, other:
                for _ in range(5):
                    await own.send("child")
                say(os.getpid())
                sys.stdin.readline()
        asyncio.events._set_running_loop(None)
        asyncio.run(count())
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    say("gone")
    await hear()
    """
    peer = program(peers, code)
    assert peer.line() == "ready"
    before = open_rows(reading_of(peer.pid))
    peer.tell()
    assert "memory:pair" in (said := peer.line())
    assert said.endswith(" 1")
    (child,) = (int(pid) for pid in children(peer.pid))
    assert page_links(child) == []
    assert not is_counted(child)
    peer.tell()
    assert peer.line() == str(child)
    assert page_links(child) == [LINK]
    assert [row.counts["messages_sent"] for row in open_rows(reading_of(child))] == [5, 0]
    peer.tell()
    assert peer.line() == "gone"
    assert open_rows(reading_of(peer.pid)) == before, "the child has closed only its copies"
    peer.kill()


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


# Rows


@pytest.fixture
def memory() -> Iterator[OwnedFd]:
    with create_memory(HEADER_BYTES + 4 * ROW_BYTES, NAME, allocated=False) as memory:
        yield memory


def view_of(memory: OwnedFd) -> memoryview:
    return map_memory(memory, HEADER_BYTES + 4 * ROW_BYTES)


def test_rows_run_out_and_come_back(memory: OwnedFd) -> None:
    view = view_of(memory)
    page = Page(view)
    rows = [page.open(Kind.CHANNEL, b"%d" % number) for number in range(5)]
    assert [row is None for row in rows] == [False, False, False, True, True]
    (refused,) = struct.unpack_from("=Q", view, 40)
    assert refused == 2
    assert rows[1] is not None
    rows[1].close()
    rows[1].close()
    rows[1].add(0, 5)  # says nothing any more
    row = page.open(Kind.CHANNEL, b"x" * 1000, 77)
    assert row is not None
    row.add(0)
    row.add(0, 4)
    row.put(17, 9)
    row.add(18)  # there is none
    (_, _, found, _) = read_rows(view, HEADER_BYTES, 100)
    assert found[1:3] == (Kind.CHANNEL, 77)
    assert found[4] == b"x" * 88
    assert found[5] == (5, *(0,) * 16, 9)


@pytest.mark.parametrize("kind", [0, 16, 2**32 - 1])
def test_kinds_are_few(memory: OwnedFd, kind: int) -> None:
    with pytest.raises(ValueError, match="a kind is 1 to 15"):
        Page(view_of(memory)).open(kind, b"")


@pytest.mark.parametrize("size", [0, 64, 319])
def test_too_little_memory_is_no_page(size: int) -> None:
    with pytest.raises(ValueError, match="no memory for a page"):
        Page(bytearray(size))


@pytest.mark.timeout(patience_s(60))
def test_a_row_is_read_whole_or_not_at_all(peers: Peers) -> None:
    """While rows are closed and opened all the time, no reading mixes two uses of a row."""
    code = """
    from aioipc.kernel.statistics import Kind, open_row
    row = open_row(Kind.CHANNEL, "0", 0)
    say("ready")
    number = 0
    while True:
        number += 1
        row = open_row(Kind.CHANNEL, f"{number:0>88}", number)
        row.put(0, number)
        row.put(17, number)
        row.close()
    """
    peer = program(peers, code)
    assert peer.line() == "ready"
    seen: set[int] = set()
    looks = 0
    while looks < scaled(500, full=50_000) or len(seen) < 2:  # it may not have run meanwhile
        looks += 1
        for row in open_rows(reading_of(peer.pid)):
            assert int(row.name) == row.peer
            assert row.counts["messages_sent"] in (0, row.peer)
            seen.add(row.peer)
    peer.kill()


# Pages that nobody should trust


class Hostile:
    """A page of a process that writes to it what it likes."""

    def __init__(self, peers: Peers, memory: OwnedFd) -> None:
        self.peer = peers.script("print('ready', flush=True); input()", pass_fds=[memory.fileno()])
        assert self.peer.line() == "ready"
        with contextlib.suppress(PermissionError):  # it would have to grow for that
            os.pwrite(memory.fileno(), struct.pack("=I", self.peer.pid), 12)

    def read(self) -> list[Reading]:
        return read_pages([self.peer.pid])


def good(memory: OwnedFd) -> memoryview:
    view = view_of(memory)
    row = Page(view).open(Kind.CHANNEL, b"name")
    assert row is not None
    row_bytes = bytes(view[HEADER_BYTES + ROW_BYTES :][:ROW_BYTES])
    row.close()
    view[HEADER_BYTES + ROW_BYTES :][:ROW_BYTES] = row_bytes
    return view


def test_another_language_may_write_a_page(peers: Peers, memory: OwnedFd) -> None:
    good(memory)
    (reading,) = Hostile(peers, memory).read()
    assert [row.name for row in open_rows(reading)] == ["name"]


@pytest.mark.parametrize(
    ("offset", "layout", "value"),
    [
        (0, "8s", b"AIOIPCxx"),
        (8, "H", 2),
        (16, "I", 63),
        (16, "I", 2**32 - 8),
        (16, "I", 0),
        (20, "I", 0),
        (20, "I", 255),
    ],
)
def test_a_header_that_says_nonsense(
    peers: Peers, memory: OwnedFd, offset: int, layout: str, value: Any
) -> None:
    struct.pack_into(f"={layout}", good(memory), offset, value)
    assert Hostile(peers, memory).read() == []


def test_more_rows_than_there_are(peers: Peers, memory: OwnedFd) -> None:
    struct.pack_into("=II", good(memory), 24, 2**32 - 1, 2**32 - 1)
    (reading,) = Hostile(peers, memory).read()
    assert len(reading.rows) == 2


def test_a_minor_version_and_a_kind_of_the_future(peers: Peers, memory: OwnedFd) -> None:
    view = good(memory)
    struct.pack_into("=H", view, 10, 7)
    struct.pack_into("=I", view, HEADER_BYTES + ROW_BYTES + 8, 14)
    (reading,) = Hostile(peers, memory).read()
    assert [row.is_sum for row in reading.rows] == [True]


def test_the_page_of_a_parent_is_not_the_childs(peers: Peers, memory: OwnedFd) -> None:
    fd = memory.fileno()
    good(memory)
    peer = peers.script("print('ready', flush=True); input()", pass_fds=[fd])
    assert peer.line() == "ready"
    assert page_links(peer.pid) == [LINK]
    assert not is_counted(peer.pid)


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("size", [0, 8, HEADER_BYTES, 64 * 1024 * 1024])
def test_files_that_may_shrink_and_sizes_that_are_none(
    peers: Peers, size: int, sealed: bool
) -> None:
    with OwnedFd(os.memfd_create(NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)) as memory:
        os.ftruncate(memory.fileno(), size)
        if sealed:
            seal(memory)
        assert Hostile(peers, memory).read() == []


def test_a_file_that_shrinks_is_not_mapped(peers: Peers) -> None:
    with create_memory(HEADER_BYTES + 4 * ROW_BYTES, NAME, sealed=False) as memory:
        good(memory)
        hostile = Hostile(peers, memory)
        assert hostile.read() == []
        seal(memory)
        assert len(hostile.read()) == 1


@pytest.mark.timeout(patience_s(60))
def test_any_bytes_may_stand_there(peers: Peers, memory: OwnedFd) -> None:
    hostile = Hostile(peers, memory)
    view = view_of(memory)

    @hypothesis.settings(max_examples=scaled(200, full=20_000))
    @hypothesis.given(some.binary(max_size=HEADER_BYTES + 2 * ROW_BYTES), some.integers(0, 1000))
    def check(data: bytes, start: int) -> None:
        view[:] = bytes(len(view))
        good(memory)
        data = data[: len(view) - start]
        view[start : start + len(data)] = data
        struct.pack_into("=I", view, 12, hostile.peer.pid)
        for reading in hostile.read():
            for row in reading.rows:
                assert isinstance(row.kind, Kind)
        for found in read_rows(view, start // 8 * 8, 10**9):
            assert len(found) == 6

    check()


@as_root
def test_pages_of_other_users_are_not_opened(peers: Peers) -> None:
    code = f"""
    left, right = aioipc.pair("memory")
    {BECOME_NOBODY}
    say("ready")
    await hear()
    """
    peer = program(peers, code)
    assert peer.line() == "ready"
    assert page_links(peer.pid) == [LINK]
    assert read_pages([peer.pid]) == []
    peer.kill()


@pytest.mark.parametrize("pid", [2**22 + 1, 2, 1])
def test_processes_that_have_none(pid: int) -> None:
    assert read_pages([pid]) == []
