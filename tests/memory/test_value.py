"""The latest value: whole, never older than one seen before, and nobody waits for the dead."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from aioipc import (
    AddressError,
    BusyError,
    ClosedError,
    DecodeError,
    EncodeError,
    EndOfStream,
    FrameTooLarge,
    PeerCrashed,
    ProtocolError,
    ResourceExhausted,
    WouldBlock,
)
from aioipc.kernel.value_place import open_value_place
from aioipc.memory import SharedValue
from aioipc.native._value import SHARED_BYTES, ValueCell
from tests.children import PATIENCE_S, Peers
from tests.programs import program
from tests.scale import SCALE, patience_s, scaled
from tests.verify.build import Unavailable, compiler, require

HERE = Path(__file__).parent
HEADER = HERE.parents[1] / "aioipc" / "native" / "value.h"

pytestmark = pytest.mark.usefixtures("runtime_dir")


def files(runtime_dir: Path) -> list[str]:
    return os.listdir(runtime_dir / "value")


def test_the_latest(runtime_dir: Path) -> None:
    with SharedValue[Any]("speed") as writer, SharedValue[Any]("speed") as reader:
        for look in (writer.get, reader.get):
            with pytest.raises(WouldBlock, match="nothing has set shared value 'speed'"):
                look()
        assert reader.writer is None
        for number in range(10):
            writer.set({"n": number})
            assert reader.get() == writer.get() == {"n": number}
        assert reader.writer == os.getpid()
        with pytest.raises(BusyError, match=f"process {os.getpid()} is the writer"):
            reader.set({"n": 0})
        writer.close()
        assert reader.get() == {"n": 9}
        assert reader.writer is None
        reader.set({"n": 10})
        assert reader.get() == {"n": 10}
    assert files(runtime_dir) == []


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 65535, 65536])
def test_sizes(size: int) -> None:
    data = os.urandom(size)
    with SharedValue[bytes]("v", codec="raw") as value:
        value.set(data)
        assert value.get() == data


def test_what_cannot_be_set() -> None:
    with SharedValue[Any]("v", codec="raw") as value:
        with pytest.raises(FrameTooLarge, match="65,537"):
            value.set(bytes(65537))
        with pytest.raises(FrameTooLarge, match="65,544"):
            value.set(memoryview(bytes(65544)).cast("Q"))
        with pytest.raises(EncodeError):
            value.set(object())
        with pytest.raises(WouldBlock):
            value.get()
        assert value.writer is None
        value.set(b"\xc1")
        with SharedValue[Any]("v") as other, pytest.raises(DecodeError):
            other.get()
    with pytest.raises(AddressError):
        SharedValue("../v")


@pytest.mark.asyncio
async def test_waiting_for_a_change() -> None:
    async with SharedValue[int]("v") as writer, SharedValue[int]("v") as reader:
        first = asyncio.create_task(reader.changed())
        await asyncio.sleep(0)
        writer.set(1)
        assert await first == 1
        writer.set(2)
        writer.set(3)
        assert await reader.changed() == 3
        second = asyncio.create_task(reader.changed())
        await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        writer.set(4)
        assert await reader.changed() == 4


@pytest.mark.asyncio
async def test_many_readers() -> None:
    async with SharedValue[int]("v") as writer:
        readers = [SharedValue[int]("v") for _ in range(20)]
        for number in range(5):
            tasks = [asyncio.create_task(reader.changed()) for reader in readers]
            await asyncio.sleep(0)
            writer.set(number)
            assert await asyncio.gather(*tasks) == [number] * 20
        for reader in readers:
            reader.close()


@pytest.mark.asyncio
async def test_the_end_of_a_writer_and_the_next_one() -> None:
    async with SharedValue[int]("v") as reader:
        for number in range(3):
            with SharedValue[int]("v") as writer:
                writer.set(number)
                assert await reader.changed() == number
                waiting = asyncio.create_task(reader.changed())
                await asyncio.sleep(0)
            with pytest.raises(EndOfStream, match="closed it"):
                await waiting
        with SharedValue[int]("v") as writer:
            waiting = asyncio.create_task(reader.changed())
            await asyncio.sleep(0)
            writer.set(7)
            writer.set(8)
        assert await waiting == 8
        assert [value async for value in reader] == []


@pytest.mark.asyncio
async def test_closing_ends_the_wait() -> None:
    reader = SharedValue[int]("v")
    waiting = asyncio.create_task(reader.changed())
    await asyncio.sleep(0)
    reader.close()
    reader.close()
    with pytest.raises(ClosedError, match="was closed"):
        await waiting
    for operation in (reader.get, lambda: reader.set(1)):
        with pytest.raises(ClosedError):
            operation()


@pytest.mark.asyncio
async def test_waiting_costs_nothing() -> None:
    """A wait that lasts has no timer and is not called back."""
    async with SharedValue[int]("v") as reader, SharedValue[int]("v") as writer:
        writer.set(0)
        await reader.changed()
        turns = 0
        real = SharedValue._news

        def counted(value: SharedValue[int]) -> bytes | None:
            nonlocal turns
            turns += 1
            return real(value)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SharedValue, "_news", counted)
            waiting = asyncio.create_task(reader.changed())
            await asyncio.sleep(0.05)
            assert turns == 1
            writer.set(1)
            assert await waiting == 1
            assert turns == 2


WRITER = """
with aioipc.memory.SharedValue(sys.argv[1], codec="raw") as value:
    number = 0
    while True:
        number += 1
        value.set(number.to_bytes(8, "little") * (1 + number % 8000))
