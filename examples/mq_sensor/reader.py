"""A Python and a C program over a POSIX message queue: urgent readings come first.

Run it with ``python mq_sensor/reader.py``: it compiles sensor.c, makes the queue, and
reads as JSON what the sensor sends.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path

import aioipc
from aioipc import queues

SOURCE = Path(__file__).with_name("sensor.c")
READINGS = 5


async def run(*command: str) -> None:
    """Run a program to its end, which has to be a good one."""
    process = await asyncio.create_subprocess_exec(*command)
    if await process.wait():
        sys.exit(f"{command[0]} failed")


async def main() -> None:
    """Make the queue, let the sensor fill it, and read."""
    name = f"/aioipc-sensor-{os.getpid()}"
    with tempfile.TemporaryDirectory() as folder:
        sensor = f"{folder}/sensor"
        await run("cc", "-o", sensor, str(SOURCE), "-lrt")
        async with queues.open(f"mq:{name}", create=True, codec="json") as queue:
            try:
                await run(sensor, name, str(READINGS))
                for _ in range(READINGS):
                    item = await queue.get_item()
                    print(f"priority {item.priority}: {item.value}")
            finally:
                queue.unlink()


if __name__ == "__main__":
    aioipc.run(main())
