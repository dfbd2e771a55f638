"""One SVG picture of a run, drawn by hand: no plotting library needed to read it or to make it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape
from pathlib import Path

from benchmarks.results import Entry, Results, Table
from benchmarks.units import figure
from benchmarks.workload import Metric

WIDTH = 960
LABEL_WIDTH = 250
FIGURE_WIDTH = 90
BAR_HEIGHT = 15
ROW_HEIGHT = 20
TITLE_HEIGHT = 44
MARGIN = 16

_COLOURS = {"aioipc": "#0b7285", "reference": "#e8590c", "peer": "#adb5bd"}
_TEXT = "#212529"


def draw(results: Results, file: Path) -> None:
    """Draw a bar chart for each table, logarithmic, best first."""
    file.parent.mkdir(parents=True, exist_ok=True)
    shapes: list[str] = []
    top = MARGIN
    for table in (each for each in results.tables if _measured(each)):
        shapes += _chart(table, top)
        top += TITLE_HEIGHT + ROW_HEIGHT * len(_measured(table)) + MARGIN
    file.write_text("\n".join([*_head(top), *shapes, *_foot(results, top), "</svg>"]) + "\n")


def _head(height: int) -> list[str]:
    total = height + 2 * MARGIN
    size = f'width="{WIDTH}" height="{total}"'
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {WIDTH} {total}"',
        ' font-family="system-ui, sans-serif" font-size="12">',
        f'<rect {size} fill="#ffffff"/>',
    ]


def _foot(results: Results, top: int) -> list[str]:
    about = results.environment
    words = f"{about['cpu']}, Linux {about['kernel']}, Python {about['python']}, {about['date']}"
    return [_text(MARGIN, top + MARGIN, words, size=11, colour="#868e96")]


def _chart(table: Table, top: int) -> Iterator[str]:
    metric = table.metrics[0]
    direction = "more is better" if metric.higher_is_better else "less is better"
    title = f"{table.title}: {table.case}"
    yield _text(MARGIN, top + 16, title, size=15, weight="bold")
    hint = f"{metric.title}, {direction}, logarithmic"
    yield _text(MARGIN, top + 32, hint, size=11, colour="#868e96")
    entries = _measured(table)
    lowest = min((_median(entry, metric) for entry in entries), default=1.0)
    highest = max((_median(entry, metric) for entry in entries), default=1.0)
    for number, entry in enumerate(entries):
        yield from _bar(entry, metric, top + TITLE_HEIGHT + number * ROW_HEIGHT, lowest, highest)


def _bar(entry: Entry, metric: Metric, top: int, lowest: float, highest: float) -> Iterator[str]:
    value = _median(entry, metric)
    room = WIDTH - LABEL_WIDTH - FIGURE_WIDTH - 2 * MARGIN
    length = room * _share(value, lowest, highest)
    left = MARGIN + LABEL_WIDTH
    baseline = top + BAR_HEIGHT - 3
    yield _text(left - 8, baseline, entry.contender, anchor="end")
    yield (
        f'<rect x="{left}" y="{top}" width="{length:.1f}" height="{BAR_HEIGHT}" rx="2" '
        f'fill="{_COLOURS[entry.family]}"/>'
    )
    yield _text(left + length + 6, baseline, figure(value, metric.unit))


def _share(value: float, lowest: float, highest: float) -> float:
    """Length of a bar: half a decade below the smallest is nothing, the largest is everything."""
    floor = math.log10(lowest) - 0.5
    span = math.log10(highest) - floor
    return (math.log10(value) - floor) / span


def _measured(table: Table) -> list[Entry]:
    """The entries that a logarithm can show."""
    metric = table.metrics[0]
    return [entry for entry in table.ranking() if (entry.median(metric.key) or 0) > 0]


def _median(entry: Entry, metric: Metric) -> float:
    median = entry.median(metric.key)
    assert median is not None
    return median


def _text(
    x: float,
    y: float,
    words: str,
    *,
    size: int = 12,
    weight: str = "normal",
    colour: str = _TEXT,
    anchor: str = "start",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" '
        f'fill="{colour}" text-anchor="{anchor}">{escape(words)}</text>'
    )
