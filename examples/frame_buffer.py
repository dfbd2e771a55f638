"""A camera's frames in numpy, in memory that it shares: one process writes them, another one looks.

The buffers travel once, by their descriptor. After that a frame is a number of a few bytes, however
large its picture is: which buffer it is in. The number goes back when somebody has looked.

python frame_buffer.py

Needs numpy: pip install 'aioipc[arrays]'
"""

import asyncio
import os
import sys
from typing import Any

import numpy as np

import aioipc
from aioipc.memory import SharedArray

BUFFERS, HEIGHT, WIDTH = 4, 1080, 1920
FRAMES = 200


async def camera(address: str) -> None:
    """The child: paint each frame into a buffer that nobody looks at."""
    frames = SharedArray.create((BUFFERS, HEIGHT, WIDTH, 3), np.uint8, read_only_elsewhere=True)
    async with aioipc.connect(address, codec="arrays") as channel:
        await channel.send(frames)
        free = list(range(BUFFERS))
        for number in range(FRAMES):
            buffer = free.pop() if free else await channel.receive()
            frames[buffer, number::FRAMES] = number  # some lines of the picture
            frames[buffer, 0, 0] = number
            await channel.send([number, buffer])


async def watch(channel: aioipc.Channel[Any]) -> None:
    """The parent: look at every frame, where it lies."""
    frames = await channel.receive()
    megabytes = frames.nbytes / 1e6
    print(f"{BUFFERS} buffers of {megabytes / BUFFERS:.1f} MB, to write: {frames.flags.writeable}")
    seen = 0
    async for number, buffer in channel:
        picture = frames[buffer]
        assert (picture[0, 0] == number).all(), "somebody painted over it"
        assert picture[number, WIDTH // 2, 1] == number
        seen += 1
        if number < FRAMES - BUFFERS:
            await channel.send(buffer)
    sent = channel.statistics().bytes_received
    print(f"{seen} frames, {seen * megabytes / BUFFERS:,.0f} MB of pictures in {sent:,} bytes")


async def main() -> None:
    """Start the camera at the other end of a pair, and watch."""
    ours, theirs = aioipc.pair("unix", codec="arrays")
    address, fds = theirs.detach()
    child = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "camera", address, pass_fds=fds
    )
    for fd in fds:
        os.close(fd)  # the child has its own copies
    async with ours:
        await watch(ours)
    print(f"the camera ended with exit status {await child.wait()}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["camera", address]:
            aioipc.run(camera(address))
        case []:
            aioipc.run(main())
        case _:
            sys.exit(__doc__)
