"""Spans of OpenTelemetry around calls, in a program that has loaded its API."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

from aioipc.rpc._interface import Method
from aioipc.wire.rpc import Raise

if TYPE_CHECKING:
    from opentelemetry.trace import Span
else:
    Span = Any

__all__ = ["TRACING", "Span", "Tracing", "active_tracing", "end_span"]

TRACING: Final = "opentelemetry.trace"


class Tracing:
    """What this package needs of the API."""

    def __init__(self) -> None:
        from opentelemetry import context, propagate, trace  # noqa: PLC0415 - the program has it

        self._trace = trace
        self._propagate = propagate
        self._context = context

    @property
    def is_on(self) -> bool:
        """Whether somebody gave the spans somewhere to go."""
        provider = self._trace.get_tracer_provider()
        return not isinstance(provider, self._trace.ProxyTracerProvider)

    def begin_call(
        self, method: Method, metadata: dict[str, str] | None
    ) -> tuple[Span, dict[str, str]]:
        """The span of a call of this side, and the metadata that carry it to the far side."""
        span = self._start(method, self._trace.SpanKind.CLIENT, None)
        carrier = dict(metadata or {})
        self._propagate.inject(carrier, self._trace.set_span_in_context(span))
        return span, carrier

    def begin_method(self, method: Method, metadata: dict[str, str] | None) -> Span:
        """The span of a method that runs here, which becomes the current one of this context."""
        caller = self._propagate.extract(metadata or {})
        span = self._start(method, self._trace.SpanKind.SERVER, caller)
        self._context.attach(self._trace.set_span_in_context(span))  # ends with the context
        return span

    def _start(self, method: Method, kind: Any, context: Any) -> Span:
        tracer = self._trace.get_tracer("aioipc.rpc")
        attributes = {
            "rpc.system": "aioipc",
            "rpc.service": method.owner,
            "rpc.method": method.name,
        }
        name = f"{method.owner}/{method.name}"
        span: Span = tracer.start_span(name, context=context, kind=kind, attributes=attributes)
        return span

    def end(self, span: Span, outcome: object) -> None:
        """End a span with how its call went."""
        if isinstance(outcome, Raise):
            self._fail(span, f"{outcome.code} {outcome.kind}: {outcome.message}")
        elif isinstance(outcome, BaseException):
            span.record_exception(outcome)
            self._fail(span, f"{type(outcome).__qualname__}: {outcome}")
        span.end()

    def _fail(self, span: Span, text: str) -> None:
        span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, text))


_tracing: Tracing | None = None


def active_tracing() -> Tracing | None:
    """The tracing of this program; None if it does not trace."""
    global _tracing  # noqa: PLW0603 - found once, when the program has loaded it
    if TRACING not in sys.modules:
        return None
    if _tracing is None:
        _tracing = Tracing()
    return _tracing if _tracing.is_on else None


def end_span(span: Span | None, outcome: object) -> None:
    """End the span of a call, if it has one.

    Args:
        span: The span.
        outcome: An exception or a `Raise` if the call failed.
    """
    if span is not None:
        assert _tracing is not None, "it made the span"
        _tracing.end(span, outcome)
