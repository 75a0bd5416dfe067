"""Test the page of one trace."""

from __future__ import annotations

import html
import re
import time
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from django_tracing.traces.readers.sqlite.store import LocalStore
from tests.pages.helpers import BLUEPRINT, SCRIPT, TRACES, content, repeated, words
from tests.traces.builders import row

pytestmark = pytest.mark.django_db


def test_a_waterfall(root: Client, store: LocalStore) -> None:
    text = content(root, f"{BLUEPRINT}/")
    shown = words(text)
    assert "api-gateway" in shown
    assert "8 spans" in shown
    assert "2 errors" in shown
    names = re.findall(r'<a href="spans/[0-9a-f]{16}/">([^<]+)</a>', text.split("<tbody>")[1])
    assert [html.unescape(name) for name in names] == [
        *("GET /api/blueprints/<int:pk>", "middleware.auth", "db.select.users", "cache.get.blueprint:*"),
        *("circuit_breaker.blueprint-service", "http.post.blueprint-service", "POST /validate", "rate_limit.check"),
    ]
    assert re.findall(r'aria-level="(\d)"', text) == ["1", "2", "3", "2", "2", "3", "4", "1"]
    assert "The parent of one span is not stored here." in shown
    assert f'href="{TRACES}{BLUEPRINT}/otlp.json"' in text


def test_a_prefix_of_an_id_redirects_to_the_trace(root: Client, store: LocalStore) -> None:
    answer = root.get(f"{TRACES}{BLUEPRINT[:31]}/")
    assert (answer.status_code, answer["Location"]) == (302, f"{TRACES}{BLUEPRINT}/")


@pytest.mark.parametrize("address", ["f" * 32 + "/", "f" * 32 + "/otlp.json", "f" * 32 + f"/spans/{1:016x}/"])
def test_a_trace_that_was_deleted(root: Client, store: LocalStore, address: str) -> None:
    assert f"The trace {'f' * 32} is not stored." in content(root, address, status=404)
    assert "is not stored" in content(root, f"{BLUEPRINT}/spans/{99:016x}/", status=404)
    assert root.get(f"{TRACES}nonsense/").status_code == 404


def test_the_exceptions_of_a_failed_trace_are_above_its_spans(root: Client, store: LocalStore) -> None:
    def raised(after: int, **attributes: str) -> dict[str, Any]:
        facts = {f"exception.{key}": value for key, value in attributes.items()}
        return {"name": "exception", "time": 10**18 + after, "attributes": facts}

    spans = [
        row(5, 1, 0, "GET /x", kind="server", status="error", attributes={"error.propagated": True}),
        # An instrumentation that repeats the event on the spans around, and a span that did not fail.
        row(5, 2, 1, "view.x", status="error", events=[raised(9, type="ValueError", message=SCRIPT)]),
        row(5, 3, 1, "cache.get", events=[raised(1, type="Handled")]),
        row(5, 4, 1, "db.select.x", status="error", events=[raised(2, type="DataError", message="m" * 2000)]),
    ]
    spans[0]["events"] = [raised(9, type="ValueError", message=SCRIPT)]
    store.write(spans)
    text = content(root, f"{5:032x}/")
    note = text.split("tracing-exceptions")[1].split("</div>")[0]
    assert re.findall(r"<strong[^>]*>(\w+)</strong>", note) == ["DataError", "ValueError"]
    assert re.findall(r'href="([^"]+)">([^<]+)<', note) == [
        (f"spans/{4:016x}/", "db.select.x"),
        (f"spans/{2:016x}/", "view.x"),
    ]
    assert f"{'m' * 500}…" in note
    assert html.unescape(note).count(SCRIPT) == 1
    assert SCRIPT not in note
    store.write([row(6, each, 0, "x", status="error", events=[raised(each)]) for each in range(1, 6)])
    shown = words(content(root, f"{6:032x}/"))
    assert shown.count("Exception in x") == 3
    assert "2 more exceptions are on their spans." in shown
    store.write([row(7, 1, 0, "x", status="error")])
    assert "tracing-exceptions" not in content(root, f"{7:032x}/")


def test_repeated_queries_are_folded_and_reported(root: Client, store: LocalStore) -> None:
    location = {"code.filepath": "shop/views.py", "code.lineno": 42, "code.function": "checkout"}
    store.write(repeated(12, **location))
    text = content(root, f"{5:032x}/")
    shown = words(text)
    assert "N+1: the same query 12 times, 12.0 ms in total. Called from shop/views.py:42 in checkout ." in shown
    assert "SELECT … FROM blueprints WHERE id = %s" in shown
    assert "12 × db.select.blueprints" in shown
    assert text.count('aria-level="3"') == 12
    # Folded rows are in the page, but hidden until the row is opened.
    assert len(re.findall(r'aria-level="3"[^>]* hidden', text)) == 12
    assert " hidden" not in content(root, f"{5:032x}/?all=1").split("<tbody>")[1].split("</tbody>")[0]
    # The hint about CODE_LOCATIONS appears because the setting is off.
    assert "CODE_LOCATIONS" in text


