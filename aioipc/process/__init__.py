"""Processes as things to await: workers with a channel, pools, any pid, pipelines of commands."""

from aioipc.process.activation import activated
from aioipc.process.forking import ForkServer, fork_server
from aioipc.process.life import Child
from aioipc.process.mapping import Results, imap, imap_unordered, map  # noqa: A004 - process.map
from aioipc.process.oneoff import run
from aioipc.process.pipeline import Pipeline, pipeline
from aioipc.process.pool import Pool, PoolStatistics, pool, pool_of
from aioipc.process.restarts import Schedule
from aioipc.process.setup import Setup
from aioipc.process.supervisor import Supervisor, supervise
from aioipc.process.waiting import wait
from aioipc.process.worker import Worker, spawn

__all__ = [
    "Child",
    "ForkServer",
    "Pipeline",
    "Pool",
    "PoolStatistics",
    "Results",
    "Schedule",
    "Setup",
    "Supervisor",
    "Worker",
    "activated",
    "fork_server",
    "imap",
    "imap_unordered",
    "map",
    "pipeline",
    "pool",
    "pool_of",
    "run",
    "spawn",
    "supervise",
    "wait",
]
