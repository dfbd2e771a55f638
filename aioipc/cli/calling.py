"""``aioipc call`` and ``aioipc serve``: remote calls from a shell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from aioipc.address import Address
from aioipc.cli.notation import Notation
from aioipc.cli.problems import MessageError, UsageProblem, is_watched, tell
from aioipc.cli.session import first_of, leaving_work
from aioipc.cli.standard import Output
from aioipc.connect import connect
from aioipc.kernel.descriptors import plug_holes
from aioipc.rpc import CODEC, Connection, Server, closing
from aioipc.rpc import serve as serve_object
from aioipc.rpc.parts import (
    Method,
    RemoteInterface,
    RemoteMethod,
    RemoteParameter,
    Shape,
    ask_interface,
    method_of,
)

__all__ = ["Calling", "call_method", "serve_forever"]

_JSON = Notation.of("json", None, as_json=True)
_PLAIN = Notation.of("text", None, as_json=False)


@dataclass(frozen=True, slots=True)
class Calling:
    """What ``aioipc call`` was asked to do.

    Attributes:
        address: Where the service is.
        method: What to call; None to list what can be called.
        arguments: Its arguments, each as ``name=value``.
    """

    address: Address
    method: str | None
    arguments: Sequence[str]


async def call_method(wanted: Calling) -> None:
    """Call a method and print its result, or the items of its stream, as JSON.

    Raises:
        UsageProblem: There is no such method, or it takes other arguments.
        IPCError: The call failed.

    Cancellation:
        Cancels the method.
    """
    channel = await connect(wanted.address, codec=CODEC)
    plug_holes()
    async with Connection(channel, connected=True) as connection:
        interface = await ask_interface(connection.caller)
        if wanted.method is None:
            async with Output.open(_PLAIN) as output:
                await output.print([_listing(interface)])
            return
        told = _find(interface, wanted.method)
        args = _arguments(told, wanted.arguments)
        async with Output.open(_JSON) as output:
            await first_of(
                _call(connection, method_of(interface, told), args, output), output.wait_closed()
            )


async def _call(
    connection: Connection, method: Method, args: tuple[Any, ...], output: Output
) -> None:
    if method.shape is Shape.NOTIFICATION:
        await connection.caller.call(method, args)  # so that a failure is seen here
    elif method.shape is Shape.STREAM:
        async with closing(connection.caller.stream(method, args)) as items:
            async for item in items:
                await output.print([item])
    else:
        await output.print([await connection.caller.call(method, args)])


def _find(interface: RemoteInterface, name: str) -> RemoteMethod:
    for method in interface.methods:
        if method.name == name:
            return method
    known = ", ".join(method.name for method in interface.methods)
    raise UsageProblem(f"{interface.name} has no method {name!r}; it has {known}")


def _arguments(method: RemoteMethod, given: Sequence[str]) -> tuple[Any, ...]:
    """The arguments in the order of their declaration; trailing ones may be missing."""
    if method.upload is not None:
        name = method.parameters[method.upload].name
        raise UsageProblem(f"{method.name} takes a stream as {name!r}, which a shell cannot give")
    values = dict(map(_split, given))
    known = {each.name: each for each in method.parameters}
    for name in values:
        if name not in known:
            takes = ", ".join(known) or "none"
            raise UsageProblem(f"{method.name} has no argument {name!r}; it has {takes}")
    args: list[Any] = []
    for position, (name, parameter) in enumerate(known.items()):
        if name not in values:
            _check_rest(method, list(known.values())[position:], values)
            break
        args.append(_parse(parameter, values[name]))
    return tuple(args)


def _check_rest(
    method: RemoteMethod, rest: Sequence[RemoteParameter], values: dict[str, str]
) -> None:
    """The first of ``rest`` is not given: neither may be the others, and all need defaults."""
    for parameter in rest:
        if parameter.default is None:
            raise UsageProblem(f"{method.name} needs {parameter.name}=...")
        if parameter.name in values:
            raise UsageProblem(
                f"{parameter.name}= stands behind {rest[0].name}=, so give that as well "
                f"(by default it is {rest[0].default})"
            )


def _split(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageProblem(f"an argument is written name=value, not {text!r}")
    return name, value


def _parse(parameter: RemoteParameter, text: str) -> Any:
    """Text where text is declared, else JSON, else text all the same."""
    if parameter.type in ("str", "'str'"):
        return text
    try:
        return msgspec.json.decode(text.encode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        if text[:1] in ("{", "[", '"'):
            raise MessageError(f"{parameter.name}={text[:40]} is not JSON") from None
        return text


def _listing(interface: RemoteInterface) -> str:
    lines = [_titled(interface.name, interface.doc)]
    for method in interface.methods:
        takes = ", ".join(map(_shown, method.parameters))
        lines.append(f"  {method.name}({takes}) -> {method.returns}")
        if method.doc:
            lines.append(f"      {method.doc.splitlines()[0]}")
    return "\n".join(lines)


def _titled(name: str, doc: str | None) -> str:
    return f"{name}: {doc.splitlines()[0]}" if doc else name


def _shown(parameter: RemoteParameter) -> str:
    default = "" if parameter.default is None else f" = {parameter.default}"
    return f"{parameter.name}: {parameter.type}{default}"


async def serve_forever(address: Address, service: object) -> None:
    """Serve an object until this is cancelled, or its one peer is gone.

    Raises:
        UsageProblem: It has methods that cannot be called from outside.

    Cancellation:
        Lets the calls that run finish, for a while.
    """
    try:
        opening = serve_object(address, service)
    except TypeError as error:
        raise UsageProblem(str(error)) from None
    async with opening as server:
        plug_holes()
        _say_where(server, address)
        with leaving_work("calls that run", lambda: _running(server)):
            await server.wait()


def _running(server: Server) -> int:
    return sum(len(connection.session.served) for connection in server.connections)


def _say_where(server: Server, address: Address) -> None:
    tell(f"serving on {server.address}")
    if is_watched() and address.scheme not in ("fd", "stdio"):
        tell(f"see what can be called from another terminal: aioipc call {server.address}")
