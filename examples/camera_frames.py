"""Frames from a camera process, over shared memory: each one arrives, and how many per second.

python camera_frames.py            over shared memory
python camera_frames.py unix       the same program over a Unix socket, to compare
"""

import asyncio
import contextlib
import os
import sys
import time

import aioipc

WIDTH, HEIGHT = 640, 480
FRAME_BYTES = 8 + WIDTH * HEIGHT * 3  # a number, then red, green and blue of each pixel
FRAMES = 1000
LIMITS = aioipc.Limits(ring_bytes=4 * 1024 * 1024)  # some frames on their way


async def camera(address: str) -> None:
    """The child: send frame after frame, as fast as they are taken."""
    async with aioipc.connect(address, codec="raw") as channel:
        snow = os.urandom(FRAME_BYTES - 8)
        for number in range(FRAMES):
            async with channel.reserve(FRAME_BYTES) as slot:  # waits while there is no room
                slot.view[:8] = number.to_bytes(8, "little")
                slot.view[8:] = snow  # into shared memory: the only copy that is made


async def watch(channel: aioipc.Channel[bytes]) -> None:
    """The parent: look at every frame."""
    seen = 0
    started = 0.0
    with contextlib.suppress(aioipc.EndOfStream):  # the camera has finished
        while True:
            async with channel.borrow() as frame:  # looked at where it lies
                started = started or time.perf_counter()
                number = int.from_bytes(frame[:8], "little")
                assert (number, len(frame)) == (seen, FRAME_BYTES), "a frame is missing or torn"
                seen += 1
    elapsed = time.perf_counter() - started
    print(f"{seen} of {FRAMES} frames of {WIDTH} x {HEIGHT} pixels, each whole and in order")
    per_s = (seen - 1) / elapsed
    print(f"{per_s:,.0f} frames/s, {per_s * FRAME_BYTES / 1e6:,.0f} MB/s")


async def main(kind: str) -> None:
    """Start the camera at the other end of a pair, and watch."""
    ours, theirs = aioipc.pair(kind, codec="raw", limits=LIMITS)
    address, fds = theirs.detach()
    child = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "camera", address, pass_fds=fds
    )
    for fd in fds:
        os.close(fd)  # the child has its own copies
    async with ours:
        await watch(ours)
        print(f"over {kind}: {ours.statistics().read_calls:,} system calls to read them")
    print(f"the camera ended with exit status {await child.wait()}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["camera", address]:
            aioipc.run(camera(address))
        case [] | ["shm" | "unix"]:
            aioipc.run(main(*sys.argv[1:] or ["shm"]))
        case _:
            sys.exit(__doc__)
