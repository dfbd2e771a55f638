"""aiohttp's server and client, unchanged, over shared memory: only how they meet is new.

python web_service.py                        over shared memory
python web_service.py unix:                  over a Unix socket
python web_service.py tcp://127.0.0.1:0      over TCP, for comparison
"""

import asyncio
import sys
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.client_proto import ResponseHandler

import aioipc


class Connector(aiohttp.BaseConnector):
    """Takes every request to one address, as aiohttp's UnixConnector does to one path."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self._address = address

    async def _create_connection(self, *request: Any) -> ResponseHandler:
        protocol: ResponseHandler
        _, protocol = await aioipc.create_connection(self._factory, self._address)
        return protocol


async def double(request: web.Request) -> web.Response:
    """A handler like any other."""
    body = await request.json()
    return web.json_response({"answer": 2 * body["number"]})


async def upload(request: web.Request) -> web.Response:
    """Count what comes in pieces."""
    size = 0
    async for piece in request.content.iter_chunked(65536):
        size += len(piece)
    return web.Response(text=f"{size:,} bytes")


async def chat(request: web.Request) -> web.WebSocketResponse:
    """A WebSocket that says everything back."""
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        await socket.send_str(message.data.upper())
    return socket


async def client(address: str) -> None:
    """What the other process does."""
    async with aiohttp.ClientSession("http://service", connector=Connector(address)) as session:
        answers = await asyncio.gather(*(ask(session, number) for number in range(1, 11)))
        print(*answers)
        async with session.post("/upload", data=bytes(10_000_000)) as response:
            print(await response.text())
        async with session.ws_connect("/chat") as socket:
            await socket.send_str("hello")
            print(await socket.receive_str())


async def ask(session: aiohttp.ClientSession, number: int) -> int:
    """One question, one answer."""
    async with session.post("/double", json={"number": number}) as response:
        answer = await response.json()
        return int(answer["answer"])


async def server(address: str) -> None:
    """Serve, and start the client in a process of its own."""
    app = web.Application(client_max_size=2**25)
    app.add_routes([web.post("/double", double), web.post("/upload", upload)])
    app.add_routes([web.get("/chat", chat)])
    runner = web.AppRunner(app)
    await runner.setup()
    assert runner.server is not None
    # It was: web.TCPSite(runner, "127.0.0.1", 8080)
    async with aioipc.create_server(runner.server, address) as serving:
        child = await asyncio.create_subprocess_exec(
            sys.executable, __file__, "client", serving.address
        )
        status = await child.wait()
        await runner.cleanup()
    print(f"over {address.partition(':')[0]}: exit status {status}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["client", where]:
            aioipc.run(client(where))
        case [where]:
            aioipc.run(server(where))
        case _:
            aioipc.run(server("shm:"))
