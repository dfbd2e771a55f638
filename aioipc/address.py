"""Addresses: ``scheme:rest``, understood in one place and printed back exactly.

=====================================  ===========================================================
``pipe:``  ``stdio:``                  nothing follows the colon
``fifo:/path``  ``fifo:/path?single``  a FIFO in the file system
``unix:/path``  ``unix:///path``       a socket in the file system; also ``unix+seqpacket:``
                                       and ``unix+dgram:``
``unix:name``  ``unix:@abstract``      a socket in the runtime directory, in the abstract namespace
``tcp://host:port``                    also ``udp://``; IPv6 as ``tcp://[::1]:80``
``vsock://cid:port``                   a socket between a virtual machine and its host
``tls://host:port?cert=/p&ca=/q``      TCP with TLS and its files; also ``key`` and ``name``
``shm:name``  ``shm:/path``            a shared-memory ring, found by the socket that offers it
``shm:fd=7``                           the same, over a descriptor that this process inherited
``mq:/name``  ``sysv:0x1234``          a POSIX and a System V message queue
``fd:3``  ``fd:3,4``                   inherited descriptors: one for both ways, or read and write
``exec:command args``                  a child process and its standard input and output
``memory:name``                        within this process
=====================================  ===========================================================

``unix:``, ``shm:`` and ``memory:`` with nothing behind them let a listener make up a name. Every
other scheme is kept as it stands, so that transports of third parties can have addresses too.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict
from urllib.parse import parse_qsl

from aioipc.errors import AddressError

if TYPE_CHECKING:
    import ssl

__all__ = ["Address", "check_name", "check_posix_name"]

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")
_HOST = re.compile(r"[^\s/?#@\[\]:]{1,253}")
_DECIMAL = re.compile(r"[0-9]{1,10}")
_KEY = re.compile(r"[1-9][0-9]{0,9}|0[xX][0-9A-Fa-f]{1,8}")
_MAX_QUEUE_NAME_BYTES = 254  # mq_overview(7): NAME_MAX without the leading slash
_MAX_ABSTRACT_BYTES = 107  # unix(7): sun_path without the leading NUL
_MAX_PORT = 65535
_MAX_VSOCK = 2**32 - 2  # vsock(7): the highest number stands for any
_TLS_PARAMETERS = ("cert", "key", "ca", "name")
_MAX_FD = 2**31 - 1
_MAX_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Address:
    """One address, made by `parse`. What its scheme does not have is None or empty.

    Attributes:
        scheme: What stands before the first colon, in lower case.
        rest: What stands behind it, as it was written.
        path: An absolute path in the file system.
        name: A name in the runtime directory (or in this process for ``memory:``); for
            ``mq:`` the name of the queue with its slash, as mq_open(3) takes it.
        abstract: A name in the abstract socket namespace, without the ``@``.
        host: A host name or an IP address, without brackets.
        port: A port from 0 to 65535, for ``vsock:`` to 4294967294; 0 lets a listener choose.
        cid: The number of a virtual machine: vsock(7).
        key: A System V key, as the signed ``key_t``.
        fds: Descriptors that this process inherited.
        argv: A command and its arguments.
        options: What stood behind the question mark.
        parameters: The same where it is names and values, decoded: of ``tls:`` the files
            ``cert``, ``key`` and ``ca``, and the ``name`` of the server.
        tls: The context for ``tls:`` that `with_tls` was given.
    """

    scheme: str
    rest: str
    path: str | None = None
    name: str | None = None
    abstract: str | None = None
    host: str | None = None
    port: int | None = None
    cid: int | None = None
    key: int | None = None
    fds: tuple[int, ...] = ()
    argv: tuple[str, ...] = ()
    options: frozenset[str] = frozenset()
    parameters: tuple[tuple[str, str], ...] = ()
    tls: ssl.SSLContext | None = None

    @classmethod
    def parse(cls, text: str | Address) -> Address:
        """Understand ``text``; an `Address` is returned as it is.

        Raises:
            AddressError: It is not an address; the message names the part that is wrong.
            TypeError: It is no text.
        """
        if isinstance(text, Address):
            return text
        if not isinstance(text, str):
            raise TypeError(f"an address is a str, not {type(text).__name__}")
        try:
            scheme, rest = _split(text)
            return cls(scheme, rest, **_PARSERS.get(scheme, _opaque)(rest))
        except AddressError as error:
            raise AddressError(f"address {_shown(text)}: {error}") from None

    def __str__(self) -> str:
        return f"{self.scheme}:{self.rest}"

    def with_port(self, port: int) -> Address:
        """The same host with another port: what a listener on port 0 was given."""
        assert self.host is not None, f"{self} has no host"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return Address.parse(f"{self.scheme}://{host}:{port}")

    def with_tls(self, context: ssl.SSLContext) -> Address:
        """The same ``tls:`` address with a context of the caller's instead of parameters.

        Raises:
            AddressError: It is of another scheme.
        """
        if self.scheme != "tls":
            raise AddressError(f"address {_shown(str(self))}: only tls: has a context")
        return dataclasses.replace(self, tls=context)


def check_name(name: str, *, part: str = "name") -> str:
    """Return ``name`` if it may stand in the runtime directory.

    Raises:
        AddressError: It is not 1 to 64 of ``A-Z a-z 0-9 . _ -``, or starts with a dot.
        TypeError: It is no str.
    """
    if not isinstance(name, str):
        raise TypeError(f"a {part} is a str, not {type(name).__name__}")
    if _NAME.fullmatch(name):
        return name
    right = "1 to 64 letters, digits, dots, underscores or hyphens, not starting with a dot"
    raise _wrong(part, name, right)


def check_posix_name(name: str, *, part: str = "name", most_bytes: int = 255) -> str:
    """Return ``name`` if something of POSIX may have it: shm_overview(7), sem_overview(7).

    Args:
        name: Mostly with a slash before it.
        part: What to call it.
        most_bytes: How long it may be behind the slash.

    Raises:
        AddressError: It cannot be one.
        TypeError: It is no str.
    """
    if not isinstance(name, str):
        raise TypeError(f"a {part} is a str, not {type(name).__name__}")
    bare = name.removeprefix("/")
    if bare in {"", ".", ".."} or "/" in bare or "\0" in bare or not _encodable(bare):
        raise _wrong(part, name, "one slash and then a name without slashes")
    if len(os.fsencode(bare)) > most_bytes:
        raise _wrong(part, name, f"at most {most_bytes} bytes long")
    return name


class _Parts(TypedDict, total=False):
    path: str
    name: str
    abstract: str
    host: str
    port: int
    cid: int
    key: int
    fds: tuple[int, ...]
    argv: tuple[str, ...]
    options: frozenset[str]
    parameters: tuple[tuple[str, str], ...]


def _split(text: str) -> tuple[str, str]:
    scheme, colon, rest = text.partition(":")
    if not colon:
        raise AddressError("the scheme is missing: write scheme:rest, such as unix:name")
    if not _SCHEME.fullmatch(scheme):
        raise _wrong("scheme", scheme, "lower-case letters, digits, '+', '-' and '.'")
    if "\0" in rest or not _encodable(rest):
        raise _wrong("rest", rest, "text without NUL and without lone surrogates")
    return scheme, rest


def _opaque(_rest: str) -> _Parts:
    return {}


def _nothing(rest: str) -> _Parts:
    if rest:
        raise _wrong("rest", rest, "nothing behind the colon")
    return {}


def _path(rest: str) -> _Parts:
    if rest.startswith("//") and not rest.startswith("///"):
        raise _wrong("host", rest, "three slashes or one before the path")
    path = rest.removeprefix("//")
    if not path.startswith("/"):
        raise _wrong("path", path, "an absolute path")
    return {"path": path}


def _fifo(rest: str) -> _Parts:
    path, _, query = rest.rpartition("?") if "?" in rest else (rest, "", "")
    options = frozenset(filter(None, query.split("&")))
    for option in sorted(options - {"single"}):
        raise _wrong("option", option, "single")
    return {**_path(path), "options": options}


def _unix(rest: str) -> _Parts:
    if rest.startswith("@"):
        return _abstract(rest[1:])
    return _path_or_name(rest)


def _abstract(name: str) -> _Parts:
    if not 0 < len(os.fsencode(name)) <= _MAX_ABSTRACT_BYTES:
        raise _wrong("abstract name", name, f"1 to {_MAX_ABSTRACT_BYTES} bytes behind the @")
    return {"abstract": name}


def _path_or_name(rest: str) -> _Parts:
    return _path(rest) if rest.startswith("/") else _name(rest)


def _name(rest: str) -> _Parts:
    return {"name": check_name(rest)} if rest else {}


def _shm(rest: str) -> _Parts:
    return _fds(rest[3:]) if rest.startswith("fd=") else _path_or_name(rest)


def _host_and_port(rest: str) -> _Parts:
    if not rest.startswith("//"):
        raise _wrong("rest", rest, "//host:port")
    host, colon, port = rest[2:].rpartition(":")
    if not colon:
        raise AddressError("the port is missing: write //host:port")
    return {"host": _host(host), "port": _port(port)}


def _tls(rest: str) -> _Parts:
    place, _, query = rest.partition("?")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise _wrong("parameters", query, "name=value&name=value") from None
    for name, value in pairs:
        if name not in _TLS_PARAMETERS:
            raise _wrong("parameter", name, ", ".join(_TLS_PARAMETERS))
        if not value:
            raise _wrong(f"parameter {name}", value, "something behind the =")
    if len(dict(pairs)) < len(pairs):
        raise _wrong("parameters", query, "each only once")
    return {**_host_and_port(place), "parameters": tuple(pairs)}


def _vsock(rest: str) -> _Parts:
    if not rest.startswith("//"):
        raise _wrong("rest", rest, "//cid:port")
    cid, colon, port = rest[2:].partition(":")
    if not colon:
        raise AddressError("the port is missing: write //cid:port")
    for part, text in (("cid", cid), ("port", port)):
        if not _DECIMAL.fullmatch(text) or int(text) > _MAX_VSOCK:
            raise _wrong(part, text, f"a number from 0 to {_MAX_VSOCK}")
    return {"host": cid, "cid": int(cid), "port": int(port)}


def _host(text: str) -> str:
    if text.startswith("[") and text.endswith("]"):
        return _ipv6(text[1:-1])
    if ":" in text:
        raise _wrong("host", text, "an IPv6 address in brackets, such as [::1]")
    if not _HOST.fullmatch(text):
        raise _wrong("host", text, "a host name or an IP address, such as 127.0.0.1")
    return text


def _ipv6(text: str) -> str:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        raise _wrong("host", text, "an IPv6 address between the brackets") from None
    return text


def _port(text: str) -> int:
    if not _DECIMAL.fullmatch(text) or int(text) > _MAX_PORT:
        raise _wrong("port", text, f"a number from 0 to {_MAX_PORT}")
    return int(text)


def _queue_name(rest: str) -> _Parts:
    name = _path(rest)["path"]
    return {"name": check_posix_name(name, part="queue name", most_bytes=_MAX_QUEUE_NAME_BYTES)}


def _key(rest: str) -> _Parts:
    key = int(rest, 0) if _KEY.fullmatch(rest) else 0
    if not 0 < key < 2**32:  # 0 is IPC_PRIVATE, which no other process could find
        raise _wrong("key", rest, "a number from 1 to 0xffffffff, such as 0x1234")
    return {"key": key - 2**32 if key >= 2**31 else key}


def _fds(rest: str) -> _Parts:
    fds = tuple(_fd(text) for text in rest.split(","))
    if len(set(fds)) < len(fds):
        raise _wrong("descriptors", rest, "each only once")
    return {"fds": fds}


def _one_or_two_fds(rest: str) -> _Parts:
    parts = _fds(rest)
    if len(parts["fds"]) > 2:
        raise _wrong("descriptors", rest, "one for both ways, or one to read and one to write")
    return parts


def _fd(text: str) -> int:
    if not _DECIMAL.fullmatch(text) or int(text) > _MAX_FD:
        raise _wrong("descriptor", text, "a number such as 3")
    return int(text)


def _command(rest: str) -> _Parts:
    try:
        argv = tuple(shlex.split(rest))
    except ValueError as error:  # an open quotation, a backslash at the end
        raise _wrong("command", rest, f"quoted as in a shell ({error})") from None
    if not argv or not argv[0]:
        raise _wrong("command", rest, "a program and its arguments")
    return {"argv": argv}


def _encodable(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True


def _wrong(part: str, value: str, right: str) -> AddressError:
    return AddressError(f"wrong {part} {_shown(value)}; right would be {right}")


def _shown(value: str) -> str:
    return repr(value if len(value) <= _MAX_SHOWN else value[:_MAX_SHOWN] + "...")


_PARSERS: dict[str, Callable[[str], _Parts]] = {
    "pipe": _nothing,
    "stdio": _nothing,
    "fifo": _fifo,
    "unix": _unix,
    "unix+seqpacket": _unix,
    "unix+dgram": _unix,
    "tcp": _host_and_port,
    "tls": _tls,
    "udp": _host_and_port,
    "vsock": _vsock,
    "shm": _shm,
    "mq": _queue_name,
    "sysv": _key,
    "fd": _one_or_two_fds,
    "exec": _command,
    "memory": _name,
}
