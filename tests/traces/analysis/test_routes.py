"""Test the statistics by route."""

from __future__ import annotations

from typing import Any

from hypothesis import given

from django_tracing.traces.analysis.routes import parts_of, route_statistics, self_time
from django_tracing.traces.model import RouteStatistics, Trace, span_of
from tests.traces.analysis.test_waterfall import traces
from tests.traces.builders import MS, row


def statistics(*found: list[dict[str, Any]], service: str | None = None) -> dict[str, RouteStatistics]:
    parts = []
    for rows in found:
        trace = Trace(rows[0]["trace_id"], map(span_of, rows))
        parts.append((trace.trace_id, parts_of(trace)))
    return {f"{route.service} {route.name}": route for route in route_statistics(parts, service)}


def test_percentiles_are_measured_durations() -> None:
    (route,) = statistics(*([row(number, 1, took=number)] for number in range(1, 201))).values()
    assert (route.count, route.p50, route.p95, route.p99) == (200, 100 * MS, 190 * MS, 198 * MS)
    assert (route.slowest, int(route.slowest_trace_id, 16)) == (200 * MS, 200)
    (one,) = statistics([row(1, 1, took=7)]).values()
    assert (one.p50, one.p95, one.p99) == (7 * MS, 7 * MS, 7 * MS)


def test_a_call_to_another_service_counts_as_waiting() -> None:
    database = {"db.system": "postgresql", "operation.type": "database"}
    found = statistics(
        [
            row(1, 1, 0, "GET /a", kind="server", took=100),
            row(1, 2, 1, "http.get.billing", kind="client", start=10, took=50, attributes={"http.method": "GET"}),
            row(1, 3, 2, "GET /b", kind="server", start=20, took=30, service="billing"),
            row(1, 4, 3, "db.select.x", kind="client", start=25, took=20, service="billing", attributes=database),
            row(1, 5, 1, "db.select.y", kind="client", start=70, took=10, attributes=database),
        ]
    )
    assert found["shop GET /a"].time_by_work == {"http": 50 * MS, "python": 40 * MS, "sql": 10 * MS}
    assert found["billing GET /b"].time_by_work == {"sql": 20 * MS, "python": 10 * MS}


def test_a_view_with_its_own_span_is_not_counted_twice() -> None:
    """As in the tree, the calls in a view don't count as the view's own time, although they are its siblings."""
    database = {"db.system": "postgresql", "operation.type": "database"}
    (route,) = statistics(
        [
            row(1, 1, 0, "GET /a", kind="server", took=100),
            row(1, 2, 1, "view.a", start=10, took=80),
            row(1, 3, 1, "db.select.x", kind="client", start=20, took=30, attributes=database),
            row(1, 4, 99, "view.stray", start=10, took=80),
        ]
    ).values()
    assert route.time_by_work == {"python": 70 * MS, "sql": 30 * MS}


def test_which_spans_start_a_route() -> None:
    found = statistics(
        [
            row(1, 1, 0, "command.import", took=50),
            row(1, 2, 1, "task.run.mail", kind="consumer", start=60, took=5),
            row(1, 3, 1, "GET /self", kind="server", start=10, took=5),
            row(1, 4, 99, "stray", start=20, took=5),
            row(1, 5, 99, "GET /from-elsewhere", kind="server", start=30, took=5),
        ]
    )
    assert set(found) == {"shop command.import", "shop task.run.mail", "shop GET /self", "shop GET /from-elsewhere"}


def test_one_service_of_many() -> None:
    rows = [row(1, 1, 0, "GET /a", kind="server", took=9), row(1, 2, 1, "GET /b", kind="server", service="billing")]
    assert set(statistics(rows, service="billing")) == {"billing GET /b"}


def test_a_spans_own_time() -> None:
    assert self_time(0, 100, []) == 100
    assert self_time(0, 100, [(10, 20), (15, 30), (90, 200), (-5, 3)]) == 67
    assert self_time(0, 100, [(-10, 300)]) == 0


@given(traces())
def test_times_never_exceed_the_total(rows: list[dict[str, Any]]) -> None:
    """With any cycles and clocks in a trace."""
    total = sum(each["end"] - each["start"] for each in rows)
    found = statistics(rows).values()
    assert sum(sum(route.time_by_work.values()) for route in found) <= total
    assert all(route.p50 <= route.p95 <= route.p99 <= route.slowest for route in found)
    assert all(min(route.time_by_work.values()) >= 0 for route in found)
