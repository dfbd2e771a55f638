"""Mailboxes: names, verified senders, replies, back-pressure, deaths."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest

import aioipc
from aioipc import queues
from aioipc.queues import _post as post
from aioipc.queues import mailboxes
from tests.children import PATIENCE_S, Peers
from tests.links import steps, until
from tests.programs import program

pytestmark = pytest.mark.asyncio


async def test_send_and_receive() -> None:
    async with queues.mailbox("a") as a, queues.mailbox("b") as b:
        for number in range(10):
            await a.send("b", {"n": number})
        for number in range(10):
            message = await b.receive()
            assert (message.sender, message.value) == ("a", {"n": number})
            assert message.credentials.pid == os.getpid()
            assert message.credentials.uid == os.geteuid()
            assert not message.wants_reply
            with pytest.raises(RuntimeError, match="a waits for no reply"):
                await message.reply(1)
        await b.send("b", "to myself")
        assert (await b.receive()).sender == "b"


async def test_closing_loses_nothing_on_its_way() -> None:
    """The owner asks the kernel who has the sender's name, which must not be gone by then."""
    async with queues.mailbox("owner", size=5) as owner:
        async with queues.mailbox("brief") as brief:
            for number in range(5):
                await brief.send("owner", number)
        assert [(await owner.receive()).value for _ in range(5)] == list(range(5))


async def test_closing_waits_for_a_full_mailbox_no_longer_than_it_may() -> None:
    async with queues.mailbox("owner", size=1) as owner:
        async with queues.mailbox("brief", limits=aioipc.Limits(linger_s=0.05)) as brief:
            await brief.send("owner", 1)
            await brief.send("owner", 2)
        assert (await owner.receive()).value == 1


async def test_a_second_close_waits_for_the_first() -> None:
    async with asyncio.timeout(PATIENCE_S), queues.mailbox("owner", size=1) as owner:
        brief = await queues.mailbox("brief")
        for number in range(5):
            await brief.send("owner", number)
        closings = [asyncio.ensure_future(brief.aclose()) for _ in range(2)]
        await steps(3)
        assert not any(closing.done() for closing in closings)
        assert [(await owner.receive()).value for _ in range(5)] == list(range(5))
        await asyncio.gather(*closings)


async def test_who_connects_while_the_mailbox_closes_sends_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connect, may_connect = aioipc.connect, asyncio.Event()

    async def connect_later(*arguments: Any, **options: Any) -> aioipc.Channel[Any]:
        await may_connect.wait()
        return await connect(*arguments, **options)

    async with asyncio.timeout(PATIENCE_S), queues.mailbox("owner"):
        brief = await queues.mailbox("brief")
        monkeypatch.setattr(mailboxes, "connect", connect_later)
        sending = [asyncio.ensure_future(brief.send("owner", 1)) for _ in range(2)]
        await steps(3)
        await brief.aclose()
        may_connect.set()
        for task in sending:
            with pytest.raises(aioipc.ClosedError):
                await task


async def test_limits_hold_both_ways() -> None:
    limits = aioipc.Limits(max_message_bytes=1_000)
    async with (
        asyncio.timeout(PATIENCE_S),
        queues.mailbox("a", limits=limits) as a,
        queues.mailbox("b") as b,
    ):
        with pytest.raises(aioipc.FrameTooLarge):
            await a.send("b", bytes(2_000))
        asking = asyncio.ensure_future(a.ask("b", "?"))
        message = await b.receive()
        with pytest.raises(aioipc.FrameTooLarge):
            await message.reply(bytes(2_000))
        await message.reply("short")
        assert await asking == "short"


async def test_a_cancelled_close_is_at_once() -> None:
    async with queues.mailbox("owner", size=1) as owner:
        brief = await queues.mailbox("brief")
        await brief.send("owner", 1)
        await brief.send("owner", 2)
        closing = asyncio.ensure_future(brief.aclose())
        await steps(3)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert (await owner.receive()).value == 1


async def test_a_confirmed_message_lies_in_the_mailbox(caplog: pytest.LogCaptureFixture) -> None:
    async with queues.mailbox("a") as a, queues.mailbox("b", size=1) as b:
        await a.send("b", 1, confirmed=True)
        assert len(b._messages) == 1
        sending = asyncio.ensure_future(a.send("b", 2, confirmed=True))
        await steps(50)
        assert not sending.done()
        assert (await b.receive()).value == 1
        await sending
        sending = asyncio.ensure_future(a.send("b", 3, confirmed=True))
        await steps(50)
        await b.aclose()
        with pytest.raises(aioipc.ConnectError, match="the mailbox was closed"):
            await sending
        assert not caplog.records


@pytest.mark.leaves_names
async def test_between_processes(peers: Peers) -> None:
    async with queues.mailbox("parent") as box:
        child = program(
            peers,
            """
            from aioipc import queues
            async with queues.mailbox("child") as box:
                await box.send("parent", "ready")
                async for message in box:
                    await message.reply([message.sender, message.value * 2])
            """,
        )
        message = await box.receive()
        assert (message.sender, message.value) == ("child", "ready")
        assert message.credentials.pid == child.pid
        assert await box.ask("child", 21) == ["parent", 42]
        answers = await asyncio.gather(*(box.ask("child", number) for number in range(50)))
        assert answers == [["parent", 2 * number] for number in range(50)]