def test_only_the_start_of_a_long_trace_is_shown(
    root: Client, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("django_tracing.traces.readers.sqlite.store.MOST_SPANS", 6)
    text = content(root, f"{BLUEPRINT}/")
    assert len(set(re.findall(r'href="spans/([0-9a-f]{16})/"', text))) == 6
    assert "8 spans" in words(text)
    assert "Only the earliest 6 of 8 spans are shown. Download the trace to see all of them." in words(text)
    assert "MAX_TRACE_SPANS" not in text


def test_a_few_equal_queries_are_folded_and_not_reported(root: Client, store: LocalStore) -> None:
    store.write(repeated(4))
    shown = words(content(root, f"{5:032x}/"))
    assert "4 × db.select.blueprints" in shown
    assert "N+1" not in shown


def test_the_number_of_spans_is_in_the_singular(root: Client, store: LocalStore) -> None:
    store.write([row(6, status="error")])
    shown = words(content(root, f"{6:032x}/"))
    assert "1 span ·" in shown
    assert "1 error " in shown


def test_the_hint_about_code_locations(root: Client, store: LocalStore) -> None:
    query = {"db.system": "postgresql", "db.statement": "SELECT x FROM y", "operation.type": "database"}
    spans = [row(6, n, 1, "db.select.y", kind="client", start=n, attributes=query) for n in range(2, 9)]
    store.write([row(6, 1, took=50), *spans])
    assert 'Set TRACING["CODE_LOCATIONS"] to True to see which line of code makes it.' in words(
        content(root, f"{6:032x}/")
    )


def test_where_the_time_went(root: Client, store: LocalStore) -> None:
    store.write(repeated(12))
    shown = words(content(root, f"{5:032x}/"))
    assert "Python 86.0 ms 86 % SQL 13.0 ms 13 % Cache 1.00 ms 1 %" in shown


def test_spans_that_were_not_stored_are_mentioned_in_the_list_and_on_the_page(
    root: Client, store: LocalStore
) -> None:
    bounded = LocalStore(store.path, max_trace_spans=3)
    bounded.write([row(88, number) for number in range(1, 11)])
    bounded.close()
    assert "6 not stored" in content(root)
    text = words(content(root, f"{88:032x}/"))
    assert "Only the earliest 4 of 10 spans are shown." in text
    assert '6 spans were not stored because of the limit TRACING["MAX_TRACE_SPANS"].' in text
    assert "Download the trace to see" not in text


def test_a_trace_with_very_many_services(root: Client, store: LocalStore) -> None:
    store.write([row(99, number, service=f"service-{number}") for number in range(1, 131)])
    text = content(root, f"{99:032x}/")
    assert text.count('class="tracing-key"') <= 102
    assert "and 30 more services" in words(text)


def test_a_trace_that_is_not_finished(root: Client, path: Path) -> None:
    store = LocalStore(path)
    store.write(
        [row(1, 2, 9, "db.select", kind="client", base=time.time_ns(), attributes={"request.name": "GET /slow"})]
    )
    store.write([row(2, 2, 9, "db.select", kind="client")])
    store.close()
    running, incomplete = (content(root, f"{number:032x}/") for number in (1, 2))
    assert "This request is still running." in running
    assert "GET /slow" in root.get(f"{TRACES}{1:032x}/").content.decode().split("<title>")[1].split("</title>")[0]
    assert "no span has arrived for ten minutes" in incomplete
    for text in (running, incomplete):
        assert "not stored here" not in text


def test_the_title_is_the_request_and_its_status(root: Client, store: LocalStore) -> None:
    request = {"http.method": "GET", "http.url": "https://x.test/items/7?token=1", "http.status_code": 404}
    store.write([row(5, 1, 0, "GET /items/<int:pk>", kind="server", attributes={**request, "user.id": 42})])
    page = root.get(f"{TRACES}{5:032x}/").content.decode()
    assert re.search(r"<title>\s*GET /items/7 404 ", page)
    assert words(re.search(r"<h1[^>]*>.*?</h1>", page, re.DOTALL)[0]) == "GET /items/7 404"  # type: ignore[index]
    assert "tracing-code-refused" in page
    assert "token=1" not in page
    text = content(root, f"{5:032x}/")
    shown = words(text)
    # The route is below the title.
    assert "GET /items/<int:pk> · shop" in shown
    # Ids to copy.
    assert f'data-copy="{5:032x}" hidden' in text
    assert "user.id 42 Copy" in shown


def test_what_is_no_request_has_its_name_as_its_title(root: Client, store: LocalStore) -> None:
    store.write([row(5, 1, 0, "command.migrate")])
    page = root.get(f"{TRACES}{5:032x}/").content.decode()
    assert words(re.search(r"<h1[^>]*>.*?</h1>", page, re.DOTALL)[0]) == "command.migrate"  # type: ignore[index]


def test_bars_are_colored_by_kind_or_by_service(root: Client, store: LocalStore) -> None:
    store.write(repeated(2))
    one = content(root, f"{5:032x}/")
    assert '<div class="tracing-colored" data-color="kind">' in one
    kinds = re.findall(r'<path class="tracing-c0 tracing-k-([a-z]+)"', one)
    assert kinds == ["python", "sql", "sql", "sql", "cache"]
    # Several services.
    several = content(root, f"{BLUEPRINT}/")
    assert '<div class="tracing-colored" data-color="service">' in several
    assert set(re.findall(r'<path class="tracing-(c\d)', several)) == {"c0", "c1"}
    # The switch works without scripts.
    assert '<a href="?color=kind" class="tracing-choice" data-color="kind">' in several
    assert '<div class="tracing-colored" data-color="kind">' in content(root, f"{BLUEPRINT}/", color="kind")
    assert '<div class="tracing-colored" data-color="service">' in content(root, f"{BLUEPRINT}/", color='x"')
