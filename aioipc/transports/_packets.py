"""How a connected socket of packets becomes a transport."""

from __future__ import annotations

import socket

from aioipc.abc import Capability, PeerCredentials
from aioipc.kernel.owned import abandon_in_child, above_stdio
from aioipc.loop.fd import FdWatch
from aioipc.native._packet import PacketStream

__all__ = ["CAPABILITIES", "PACKETS", "packet_stream", "with_packets"]

PACKETS = Capability.MESSAGE | Capability.DUPLEX | Capability.BACKPRESSURE
"""What every connected socket of packets can do."""
CAPABILITIES = PACKETS | Capability.CREDENTIALS

_MOST_BYTES = 56 * 1024
"""What messages take of a packet, which has at most 64 KiB; the rest is for control frames."""
_CONTROL_BYTES = 8 * 1024
_LEAST_BYTES = 1024
_OVERHEAD_BYTES = 32  # of SO_SNDBUF, in the kernel's unix_dgram_sendmsg


def packet_stream(sock: socket.socket, peer: PeerCredentials | None, address: str) -> PacketStream:
    """A transport over a connected, non-blocking socket, whose descriptor it takes over."""
    room = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    fd = above_stdio(sock.detach())
    stream = PacketStream(
        fd,
        fd,
        FdWatch(),
        is_socket=True,
        address=address,
        capabilities=CAPABILITIES,
        peer=peer,
    )
    abandon_in_child(stream)
    return with_packets(stream, room)


def with_packets(stream: PacketStream, send_buffer_bytes: int) -> PacketStream:
    """Say how long the packets of a stream may be, which SO_SNDBUF bounds, too."""
    most = send_buffer_bytes - _OVERHEAD_BYTES - _CONTROL_BYTES
    stream.atomic_bytes = max(_LEAST_BYTES, min(_MOST_BYTES, most))
    stream.alone = True
    return stream
