"""``tls:`` over TCP: both sides, or the server alone, prove who they are. RFC 8446."""

from __future__ import annotations

import ssl

from aioipc.abc import Allow
from aioipc.address import Address
from aioipc.errors import AddressError, ConnectError, PeerCrashed
from aioipc.kernel.credentials import refuse_allow
from aioipc.limits import Limits
from aioipc.loop.waiting import wait_readable, wait_writable
from aioipc.transports._sockets import SocketAcceptor
from aioipc.transports._tcp import CAPABILITIES, TCPStream, connect_tcp, listen_tcp
from aioipc.transports._tls import TLSStream

__all__ = ["CAPABILITIES", "connect", "listen"]


async def connect(address: Address, *, limits: Limits, allow: Allow | None) -> TLSStream:
    """Connect, and check that the server is who it ought to be.

    Raises:
        AddressError: A certificate cannot be read.
        ConnectError: Nobody listens there, or the host has no address.
        AccessDenied: The server's certificate is not trusted; the message says why.
        HandshakeError: What listens there does not speak TLS, or none that suits both.
        ValueError: ``allow`` was given; TLS knows certificates, not users.
    """
    refuse_allow(address, allow)
    context = _context(address, ssl.Purpose.SERVER_AUTH)
    name = dict(address.parameters).get("name", address.host)
    stream = TLSStream(await connect_tcp(address, limits), context, server_name=name)
    try:
        while not stream.try_handshake():
            await (wait_writable if stream.is_writing else wait_readable)(stream)
    except PeerCrashed as error:
        stream.close()
        raise ConnectError(f"connect to {address}: ended during the handshake") from error
    except BaseException:
        stream.close()
        raise
    return stream


async def listen(address: Address, *, limits: Limits, allow: Allow | None) -> SocketAcceptor:
    """Listen with a certificate; port 0 lets the kernel choose.

    Raises:
        AddressError: There is no certificate, or it cannot be read.
        ResourceExhausted: The port is in use.
        ConnectError: The host has no address.
        ValueError: ``allow`` was given.
    """
    refuse_allow(address, allow)
    context = _context(address, ssl.Purpose.CLIENT_AUTH)

    def met(stream: TCPStream) -> TLSStream:
        return TLSStream(stream, context)

    return await listen_tcp(address, limits, met, anywhere=True, speaks_first=True)


def _context(address: Address, purpose: ssl.Purpose) -> ssl.SSLContext:
    """What the caller made, or what the parameters of the address say."""
    if address.tls is not None:
        return address.tls
    found = dict(address.parameters)
    serves = purpose is ssl.Purpose.CLIENT_AUTH
    if serves and "cert" not in found:
        raise AddressError(f"listen on {address}: a server needs a certificate, ?cert=/path")
    try:
        context = ssl.create_default_context(purpose, cafile=found.get("ca"))
        if "cert" in found:
            context.load_cert_chain(found["cert"], found.get("key"))
    except OSError as error:  # ssl.SSLError is one
        files = ", ".join(f"{name}={path}" for name, path in found.items() if name != "name")
        reason = getattr(error, "reason", None) or error.strerror or str(error)
        raise AddressError(f"{address}: cannot use {files}: {reason}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if serves and "ca" in found:
        context.verify_mode = ssl.CERT_REQUIRED
    return context
