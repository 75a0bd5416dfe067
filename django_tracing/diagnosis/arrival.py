"""Send a test trace, and read it back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from django_tracing.conf.loading import QUERY_PORT
from django_tracing.conf.values import Settings
from django_tracing.context.current import suppressed
from django_tracing.diagnosis.advice import STORE, split_message
from django_tracing.diagnosis.findings import NETWORKED, Run, Step, Stop, shown
from django_tracing.exceptions import ExportError, ReadError
from django_tracing.provider import make_provider
from django_tracing.traces.model import Trace
from django_tracing.traces.readers.base import Reader
from django_tracing.traces.readers.choosing import get_reader

__all__ = ["read_back", "send"]


def send(run: Run) -> Iterator[Step]:
    """Export a test trace."""
    exporter = run.exporter
    assert exporter is not None
    spans = _test_trace(run.settings)
    context = spans[0].context
    assert context is not None
    run.trace_id = f"{context.trace_id:032x}"

    def export() -> SpanExportResult:
        context_api.attach(suppressed())
        return exporter.export(spans)

    try:
        result = run.bounded(export)
    except ExportError as error:
        yield _rejected(run, error)
        raise Stop from None
    except TimeoutError:
        raise
    except Exception as error:
        yield run.failure("send", "failed", f"The exporter raised {type(error).__name__}: {error}")
        raise Stop from None
    if result is not SpanExportResult.SUCCESS:
        yield run.failure("send", "failed", "The exporter reported a failure.")
        raise Stop
    if not run.unconfirmed():
        run.exit_code = 0
    yield Step("send", "ok", f"a test trace of {len(spans)} spans was {_sent(run)}")


def _rejected(run: Run, error: ExportError) -> Step:
    store = error.__cause__
    if isinstance(store, ReadError):
        problem, remedy = split_message(str(store), "Set LOCAL_STORE to another path.")
        return Step("send", "failed", problem, STORE.get(store.reason, "No trace can be stored."), remedy)
    step = run.failure("send", error.reason, str(error))
    return replace(step, remedy=run.advise_credentials()) if error.reason == "unauthorized" else step


def _sent(run: Run) -> str:
    if run.settings.exporter == "local":
        return "written"
    return "accepted" if run.settings.exporter in NETWORKED and not run.unconfirmed() else "sent"


def _test_trace(settings: Settings) -> list[ReadableSpan]:
    """Return a root span and a child. They have their own provider, so that the sampling in force can't drop them.

    The list is empty if the SDK is disabled.
    """
    ended: list[ReadableSpan] = []

    class Keep(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            ended.append(span)

    provider = make_provider(settings, ALWAYS_ON, shutdown_on_exit=False)
    provider.add_span_processor(Keep())
    tracer = provider.get_tracer("django_tracing")
    attributes: dict[str, Any] = {"operation.type": "check"}
    root = tracer.start_span("check_tracing", context_api.Context(), attributes=attributes)
    tracer.start_span("check_tracing.child", trace.set_span_in_context(root, context_api.Context())).end()
    root.end()
    return ended


def read_back(run: Run) -> Iterator[Step]:
    """Read the test trace from where it was sent."""
    settings = run.settings
    readable = settings.exporter == "local" or settings.query_url is not None or settings.reader is not None
    if not run.query or not readable:
        yield _not_read(run)
        return
    try:
        reader = get_reader(settings, timeout=min(run.remaining(), 5.0))
        found = _wait_for_trace(run, reader)
    except ReadError as error:
        yield _unreadable(run, str(error))
        return
    except TimeoutError:
        yield _unreadable(run, f"{reader.describe()} did not answer in time.")
        return
    if found is None:
        yield _not_found(run)
        return
    run.exit_code = 0
    assert run.trace_id is not None
    run.link = reader.trace_link(run.trace_id) or f"python manage.py traces {run.trace_id}"
    where = reader.describe()
    version = getattr(reader, "version", None)
    if isinstance(version, str):
        where += f" (query API {version})"
    if len(found.spans) < 2:
        yield Step(
            "read",
            "warning",
            f"only one of the two spans was read back from {where}",
            "The other span is lost or late: something between here and there drops or delays spans.",
            "Look at the trace again later, then into the collector's log.",
        )
    else:
        yield Step("read", "ok", f"the trace was read back from {where}")


def _not_read(run: Run) -> Step:
    if run.unconfirmed():
        return Step(
            "read",
            "warning",
            "The trace was not read back.",
            "UDP has no answers, so it is unknown whether the trace arrived.",
            "Remove --no-query. If Jaeger's query API is on another host, set QUERY_URL.",
        )
    if run.query:
        return Step("read", "skipped", f"the spans of the exporter {run.settings.exporter} can't be read back")
    return Step("read", "skipped", "because of --no-query")


def _wait_for_trace(run: Run, reader: Reader) -> Trace | None:
    """Return the trace as soon as it is complete, or what is there at the deadline."""
    trace_id = run.trace_id
    assert trace_id is not None
    while True:
        late = time.monotonic() >= run.deadline
        try:
            found = run.bounded(lambda: reader.trace(trace_id))
            if late or (found is not None and len(found.spans) >= 2):
                return found
        except ReadError as error:
            # An internal error of the server may pass; a wrong address stays wrong.
            if late or error.reason != "failed":
                raise
        time.sleep(min(0.1, run.remaining()))


def _unreadable(run: Run, problem: str) -> Step:
    detail, remedy = split_message(problem, "")
    if run.settings.exporter == "local":
        return Step("read", "failed", detail, "The trace was written, but it can't be read.", remedy)
    return Step(
        "read",
        "warning",
        detail,
        "UDP has no answers, so it is unknown whether the trace arrived."
        if run.unconfirmed()
        else "The trace was accepted, but it is unknown whether it can be read.",
        f"{remedy} The address of Jaeger's query API is QUERY_URL (or --query-url), by default port {QUERY_PORT} on "
        "the endpoint's host. To skip this step, use --no-query.".strip(),
    )


def _not_found(run: Run) -> Step:
    if run.settings.exporter == "local":
        return Step(
            "read",
            "failed",
            f"The trace was written to {run.settings.local_store}, but it can't be found there.",
            "Something removes or replaces the file.",
            "Check what else writes there, or set LOCAL_STORE to another path.",
        )
    where = shown(run.settings.query_url)
    if run.unconfirmed():
        return Step(
            "read",
            "failed",
            f"The trace is not in the Jaeger at {where} after {run.timeout:g} s.",
            "No program listens on that UDP port, or the packets are lost on the way.",
            f"Check the host and port in {run.endpoint_place}, or send over TCP: port 4318 (OTLP over HTTP).",
        )
    return Step(
        "read",
        "failed",
        f"The trace was accepted, but it is not in the Jaeger at {where} after {run.timeout:g} s.",
        "The collector sends spans to another Jaeger, drops them (its own sampling, a full storage), or stores them "
        "slowly (through Kafka, for example).",
        "Check that QUERY_URL leads to the same Jaeger, look into the collector's log, or wait longer: --timeout 60.",
    )
