"""Limits: what is wrong with a value is said when they are made."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from aioipc import Limits

FIELDS = [field.name for field in dataclasses.fields(Limits)]


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("value", ["64k", None, True, 1 + 1j])
def test_what_is_no_number(name: str, value: Any) -> None:
    told = rf"{name} must be an int.*, not {re.escape(repr(value))} of type {type(value).__name__}"
    with pytest.raises(TypeError, match=told):
        Limits(**{name: value})


@pytest.mark.parametrize("name", [name for name in FIELDS if not name.endswith("_s")])
@pytest.mark.parametrize("value", [1e6, 2.5, float("nan")])
def test_only_durations_have_fractions(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"{name} must be an int, not {value!r} of type float"):
        Limits(**{name: value})


@pytest.mark.parametrize("name", FIELDS)
def test_what_is_out_of_range(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be between .* and .*, not -1"):
        Limits(**{name: -1})


def test_durations() -> None:
    assert Limits(linger_s=0, connect_s=0.5).connect_s == 0.5
    with pytest.raises(ValueError, match="linger_s must be between 0 and 3,600, not nan"):
        Limits(linger_s=float("nan"))
