"""mailbox: messages from process to process, by name, with the sender's name and credentials."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import errno
import itertools
import logging
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, Generic, Self, TypeVar

from anyio.abc import AsyncResource

from aioipc._opening import Opening, check_limits
from aioipc.abc import Codec, PeerCredentials
from aioipc.address import Address, check_name
from aioipc.channel import Channel
from aioipc.connect import connect
from aioipc.errors import (
    AccessDenied,
    ClosedError,
    ConnectError,
    DecodeError,
    EncodeError,
    FrameTooLarge,
    IPCError,
    PeerCrashed,
    ProtocolError,
)
from aioipc.kernel.runtime_dir import open_runtime_dir, runtime_path
from aioipc.limits import Limits, check_count
from aioipc.listener import Listener, listen
from aioipc.loop.line import Line
from aioipc.queues import _post as post
from aioipc.queues._coding import Coding
from aioipc.queues._refusing import refusing

__all__ = ["Mailbox", "Message", "mailbox"]

T = TypeVar("T")
log = logging.getLogger("aioipc.queues")

_FOLDER = "mailbox"


class Message(Generic[T]):
    """What arrived in a mailbox.

    Attributes:
        sender: The name of the mailbox that it came from, which was verified.
        value: The object.
        credentials: Of the process that sent it, as the kernel saw it.
        wants_reply: Whether the sender waits for `reply`.
    """

    __slots__ = ("_reply", "credentials", "sender", "value", "wants_reply")

    def __init__(
        self,
        sender: str,
        value: T,
        credentials: PeerCredentials,
        reply: Callable[[Any], Coroutine[Any, Any, None]] | None,
    ) -> None:
        self.sender = sender
        self.value = value
        self.credentials = credentials
        self.wants_reply = reply is not None
        self._reply = reply

    async def reply(self, obj: Any) -> None:
        """Answer the sender's `Mailbox.ask`, once.

        Raises:
            RuntimeError: It did not ask, or has its answer.
            EncodeError: The codec cannot encode it; the sender still waits.
            FrameTooLarge: It is longer than the limits allow; the sender still waits.
            PeerCrashed: It is gone.
            ClosedError: This side closed the mailbox.

        Cancellation:
            As `Channel.send`.
        """
        reply, self._reply = self._reply, None
        if reply is None:
            raise RuntimeError(f"{self.sender} waits for no reply to this message")
        try:
            await reply(obj)
        except (EncodeError, FrameTooLarge):
            self._reply = reply
            raise

    def __repr__(self) -> str:
        return f"<Message from {self.sender} pid={self.credentials.pid}>"


class _Question:
    """A letter that waits for its reply."""

    __slots__ = ("body", "ready")

    def __init__(self) -> None:
        self.body: bytes | None = None
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake(self) -> None:
        if not self.ready.done():
            self.ready.set_result(None)


class _Link:
    """The way to one other mailbox."""

    def __init__(self, channel: Channel[Any], when_ended: Callable[[], object]) -> None:
        self.channel = channel
        self.ending: BaseException | None = None
        self.is_checked = True
        self._questions: dict[int, _Question] = {}
        self._numbers = itertools.count(1)
        self._when_ended = when_ended
        # Its owner is the mailbox, which closes this.
        self._reading = asyncio.get_running_loop().create_task(self._read())

    async def send(self, body: bytes) -> None:
        self.is_checked = False
        await self._say(post.Letter(0, body))

    async def deliver(self, body: bytes) -> None:
        """Send, and wait until it lies in the mailbox."""
        await self._ask(lambda number: post.Registered(number, body))

    async def ask(self, body: bytes) -> bytes:
        return await self._ask(lambda number: post.Letter(number, body))

    async def check(self) -> None:
        """Wait until all that was sent lies in the mailbox."""
        await self._ask(post.Check)

    async def _ask(self, ask: Callable[[int], post.Message]) -> bytes:
        number = next(self._numbers)
        question = self._questions[number] = _Question()
        try:
            if self.ending is None:
                await self._say(ask(number))
            if question.body is None and self.ending is None:
                await question.ready
        finally:
            del self._questions[number]
        if question.body is None:
            assert self.ending is not None, "woken for a reason"
            raise self.ending.with_traceback(None)
        return question.body

    async def _say(self, message: post.Message) -> None:
        try:
            await self.channel.send(message)
        except IPCError as error:
            if not self.channel.is_ending(error):
                raise
            await asyncio.wait([self._reading])  # who reads hears how the far side ended
            assert self.ending is not None, "nothing is read any more"
            raise self.ending.with_traceback(None) from None

    async def aclose(self) -> None:
        self._close()
        await asyncio.wait([self._reading])
        await self.channel.aclose()

    def abort(self) -> None:
        self._close()
        self.channel.abort()

    def _close(self) -> None:
        self._end(ClosedError(f"this side closed the way to {self.channel.address}"))
        self._reading.cancel()

    async def _read(self) -> None:
        try:
            async for message in self.channel:
                question = (
                    self._questions.get(message.id) if isinstance(message, post.Reply) else None
                )
                if question is not None:  # else nobody waits any more
                    question.body = message.body
                    question.wake()
            self._end(ConnectError(f"{self.channel.address}: the mailbox was closed"))
        except IPCError as error:
            self._end(error)
        finally:
            self.channel.abort()

    def _end(self, error: BaseException) -> None:
        if self.ending is None:
            self.ending = error
            self._when_ended()
            for question in self._questions.values():
                question.wake()


class Mailbox(AsyncResource, Generic[T]):
    """A name of this process, at which others leave messages.

    Made by `aioipc.queues.mailbox`. It is an async context manager, and an async iterator that
    receives. Any number of tasks may send, ask and receive.
    """

    def __init__(
        self, name: str, listener: Listener[Any], coding: Coding[T], size: int, limits: Limits
    ) -> None:
        self.name = name
        """The name of this mailbox."""
        self._listener = listener
        self._coding = coding
        self._codec = post.PostCodec(coding.name)
        self._size = size
        self._limits = limits
        self._ending: BaseException | None = None
        self._closed = asyncio.Event()
        self._messages: collections.deque[Message[T]] = collections.deque()
        self._receivers = Line()
        self._deliverers = Line()
        self._links: dict[str, _Link] = {}
        # One for each name, for as long as somebody connects to it: others need not wait for that.
        self._linking: weakref.WeakValueDictionary[str, asyncio.Lock] = (
            weakref.WeakValueDictionary()
        )
        # Its owner is this object: `aclose` ends it and waits for it.
        self._serving = asyncio.get_running_loop().create_task(listener.serve(self._serve_one))

    async def send(self, to: str, obj: T, *, confirmed: bool = False) -> None:
        """Send an object to the mailbox of that name, waiting for room.

        Args:
            to: The name.
            obj: What the codec can write.
            confirmed: Whether to wait until it lies in the mailbox. It costs a round trip, and more
                while the mailbox is full; without it the message is on its way.

        Raises:
            ConnectError: There is no such mailbox, or it was closed.
            PeerCrashed: Its owner died; whether it has the message, nobody knows.
            AccessDenied: It does not believe that this is mailbox ``name``.
            CodecMismatch: It reads another codec.

        Cancellation:
            As `Channel.send`: the message is sent whole, or not at all. With ``confirmed`` it may
            have arrived.
        """
        body = self._coding.encode(obj)
        link = await self._link_to(to)
        await (link.deliver(body) if confirmed else link.send(body))

    async def ask(self, to: str, obj: T) -> T:
        """Send an object, and wait for what the owner of the mailbox replies.

        Raises:
            ConnectError: There is no such mailbox, or it was closed.
            PeerCrashed: Its owner died.
            AccessDenied: It does not believe that this is mailbox ``name``.
            CodecMismatch: It reads another codec.
            DecodeError: The reply does not fit the codec.

        Cancellation:
            Abandons the wait; the message may have arrived, and its reply is dropped.
        """
        body = self._coding.encode(obj)
        link = await self._link_to(to)
        return self._coding.decode(await link.ask(body))

    async def receive(self) -> Message[T]:
        """Wait for the next message.

        Raises:
            ClosedError: This side closed the mailbox.

        Cancellation:
            Safe: the message is there for the next.
        """
        message = await self._receivers.until(
            lambda: self._messages.popleft() if self._messages else None
        )
        self._deliverers.wake()
        return message

    async def aclose(self) -> None:
        """Give the name up; messages that nobody received are gone. Idempotent.

        What was sent gets at most ``limits.linger_s`` seconds to reach the mailboxes of others:
        they ask for the name that it comes from, so it is given up only then.

        Cancellation:
            Closes at once; what was sent and not received may be lost.
        """
        if self._ending is not None:
            await self._closed.wait()
            return
        self._ending = ClosedError(f"this side closed the mailbox {self.name}")
        self._receivers.end(self._ending)
        self._deliverers.end(self._ending)
        try:
            await self._linger()
        finally:
            await self._close()

    async def _close(self) -> None:
        self._serving.cancel()
        links = list(self._links.values())
        try:
            await self._listener.aclose()
            await asyncio.wait([self._serving])
            for link in links:
                await link.aclose()
        finally:
            for link in links:
                link.abort()  # which is closed, unless this was cancelled
            self._closed.set()

    async def _linger(self) -> None:
        checks = [link.check() for link in self._links.values() if not link.is_checked]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.linger_s):
                await asyncio.gather(*checks, return_exceptions=True)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message[T]:
        return await self.receive()

    # Out

    async def _link_to(self, to: str) -> _Link:
        check_name(to, part="mailbox name")
        self._check_open()
        link = self._links.get(to)
        if link is not None:
            return link
        async with self._linking.setdefault(to, asyncio.Lock()):
            if to not in self._links:
                channel = await self._connect(to)
                try:
                    await channel.send(post.Introduction(self.name))
                    self._check_open()  # or nobody would close it
                except BaseException:
                    channel.abort()
                    raise
                self._links[to] = _Link(channel, lambda: self._links.pop(to, None))
        return self._links[to]

    def _check_open(self) -> None:
        if self._ending is not None:
            raise self._ending.with_traceback(None)

    async def _connect(self, name: str) -> Channel[Any]:
        try:
            return await connect(_address(name), codec=self._codec, limits=self._limits)
        except ConnectError as error:
            if isinstance(error.__context__, TimeoutError):  # its owner takes nobody in
                raise
            raise ConnectError(f"there is no mailbox {name!r}") from None

    # In

    async def _serve_one(self, channel: Channel[Any]) -> None:
        # A close of this side is no failure: senders see a clean end.
        with refusing(channel, "a sender"), contextlib.suppress(ClosedError):
            await self._take_in(channel)

    async def _take_in(self, channel: Channel[Any]) -> None:
        credentials = channel.peer
        assert credentials is not None, "a Unix socket knows its peer"
        introduction = await channel.receive()
        if not isinstance(introduction, post.Introduction):
            raise ProtocolError("a mailbox introduces itself first")
        sender = check_name(introduction.name)
        await self._verify(sender, credentials)
        async for message in channel:
            match message:
                case post.Letter():
                    await self._deliver(sender, credentials, message, channel)
                case post.Registered():
                    await self._deliver(sender, credentials, message, channel)
                    await channel.send(post.Reply(message.id, b""))
                case post.Check():
                    await channel.send(post.Reply(message.id, b""))
                case _:
                    raise ProtocolError(f"a sender does not say {type(message).__name__}")

    async def _verify(self, sender: str, credentials: PeerCredentials) -> None:
        """Ask the kernel who owns the name that a sender claims.

        Raises:
            AccessDenied: Somebody else, or nobody.
        """
        try:
            async with await self._connect(sender) as channel:
                owner = channel.peer
        except IPCError:
            owner = None
        if owner is None or (owner.pid, owner.uid) != (credentials.pid, credentials.uid):
            raise AccessDenied(
                errno.EACCES, f"process {credentials.pid} does not own the mailbox {sender}"
            )

    async def _deliver(
        self,
        sender: str,
        credentials: PeerCredentials,
        letter: post.Letter | post.Registered,
        channel: Channel[Any],
    ) -> None:
        async def reply(obj: Any) -> None:
            try:
                await channel.send(post.Reply(letter.id, self._coding.encode(obj)))
            except ClosedError:  # as it is once nothing more comes from the sender
                self._check_open()
                raise PeerCrashed(f"the mailbox {sender} is gone, and waits for no reply") from None

        try:
            value = self._coding.decode(letter.body)
        except DecodeError as error:
            log.warning("mailbox %s: a message from %s: %s", self.name, sender, error)
            return
        is_question = isinstance(letter, post.Letter) and letter.id != 0
        message = Message(sender, value, credentials, reply if is_question else None)
        await self._deliverers.until(lambda: self._try_deliver(message))

    def _try_deliver(self, message: Message[T]) -> bool | None:
        if len(self._messages) >= self._size:
            return None
        self._messages.append(message)
        self._receivers.wake()
        return True


def _address(name: str) -> Address:
    return Address.parse(f"unix:{runtime_path()}/{_FOLDER}/{name}")


def mailbox(
    name: str,
    *,
    size: int = 128,
    codec: str | Codec[Any] = "msgpack",
    limits: Limits | None = None,
) -> Opening[Mailbox[Any]]:
    """Open a mailbox of this process: ``async with queues.mailbox("worker-7") as box``.

    Args:
        name: 1 to 64 letters, digits, dots, underscores or hyphens.
        size: How many messages wait in it; then their senders wait.
        codec: As for `aioipc.connect`; all mailboxes that write to each other need the same.
        limits: As for `aioipc.listen`, and for what is sent to others.

    Raises:
        AddressError: It is no such name.
        ResourceExhausted: The name is in use.
        ValueError: The size is less than 1.

    Cancellation:
        Undoes: nothing stays open.
    """
    check_name(name, part="mailbox name")
    size = check_count("size", size, 1)
    known = check_limits(limits)
    coding = Coding[Any](codec, known)

    async def open_() -> Mailbox[Any]:
        open_runtime_dir(_FOLDER).close()
        listener = await listen(_address(name), codec=post.PostCodec(coding.name), limits=known)
        return Mailbox(name, listener, coding, size, known)

    return Opening(open_)
