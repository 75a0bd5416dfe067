"""Test the output in a terminal."""

from __future__ import annotations

import re
from datetime import timedelta, timezone
from typing import Any

import pytest

from django_tracing.traces.durations import milliseconds
from django_tracing.traces.model import Event, Span, Trace, TraceSummary
from django_tracing.traces.text import plain, render_list, render_trace
from tests.traces.builders import NOON, blueprint_trace, row

UTC = timezone.utc
COLORS = re.compile(r"\033\[\d+m")


def blueprint() -> Trace:
    return as_trace(blueprint_trace())


def as_trace(rows: list[dict[str, Any]]) -> Trace:
    spans = []
    for each in rows:
        values = {key: value for key, value in each.items() if key != "trace_state"}
        values["events"] = [Event(**event) for event in values["events"]]
        spans.append(Span(**values))
    return Trace(spans[0].trace_id, spans)


def one(**changes: object) -> Trace:
    values = {"name": "GET /x", "kind": "server", "service": "shop", "start": NOON, "end": NOON + 10**6, **changes}
    return Trace("a" * 32, [Span("a" * 32, "1" * 16, "", **values)])  # type: ignore[arg-type]


def test_a_trace_as_a_tree() -> None:
    """On a terminal too narrow for bars."""
    assert render_trace(blueprint(), width=79, timezone=UTC) == (
        """\
Trace 00000000000000000000000000000001
2026-11-23 12:00:00.000 · 12456 ms · 8 spans · 2 errors · api-gateway, bluepri…
Python 12467 ms · Other 3.20 ms

   start       took  span
       0     124 ms  GET /api/blueprints/<int:pk>  [api-gateway]  http.status_…
+1.00 ms    3.14 ms  ├─ middleware.auth
+2.00 ms    1.20 ms  │  └─ db.select.users  db.rows=1
+5.00 ms  0.0456 ms  ├─ cache.get.blueprint:*  cache.hit=false
+6.00 ms     100 ms  └─ ✗ circuit_breaker.blueprint-service  circuit_breaker.s…
                        │ requests.exceptions.ReadTimeout: read timed out
+7.00 ms    99.0 ms     └─ http.post.blueprint-service  peer.service=blueprint…
+8.00 ms    97.0 ms        └─ ✗ POST /validate  [blueprint-service]  http.stat…
                                500
 +110 ms   12346 ms  rate_limit.check  [api-gateway]  rate_limit.allowed=true …"""
    )


def test_a_trace_as_a_waterfall() -> None:
    """Bars show when a span ran, with darker parts on the critical path; queries of one shape are one line."""
    query = {
        **{"db.system": "postgresql", "db.operation": "select", "db.statement": "SELECT a FROM owners WHERE id = %s"},
        **{"code.filepath": "shop/views.py", "code.lineno": 7, "code.function": "owners"},
    }
    rows = [
        row(1, 1, 0, "GET /owners", kind="server", took=200),
        row(1, 2, 1, "view.owners", start=50, took=100),
        *(
            row(1, 10 + each, 2, "db.select.owners", kind="client", start=60 + 10 * each, took=10, attributes=query,
                status="error" if each == 2 else "unset", status_message="gone" if each == 2 else "")
            for each in range(5)
        ),
        row(1, 3, 1, "task.later", start=190, took=60),
    ]  # fmt: skip
    assert render_trace(as_trace(rows), width=116, timezone=UTC) == (
        """\
Trace 00000000000000000000000000000001
2026-11-23 12:00:00.000 · 250 ms · 8 spans · 1 error · shop
Python 200 ms · SQL 50.0 ms

   start     took                                 span
       0   200 ms  ██████▒▒▒▒▒▒▒▒▒▒▒█████▒        GET /owners  [shop]
+50.0 ms   100 ms       ██▒▒▒▒▒█████              ├─ view.owners
+60.0 ms  50.0 ms        ███████                  │  └─ ✗ 5 × db.select.owners  N+1  SELECT a FROM owners WHERE id …
                                                  │       gone
 +190 ms  60.0 ms                        █▒▒▒▒▒▒  └─ task.later"""
    )


def test_colors_change_nothing_but_colors() -> None:
    colored = render_trace(blueprint(), width=120, color=True, timezone=UTC)
    # Trailing spaces may stand within a color.
    bare = "\n".join(line.rstrip() for line in COLORS.sub("", colored).split("\n"))
    assert bare == render_trace(blueprint(), width=120, timezone=UTC)
    assert "\033[31mcircuit_breaker.blueprint-service\033[0m" in colored
    assert colored.count("\033[0m") == len(COLORS.findall(colored)) / 2


