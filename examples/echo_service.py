"""An echo service and its client, two processes over whatever address you give.

python echo_service.py                           both, over a Unix socket with a made-up name
python echo_service.py tcp://127.0.0.1:0         both, over TCP
python echo_service.py unix:/tmp/echo.socket     both, over a socket in the file system
python echo_service.py serve unix:echo           only the service, until Ctrl-C or SIGTERM
python echo_service.py call unix:echo            only the client
"""

import asyncio
import os
import signal
import sys

import aioipc

MESSAGES = ["hello", 42, {"a": [1, 2.5, None]}, b"\x00\xff", "long " * 100_000]


async def echo(channel: aioipc.Channel[object]) -> None:
    """Send back what comes. The end of the client, clean or not, ends this quietly."""
    async for message in channel:
        await channel.send(message)


async def serve(address: str) -> None:
    """Serve until somebody says stop; then nothing is left behind, not even the socket file."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with aioipc.listen(address) as listener, asyncio.TaskGroup() as tasks:
        print(listener.address, flush=True)
        serving = tasks.create_task(listener.serve(echo))
        await stop.wait()
        serving.cancel()


async def call(address: str) -> None:
    """Send everything, and check that everything comes back."""
    async with aioipc.connect(address) as channel:
        print(f"process {os.getpid()} talks to {channel.peer or 'a stranger'} over {address}")
        for message in MESSAGES:
            await channel.send(message)
            answer = await channel.receive()
            assert answer == message, f"sent {message!r}, got {answer!r}"
        done = channel.statistics()
    print(f"{done.messages_received} of {len(MESSAGES)} messages came back as they were sent")


async def both(address: str) -> None:
    """Start the service as a process of its own, call it, and stop it."""
    service = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "serve", address, stdout=asyncio.subprocess.PIPE
    )
    assert service.stdout is not None
    where = (await service.stdout.readline()).decode().strip()  # now it listens
    if where:
        await call(where)
        service.terminate()
    status = await service.wait()
    print(f"the service ended with exit status {status}")
    sys.exit(status)


def main() -> None:
    """Do what the command line says; what goes wrong is one line."""
    match sys.argv[1:]:
        case ["serve", address]:
            job = serve(address)
        case ["call", address]:
            job = call(address)
        case [] | [_]:
            job = both(*sys.argv[1:] or ["unix:"])
        case _:
            sys.exit(__doc__)
    try:
        aioipc.run(job)
    except aioipc.IPCError as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
