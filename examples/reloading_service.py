"""A service that reads its settings again on SIGHUP, and drops no connection over it.

python reloading_service.py            the service as a worker, and a client that stays connected
python reloading_service.py FILE       only the service, at unix:greeter; see SETTINGS for FILE
"""

import json
import os
import signal
import sys
import tempfile
from asyncio import TaskGroup
from pathlib import Path

import aioipc

ADDRESS = f"unix:greeter-{os.getpid()}"
SETTINGS = {"greeting": "Hello"}


def read(path: str) -> dict[str, str]:
    """The settings in a file."""
    return dict(json.loads(Path(path).read_text()))


def write(path: str, settings: dict[str, str]) -> None:
    """Put settings into a file."""
    Path(path).write_text(json.dumps(settings))


async def serve(parent: aioipc.Channel[str] | None, address: str, path: str) -> None:
    """Greet by the file's greeting, until SIGTERM; SIGHUP reads the file again."""
    settings = read(path)

    async def greet(client: aioipc.Channel[str]) -> None:
        async for name in client:
            await client.send(f"{settings['greeting']}, {name}!")

    async def say(what: str) -> None:
        print(what, flush=True)
        if parent is not None:
            await parent.send(what)

    async with (
        aioipc.signals.receiver(signal.SIGHUP, signal.SIGTERM) as signals,
        aioipc.listen(address) as listener,
        TaskGroup() as tasks,
    ):
        serving = tasks.create_task(listener.serve(greet))
        await say(f"listening on {listener.address}")
        async for info in signals:
            if info.number == signal.SIGTERM:
                break
            settings.update(read(path))
            await say(f"read {settings} again, as process {info.pid} wished")
        serving.cancel()


async def demonstrate() -> None:
    """Change the settings under a client's feet."""
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/settings.json"
        write(path, SETTINGS)
        async with aioipc.process.spawn(serve, ADDRESS, path) as service:
            await service.channel.receive()  # it listens
            async with aioipc.connect(ADDRESS) as client:
                await client.send("Ada")
                print(await client.receive())

                write(path, {"greeting": "Good evening"})
                service.send_signal(signal.SIGHUP)
                await service.channel.receive()  # it has read them

                await client.send("Ada")
                print(await client.receive(), "over the same connection")
            service.send_signal(signal.SIGTERM)
            print("the service ended with status", await service.wait())


if __name__ == "__main__":
    aioipc.run(serve(None, "unix:greeter", sys.argv[1]) if sys.argv[1:] else demonstrate())
