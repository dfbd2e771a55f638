"""A parent accepts connections and hands each over to one of two workers.

That is how a pre-fork server shares them out, and here the sockets travel over the channels of
the workers. Run it with ``python handed_over.py``.
"""

import asyncio
import itertools
import os
import socket

import aioipc

VISITORS = 6


async def attend(channel: aioipc.Channel[str]) -> None:
    """In a worker: answer the clients whose sockets come with the messages."""
    async for visitor in channel:
        (fd,) = channel.take_fds()
        reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=fd))
        name = (await reader.readline()).decode().strip()
        writer.write(
            f"{name}, you are {visitor}; process {os.getpid()} is at your service\n".encode()
        )
        writer.close()
        await writer.wait_closed()


async def visit(port: int, name: str) -> str:
    """A client, which knows nothing of all that."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{name}\n".encode())
    answer = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return answer.decode().strip()


async def hand_over(server: socket.socket, workers: list[aioipc.process.Worker]) -> None:
    """Accept the visitors, and give them to the workers in turn."""
    turns = itertools.cycle(workers)
    for number in range(VISITORS):
        connection, _ = await asyncio.get_running_loop().sock_accept(server)
        with connection:  # the worker has its own copy once the message is accepted
            await next(turns).channel.send(f"visitor {number}", fds=[connection])


async def main() -> None:
    """Start two workers and let the visitors in."""
    spawn = aioipc.process.spawn
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        port = server.getsockname()[1]
        async with spawn(attend) as one, spawn(attend) as other, asyncio.TaskGroup() as group:
            group.create_task(hand_over(server, [one, other]))
            visits = [group.create_task(visit(port, f"guest {n}")) for n in range(VISITORS)]
            answers = await asyncio.gather(*visits)
            by = [sum(str(worker.pid) in answer for answer in answers) for worker in (one, other)]
    print(answers[0].partition(";")[0])
    print(f"{len(answers)} visitors, shared out as {by[0]} and {by[1]}")


if __name__ == "__main__":
    aioipc.run(main())
