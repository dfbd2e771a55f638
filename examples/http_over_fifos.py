"""HTTP over two FIFOs, one for each direction: h11 does not mind what carries its bytes.

Run it with ``python http_over_fifos.py``. It starts the server in a process of its own.
"""

import asyncio
import sys
import tempfile

import h11

import aioipc


class Side:
    """One side of an HTTP connection: two byte streams and h11 in between."""

    def __init__(self, role: type, reads: aioipc.ByteStream, writes: aioipc.ByteStream) -> None:
        self.http = h11.Connection(role)
        self.reads = reads
        self.writes = writes

    async def send(self, *events: h11.Event) -> None:
        """Write events."""
        for event in events:
            await self.writes.send(self.http.send(event) or b"")

    async def next_event(self) -> h11.Event:
        """Read the next event."""
        while not isinstance(event := self.http.next_event(), h11.Event):
            self.http.receive_data(await self.reads.receive())
        return event

    async def message(self) -> tuple[h11.Event, bytes]:
        """Read one request or response with its body."""
        head, body = await self.next_event(), b""
        while isinstance(event := await self.next_event(), h11.Data):
            body += event.data
        return head, body


async def open_side(role: type, reads: str, writes: str) -> Side:
    """Open both FIFOs; each side waits for the other to open them, too."""
    async with aioipc.listen_stream(f"fifo:{reads}") as listener:
        writer = await aioipc.connect_stream(f"fifo:{writes}")
        return Side(role, await listener.accept(), writer)


async def server(requests: str, responses: str) -> None:
    """Answer until the client wants no more: the end of a FIFO's writer is not the FIFO's end."""
    side = await open_side(h11.SERVER, requests, responses)
    async with side.reads, side.writes:
        while side.http.our_state is not h11.MUST_CLOSE:
            request, body = await side.message()
            assert isinstance(request, h11.Request)
            answer = request.target + b": " + body.upper()
            headers = [("Content-Length", str(len(answer)))]
            await side.send(
                h11.Response(status_code=200, headers=headers),
                h11.Data(data=answer),
                h11.EndOfMessage(),
            )
            if side.http.our_state is h11.DONE:
                side.http.start_next_cycle()


async def client(requests: str, responses: str) -> None:
    """Ask three times over the same connection."""
    side = await open_side(h11.CLIENT, responses, requests)
    async with side.reads, side.writes:
        for word in (b"one", b"two", b"three" * 10_000):
            headers = [("Host", "fifo"), ("Content-Length", str(len(word)))]
            if word.startswith(b"three"):
                headers.append(("Connection", "close"))
            await side.send(
                h11.Request(method="POST", target="/" + str(len(word)), headers=headers),
                h11.Data(data=word),
                h11.EndOfMessage(),
            )
            response, body = await side.message()
            assert isinstance(response, h11.Response)
            print(response.status_code, f"{len(body):,} bytes,", body[:12].decode())
            if side.http.our_state is h11.DONE:
                side.http.start_next_cycle()


async def main() -> None:
    """Start the server, and be the client."""
    with tempfile.TemporaryDirectory() as folder:
        fifos = f"{folder}/requests", f"{folder}/responses"
        child = await asyncio.create_subprocess_exec(sys.executable, __file__, *fifos)
        await client(*fifos)
        print(f"exit status {await child.wait()}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case [requests, responses]:
            aioipc.run(server(requests, responses))
        case _:
            aioipc.run(main())
