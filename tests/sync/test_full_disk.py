"""File systems without room, or that may not be written: typed errors, and nothing left."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.children import Peers
from tests.programs import program

TAKES_EACH = """
from aioipc import sync
wanted = getattr(aioipc, sys.argv[1])
takes = {
    sync.Lock("x"): "acquire_nowait",
    sync.Semaphore("x", 2): "acquire_nowait",
    sync.RWLock("x"): "acquire_writing_nowait",
    sync.Condition("x"): "acquire_nowait",
    sync.Event("x"): "set",
    sync.Barrier("x", 2): "reset",
    sync.FileLock(os.environ["AIOIPC_RUNTIME_DIR"] + "/data"): "acquire_nowait",
}
for subject, take in takes.items():
    try:
        getattr(subject, take)()
    except wanted:
        say(type(subject).__name__)
    subject.close()
for path, folders, files in os.walk(os.environ["AIOIPC_RUNTIME_DIR"]):
    assert not files, files
say("end")
"""
KINDS = ["Lock", "Semaphore", "RWLock", "Condition", "Event", "Barrier", "FileLock", "end"]

SHARES = """
guard = await aioipc.sync.FileLock(sys.argv[1], shared=True).acquire()
try:
    await aioipc.sync.FileLock(sys.argv[1]).acquire()
except aioipc.AccessDenied:
    say("shared only")
guard.release()
"""


def within_mount(options: str, place: Path, then: str = ":") -> list[str]:
    """What a program is run within, to find memory of its own at a place: mount_namespaces(7)."""
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    script = f'mount -t tmpfs -o mode=700,{options} aioipc "{place}" && {then} && exec "$@"'
    command = [*unshare, "sh", "-c", script, "sh"]
    known = shutil.which("unshare") is not None
    if not known or subprocess.run([*command, "true"], check=False).returncode:
        pytest.skip("no mount namespaces for this user")
    return command


@pytest.mark.parametrize(
    ("options", "error"), [("nr_inodes=3", "ResourceExhausted"), ("ro", "AccessDenied")]
)
@pytest.mark.asyncio
async def test_no_room_for_the_files(
    options: str, error: str, runtime_dir: Path, peers: Peers
) -> None:
    peer = program(peers, TAKES_EACH, error, within=within_mount(options, runtime_dir))
    assert [await peer.next_line() for _ in KINDS] == KINDS
    assert await peer.ended() == 0


@pytest.mark.asyncio
async def test_a_file_that_may_only_be_read_is_shared(tmp_path: Path, peers: Peers) -> None:
    then = f'touch "{tmp_path}/data" && mount -o remount,ro "{tmp_path}"'
    within = within_mount("size=1m", tmp_path, then)
    peer = program(peers, SHARES, tmp_path / "data", within=within)
    assert await peer.next_line() == "shared only"
    assert await peer.ended() == 0
