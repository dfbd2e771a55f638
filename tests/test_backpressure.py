"""The kernel's buffer or the ring is the queue (case 3): a slow receiver slows its sender.

No memory grows. 100 MB are offered to a process that is stopped, or that does not receive.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

import aioipc
from tests.children import PATIENCE_S, Peer, Peers, switches
from tests.conftest import LOOPS

OFFERED = 100_000_000
SLACK_KIB = 3_000
"""What an interpreter may take for itself meanwhile."""
HIGH_WATER_KIB = 2 * 64
"""What a channel gathers in each direction."""

KINDS = ["unix", "unix-pair", "unix+seqpacket", "pipe", "tcp", "fifo", "shm"]
SIZES = [4_000, 1_000_000]


def connected(
    kind: str, loop: str, side: str, size: int, *, peers: Peers, directory: Path
) -> tuple[Peer, Peer]:
    """Start a producer and a consumer, connected to each other."""

    def start(side: str, address: str, fds: tuple[int, ...] = ()) -> Peer:
        words = (loop, side, address, OFFERED // size, size)
        peer = peers.module("tests.peers.load", *words, pass_fds=fds)
        for fd in fds:
            os.close(fd)
        return peer

    if kind in ("pipe", "unix-pair"):
        left, right = aioipc.pair(kind.removesuffix("-pair"), codec="raw")
        producer, consumer = (
            start(role, *end.detach()) for role, end in (("produce", left), (side, right))
        )
    else:
        addresses = {
            "unix": "unix:",
            "unix+seqpacket": "unix+seqpacket:",
            "tcp": "tcp://127.0.0.1:0",
            "shm": "shm:",
            "fifo": f"fifo:{directory}/fifo",
        }
        consumer = start(side, addresses[kind])
        producer = start("produce", consumer.line())
    assert producer.line() == "connected"
    assert consumer.line() == "accepted"
    return producer, consumer


def wait_until_stopped(peer: Peer) -> None:
    """Wait for the kernel to have stopped a process; it tells nobody but the parent."""
    assert os.waitpid(peer.pid, os.WUNTRACED)[0] == peer.pid


def resident_kib(peer: Peer) -> int:
    return int(Path(f"/proc/{peer.pid}/statm").read_text().split()[1]) * 4


def progress(peer: Peer) -> tuple[int, int]:
    """How many bytes a process has given to write(2) and the like so far, and how often it ran.

    What goes into a ring is counted by nobody, but who waits for room there does not run.
    """
    lines = Path(f"/proc/{peer.pid}/io").read_text().splitlines()
    written = int(next(line.split()[1] for line in lines if line.startswith("wchar")))
    return written, switches(peer.pid)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    ("kind", "size"),
    [
        *((kind, size) for kind in KINDS for size in SIZES if kind != "fifo"),
        ("fifo", SIZES[0]),  # which takes no message longer than PIPE_BUF
    ],
)
def test_a_stopped_receiver_stops_its_sender(
    kind: str, size: int, loop: str, peers: Peers, tmp_path: Path
) -> None:
    producer, consumer = connected(kind, loop, "consume", size, peers=peers, directory=tmp_path)
    consumer.signal(signal.SIGSTOP)
    wait_until_stopped(consumer)
    before = resident_kib(producer)
    producer.tell("go")
    word, number, offered = producer.line().split()
    assert word == "blocked"
    assert int(number) < OFFERED // size
    assert int(offered) < OFFERED / 2, "more than any kernel buffers"
    assert stands_still(producer)
    growth = resident_kib(producer) - before
    assert growth <= HIGH_WATER_KIB + 2 * size / 1024 + SLACK_KIB

    consumer.signal(signal.SIGCONT)
    word, count, grown = producer.line().split()
    assert (word, int(count)) == ("produced", OFFERED // size)
    assert int(grown) <= HIGH_WATER_KIB + 3 * size / 1024 + SLACK_KIB
    word, count, grown = consumer.line().split()
    assert (word, int(count)) == ("consumed", OFFERED // size)
    assert int(grown) <= HIGH_WATER_KIB + 3 * size / 1024 + SLACK_KIB
    assert (producer.wait(), consumer.wait()) == (0, 0)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_nobody_receives_stays_in_the_kernel(
    kind: str, loop: str, peers: Peers, tmp_path: Path
) -> None:
    """The receiving process runs, its loop turns; it only does not receive."""
    size = SIZES[0]
    producer, consumer = connected(
        kind, loop, "consume-later", size, peers=peers, directory=tmp_path
    )
    producer.tell("go")
    assert producer.line().startswith("blocked")
    assert stands_still(producer)
    consumer.tell("receive")
    word, grown = consumer.line().split()
    assert word == "idle"
    assert int(grown) <= HIGH_WATER_KIB + SLACK_KIB
    assert producer.line().split()[:2] == ["produced", str(OFFERED // size)]
    assert consumer.line().split()[:2] == ["consumed", str(OFFERED // size)]
    assert (producer.wait(), consumer.wait()) == (0, 0)


def stands_still(peer: Peer) -> bool:
    """Whether a process comes to a point from which it does nothing more."""
    deadline = time.monotonic() + PATIENCE_S
    before = None
    while (now := progress(peer)) != before:
        assert time.monotonic() < deadline, "it goes on sending"
        before = now
        time.sleep(0.1)  # so long an interval in which nothing happens is what is looked for
    return True
