"""Options and addresses that connect, listen and pair refuse, and what they say then."""

from __future__ import annotations

import asyncio
import copy
import inspect
import pickle
from collections.abc import Callable
from typing import Any

import pytest

import aioipc
from aioipc import pubsub, rpc
from aioipc._opening import Opening

OPENERS: list[Callable[..., Any]] = [aioipc.connect, aioipc.listen, aioipc.pair]


@pytest.mark.parametrize("opener", OPENERS, ids=lambda opener: opener.__name__)
@pytest.mark.parametrize(
    ("option", "told"),
    [
        (
            {"codec": "yaml"},
            "no codec is called 'yaml'; known are arrays, json, msgpack, pickle, raw,",
        ),
        (
            {"framing": "dots"},
            "framing must be one of length, lines, headers, multiprocessing, none, not 'dots'",
        ),
        ({"polling": "fast"}, "polling must be one of adaptive, block, busy, not 'fast'"),
    ],
)
def test_an_unknown_option_is_named_with_those_that_are_known(
    opener: Callable[..., Any], option: dict[str, str], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        opener("memory", **option) if opener is aioipc.pair else opener("memory:x", **option)


@pytest.mark.parametrize("opener", OPENERS, ids=lambda opener: opener.__name__)
@pytest.mark.parametrize(
    ("option", "told"),
    [
        ({"codec": 5}, "5 is not a codec"),
        ({"limits": {}}, "limits= is a Limits, not dict"),
        ({"limits": 5}, "limits= is a Limits, not int"),
    ],
)
def test_an_option_of_a_wrong_type(
    opener: Callable[..., Any], option: dict[str, Any], told: str
) -> None:
    with pytest.raises(TypeError, match=told):
        opener("memory", **option) if opener is aioipc.pair else opener("memory:x", **option)


class Store:
    async def get(self, key: str) -> str:
        return key


OTHERS: dict[str, Callable[..., Any]] = {
    "connect_stream": lambda **options: aioipc.connect_stream("unix:name", **options),
    "listen_stream": lambda **options: aioipc.listen_stream("unix:name", **options),
    "open_connection": lambda **options: aioipc.open_connection("unix:name", **options),
    "start_server": lambda **options: aioipc.start_server(print, "unix:name", **options),
    "create_connection": lambda **options: aioipc.create_connection(
        asyncio.Protocol, "unix:name", **options
    ),
    "create_server": lambda **options: aioipc.create_server(
        asyncio.Protocol, "unix:name", **options
    ),
    "rpc.connect": lambda **options: rpc.connect("unix:name", Store, **options),
    "rpc.serve": lambda **options: rpc.serve("unix:name", Store(), **options),
    "publisher": lambda **options: pubsub.publisher("unix:name", **options),
    "subscriber": lambda **options: pubsub.subscriber("unix:name", "topic", **options),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize(
    ("option", "told"),
    [
        ({"limits": {}}, "limits= is a Limits, not dict"),
        ({"limits": 5}, "limits= is a Limits, not int"),
        ({"allow": [0]}, "allow= is a function of a peer's credentials, not list"),
    ],
)
def test_the_same_is_refused_whatever_is_opened(
    name: str, option: dict[str, Any], told: str
) -> None:
    with pytest.raises(TypeError, match=told):
        OTHERS[name](**option)


@pytest.mark.parametrize("opener", [aioipc.connect, aioipc.listen])
def test_what_cannot_be_asked(opener: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="allow= is a function of a peer's credentials, not list"):
        opener("unix:name", allow=[0])


@pytest.mark.parametrize("address", [None, 5, b"unix:name"])
@pytest.mark.parametrize("opener", [*OPENERS, aioipc.connect_stream, aioipc.listen_stream])
def test_an_address_is_text(opener: Callable[..., Any], address: Any) -> None:
    told = "the kind of a pair" if opener is aioipc.pair else "an address"
    with pytest.raises(TypeError, match=f"^{told} is a str, not {type(address).__name__}$"):
        opener(address)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("tcp", "address 'tcp:': tcp: has no pair, only connect and listen"),
        ("nonesuch", "address 'nonesuch:': no transport is called 'nonesuch'; known are "),
        ("unix:/a/path", r"pair\('unix:/a/path'\): a pair has no name; say pair\('unix'\)"),
    ],
)
def test_a_pair_that_cannot_be(kind: str, told: str) -> None:
    with pytest.raises(aioipc.AddressError, match=f"^{told}"):
        aioipc.pair(kind)


def test_a_pair_may_be_written_as_an_address() -> None:
    left, right = aioipc.pair("memory:")
    left.abort()
    right.abort()


@pytest.mark.asyncio
async def test_pipes_are_not_connected_to() -> None:
    with pytest.raises(aioipc.AddressError, match=r"^address 'pipe:': pipe: has no connect"):
        await aioipc.connect("pipe:")


# --- without await ---------------------------------------------------------------------------


@pytest.mark.parametrize("opener", [aioipc.connect, aioipc.listen, aioipc.connect_stream])
def test_whoever_forgets_to_await_is_told(opener: Callable[..., Any]) -> None:
    opening = opener("unix:name")
    with pytest.raises(AttributeError, match=rf"{opener.__name__}\(\.\.\.\) was not awaited"):
        opening.send(1)
    assert not hasattr(opening, "aclose")
    assert getattr(opening, "aclose", None) is None
    assert f"{opener.__name__}(...)" in repr(opening)


def test_other_lookups_are_as_with_any_object() -> None:
    opening: Any = aioipc.connect("unix:name")
    with pytest.raises(AttributeError, match=r"has no attribute '__array__'$"):
        opening.__array__  # noqa: B018 - looking is what it is about
    with pytest.raises(AttributeError, match=r"has no attribute '_repr_html_'$"):
        opening._repr_html_  # noqa: B018
    assert (inspect.iscoroutine(opening), inspect.isawaitable(opening)) == (False, True)
    assert not callable(opening)
    assert inspect.getmembers(opening)
    assert repr(copy.copy(opening)) == repr(opening)
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError), match="open_"):
        pickle.dumps(opening)
    half_made = object.__new__(Opening)
    with pytest.raises(AttributeError, match=r"has no attribute '_open'$"):
        half_made._open  # noqa: B018