def summary(**changes: object) -> TraceSummary:
    values = {
        "trace_id": "a" * 32,
        "name": "GET /x",
        "service": "shop",
        "services": ("shop",),
        "start": NOON,
        "duration": 1_234_567,
        "span_count": 3,
        "error_count": 0,
    }
    return TraceSummary(**{**values, **changes})  # type: ignore[arg-type]


def test_traces_as_a_table() -> None:
    summaries = [summary(), summary(trace_id="b" * 32, service="api-gateway", error_count=12, duration=98_765_432)]
    assert render_list(summaries, timezone=timezone(timedelta(hours=2))) == (
        """\
trace                             started                 took  spans  errors  service      request
aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa  2026-11-23 14:00:00  1.23 ms      3       -  shop         GET /x
bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb  2026-11-23 14:00:00  98.8 ms      3      12  api-gateway  GET /x"""
    )
    colored = render_list(summaries, timezone=timezone(timedelta(hours=2)), color=True)
    assert COLORS.sub("", colored).split() == render_list(summaries, timezone=timezone(timedelta(hours=2))).split()


@pytest.mark.parametrize("width", [1, 40, 79, 100])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    trace = one(name="x" * 500, attributes={"http.status_code": "9" * 500}, status="error", status_message="m" * 900)
    for color in (False, True):
        lines = render_trace(trace, width=width, color=color).split("\n")
        lines += render_list([summary(name="x" * 500)], width=width, color=color).split("\n")
        assert max(len(COLORS.sub("", line)) for line in lines) <= max(width, 40)


def test_deep_branches_leave_space_for_names() -> None:
    spans = [
        Span("a" * 32, f"{number:016x}", f"{number - 1:016x}" if number > 1 else "", f"step-{number}", "internal",
             "shop", NOON + number, NOON + 1000)
        for number in range(1, 2001)
    ]  # fmt: skip
    text = render_trace(Trace("a" * 32, spans), width=80)
    assert all(f"step-{number}" in text for number in (1, 50, 2000))


EVIL = "a\033[31mred\033]0;title\007\r\nnew\tline\x9b1m\u202egnp.exe\u2066\u200b\udcff\x00"


def test_escape_sequences_of_a_request_are_removed() -> None:
    trace = one(
        name=EVIL,
        service=EVIL,
        status="error",
        attributes={"http.status_code": EVIL, "peer.service": ["x", EVIL], "cache.hit": {EVIL: EVIL}},
        events=[Event("exception", NOON, {"exception.type": EVIL, "exception.message": EVIL})],
    )
    text = render_trace(trace, width=2000) + render_list([summary(name=EVIL, service=EVIL)], width=2000)
    assert all(character.isprintable() for line in text.split("\n") for character in line)
    text.encode("utf-8")
    assert "a\\x1b[31mred\\x1b]0;title\\x07\\r\\nnew\\tline\\x9b1m\\u202egnp.exe\\u2066\\u200b\\udcff\\x00" in text


def test_plain_does_not_change_ordinary_text() -> None:
    assert plain("GET /käse/日本/<int:pk> 🥋") == "GET /käse/日本/<int:pk> 🥋"
    assert plain(True) == "true"
    assert plain(["a", 1]) == '["a", 1]'
    assert plain("\U000e0001") == "\\U000e0001"


@pytest.mark.parametrize(
    ("nanoseconds", "expected"),
    [
        (0, "0 ms"),
        (1, "0.0000 ms"),
        (1_234, "0.0012 ms"),
        (45_678, "0.0457 ms"),
        (456_789, "0.457 ms"),
        (999_960, "1.00 ms"),
        (1_234_567, "1.23 ms"),
        (9_996_000, "10.0 ms"),
        (12_345_678, "12.3 ms"),
        (99_960_000, "100 ms"),
        (123_456_789, "123 ms"),
        (12_345_678_901, "12346 ms"),
        (-2_500_000, "-2.50 ms"),
    ],
)
def test_durations_have_three_digits(nanoseconds: int, expected: str) -> None:
    assert milliseconds(nanoseconds) == expected


def test_stable_names_are_shown_like_the_older_ones() -> None:
    text = render_trace(one(attributes={"http.response.status_code": 404, "db.response.returned_rows": 2}))
    assert "http.status_code=404  db.rows=2" in text


def test_the_message_of_a_failed_span_is_that_of_its_exception() -> None:
    event = Event("exception", NOON, {"exception.type": "KeyError"})
    narrow = render_trace(one(status="error", status_message="no", events=[event]), width=79)
    assert "\n" + " " * 18 + "KeyError" in narrow
    assert "declined" in render_trace(one(status="error", status_message="declined"))
    assert "declined" not in render_trace(one(status="ok", status_message="declined"))


def test_a_span_without_a_name() -> None:
    assert "(no name)" in render_trace(one(name=""))
