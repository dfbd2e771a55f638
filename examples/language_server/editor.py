"""An editor's half of the Language Server Protocol: a child over ``exec:``, framed by headers.

Run it with ``python editor.py``. The server beside it is an ordinary one: JSON-RPC 2.0 over its
standard input and output.
"""

import asyncio
import itertools
import shlex
import sys
from pathlib import Path
from typing import Any

import aioipc

SERVER = Path(__file__).with_name("server.py")
TEXT = "Ships at a distance\n" + "have every man's wish on board, and some come in with the tide.\n"


class LanguageServer:
    """Requests with their answers, and what the server says by itself."""

    def __init__(self, channel: aioipc.Channel[Any]) -> None:
        self.channel = channel
        self.told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}

    async def listen(self) -> None:
        """Sort what comes until the server ends."""
        async for message in self.channel:
            if "id" in message:
                self._answers.pop(message["id"]).set_result(message["result"])
            else:
                self.told.put_nowait(message)

    async def notify(self, method: str, **params: Any) -> None:
        """Tell the server something."""
        await self.channel.send({"jsonrpc": "2.0", "method": method, "params": params})

    async def request(self, method: str, **params: Any) -> Any:
        """Ask the server something."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self.channel.send(
            {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        )
        return await answer


async def main() -> None:
    """Open a document, and ask about it."""
    command = f"exec:{shlex.quote(sys.executable)} {shlex.quote(str(SERVER))}"
    async with aioipc.connect(command, framing="headers", codec="json") as channel:
        server = LanguageServer(channel)
        listening = asyncio.create_task(server.listen())
        print(await server.request("initialize", processId=None, rootUri=None, capabilities={}))
        await server.notify("textDocument/didOpen", uri="file:///ships", text=TEXT)
        print((await server.told.get())["params"]["diagnostics"])
        asked = (server.request("textDocument/hover", uri="file:///ships", line=n) for n in (0, 1))
        print(await asyncio.gather(*asked))
        await server.request("shutdown")
        await server.notify("exit")
        await listening
    print("the server has ended")


if __name__ == "__main__":
    aioipc.run(main())
