"""Arguments and descriptions that make no sense, and whose own code says so in its own way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import pytest

import aioipc
from aioipc import rpc
from aioipc.rpc.parts import RemoteInterface, RemoteMethod, RemoteParameter, method_of


@dataclass
class Side:
    name: str

    def __post_init__(self) -> None:
        {"left": -1, "right": 1}[self.name]


class Doors(Protocol):
    async def open(self, side: Side, times: int = 1) -> int: ...
    async def lock(self, which: Literal["front", "back"]) -> int: ...


class Porter:
    def open(self, side: Side, times: int = 1) -> int:
        return times

    def lock(self, which: str) -> int:
        return 1


class Anything(Protocol):
    async def open(self, side: Any) -> int: ...
    async def lock(self, which: Any) -> int: ...


@pytest.mark.asyncio
async def test_arguments_whose_own_code_refuses_them() -> None:
    async with (
        rpc.serve("unix:", Porter(), interface=Doors) as server,
        rpc.connect(server.address, Doors) as doors,
        rpc.connect(server.address, Anything) as other,
    ):
        side = Side("left")
        side.name = "up"
        with pytest.raises(
            aioipc.BadArguments, match="KeyError while arguments were decoded: 'up'"
        ):
            await doors.open(side)
        with pytest.raises(aioipc.BadArguments, match="KeyError"):
            await other.open({"name": "up"})
        assert await doors.open(Side("left"), 2) == 2
        assert await other.open({"name": "right"}) == 1


@pytest.mark.asyncio
async def test_a_value_that_reads_like_a_place_is_none() -> None:
    async with (
        rpc.serve("unix:", Porter(), interface=Doors) as server,
        rpc.connect(server.address, Anything) as doors,
    ):
        with pytest.raises(
            aioipc.BadArguments, match=r"argument 'which': Invalid enum value '.*99"
        ):
            await doors.lock(" - at `$[99]`")
        assert await doors.lock("front") == 1


@pytest.mark.parametrize(
    "names", [["a b"], ["a", "a"], ["self"], ["class"], ["*late", "a"]], ids=" ".join
)
def test_parameters_that_a_server_cannot_have(names: list[str]) -> None:
    parameters = [RemoteParameter(name.lstrip("*"), "int", "*" in name) for name in names]
    told = RemoteMethod("turn", "call", parameters, "int")
    with pytest.raises(aioipc.RemoteError, match=r"Wheel\.turn cannot be called: .*parameter"):
        method_of(RemoteInterface("Wheel", [told]), told)
