"""A worker that talks over its standard input and output: see parent.py.

It knows nothing of who started it. Run alone it would wait for messages on the terminal.
"""

import asyncio
import os
import signal

import aioipc


async def work() -> None:
    """Square numbers until the parent has had enough."""
    async with aioipc.connect("stdio:") as parent:
        print("ready", flush=True)  # to standard error: standard output carries messages now
        async for job in parent:
            if job == "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            await asyncio.sleep(0.01)  # pretend that it is hard
            await parent.send({"job": job, "result": job * job, "worker": os.getpid()})


if __name__ == "__main__":
    aioipc.run(work())
