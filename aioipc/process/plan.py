"""How workers are begun: a function in a fresh interpreter, or any command."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aioipc.kernel.memory import keep
from aioipc.kernel.owned import OwnedFd
from aioipc.process.order import ChannelFacts, Order, pack
from aioipc.process.program import LEASH
from aioipc.process.setup import Setup
from aioipc.process.target import Target, check_loaded, main_module

__all__ = ["Launch", "Plan", "fresh_interpreter", "plan_for"]

_ADDRESS = "AIOIPC_ADDRESS"
_PLACE = "{address}"
_MAIN = b"__main__"
_ROOT = str(Path(__file__).parent.parent.parent)
# The directory that stands first for "python -c" could hide modules of the standard library.
_BOOT = (
    "import sys; sys.path[:] = [*filter(None, sys.path), {root!r}]; "
    "from {module} import main; main()"
)


@dataclass(frozen=True, slots=True)
class Launch:
    """One start.

    Attributes:
        argv: The command, for `aioipc.process.program.start`.
        env: The environment; None hands down ours.
        memory: What it is to inherit besides, and what is closed here afterwards.
    """

    argv: Sequence[str]
    env: Mapping[str, str] | None
    memory: OwnedFd | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything about a worker but its channel's address.

    Attributes:
        name: What it is called.
        setup: As the user wants it.
        launch: Prepares a start with an address.
        order: What a function's worker is told, given the address; None for a command.
    """

    name: str
    setup: Setup
    launch: Callable[[str], Launch]
    order: Callable[[str], Order] | None = None

    @property
    def what_needs_exec(self) -> str | None:
        """Why no server can fork it; None if one can."""
        if self.order is None:
            return "a command"
        return self.setup.what_needs_exec


def plan_for(
    target: str | Callable[..., object] | Sequence[str],
    args: tuple[Any, ...],
    facts: ChannelFacts,
    setup: Setup,
) -> Plan:
    """Check what can be checked before anything is started.

    Raises:
        TypeError: It is no target at all.
        ValueError: The target cannot be found by a worker, or the arguments cannot travel.
        RuntimeError: This is a worker, loading the module that wants to start it.
    """
    check_loaded()
    if isinstance(target, Sequence) and not isinstance(target, str):
        return _command_plan(list(target), args, setup)
    return _function_plan(Target.of(target), args, facts, setup)


def _function_plan(
    target: Target, args: tuple[Any, ...], facts: ChannelFacts, setup: Setup
) -> Plan:
    name = setup.name or target.function
    try:
        rest = pack(facts, args)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        wanted = next((arg for arg in args if isinstance(arg, Target)), target)  # that of a pool
        raise ValueError(f"the arguments of {wanted} cannot be pickled: {error}") from error
    needs_main = f"{target.module}".encode() == _MAIN or _MAIN in rest
    main = main_module() if needs_main else None
    others = tuple(filter(None, map(_module_of, args)))

    def order(address: str) -> Order:
        return Order(address, list(sys.path), list(sys.argv), main, target, others, rest)

    def launch(address: str) -> Launch:
        memory = keep(order(address).dump(), "aioipc-order")
        argv = fresh_interpreter("aioipc.process.bootstrap", memory.fileno(), name)
        return Launch(argv, setup.env, memory)

    return Plan(name, setup, launch, order)


def fresh_interpreter(module: str, fd: int, name: str) -> list[str]:
    """The command that calls ``main`` of a module of ours in a fresh interpreter.

    Args:
        module: That module.
        fd: A descriptor that it inherits; ``sys.argv`` has that of the leash before it and our
            pid behind it.
        name: What people see.
    """
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    boot = _BOOT.format(root=_ROOT, module=module)
    return [sys.executable, *flags, "-c", boot, LEASH, str(fd), str(os.getpid()), name]


def _module_of(arg: object) -> str | None:
    """Where a function or class is defined."""
    if isinstance(arg, Target):
        return arg.module
    return arg.__module__ if isinstance(arg, type | types.FunctionType) else None


def _command_plan(command: list[str], args: tuple[Any, ...], setup: Setup) -> Plan:
    if not command or not all(isinstance(word, str) for word in command):
        raise ValueError(f"a command is one or more words, not {command!r}")
    if args:
        raise ValueError("arguments of a command belong into its list")

    def launch(address: str) -> Launch:
        argv = [word.replace(_PLACE, address) for word in command]
        env = {**(os.environ if setup.env is None else setup.env), _ADDRESS: address}
        return Launch(argv, env)

    return Plan(setup.name or os.path.basename(command[0]), setup, launch)
