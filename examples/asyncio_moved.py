"""A key-value store over asyncio's streams, as it was before aioipc; only the address is new.

python asyncio_moved.py                        over shared memory
python asyncio_moved.py unix:                  over a Unix socket
python asyncio_moved.py tcp://127.0.0.1:0      over TCP
"""

import asyncio
import sys

import aioipc


class Store:
    """Answers ``set KEY VALUE`` and ``get KEY``, one line each."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Talk to one client. There is nothing of aioipc in here."""
        try:
            while line := await reader.readline():
                writer.write(f"{self.answer(line.decode().split())}\n".encode())
                await writer.drain()
        except ConnectionResetError as error:
            print(f"a client was lost: {error}", file=sys.stderr)
        finally:
            writer.close()

    def answer(self, words: list[str]) -> str:
        """Do what a line asks for."""
        match words:
            case ["set", key, value]:
                self.values[key] = value
                return "done"
            case ["get", key]:
                return self.values.get(key, "nothing")
        return "what?"


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, question: str) -> str:
    """One question, one answer."""
    writer.write(f"{question}\n".encode())
    await writer.drain()
    return (await reader.readline()).decode().rstrip()


async def client(address: str) -> None:
    """What the other process does."""
    # It was: reader, writer = await asyncio.open_connection("127.0.0.1", port)
    reader, writer = await aioipc.open_connection(address)
    for question in ("set colour green", "get colour", "get size", "jump"):
        print(f"{question}: {await ask(reader, writer, question)}")
    writer.close()
    await writer.wait_closed()


async def server(address: str) -> None:
    """Serve, and start the client in a process of its own."""
    # It was: asyncio.start_server(store.serve, "127.0.0.1", 0)
    async with aioipc.start_server(Store().serve, address) as serving:
        child = await asyncio.create_subprocess_exec(
            sys.executable, __file__, "client", serving.address
        )
        status = await child.wait()
    scheme = address.partition(":")[0]
    print(f"over {scheme}: exit status {status}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["client", where]:
            aioipc.run(client(where))
        case [where]:
            aioipc.run(server(where))
        case _:
            aioipc.run(server("shm:"))
