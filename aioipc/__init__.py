"""One await away from any process on the machine: inter-process communication for asyncio.

`connect`, `listen` and `pair` give a `Channel`, which sends and receives whole objects over
whatever the address names: pipes, FIFOs, sockets, a child process, memory.

On top of channels: `rpc`, `pubsub` and `queues`; beside them `signals`, `process`, `sync`,
`memory`, and asyncio's own streams and transports. Each is loaded when first used.
"""

import importlib
from typing import TYPE_CHECKING

from aioipc import codecs, errors
from aioipc.abc import Capability, Losses, PeerCredentials, Sender
from aioipc.address import Address
from aioipc.channel import Channel, ChannelStatistics, IPCAttribute
from aioipc.connect import connect, pair
from aioipc.errors import (
    AccessDenied,
    AddressError,
    BadArguments,
    BrokenBarrierError,
    BusyError,
    ClosedError,
    CodecError,
    CodecMismatch,
    ConnectError,
    DeadlineExceeded,
    DecodeError,
    EncodeError,
    EndOfStream,
    ForkError,
    FrameTooLarge,
    HandshakeError,
    IPCError,
    MethodNotFound,
    OwnerDied,
    PeerCrashed,
    ProtocolError,
    QuotaExceeded,
    RemoteCancelled,
    RemoteError,
    ResourceExhausted,
    RingCorrupted,
    RPCError,
    TruncatedFrame,
    VersionMismatch,
    WorkerDied,
    WouldBlock,
)
from aioipc.kernel.credentials import same_user, same_user_or_root
from aioipc.limits import Limits
from aioipc.listener import Listener, listen
from aioipc.loop.deadline import timeout
from aioipc.loop.run import new_event_loop, run
from aioipc.stream import ByteStream, StreamListener, connect_stream, listen_stream

if TYPE_CHECKING:
    from aioipc import memory, process, pubsub, queues, rpc, signals, sync
    from aioipc._blocking import BlockingChannel, blocking
    from aioipc._wrap import wrap, wrap_stream
    from aioipc.asyncio_face import (
        create_connection,
        create_server,
        open_connection,
        start_server,
    )

__version__ = "0.1.0"

codecs.offer("arrays", f"{__name__}.memory.codec")

__all__ = [
    "AccessDenied",
    "Address",
    "AddressError",
    "BadArguments",
    "BlockingChannel",
    "BrokenBarrierError",
    "BusyError",
    "ByteStream",
    "Capability",
    "Channel",
    "ChannelStatistics",
    "ClosedError",
    "CodecError",
    "CodecMismatch",
    "ConnectError",
    "DeadlineExceeded",
    "DecodeError",
    "EncodeError",
    "EndOfStream",
    "ForkError",
    "FrameTooLarge",
    "HandshakeError",
    "IPCAttribute",
    "IPCError",
    "Limits",
    "Listener",
    "Losses",
    "MethodNotFound",
    "OwnerDied",
    "PeerCrashed",
    "PeerCredentials",
    "ProtocolError",
    "QuotaExceeded",
    "RPCError",
    "RemoteCancelled",
    "RemoteError",
    "ResourceExhausted",
    "RingCorrupted",
    "Sender",
    "StreamListener",
    "TruncatedFrame",
    "VersionMismatch",
    "WorkerDied",
    "WouldBlock",
    "blocking",
    "codecs",
    "connect",
    "connect_stream",
    "create_connection",
    "create_server",
    "errors",
    "listen",
    "listen_stream",
    "memory",
    "new_event_loop",
    "open_connection",
    "pair",
    "process",
    "pubsub",
    "queues",
    "rpc",
    "run",
    "same_user",
    "same_user_or_root",
    "signals",
    "start_server",
    "sync",
    "timeout",
    "wrap",
    "wrap_stream",
]

_PATTERNS = frozenset({"memory", "process", "pubsub", "queues", "rpc", "signals", "sync"})
_LATE = {
    "BlockingChannel": "_blocking",
    "blocking": "_blocking",
    "create_connection": "asyncio_face",
    "create_server": "asyncio_face",
    "open_connection": "asyncio_face",
    "start_server": "asyncio_face",
    "wrap": "_wrap",
    "wrap_stream": "_wrap",
}
"""Loaded when first asked for, so that a program pays for what it uses."""


def __getattr__(name: str) -> object:
    if name in _PATTERNS:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _LATE:
        return getattr(importlib.import_module(f"{__name__}.{_LATE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
