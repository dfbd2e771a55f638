"""CPython's own tests of asyncio, over our Transport: tests/asyncio_face/conformance.py."""

from __future__ import annotations

import importlib.util
import re

import pytest

from tests.asyncio_face.conformance import MODULES
from tests.children import Peers

FEWEST = {"test_streams": 20, "test_events": 80, "test_sendfile": 60, "test_ssl": 80}
"""Of how many transports a run would have too few to mean anything."""

PATIENCE_S = 160
"""Some take 12 s of CPU time, and of that a crowded machine gives little."""


@pytest.mark.skipif(
    importlib.util.find_spec("test.test_asyncio") is None,
    reason="this Python comes without its own tests (test.test_asyncio)",
)
@pytest.mark.timeout(180)
@pytest.mark.parametrize("module", MODULES)
def test_asyncios_own_tests_pass(module: str, peers: Peers) -> None:
    run = peers.module("tests.asyncio_face.conformance", module)
    said = run.rest(PATIENCE_S)
    assert run.wait() == 0, said
    assert " 0 failed, " in said
    ours = re.search(r"(\d+) transports were ours", said)
    assert ours
    assert int(ours[1]) >= FEWEST.get(module, 1)
