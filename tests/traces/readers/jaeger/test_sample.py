"""Test how much is read of a Jaeger for the statistics of routes and for the service map."""

from __future__ import annotations

import threading
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from django_tracing.exceptions import JaegerError
from django_tracing.traces.model import Sample
from django_tracing.traces.readers.jaeger import sample
from django_tracing.traces.readers.jaeger.reader import JaegerReader
from tests.traces.readers.jaeger.helpers import Answer, Server

STORED = 500


class Stored:
    """A Jaeger of ``services`` that has 500 traces of each, with so many spans each."""

    def __init__(self, spans: int, services: list[str], stored: int = STORED) -> None:
        self.spans = spans
        self.services = services
        self.stored = stored
        self.depths: list[int] = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()

    def __call__(self, path: str) -> Answer:
        parts = urlsplit(path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        if parts.path == "/api/v3/trace-summaries":
            return 400, {"error": {"httpCode": 400, "message": "query.startTimeMin is required"}}
        if parts.path == "/api/v3/services":
            return 200, {"services": self.services}
        if parts.path == "/api/dependencies":
            return 200, {"data": [{"parent": "shop", "child": "billing", "callCount": 7},
                                  {"parent": "front", "child": "mail", "callCount": 3}]}  # fmt: skip
        depth = int(query["query.searchDepth"])
        with self.lock:
            self.depths.append(depth)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        answer = self.traces(query["query.serviceName"], min(depth, self.stored))
        with self.lock:
            self.at_once -= 1
        return 200, answer

    def traces(self, service: str, count: int) -> dict[str, Any]:
        number = self.services.index(service) + 1
        spans = [
            {
                "traceId": f"{trace << 8 | number:032x}",
                "spanId": f"{span + 1:016x}",
                "parentSpanId": f"{1:016x}" if span else "",
                "name": "db.select" if span else "GET /items",
                "kind": 3 if span else 2,
                "startTimeUnixNano": str(10**18 - trace * 10**9),
                "endTimeUnixNano": str(10**18 - trace * 10**9 + 1000),
                "attributes": [
                    {"key": "db.system", "value": {"stringValue": "postgresql"}},
                    {"key": "db.statement", "value": {"stringValue": "SELECT"}},
                ]
                if span
                else [],
            }
            for trace in range(count)
            for span in range(self.spans)
        ]
        resource = {"attributes": [{"key": "service.name", "value": {"stringValue": service}}]}
        return {"result": {"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": spans}]}]}}


@pytest.mark.parametrize(
    ("spans", "stored", "depths"),
    [
        # 200 traces, if they have no more than 6,000 spans.
        (5, STORED, [20, 200]),
        (30, STORED, [20, 200]),
        (100, STORED, [20, 60]),
        # The first ones have nearly as many as the page may read, or more.
        (270, STORED, [20]),
        (1000, STORED, [20]),
        # There are no more.
        (5, 19, [20]),
    ],
)
def test_the_number_of_traces_depends_on_their_spans(spans: int, stored: int, depths: list[int]) -> None:
    jaeger = Stored(spans, ["shop"], stored)
    with Server(jaeger) as server:
        found = JaegerReader(server.url).routes(service="shop")
    assert jaeger.depths == depths
    (route,) = found
    count = min(depths[-1], stored, -(-2 * sample.WHOLE_SPANS // spans))
    assert (route.name, route.count) == ("GET /items", count)
    # Which traces the figures are of.
    described = found.sample  # type: ignore[attr-defined]
    assert described == Sample(count, 10**18 - (count - 1) * 10**9, 10**18)


def test_services_share_what_is_read_and_few_are_asked_at_once() -> None:
    services = [f"service{number:02}" for number in range(10)]
    jaeger = Stored(5, services)
    with Server(jaeger) as server:
        found = JaegerReader(server.url).routes()
    assert sorted(jaeger.depths) == [20] * 10
    assert jaeger.most_at_once <= sample.REQUESTS_AT_ONCE
    assert [(route.service, route.count) for route in found] == [(service, 20) for service in services]


def test_the_map_of_one_service() -> None:
    with Server(Stored(3, ["shop"])) as server:
        reader = JaegerReader(server.url)
        links = reader.dependencies(service="shop").links
        assert [(link.caller, link.callee, link.calls) for link in links] == [
            ("shop", "postgresql", 400),
            ("shop", "billing", 7),
        ]
        every = reader.dependencies()
        assert ("front", "mail", 3) in [(link.caller, link.callee, link.calls) for link in every.links]
        assert every.sample is not None
        assert every.sample.traces == every.sampled == 200


def test_a_jaeger_that_does_not_count_calls() -> None:
    stored = Stored(3, ["shop"])

    def answer(path: str) -> Answer:
        return (500, {}) if path.startswith("/api/dependencies") else stored(path)

    with Server(answer) as server, pytest.raises(JaegerError, match=r"\(500\)"):
        JaegerReader(server.url).dependencies(service="shop")
