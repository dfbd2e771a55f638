"""``aioipc serve`` offers an object, ``aioipc call`` calls its methods."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.cli.commands import Command, Commands

SERVICE = '''
from collections.abc import AsyncIterable, AsyncIterator

class Store:
    """Numbers by name."""

    def __init__(self) -> None:
        self.values = {"a": 1}

    async def get(self, key: str, default: int = -1) -> int:
        """The value of a key.

        More about it.
        """
        return self.values.get(key, default)

    async def put(self, key: str, value: int) -> None:
        self.values[key] = value

    async def merge(self, values: dict[str, int]) -> dict[str, int]:
        return self.values | values

    async def count(self, to: int, *, by: int = 1) -> AsyncIterator[int]:
        for number in range(0, to, by):
            yield number

    async def forever(self) -> AsyncIterator[str]:
        yield "first"
        import asyncio
        await asyncio.get_running_loop().create_future()

    async def total(self, numbers: AsyncIterable[int]) -> int:
        return 0

    async def fail(self) -> None:
        raise RuntimeError("oh")

class Picky:
    def __init__(self, colour: str) -> None: ...
    async def m(self) -> None: ...

class Plain:
    def m(self) -> None: ...

store = Store()

def function() -> None: ...
'''


@pytest.fixture
def where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a module, in which the commands run."""
    (tmp_path / "services.py").write_text(SERVICE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def server(commands: Commands, where: Path, address: str) -> Command:
    server = commands.start("serve", address, "services:Store")
    assert server.complaint() == f"aioipc: serving on {address}"
    return server


@pytest.mark.usefixtures("server")
class TestCalls:
    def test_what_can_be_called(self, commands: Commands, address: str) -> None:
        status, out, err = commands.run("call", address)
        assert (status, err) == (0, "")
        assert out.decode() == (
            "Store: Numbers by name.\n"
            "  get(key: str, default: int = -1) -> int\n"
            "      The value of a key.\n"
            "  put(key: str, value: int) -> None\n"
            "  merge(values: dict[str, int]) -> dict[str, int]\n"
            "  count(to: int, by: int = 1) -> AsyncIterator[int]\n"
            "  forever() -> AsyncIterator[str]\n"
            "  total(numbers: AsyncIterable[int]) -> int\n"
            "  fail() -> None\n"
        )

    @pytest.mark.parametrize(
        ("arguments", "out"),
        [
            (["get", "key=a"], b"1\n"),
            (["get", "key=5"], b"-1\n"),
            (["get", "default=7", "key=x=y"], b"7\n"),
            (["put", "key=b", "value=2"], b"null\n"),
            (["merge", 'values={"z": 3}'], b'{"a":1,"z":3}\n'),
            (["count", "to=3"], b"0\n1\n2\n"),
            (["count", "to=5", "by=2"], b"0\n2\n4\n"),
        ],
    )
    def test_results(
        self, commands: Commands, address: str, arguments: list[str], out: bytes
    ) -> None:
        assert commands.run("call", address, *arguments) == (0, out, "")

    @pytest.mark.parametrize(
        ("arguments", "complaint", "status"),
        [
            (["nope"], "Store has no method 'nope'; it has get, put, merge, count", 2),
            (["get"], "get needs key=...", 2),
            (["get", "default=1"], "get needs key=...", 2),
            (["get", "a"], "an argument is written name=value, not 'a'", 2),
            (["get", "key=a", "x=1"], "get has no argument 'x'; it has key, default", 2),
            (["fail", "x=1"], "fail has no argument 'x'; it has none", 2),
            (["put", "key=b", "value=x"], "argument 'value': Expected `int`, got `str`", 2),
            (["merge", "values={"], "values={ is not JSON", 2),
            (["total"], "total takes a stream as 'numbers', which a shell cannot give", 2),
            (["fail"], "Store.fail failed: RuntimeError: oh", 1),
        ],
    )
    def test_complaints(
        self,
        commands: Commands,
        address: str,
        arguments: list[str],
        complaint: str,
        status: int,
    ) -> None:
        ended = commands.run("call", address, *arguments)
        assert (ended.status, ended.out) == (status, b"")
        assert complaint in ended.err
        assert ended.err.count("\n") == 1

    def test_a_stream_is_printed_as_it_comes(self, commands: Commands, address: str) -> None:
        call = commands.start("call", address, "forever")
        assert call.line() == '"first"'
        call.signal(signal.SIGINT)
        assert call.end().status == 130

    def test_a_reader_who_has_enough(self, commands: Commands, address: str) -> None:
        done = commands.shell(f"aioipc call {address} forever | head -1")
        assert done.out == b'"first"\n'


def test_ending_a_server(commands: Commands, server: Command) -> None:
    server.signal(signal.SIGTERM)
    assert server.end() == (143, b"", "")


def test_what_a_server_that_is_ended_waits_for(
    commands: Commands, server: Command, address: str
) -> None:
    call = commands.start("call", address, "forever")
    assert call.line() == '"first"'
    server.signal(signal.SIGINT)
    assert (
        server.complaint()
        == "aioipc: waiting for the calls that run (1), at most 5 s; Ctrl-C again does not"
    )
    server.signal(signal.SIGINT)
    assert server.end().status == 130
    assert call.end().status == 1


def test_serving_an_object(commands: Commands, where: Path) -> None:
    server = commands.start("serve", "unix:object", "services:store")
    server.complaint()
    assert commands.run("call", "unix:object", "get", "key=a").out == b"1\n"
    server.signal(signal.SIGINT)
    assert server.end().status == 130


def test_calling_a_child(commands: Commands, where: Path) -> None:
    ended = commands.run("call", "exec:aioipc serve stdio: services:Store", "get", "key=a")
    assert (ended.status, ended.out) == (0, b"1\n")


@pytest.mark.parametrize(
    ("service", "complaint"),
    [
        ("services", "a service is written MODULE:CLASS, not 'services'"),
        ("services:", "a service is written MODULE:CLASS"),
        ("nowhere:Store", "there is no module 'nowhere'"),
        ("services.deep:Store", "there is no module 'services.deep'"),
        ("services:Shop", "the module services has no 'Shop'"),
        ("services:function", "services:function is a function; name a class"),
        ("services:Picky", "services:Picky cannot be made without arguments"),
        ("services:Plain", "Plain.m: a call takes time, so declare it `async def m(...)`"),
    ],
)
def test_what_cannot_be_served(
    commands: Commands, where: Path, service: str, complaint: str
) -> None:
    ended = commands.run("serve", "unix:x", service)
    assert (ended.status, ended.out) == (2, b"")
    assert complaint in ended.err
    assert ended.err.count("\n") == 1


def test_nobody_serves(commands: Commands) -> None:
    ended = commands.run("call", "unix:nobody", "get")
    assert ended == (
        1,
        b"",
        "aioipc: connect to unix:nobody: nobody listens there (no such socket)\n",
    )
