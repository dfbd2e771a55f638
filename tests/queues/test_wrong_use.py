"""Options that make no sense are refused at the call."""

from __future__ import annotations

import decimal
from collections.abc import Callable
from typing import Any

import pytest

from aioipc import queues

COUNTS: dict[str, tuple[Callable[[Any], object], int]] = {
    "max_jobs": (lambda count: queues.Policy(max_jobs=count), 1),
    "max_attempts": (lambda count: queues.Policy(max_attempts=count), 1),
    "max_dead": (lambda count: queues.Policy(max_dead=count), 0),
    "prefetch": (lambda count: queues.open("unix:jobs", prefetch=count), 0),
    "size": (lambda count: queues.mailbox("box", size=count), 1),
}
OPENINGS: dict[str, Callable[..., object]] = {
    "serve": lambda **options: queues.serve("unix:jobs", **options),
    "open": lambda **options: queues.open("unix:jobs", **options),
    "mailbox": lambda **options: queues.mailbox("box", **options),
}


@pytest.mark.parametrize("name", COUNTS)
def test_how_many(name: str) -> None:
    make, least = COUNTS[name]
    with pytest.raises(ValueError, match=f"^{name} must be at least {least}, not {least - 1}$"):
        make(least - 1)
    for other in ("3", 2.5, True, float("nan")):
        with pytest.raises(TypeError, match=f"^{name} must be an int, not {other!r} of type "):
            make(other)


def test_how_long() -> None:
    for wrong in (0, -1.5, float("nan")):
        with pytest.raises(ValueError, match="lease_s must be more than 0"):
            queues.Policy(lease_s=wrong)
    with pytest.raises(ValueError, match="lease_s is longer than a float can say"):
        queues.Policy(lease_s=10**400)
    for other in ("1", True, decimal.Decimal(1)):
        with pytest.raises(TypeError, match="lease_s must be an int or a float, not "):
            queues.Policy(lease_s=other)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", OPENINGS)
def test_options_of_a_wrong_type(name: str) -> None:
    wrong: dict[str, str] = {"limits": "is a Limits, not int"}
    if name != "mailbox":
        wrong["allow"] = "is a function of a peer's credentials, not int"
    if name == "serve":
        wrong["policy"] = "is a Policy, not int"
    for option, words in wrong.items():
        with pytest.raises(TypeError, match=f"^{option}= {words}$"):
            OPENINGS[name](**{option: 5})


@pytest.mark.parametrize(("wrong", "error"), [("", ValueError), (5, TypeError)])
def test_what_is_no_name_of_a_journal(wrong: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        OPENINGS["serve"](journal=wrong)
