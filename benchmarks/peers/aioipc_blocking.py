"""`aioipc.blocking`, for programs without a loop, beside the others that block."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import aioipc
from benchmarks.contender import Family, Plan, Seat, Wiring
from benchmarks.peers._blocking import BlockingContender, Ends


class BlockingChannels(BlockingContender):
    """send and receive of both ends of a pair."""

    family: Family = "aioipc"
    pace = 0.25
    quick = True

    def __init__(self, scheme: str) -> None:
        self.scheme = scheme
        self.name = f"aioipc {scheme} (blocking)"

    @contextmanager
    def wired(self, folder: Path, plan: Plan) -> Iterator[Wiring]:
        with ExitStack() as opened:
            ends = []
            for channel in aioipc.pair(self.scheme, codec="raw"):
                address, (fd,) = channel.detach()
                end = opened.enter_context(socket.socket(fileno=fd))
                ends.append((address.replace(str(fd), "{}"), end))
            yield ends[0], ends[1]

    @contextmanager
    def client(self, seat: Seat) -> Iterator[Ends]:
        address, end = seat.wiring
        opening = aioipc.connect(address.format(end.detach()), codec="raw")
        with aioipc.blocking(opening) as channel:
            yield channel.send, channel.receive

    @contextmanager
    def server(self, seat: Seat) -> Iterator[Ends]:
        seat.announce("listening")
        with self.client(seat) as ends:
            yield ends


CONTENDERS = [BlockingChannels("unix"), BlockingChannels("shm")]
