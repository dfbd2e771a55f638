"""The table of codecs: by name, by object, from other packages, loaded late."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints
from types import SimpleNamespace

import msgspec
import pytest

from aioipc import codecs

MINE = SimpleNamespace(name="mine", format=None, encode=bytes, decode=bytes)


@pytest.mark.parametrize("name", codecs.BUILT_IN)
def test_built_in(name: str) -> None:
    codec = codecs.get(name)

    assert codec.name == name
    assert codec.format in {None, "json", "msgpack"}
    assert codec is codecs.get(name) is getattr(codecs, name)
    assert codecs.is_trusted_only(codec) is (name == "pickle")


def test_a_codec_is_passed_through() -> None:
    assert codecs.get(MINE) is MINE
    assert not codecs.is_trusted_only(MINE)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no codec is called 'yaml'; known are arrays, json, msgp"):
        codecs.get("yaml")


def test_not_a_codec() -> None:
    with pytest.raises(TypeError, match="is not a codec: it has no name and no encode"):
        codecs.get(SimpleNamespace(format=None, decode=bytes))


def test_codecs_of_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("mine", f"{__name__}:MINE", codecs.ENTRY_POINTS),
        EntryPoint("bad", "aioipc.codecs:BUILT_IN", codecs.ENTRY_POINTS),
        EntryPoint("json", f"{__name__}:MINE", codecs.ENTRY_POINTS),
    ]
    monkeypatch.setitem(sys.modules, __name__, SimpleNamespace(MINE=MINE))
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: EntryPoints(points))

    assert codecs.get("mine") is MINE
    assert codecs.get("json").name == "json"
    with pytest.raises(TypeError, match="not a codec"):
        codecs.get("bad")
    with pytest.raises(ValueError, match="known are arrays, bad, json, mine, msgpack"):
        codecs.get("yaml")


def test_unknown_attribute() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'yaml'"):
        codecs.yaml  # noqa: B018 - the access is the test


def test_typed_survives_the_import_of_every_module() -> None:
    for name in codecs.BUILT_IN:
        codecs.get(name)
    assert codecs.typed(int).decode(b"\x05") == 5
    assert codecs.typed(list[int]).decode(b"\x91\x05") == [5]
    with pytest.raises(msgspec.ValidationError):
        codecs.typed(int).decode(b"\xa0")


def test_the_table_alone_loads_no_codec() -> None:
    code = (
        "import sys, aioipc.codecs; "
        "print(*sorted({'msgspec', 'msgpack', 'pickle', 'aioipc.codecs.json'} & {*sys.modules}))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert "msg" not in found.stdout
    assert "json" not in found.stdout
