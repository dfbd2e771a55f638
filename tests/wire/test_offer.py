"""Tests for the offer of a ring and its refusal: any bytes are one of them, or are refused."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioipc import AccessDenied, HandshakeError, ProtocolError, QuotaExceeded, VersionMismatch
from aioipc.wire.hello import Goodbye, GoodbyeCode, exception_for
from aioipc.wire.offer import MAGIC, Kind, Offer, missing, pack_refusal, parse

HEAD = struct.Struct("<8sHHBBHQ")
CAPACITIES = [2**power for power in range(16, 31)]

offers = st.builds(
    Offer,
    capacity=st.sampled_from(CAPACITIES),
    side=st.integers(0, 1),
    socket_bells=st.booleans(),
)
goodbyes = st.builds(
    Goodbye, code=st.sampled_from(GoodbyeCode), reason=st.text(min_size=1, max_size=200)
)


def packed(
    *,
    magic: bytes = MAGIC,
    major: int = 1,
    minor: int = 0,
    kind: int = 1,
    side: int = 1,
    value: int,
) -> bytes:
    return HEAD.pack(MAGIC, major, minor, kind, side, 0, value)


@given(offers)
def test_an_offer_comes_back(offer: Offer) -> None:
    data = offer.pack()
    assert len(data) == HEAD.size
    assert missing(data) == 0
    assert parse(data) == offer


@given(goodbyes)
def test_a_refusal_comes_back(goodbye: Goodbye) -> None:
    data = pack_refusal(goodbye)
    assert missing(data) == 0
    assert parse(data) == goodbye


@given(st.one_of(offers.map(Offer.pack), goodbyes.map(pack_refusal)), st.data())
def test_what_is_missing_is_known_early_and_never_too_much(
    whole: bytes, data: st.DataObject
) -> None:
    """Nobody reads into what comes behind it."""
    begun = whole[: data.draw(st.integers(0, len(whole) - 1))]
    assert 0 < missing(begun) <= len(whole) - len(begun)


def test_the_bytes_of_an_offer() -> None:
    assert Offer(2**20, 1).pack().hex(" ") == (
        "89 61 69 6f 72 69 6e 67 01 00 00 00 01 01 00 00 00 00 10 00 00 00 00 00"
    )


@pytest.mark.parametrize(("socket_bells", "fds"), [(False, 3), (True, 1)])
def test_the_descriptors_that_belong_to_it(socket_bells: bool, fds: int) -> None:
    assert Offer(2**16, 0, socket_bells).fds == fds


@given(st.binary(max_size=64).filter(lambda data: data[:8] != MAGIC[: len(data[:8])]))
def test_anything_else_is_refused_at_its_first_bytes(data: bytes) -> None:
    with pytest.raises(HandshakeError, match="the peer offers no ring: it began with"):
        missing(data)


@given(st.binary(min_size=16, max_size=1100))
def test_garbage_behind_the_magic(data: bytes) -> None:
    """It is asked for a bounded number of bytes more, and then understood or refused."""
    data = MAGIC + data
    more = missing(data)
    assert more <= 2 + 1024
    data += bytes(max(more, 0))
    try:
        answer = parse(data)
    except ProtocolError:
        return
    assert isinstance(answer, Goodbye) or answer.capacity in CAPACITIES


@pytest.mark.parametrize("version", [(0, 0), (0, 9), (2, 0), (2, 7), (65535, 65535)])
def test_another_major_version(version: tuple[int, int]) -> None:
    major, minor = version
    with pytest.raises(VersionMismatch, match=rf"a ring of version {major}\.{minor}, not 1\.0"):
        parse(packed(major=major, minor=minor, value=2**20))


def test_a_minor_version_is_nobodys_trouble() -> None:
    assert parse(packed(minor=9, value=2**20)) == Offer(2**20, 1)


@pytest.mark.parametrize("kind", [3, 4, 127, 255])
def test_an_unknown_kind(kind: int) -> None:
    with pytest.raises(HandshakeError, match=f"a ring of the unknown kind {kind}"):
        parse(packed(kind=kind, value=2**20))


@pytest.mark.parametrize("side", [2, 3, 255])
def test_a_third_side(side: int) -> None:
    with pytest.raises(HandshakeError, match=f"side {side} of a ring, which has 0 and 1"):
        parse(packed(side=side, value=2**20))


@pytest.mark.parametrize(
    "capacity", [0, 1, 2**15, 2**16 - 1, 2**16 + 8, 3 * 2**16, 2**31, 2**32, 2**63, 2**64 - 1]
)
def test_a_capacity_that_no_ring_has(capacity: int) -> None:
    with pytest.raises(HandshakeError, match=rf"a ring of {capacity:,} bytes; powers of two from"):
        parse(packed(value=capacity))


@pytest.mark.parametrize("size", [1027, 2**32, 2**64 - 1])
def test_a_refusal_that_goes_on_for_ever(size: int) -> None:
    data = packed(kind=Kind.REFUSAL, value=size)
    assert missing(data) == 0, "nobody waits for the rest"
    with pytest.raises(HandshakeError, match=f"a refusal of {size:,} bytes: 1,026 are the most"):
        parse(data)


def test_a_refusal_of_one_byte() -> None:
    data = packed(kind=Kind.REFUSAL, value=1)
    assert missing(data) == 1
    with pytest.raises(ProtocolError, match="a GOODBYE of 1 bytes"):
        parse(data + b"x")


@pytest.mark.parametrize(
    ("code", "error"),
    [(GoodbyeCode.ACCESS_DENIED, AccessDenied), (GoodbyeCode.QUOTA_EXCEEDED, QuotaExceeded)],
)
def test_why_it_was_refused(code: GoodbyeCode, error: type[Exception]) -> None:
    answer = parse(pack_refusal(Goodbye(code, "because")))
    assert isinstance(answer, Goodbye)
    told = exception_for(answer, "shm:/x")
    assert isinstance(told, error)
    assert "'because'" in str(told)
