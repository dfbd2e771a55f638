"""Runs CPython's own tests of asyncio with our Transport in place of the loop's.

``python -m tests.asyncio_face.conformance [-v] [test_streams ...]``, or ``make conformance`` for
every Python that is here. It says how many transports were ours.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import importlib.util
import inspect
import socket
import sys
import tempfile
import unittest
import warnings
from asyncio import base_events, constants, selector_events, sslproto
from collections.abc import Iterator
from typing import Any

from aioipc.abc import Capability
from aioipc.asyncio_face._compat import TransportSocket
from aioipc.asyncio_face.transport import Transport
from aioipc.loop.fd import FdWatch
from aioipc.native._fd import FdStream

MODULES = (
    "test_streams",
    "test_server",
    "test_buffered_proto",
    "test_sslproto",
    "test_ssl",
    "test_events",
    "test_sendfile",
    "test_sock_lowlevel",
)

LEFT_OUT = {
    "test_remote_shutdown_receives_trailing_data_on_slow_socket": (
        "it puts something in place of the socket inside asyncio's transport"
    ),
}
"""Tests that cannot pass, by name, and why."""

made: collections.Counter[str] = collections.Counter()


class StockServer:
    """asyncio's own server, which up to 3.12 is not told which transport comes or goes."""

    TAKES_TRANSPORT = (
        "transport" in inspect.signature(vars(base_events.Server)["_attach"]).parameters
    )

    def __init__(self, server: Any) -> None:
        self._server = server

    def _attach(self, transport: Transport) -> None:
        self._server._attach(*([transport] if self.TAKES_TRANSPORT else []))

    def _detach(self, transport: Transport) -> None:
        self._server._detach(*([transport] if self.TAKES_TRANSPORT else []))


def make_socket_transport(
    loop: Any,
    sock: socket.socket,
    protocol: Any,
    waiter: Any = None,
    *,
    extra: Any = None,
    server: Any = None,
) -> Transport:
    """What `BaseSelectorEventLoop._make_socket_transport` does, with ours."""
    loop._ensure_fd_no_transport(sock)
    base_events._set_nodelay(sock)  # type: ignore[attr-defined]
    facts: dict[str, Any] = {"socket": TransportSocket(sock)}
    for name, find in (("sockname", sock.getsockname), ("peername", sock.getpeername)):
        facts[name] = None
        with contextlib.suppress(OSError):
            facts[name] = find()
    stream = FdStream(
        sock.fileno(),
        sock.fileno(),
        FdWatch(),
        is_socket=True,
        address="unix:conformance",
        capabilities=Capability.STREAM,
        owners={sock.fileno(): sock},
    )
    made[type(protocol).__name__] += 1
    return Transport(
        loop,
        stream,
        protocol,
        waiter=waiter,
        extra={**facts, **(extra or {})},
        server=None if server is None else StockServer(server),
    )


def make_ssl_transport(
    loop: Any,
    rawsock: socket.socket,
    protocol: Any,
    sslcontext: Any,
    waiter: Any = None,
    *,
    server_side: bool = False,
    server_hostname: str | None = None,
    extra: Any = None,
    server: Any = None,
    ssl_handshake_timeout: Any = constants.SSL_HANDSHAKE_TIMEOUT,
    ssl_shutdown_timeout: Any = constants.SSL_SHUTDOWN_TIMEOUT,
) -> Any:
    """The same for TLS: asyncio's own protocol over our transport."""
    tls = sslproto.SSLProtocol(
        loop,
        protocol,
        sslcontext,
        waiter,
        server_side,
        server_hostname,
        ssl_handshake_timeout=ssl_handshake_timeout,
        ssl_shutdown_timeout=ssl_shutdown_timeout,
    )
    make_socket_transport(loop, rawsock, tls, extra=extra, server=server)
    return tls._app_transport


def install() -> None:
    """Put ours in place of the loop's."""
    loop: Any = selector_events.BaseSelectorEventLoop
    loop._make_socket_transport = make_socket_transport
    loop._make_ssl_transport = make_ssl_transport


def main() -> int:
    parser = argparse.ArgumentParser(prog="conformance", description=__doc__)
    parser.add_argument("-v", "--verbose", action="store_true", help="name every test")
    parser.add_argument("-k", dest="patterns", action="append", help="as for unittest")
    parser.add_argument("modules", nargs="*", default=list(MODULES), help="such as test_streams")
    options = parser.parse_args()
    version = sys.version.split()[0]
    if importlib.util.find_spec("test.test_asyncio") is None:
        print(f"Python {version}: test.test_asyncio is not installed here")
        return 0
    install()
    # Some write files into the current directory, where an interrupted run would leave them.
    with tempfile.TemporaryDirectory(prefix="aioipc-") as directory, contextlib.chdir(directory):
        return run(options)


def run(options: argparse.Namespace) -> int:
    """Run the tests and say what came of it; 1 if one failed that should not."""
    version = sys.version.split()[0]
    # What asyncio says about its own policies, children and sockets is not the question here.
    warnings.simplefilter("ignore")
    loader = unittest.TestLoader()
    loader.testNamePatterns = options.patterns and [f"*{part}*" for part in options.patterns]
    found = loader.loadTestsFromNames([f"test.test_asyncio.{name}" for name in options.modules])
    tests = [test for test in each_of(found) if test.id().rpartition(".")[2] not in LEFT_OUT]
    left_out = found.countTestCases() - len(tests)
    result = unittest.TextTestRunner(verbosity=2 if options.verbose else 1, warnings="ignore").run(
        unittest.TestSuite(tests)
    )
    asyncio.set_event_loop_policy(None)
    failed = [test.id() for test, _ in (*result.failures, *result.errors)]
    print(
        f"Python {version}: {result.testsRun} tests, {len(result.skipped)} skipped, "
        f"{len(failed)} failed, {left_out} left out; {made.total()} transports were ours: "
        + ", ".join(f"{count} {name}" for name, count in made.most_common())
    )
    for name in failed:
        print(f"  FAILED: {name}")
    return bool(failed) or not made


def each_of(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    """The tests of a suite and of those in it."""
    for each in suite:
        if isinstance(each, unittest.TestSuite):
            yield from each_of(each)
        else:
            assert isinstance(each, unittest.TestCase)
            yield each


if __name__ == "__main__":
    sys.exit(main())
