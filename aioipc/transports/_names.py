"""Names that nobody chose."""

from __future__ import annotations

import os
import secrets

__all__ = ["generated_name"]


def generated_name() -> str:
    """A name for the runtime directory that no other process will make up."""
    return f"{os.getpid()}-{secrets.token_hex(8)}"
