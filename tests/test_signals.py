"""Signals as events: who sent them, how many, and what is as before afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import aioipc
from aioipc import signals
from tests.children import Peers
from tests.kernel.strangers import as_root
from tests.programs import AS_NOBODY, program
from tests.scale import scaled

RT = signal.SIGRTMIN + 3
BLOCKED = (
    "print(int(next(l.split()[1] for l in open('/proc/self/status') if l[:6] == 'SigBlk'), 16))"
)


def blocked() -> set[int]:
    return {int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())}


def late(_number: int, _frame: object) -> None:
    """A thread of a library may pass a signal on when the receiver is closed already."""


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Mask and handlers are after each test what they were."""
    watched = (signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, RT)
    for number in watched:  # uvloop leaves its handlers installed when it is closed
        signal.signal(number, late)
    mask = blocked()
    yield
    assert blocked() == mask
    assert {signal.getsignal(number) for number in watched} <= {late, signal.SIG_DFL}


def status() -> str:
    with open("/proc/self/status") as file:
        return file.read()


def caught() -> set[int]:
    """The signals that have a handler, also one that Python knows nothing of."""
    line = next(line for line in status().splitlines() if line.startswith("SigCgt"))
    bits = int(line.split()[1], 16)
    return {number for number in range(1, 65) if bits >> (number - 1) & 1}


@pytest.mark.asyncio
class TestReceiving:
    async def test_who_sent_it(self, peers: Peers) -> None:
        async with signals.receiver(signal.SIGHUP, RT) as receiver:
            peer = program(
                peers,
                """
                parent = os.getppid()
                os.kill(parent, signal.SIGHUP)
                aioipc.signals.send(parent, int(sys.argv[1]), value=-42)
                """,
                RT,
            )
            hup = await receiver.receive()
            queued = await anext(receiver)
        assert (hup.number, hup.pid, hup.uid, hup.code, hup.value) == (
            *(signal.SIGHUP, peer.pid, os.getuid(), 0, None),
        )
        assert (queued.number, queued.pid, queued.code, queued.value) == (RT, peer.pid, -1, -42)
        assert repr(hup).startswith("SignalInfo(number=<Signals.SIGHUP: 1>")
        assert peer.wait() == 0

    async def test_from_the_kernel(self) -> None:
        async with signals.receiver(signal.SIGALRM) as receiver:
            signal.setitimer(signal.ITIMER_REAL, 0.001)
            info = await receiver.receive()
        assert (info.number, info.code) == (signal.SIGALRM, 128)
        assert not info.is_overflow

    async def test_real_time_signals_are_all_counted_and_in_order(self, peers: Peers) -> None:
        # In a process without other threads: those of a library would overtake one another.
        count = 1_000
        peer = program(
            peers,
            """
            number, count = map(int, sys.argv[1:])
            async with aioipc.signals.receiver(number) as receiver:
                say("ready")
                values = [(await receiver.receive()).value for _ in range(count)]
                assert values == list(range(count)), values
                assert receiver.overflows == 0
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.05):
                        raise AssertionError(await receiver.receive())
            """,
            *(RT, count),
        )
        assert await peer.next_line() == "ready"
        for value in range(count):
            signals.send(peer.pid, RT, value=value)
        assert await peer.ended() == 0

    async def test_classic_signals_coalesce(self, peers: Peers) -> None:
        count = scaled(10_000, full=100_000)
        async with signals.receiver(signal.SIGUSR1, signal.SIGUSR2) as receiver:
            peer = program(
                peers,
                """
                for _ in range(int(sys.argv[1])):
                    os.kill(os.getppid(), signal.SIGUSR1)
                os.kill(os.getppid(), signal.SIGUSR2)
                """,
                count,
            )
            received = 0
            async for info in receiver:
                if info.number == signal.SIGUSR2:
                    break
                received += 1
            assert 1 <= received <= count
            late = 0
            while not await nothing_more(receiver):  # passed on by a thread of a library
                late += 1
            assert late <= 2, "no backlog"
        assert peer.wait() == 0

    async def test_others_get_their_turn_during_a_storm(self) -> None:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        async with signals.receiver(RT) as receiver:
            for _ in range(1_000):
                signals.send(os.getpid(), RT)
            task = asyncio.create_task(other())
            for _ in range(1_000):
                await receiver.receive()
            task.cancel()
        assert turns >= 10

    async def test_an_overflow_is_counted(self, peers: Peers) -> None:
        peer = program(
            peers,
            """
            import errno, resource
            pid, number = os.getpid(), signal.SIGRTMIN
            resource.setrlimit(resource.RLIMIT_SIGPENDING, (0, 0))
            async with aioipc.signals.receiver(number) as receiver:
                full = 0
                for _ in range(1000):
                    try:
                        aioipc.signals.send(pid, number, value=1)
                    except aioipc.ResourceExhausted as error:
                        assert error.errno == errno.EAGAIN, error
                        full += 1
                say(full)
                for _ in range(1000):
                    os.kill(pid, number)
                info = await receiver.receive()
                say(info.is_overflow, info.value, receiver.overflows)
            """,
        )
        assert peer.line() == "1000", "the sender is told"
        assert peer.line() == "True None 1", "one event stands for the others"
        assert peer.wait() == 0


