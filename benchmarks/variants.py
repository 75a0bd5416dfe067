"""What is compared: each tracer as its own documentation says to set it up, everything it makes sent over HTTP."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

__all__ = ["PEERS", "REQUIREMENTS", "start"]

_SITE: Final = ("django", "psycopg[binary]", "django-redis", "pybreaker")
#: Variant -> what its virtual environment holds; "." is this checkout.
REQUIREMENTS: Final[dict[str, tuple[str, ...]]] = {
    "untraced": _SITE,
    "ours": (*_SITE, "."),
    "upstream": (
        *_SITE,
        "opentelemetry-sdk",
        "opentelemetry-exporter-otlp-proto-http",
        "opentelemetry-instrumentation-django",
        "opentelemetry-instrumentation-psycopg",
        "opentelemetry-instrumentation-redis",
    ),
}
PEERS: Final = ()


def start(variant: str) -> Callable[[], Any]:
    """Sets ``variant`` up in this process; gives what sends all that waits."""
    return globals()[f"_start_{variant}"]()  # type: ignore[no-any-return]


def _start_untraced() -> Callable[[], Any]:
    return lambda: True


def _start_ours() -> Callable[[], Any]:
    # It is in INSTALLED_APPS: that is all.
    from opentelemetry import trace

    return lambda: trace.get_tracer_provider().force_flush()  # type: ignore[attr-defined]


def _start_upstream() -> Callable[[], Any]:
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.instrumentation.django import DjangoInstrumentor
    from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor
    from opentelemetry.instrumentation.redis import RedisInstrumentor
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    provider = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(float(os.environ["BENCHMARK_RATE"]))),
        resource=Resource.create({"service.name": os.environ["BENCHMARK_SERVICE"]}),
    )
    exporter = OTLPSpanExporter(os.environ["BENCHMARK_ENDPOINT"] + "/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    DjangoInstrumentor().instrument()
    PsycopgInstrumentor().instrument()
    RedisInstrumentor().instrument()
    return provider.force_flush
