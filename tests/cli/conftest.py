"""A fixture that starts the real command."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cli.commands import Commands


@pytest.fixture
def commands(no_residue: None) -> Iterator[Commands]:
    """Start ``aioipc ...``; whatever still runs at the end is killed."""
    commands = Commands()
    yield commands
    commands.close()


@pytest.fixture(params=["unix:test", "shm:test"])
def address(request: pytest.FixtureRequest) -> str:
    """Where to listen, for what must be the same on every transport."""
    return str(request.param)
