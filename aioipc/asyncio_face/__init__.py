"""asyncio's own transports and streams over every address that carries bytes."""

from aioipc.asyncio_face.connecting import create_connection, create_server
from aioipc.asyncio_face.server import Server
from aioipc.asyncio_face.streams import open_connection, start_server
from aioipc.asyncio_face.transport import Transport

__all__ = [
    "Server",
    "Transport",
    "create_connection",
    "create_server",
    "open_connection",
    "start_server",
]
