"""Fixtures of the kernel's tests."""

from __future__ import annotations

from tests.kernel.strangers import public

__all__ = ["public"]
