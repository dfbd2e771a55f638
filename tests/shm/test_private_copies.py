"""Messages that change after they came (case 44).

Those of a stranger are copies. Those of the own user may lie in the ring, where they change
under whoever looks.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import aioipc
from aioipc import codecs
from aioipc.wire.framing import Kind
from tests.children import Peers
from tests.scale import patience_s, scaled
from tests.shm.bare import HEAD_BYTES, BareRing
from tests.shm.test_hostile_ring import attacked

pytestmark = pytest.mark.asyncio

IN_PLACE = 16_384
"""From this length on messages are decoded where they lie; just as long as a record may be."""

whose = pytest.mark.parametrize("socket_bells", [True, False], ids=["stranger", "own"])
sizes = pytest.mark.parametrize("size", [8, 1_000, IN_PLACE])


def overwrite(ring: BareRing) -> None:
    """Change every byte that was ever written into a ring."""
    at = ring.offset + HEAD_BYTES
    ring.memory[at : at + ring.capacity] = b"a" * ring.capacity


@whose
@sizes
async def test_what_is_borrowed(socket_bells: bool, size: int, runtime_dir: Path) -> None:
    """The view of a stranger's message is of a copy; that of one's own is of the ring."""
    async with attacked(runtime_dir, socket_bells=socket_bells) as (channel, end):
        end.greet()
        end.say(Kind.DATA, b"b" * size)
        async with channel.borrow() as view:
            overwrite(end.writes)
            assert bytes(view) == (b"b" if socket_bells else b"a") * size


@whose
@sizes
async def test_what_is_received(socket_bells: bool, size: int, runtime_dir: Path) -> None:
    async with attacked(runtime_dir, socket_bells=socket_bells) as (channel, end):
        end.greet()
        end.say(Kind.DATA, b"b" * size)
        message = await channel.receive()
        overwrite(end.writes)
        assert message == b"b" * size


class LooksTwice:
    """A codec that looks at each message, has it changed, and looks again."""

    name = "twice"
    format = None
    in_place = True

    def __init__(self) -> None:
        self.change: Callable[[], None] = lambda: None

    def encode(self, obj: object) -> bytes:
        raise NotImplementedError

    def decode(self, buffer: Any) -> tuple[bytes, bytes]:
        first = bytes(buffer)
        self.change()
        return first, bytes(buffer)


@whose
@sizes
async def test_what_is_decoded(socket_bells: bool, size: int, runtime_dir: Path) -> None:
    codec = LooksTwice()
    async with attacked(runtime_dir, socket_bells=socket_bells, codec=codec) as (channel, end):
        codec.change = lambda: overwrite(end.writes)
        end.greet(codec.name)
        end.say(Kind.DATA, b"b" * size)
        in_place = size == IN_PLACE and not socket_bells
        assert await channel.receive() == (b"b" * size, (b"a" if in_place else b"b") * size)


# Changed by another process at any instant

SCRIBBLE = """
import itertools, mmap, random, sys
memory = mmap.mmap(int(sys.argv[1]), 0)
letters = bytes.fromhex(sys.argv[2])
block = 16_384  # the headers of the test's records lie in the first 4096 bytes of each
places = [4096 + n * block + random.randrange(4096, block) for n in range(4) for _ in range(500)]
print("scribbling", flush=True)
for place in itertools.cycle(places):
    memory[place] = random.choice(letters)
"""
LETTERS = {"msgpack": b"ab0\x93\x81\xdc", "json": b"ab0[{"}


def messages(codec: Any) -> list[bytes]:
    """Messages just as long as a record may be: long strings, and brackets from end to end."""
    strings: list[object] = ["x" * 1_000] * 14
    table: object = {"key": [1, 2, 3]}
    nested: list[object] = [table] * ((IN_PLACE - 2_000) // (len(codec.encode(table)) + 1))
    return [padded(codec, objects) for objects in (strings, nested)]


def padded(codec: Any, objects: list[object]) -> bytes:
    least = len(codec.encode([*objects, "y" * 1_000]))
    message: bytes = codec.encode([*objects, "y" * (1_000 + IN_PLACE - least)])
    assert len(message) == IN_PLACE
    return message


@pytest.mark.timeout(patience_s(60))
@pytest.mark.parametrize("name", LETTERS)
async def test_what_changes_while_it_is_decoded(name: str, runtime_dir: Path, peers: Peers) -> None:
    """It is some value or a DecodeError, and the next message is as good as any."""
    codec = {"msgpack": codecs.msgpack, "json": codecs.json}[name]
    good = messages(codec)
    objects = [codec.decode(message) for message in good]
    async with attacked(runtime_dir, codec=name) as (channel, end):
        end.greet(name)
        fd = end.memory_fd
        scribbler = peers.script(SCRIBBLE, fd, LETTERS[name].hex(), pass_fds=[fd])
        assert await scribbler.next_line() == "scribbling"
        changed = failed = 0
        for number in itertools.count():
            if number >= scaled(100, full=100_000) and changed and failed:
                break
            end.say(Kind.DATA, good[number % 2])
            try:
                changed += await channel.receive() != objects[number % 2]
            except aioipc.DecodeError:
                failed += 1
        scribbler.kill()
        for message, obj in zip(good, objects, strict=True):
            end.say(Kind.DATA, message)
            assert await channel.receive() == obj
