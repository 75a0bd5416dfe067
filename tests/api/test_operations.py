"""Test the functions that trace calls outside of Django."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import requests
from opentelemetry.trace import SpanKind, StatusCode

from django_tracing import (
    create_span,
    trace_cache_operation,
    trace_database_operation,
    trace_external_call,
    trace_rate_limit_check,
)
from tests.api.asserts import attributes, is_child
from tests.callees import Callee
from tests.conftest import Spans


def test_a_cache_outside_of_django(spans: Spans) -> None:
    store: dict[str, int] = {}
    assert trace_cache_operation("get", "blueprint:4711", lambda: store.get("x"), system="memcached") is None
    assert trace_cache_operation("set", "blueprint:4711", lambda: True, system="memcached")
    assert attributes(spans.one("cache.get.blueprint:*")) == {
        "operation.type": "cache",
        "cache.operation": "get",
        "cache.system": "memcached",
        "cache.key": "blueprint:*",
        "cache.hit": False,
    }
    assert spans.one("cache.set.blueprint:*").kind is SpanKind.CLIENT


async def test_a_database_outside_of_django(spans: Spans) -> None:
    async def run() -> list[int]:
        return [1]

    found = await trace_database_operation(
        "select", "people", run, statement="SELECT * FROM people WHERE name = 'Ada'", system="clickhouse"
    )
    assert found == [1]
    assert attributes(spans.one("db.select.people")) == {
        "operation.type": "database",
        "db.operation": "select",
        "db.sql.table": "people",
        "db.system": "clickhouse",
        "db.statement": "SELECT * FROM people WHERE name = ?",
    }


def test_a_call_with_a_library_that_is_not_traced(spans: Spans) -> None:
    sent: dict[str, str] = {}

    def call(headers: dict[str, str]) -> SimpleNamespace:
        sent.update(headers)
        return SimpleNamespace(status_code=503)

    trace_external_call("user-service", "POST", "https://u:p@user-service/users?token=hunter2", call)
    span = spans.one("http.post.user-service")
    assert attributes(span) == {
        "operation.type": "external",
        "http.method": "POST",
        "http.url": "https://user-service/users?token=[redacted]",
        "http.status_code": 503,
        "peer.service": "user-service",
    }
    assert span.kind is SpanKind.CLIENT
    assert span.status.status_code is StatusCode.ERROR
    assert sent["traceparent"].split("-")[2] == f"{span.get_span_context().span_id:016x}"
    assert sent["X-Correlation-ID"] == (span.attributes or {})["correlation.id"]


def test_a_call_with_a_traced_library_is_one_client_span(spans: Spans) -> None:
    with Callee() as callee, create_span("request"):
        answer = trace_external_call(
            "user-service", "GET", callee.url, lambda headers: requests.get(callee.url, headers=headers, timeout=5)
        )
        assert answer.status_code == 200
    ours, theirs = spans.one("external.user-service"), spans.one("http.get.user-service")
    assert is_child(theirs, ours)
    assert is_child(ours, spans.one("request"))
    assert (ours.kind, theirs.kind) == (SpanKind.INTERNAL, SpanKind.CLIENT)
    assert (theirs.attributes or {})["peer.service"] == "user-service"
    assert (ours.attributes or {})["http.status_code"] == 200
    parent_of_callee = callee.received[-1]["traceparent"].split("-")[2]
    assert parent_of_callee == f"{theirs.get_span_context().span_id:016x}"


def test_a_custom_rate_limit(spans: Spans) -> None:
    with create_span("request"):
        with trace_rate_limit_check("orders.create", user=SimpleNamespace(pk=42), subscription="pro") as check:
            check.allowed, check.limit, check.remaining, check.reset = False, 100, 0, 30
        with pytest.raises(ConnectionError), trace_rate_limit_check("orders.create"):
            raise ConnectionError
    blocked, failed = spans.named("rate_limit.check")
    assert attributes(blocked) == {
        "operation.type": "rate_limit",
        "rate_limit.operation": "orders.create",
        "rate_limit.allowed": False,
        "rate_limit.limit": 100,
        "rate_limit.remaining": 0,
        "rate_limit.reset": 30,
        "user.id": "42",
        "user.subscription": "pro",
    }
    assert blocked.status.status_code is StatusCode.UNSET
    assert failed.status.status_code is StatusCode.ERROR
    assert (spans.one("request").attributes or {})["rate_limit.blocked"] is True
