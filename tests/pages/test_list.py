"""Test the list of traces."""

from __future__ import annotations

import html
import re
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from django.test import Client
from django.utils import translation

from django_tracing.traces.readers.sqlite.store import LocalStore
from tests.pages.helpers import BLUEPRINT, TRACES, content, fill, listed, words
from tests.traces.builders import row
from tests.traces.readers.jaeger.helpers import Server, endless

pytestmark = pytest.mark.django_db


def test_the_newest_come_first_a_page_at_a_time(root: Client, path: Path) -> None:
    store = LocalStore(path)
    fill(store)
    text = content(root)
    first = listed(text)
    assert [int(each, 16) for each in first] == list(range(100, 150))
    assert "50 traces, newest first" in words(text)
    older = html.unescape(re.search(r'href="(\?[^"]+)" rel="next"', text)[1])  # type: ignore[index]
    text = content(root, older)
    assert [int(each, 16) for each in listed(text)] == list(range(150, 160))
    assert 'rel="next"' not in text
    assert '<a href="?">Newest</a>' in text
    # New traces don't change the second page.
    store.write([row(9, base=time.time_ns())])
    assert listed(content(root, older)) == listed(text)
    store.close()


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ({"min_duration": "58ms"}, [58, 59]),
        ({"min_duration": "0,058 s"}, [58, 59]),
        ({"max_duration": "1ms"}, [0, 1]),
        ({"errors_only": "on"}, [7]),
        ({"status_code": "500"}, [7]),
        ({"user": "2", "max_duration": "9ms"}, [2, 5, 8]),
        ({"correlation_id": "c-12"}, [12]),
        ({"attributes": "operation.type=circuit_breaker"}, [9]),
        ({"attributes": 'http.status_code=200 "db.name=my db"'}, [11]),
        ({"attributes": "error=true"}, [7]),
        ({"operation": "POST /orders", "max_duration": "4ms"}, [0, 2, 4]),
        ({"service": "shop", "within": "900", "limit": "20"}, list(range(20))),
        ({"service": "nobody"}, []),
        ({"end": "2020-01-01T00:00"}, []),
        # Beyond the range of nanoseconds in 64 bits.
        ({"end": "9999-12-31 23:59", "max_duration": "0ms"}, [0]),
        ({"start": "0001-01-02 00:00", "max_duration": "0ms"}, [0]),
        ({"min_duration": "999999999999d"}, []),
        ({"start": "2020-01-01T00:00:00Z", "max_duration": "0ms"}, [0]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_searching(root: Client, path: Path, query: dict[str, str], numbers: list[int]) -> None:
    store = LocalStore(path)
    fill(store)
    store.close()
    text = content(root, **query)
    assert [int(each, 16) - 100 for each in listed(text)] == numbers
    if not numbers:
        assert "No traces match this search." in text
    # The form shows the search again.
    for value in query.values():
        assert value == "on" or html.escape(value) in text


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"min_duration": "5"}, "Enter a duration with its unit, such as 250ms or 1.5s."),
        ({"max_duration": "soon"}, "Enter a duration with its unit"),
        ({"attributes": "urgent"}, "“urgent” is not an attribute. Enter key=value"),
        ({"attributes": '"a=b'}, "A closing quotation mark is missing."),
        ({"start": "yesterday"}, "Enter a date and time, such as 2026-01-31 13:45."),
        ({"start": "2026-02-31 13:45"}, "Enter a date and time, such as 2026-01-31 13:45."),
        ({"status_code": "9"}, "greater than or equal to 100"),
        ({"limit": "1000000"}, "not one of the available choices"),
    ],
)
def test_an_invalid_search_shows_the_error_beside_its_field(
    root: Client, query: dict[str, str], message: str
) -> None:
    assert message in words(content(root, **query))


@pytest.mark.parametrize("before", ["x", "1", "-", "9" * 30 + "-a", "9" * 19 + "-a", "1-<b>", "1-\0"])
def test_a_page_beyond_the_last(root: Client, store: LocalStore, before: str) -> None:
    content(root, before=before)


def test_the_four_predefined_searches(root: Client, store: LocalStore) -> None:
    text = content(root, **{"min_duration": "1s"})
    for query in (
        {"min_duration": "1s"},
        {"errors_only": "on"},
        {"attributes": "operation.type=circuit_breaker"},
        {"attributes": "operation.type=database"},
    ):
        assert f'href="?{urlencode(query)}"' in text
    assert '<a href="?min_duration=1s" aria-current="true">Slow requests</a>' in text


