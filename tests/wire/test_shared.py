"""What is said about memory that one peer has lent to the other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioipc import ProtocolError
from aioipc.wire.shared import MOST_NUMBERS, Shared, What

numbers = st.integers(1, MOST_NUMBERS)


@given(st.sampled_from(What), numbers, st.integers(0, 2**64 - 1))
def test_there_and_back(what: What, number: int, size: int) -> None:
    told = Shared(what, number, size)
    assert Shared.parse(told.pack()) == told
    assert len(told.pack()) == 16


def test_the_bytes() -> None:
    assert Shared(What.MESSAGE, 2, 0x010203).pack().hex() == "03000000020000000302010000000000"


@given(st.binary(max_size=32) | st.binary(min_size=16, max_size=16))
def test_any_bytes(payload: bytes) -> None:
    try:
        told = Shared.parse(payload)
    except ProtocolError:
        return
    assert told.pack() == payload
    assert told.what == What.PIPE or 1 <= told.number <= MOST_NUMBERS


@pytest.mark.parametrize("number", [0, MOST_NUMBERS + 1, 2**32 - 1])
@pytest.mark.parametrize("what", [What.MEMORY, What.MESSAGE, What.FORGET])
def test_numbers_begin_at_one(what: What, number: int) -> None:
    with pytest.raises(ProtocolError, match=f"1 to {MOST_NUMBERS} are possible"):
        Shared.parse(Shared(what, number, 1).pack())


def test_what_brings_a_descriptor() -> None:
    assert [Shared(what).fds for what in What] == [1, 1, 0, 0]
