"""Benchmarks: aioipc beside its peers, measured in the same interleaved run.

``python -m benchmarks --help`` says how to run them. A *workload* (``workloads/``) is a question,
such as "how long is a round trip?". A *contender* (``peers/``) is a way to move messages between
two processes. The harness asks every question of every contender, round by round.
"""
