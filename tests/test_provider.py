"""Test how tracing is set up in a process: automatically, once, and beside an existing provider."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

from django_tracing.recording.sdk import ON_ENDING
from tests.e2e.processes import ROOT, environment
from tests.receivers import OTLPReceiver


def run(code: str, **variables: str) -> Any:
    """Return the JSON that ``code`` prints in a new process, after ``django.setup()`` unless it calls that itself."""
    prelude = "import json\n" + ("" if "django.setup()" in code else "import django\ndjango.setup()\n")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", prelude + textwrap.dedent(code)],
        env=environment(**variables),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else None


ASK = """
from django.test import Client
assert Client().get("/empty/").status_code == 200
"""


def test_the_resource_identifies_the_sender() -> None:
    with OTLPReceiver() as receiver:
        run(
            ASK,
            JAEGER_ENDPOINT=receiver.endpoint,
            SERVICE_NAME="shop",
            SERVICE_VERSION="7",
            ENVIRONMENT="staging",
            OTEL_RESOURCE_ATTRIBUTES="team=checkout",
        )
        (span,) = receiver.wait_for(1)
    resource = span.resource
    assert resource["service.name"] == "shop"
    assert resource["service.version"] == "7"
    assert resource["deployment.environment"] == resource["deployment.environment.name"] == "staging"
    assert resource["team"] == "checkout"
    assert resource["host.name"]
    assert isinstance(resource["process.pid"], int)
    assert resource["process.runtime.name"] == "cpython"
    assert resource["telemetry.sdk.language"] == "python"
    assert span.scope == "django_tracing"


def test_headers_are_sent() -> None:
    with OTLPReceiver() as receiver:
        run(ASK, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint, OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer%20x")
        receiver.wait_for(1)
        assert receiver.headers[0]["authorization"] == "Bearer x"


def test_with_a_sample_rate_of_zero_only_sampled_callers_are_traced() -> None:
    with OTLPReceiver() as receiver:
        run(
            """
            from django.test import Client
            Client().get("/empty/?not")
            Client().get("/empty/?joined", headers={"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"})
            """,
            JAEGER_ENDPOINT=receiver.endpoint,
            OTEL_TRACES_SAMPLER_ARG="0",
        )
        (span,) = receiver.wait_for(1)
    assert span.trace_id == "4bf92f3577b34da6a3ce929d0e0e4736"


def test_tracing_takes_precedence_over_a_disabled_sdk() -> None:
    with OTLPReceiver() as receiver:
        run(
            ASK,
            JAEGER_ENDPOINT=receiver.endpoint,
            OTEL_SDK_DISABLED="true",
            TRACING_SETTINGS='{"ENABLED": true}',
        )
        receiver.wait_for(1)


def test_setting_up_twice_has_no_effect() -> None:
    counts = run(
        """
        from django.conf import settings
        from opentelemetry import trace
        from django_tracing import provider
        before = len(trace.get_tracer_provider()._active_span_processor._span_processors)
        provider.start()
        after = len(trace.get_tracer_provider()._active_span_processor._span_processors)
        print(json.dumps([before, after, settings.MIDDLEWARE.count("django_tracing.middleware.TracingMiddleware")]))
        """
    )
    assert counts[0] == counts[1]
    assert counts[2] == 1


OWN = """
import django
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

own = TracerProvider(resource=Resource.create({"service.name": "mine"}))
kept = InMemorySpanExporter()
own.add_span_processor(SimpleSpanProcessor(kept))
trace.set_tracer_provider(own)
django.setup()
assert trace.get_tracer_provider() is own
from django.test import Client
Client().get("/empty/?token=s3cret")
print(json.dumps([[span.name, dict(span.attributes), span.resource.attributes["service.name"]] for span in kept.get_finished_spans()]))
"""


def test_an_existing_provider_is_used() -> None:
    ((name, attributes, service),) = run(OWN)
    assert (name, service) == ("GET /empty/", "mine")
    assert attributes["http.query.token"] == "[redacted]"
    assert attributes["correlation.id"]


def test_with_an_existing_provider_spans_are_exported_only_if_configured() -> None:
    with OTLPReceiver() as receiver:
        run(OWN, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint)
        assert receiver.spans == [], "that variable is for the existing provider"
        run(OWN, JAEGER_ENDPOINT=receiver.endpoint)
        (span,) = receiver.wait_for(1)
    assert span.service == "mine"


@pytest.mark.usefixtures("without_coverage")
def test_nothing_is_imported_that_is_not_used() -> None:
    loaded = run(
        """
        import sys
        print(json.dumps([name for name in ("grpc", "requests", "thrift", "google.protobuf", "sqlite3", "httpx") if name in sys.modules]))
        """,
        JAEGER_ENDPOINT="http://127.0.0.1:9",
    )
    # django-redis and PostgreSQL of the test settings import other modules, but none of these.
    assert loaded == []


def test_a_missing_extra_is_one_log_line_and_the_application_works() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.modules['grpc'] = None\nimport django; django.setup()\n" + ASK],
        env=environment(JAEGER_ENDPOINT="http://127.0.0.1:4317"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Spans are not exported") == 1
    assert 'pip install "django-tracing-otel[otlp-grpc]"' in done.stderr


def test_the_package_imports_without_django_or_settings() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import django_tracing, sys; sys.exit('django' in sys.modules)"], cwd=ROOT, timeout=120
    )
    assert done.returncode == 0


def test_the_provider_of_the_tests_is_this_apps() -> None:
    assert isinstance(trace.get_tracer_provider(), TracerProvider)


DURING_START = """
import django, threading
from opentelemetry import trace
from opentelemetry.sdk.trace import SynchronousMultiSpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from django_tracing.spans import runtime

class Busy(TracerProvider):
    # Its spans end in another thread whenever this app does something with it.
    def busy(self):
        def work():
            tracer = super(Busy, self).get_tracer("shop")
            for _ in range(2):
                span = tracer.start_span("checkout", attributes={"tariff_code": "s3cret", "plan": "hunter2"})
                span.add_event("tariff_code=s3cret")
                span.end()
        if multi._span_processors[1:]:
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()

    def add_span_processor(self, processor):
        super().add_span_processor(processor)
        self.busy()

    def get_tracer(self, *args, **kwargs):
        self.busy()
        return super().get_tracer(*args, **kwargs)

multi = SynchronousMultiSpanProcessor()
own = Busy(active_span_processor=multi)
kept = InMemorySpanExporter()
own.add_span_processor(SimpleSpanProcessor(kept))
trace.set_tracer_provider(own)
use = runtime.use
def busy_use(*args):
    own.busy()
    return use(*args)
runtime.use = busy_use
django.setup()
own.get_tracer("shop").start_span("late").end()
print(json.dumps([span.to_json() for span in kept.get_finished_spans()]))
"""


@pytest.mark.skipif(not hasattr(SpanProcessor, ON_ENDING), reason="old SDKs do not let spans be changed in place")
def test_spans_that_end_while_tracing_starts_are_redacted_as_the_settings_say() -> None:
    settings = '{"SENSITIVE_KEYS": ["tariff_code"], "REDACT": "tests.test_provider.redact_plans"}'
    texts = run(DURING_START, TRACING_SETTINGS=settings)
    assert len(texts) > 4
    for text in texts:
        assert "s3cret" not in text
        assert "hunter2" not in text


def redact_plans(key: str, value: Any) -> Any:
    return "a plan" if key == "plan" else value