"""


@pytest.mark.asyncio
async def test_never_torn_and_never_older(peers: Peers, runtime_dir: Path) -> None:
    """A writer that never stops, is killed anywhere, and follows itself."""
    with SharedValue[bytes]("v", codec="raw") as reader:
        last = 0
        for _ in range(scaled(3, full=100)):
            child = program(peers, WRITER, "v")
            crashed = False
            looks = 0
            while not crashed:
                try:
                    data = await reader.changed()
                except PeerCrashed as error:
                    assert str(child.pid) in str(error)
                    crashed = True
                    continue
                number = int.from_bytes(data[:8], "little")
                assert data == data[:8] * (1 + number % 8000)
                assert number > last or looks == 0
                last = number
                looks += 1
                if looks == 300:
                    child.kill()
            await child.ended()
            assert reader.get()[:8] == last.to_bytes(8, "little")


@pytest.mark.leaves_names
@pytest.mark.asyncio
async def test_what_a_killed_writer_leaves(peers: Peers) -> None:
    child = program(
        peers,
        """
        value = aioipc.memory.SharedValue("v")
        value.set("last words")
        say("set")
        await asyncio.sleep(1000)
        """,
    )
    assert await child.next_line() == "set"
    child.kill()
    await child.ended()
    with SharedValue[str]("v") as reader:
        assert await reader.changed() == "last words"
        with pytest.raises(PeerCrashed, match=f"process {child.pid}"):
            await reader.changed()
        reader.set("mine")
        assert reader.get() == "mine"


def test_a_forked_child_has_none() -> None:
    with SharedValue[int]("v") as value:
        value.set(1)
        pid = os.fork()
        if pid == 0:
            try:
                value.get()
            except Exception as error:
                os._exit(type(error).__name__ == "ForkError")
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 1
        value.set(2)
        assert value.get() == 2


def test_memory_that_somebody_else_wrote(runtime_dir: Path) -> None:
    with SharedValue[bytes]("v", codec="raw") as value:
        value.set(b"x")
        path = runtime_dir / "value" / ".v~memory"
        for garbage in (b"\xff" * SHARED_BYTES, os.urandom(SHARED_BYTES)):
            with path.open("r+b") as file:
                file.write(garbage)
            with pytest.raises(ProtocolError, match="no value that a writer left"):
                value.get()
        with path.open("r+b") as file:
            file.write(bytes(SHARED_BYTES))


def test_a_cell_needs_its_memory() -> None:
    with pytest.raises(ValueError, match="a cell is"):
        ValueCell(bytearray(100))


def test_closing_one_of_many_keeps_the_files(runtime_dir: Path) -> None:
    first, second = (open_value_place("v", SHARED_BYTES) for _ in range(2))
    first.close()
    assert "v" in files(runtime_dir)
    second.close()
    assert files(runtime_dir) == []


@pytest.mark.asyncio
async def test_a_bell_that_could_not_be_rung_is_rung_with_the_next_value() -> None:
    with SharedValue[int]("v") as writer, SharedValue[int]("v") as reader:
        writer.set(1)
        assert await reader.changed() == 1
        waiting = asyncio.create_task(reader.changed())
        await asyncio.sleep(0)

        def pull(_: object) -> None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("aioipc.kernel.lifeline.Lifeline.pull", pull)
            with pytest.raises(ResourceExhausted):
                writer.set(2)
        writer.set(3)
        async with asyncio.timeout(PATIENCE_S):
            assert await waiting == 3


# The header itself

SHOWN = "    *latest = next;\n    VALUE_STORE(&shared->sequence, next);\n"
RUNG = "    return VALUE_SWAP(&shared->asleep, 0) != 0;"
LOOKED = "after - before >= VALUE_SLOTS - 1"
FILLED = "    VALUE_COPY_IN(&slot->size"
BUGS = {
    "shows a value before it is there": [
        (SHOWN, "    *latest = next;\n"),
        (FILLED, "    VALUE_STORE(&shared->sequence, next);\n" + FILLED),
    ],
    "does not look again": [(LOOKED, "after != after")],
    "trusts a slot for too long": [(LOOKED, "after - before >= VALUE_SLOTS")],
    "looks for sleepers first": [
        (
            SHOWN + RUNG,
            RUNG.replace("return", "int asleep =") + "\n" + SHOWN + "    return asleep;",
        )
    ],
    "writes into the slot that is shown": [("next % VALUE_SLOTS", "(next - 1) % VALUE_SLOTS")],
}
SHAPES = (
    "-DSLOTS=2u -DVALUES=3 -DLOOKS=1",
    "-DSLOTS=2u -DVALUES=2 -DLOOKS=2",
    "-DSLOTS=4u -DVALUES=5 -DLOOKS=1",  # as it is in use; the last value lies where the first did
    *(["-DSLOTS=4u -DVALUES=6 -DLOOKS=1"] if SCALE >= 1 else []),  # 30 million, a minute
)


def interleaved(folder: Path, options: str, header: str) -> subprocess.CompletedProcess[str]:
    """Run the checker over a header."""
    try:
        found = compiler()
    except Unavailable as missing:
        pytest.skip(str(missing))
    (folder / "value.h").write_text(header)
    binary = folder / "interleave"
    source = str(HERE / "interleave.c")
    command = [found, "-std=gnu11", "-O2", *options.split(), f"-I{folder}", source]
    subprocess.run([*command, "-o", binary], check=True)
    return subprocess.run([binary], check=False, capture_output=True, text=True)


@pytest.mark.timeout(patience_s(60))
@pytest.mark.parametrize("options", SHAPES)
def test_every_interleaving(options: str, tmp_path: Path) -> None:
    done = interleaved(tmp_path, options, HEADER.read_text())
    assert done.returncode == 0, done.stdout
    assert int(done.stdout.split()[0]) > 10_000


@pytest.mark.parametrize("bug", BUGS)
def test_bugs_are_found(bug: str, tmp_path: Path) -> None:
    header = HEADER.read_text()
    for old, new in BUGS[bug]:
        assert header.count(old) == 1, old
        header = header.replace(old, new)
    for options in (SHAPES[0], SHAPES[2]):
        done = interleaved(tmp_path, options, header)
        assert done.returncode == 1, options
        assert done.stdout.startswith("FAILED")


def test_no_races(tmp_path: Path) -> None:
    """Threads, one writer and three readers, under ThreadSanitizer."""
    try:
        require("thread")
    except Unavailable as missing:
        pytest.skip(str(missing))
    binary = tmp_path / "threads"
    command = [compiler(), "-std=gnu11", "-O1", "-g", "-fsanitize=thread", "-pthread"]
    source = str(HERE / "value_threads.c")
    subprocess.run([*command, f"-I{HEADER.parent}", source, "-o", binary], check=True)
    count = str(scaled(20_000, full=2_000_000))
    done = subprocess.run([binary, count], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
