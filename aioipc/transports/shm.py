"""``shm:`` rings in shared memory, one for each direction. docs/ring.md has the protocol.

The two sides meet over a Unix socket. The server, which is the one that decides who may
connect, makes the memory (an anonymous memfd, so nothing is left behind when both are killed)
and sends it over.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket

from aioipc.abc import Allow, PeerCredentials
from aioipc.address import Address
from aioipc.errors import AddressError, ConnectError, HandshakeError, from_os_error, name_address
from aioipc.kernel.ancillary import receive_with_fds, send_with_fds
from aioipc.kernel.credentials import peer_credentials, same_user_or_root
from aioipc.kernel.descriptors import file_name
from aioipc.kernel.owned import OwnedFd, OwnedSocket, socket_above_stdio
from aioipc.limits import Limits
from aioipc.loop.waiting import wait_fd
from aioipc.transports._meeting import connect_unix, listen_unix
from aioipc.transports._ring import CAPABILITIES, Rings, RingTransport, make_rings, take_rings
from aioipc.transports._single import SingleAcceptor
from aioipc.transports._sockets import SocketAcceptor, check_allowed
from aioipc.wire.hello import exception_for
from aioipc.wire.offer import Offer, missing, parse

__all__ = ["CAPABILITIES", "connect", "listen", "pair"]

FOLDER = "shm"
_MOST_FDS = 3
_TOO_MANY_FDS = f"the peer sent more than {_MOST_FDS} descriptors"


async def connect(address: Address, *, limits: Limits, allow: Allow | None) -> RingTransport:
    """Meet a server that a trusted user runs, and take part in the rings that it offers.

    Raises:
        ConnectError: Nobody listens there, or the server went away.
        AccessDenied: The path or the server's user is not trusted, or the server said so.
        HandshakeError: What it offers is not to be trusted.
        ResourceExhausted: The memory cannot be mapped.
    """
    if address.fds:
        sock, peer = _adopt(address, allow)
    else:
        sock, peer = await connect_unix(address, allow, folder=FOLDER)
    try:
        offer, fds = await _receive_offer(sock, str(address))
        rings = take_rings(offer, fds)
        _check_bells(rings, peer)
    except BaseException as error:
        sock.close()
        name_address(error, str(address))
        raise
    return RingTransport(sock, address=str(address), peer=peer, rings=rings)


async def listen(
    address: Address, *, limits: Limits, allow: Allow | None
) -> SocketAcceptor | SingleAcceptor:
    """Take the name and listen.

    With ``allow`` a path is open to all users (mode 0666) and ``allow`` decides.

    Raises:
        AccessDenied: The directory is not to be trusted.
        ResourceExhausted: Somebody serves this name.
        AddressError: Other users are allowed, but cannot reach a name in the private runtime
            directory.
    """
    if address.fds:
        return SingleAcceptor(await connect(address, limits=limits, allow=allow))

    def met(sock: socket.socket, peer: PeerCredentials | None, text: str) -> RingTransport:
        return RingTransport(sock, address=text, peer=peer, ring_bytes=limits.ring_bytes)

    return listen_unix(address, allow, met, folder=FOLDER, speaks_first=True)


def pair(*, limits: Limits) -> tuple[RingTransport, RingTransport]:
    """Two ends over the same rings, each of which another process can take over.

    Raises:
        ResourceExhausted: There is not enough memory.
    """
    left, right = (socket_above_stdio(end) for end in socket.socketpair())
    with left, right:
        left.setblocking(False)
        right.setblocking(False)
        ours, fds, offer = make_rings(limits.ring_bytes, socket_bells=False)
        memory, *bells = fds
        with memory, contextlib.ExitStack() as undo:
            undo.callback(ours.close)
            numbers = [memory.fileno(), *(bell.fileno() for bell in bells)]
            send_with_fds(left, offer.pack(), numbers)
            back = Offer(offer.capacity, 0)
            send_with_fds(right, back.pack(), [numbers[0], numbers[2], numbers[1]])
            copies = [OwnedFd(os.dup(number)) for number in numbers]
            theirs = take_rings(offer, copies)
            undo.pop_all()
        names = file_name(left.fileno()), file_name(right.fileno())
        ends = ((left, names[1], ours), (right, names[0], theirs))
        first, second = (
            RingTransport(
                end,
                address="shm:pair",
                peer=peer_credentials(end.fileno()),
                rings=rings,
                detachable=True,
                counterpart=other,
            )
            for end, other, rings in ends
        )
    return first, second


def _adopt(address: Address, allow: Allow | None) -> tuple[OwnedSocket, PeerCredentials | None]:
    """The socket that this process inherited."""
    if len(address.fds) != 1:
        raise AddressError(f"{address}: one descriptor is due, that of the socket")
    (fd,) = address.fds
    try:
        view = socket.socket(fileno=fd)
    except OSError as error:
        raise AddressError(f"{address}: descriptor {fd}: {error.strerror}") from None
    kind = (view.family, view.type)
    view.detach()
    if kind != (socket.AF_UNIX, socket.SOCK_STREAM):
        raise AddressError(f"{address}: descriptor {fd} is no Unix stream socket")
    peer = peer_credentials(fd)
    if allow is not None:
        check_allowed(peer, allow, str(address))
    return OwnedSocket(socket.AF_UNIX, socket.SOCK_STREAM, fd), peer


def _check_bells(rings: Rings, peer: PeerCredentials | None) -> None:
    """Refuse to share bells with a stranger, who can make whoever rings them wait.

    O_NONBLOCK belongs to the open file description: fcntl(2).
    """
    if rings.bells and peer is not None and not same_user_or_root(peer):
        rings.close()
        raise HandshakeError(f"uid {peer.uid} offers bells that it could block")


async def _receive_offer(sock: socket.socket, address: str) -> tuple[Offer, list[OwnedFd]]:
    """Wait for what the server says first, and the descriptors that come with it."""
    data = b""
    fds: list[OwnedFd] = []
    with contextlib.ExitStack() as undo:
        while (due := missing(data)) > 0:
            more, came = await _receive(sock, due, address)
            for fd in came:
                undo.enter_context(fd)
            fds += came
            data += more
            if len(fds) > _MOST_FDS:
                raise HandshakeError(_TOO_MANY_FDS)
        answer = parse(data)
        if isinstance(answer, Offer):
            undo.pop_all()
            return answer, fds
    raise exception_for(answer, address)


async def _receive(sock: socket.socket, size: int, address: str) -> tuple[bytes, list[OwnedFd]]:
    while True:
        try:
            data, fds, cut = receive_with_fds(sock, size, _MOST_FDS)
        except BlockingIOError:
            await wait_fd(sock.fileno())
            continue
        except OSError as error:
            raise from_os_error(error, f"connect to {address}", connecting=True) from error
        if data and not cut:
            return data, fds
        for fd in fds:
            fd.close()
        if cut and len(fds) < _MOST_FDS:  # there was room for them, but not in this process
            raise from_os_error(OSError(errno.EMFILE, ""), f"connect to {address}")
        if cut:
            raise HandshakeError(_TOO_MANY_FDS)
        raise ConnectError(f"connect to {address}: the server went away")