async def nothing_more(receiver: signals.SignalReceiver) -> bool:
    waiting = asyncio.ensure_future(receiver.receive())
    for _ in range(3):
        await asyncio.sleep(0)
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
        return False
    return True


@pytest.mark.asyncio
class TestLifeCycle:
    async def test_mask_and_handlers_come_back(self) -> None:
        before, handled = blocked(), caught()
        async with signals.receiver(signal.SIGHUP, RT) as receiver:
            assert blocked() - before == {signal.SIGHUP, RT}
            assert {signal.SIGHUP, RT} <= caught(), "a handler stands behind each"
            assert receiver.numbers == {signal.SIGHUP, RT}
        assert blocked() == before
        assert caught() == handled
        await receiver.aclose()

    async def test_what_was_blocked_stays_blocked(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        try:
            async with signals.receiver(signal.SIGHUP, signal.SIGUSR1):
                pass
            assert signal.SIGHUP in blocked()
            assert signal.SIGUSR1 not in blocked()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})

    async def test_a_handler_installed_meanwhile_stays(self, peers: Peers) -> None:
        # In a process without other threads: one of a library might be given the signal.
        peer = program(
            peers,
            """
            seen = []
            async with aioipc.signals.receiver(signal.SIGUSR1) as receiver:
                signal.signal(signal.SIGUSR1, lambda number, _: seen.append(number))
                os.kill(os.getpid(), signal.SIGUSR1)
                assert (await receiver.receive()).number == signal.SIGUSR1
            assert not seen
            os.kill(os.getpid(), signal.SIGUSR1)
            assert seen == [signal.SIGUSR1]
            """,
        )
        assert await peer.ended() == 0

    async def test_what_nobody_received_goes_to_the_handler_before(self) -> None:
        arrived = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, arrived.set)
        try:
            async with signals.receiver(signal.SIGTERM) as receiver:
                os.kill(os.getpid(), signal.SIGTERM)
                await receiver.receive()
                await asyncio.sleep(0.01)
                assert not arrived.is_set(), "the loop's handler rests"
                os.kill(os.getpid(), signal.SIGTERM)
            await arrived.wait()
        finally:
            loop.remove_signal_handler(signal.SIGTERM)

    async def test_what_another_thread_was_given_goes_there_too(self, peers: Peers) -> None:
        """However late it comes to it."""
        peer = program(
            peers,
            """
            import threading
            arrived = asyncio.Event()
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, arrived.set)
            end = threading.Event()
            thread = threading.Thread(target=end.wait)
            thread.start()
            for _ in range(int(sys.argv[1])):
                async with aioipc.signals.receiver(signal.SIGUSR1, allow_threads=True):
                    os.kill(os.getpid(), signal.SIGUSR1)
                await arrived.wait()
                arrived.clear()
            end.set()
            thread.join()
            """,
            scaled(10_000, full=100_000),
        )
        assert await peer.ended() == 0

    async def test_two_receivers_of_one_signal(self) -> None:
        async with signals.receiver(signal.SIGHUP, signal.SIGUSR1):
            with pytest.raises(aioipc.BusyError, match="another receiver of this process has SIGH"):
                await signals.receiver(signal.SIGTERM, signal.SIGHUP)
            assert signal.SIGTERM not in blocked()
        async with signals.receiver(signal.SIGHUP):
            pass

    async def test_two_receivers_that_cross(self) -> None:
        first = await signals.receiver(signal.SIGHUP)
        second = await signals.receiver(signal.SIGUSR1)
        await first.aclose()
        os.kill(os.getpid(), signal.SIGUSR1)
        assert (await second.receive()).number == signal.SIGUSR1
        await second.aclose()

    async def test_a_receiver_waits_alone(self) -> None:
        async with signals.receiver(signal.SIGHUP) as receiver:
            waiting = asyncio.create_task(receiver.receive())
            await asyncio.sleep(0)
            with pytest.raises(aioipc.BusyError, match="another task is receiving SIGHUP"):
                await receiver.receive()
            await receiver.aclose()
            with pytest.raises(aioipc.ClosedError, match="this side closed the receiver of SIGHUP"):
                await waiting

    async def test_another_thread_takes_nothing_from_it(self) -> None:
        async with signals.receiver(signal.SIGHUP) as receiver:
            os.kill(os.getpid(), signal.SIGHUP)

            def use() -> None:
                for wrong in (receiver.receive, receiver.aclose):
                    with pytest.raises(RuntimeError, match="in the thread that opened it"):
                        asyncio.run(wrong())

            thread = threading.Thread(target=use)
            thread.start()
            thread.join()
            assert (await receiver.receive()).number == signal.SIGHUP

    async def test_a_cancelled_receive_loses_nothing(self) -> None:
        async with signals.receiver(RT) as receiver:
            for value in range(100):
                waiting = asyncio.create_task(receiver.receive())
                await asyncio.sleep(0)
                signals.send(os.getpid(), RT, value=value)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                assert (await receiver.receive()).value == value

    async def test_dropped_open(self) -> None:
        before = blocked()
        receiver = await signals.receiver(signal.SIGHUP)
        with pytest.warns(ResourceWarning, match="unclosed <SignalReceiver SIGHUP open>"):
            del receiver
        assert blocked() == before

    async def test_in_a_forked_child(self) -> None:
        before = caught()
        async with signals.receiver(signal.SIGHUP) as receiver:
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    assert signal.SIGHUP not in blocked()
                    assert caught() == before
                    with pytest.raises(aioipc.ForkError):
                        receiver._check()
                    status = 0
                finally:
                    os._exit(status)
            assert await aioipc.process.wait(pid) == 0
            os.kill(os.getpid(), signal.SIGHUP)
            assert (await receiver.receive()).number == signal.SIGHUP

    @pytest.mark.parametrize(
        ("numbers", "why"),
        [
            ([], "at least one"),
            ([signal.SIGKILL], "SIGKILL cannot be received: it cannot be caught"),
            ([signal.SIGHUP, signal.SIGSEGV], "SIGSEGV cannot be received: a fault"),
            ([0], "there is no signal 0"),
            ([32], "there is no signal 32"),
            ([65], "there is no signal 65"),
        ],
    )
    async def test_what_cannot_be_received(self, numbers: list[int], why: str) -> None:
        with pytest.raises(ValueError, match=why):
            await signals.receiver(*numbers)


