"""Memory that processes share: by descriptor and by name, of a fixed size, and never a crash."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import aioipc
from aioipc import AccessDenied, AddressError, ProtocolError, ResourceExhausted
from aioipc.kernel.named_memory import named_memory
from aioipc.memory import SharedMemory
from tests.children import Peers
from tests.programs import program


@pytest.fixture
def name() -> Iterator[str]:
    """A name that is removed at the end."""
    name = f"/aioipc-test-{os.getpid()}"
    yield name
    Path("/dev/shm", name[1:]).unlink(missing_ok=True)


@pytest.mark.parametrize("kind", ["unix", "shm"])
@pytest.mark.asyncio
async def test_memory_travels(kind: str) -> None:
    left, right = aioipc.pair(kind)
    async with left, right:
        with SharedMemory.create(1_000_000) as mine:
            mine.buffer[-3:] = b"end"
            await left.send("look", fds=[mine])
            await right.receive()
            with SharedMemory.from_fd(*right.take_fds()) as theirs:
                assert (theirs.size, theirs.name, theirs.writable) == (1_000_000, None, False)
                assert bytes(theirs.buffer[-3:]) == b"end"
                mine.buffer[:5] = b"later"
                assert bytes(theirs.buffer[:5]) == b"later"
                with pytest.raises(TypeError):
                    theirs.buffer[0] = 1


def test_writing_on_both_sides() -> None:
    with SharedMemory.create(10) as mine:
        with SharedMemory.from_fd(os.dup(mine.fileno()), writable=True) as theirs:
            theirs.buffer[0] = 7
        assert mine.buffer[0] == 7


def test_read_only_elsewhere() -> None:
    with SharedMemory.create(10, read_only_elsewhere=True) as mine:
        with pytest.raises(AccessDenied):
            SharedMemory.from_fd(os.dup(mine.fileno()), writable=True)
        mine.buffer[0] = 7
        with SharedMemory.from_fd(os.dup(mine.fileno())) as theirs:
            assert theirs.buffer[0] == 7
        with pytest.raises(PermissionError):
            os.pwrite(mine.fileno(), b"x", 0)


def test_a_view_keeps_its_memory() -> None:
    memory = SharedMemory.create(4096)
    view = memory.buffer[10:20]
    memory.close()
    memory.close()
    del memory
    gc.collect()
    view[:] = b"0123456789"
    assert bytes(view) == b"0123456789"


def test_its_size_is_fixed() -> None:
    with SharedMemory.create(4096) as memory:
        for size in (0, 4095, 8192):
            with pytest.raises(PermissionError):
                os.ftruncate(memory.fileno(), size)


def test_what_is_no_memory(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(writer)
    plain = os.memfd_create("aioipc-test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(plain, 4096)
    file = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    for fd in (reader, plain, file):
        with pytest.raises(ProtocolError, match="no shared memory"):
            SharedMemory.from_fd(fd)


def test_more_than_there_is() -> None:
    for name in (None, "/aioipc-test-huge"):
        shown = "" if name is None else f" '{name}'"
        with pytest.raises(ResourceExhausted, match=f"bytes of shared memory{shown}: Cannot"):
            SharedMemory.create(2**50, name)


def test_sizes_and_names() -> None:
    for size in (0, -1, 2**63):
        with pytest.raises(
            ValueError, match=f"size must be between 1 and 9,223,372,036,854,775,807, not {size:,}"
        ):
            SharedMemory.create(size)
    wrong: Any
    for wrong in ("3", 2.5, None):
        with pytest.raises(TypeError, match="size must be an int, not"):
            SharedMemory.create(wrong)
    with pytest.raises(TypeError, match="a str or a Path, not int"):
        SharedMemory.open(5)  # type: ignore[arg-type]
    for wrong in ("", "/", "/a/b", "/nul\0", "/" + 256 * "x"):
        with pytest.raises(AddressError, match="wrong name"):
            SharedMemory.create(8, wrong)


def test_by_name(name: str) -> None:
    with SharedMemory.create(100, name) as mine:
        assert os.stat(f"/dev/shm{name}").st_mode & 0o777 == 0o600
        with pytest.raises(ResourceExhausted, match="in use"):
            SharedMemory.create(100, name)
        mine.buffer[:2] = b"hi"
        with SharedMemory.open(name) as theirs:
            assert (theirs.size, theirs.name, bytes(theirs.buffer[:2])) == (100, name, b"hi")
            assert not theirs.writable
        with SharedMemory.open(name, writable=True) as theirs:
            theirs.buffer[0] = ord("o")
        assert bytes(mine.buffer[:2]) == b"oi"
        mine.unlink()
        mine.unlink()
        with pytest.raises(AddressError, match="there is no shared memory"):
            SharedMemory.open(name)


def test_what_has_the_name_and_is_no_memory(name: str) -> None:
    """Opening a FIFO to read it would wait for somebody who writes."""
    place = Path("/dev/shm", name[1:])
    os.mkfifo(place)
    for writable in (False, True):
        with pytest.raises(AddressError, match=f"'{name}' is no regular file"):
            SharedMemory.open(name, writable=writable)
    place.unlink()
    place.symlink_to("/etc/passwd")
    with pytest.raises(AddressError, match="no regular file"):
        SharedMemory.open(name)
    place.unlink()
    place.mkdir()
    with pytest.raises(AddressError, match="no regular file"):
        SharedMemory.open(name)
    place.rmdir()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_memory_that_somebody_else_made_under_the_name(name: str) -> None:
    SharedMemory.create(8, name).close()
    os.chown(f"/dev/shm{name}", 12_345, -1)
    with pytest.raises(AccessDenied, match=f"{name} belongs to uid 12345, not to 0"):
        SharedMemory.open(name)


def test_a_name_that_is_no_text(name: str) -> None:
    name += "\udcff"
    with SharedMemory.create(8, name) as mine:
        with SharedMemory.open(name) as theirs:
            assert theirs.size == 8
        mine.unlink()
        mine.unlink()
    assert not os.path.exists(f"/dev/shm{name}")


C_PROGRAM = r"""
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
int main(int count, char **arguments)
{
    int fd = shm_open(arguments[1], O_RDWR, 0);
    char *data = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd < 0 || data == MAP_FAILED)
        return 1;
    puts(data);
    strcpy(data, "hello from C");
    return 0;
}
"""


def test_a_c_program_opens_it(name: str, tmp_path: Path) -> None:
    source, binary = tmp_path / "peer.c", tmp_path / "peer"
    source.write_text(C_PROGRAM)
    compiler = shutil.which("cc") or "gcc"
    subprocess.run([compiler, source, "-o", binary, "-lrt"], check=True)
    with SharedMemory.create(4096, name) as memory:
        memory.buffer[:17] = b"hello from Python"
        said = subprocess.run([binary, name], check=True, capture_output=True, text=True).stdout
        assert said == "hello from Python\n"
        assert bytes(memory.buffer[:12]) == b"hello from C"


@pytest.mark.asyncio
async def test_nothing_is_left_of_a_killed_owner(peers: Peers) -> None:
    async with aioipc.listen("unix:") as listener:
        child = program(
            peers,
            """
            memory = aioipc.memory.SharedMemory.create(1_000_000)
            memory.buffer[:4] = b"mine"
            channel = await aioipc.connect(sys.argv[1])
            await channel.send("look", fds=[memory])
            await asyncio.sleep(1000)
            """,
            listener.address,
        )
        async with await listener.accept() as channel:
            await channel.receive()
            child.kill()
            with SharedMemory.from_fd(*channel.take_fds()) as memory:
                assert bytes(memory.buffer[:4]) == b"mine"


@pytest.fixture
def key() -> Iterator[str]:
    """A key of System V memory that is removed at the end."""
    name = f"sysv:{0x5A000000 + os.getpid():#x}"
    yield name
    named_memory(name).unlink()


def test_by_key(key: str) -> None:
    with pytest.raises(AddressError, match="there is no shared memory"):
        SharedMemory.open(key)
    with SharedMemory.create(100, key) as mine:
        assert bytes(mine.buffer) == bytes(100)
        with pytest.raises(ResourceExhausted, match="in use"):
            SharedMemory.create(100, key)
        mine.buffer[:2] = b"hi"
        with SharedMemory.open(key) as theirs:
            assert (theirs.size, theirs.name, bytes(theirs.buffer[:2])) == (100, key, b"hi")
            with pytest.raises(TypeError):
                theirs.buffer[0] = 1
            with theirs.open_writable() as writable:
                writable.buffer[0] = ord("o")
        assert bytes(mine.buffer[:2]) == b"oi"
        assert mine.fileno() == -1
        mine.unlink()
        mine.unlink()
        view = mine.buffer[:2]
    gc.collect()
    assert bytes(view) == b"oi"
    with pytest.raises(AddressError, match="there is no shared memory"):
        SharedMemory.open(key)
    with pytest.raises(ResourceExhausted):
        SharedMemory.create(2**60, key)
    with pytest.raises(ValueError, match="was closed"):
        mine.open_writable()


SYSV_PROGRAM = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/shm.h>
int main(int count, char **arguments)
{
    int id = shmget((key_t)strtoul(arguments[1], NULL, 0), 0, 0);
    char *data = shmat(id, NULL, 0);
    if (id < 0 || data == (void *)-1)
        return 1;
    puts(data);
    strcpy(data, "hello from C");
    return 0;
}
"""