def test_the_plot_has_a_dot_for_each_trace(root: Client, path: Path) -> None:
    store = LocalStore(path)
    fill(store, 20)
    store.close()
    text = content(root)
    dots = re.findall(rf'<a href="{TRACES}[0-9a-f]+/" tabindex="-1" aria-label="([^"]+)"', text)
    assert len(dots) == 20
    assert "shop GET /items, 7.00 ms" in dots
    assert text.count("tracing-dot-failed") == 1
    with translation.override("de"):
        # Coordinates are not localized.
        assert not re.search(r'c[xy]="[0-9]+,', content(root))


# ----- A row


def cells(text: str, number: int = 0) -> dict[str, str]:
    """Return the words of a row's cells, by the titles of the columns."""
    titles = [words(title) for title in re.findall(r'<th scope="col".*?</th>', text, re.DOTALL)]
    rows = re.findall(r"<tr.*?</tr>", text[text.index("<tbody>") :], re.DOTALL)
    found = [words(cell) for cell in re.findall(r"<t[dh].*?</t[dh]>", rows[number], re.DOTALL)]
    return dict(zip(titles, found, strict=True))


def test_a_row_shows_the_request_as_it_was(root: Client, path: Path) -> None:
    store = LocalStore(path)
    request = {
        "http.method": "GET",
        "http.url": "https://x.test/items/7?token=1",
        "http.status_code": 404,
        "user.id": 42,
    }
    sql = {"db.system": "postgresql"}
    store.write(
        [
            row(5, 1, 0, "GET /items/<int:pk>", base=time.time_ns() - 125 * 10**9, took=20, kind="server",
                attributes=request, status="error"),
            row(5, 2, 1, "db.select.x", base=time.time_ns() - 125 * 10**9, took=3, kind="client", attributes=sql),
            row(5, 3, 1, "db.select.y", base=time.time_ns() - 125 * 10**9, took=4, kind="client", attributes=sql),
        ]
    )  # fmt: skip
    store.close()
    text = content(root)
    shown = cells(text)
    assert shown["Trace"] == "GET /items/7 1 error /items/<int:pk> shop"
    assert shown["Status"] == "404"
    assert "tracing-code-refused" in text
    assert (shown["Duration"], shown["SQL"], shown["Spans"], shown["User"]) == ("20.0 ms", "2 7.00 ms", "3", "42")
    assert shown["Started"].startswith("2 min ago 20")
    # The user leads to this user's traces.
    assert f'<a href="{TRACES}?user=42">42</a>' in text
    assert "token" not in text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("GET /items/", "GET /items/ shop"),
        ("GET", "GET /items/ shop"),
        ("GET blog.BlogPage", "GET /items/ blog.BlogPage shop"),
        ("billing", "GET /items/ billing shop"),
    ],
)
def test_the_route_is_shown_where_it_says_more_than_the_path(root: Client, path: Path, name: str, shown: str) -> None:
    store = LocalStore(path)
    request = {"http.method": "GET", "http.url": "https://x.test/items/"}
    store.write([row(5, 1, 0, name, kind="server", attributes=request)])
    store.close()
    assert cells(content(root))["Trace"] == shown


def test_columns_that_no_trace_fills_are_left_out(root: Client, path: Path) -> None:
    store = LocalStore(path)
    store.write([row(5, 1, 0, "command.migrate")])
    store.close()
    assert list(cells(content(root))) == ["Trace", "Duration", "SQL", "Spans", "Started"]


@pytest.mark.parametrize(
    ("status", "color"),
    [(200, "ok"), (204, "ok"), (302, "other"), (404, "refused"), (503, "failed"), (101, "other"), (999, "other")],
)
def test_the_color_of_a_status(root: Client, path: Path, status: int, color: str) -> None:
    store = LocalStore(path)
    store.write([row(5, 1, 0, "GET /", kind="server", attributes={"http.status_code": status})])
    store.close()
    assert f'<span class="tracing-code tracing-code-{color}">{status}</span>' in content(root)


# ----- The box for a trace id


@pytest.mark.parametrize(
    "entered",
    [
        BLUEPRINT,
        f"  {BLUEPRINT}\n",
        BLUEPRINT[:6],
        f"00-{BLUEPRINT}-{'ab' * 8}-01",
        f'"GET /x" 200 512 trace={BLUEPRINT}',
        f"https://x.test/admin/django_tracing/trace/{BLUEPRINT}/",
        "00000000-0000-0000-0000-000000000001",
    ],
)
def test_an_id_opens_its_trace(root: Client, store: LocalStore, entered: str) -> None:
    answer = root.get(TRACES, {"trace": entered}, follow=True)
    assert answer.redirect_chain[-1] == (f"{TRACES}{BLUEPRINT}/", 302)
    assert answer.status_code == 200