@pytest.mark.asyncio
class TestThreads:
    async def test_a_thread_with_an_open_mask_is_an_error(self) -> None:
        with waiting_thread("gatherer"):
            with pytest.raises(
                RuntimeError, match="to thread gatherer, where they are not blocked"
            ):
                await signals.receiver(signal.SIGHUP)
            assert signal.SIGHUP not in blocked()

    async def test_threads_started_later_inherit_the_mask(self) -> None:
        async with signals.receiver(signal.SIGHUP):
            assert signal.SIGHUP in await asyncio.to_thread(blocked)
            async with signals.receiver(RT, allow_threads=True):
                pass
        await asyncio.get_running_loop().shutdown_default_executor()

    async def test_a_thread_passes_on_what_it_is_given(self) -> None:
        with waiting_thread("gatherer") as thread:
            assert thread.ident is not None
            async with signals.receiver(signal.SIGHUP, RT, allow_threads=True) as receiver:
                signal.pthread_kill(thread.ident, signal.SIGHUP)
                info = await receiver.receive()
                assert (info.number, info.pid, info.code) == (signal.SIGHUP, os.getpid(), -6)
                for value in range(1_000):
                    signals.send(os.getpid(), RT, value=value)
                    signal.pthread_kill(thread.ident, RT)
                counts: dict[Any, int] = {}
                for _ in range(2_000):
                    info = await receiver.receive()
                    counts[info.code] = counts.get(info.code, 0) + 1
                assert counts == {-1: 1_000, -6: 1_000}
                assert receiver.overflows == 0

    async def test_a_mask_that_somebody_opens_is_closed_again(self) -> None:
        async with signals.receiver(RT) as receiver:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {RT})
            signals.send(os.getpid(), RT, value=5)
            signals.send(os.getpid(), RT, value=6)
            assert [(await receiver.receive()).value for _ in range(2)] == [5, 6]
            assert RT in blocked()


