"""``vsock:``: the kernel may have it, and may have the loopback that a test needs."""

from __future__ import annotations

import asyncio
import socket

import pytest

import aioipc
from aioipc import AddressError, Capability, ConnectError
from aioipc.address import Address

pytestmark = pytest.mark.asyncio


def why_not() -> str:
    """Why nothing can be sent to this machine itself; empty if it can."""
    try:
        with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as sock:
            sock.bind((socket.VMADDR_CID_LOCAL if hasattr(socket, "VMADDR_CID_LOCAL") else 1, -1))
    except (OSError, OverflowError) as error:
        return str(error)
    return ""


needs_loopback = pytest.mark.skipif(bool(why_not()), reason=f"no vsock loopback: {why_not()}")


async def test_addresses() -> None:
    address = Address.parse("vsock://2:5000")
    assert (address.cid, address.port) == (2, 5000)
    assert str(address.with_port(7)) == "vsock://2:7"
    for wrong in (
        "vsock:2:5000",
        "vsock://2",
        "vsock://host:1",
        "vsock://1:4294967295",
        "vsock://:1",
    ):
        with pytest.raises(AddressError):
            Address.parse(wrong)


async def test_options() -> None:
    with pytest.raises(ValueError, match="vsock: does not know the peer's user"):
        await aioipc.listen("vsock://1:0", allow=aioipc.same_user)
    with pytest.raises(ValueError, match="pickle"):
        await aioipc.connect("vsock://1:5000", codec="pickle")


@pytest.mark.skipif(not why_not(), reason="this machine has a vsock loopback")
async def test_a_clear_error_where_there_is_none() -> None:
    with pytest.raises(ConnectError, match=r"vsock://1:0|this kernel has no vsock\(7\) sockets"):
        await aioipc.listen("vsock://1:0")
    with pytest.raises(ConnectError, match="vsock://1:5000"):
        await aioipc.connect("vsock://1:5000")


@needs_loopback
async def test_a_conversation() -> None:
    async with (
        aioipc.listen("vsock://1:0") as listener,
        aioipc.connect(listener.address) as near,
        await listener.accept() as far,
    ):
        assert near.capabilities & Capability.REMOTE
        assert near.peer is None
        for message in ("x", b"y" * 1_000_000):
            sending = asyncio.create_task(near.send(message))
            assert await far.receive() == message
            await sending
        await far.send_eof()
        with pytest.raises(aioipc.EndOfStream):
            await near.receive()
    with pytest.raises(ConnectError):
        await aioipc.connect(listener.address)
