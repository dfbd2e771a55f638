"""``mq:`` POSIX message queues, by name: mq_overview(7).

There are no connections: ``connect`` gives a sending end of a queue, ``listen`` a receiving one.
One message of a channel is one message of the queue, as the codec wrote it and with nothing
around it, so programs in other languages take part.
"""

from __future__ import annotations

from collections.abc import Sequence

from aioipc.abc import Allow, Buffer, Capability, PeerCredentials
from aioipc.address import Address
from aioipc.kernel.credentials import refuse_allow
from aioipc.kernel.mqueue import MessageQueue, open_or_make_queue, open_queue
from aioipc.limits import Limits
from aioipc.transports._readiness import Readiness
from aioipc.transports._single import SingleAcceptor

__all__ = ["CAPABILITIES", "MqTransport", "connect", "listen"]

CAPABILITIES = Capability.MESSAGE | Capability.PRIORITY | Capability.BACKPRESSURE


async def connect(address: Address, *, limits: Limits, allow: Allow | None) -> MqTransport:
    """Open a queue to send to.

    Raises:
        ConnectError: There is no such queue.
        AccessDenied: Another user owns it.
    """
    refuse_allow(address, allow)
    assert address.name is not None
    return MqTransport(open_queue(address.name, read=False), str(address))


async def listen(address: Address, *, limits: Limits, allow: Allow | None) -> SingleAcceptor:
    """Open a queue to receive from; it is made if it is not there, and then removed at the end.

    Raises:
        AccessDenied: Another user owns it.
        ResourceExhausted: The system has no room for another queue.
    """
    refuse_allow(address, allow)
    assert address.name is not None
    queue = open_or_make_queue(address.name, write=False)
    return SingleAcceptor(MqTransport(queue, str(address), remove=queue.made))


class MqTransport(Readiness):
    """A MessageTransport over an open queue.

    Args:
        queue: It belongs to the transport.
        address: What it was opened as.
        remove: Whether to remove the queue at the end.

    Attributes:
        priority: That of the message received last.
        calls: What sends and receives.
    """

    def __init__(self, queue: MessageQueue, address: str, *, remove: bool = False) -> None:
        super().__init__()
        self.queue = queue
        self.calls = queue.calls
        self.address = address
        self.peer: PeerCredentials | None = None
        self.capabilities = CAPABILITIES
        self.priority = 0
        self._remove = remove

    def fileno(self) -> int:
        return self.queue.fileno()

    @property
    def mode(self) -> int:
        """Who may use the queue: inode(7)."""
        return self.queue.mode

    def opened(self) -> MessageQueue:
        """The queue, which is open.

        Raises:
            ClosedError: This side closed it.
            ForkError: It belongs to the parent process.
        """
        self.queue.check_open()
        return self.queue

    def try_receive(self) -> bytes | None:
        found = self.calls.try_receive()
        if found is None:
            return None
        message, self.priority = found
        return message

    def try_send(self, parts: Sequence[Buffer], /, fds: Sequence[int] = ()) -> bool:
        message = parts[0] if len(parts) == 1 else b"".join(parts)
        return self.calls.try_send(message if isinstance(message, bytes) else bytes(message), 0)

    def close_write(self) -> None:
        """A queue outlives its senders: there is no end to tell."""

    def close(self) -> None:
        if self.queue.is_abandoned:
            self.watch.abandon()
        if not self._end_watch() or self.watch.abandoned:
            return
        try:
            if self._remove:
                self.queue.unlink()
        finally:
            self.queue.close()

    def unlink(self) -> None:
        """Remove the name. Idempotent."""
        self.opened().unlink()