@contextlib.contextmanager
def waiting_thread(name: str) -> Iterator[threading.Thread]:
    done = threading.Event()
    thread = threading.Thread(target=done.wait, name=name)
    thread.start()
    yield thread
    done.set()
    thread.join()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
class TestBesideTheLoop:
    def test_in_a_thread_of_its_own(self, loop: str, peers: Peers) -> None:
        peer = peers.script(
            """
            import asyncio, os, signal, sys, threading, uvloop
            import aioipc

            async def main():
                async with aioipc.signals.receiver(signal.SIGUSR1, allow_threads=True) as receiver:
                    print("ready", flush=True)
                    print((await receiver.receive()).pid, flush=True)

            factory = uvloop.new_event_loop if sys.argv[1] == "uvloop" else asyncio.new_event_loop

            def run():
                with asyncio.Runner(loop_factory=factory) as runner:
                    runner.run(main())

            thread = threading.Thread(target=run)
            thread.start()
            thread.join()
            """,
            loop,
        )
        assert peer.line() == "ready"
        peer.signal(signal.SIGUSR1)
        assert peer.line() == str(os.getpid())
        assert peer.wait() == 0

    def test_ctrl_c_is_the_loops_again_afterwards(self, loop: str, peers: Peers) -> None:
        peer = peers.script(
            """
            import asyncio, os, signal, sys, uvloop
            import aioipc

            async def main():
                async with aioipc.signals.receiver(signal.SIGINT) as receiver:
                    print("ready", flush=True)
                    print((await receiver.receive()).number.name, flush=True)
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    print("cancelled", flush=True)
                    raise

            factory = uvloop.new_event_loop if sys.argv[1] == "uvloop" else asyncio.new_event_loop
            try:
                with asyncio.Runner(loop_factory=factory) as runner:
                    runner.run(main())
            except KeyboardInterrupt:
                print("interrupted", flush=True)
            """,
            loop,
        )
        assert peer.line() == "ready"
        peer.signal(signal.SIGINT)
        assert peer.line() == "SIGINT"
        peer.signal(signal.SIGINT)
        assert peer.line() == "cancelled"
        assert peer.line() == "interrupted"
        assert peer.wait() == 0


