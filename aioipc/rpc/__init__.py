"""Call the methods of an object in another process, typed from end to end.

`serve` offers an object under an address, `connect` gives a proxy of it. What can be called is
declared by an interface, a ``typing.Protocol`` or a class. docs/rpc.md is the tutorial.
"""

from aioipc.rpc import _codec as CODEC  # noqa: N812 - a module keeps the contract of a codec
from aioipc.rpc._call import CallInfo, current_call, metadata
from aioipc.rpc._connection import Connection
from aioipc.rpc._descriptor import Descriptor
from aioipc.rpc._interface import idempotent, notification, raises
from aioipc.rpc._streams import ResultStream, closing
from aioipc.rpc.client import aclose, connect, connection_of
from aioipc.rpc.server import Server, serve

__all__ = [
    "CODEC",
    "CallInfo",
    "Connection",
    "Descriptor",
    "ResultStream",
    "Server",
    "aclose",
    "closing",
    "connect",
    "connection_of",
    "current_call",
    "idempotent",
    "metadata",
    "notification",
    "raises",
    "serve",
]
