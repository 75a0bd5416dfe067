"""Test the files to download with the programs that read them."""

from __future__ import annotations

import json
import math
import time
import urllib.request
from typing import Any

import pytest

from django_tracing.traces.formats import jaeger_json, otlp_json
from django_tracing.traces.model import Trace, span_of
from django_tracing.traces.readers.jaeger.reader import JaegerReader
from tests.jaegers import wait_until
from tests.traces.builders import exception, row


def post(jaeger: Any, trace: Trace) -> None:
    request = urllib.request.Request(
        f"{jaeger.otlp_http}/v1/traces",
        data="".join(otlp_json(trace.spans)).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200


def checkout() -> Trace:
    """Return a trace of two services with every field of a span."""
    # Jaeger searches only the last day, and its older API keeps whole microseconds.
    now = (time.time_ns() // 10**9 - 60) * 10**9
    # An id of the full 128 bits: 1.51 omits leading zeros.
    number = time.time_ns() << 64 | 1
    attributes = {"text": "a", "yes": True, "count": 3, "ratio": 0.25, "big": 2**53 - 2, "tags": ["a", "b"]}
    event = exception("Declined", "no", now + 10**7)
    link = {"trace_id": "ab" * 16, "span_id": f"{7:016x}", "attributes": {}}
    rows = [
        row(number, 0xA1, 0, "POST /checkout", base=now, took=90, kind="server", attributes=attributes, status="ok"),
        row(number, 0xA2, 0xA1, "http.post.billing", base=now, start=5, took=60, kind="client", links=[link]),
        row(number, 0xA3, 0xA2, "POST /charge", base=now, start=9, took=40, kind="server", service="billing",
            status="error", status_message="card declined", events=[event]),
        row(number, 0xA4, 0xA1, "queue", base=now, start=70, took=1, kind="producer", scope=""),
    ]  # fmt: skip
    return Trace(rows[0]["trace_id"], map(span_of, rows))


@pytest.mark.parametrize("version", ["jaeger", "jaeger_151"])
def test_jaeger_accepts_otlp_and_returns_the_same(version: str, request: pytest.FixtureRequest) -> None:
    jaeger = request.getfixturevalue(version)
    trace = checkout()
    post(jaeger, trace)
    reader = JaegerReader(jaeger.query)

    def whole() -> Trace | None:
        found = reader.trace(trace.trace_id)
        return found if found is not None and found.span_count == 4 else None

    found = wait_until(whole, "the trace to be stored")
    for sent, came in zip(trace.spans, found.spans, strict=True):
        wanted, got = sent.as_dict(), came.as_dict()
        if version == "jaeger_151" and "tags" in wanted["attributes"]:
            # It converts lists to text.
            wanted["attributes"]["tags"] = '["a","b"]'
        assert got == wanted


def normal(answer: Any) -> Any:
    """Return Jaeger's response in a fixed order and without values that only a server knows."""
    (trace,) = answer["data"]
    processes = trace["processes"]
    return sorted(
        (
            {
                "spanID": span["spanID"],
                "traceID": span["traceID"],
                "operationName": span["operationName"],
                "references": sorted(map(str, span["references"])),
                "startTime": span["startTime"],
                "duration": span["duration"],
                "tags": sorted(map(str, filter(_ours, span["tags"]))),
                "logs": [(log["timestamp"], sorted(map(str, log["fields"]))) for log in span["logs"]],
                "service": processes[span["processID"]]["serviceName"],
                "process": sorted(map(str, filter(_ours, processes[span["processID"]]["tags"]))),
            }
            for span in trace["spans"]
        ),
        key=lambda span: str(span["spanID"]),
    )


def _ours(tag: dict[str, Any]) -> bool:
    # 1.51 adds the format, and adds the scope to the process; later versions have a tag for it.
    return tag["key"] not in ("internal.span.format", "otel.library.name", "otel.scope.name")


def test_jaeger_json_is_the_same_as_the_response_of_jaeger(jaeger_151: Any) -> None:
    trace = checkout()
    post(jaeger_151, trace)

    def answer() -> Any:
        try:
            with urllib.request.urlopen(f"{jaeger_151.query}/api/traces/{trace.trace_id}", timeout=10) as found:
                content = json.loads(found.read())
        except OSError:
            return None
        return content if len(content["data"][0]["spans"]) == 4 else None

    theirs = wait_until(answer, "Jaeger's own answer")
    ours = json.loads("".join(jaeger_json(trace.trace_id, trace.spans)))
    assert set(ours) == set(theirs)
    assert set(ours["data"][0]) == set(theirs["data"][0])
    assert set(ours["data"][0]["spans"][0]) >= set(theirs["data"][0]["spans"][0]) - {"flags", "warnings"}
    assert normal(ours) == normal(theirs)


def test_values_that_json_cannot_represent() -> None:
    attributes = {
        **{"nan": math.nan, "inf": -math.inf, "huge": 2**63, "small": -(2**63), "none": None, "bytes": b"\0\xff"},
        "nested": {"a": [1, {"b": True}]},
    }
    trace = Trace("1" * 32, [span_of(row(1, 1, attributes=attributes))])
    text = "".join(otlp_json(trace.spans))
    (span,) = json.loads(text, parse_constant=pytest.fail)["resourceSpans"][0]["scopeSpans"][0]["spans"]
    values = {item["key"]: item["value"] for item in span["attributes"]}
    assert values == {
        "nan": {"doubleValue": "NaN"},
        "inf": {"doubleValue": "-Infinity"},
        "huge": {"stringValue": str(2**63)},
        "small": {"intValue": str(-(2**63))},
        "none": {},
        "bytes": {"bytesValue": "AP8="},
        "nested": {
            "kvlistValue": {
                "values": [
                    {
                        "key": "a",
                        "value": {
                            "arrayValue": {
                                "values": [
                                    {"intValue": "1"},
                                    {"kvlistValue": {"values": [{"key": "b", "value": {"boolValue": True}}]}},
                                ]
                            }
                        },
                    }
                ]
            }
        },
    }
    json.loads("".join(jaeger_json(trace.trace_id, trace.spans)), parse_constant=pytest.fail)
