"""Set up each compared tracer as in its documentation, exporting all its spans over HTTP."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any, Final

__all__ = ["PEERS", "REQUIREMENTS", "start"]

_SITE: Final = ("django", "psycopg[binary]", "django-redis", "pybreaker")
#: Variant -> the packages of its virtual environment; "." is this checkout.
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
    "ddtrace": (*_SITE, "ddtrace"),
    "sentry": (*_SITE, "sentry-sdk"),
    "logfire": (*_SITE, "logfire[django,psycopg,redis]"),
    "elastic": (*_SITE, "elastic-apm"),
}
PEERS: Final = ("ddtrace", "sentry", "logfire", "elastic")


def start(variant: str) -> Callable[[], Any]:
    """Set up ``variant`` in this process; return a function that sends all waiting spans."""
    return globals()[f"_start_{variant}"]()  # type: ignore[no-any-return]


def _start_untraced() -> Callable[[], Any]:
    return lambda: True


def _start_ours() -> Callable[[], Any]:
    # Its entry in INSTALLED_APPS is enough.
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


def _start_ddtrace() -> Callable[[], Any]:
    os.environ.update(
        DD_TRACE_AGENT_URL=os.environ["BENCHMARK_ENDPOINT"],
        DD_SERVICE=os.environ["BENCHMARK_SERVICE"],
        DD_TRACE_SAMPLING_RULES=json.dumps([{"sample_rate": float(os.environ["BENCHMARK_RATE"])}]),
        DD_TRACE_RATE_LIMIT="-1",
        # Only traces, and only to the receiver.
        DD_INSTRUMENTATION_TELEMETRY_ENABLED="false",
        DD_REMOTE_CONFIGURATION_ENABLED="false",
    )
    import ddtrace.auto  # noqa: F401
    from ddtrace.trace import tracer

    return tracer.flush  # type: ignore[no-any-return]


def _start_sentry() -> Callable[[], Any]:
    import sentry_sdk

    sentry_sdk.init(
        os.environ["BENCHMARK_ENDPOINT"].replace("://", "://key@") + "/1",
        traces_sample_rate=float(os.environ["BENCHMARK_RATE"]),
        environment=os.environ["BENCHMARK_SERVICE"],
    )
    return lambda: sentry_sdk.flush(10)


def _start_logfire() -> Callable[[], Any]:
    import logfire
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    exporter = OTLPSpanExporter(os.environ["BENCHMARK_ENDPOINT"] + "/v1/traces")
    logfire.configure(
        send_to_logfire=False,
        service_name=os.environ["BENCHMARK_SERVICE"],
        sampling=logfire.SamplingOptions(head=float(os.environ["BENCHMARK_RATE"])),
        additional_span_processors=[BatchSpanProcessor(exporter)],
        console=False,
        metrics=False,
        inspect_arguments=False,
    )
    logfire.instrument_django()
    logfire.instrument_psycopg()
    logfire.instrument_redis()
    return logfire.force_flush


def _start_elastic() -> Callable[[], Any]:
    # Its app and middleware are in benchmarks/settings.py; django.setup() creates the client.
    from elasticapm import get_client

    def flush() -> None:
        client = get_client()
        if client is not None:
            client._transport.flush()

    return flush
