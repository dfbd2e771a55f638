"""Other users, and directories that they can reach."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

NOBODY = 65534

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")

BECOME_NOBODY = f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})"
"""What a peer runs after its imports: its interpreter may lie where nobody may look."""


@pytest.fixture
def public(runtime_dir: Path) -> Iterator[Path]:
    """A directory that everybody may enter, and only its owner may change."""
    path = Path(tempfile.mkdtemp(prefix="aioipc-public-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)
