"""The lifelines of locked regions: FIFOs in the runtime directory, named after file and bytes.

A process that is killed leaves the one it held. The next process that locks a region of any file
removes what nobody holds, once; who still wants one of those makes it again.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator

from aioipc.kernel.directory import Directory, Identity, identity_of
from aioipc.kernel.lifeline import Lifeline
from aioipc.kernel.region import InTheWay
from aioipc.kernel.runtime_dir import open_runtime_dir

__all__ = ["REGION_LINES", "find_region_lines", "open_region_lines", "region_line"]

REGION_LINES = ("sync", "file")
"""Where in the runtime directory they are."""

# device, inode, first byte, number of bytes, shared or exclusive
_NAME = re.compile(r"\.([0-9a-f]+)-([0-9a-f]+)~(\d+)-(\d+)([sx])")

_swept: set[Identity] = set()


def open_region_lines() -> Directory:
    """Open the directory where they are, and make it; the first time, tidy up there."""
    directory = open_runtime_dir(*REGION_LINES)
    place = identity_of(os.fstat(directory.fileno()))
    if place not in _swept:
        _swept.add(place)
        for line, _ in find_region_lines(directory):
            with contextlib.suppress(OSError):  # the next one may be able to
                line.remove_unused()
    return directory


def region_line(directory: Directory, region: InTheWay, *, make: bool) -> Lifeline:
    """The lifeline of those who have one region.

    Who shares it has another one. Who wants to share waits for one who does not, and would not
    hear of his end on a lifeline that others have already.
    """
    device, inode = region.file
    kind = "s" if region.shared else "x"
    name = f".{device:x}-{inode:x}~{region.start}-{region.length}{kind}"
    return Lifeline(directory, name, make=make)


def find_region_lines(directory: Directory) -> Iterator[tuple[Lifeline, InTheWay]]:
    """All that are there, whether somebody holds them or not, and what regions they are of."""
    for name in directory.names():
        if found := _NAME.fullmatch(name):
            device, inode, start, length, kind = found.groups()
            file = int(device, 16), int(inode, 16)
            region = InTheWay(file, int(start), int(length), shared=kind == "s")
            yield Lifeline(directory, name, make=False), region
