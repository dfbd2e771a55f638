"""Figures as people read them: three digits and a unit."""

from __future__ import annotations


def figure(value: float, unit: str) -> str:
    """A value with its unit."""
    match unit:
        case "per_second":
            return _scaled(value, ("", " k", " M", " G"), 1000)
        case "bytes_per_second":
            return _scaled(value, (" B/s", " kB/s", " MB/s", " GB/s"), 1000)
        case "bytes":
            return _scaled(value, (" B", " KiB", " MiB", " GiB"), 1024)
        case "us":
            return f"{value:,.2f} µs" if value < 10 else f"{value:,.1f} µs"
        case "fraction":
            return f"{value:.4f}" if value < 1 else f"{value:,.2f}"
        case "factor":
            return factor(value)
        case _:
            return f"{value:,.0f}"


def factor(ratio: float) -> str:
    """A ratio: 0.04, 1.23, 12.3, 123."""
    if ratio == float("inf"):
        return "∞"
    return _three_digits(ratio)


def _scaled(value: float, units: tuple[str, ...], step: int) -> str:
    for unit in units[:-1]:
        if abs(value) < step:
            return _three_digits(value) + unit
        value /= step
    return _three_digits(value) + units[-1]


def _three_digits(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"