@pytest.mark.asyncio
class TestChildren:
    """They start with a clean mask."""

    async def test_of_aioipc(self) -> None:
        async with signals.receiver(signal.SIGHUP, RT):
            command = f"exec:{sys.executable} -c {BLOCKED!r}"
            async with aioipc.connect(command, framing="lines", codec="text") as child:
                assert await child.receive() == "0"

    async def test_of_subprocess(self) -> None:
        async with signals.receiver(signal.SIGHUP, RT):
            command = [sys.executable, "-c", BLOCKED]
            child = subprocess.run(  # noqa: ASYNC221 - what is looked at here
                command, capture_output=True, check=True, preexec_fn=signals.clean_mask
            )
            assert child.stdout == b"0\n"

    async def test_of_asyncio(self) -> None:
        async with signals.receiver(signal.SIGHUP, RT):
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", BLOCKED),
                stdout=subprocess.PIPE,
                preexec_fn=signals.clean_mask,
            )
            assert (await child.communicate())[0] == b"0\n"

    async def test_of_multiprocessing(self) -> None:
        async with signals.receiver(signal.SIGHUP, RT):
            context = multiprocessing.get_context("fork")
            ours, theirs = context.Pipe()
            child = context.Process(target=lambda: theirs.send(blocked()))
            child.start()
            assert ours.recv() == set()
            child.join()
            child.close()
            ours.close()
            theirs.close()


class TestSending:
    def test_to_a_pidfd(self) -> None:
        child = subprocess.Popen(["sleep", "1000"])
        with open(os.pidfd_open(child.pid)) as pidfd:
            signals.send(pidfd, 0)
            signals.send(pidfd, signal.SIGKILL)
            assert child.wait() == -signal.SIGKILL
            with pytest.raises(ProcessLookupError, match="there is no such process"):
                signals.send(pidfd, signal.SIGTERM)
        with pytest.raises(ProcessLookupError, match=f"SIGTERM to {child.pid}: there is no such"):
            signals.send(child.pid, signal.SIGTERM)

    @pytest.mark.parametrize("value", [-(2**31), -1, 0, 2**31 - 1])
    @pytest.mark.asyncio
    async def test_a_value(self, value: int) -> None:
        async with signals.receiver(signal.SIGUSR1) as receiver:
            signals.send(os.getpid(), signal.SIGUSR1, value=value)
            assert (await receiver.receive()).value == value

    @pytest.mark.parametrize(
        ("pid", "number", "value", "why"),
        [
            (0, signal.SIGHUP, None, "a pid is positive, not 0"),
            (-1, signal.SIGHUP, None, "a pid is positive, not -1"),
            (1, 65, None, "there is no signal 65"),
            (1, signal.SIGHUP, 2**31, "value must fit 32 bits"),
        ],
    )
    def test_impossible(self, pid: int, number: int, value: int | None, why: str) -> None:
        with pytest.raises(ValueError, match=why):
            signals.send(pid, number, value=value)

    @pytest.mark.parametrize("pid", [2**31 - 1, 2**31, 2**70])
    def test_to_nobody(self, pid: int) -> None:
        with pytest.raises(ProcessLookupError, match=f"SIGTERM to {pid}: there is no such process"):
            signals.send(pid, signal.SIGTERM)

    @as_root
    def test_to_somebody_else(self, peers: Peers) -> None:
        peer = program(
            peers,
            "aioipc.signals\n"
            + AS_NOBODY
            + """
            try:
                aioipc.signals.send(os.getppid(), signal.SIGTERM)
            except aioipc.AccessDenied as error:
                say(error)
            """.replace("            ", ""),
        )
        assert "Operation not permitted" in peer.line()
