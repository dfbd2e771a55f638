"""What a service answers to: its methods, and the question which there are."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from aioipc.rpc._callee import Handlers
from aioipc.rpc._interface import Interface, Method, describe
from aioipc.wire.rpc import ASK_INTERFACE

__all__ = ["INTERFACE_QUESTION", "handlers_of"]


async def _ask(self: object) -> dict[str, Any]:
    """Tell what can be called."""
    raise NotImplementedError  # only its signature counts


INTERFACE_QUESTION = Method("rpc", ASK_INTERFACE, _ask)
"""Every server has this method."""


def handlers_of(service: object, interface: type | None) -> Handlers:
    """The methods of ``service`` that ``interface`` declares, by name.

    Args:
        service: An object with these methods, or a function for each of them by name. They may
            be ordinary functions where the interface says ``async def``.
        interface: A Protocol or class; by default the service's own class.

    Raises:
        TypeError: The service lacks one, or the interface cannot be called remotely.
    """
    if interface is None and isinstance(service, type):
        raise _no_object(service)
    declared = describe(interface or type(service))
    handlers = {
        name: (method, _implementation(service, method))
        for name, method in declared.methods.items()
    }
    description = _description(declared)
    handlers[ASK_INTERFACE] = (INTERFACE_QUESTION, lambda: description)
    return handlers


def _implementation(service: object, method: Method) -> Callable[..., Any]:
    function: Any = getattr(service, method.name, None)
    if not callable(function):
        raise TypeError(f"{type(service).__name__} has no method {method.name!r}, as {method} says")
    parameters = method.signature.parameters
    try:
        inspect.signature(function).bind(
            *(name for name, each in parameters.items() if each.kind is not each.KEYWORD_ONLY),
            **{name: name for name, each in parameters.items() if each.kind is each.KEYWORD_ONLY},
        )
    except TypeError as error:
        if isinstance(service, type):  # or its methods are static
            raise _no_object(service) from None
        raise TypeError(
            f"{type(service).__name__}.{method.name} does not take the arguments of {method}"
            f"{method.signature}: {error}"
        ) from None
    implementation: Callable[..., Any] = function
    return implementation


def _no_object(service: type) -> TypeError:
    name = service.__name__
    return TypeError(f"serve an object, not the class {name}: {name}()")


def _description(interface: Interface) -> dict[str, Any]:
    return {
        "name": interface.name,
        "doc": interface.doc,
        "methods": [_method_description(method) for method in interface.methods.values()],
    }


def _method_description(method: Method) -> dict[str, Any]:
    return {
        "name": method.name,
        "doc": method.doc,
        "shape": method.shape.value,
        "parameters": [
            _parameter_description(each) for each in method.signature.parameters.values()
        ],
        "returns": _shown(method.signature.return_annotation),
        "upload": method.upload,
        "raises": list(method.raises),
        "idempotent": method.is_idempotent,
    }


def _parameter_description(parameter: inspect.Parameter) -> Mapping[str, Any]:
    described: dict[str, Any] = {
        "name": parameter.name,
        "type": _shown(parameter.annotation),
        "keyword_only": parameter.kind is parameter.KEYWORD_ONLY,
    }
    if parameter.default is not parameter.empty:
        described["default"] = repr(parameter.default)
    return described


def _shown(annotation: Any) -> str:
    if annotation in (None, type(None)):
        return "None"
    return inspect.formatannotation(annotation).replace("collections.abc.", "")
