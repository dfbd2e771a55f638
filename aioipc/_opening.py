"""What connect, listen and pair have in common: the options, and the two ways to call."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from aioipc import codecs
from aioipc.abc import (
    Allow,
    ByteTransport,
    Capability,
    Codec,
    MessageTransport,
    PeerCredentials,
    Poll,
    PortTransport,
)
from aioipc.address import Address
from aioipc.channel import Channel, Port
from aioipc.errors import AccessDenied, AddressError
from aioipc.limits import Limits
from aioipc.native._adapted import AdaptedPort
from aioipc.transports._framed import FramedTransport, PeerPort, message_limit
from aioipc.wire.framing import FRAMERS

if TYPE_CHECKING:
    from typing_extensions import TypeIs

__all__ = [
    "AnyTransport",
    "ChannelOptions",
    "Opening",
    "check_allow",
    "check_limits",
    "has_own_port",
    "is_message_transport",
]

AnyTransport = ByteTransport | MessageTransport | PortTransport

LENGTH = "length"


T = TypeVar("T")


async def _aclose(opened: Any) -> None:
    await opened.aclose()


class Opening(Generic[T]):
    """A resource about to be opened: ``await`` it, or enter it with ``async with``.

    Args:
        open_: Opens it. What it is defined in is the name of the opening.
        close: Closes it; by default its ``aclose`` does.
    """

    __slots__ = ("_close", "_open", "_opened")

    def __init__(
        self,
        open_: Callable[[], Awaitable[T]],
        close: Callable[[T], Awaitable[None]] = _aclose,
    ) -> None:
        self._open = open_
        self._close = close
        self._opened: T | None = None

    def __await__(self) -> Generator[Any, Any, T]:
        return self._open().__await__()

    async def __aenter__(self) -> T:
        self._opened = await self._open()
        return self._opened

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._opened is not None, "entered before it is left"
        await self._close(self._opened)

    @property
    def _name(self) -> str:
        name: str = getattr(self._open, "__qualname__", "").partition(".<locals>")[0]
        return f"{name or type(self).__name__}(...)"

    if not TYPE_CHECKING:  # which would believe that there is any attribute

        def __getattr__(self, name: str) -> NoReturn:
            """Say what is wrong where what it opens has the attribute, or may have."""
            told = f"{type(self).__name__!r} object has no attribute {name!r}"
            if not name.startswith("_"):
                told += f": {self._name} was not awaited; write await ..., or async with ..."
            raise AttributeError(told, name=name, obj=self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name}>"


@dataclass(frozen=True, slots=True)
class ChannelOptions:
    """How the channels of one endpoint are made."""

    codec: Codec[Any]
    framing: str
    limits: Limits
    polling: str

    @classmethod
    def check(
        cls,
        codec: str | Codec[Any],
        framing: str | None,
        limits: Limits | None,
        polling: str,
    ) -> ChannelOptions:
        """Look the names up.

        Raises:
            ValueError: One of them is unknown.
            TypeError: The codec or the limits are nothing of the kind.
        """
        framing = framing or LENGTH
        if framing not in (LENGTH, *FRAMERS):
            known = ", ".join((LENGTH, *FRAMERS))
            raise ValueError(f"framing must be one of {known}, not {framing!r}")
        if polling not in list(Poll):
            raise ValueError(f"polling must be one of {', '.join(Poll)}, not {polling!r}")
        return cls(codecs.get(codec), framing, check_limits(limits), Poll(polling).value)

    def check_address(self, address: Address, capabilities: Capability) -> None:
        """Refuse a codec that must not meet strangers, and a framing where there are no bytes.

        Raises:
            ValueError: The codec is pickle or the like, and anybody may connect; or messages
                keep their boundaries by themselves.
        """
        if self.framing != LENGTH and Capability.STREAM not in capabilities:
            raise ValueError(
                f"{address}: {address.scheme}: carries whole messages, "
                f"so framing={self.framing!r} has nothing to do there"
            )
        if codecs.is_trusted_only(self.codec) and Capability.REMOTE in capabilities:
            raise ValueError(
                f"{address}: the {self.codec.name} codec runs what a peer sends, "
                f"and {address.scheme}: does not say who the peer is"
            )

    def open_port(self, transport: AnyTransport) -> Port:
        """Put messages on a transport.

        Raises:
            AccessDenied: The codec is for the same user only, and the peer is another.
        """
        foreign = _is_foreign(transport.peer) or Capability.REMOTE in transport.capabilities
        foreign = foreign or getattr(transport, "admits_others", False)
        if foreign and codecs.is_trusted_only(self.codec):
            raise AccessDenied(
                errno.EACCES,
                f"{transport.address}: the {self.codec.name} codec runs what a peer sends, "
                f"and this peer is {transport.peer or 'anybody who may send there'}",
            )
        limit = message_limit(self.limits, foreign=foreign)
        if has_own_port(transport):
            return transport.open_port(  # type: ignore[no-any-return]
                self.codec.name, limit, self.limits.max_fds
            )
        if is_message_transport(transport):
            return AdaptedPort(transport)
        if self.framing != LENGTH:
            _check_bytes(transport)
            return AdaptedPort(FramedTransport(transport, FRAMERS[self.framing](limit)))
        return PeerPort(
            transport,
            self.codec.name,
            limit,
            self.limits.max_fds,
            message_s=self.limits.message_s,
        )

    def open_channel(self, port: Port) -> Channel[Any]:
        """Make the channel over a port."""
        return Channel(port, self.codec, limits=self.limits, polling=self.polling)


def check_limits(limits: Limits | None) -> Limits:
    """The limits, or the default ones.

    Raises:
        TypeError: They are something else.
    """
    if limits is None:
        return Limits()
    if not isinstance(limits, Limits):
        raise TypeError(f"limits= is a Limits, not {type(limits).__name__}")
    return limits


def check_allow(allow: Allow | None) -> None:
    """Find out what cannot decide before a peer comes.

    Raises:
        TypeError: It cannot be called.
    """
    if allow is not None and not callable(allow):
        raise TypeError(f"allow= is a function of a peer's credentials, not {type(allow).__name__}")


def has_own_port(transport: AnyTransport) -> TypeIs[PortTransport]:
    """Whether native code of the transport's own moves its messages."""
    return hasattr(transport, "open_port")


def is_message_transport(
    transport: ByteTransport | MessageTransport,
) -> TypeIs[MessageTransport]:
    """Whether the transport keeps the boundaries of messages by itself."""
    return hasattr(transport, "try_receive")


def _check_bytes(transport: ByteTransport) -> None:
    if Capability.STREAM not in transport.capabilities:
        raise AddressError(
            f"{transport.address} carries whole messages, so framing= has nothing to do there"
        )


def _is_foreign(peer: PeerCredentials | None) -> bool:
    return peer is not None and peer.uid != os.geteuid()
