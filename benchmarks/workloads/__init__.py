"""The workloads, in the order in which they run."""

from __future__ import annotations

from benchmarks.workload import Workload
from benchmarks.workloads.arrays import Arrays
from benchmarks.workloads.calls import Calls
from benchmarks.workloads.codec import Codec
from benchmarks.workloads.connection_memory import ConnectionMemory
from benchmarks.workloads.counts import Counts
from benchmarks.workloads.cpu_at_rate import CpuAtRate
from benchmarks.workloads.fan_in import FanIn
from benchmarks.workloads.idle import Idle
from benchmarks.workloads.kernel_queues import KernelQueues
from benchmarks.workloads.locks import Locks
from benchmarks.workloads.loop_lag import LoopLag
from benchmarks.workloads.one_way import OneWay
from benchmarks.workloads.pub_sub import PubSub
from benchmarks.workloads.round_trip import RoundTrip

WORKLOADS: list[Workload] = [
    RoundTrip(),
    OneWay(),
    FanIn(),
    PubSub(),
    KernelQueues(),
    Calls(),
    Codec(),
    Idle(),
    LoopLag(),
    CpuAtRate(),
    ConnectionMemory(),
    Counts(),
    Locks(),
    Arrays(),
]
