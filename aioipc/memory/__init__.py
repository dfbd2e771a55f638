"""Memory that processes share: `SharedMemory`. docs/memory.md has the rules."""

from aioipc.memory.shared import SharedMemory

__all__ = ["SharedMemory"]