def test_a_c_program_attaches_it(key: str, tmp_path: Path) -> None:
    source, binary = tmp_path / "peer.c", tmp_path / "peer"
    source.write_text(SYSV_PROGRAM)
    subprocess.run([shutil.which("cc") or "gcc", source, "-o", binary], check=True)
    with SharedMemory.create(4096, key) as memory:
        memory.buffer[:17] = b"hello from Python"
        command = [str(binary), key.removeprefix("sysv:")]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        assert said == "hello from Python\n"
        assert bytes(memory.buffer[:12]) == b"hello from C"


# Files


def test_a_file_stays_when_everybody_has_gone(tmp_path: Path, peers: Peers) -> None:
    path = tmp_path / "counts"
    with SharedMemory.create(8, path) as mine:
        assert (mine.name, mine.size, mine.writable) == (path, 8, True)
        assert path.stat().st_mode & 0o777 == 0o600
        peer = peers.script(
            """
            import os, pathlib, signal, sys
            from aioipc.memory import SharedMemory
            memory = SharedMemory.open(pathlib.Path(sys.argv[1]), writable=True)
            memory.buffer[:5] = b"there"
            os.kill(os.getpid(), signal.SIGKILL)
            """,
            path,
        )
        assert peer.wait() == -9
        assert bytes(mine.buffer) == b"there\0\0\0"
    assert path.read_bytes() == b"there\0\0\0"
    with SharedMemory.open(path) as again:
        assert not again.writable
        assert bytes(again.buffer[:5]) == b"there"
        with pytest.raises(AccessDenied):
            again.open_writable()
        again.unlink()
        again.unlink()
    assert not path.exists()


