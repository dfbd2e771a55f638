"""Processes as things to await: workers with a channel, pools, any pid, pipelines of commands."""

from aioipc.process.blocking import BlockingChannel
from aioipc.process.mapping import Results, imap, imap_unordered, map  # noqa: A004 - process.map
from aioipc.process.oneoff import run
from aioipc.process.pipeline import Pipeline, pipeline
from aioipc.process.pool import Pool, PoolStatistics, pool, pool_of
from aioipc.process.setup import Setup
from aioipc.process.waiting import wait
from aioipc.process.worker import Worker, spawn

__all__ = [
    "BlockingChannel",
    "Pipeline",
    "Pool",
    "PoolStatistics",
    "Results",
    "Setup",
    "Worker",
    "imap",
    "imap_unordered",
    "map",
    "pipeline",
    "pool",
    "pool_of",
    "run",
    "spawn",
    "wait",
]
