"""aioipc.rpc: the interface is a Protocol, the client a proxy."""

from __future__ import annotations

from aioipc import rpc
from benchmarks.calls import Adder, Sums, call_all, watch_all
from benchmarks.contender import Flow, Loop, Seat
from benchmarks.peers._at_address import AtAddress


class AioipcRpc(AtAddress):
    """A served object, called over one connection."""

    def __init__(self, scheme: str, loop: Loop) -> None:
        super().__init__(f"{scheme} rpc", scheme, loop)
        self.quick = True

    async def answer(self, seat: Seat) -> None:
        """Serve until all calls were made; leaving waits for their answers."""
        adder = Adder(seat.plan)
        async with rpc.serve(seat.wiring, adder, interface=Sums):
            seat.announce("listening")
            await adder.done.wait()

    async def call(self, seat: Seat) -> Flow:
        """The proxy's own method."""
        async with rpc.connect(seat.wiring, Sums) as sums:
            return await call_all(seat, sums.add)

    async def watch(self, seat: Seat) -> Flow:
        """``async for`` over the proxy's method."""
        async with rpc.connect(seat.wiring, Sums) as sums:
            return await watch_all(seat, sums.count)


CONTENDERS = [
    AioipcRpc(scheme, loop) for loop in ("uvloop", "asyncio") for scheme in ("shm", "unix")
]
