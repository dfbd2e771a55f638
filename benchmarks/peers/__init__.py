"""The contenders: one adapter file for each way to move messages.

A new contender is one file with a list ``CONTENDERS`` and one row in the table below. An adapter
whose library is not installed is skipped with a line.
"""

from __future__ import annotations

from importlib import import_module

from benchmarks.contender import Contender

ADAPTERS = (
    "tuned_protocol",
    "aioipc_channel",
    "aioipc_pubsub",
    "asyncio_streams",
    "aioipc_asyncio",
    "aioipc_rpc",
    "kernel_queues",
    "aioipc_blocking",
    "multiprocessing_pipe",
    "multiprocessing_queue",
    "pyzmq",
    "pyzmq_pubsub",
    "anyio_stream",
    "aioipc_stream",
    "grpc_aio",
    "faster_fifo",
    "iceoryx2",
    "iceoryx2_pubsub",
    "zenoh_pubsub",
    "bare_decoder",
    "ring_limit",
    "descriptor_limit",
    "aioipc_locks",
    "other_locks",
    "lock_limit",
    "aioipc_arrays",
    "multiprocessing_arrays",
)


def load_contenders() -> tuple[list[Contender], dict[str, str]]:
    """All contenders whose libraries are here, and why the others are not."""
    contenders: list[Contender] = []
    skipped: dict[str, str] = {}
    for name in ADAPTERS:
        try:
            contenders += import_module(f"benchmarks.peers.{name}").CONTENDERS
        except ImportError as error:
            skipped[name] = str(error)
    return contenders, skipped
