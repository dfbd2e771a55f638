"""Spans on both sides, where the program traces; nothing where it does not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import aioipc
from tests.links import Link
from tests.rpc.store import MemoryStore, connected

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.parametrize("link", ["memory"], indirect=True),
]


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    # The public way can be gone only once in a process.
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield exporter
    provider.shutdown()


def pair_of(exporter: InMemorySpanExporter, name: str) -> tuple[ReadableSpan, ReadableSpan]:
    """The spans of one call: the caller's and the method's."""
    spans = [span for span in exporter.get_finished_spans() if span.name == name]
    (client,) = (span for span in spans if span.kind is SpanKind.CLIENT)
    (server,) = (span for span in spans if span.kind is SpanKind.SERVER)
    assert client.context is not None
    assert server.parent is not None
    assert server.parent.span_id == client.context.span_id
    assert server.parent.trace_id == client.context.trace_id
    return client, server


async def test_a_call(link: Link, exporter: InMemorySpanExporter) -> None:
    class Nosy(MemoryStore):
        async def ping(self) -> str:
            await asyncio.sleep(0)
            return trace.get_current_span().get_span_context().trace_id.to_bytes(16, "big").hex()

    tracer = trace.get_tracer("test")
    async with connected(link, Nosy()) as (store, _):
        with tracer.start_as_current_span("outside") as outside:
            seen = await store.ping()
        assert seen == f"{outside.get_span_context().trace_id:032x}"
        client, server = pair_of(exporter, "Store/ping")
        assert client.parent is not None
        assert client.parent.span_id == outside.get_span_context().span_id
        assert dict(server.attributes or {})["rpc.method"] == "ping"
        assert client.status.status_code is server.status.status_code is StatusCode.UNSET


async def test_a_failure(link: Link, exporter: InMemorySpanExporter) -> None:
    async with connected(link) as (store, _):
        with pytest.raises(aioipc.RemoteError):
            await store.fail("oh")
        for span in pair_of(exporter, "Store/fail"):
            assert span.status.status_code is StatusCode.ERROR
            assert "oh" in str(span.status.description)


async def test_a_stream_and_a_cancelled_call(link: Link, exporter: InMemorySpanExporter) -> None:
    async with connected(link) as (store, service):
        assert [number async for number in store.count(3)] == [0, 1, 2]
        pair_of(exporter, "Store/count")
        task = asyncio.ensure_future(store.forever())
        while await service.events.get() != "began":
            pass
        task.cancel()
        while await service.events.get() != "cancelled":
            pass
        assert await store.get("a") == 1
        pair_of(exporter, "Store/forever")


async def test_without_a_provider_nothing_travels(link: Link) -> None:
    async with connected(link) as (store, service):
        await store.get("a")
        assert service.calls[0].metadata == {}


async def test_metadata_travel_beside(link: Link, exporter: InMemorySpanExporter) -> None:
    from aioipc import rpc

    async with connected(link) as (store, service):
        with rpc.metadata(tenant="acme"):
            await store.get("a")
        metadata: Any = service.calls[0].metadata
        assert set(metadata) == {"tenant", "traceparent"}
