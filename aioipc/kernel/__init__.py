"""Floor 2: what the kernel offers, one noun per file. Nothing here waits or knows asyncio.

System errors leave this floor as ``OSError``; the transports translate them at their seam
with `aioipc.errors.from_os_error`. Verdicts of our own (`AccessDenied` for a path that
cannot be trusted, `ResourceExhausted` for a name in use) are raised as what they are.
"""
