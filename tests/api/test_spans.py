"""Test the functions that a user's code calls."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import override_settings
from opentelemetry import trace as trace_api
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode

import django_tracing
from django_tracing import (
    add_span_event,
    create_span,
    current_trace_id,
    get_correlation_id,
    record_span_error,
    set_span_attributes,
    trace,
    trace_cache_operation,
    trace_database_operation,
    trace_external_call,
    trace_function,
    trace_rate_limit_check,
    trace_url,
)
from django_tracing.spans import runtime
from tests.api.asserts import attributes, is_child
from tests.conftest import Spans


@pytest.fixture
def unsampled() -> Iterator[None]:
    """Enter an unsampled trace."""
    parent = NonRecordingSpan(SpanContext(1, 2, is_remote=False))
    with trace_api.use_span(parent):
        yield


# ----- trace_function


def test_a_function_runs_in_a_span_and_its_result_is_returned(spans: Spans) -> None:
    with create_span("request"):
        assert trace_function("orders.total", lambda: 42, {"orderCount": 3}) == 42
    assert attributes(spans.one("orders.total")) == {"order_count": 3}
    assert is_child(spans.one("orders.total"), spans.one("request"))


def test_an_error_is_recorded_and_propagates_unchanged(spans: Spans) -> None:
    error = ValueError("password=hunter2")

    def fail() -> None:
        raise error

    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the test compares the object
        trace_function("orders.total", fail)
    assert caught.value is error
    span = spans.one("orders.total")
    assert span.status.status_code is StatusCode.ERROR
    assert [event.name for event in span.events] == ["exception"]
    assert "hunter2" not in span.to_json()


async def test_an_awaitable_is_awaited_in_the_span(spans: Spans) -> None:
    async def fetch() -> str:
        await asyncio.sleep(0)
        with create_span("inner"):
            return "fetched"

    with create_span("request"):
        assert await trace_function("fetch", fetch) == "fetched"
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        waited = trace_function("future", lambda: future)
        future.set_result("done")
        assert waited is future
        assert await waited == "done"
        await asyncio.sleep(0)  # the loop calls back
    assert is_child(spans.one("inner"), spans.one("fetch"))
    assert is_child(spans.one("future"), spans.one("request"))


async def test_a_cancelled_call_is_not_an_error(spans: Spans) -> None:
    started = asyncio.Event()

    async def wait() -> None:
        started.set()
        await asyncio.Event().wait()

    async def call() -> None:
        await trace_function("wait", wait)

    task = asyncio.create_task(call())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert spans.one("wait").status.status_code is StatusCode.UNSET


# ----- create_span


def test_a_span_is_current_only_inside_its_block(spans: Spans) -> None:
    span = create_span("invoice.render", {"pages": 2})
    with create_span("beside"):
        pass
    with span as entered:
        assert entered is span
        assert current_trace_id() == f"{span.span.get_span_context().trace_id:032x}"
        entered.set_attributes({"customer.tier": "pro"})
        entered.add_event("printed", {"printer": "a@b.example"})
        with create_span("inside"):
            pass
    assert current_trace_id() is None
    assert attributes(spans.one("invoice.render")) == {"pages": 2, "customer.tier": "pro"}
    assert [(event.name, dict(event.attributes or {})) for event in spans.one("invoice.render").events] == [
        ("printed", {"printer": "a***@b.example"})
    ]
    assert is_child(spans.one("inside"), spans.one("invoice.render"))
    assert spans.one("beside").parent is None


def test_a_span_ends_once_and_ignores_later_calls(spans: Spans, caplog: pytest.LogCaptureFixture) -> None:
    span = create_span("by hand")
    assert span.is_recording
    span.end()
    span.end()
    span.set_attributes({"late": True})
    span.add_event("late")
    span.record_error(ValueError())
    assert not span.is_recording
    assert attributes(spans.one("by hand")) == {}
    assert caplog.records == []


async def test_async_blocks(spans: Spans) -> None:
    with pytest.raises(KeyError):
        async with create_span("outer"):
            async with create_span("inner", kind=SpanKind.CONSUMER):
                await asyncio.sleep(0)
            raise KeyError("x")
    assert is_child(spans.one("inner"), spans.one("outer"))
    assert spans.one("inner").kind is SpanKind.CONSUMER
    assert spans.one("outer").status.status_code is StatusCode.ERROR


def test_a_span_without_a_parent_starts_a_trace_with_a_correlation_id(spans: Spans) -> None:
    with create_span("nightly.sync"):
        correlation_id = get_correlation_id()
        with create_span("step"):
            pass
    assert correlation_id is not None
    for name in ("nightly.sync", "step"):
        assert (spans.one(name).attributes or {})["correlation.id"] == correlation_id
    assert get_correlation_id() is None


# ----- Unsampled or disabled


def every_helper() -> list[Any]:
    """Call each helper once and return the results."""

    def generate() -> Iterator[int]:
        yield from (1, 2)

    with create_span("block", {"a": 1}) as span:
        span.set_attributes({"b": 2})
        span.add_event("event")
        span.record_error(ValueError("x"))
    with trace_rate_limit_check("orders") as check:
        check.allowed, check.limit, check.remaining = False, 10, 0
    set_span_attributes({"a": 1})
    add_span_event("event", {"a": 1})
    record_span_error(ValueError("x"))
    return [
        trace_function("f", lambda: 1),
        trace("named")(lambda: 2)(),
        list(trace(generate)()),
        trace_cache_operation("get", "blueprint:1", lambda: 3, system="redis"),
        trace_database_operation("select", "people", lambda: 4, statement="SELECT 1"),
        trace_external_call("user-service", "get", "http://user-service/", lambda: 5),
        trace_external_call("user-service", "get", "http://user-service/", lambda headers: sorted(headers)[:0]),
    ]


@pytest.mark.usefixtures("unsampled")
def test_in_an_unsampled_trace_helpers_call_the_code_and_make_no_spans(spans: Spans) -> None:
    assert every_helper() == [1, 2, [1, 2], 3, 4, 5, []]
    assert spans.names == []
    assert trace_url() is None
    assert current_trace_id() == "0" * 31 + "1"
    with pytest.raises(ZeroDivisionError):
        trace_function("f", lambda: 1 / 0)


def test_when_tracing_is_disabled_helpers_call_the_code_and_make_no_spans(
    spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "current", runtime.Runtime())
    assert every_helper() == [1, 2, [1, 2], 3, 4, 5, []]
    assert spans.names == []
    assert current_trace_id() is None
    with pytest.raises(ZeroDivisionError):
        trace_function("f", lambda: 1 / 0)


# ----- The current span


def test_the_current_span(spans: Spans) -> None:
    with create_span("request"):
        set_span_attributes({"Cart Items": 3, "session_key": "hunter2", "empty": None})
        add_span_event("cart.checked", {"ok": True})
        record_span_error(RuntimeError("it broke"))
    span = spans.one("request")
    assert attributes(span) == {"cart_items": 3, "session_key": "[redacted]", "error.type": "RuntimeError"}
    assert [event.name for event in span.events] == ["cart.checked", "exception"]
    assert span.status.status_code is StatusCode.ERROR


def test_the_address_of_a_trace() -> None:
    assert trace_url() is None
    with create_span("request"):
        with override_settings(TRACING={"QUERY_URL": "https://jaeger.example.com/"}):
            assert trace_url() == f"https://jaeger.example.com/trace/{current_trace_id()}"
            assert trace_url("ab" * 16) == f"https://jaeger.example.com/trace/{'ab' * 16}"
        with override_settings(TRACING={"EXPORTER": "local"}):
            assert trace_url() is None, "the admin is not installed"
            with override_settings(ROOT_URLCONF="tests.e2e.test_admin"):
                assert trace_url() == f"/admin/django_tracing/trace/{current_trace_id()}/"
        with override_settings(TRACING={"EXPORTER": "console"}, ROOT_URLCONF="tests.e2e.test_admin"):
            assert trace_url() is None, "nothing is kept"


def test_all_public_names_exist() -> None:
    for name in django_tracing.__all__:
        assert getattr(django_tracing, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'trase'"):
        _ = django_tracing.trase
