"""What the tests of calls have in common."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.rpc.desk import Pipe


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()