def test_a_file_is_never_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "taken"
    path.write_bytes(b"mine")
    with pytest.raises(ResourceExhausted, match="in use"):
        SharedMemory.create(10, path)
    assert path.read_bytes() == b"mine"


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "fifo")
    (tmp_path / "empty").touch()
    for name in ("fifo", "link", "."):
        with pytest.raises(AddressError, match="no regular file"):
            SharedMemory.open(tmp_path / name)
    with pytest.raises(AddressError, match="no regular file"):
        SharedMemory.open(tmp_path, writable=True)
    with pytest.raises(AddressError, match="empty"):
        SharedMemory.open(tmp_path / "empty")
    with pytest.raises(AddressError, match="there is no shared memory"):
        SharedMemory.open(tmp_path / "nothing")
    with pytest.raises(AddressError, match="there is no directory for"):
        SharedMemory.create(8, tmp_path / "nothing/x")
    for use in (SharedMemory.open, lambda path: SharedMemory.create(8, path)):
        for wrong in (tmp_path / "empty/x", tmp_path / ("x" * 256), tmp_path / "nul\0"):
            with pytest.raises(AddressError):
                use(wrong)


def test_a_file_larger_than_the_disk(tmp_path: Path) -> None:
    with pytest.raises(ResourceExhausted):
        SharedMemory.create(2**50, tmp_path / "huge")
    assert not (tmp_path / "huge").exists()
