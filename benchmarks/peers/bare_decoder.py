"""The decoder alone: what any channel with that codec can reach at best.

Meanwhile the other process encodes, as it would for a channel: where two CPUs are threads of one
core, each is slower while the other one works.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack
import msgspec

from benchmarks.contender import Contender, Flow, Gauge, Seat

_ENCODED_PER_DECODED = 4
"""So that the encoder, which is faster, is not done before the decoder."""


class BareDecoder(Contender):
    """Decodes the same bytes again and again; nothing travels."""

    family = "reference"
    quick = True
    carries = "dict"

    def __init__(
        self, name: str, encode: Callable[[Any], bytes], decode: Callable[[bytes], Any]
    ) -> None:
        self.name = f"bare decoder ({name})"
        self._encode = encode
        self._decode = decode

    def sink(self, seat: Seat) -> Flow:
        """Decode as many messages as a channel would receive."""
        gauge = Gauge(seat, 1)
        decode = self._decode
        data = self._encode(seat.plan.payload)
        seat.announce("listening")
        for _ in seat.plan.warming():
            decode(data)
        gauge.warm()
        gauge.start()
        for _ in range(seat.plan.messages - 1):
            decode(data)
        gauge.stop(decode(self._encode(seat.plan.last)))
        return gauge.flow()

    def source(self, seat: Seat) -> None:
        """Encode, and send nothing."""
        seat.wait()
        encode, payload = self._encode, seat.plan.payload
        for _ in range(_ENCODED_PER_DECODED * seat.plan.messages):
            encode(payload)


CONTENDERS = [
    BareDecoder("msgspec", msgspec.msgpack.encode, msgspec.msgpack.decode),
    BareDecoder("msgpack", msgpack.packb, msgpack.unpackb),
]
