"""What a command names as MODULE:NAME."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys

from aioipc.cli.problems import UsageProblem

__all__ = ["find_module", "import_object"]


def find_module(name: str) -> None:
    """Find out whether a module is there, which need not be imported here.

    The current directory is searched as well, as by ``python -m``, from now on.

    Raises:
        UsageProblem: There is no such module.
    """
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = importlib.util.find_spec(name)  # imports the packages that it is in
    except ModuleNotFoundError as error:
        if error.name is None or not name.startswith(error.name):
            raise
        raise UsageProblem(f"there is no module {error.name!r}") from None
    if found is None:
        raise UsageProblem(f"there is no module {name!r}")


def import_object(text: str) -> object:
    """The object called ``MODULE:NAME``; a class is called to make one.

    The current directory is searched as well, as by ``python -m``.

    Raises:
        UsageProblem: There is no such thing.
    """
    module_name, colon, name = text.partition(":")
    if not colon or not name or not all(map(str.isidentifier, module_name.split("."))):
        raise UsageProblem(f"a service is written MODULE:CLASS, not {text!r}")
    find_module(module_name)
    module = importlib.import_module(module_name)
    found = getattr(module, name, None)
    if found is None:
        raise UsageProblem(f"the module {module_name} has no {name!r}")
    if callable(found) and not isinstance(found, type):
        raise UsageProblem(f"{text} is a function; name a class, or an object that was made of one")
    try:
        return found() if isinstance(found, type) else found
    except TypeError as error:
        raise UsageProblem(f"{text} cannot be made without arguments: {error}") from None
