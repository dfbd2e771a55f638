"""Blocking calls from asyncio, through the loop's default thread pool."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any


def in_executor(function: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """The function as an awaitable one."""
    run = asyncio.get_running_loop().run_in_executor

    def submit(*arguments: Any) -> Awaitable[Any]:
        return run(None, function, *arguments)

    return submit
