"""``unix:`` by path, by name in the runtime directory, and abstract, between processes."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import stat
from pathlib import Path

import pytest

import aioipc
from aioipc import (
    AccessDenied,
    AddressError,
    Capability,
    ConnectError,
    IPCAttribute,
    PeerCrashed,
    PeerCredentials,
    ResourceExhausted,
)
from tests.children import Peer, Peers
from tests.kernel.strangers import NOBODY, as_root, public
from tests.programs import AS_NOBODY, ECHO, SERVE_ECHO, converse, ends, program

__all__ = ["public"]

pytestmark = pytest.mark.asyncio

US = (os.geteuid(), os.getegid())

SERVE_ECHO_ABSTRACT = """
async with aioipc.listen(sys.argv[1], allow=aioipc.same_user) as listener:
    say(listener.address)
    await listener.serve(echo)
"""


def addresses(tmp_path: Path) -> dict[str, str]:
    return {
        "path": f"unix:{tmp_path}/socket",
        "slashes": f"unix://{tmp_path}/socket",
        "long": f"unix:{tmp_path}/{'n' * 200}",
        "name": "unix:a-name_1.0",
        "abstract": f"unix:@aioipc-test-{os.getpid()}",
    }


KINDS = list(addresses(Path()))


@pytest.fixture(params=KINDS)
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return addresses(tmp_path)[request.param]


def serve_echo(peers: Peers, address: str) -> Peer:
    code = SERVE_ECHO_ABSTRACT if "@" in address else SERVE_ECHO
    return program(peers, code, address)


def allow(address: str) -> aioipc.abc.Allow | None:
    return aioipc.same_user if "@" in address else None


@pytest.mark.leaves_names
async def test_a_server_in_another_process(address: str, peers: Peers) -> None:
    server = serve_echo(peers, address)
    assert await server.next_line() == address
    async with aioipc.connect(address) as channel:
        assert channel.address == address
        assert channel.peer == PeerCredentials(server.pid, *US)
        assert channel.extra(IPCAttribute.peer) == channel.peer
        assert Capability.CREDENTIALS in channel.capabilities
        await converse(channel)


async def test_a_client_in_another_process(address: str, peers: Peers) -> None:
    async with aioipc.listen(address, allow=allow(address)) as listener:
        assert listener.address == address
        client = program(peers, ECHO, address)
        async with await listener.accept() as channel:
            assert channel.address == address
            assert channel.peer == PeerCredentials(client.pid, *US)
            await converse(channel)
        assert await client.ended() == 0


async def test_a_pair() -> None:
    left, right = aioipc.pair("unix")
    async with left, right:
        assert left.address == "unix:pair"
        assert left.peer == right.peer == PeerCredentials(os.getpid(), *US)
        await left.send("to the right")
        assert await right.receive() == "to the right"
        await right.send_eof()
        await ends(left)
        await left.send("one direction goes on")
        assert await right.receive() == "one direction goes on"


async def test_an_end_for_a_child(peers: Peers) -> None:
    left, right = aioipc.pair("unix")
    async with left:
        address, fds = right.detach()
        assert address == f"fd:{fds[0]}"
        assert len(fds) == 1
        peer = program(peers, ECHO, address, pass_fds=fds)
        os.close(fds[0])
        await converse(left)
    assert await peer.ended() == 0


async def test_a_name_that_the_listener_makes_up(runtime_dir: Path) -> None:
    async with aioipc.listen("unix:") as first, aioipc.listen("unix:") as second:
        assert first.address != second.address
        name = first.address.removeprefix("unix:")
        assert re.fullmatch(rf"{os.getpid()}-[0-9a-f]{{16}}", name)
        assert (runtime_dir / "socket" / name).is_socket()
        async with aioipc.connect(first.address) as near, await first.accept() as far:
            await near.send("found")
            assert await far.receive() == "found"


@pytest.mark.leaves_names
async def test_a_killed_server(address: str, peers: Peers) -> None:
    server = serve_echo(peers, address)
    await server.next_line()
    async with aioipc.connect(address) as channel:
        await channel.send("works")
        assert await channel.receive() == "works"
        server.kill()
        with pytest.raises(PeerCrashed):
            await channel.receive()
        with pytest.raises(PeerCrashed):
            await channel.send("too late")
    with pytest.raises(ConnectError, match=re.escape(f"connect to {address}")):
        await aioipc.connect(address)


async def test_nobody_ever_listened(address: str) -> None:
    with pytest.raises(ConnectError, match=re.escape(f"connect to {address}")):
        await aioipc.connect(address)


async def test_nobody_listens_any_more(address: str) -> None:
    async with aioipc.listen(address, allow=allow(address)):
        pass
    with pytest.raises(ConnectError, match=re.escape(f"connect to {address}")):
        await aioipc.connect(address)


async def test_somebody_listens_already(address: str) -> None:
    async with aioipc.listen(address, allow=allow(address)):
        with pytest.raises(ResourceExhausted, match="address in use") as caught:
            await aioipc.listen(address, allow=allow(address))
        assert caught.value.errno == errno.EADDRINUSE
    async with aioipc.listen(address, allow=allow(address)):
        pass


async def test_only_we_can_reach_it(tmp_path: Path, runtime_dir: Path) -> None:
    async with aioipc.listen(f"unix:{tmp_path}/socket"), aioipc.listen("unix:name"):
        for path in (tmp_path / "socket", runtime_dir / "socket" / "name"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE((runtime_dir / "socket").stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("address", "part"),
    [
        ("unix:a b", "wrong name 'a b'"),
        ("unix:.hidden", "wrong name '.hidden'"),
        ("unix:" + "n" * 65, "wrong name 'n"),
        ("unix://host/path", "wrong host '//host/path'"),
        ("unix:@", "wrong abstract name ''"),
        ("unix:@" + "n" * 108, "wrong abstract name 'n"),
        ("unix:/pa\0th", "wrong rest"),
        ("Unix:name", "wrong scheme 'Unix'"),
        ("name", "the scheme is missing"),
    ],
)
@pytest.mark.parametrize("verb", ["connect", "listen"])
async def test_a_wrong_address(verb: str, address: str, part: str) -> None:
    with pytest.raises(AddressError) as caught:
        getattr(aioipc, verb)(address)
    assert part in str(caught.value)
    assert len(str(caught.value)) < 400


async def test_a_missing_directory(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/missing/socket"
    with pytest.raises(ConnectError, match=re.escape(address)):
        await aioipc.connect(address)
    with pytest.raises(ConnectError, match=re.escape(f"listen on {address}: No such file")):
        await aioipc.listen(address)


async def test_a_path_that_is_no_socket(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("untouched")
    with pytest.raises(ConnectError, match="is no socket"):
        await aioipc.connect(f"unix:{tmp_path}/file")
    with pytest.raises(ResourceExhausted, match="is no socket"):
        await aioipc.listen(f"unix:{tmp_path}/file")
    assert (tmp_path / "file").read_text() == "untouched"


async def test_an_abstract_name_needs_a_policy() -> None:
    with pytest.raises(AccessDenied, match="say allow="):
        await aioipc.listen("unix:@name")


async def test_others_cannot_reach_a_bare_name() -> None:
    for address in ("unix:name", "unix:"):
        with pytest.raises(ValueError, match="other users cannot reach a name"):
            await aioipc.listen(address, allow=lambda peer: True)


async def test_connecting_to_no_name() -> None:
    with pytest.raises(AddressError, match="unix:: the path or the name is missing"):
        await aioipc.connect("unix:")


@as_root
class TestStrangers:
    """With other users; ``public`` is a directory that they can enter."""

    async def test_a_foreign_client_is_told_apart(self, public: Path, peers: Peers) -> None:
        address = f"unix:{public}/socket"
        asked = []

        def allow(peer: PeerCredentials) -> bool:
            asked.append(peer)
            return True

        async with aioipc.listen(address, allow=allow) as listener:
            assert stat.S_IMODE((public / "socket").stat().st_mode) == 0o666
            client = program(peers, AS_NOBODY + ECHO, address)
            async with await listener.accept() as channel:
                assert channel.peer == PeerCredentials(client.pid, NOBODY, NOBODY)
                assert asked == [channel.peer]
                await converse(channel, ["a", b"b" * 100_000])
            assert await client.ended() == 0

    async def test_pickle_meets_no_stranger(self, public: Path, peers: Peers) -> None:
        address = f"unix:{public}/socket"
        async with aioipc.listen(address, codec="pickle", allow=lambda peer: True) as listener:
            client = program(
                peers,
                AS_NOBODY
                + """
try:
    async with aioipc.connect(sys.argv[1], codec="pickle") as channel:
        await channel.receive()
except aioipc.AccessDenied as error:
    say(error)
""",
                address,
            )
            waiting = asyncio.create_task(listener.accept())
            assert "the pickle codec runs what a peer sends" in await client.next_line()
            waiting.cancel()
