"""Kinds of checks that every protocol has, made of what differs between protocols."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from tests.verify.build import Mutation, Subject
from tests.verify.checks import Check, Options

__all__ = ["bugs_of", "crashpoints", "hunts", "lost_wakeups", "step_kills"]


def bugs_of(kind: Check, mutations: Mapping[str, Mutation]) -> Iterator[Check]:
    """The same check for each of several bugs.

    Args:
        kind: The check; its name is what the names of all begin with.
        mutations: The bugs, by name.
    """
    for name, mutation in mutations.items():
        yield replace(kind, name=f"{kind.name}-{name}", mutation=mutation)


def crashpoints(subject: Subject, divider: str) -> tuple[list[str], list[str]]:
    """The steps that a header names, of those before the divider and of those behind it."""
    pattern = r"AIOIPC_CRASHPOINT\((\w+)\);"
    # The header knows no bells; the harness names the moments before and after one.
    bells = ["bell", "bell_rung"]
    one, other = subject.header.read_text().split(divider)
    return re.findall(pattern, one) + bells, re.findall(pattern, other) + bells


def hunts(kind: Check, loads: Mapping[str, Options]) -> Iterator[Check]:
    """Look for lost wake-ups under each of these loads."""
    for name, changes in loads.items():
        yield replace(
            kind,
            name=f"{kind.name}-{name}",
            source="threads.c",
            claim=f"no lost wake-up, {name}, with delays of up to 50 µs between any two steps",
            options={**kind.options, **changes},
        )


def lost_wakeups(
    kind: Check, loads: Mapping[str, Options], mutations: Mapping[str, tuple[str, Mutation]]
) -> Iterator[Check]:
    """Bugs that leave somebody asleep, each with the load that shows it."""
    usual = {"records": 1_000_000, "delay_one_in": 50, "patience_ms": 100}
    for name, (load, mutation) in mutations.items():
        options = {**loads[load], **usual}
        hunt = replace(kind, source="threads.c", options=options)
        yield from bugs_of(hunt, {name: mutation})


def step_kills(
    prefix: str, subject: Subject, steps: Mapping[str, list[str]], *, full_kills: int
) -> Iterator[Check]:
    """Kill each victim at each of its steps."""
    for victim, names in steps.items():
        for step in names:
            yield Check(
                f"{prefix}kill-{victim}-at-{step}",
                "kill.c",
                f"{victim} killed at {step}",
                {"victim": victim, "at": step, "kills": 5},
                {"kills": full_kills},
                at_least={"kills": full_kills},
                subject=subject,
            )
