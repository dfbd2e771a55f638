"""Inter-process communication for asyncio."""
