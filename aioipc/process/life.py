"""One run of a supervised child: whether it is ready, and that it has ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from aioipc.abc import Codec
from aioipc.errors import DecodeError, IPCError
from aioipc.process.restarts import Schedule
from aioipc.process.setup import Setup
from aioipc.process.worker import Worker, spawn

__all__ = ["Child", "Life"]

log = logging.getLogger("aioipc.process")


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """What a supervisor is to keep running.

    The worker is asked to end by the end of its channel, and has ``setup.grace_s`` seconds for
    it before SIGTERM: time to finish what it does.

    Attributes:
        target: A function or a command, as for `aioipc.process.spawn`.
        args: For the function, pickled.
        restart: "always"; "on_failure", after another end than with status 0; or "never".
        announces: Whether it says by its first message that it is ready, whatever that holds,
            even what the codec cannot decode; one whose channel ends before is ended. If not, it
            is ready as soon as it has been started.
        on_message: Called with each object that it sends. What it raises goes to the exception
            handler of the loop.
        codec: Of its channel.
        schedule: How restarts are spaced, and when the supervisor gives up.
        setup: As for `aioipc.process.spawn`.
    """

    target: str | Callable[..., object] | list[str]
    args: tuple[Any, ...] = ()
    restart: Literal["always", "on_failure", "never"] = "always"
    announces: bool = False
    on_message: Callable[[Any], object] | None = None
    codec: str | Codec[Any] = "msgpack"
    schedule: Schedule = field(default_factory=Schedule)
    setup: Setup = field(default_factory=Setup)

    def __post_init__(self) -> None:
        """Refuse an unknown word.

        Raises:
            ValueError: ``restart`` is none of the three.
        """
        if self.restart not in ("always", "on_failure", "never"):
            raise ValueError(
                f"restart must be one of always, on_failure, never, not {self.restart!r}"
            )

    def comes_back(self, status: int) -> bool:
        """Whether it is to be started again after it has ended with a status."""
        return self.restart == "always" or (self.restart == "on_failure" and status != 0)


class Life:
    """A worker from its start to its end.

    Attributes:
        worker: The process.
        began: When that was, by the clock of the loop.
        is_ready: Whether it has said so, or need not.
    """

    def __init__(self, child: Child, worker: Worker) -> None:
        loop = asyncio.get_running_loop()
        self.worker = worker
        self.began = loop.time()
        self.is_ready = not child.announces
        self._on_message = child.on_message
        self._news = asyncio.Event()
        # Its owner is this object: `aclose` waits for it.
        self._reader = loop.create_task(self._read())
        self._reader.add_done_callback(lambda _: self._news.set())
        worker.when_ended(self._news.set)

    @classmethod
    async def begin(cls, child: Child) -> Life:
        """Start the worker.

        Raises:
            IPCError: That failed.
        """
        worker = await spawn(child.target, *child.args, codec=child.codec, setup=child.setup)
        return cls(child, worker)

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self.worker.status is not None

    async def wait_ready(self) -> bool:
        """Wait until it is ready; False if it ends before, or its channel does."""
        while not self.is_ready and not self.has_ended and not self._reader.done():
            await self._news.wait()
            self._news.clear()
        return self.is_ready and not self.has_ended

    async def _read(self) -> None:
        while True:
            try:
                obj = await self.worker.channel.receive()
            except DecodeError as error:
                log.warning("%s: %s", self.worker.name, error)
                self._announced()
            except IPCError:  # how it ends is seen by its status
                return
            else:
                self._announced()
                self._hear(obj)

    def _announced(self) -> None:
        self.is_ready = True
        self._news.set()

    def _hear(self, obj: Any) -> None:
        if self._on_message is None:
            return
        try:
            self._on_message(obj)
        except Exception as error:  # noqa: BLE001 - the next messages are heard all the same
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"on_message of {self.worker.name} failed", "exception": error}
            )

    async def aclose(self) -> None:
        """Let it finish, within its grace. Idempotent.

        Cancellation:
            It is killed at once.
        """
        try:
            await self.worker.aclose()
        finally:
            self._reader.cancel()
            await asyncio.wait([self._reader])
