"""Functions by name, so that another process can find them."""

from __future__ import annotations

import contextlib
import importlib
import re
import runpy
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["MainModule", "Target", "check_loaded", "loading", "main_module"]

_NAMED = re.compile(r"(?P<module>\w+(\.\w+)*):(?P<function>\w+(\.\w+)*)")
_MAIN = "__main__"
_MAIN_IN_A_WORKER = "__aioipc_main__"
_loading = False


@dataclass(frozen=True, slots=True)
class Target:
    """A function of a module.

    Attributes:
        module: The module that can be imported.
        function: Its name there, with dots where it belongs to a class.
    """

    module: str
    function: str

    @classmethod
    def of(cls, target: str | Callable[..., object]) -> Target:
        """Name a function, or take ``"module:function"`` apart.

        Raises:
            TypeError: It is neither.
            ValueError: Another process cannot find it by its name: it is a lambda, it is
                defined in another function, or the name stands for something else.
        """
        if isinstance(target, str):
            if named := _NAMED.fullmatch(target):
                return cls(named["module"], named["function"])
            raise ValueError(f"a target is written 'module:function', not {target!r}")
        if not callable(target):
            raise TypeError(f"a target is a function or 'module:function', not {target!r}")
        module = getattr(target, "__module__", None)
        function = getattr(target, "__qualname__", None)
        if module is None or function is None:
            raise ValueError(f"{target!r} has no name by which a worker could import it")
        named_here = cls(module, function)
        if "<" in function:
            raise ValueError(
                f"{named_here} cannot be imported by a worker: define it at the top of a module"
            )
        if _found(sys.modules.get(module), function) is not target:
            raise ValueError(f"{named_here} is not {target!r}, so a worker would import another")
        return named_here

    def load(self) -> Callable[..., Any]:
        """Import the function, in the worker.

        Raises:
            ImportError: There is no such module.
            TypeError: It has no such function.
        """
        found = _found(importlib.import_module(self.module), self.function)
        if not callable(found):
            raise TypeError(f"there is no function {self.function} in module {self.module}")
        function: Callable[..., Any] = found
        return function

    def __str__(self) -> str:
        return f"{self.module}:{self.function}"


@dataclass(frozen=True, slots=True)
class MainModule:
    """The program that this process runs, for a worker to load as a module.

    Attributes:
        name: The module, where it was started with ``python -m``.
        path: Its file, where it was started as one.
    """

    name: str | None
    path: str | None

    def load(self) -> None:
        """Make its definitions those of ``__main__`` in the worker; its main part does not run.

        That needs the guard ``if __name__ == "__main__":``. Where a fork server has loaded it,
        it is there already.
        """
        if _MAIN_IN_A_WORKER in sys.modules:
            return
        module = types.ModuleType(_MAIN_IN_A_WORKER)
        sys.modules[_MAIN] = sys.modules[_MAIN_IN_A_WORKER] = module
        try:
            module.__dict__.update(self._run())
        except BaseException:
            del sys.modules[_MAIN_IN_A_WORKER]
            raise

    def _run(self) -> dict[str, Any]:
        if self.name is not None:
            return runpy.run_module(self.name, run_name=_MAIN_IN_A_WORKER)
        assert self.path is not None
        return runpy.run_path(self.path, run_name=_MAIN_IN_A_WORKER)


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """The worker loads its modules meanwhile, and must not start workers of its own."""
    global _loading  # noqa: PLW0603 - there is one main module
    _loading = True
    try:
        yield
    finally:
        _loading = False


def check_loaded() -> None:
    """Refuse to start a worker from the top of a module that a worker is loading.

    Raises:
        RuntimeError: It would start workers without end.
    """
    if _loading:
        raise RuntimeError(
            "a worker is loading this module, and at its top another one is started; "
            "put that under: if __name__ == '__main__':"
        )


def main_module() -> MainModule:
    """The main module of this process, to which its classes come back from workers.

    Raises:
        ValueError: It has no file: it was typed in, or given with ``python -c``.
    """
    main = sys.modules[_MAIN]
    spec = getattr(main, "__spec__", None)
    path = getattr(main, "__file__", None)
    if spec is None and path is None:
        raise ValueError(
            "a worker cannot import what was typed in or given with python -c: "
            "put its function into a file"
        )
    sys.modules.setdefault(_MAIN_IN_A_WORKER, main)
    return MainModule(spec.name if spec is not None else None, path)


def _found(where: object, function: str) -> object:
    for part in function.split("."):
        where = getattr(where, part, None)
    return where