async def test_nobody_has_that_name() -> None:
    async with queues.mailbox("a") as a:
        with pytest.raises(aioipc.ConnectError, match="there is no mailbox 'nobody'"):
            await a.send("nobody", 1)
        with pytest.raises(aioipc.ConnectError):
            await a.ask("nobody", 1)
        with pytest.raises(aioipc.AddressError, match="wrong mailbox name"):
            await a.send("../b", 1)
        with pytest.raises(aioipc.ResourceExhausted, match="address in use"):
            await queues.mailbox("a")
    with pytest.raises(aioipc.AddressError, match="wrong mailbox name"):
        await queues.mailbox("no/where")
    with pytest.raises(ValueError, match="size must be at least 1"):
        await queues.mailbox("a", size=0)


async def test_an_owner_that_takes_nobody_in_is_there() -> None:
    async with queues.mailbox("a", limits=aioipc.Limits(connect_s=0.05)) as a:
        path = str(mailboxes._address("full").path)
        with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as first:
            listening.bind(path)
            try:
                listening.listen(0)
                first.connect(path)
                with pytest.raises(aioipc.ConnectError, match="a server is there"):
                    await a.send("full", 1)
            finally:
                os.unlink(path)


@pytest.mark.leaves_names
async def test_the_owner_dies(peers: Peers) -> None:
    async with queues.mailbox("asker") as box:
        owner = program(
            peers,
            """
            from aioipc import queues
            async with queues.mailbox("owner") as box:
                say("open")
                say((await box.receive()).value)
                await hear()
            """,
        )
        assert await owner.next_line() == "open"
        asking = asyncio.ensure_future(box.ask("owner", "are you there"))
        assert await owner.next_line() == "are you there"
        owner.kill()
        with pytest.raises(aioipc.PeerCrashed):
            await asking
        with pytest.raises(aioipc.ConnectError):
            await box.send("owner", "hello?")
        async with queues.mailbox("owner") as heir:
            await box.send("owner", "another one")
            assert (await heir.receive()).value == "another one"


async def test_the_owner_closes() -> None:
    async with queues.mailbox("asker") as box:
        async with queues.mailbox("owner") as owner:
            asking = asyncio.ensure_future(box.ask("owner", 1))
            assert (await owner.receive()).value == 1
        with pytest.raises(aioipc.ConnectError, match="was closed"):
            await asking
        with pytest.raises(aioipc.ConnectError, match="there is no mailbox"):
            await box.send("owner", 2)
        with pytest.raises(aioipc.ClosedError):
            await owner.receive()
        with pytest.raises(aioipc.ClosedError):
            await owner.send("asker", 1)


async def test_a_full_mailbox_makes_senders_wait() -> None:
    async with queues.mailbox("a") as a, queues.mailbox("b", size=2) as b:
        sending = asyncio.ensure_future(send_all(a, 2_000))
        async with asyncio.timeout(PATIENCE_S):
            while len(b._messages) < 2:
                await steps(1)
        await steps(500)
        assert not sending.done()
        assert len(b._messages) == 2
        for number in range(2_000):
            assert (await b.receive()).value == [number, bytes(1_000)]
        await sending


async def send_all(box: queues.Mailbox[object], count: int) -> None:
    for number in range(count):
        await box.send("b", [number, bytes(1_000)])


async def test_a_claimed_name_is_verified(
    runtime_dir: Path, peers: Peers, caplog: pytest.LogCaptureFixture
) -> None:
    """Another process of the same user cannot pose as a mailbox that it does not own."""
    async with queues.mailbox("bank") as bank, queues.mailbox("boss") as boss:
        for claimed in ("boss", "nobody"):
            liar = program(
                peers,
                f"""
                from aioipc.queues import _post as post
                codec = post.PostCodec("msgpack")
                bank = "unix:{runtime_dir}/mailbox/bank"
                async with aioipc.connect(bank, codec=codec) as channel:
                    await channel.send(post.Introduction("{claimed}"))
                    await channel.send(post.Letter(0, b"\\\\x01"))
                    try:
                        await channel.receive()
                    except aioipc.AccessDenied as error:
                        say(error)
                """,
            )
            said = await liar.next_line()
            assert f"process {liar.pid} does not own the mailbox {claimed}" in said
            assert await liar.ended() == 0
        await boss.send("bank", "true")
        assert (await bank.receive()).value == "true"


async def test_a_name_is_a_str() -> None:
    with pytest.raises(TypeError, match=r"^a mailbox name is a str, not int$"):
        _ = queues.mailbox(5)  # type: ignore[arg-type]
    async with queues.mailbox("a") as box:
        with pytest.raises(TypeError, match=r"^a mailbox name is a str, not int$"):
            await box.send(5, 1)  # type: ignore[arg-type]


