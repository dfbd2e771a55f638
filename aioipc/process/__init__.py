"""Processes as things to await: workers with a channel, any pid, commands joined by pipes."""

from aioipc.process.pipeline import Pipeline, pipeline
from aioipc.process.setup import Setup
from aioipc.process.waiting import wait
from aioipc.process.worker import Worker, spawn

__all__ = ["Pipeline", "Setup", "Worker", "pipeline", "spawn", "wait"]
