"""Test what a trace is called, and whether its request is still running."""

from __future__ import annotations

from typing import Any

import pytest

from django_tracing.traces.topmost import (
    MOST_OUTLINED,
    RUNNING_SECONDS,
    Outline,
    Topmost,
    make_outline,
    topmost_of,
)
from tests.work_counter import growth

SECOND = 10**9


def part(span_id: str, parent_id: str, name: str, start: int, end: int, **changes: Any) -> Outline:
    kind = changes.pop("kind", "internal")
    return make_outline(
        span_id, parent_id, name, kind, changes.pop("service", "shop"), start * SECOND, end * SECOND, changes
    )


def server(span_id: str, parent_id: str, name: str, start: int, end: int, **changes: Any) -> Outline:
    return part(span_id, parent_id, name, start, end, kind="server", **changes)


#: The last of their spans ended a moment ago.
CASES: dict[str, tuple[list[Outline], Topmost]] = {
    "a root": (
        [server("a", "", "GET /items", 1, 9), part("b", "a", "db.select.items", 2, 3)],
        Topmost("GET /items", "shop"),
    ),
    "a root that seems to start last, because clocks disagree": (
        [server("a", "", "GET /items", 8, 9), part("b", "a", "db.select.items", 2, 3)],
        Topmost("GET /items", "shop"),
    ),
    "a root, and a lost span below it": (
        [server("a", "", "GET /items", 1, 9), part("b", "lost", "db.select.items", 2, 3)],
        Topmost("GET /items", "shop"),
    ),
    "a caller that exports nothing": (
        [server("a", "browser", "GET /items", 1, 9), part("b", "a", "db.select.items", 2, 3)],
        Topmost("GET /items", "shop"),
    ),
    "a caller that exports nothing, and a lost span": (
        [server("a", "browser", "GET /items", 1, 9), part("b", "lost", "db.select.items", 2, 3)],
        Topmost("GET /items", "shop"),
    ),
    "a running request": (
        [
            part("b", "a", "db.select.users", 2, 3),
            part("c", "a", "db.select.items", 4, 5, **{"request.name": "GET /x"}),
        ],
        Topmost("GET /x", "shop", "running"),
    ),
    "a running request that another SDK traces": (
        [part("b", "a", "SELECT", 2, 3, kind="client"), part("c", "a", "SELECT", 4, 5, kind="client")],
        Topmost("SELECT", "shop", "running"),
    ),
    "a running request whose call to another service has ended": (
        [
            part("b", "a", "http.post.billing", 2, 6, kind="client", **{"request.name": "POST /checkout"}),
            server("c", "b", "POST /charge", 3, 5, service="billing"),
            part("d", "c", "db.insert", 4, 5, service="billing", **{"request.name": "POST /charge"}),
        ],
        Topmost("POST /checkout", "shop", "running"),
    ),
    "a service that waits, and another one that has answered": (
        [server("a", "browser", "GET /", 1, 2, service="front"), part("b", "x", "db.select", 3, 4)],
        Topmost("GET /", "front", "running"),
    ),
    "a command of a caller that exports nothing": (
        [part("a", "cron", "command.migrate", 1, 9, **{"operation.type": "command"})],
        Topmost("command.migrate", "shop"),
    ),
    "a span of a user that continues another process's trace": (
        [part("a", "cron", "nightly import", 1, 9, **{"request.name": "nightly import"})],
        Topmost("nightly import", "shop"),
    ),
    "spans that are each other's ancestors": (
        [server("a", "b", "GET /a", 1, 2), server("b", "a", "GET /b", 2, 3)],
        Topmost("GET /a", "shop"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_names_and_states(case: str) -> None:
    spans, expected = CASES[case]
    assert topmost_of(spans, now=10) == expected
    assert topmost_of(reversed(spans), now=10) == expected


def test_a_request_is_incomplete_after_a_while() -> None:
    spans = [part("b", "a", "db.select.users", 2, 3), part("c", "a", "db.select.items", 4, 5)]
    assert topmost_of(spans, now=5 + RUNNING_SECONDS - 1).state == "running"
    assert topmost_of(spans, now=5 + RUNNING_SECONDS + 1).state == "incomplete"


def test_the_state_of_a_part_of_a_trace_is_not_known() -> None:
    """A parent may be among the spans that were not read."""
    spans = [part("b", "a", "db.select.users", 2, 3)]
    assert topmost_of(spans, whole=False, now=5) == Topmost("db.select.users", "shop")
    assert MOST_OUTLINED > 100


def test_it_takes_linear_time() -> None:
    def trace(count: int) -> list[Outline]:
        return [
            each
            for number in range(count)
            for each in (
                server(f"s{number}", "elsewhere", "GET /", number, number + 1),
                part(f"c{number}", "lost", "db.select", number, number + 1),
            )
        ]

    for ratio in growth(lambda spans: topmost_of(spans, now=5), trace, 200, 800, 3200):
        assert ratio < 5.5
