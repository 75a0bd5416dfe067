"""Test the conversion of spans to rows for the local store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)

from django_tracing.exceptions import ExportError
from django_tracing.export.local import LocalExporter, span_row
from django_tracing.export.queue import QueueProcessor
from django_tracing.traces.readers.sqlite.store import LocalStore
from tests.export.builders import ANY_VALUES, Recorder, make_spans
from tests.export.queues import end
from tests.jaegers import wait_until


def test_a_row_has_every_field_and_is_json() -> None:
    recorder = Recorder({"host.name": "h"})
    odd = {"raw": b"\xff", "mixed": [1, None, b"\x00"], "map": {"a": {"b": True}}}
    plain = {"raw": "ff", "mixed": [1, None, "00"], "map": {"a": {"b": True}}}
    parent = SpanContext(5, 6, is_remote=True, trace_flags=TraceFlags(1), trace_state=TraceState([("a", "1")]))
    span = recorder.tracer.start_span(
        "cache.get",
        context=trace.set_span_in_context(NonRecordingSpan(parent)),
        kind=SpanKind.CLIENT,
        attributes={"n": 1, "list": ["a", "b"], "f": 0.5, **(odd if ANY_VALUES else {})},
        links=[Link(SpanContext(7, 8, is_remote=False), {"why": "batch"})],
        start_time=1_000,
    )
    span.add_event("miss", {"key": "k"}, 1_500)
    span.set_status(Status(StatusCode.ERROR, "boom"))
    span.end(2_000)
    row = span_row(recorder.spans[0])
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    assert len(row.pop("span_id")) == 16
    assert row == {
        "trace_id": f"{5:032x}",
        "parent_id": f"{6:016x}",
        "name": "cache.get",
        "kind": "client",
        "service": "shop",
        "resource": {"service.name": "shop", "host.name": "h"},
        "scope": "tests",
        "start": 1_000,
        "end": 2_000,
        "status": "error",
        "status_message": "boom",
        "attributes": {"n": 1, "list": ["a", "b"], "f": 0.5, **(plain if ANY_VALUES else {})},
        "events": [{"name": "miss", "time": 1_500, "attributes": {"key": "k"}}],
        "links": [{"trace_id": f"{7:032x}", "span_id": f"{8:016x}", "attributes": {"why": "batch"}}],
        "trace_state": "a=1",
    }


def test_a_bare_span() -> None:
    row = span_row(make_spans()[0])
    assert (row["parent_id"], row["kind"], row["status"], row["status_message"]) == ("", "internal", "unset", "")
    assert (row["attributes"], row["events"], row["links"], row["trace_state"]) == ({}, [], [], "")


def test_numbers_that_json_cannot_represent() -> None:
    (span,) = make_spans(1, nan=float("nan"), inf=float("inf"), minus=float("-inf"))
    assert span_row(span)["attributes"] == {"nan": "nan", "inf": "inf", "minus": "-inf"}


def test_into_the_store_and_back(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "traces.sqlite3")
    spans = make_spans(2, broken="\udcff")
    LocalExporter(store.store).export(spans)
    context = spans[0].context
    assert context is not None
    found = store.trace(f"{context.trace_id:032x}")
    assert found is not None
    assert [span.name for span in found.spans] == ["span-0"]


@pytest.mark.parametrize(
    ("error", "retryable", "reason"),
    [
        (OSError("the disk is full"), True, "unavailable"),
        (RuntimeError("locked"), True, "unavailable"),
        # A batch that can never be stored must not block later spans.
        (TypeError("a set"), False, "rejected"),
        (ValueError("a surrogate"), False, "rejected"),
    ],
)
def test_a_store_that_fails(error: Exception, retryable: bool, reason: str) -> None:
    def write(rows: list[dict[str, Any]]) -> None:
        raise error

    with pytest.raises(ExportError, match=str(error)) as caught:
        LocalExporter(write).export(make_spans())
    assert (caught.value.retryable, caught.value.reason) == (retryable, reason)


def test_work_in_pauses_that_fails_costs_no_span() -> None:
    class Failing(LocalExporter):
        def __init__(self) -> None:
            self.stored: list[str] = []
            super().__init__(self._keep, self._fail)

        def _keep(self, sections: Any) -> None:
            self.stored += [facts.name for section in sections for facts in section.facts]

        def _fail(self) -> bool:
            raise RuntimeError("a bug")

    exporter = Failing()
    queue = QueueProcessor(exporter, export_interval=0.01)
    for number in range(3):
        end(queue, make_spans(name=f"a{number}"))
        wait_until(lambda number=number: len(exporter.stored) == number + 1, "the span")  # type: ignore[misc]
    queue.shutdown()
    assert exporter.stored == ["a0-0", "a1-0", "a2-0"]
