"""The demo from the start of the other process to the table."""

from __future__ import annotations

from aioipc.cli.demo.book import Message, read_book
from aioipc.cli.demo.links import Transport, transports
from aioipc.cli.demo.measure import Latency, Rate, Row, round_trips, stream
from aioipc.cli.demo.process import MODES, OtherProcess
from aioipc.cli.demo.show import Bar, show_json, show_table
from aioipc.cli.problems import FAILED, OK, PeerFailed
from aioipc.cli.session import run_session
from aioipc.errors import IPCError

__all__ = ["run_demo"]

_STEPS = 3


def run_demo(seconds: float, *, as_json: bool) -> int:
    """Measure every transport and print the results.

    Args:
        seconds: For each of three measurements per transport.
        as_json: Whether to print one JSON object in place of the table.

    Returns:
        The exit status: 1 if a transport failed, or a message did not come as it was sent.
    """
    return run_session(_demo(seconds, as_json=as_json))


async def _demo(seconds: float, *, as_json: bool) -> int:
    book = read_book()
    shown = transports(book)
    with Bar(_STEPS * len(shown), seconds) as bar:
        async with OtherProcess.start() as other:
            rows = [await _row(transport, other, book, seconds, bar) for transport in shown]
    if as_json:
        show_json(rows, other.pid)
    else:
        show_table(rows, other.pid)
    return FAILED if any(row.problem for row in rows) else OK


async def _row(
    transport: Transport, other: OtherProcess, book: list[Message], seconds: float, bar: Bar
) -> Row:
    try:
        rate, polling = await _polling(transport, other, book, seconds, bar)
        blocking = await _blocking(transport, other, book, seconds, bar)
    except (IPCError, PeerFailed) as error:
        return Row(transport.scheme, transport.what, problem=str(error))
    return Row(transport.scheme, transport.what, rate, polling, blocking)


async def _polling(
    transport: Transport, other: OtherProcess, book: list[Message], seconds: float, bar: Bar
) -> tuple[Rate, Latency]:
    async with transport.link(other, MODES[0]) as link:
        bar.step(f"{transport.scheme}: one way")
        rate = await stream(link, book, seconds, bar.tick)
        bar.step(f"{transport.scheme}: there and back")
        latency = await round_trips(link, book, seconds, bar.tick)
        await link.finish()
    return rate, latency


async def _blocking(
    transport: Transport, other: OtherProcess, book: list[Message], seconds: float, bar: Bar
) -> Latency:
    async with transport.link(other, MODES[1]) as link:
        bar.step(f"{transport.scheme}: there and back, asleep in between")
        await stream(link, book, 0, bar.tick)
        latency = await round_trips(link, book, seconds, bar.tick)
        await link.finish()
    return latency
