"""What ``aioipc top`` shows: a table of processes, and one of each kind of thing they count."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from aioipc.cli.rates import Paced, total
from aioipc.kernel.pages import Reading
from aioipc.kernel.statistics import Kind

__all__ = ["screen", "screen_as_text"]

_TEXT_WIDTH: Final = 120
_TEXT_HEIGHT: Final = 10_000
_UNITS: Final = ("", " K", " M", " G", " T")
_FRAME: Final = 2  # lines of a table besides its rows: its head, and a line to the next


@dataclass(frozen=True, slots=True)
class _Column:
    head: str
    show: Callable[[Paced], str]


def _rate(*names: str) -> Callable[[Paced], str]:
    return lambda paced: _number(sum(paced.rates.get(name, 0) for name in names))


def _rate_of_bytes(*names: str) -> Callable[[Paced], str]:
    return lambda paced: _size(sum(paced.rates[name] for name in names))


def _level(name: str) -> Callable[[Paced], str]:
    return lambda paced: f"{paced.row.counts[name]:,}"


def _peer(paced: Paced) -> str:
    return str(paced.row.peer or "")


def _waited(paced: Paced) -> str:
    return _number(paced.rates["waited_ns"] / 1e6)


_COLUMNS: Final[dict[Kind, tuple[_Column, ...]]] = {
    Kind.CHANNEL: (
        _Column("PEER", _peer),
        _Column("SENT/s", _rate("messages_sent")),
        _Column("RECEIVED/s", _rate("messages_received")),
        _Column("BYTES/s", _rate_of_bytes("bytes_sent", "bytes_received")),
        _Column("WAITING", _level("senders_waiting")),
        _Column("WAITS/s", _rate("send_waits", "receive_waits")),
    ),
    Kind.STREAM: (
        _Column("PEER", _peer),
        _Column("SENT B/s", _rate_of_bytes("bytes_sent")),
        _Column("RECEIVED B/s", _rate_of_bytes("bytes_received")),
    ),
    Kind.QUEUE: (
        _Column("IN/s", _rate("accepted")),
        _Column("DONE/s", _rate("done")),
        _Column("READY", _level("ready")),
        _Column("LEASED", _level("leased")),
        _Column("WAITING", _level("waiting")),
        _Column("DEAD", _level("dead")),
    ),
    Kind.KERNEL_QUEUE: (
        _Column("PUT/s", _rate("put")),
        _Column("GOT/s", _rate("got")),
        _Column("WAITING", _level("waiting")),
        _Column("WAITS/s", _rate("waits")),
        _Column("WAITED ms/s", _waited),
    ),
    Kind.LOCK: (
        _Column("TAKEN/s", _rate("acquired")),
        _Column("HELD", _level("held")),
        _Column("WAITING", _level("waiting")),
        _Column("WAITS/s", _rate("waits")),
        _Column("WAITED ms/s", _waited),
    ),
}
_BYTES: Final = ("bytes_sent", "bytes_received")
_NAMES: Final = {
    Kind.CHANNEL: "CHANNEL",
    Kind.STREAM: "STREAM",
    Kind.QUEUE: "QUEUE",
    Kind.KERNEL_QUEUE: "QUEUE OF THE KERNEL",
    Kind.LOCK: "LOCK",
}


def screen(readings: Sequence[Reading], paced: Sequence[Paced], height: int) -> Group:
    """All tables, the busiest first in each.

    Args:
        readings: The processes.
        paced: Their rows.
        height: How many lines there are; what is least busy is left out.
    """
    if not readings:
        return Group(Text("no process of yours counts anything with aioipc now"))
    tables = [_processes(readings, paced, max(1, height // 2 - _FRAME))]
    of_kind = {
        kind: [each for each in paced if each.row.kind is kind and not each.row.is_sum]
        for kind in _COLUMNS
    }
    room = _shared_out(
        {kind: len(rows) for kind, rows in of_kind.items() if rows},
        height - tables[0].row_count - _FRAME,
    )
    tables += [_rows(kind, of_kind[kind], room[kind]) for kind in of_kind if room.get(kind, 0) > 0]
    return Group(*(part for table in tables for part in (table, "")))


def _shared_out(wanted: dict[Kind, int], lines: int) -> dict[Kind, int]:
    """How many rows each kind may show: what small tables leave goes to the others."""
    room: dict[Kind, int] = {}
    for number, kind in enumerate(sorted(wanted, key=wanted.__getitem__)):
        share = lines // (len(wanted) - number)
        room[kind] = min(wanted[kind], share - _FRAME)
        lines -= room[kind] + _FRAME
    return room


def screen_as_text(readings: Sequence[Reading], paced: Sequence[Paced]) -> str:
    """The same for a file or a pipe, whole."""
    out = io.StringIO()
    Console(file=out, width=_TEXT_WIDTH).print(screen(readings, paced, _TEXT_HEIGHT))
    return out.getvalue()


def _processes(readings: Sequence[Reading], paced: Sequence[Paced], most: int) -> Table:
    table = _table("COMMAND")
    for head in ("CHANNELS", "MESSAGES/s", "BYTES/s", "HITS", "BELLS/s", "SAVED"):
        table.add_column(head, justify="right", no_wrap=True)
    of_process: dict[int, list[Paced]] = {reading.pid: [] for reading in readings}
    for each in paced:
        of_process[each.pid].append(each)
    rows = [(reading, of_process[reading.pid]) for reading in readings]
    rows.sort(key=lambda row: (-sum(each.activity for each in row[1]), row[0].pid))
    for reading, own in rows[:most]:
        table.add_row(str(reading.pid), _safe(_short(reading.command)), *_cells(own))
    return table


def _cells(own: Sequence[Paced]) -> tuple[str, ...]:
    rates = total(own, Kind.CHANNEL)
    n_channels = sum(each.row.kind is Kind.CHANNEL and not each.row.is_sum for each in own)
    rung, saved = rates.get("bells_rung", 0), rates.get("bells_saved", 0)
    return (
        f"{n_channels:,}",
        _number(rates.get("messages_sent", 0) + rates.get("messages_received", 0)),
        _size(_together(own, *_BYTES)),
        _share(_together(own, "poll_hits"), _together(own, "polls")),
        _number(rung),
        _share(saved, rung + saved),
    )


def _together(own: Sequence[Paced], *names: str) -> float:
    """The rates of some counts, of whatever kind what is counted is."""
    return sum(each.rates.get(name, 0) for each in own for name in names)


def _rows(kind: Kind, rows: list[Paced], most: int) -> Table:
    table = _table(_NAMES[kind])
    for column in _COLUMNS[kind]:
        table.add_column(column.head, justify="right", no_wrap=True)
    rows.sort(key=lambda each: (-each.activity, each.pid, each.row.serial))
    for each in rows[:most]:
        cells = (column.show(each) for column in _COLUMNS[kind])
        table.add_row(str(each.pid), _safe(each.row.name), *cells)
    return table


def _table(what: str) -> Table:
    table = Table(box=None, pad_edge=False, expand=True)
    table.add_column("PID", justify="right", no_wrap=True)
    table.add_column(what, ratio=1, no_wrap=True, overflow="ellipsis")
    return table


def _short(command: str) -> str:
    """A command line without the directories of the program and its script."""
    words = command.split(" ")
    return " ".join([word.rpartition("/")[2] for word in words[:2]] + words[2:])


def _safe(text: str) -> Text:
    """What another process calls itself, without what would control the terminal."""
    return Text(
        "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    )


def _number(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 or rate == 0 else f"{rate:.1f}"


def _size(rate: float) -> str:
    power = 0
    while rate >= 10_000 and power < len(_UNITS) - 1:
        rate /= 1000
        power += 1
    return _number(rate) + _UNITS[power]


def _share(part: float, of: float) -> str:
    return f"{100 * part / of:.0f} %" if of else ""
