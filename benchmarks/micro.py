"""Measure the cost of each part alone, in microseconds. Runs in this app's virtual environment, like a worker.

The traced operation itself does nothing (a statement isn't sent, a cache has one key), so this is tracing's cost.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any, Final

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.settings")

_CALLS: Final = 2000


def pieces() -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """Return name -> the traced operation, and the same untraced."""
    import pybreaker
    from django.core.cache.backends.base import BaseCache
    from django.db import connection
    from django.http import HttpResponse
    from django.test import RequestFactory
    from opentelemetry import trace

    from django_tracing import spans
    from django_tracing.instrumentation import cache as cache_instrumentation
    from django_tracing.instrumentation import database
    from django_tracing.instrumentation.request.middleware import TracingMiddleware

    request = RequestFactory().get("/empty/?page=2", HTTP_USER_AGENT="Mozilla/5.0 (X11; Linux x86_64) Firefox/144.0")
    # A response of its own for each request: of one that is returned again, all but the first request get a copy.
    middleware = TracingMiddleware(lambda request: HttpResponse("ok"))

    class Cursor:
        rowcount = 1

    context = {"connection": connection, "cursor": Cursor()}
    sql = "SELECT id, name, email FROM benchmark_customers WHERE id = %s"

    def execute(sql: Any, params: Any, many: bool, context: Any) -> None:
        return None

    connect = database._traced_connect(lambda connection: None)

    class Nothing(BaseCache):
        def get(self, key: str, default: Any = None, version: Any = None) -> Any:
            return default

    Nothing.get.__module__ = "django.core.cache.backends.nothing"
    untraced_cache = Nothing({})
    traced_cache = Nothing({})
    cache_instrumentation._trace_cache(traced_cache, "default")

    breaker = pybreaker.CircuitBreaker(name="payment-service")

    def work() -> int:
        return 1

    traced = vars(pybreaker.CircuitBreaker)["call"]
    call = getattr(traced, "__wrapped__", traced)
    sdk_tracer = trace.get_tracer("sdk")
    attributes = {f"attribute.{number}": f"value {number}" for number in range(8)}

    return {
        "request": (lambda: middleware(request), lambda: HttpResponse("ok")),
        "SQL": (
            lambda: database._execute(execute, sql, (1,), False, context),
            lambda: execute(sql, (1,), False, context),
        ),
        "connecting": (lambda: connect(connection), lambda: None),
        "cache": (lambda: traced_cache.get("customer:1"), lambda: untraced_cache.get("customer:1")),
        "breaker": (lambda: breaker.call(work), lambda: call(breaker, work)),
        "the SDK's own span, 8 attributes": (
            lambda: sdk_tracer.start_span("span", attributes=attributes).end(),
            lambda: None,
        ),
        "our span by itself": (lambda: spans.end_span(spans.start_span("span")), lambda: None),
    }


def measure(function: Callable[[], Any]) -> float:
    """Return the smallest of several means, because disturbances only add time."""
    means = []
    for _ in range(9):
        started = time.perf_counter()
        for _ in range(_CALLS):
            function()
        means.append((time.perf_counter() - started) / _CALLS)
    return min(means) * 1e6


def deciding() -> Callable[[], Any]:
    """Return a function that makes the decision for a request that matches none of 10,000 rules of all kinds."""
    from django.test import RequestFactory
    from opentelemetry.trace import SpanKind

    from django_tracing.conf.loading import get_settings
    from django_tracing.context.request import RequestState
    from django_tracing.sampling.rules import Rule, compile_rules
    from django_tracing.sampling.sampler import RuleSampler

    kinds: list[Callable[[int], dict[str, Any]]] = [
        lambda n: {"path": f"/shops/{n}/*"},
        lambda n: {"path": f"~^/tenants/{n}/orders"},
        lambda n: {"user_id": str(n), "path": f"/accounts/{n}/"},
        lambda n: {"header_name": f"X-Tenant-{n % 50}", "header_value": str(n)},
        lambda n: {"path": "/page/1/", "method": "POST"} if n % 100 == 0 else {"path": f"/pages/{n}/"},
    ]
    rules = [Rule(n, f"rule {n}", **kinds[n % len(kinds)](n)) for n in range(10_000)]
    sampler = RuleSampler(0.0, get_settings())
    sampler.use(compile_rules(rules, get_settings().service_name))
    scope = RequestState("c0ffee", RequestFactory().get("/page/1/"))
    return lambda: sampler.decide(scope, "GET", SpanKind.SERVER, None, 1)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import django

    django.setup()
    from django.db import connection
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

    from django_tracing import spans
    from django_tracing.context.request import RequestState, with_request_state
    from django_tracing.export.wire import EncodedBatch, encode_span
    from django_tracing.spans import runtime

    connection.ensure_connection()
    tracing = trace.get_tracer_provider()
    assert isinstance(tracing, TracerProvider)
    queue = runtime.current.queue
    assert queue is not None
    costs: dict[str, float] = {}
    token = None
    root = spans.start_request_span("GET", RequestState("c0ffee"), with_request_state(RequestState("c0ffee")), ())
    if root.is_recording():
        token = spans.attach(spans.with_span(root, with_request_state(RequestState("c0ffee"))))
    for name, (traced, untraced) in pieces().items():
        for function in (traced, untraced):
            for _ in range(200):
                function()
        if name == "request" and token is not None:
            # A request has no parent.
            spans.detach(token)
        costs[name] = measure(traced) - measure(untraced)
        if name == "request" and token is not None:
            token = spans.attach(spans.with_span(root, with_request_state(RequestState("c0ffee"))))
        tracing.force_flush()
    costs["10,000 rules"] = measure(deciding())
    if root.is_recording():
        from django_tracing.recording.span import RecordingSpan

        child = spans.start_span("db.select.benchmark_customers", {"db.system": "postgresql", "db.rows": 1})
        child.end()
        assert isinstance(child, RecordingSpan)
        costs["encode"] = measure(lambda: encode_span(child))
        batch = EncodedBatch()
        packed, size = batch.pack(child)
        costs["enqueue"] = measure(lambda: batch.add(child, packed, size))
    json.dump(costs, answers)
    answers.flush()


if __name__ == "__main__":
    main()
