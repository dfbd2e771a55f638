"""``aioipc queue``: put, get, serve and look, from a shell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from aioipc._opening import Opening
from aioipc.address import Address
from aioipc.cli.notation import Notation
from aioipc.cli.problems import UsageProblem, is_watched, tell
from aioipc.cli.session import first_of, leaving_work
from aioipc.cli.standard import Input, Output
from aioipc.errors import EndOfStream, IPCError
from aioipc.kernel.descriptors import plug_holes
from aioipc.queues import Policy, Queue, serve
from aioipc.queues import open as open_queue

__all__ = ["Getting", "Putting", "Serving", "get_jobs", "put_jobs", "serve_queue", "show_queue"]

_JSON = Notation.of("json", None, as_json=True)
_KERNEL = frozenset({"mq", "sysv"})


@dataclass(frozen=True, slots=True)
class Putting:
    """What ``aioipc queue put`` was asked to do.

    Attributes:
        address: The queue.
        notation: How messages are written.
        messages: What to put; None for the lines of the standard input.
        priority: Of each of them.
        ttl_s: Of each of them.
        create: Whether to make the queue.
    """

    address: Address
    notation: Notation
    messages: Sequence[object] | None
    priority: int = 0
    ttl_s: float | None = None
    create: bool = False


@dataclass(frozen=True, slots=True)
class Getting:
    """What ``aioipc queue get`` was asked to do.

    Attributes:
        address: The queue.
        notation: How messages are written.
        count: How many to take; None for no end.
        create: Whether to make the queue.
    """

    address: Address
    notation: Notation
    count: int | None = 1
    create: bool = False


@dataclass(frozen=True, slots=True)
class Serving:
    """What ``aioipc queue serve`` was asked to do.

    Attributes:
        address: Where.
        journal: The file that remembers jobs, if any.
        fsync: Whether a job is on the disk when it is accepted.
        policy: How the queue treats its jobs.
    """

    address: Address
    journal: Path | None
    fsync: bool
    policy: Policy


async def put_jobs(wanted: Putting) -> None:
    """Put messages in, each once the one before is accepted.

    Raises:
        UsageProblem: The queue has no such option.

    Cancellation:
        Safe: what was put is in, and nothing else.
    """
    async with _opened(wanted.address, wanted.notation, create=wanted.create) as queue:
        plug_holes()
        if wanted.messages is not None:
            await _put(queue, wanted.messages, wanted)
            return
        async with Input.open(wanted.notation) as lines:
            while batch := await lines.next_lines():
                await _put(queue, [wanted.notation.parse(line) for line in batch], wanted)


async def _put(queue: Queue[object], messages: Sequence[object], wanted: Putting) -> None:
    for message in messages:
        try:
            await queue.put(message, priority=wanted.priority, ttl_s=wanted.ttl_s)
        except ValueError as error:
            if isinstance(error, IPCError):
                raise
            raise UsageProblem(str(error)) from None


async def get_jobs(wanted: Getting) -> None:
    """Take messages and print them, one a line.

    A job of a served queue is acknowledged once it is printed, so none is lost in between.

    Cancellation:
        Safe: what was not printed stays in the queue, if it is a served one.
    """
    async with (
        _opened(wanted.address, wanted.notation, create=wanted.create) as queue,
        Output.open(wanted.notation) as output,
    ):
        await first_of(_get(queue, wanted, output), output.wait_closed())


async def _get(queue: Queue[object], wanted: Getting, output: Output) -> None:
    taken = 0
    try:
        while wanted.count is None or taken < wanted.count:
            if wanted.address.scheme in _KERNEL:
                await output.print([await queue.get()])
            else:
                async with queue.take() as job:
                    await output.print([job.value])
            taken += 1
    except EndOfStream:
        if wanted.count is not None:
            raise


async def show_queue(address: Address) -> None:
    """Print how full a queue is, as one JSON object."""
    async with (
        _opened(address, _JSON, create=False) as queue,
        Output.open(_JSON) as output,
    ):
        facts = asdict(await queue.statistics())
        await output.print([{name: fact for name, fact in facts.items() if fact not in (None, {})}])


async def serve_queue(wanted: Serving) -> None:
    """Serve a queue until this is cancelled.

    Raises:
        UsageProblem: The address or the options make no sense.

    Cancellation:
        Lets workers finish what they have begun, for a while. Clients see a clean end, and
        accepted jobs stay in the journal.
    """
    try:
        opening = serve(
            wanted.address, journal=wanted.journal, fsync=wanted.fsync, policy=wanted.policy
        )
    except ValueError as error:
        raise UsageProblem(str(error)) from None
    async with opening as server:
        plug_holes()
        tell(f"serving a queue on {server.address}")
        if wanted.journal is None:
            tell("without --journal the jobs are lost when this process ends")
        if is_watched():
            tell(f"put something in from another terminal: aioipc queue put {server.address} hello")
        with leaving_work("jobs that workers have", lambda: server.numbers["leased"]):
            await server.wait()


def _opened(address: Address, notation: Notation, *, create: bool) -> Opening[Queue[object]]:
    try:
        return open_queue(address, codec=notation.codec, create=create)
    except ValueError as error:
        if isinstance(error, IPCError):
            raise
        raise UsageProblem(str(error)) from None
