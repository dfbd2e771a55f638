"""Remote calls as one writes them by hand: msgpack, a number per call, a Future per number.

A request is ``(number, name, arguments)``, a reply ``(number, result)``. The called side has its
functions in a dict and runs each in a task, since any of them may wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from msgspec.msgpack import Decoder, Encoder

from benchmarks.contender import Buffer
from benchmarks.peers._framed_protocol import FramedProtocol

Functions = dict[str, Callable[..., Awaitable[Any]]]

encode = Encoder().encode
decode_request = Decoder(tuple[int, str, list[Any]]).decode
decode_reply = Decoder(tuple[int, Any]).decode


class Calls:
    """The calling side.

    Args:
        send: Sends one request.
    """

    def __init__(self, send: Callable[[bytes], object]) -> None:
        self._send = send
        self._new_future = asyncio.get_running_loop().create_future
        self._last = 0
        self._waiting: dict[int, asyncio.Future[Any]] = {}

    def call(self, name: str, *args: Any) -> asyncio.Future[Any]:
        """Call a function; await what this returns."""
        self._last = number = self._last + 1
        self._waiting[number] = result = self._new_future()
        self._send(encode((number, name, args)))
        return result

    def take(self, reply: Buffer) -> None:
        """Hand a result to who waits for it."""
        number, result = decode_reply(reply)
        future = self._waiting.pop(number)
        if not future.done():
            future.set_result(result)


class Answers:
    """The called side.

    Args:
        functions: What can be called.
    """

    def __init__(self, functions: Functions) -> None:
        self._functions = functions
        self._create_task = asyncio.get_running_loop().create_task
        self._running: set[asyncio.Task[None]] = set()

    def start(self, request: Buffer, reply: Callable[[bytes], object]) -> None:
        """Run what was called, then reply."""
        task = self._create_task(self._run(request, reply))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _run(self, request: Buffer, reply: Callable[[bytes], object]) -> None:
        number, name, args = decode_request(request)
        reply(encode((number, await self._functions[name](*args))))

    async def idle(self) -> None:
        """Wait for what runs."""
        while self._running:
            await asyncio.wait(self._running)


class _Gathering(FramedProtocol):
    """What one turn of the loop sends leaves in one write."""

    def __init__(self) -> None:
        super().__init__()
        self._call_soon = asyncio.get_running_loop().call_soon
        self._is_scheduled = False

    def send_soon(self, message: bytes) -> None:
        """Send at the end of the turn."""
        self.gather(message)
        if not self._is_scheduled:
            self._is_scheduled = True
            self._call_soon(self._send_gathered)

    def _send_gathered(self) -> None:
        self._is_scheduled = False
        self.flush()


class ProtocolCalls(_Gathering):
    """`Calls` over the tuned Protocol."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = Calls(self.send_soon)
        self.received = self.calls.take  # type: ignore[method-assign, assignment]


class ProtocolAnswers(_Gathering):
    """`Answers` over the tuned Protocol."""

    def __init__(self, functions: Functions) -> None:
        super().__init__()
        self._answers = Answers(functions)

    def received(self, message: Buffer) -> None:
        """Take one request."""
        self._answers.start(message, self.send_soon)
