"""A service for which systemd listens: workers come and go, and no connection is lost over it.

systemd-socket-activate -l /tmp/greeter python activated_service.py

Workers accept from the same socket, which systemd keeps open. On SIGHUP (systemctl reload) each is
replaced: the new one accepts before the old one stops, and the old one stays until its clients
have left. The units:

[Socket]                            [Service]
ListenStream=/run/greeter           Type=notify-reload
FileDescriptorName=greeter          ExecStart=/usr/bin/python activated_service.py
"""

import os
import signal
import sys
from asyncio import TaskGroup

import aioipc
from aioipc import process

WORKERS = 2
LONGEST_VISIT_S = 3600.0


async def serve(parent: aioipc.Channel[str], address: str) -> None:
    """Greet whoever connects, until the parent closes the channel and the last client leaves."""

    async def greet(client: aioipc.Channel[str]) -> None:
        async with client:
            async for name in client:
                await client.send(f"Hello, {name}, from {os.getpid()}")

    async def accept() -> None:
        async for client in listener:
            clients.create_task(greet(client))

    async with TaskGroup() as clients, aioipc.listen(address) as listener:
        accepting = clients.create_task(accept())
        await parent.send("ready")
        async for _ in parent:
            pass
        accepting.cancel()


async def main() -> None:
    """Keep the workers running until SIGTERM."""
    sockets = process.activated()
    if "greeter" not in sockets:
        sys.exit("systemd has to start this: there is no socket called greeter")
    (address,) = sockets["greeter"]  # fd:3
    child = process.Child(
        target=serve,
        args=(address,),
        announces=True,
        setup=process.Setup(pass_fds=(int(address.removeprefix("fd:")),), grace_s=LONGEST_VISIT_S),
    )
    async with (
        aioipc.signals.receiver(signal.SIGTERM) as ending,
        process.supervise([child] * WORKERS) as supervisor,
    ):
        await anext(ending)
        supervisor.terminate()


if __name__ == "__main__":
    aioipc.run(main())
