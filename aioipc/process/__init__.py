"""Processes as things to await: workers with a channel, any pid, commands joined by pipes."""

from aioipc.process.waiting import wait

__all__ = ["wait"]
