"""What calls are made of, for packages that make or serve them in their own way.

`aioipc.process` sends them to a pool, the command line makes them by what a server tells of itself.
Nobody else reaches into this package: what such packages need stands here.
"""

from aioipc.rpc._callee import Handlers
from aioipc.rpc._caller import NotBegun, OwnCall
from aioipc.rpc._codec import encode
from aioipc.rpc._faults import fault_of, raised, refusal, unsendable
from aioipc.rpc._handlers import INTERFACE_QUESTION, handlers_of
from aioipc.rpc._interface import Method, Shape, describe
from aioipc.rpc._notifying import Repeats
from aioipc.rpc._proxy import Calls, calls_of, proxy_of
from aioipc.rpc._remote import (
    RemoteInterface,
    RemoteMethod,
    RemoteParameter,
    ask_interface,
    method_of,
)
from aioipc.rpc._streams import ResultStream
from aioipc.rpc._tracing import active_tracing

__all__ = [
    "INTERFACE_QUESTION",
    "Calls",
    "Handlers",
    "Method",
    "NotBegun",
    "OwnCall",
    "RemoteInterface",
    "RemoteMethod",
    "RemoteParameter",
    "Repeats",
    "ResultStream",
    "Shape",
    "active_tracing",
    "ask_interface",
    "calls_of",
    "describe",
    "encode",
    "fault_of",
    "handlers_of",
    "method_of",
    "proxy_of",
    "raised",
    "refusal",
    "unsendable",
]