@pytest.mark.parametrize("entered", ["abc", "checkout", "0" * 33, "<b>", "\0", "x" * 5000])
def test_what_is_no_id_is_said_beside_the_box(root: Client, store: LocalStore, entered: str) -> None:
    text = content(root, trace=entered)
    assert "This is not a trace ID." in text
    assert html.escape(entered[:100]) in text
    assert 'aria-invalid="true"' in text
    assert listed(text) == [BLUEPRINT]


def test_an_id_that_is_not_stored(root: Client, store: LocalStore) -> None:
    answer = root.get(TRACES, {"trace": "ab" * 16}, follow=True)
    assert answer.status_code == 404
    assert "is not stored" in answer.content.decode()


# ----- A span of time


def test_a_span_of_time_can_be_left_again(root: Client, path: Path) -> None:
    store = LocalStore(path)
    fill(store, 20)
    store.close()
    assert "Show all times" not in content(root)
    text = content(root, operation="GET /items", end="2020-01-01T00:00:00.500Z")
    assert "No traces match this search." in text
    assert '<a href="?operation=GET+%2Fitems">Show all times</a>' in text
    text = content(root, start="2020-01-01T00:00:00.500Z")
    assert len(listed(text)) == 20
    assert '<a href="?">Show all times</a>' in text


def test_an_empty_list_explains_how_to_get_traces(root: Client) -> None:
    assert "There are no traces yet." in content(root)
    assert "python manage.py check_tracing" in content(root)


def test_the_part_of_the_page_that_the_live_list_loads(root: Client, store: LocalStore) -> None:
    part = root.get(TRACES, {"part": "results"}).content.decode()
    assert listed(part) == [BLUEPRINT]
    assert "<html" not in part
    assert "part=results" not in part


def test_a_search_of_jaeger_that_takes_too_long_goes_on(root: Client, settings: Any) -> None:
    with Server(endless) as server:
        settings.TRACING = {"QUERY_URL": server.url, "EXPORTER": "otlp", "ENDPOINT": "http://127.0.0.1:1"}
        address, reached = "", []
        for _ in range(2):
            text = content(root, address, **({} if address else {"errors_only": "on"}))
            assert "No traces match this search." in text
            assert "This search took too long. It has found all matching traces that started after" in words(text)
            reached.append(re.search(r'<time datetime="([^"]+)"', text)[1])  # type: ignore[index]
            address = html.unescape(re.search(r'href="(\?[^"]+)" rel="next"', text)[1])  # type: ignore[index]
        assert reached[1] < reached[0]
        # Without a condition, a page is full, and the next one starts where it ends.
        text = content(root)
        assert len(listed(text)) == 50
        assert "too long" not in text


def unfinished(store: LocalStore) -> None:
    """A request that is running, one whose process was killed, one whose caller exports nothing, and a finished one."""
    now = time.time_ns()
    store.write(
        [
            row(
                1,
                2,
                9,
                "db.select.users",
                kind="client",
                base=now - 42 * 10**9,
                attributes={"request.name": "GET /slow"},
            ),
            row(2, 2, 9, "db.select.users", kind="client", base=now - 4000 * 10**9, took=50),
            row(3, 2, 9, "GET /called", kind="server", base=now - 10**9),
            row(4, 1, 0, "GET /done", kind="server", base=now - 2 * 10**9),
        ]
    )


def test_what_is_running_is_not_among_the_finished(root: Client, path: Path) -> None:
    store = LocalStore(path)
    unfinished(store)
    store.close()
    text = content(root)
    waiting, finished = text.split("</table>")[:2]
    assert [int(each, 16) for each in listed(waiting)] == [1, 2]
    assert [int(each, 16) for each in listed(finished)] == [3, 4]
    shown = words(waiting)
    assert re.search(r"GET /slow running for 4\d\.?\d* s 1", shown)
    assert "db.select.users incomplete after 50.0 ms" in shown
    assert "No span has arrived for ten minutes" in waiting
    # Its plot has the finished ones only: nobody knows how long the others take.
    assert text.count('<circle class="tracing-dot"') == 2
    assert '<span class="tracing-services">shop</span>' in finished


def test_a_page_with_running_requests_only(root: Client, path: Path) -> None:
    store = LocalStore(path)
    store.write([row(1, 2, 9, "db.select.users", kind="client", base=time.time_ns())])
    store.close()
    text = content(root)
    assert [int(each, 16) for each in listed(text)] == [1]
    assert "There are no traces yet" not in text
