"""A process whose loop is closed with everything open: see tests/test_lifecycle.py.

Its argument is a loop. Says what was wrong, and at last how many warnings there were.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import sys
import warnings

from aioipc.kernel.statistics import Kind, open_row
from tests.conftest import LOOPS
from tests.peers.forking import DIRECTORY, Open

LOOPS[sys.argv[1]]().close()  # uvloop keeps two descriptors for the life of the process
open_row(Kind.CHANNEL, "")  # and this the page of statistics
before = set(os.listdir("/proc/self/fd"))


async def main() -> tuple[Open, socket.socket]:
    own = await Open.everything()
    silent = socket.socket(socket.AF_UNIX)  # its handshake is not finished when the loop closes
    silent.connect(f"{DIRECTORY}/path")
    for _ in range(5):
        await asyncio.sleep(0)
    return own, silent


def leave() -> list[str]:
    """Return what the objects complained of when nobody had them any more."""
    runner = asyncio.Runner(loop_factory=LOOPS[sys.argv[1]])
    own, silent = runner.run(main())
    runner.close()
    own.stack.pop_all()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del own, runner
        gc.collect()
    silent.setblocking(True)
    assert silent.recv(1000) == b""
    silent.close()
    return sorted(str(warning.message) for warning in caught)


for complaint in leave():
    print(complaint.removeprefix("unclosed <").split()[0], flush=True)
fds = set(os.listdir("/proc/self/fd")) - before
assert not [os.readlink(f"/proc/self/fd/{fd}") for fd in fds]
names = [name for _, _, names in os.walk(DIRECTORY) for name in names]
assert not names, names
with contextlib.suppress(ChildProcessError):  # it was reaped already
    os.wait()  # cat was told to end
print("done", flush=True)
