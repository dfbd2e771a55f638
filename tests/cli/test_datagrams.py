"""``aioipc send`` and ``aioipc listen`` over sockets without connections."""

from __future__ import annotations

import socket

import pytest

from tests.cli.commands import Commands

where = pytest.mark.parametrize("where", ["unix+dgram:box", "udp://127.0.0.1:0"])


@where
def test_messages_of_several_senders(commands: Commands, where: str) -> None:
    listener = commands.listen("--count", "6", address=where)
    words = ["hello", "two words", "", "grüße"]
    assert commands.run("send", listener.address, *words) == (0, b"", "")
    assert [listener.line() for _ in words] == words
    assert commands.run("send", listener.address, stdin=b"one\ntwo\n") == (0, b"", "")
    assert listener.end()[:2] == (0, b"one\ntwo\n")


@where
def test_what_cannot_be(commands: Commands, where: str) -> None:
    status, _, complaint = commands.run("listen", "--echo", where)
    assert status == 2
    assert "is one way, so --echo has no way back" in complaint
    listener = commands.listen("--count", "1", address=where)
    status, _, complaint = commands.run("send", listener.address, stdin=b"x" * 300_000)
    assert status == 1
    assert "300,0" in complaint
    if where.startswith("udp:"):
        port = int(listener.address.rpartition(":")[2])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(b"\xc1", ("127.0.0.1", port))
        assert "which means nothing" in listener.complaint()
    assert commands.run("send", listener.address, "short").status == 0
    assert listener.end()[:2] == (0, b"short\n")


def test_nobody_receives(commands: Commands) -> None:
    status, _, complaint = commands.run("send", "unix+dgram:nobody", "x")
    assert status == 1
    assert "nobody listens there" in complaint
