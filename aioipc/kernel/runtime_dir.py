"""The one private directory in which names of this user meet.

It is ``$AIOIPC_RUNTIME_DIR``, else ``/run/user/UID/aioipc`` where ``/run/user/UID``
exists, else ``aioipc-UID`` in the temporary directory. Whoever could enter it could pose as a
server of ours, so owner and mode are checked on the open directory at each use.
"""

from __future__ import annotations

import os

from aioipc.kernel.directory import Directory, open_private

__all__ = ["open_runtime_dir", "runtime_path"]


def runtime_path() -> str:
    """Say where the runtime directory is, or would be."""
    if chosen := os.environ.get("AIOIPC_RUNTIME_DIR"):
        return os.path.abspath(chosen)
    uid = os.geteuid()
    session = f"/run/user/{uid}"
    if os.path.isdir(session):
        return f"{session}/aioipc"
    return os.path.join(os.environ.get("TMPDIR") or "/tmp", f"aioipc-{uid}")  # noqa: S108


def open_runtime_dir(*parts: str, create: bool = True) -> Directory:
    """Open the runtime directory or a subdirectory of it.

    Args:
        parts: The way down: ``"socket"``, or ``"sync", "mutex"``.
        create: Whether to make what is missing, each level with mode 0700.

    Returns:
        The directory, which belongs to the caller.

    Raises:
        AccessDenied: A level is a symlink, or others own it or may enter it.
        FileNotFoundError: A level does not exist, or the parent of the first one.
    """
    directory = open_private(runtime_path(), create=create)
    for part in parts:
        with directory:
            directory = directory.private(part, create=create)
    return directory