async def test_a_mailbox_of_another_codec(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        asyncio.timeout(PATIENCE_S),
        queues.mailbox("m") as ours,
        queues.mailbox("j", codec="json") as theirs,
    ):
        words = "the peer uses codec 'mailbox of (json|msgpack)', this side 'mailbox of"
        for box, to in ((theirs, "m"), (ours, "j")):
            with pytest.raises(aioipc.CodecMismatch, match=words):
                await box.ask(to, {"a": 1})
            with pytest.raises(aioipc.CodecMismatch, match=words):
                await box.send(to, 5, confirmed=True)
        assert len(caplog.messages) == 4
        for message in caplog.messages:
            assert re.search(words, message)


async def test_hostile_senders_hurt_themselves_only(
    runtime_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with queues.mailbox("a") as a, queues.mailbox("b") as b:
        path = f"unix:{runtime_dir}/mailbox/b"
        for wrong in (post.Letter(0, b""), post.Introduction("../x"), [1, 2]):
            async with aioipc.connect(path, codec=post.PostCodec("msgpack")) as channel:
                await channel.send(wrong)
                with pytest.raises(aioipc.IPCError):
                    await channel.receive()
        assert len(caplog.records) == 3
        assert not any(record.exc_info for record in caplog.records)
        async with aioipc.connect(path, codec=post.PostCodec("msgpack")) as channel:
            await channel.send(post.Introduction("a"))
            await channel.send(post.Letter(0, b"\xc1"))
            await channel.send(post.Letter(0, b"\x01"))
            assert (await b.receive()).value == 1
        await a.send("b", "still there")
        assert (await b.receive()).value == "still there"


async def test_a_cancelled_receive_loses_nothing() -> None:
    async with queues.mailbox("a") as a, queues.mailbox("b") as b:
        receiving = asyncio.ensure_future(b.receive())
        await steps(3)
        receiving.cancel()
        await a.send("b", 1)
        assert (await b.receive()).value == 1


async def test_a_reply_that_cannot_be_encoded_may_be_another_one() -> None:
    async with queues.mailbox("asks") as asks, queues.mailbox("answers") as answers:
        asking = asyncio.ensure_future(asks.ask("answers", 1))
        message = await answers.receive()
        with pytest.raises(aioipc.EncodeError):
            await message.reply(object())
        await message.reply("sorry")
        assert await asking == "sorry"


@pytest.mark.leaves_names
@pytest.mark.parametrize("how", ["dies", "closes"])
async def test_who_waits_for_room_hears_how_the_owner_ended(peers: Peers, how: str) -> None:
    async with queues.mailbox("sender") as box:
        owner = program(
            peers,
            """
            from aioipc import queues
            async with queues.mailbox("owner", size=1) as box:
                say("open")
                await hear()
                await box.aclose()
            """,
        )
        assert await owner.next_line() == "open"
        waiting = [asyncio.ensure_future(box.send("owner", bytes(1_000_000))) for _ in range(5)]
        waiting.append(asyncio.ensure_future(box.ask("owner", 1)))
        await steps(500)
        assert not waiting[-2].done()
        if how == "dies":
            owner.kill()
        else:
            owner.tell("close")
        expected = aioipc.PeerCrashed if how == "dies" else aioipc.ConnectError
        for each in waiting[-2:]:
            with pytest.raises(expected):
                await each
        await asyncio.gather(*waiting, return_exceptions=True)


@pytest.mark.leaves_names
async def test_a_reply_to_who_is_gone(peers: Peers) -> None:
    async with queues.mailbox("answers") as box:
        sender = program(
            peers,
            """
            from aioipc import queues
            async with queues.mailbox("asks") as box:
                await box.ask("answers", 1)
            """,
        )
        message = await box.receive()
        sender.kill()
        await until(lambda: not box._listener._open.total())
        with pytest.raises(aioipc.PeerCrashed, match="asks is gone"):
            await message.reply(2)
        async with queues.mailbox("asks") as asks:
            asking = asyncio.ensure_future(asks.ask("answers", 1))
            message = await box.receive()
            await box.aclose()
            with pytest.raises(aioipc.ClosedError, match="closed the mailbox answers"):
                await message.reply(2)
            await asyncio.wait([asking])
            assert isinstance(asking.exception(), aioipc.ConnectError)


async def test_who_cannot_be_reached_holds_up_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one whose process is stopped, and whose backlog is full."""
    async with queues.mailbox("sender") as box, queues.mailbox("owner") as owner:
        connect, reached = box._connect, asyncio.Event()

        async def connect_slowly(name: str) -> Any:
            if name == "deaf":
                await reached.wait()
            return await connect(name)

        monkeypatch.setattr(box, "_connect", connect_slowly)
        sending = [asyncio.ensure_future(box.send("deaf", number)) for number in range(3)]
        await steps(3)
        async with asyncio.timeout(PATIENCE_S):
            await box.send("owner", 1)
            assert (await owner.receive()).value == 1
            async with queues.mailbox("deaf") as deaf:
                reached.set()
                assert [(await deaf.receive()).value for _ in range(3)] == [0, 1, 2]
            await asyncio.gather(*sending)
        assert not box._linking
