"""How much a test does: a usual amount that keeps the suite short, and the full figure."""

from __future__ import annotations

import os

SCALE = float(os.environ.get("AIOIPC_TEST_SCALE", "0"))
"""What part of the full figures to run: ``AIOIPC_TEST_SCALE=1`` runs them all."""


def scaled(usual: int, *, full: int) -> int:
    """How often to do something.

    Args:
        usual: What every run of the suite can afford.
        full: The figure to prove, with ``AIOIPC_TEST_SCALE=1``.
    """
    return max(usual, round(full * SCALE))


def patience_s(usual: float) -> float:
    """How long a scaled test may take: for ``pytest.mark.timeout``."""
    return usual * max(1.0, 60 * SCALE)
