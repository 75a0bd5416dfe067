"""The pages of traces, as a client gets them; tests/e2e/test_trace_pages.py has them in a browser."""

from __future__ import annotations

import html
import json
import re
import socket
import time
import urllib.request
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import django
import pytest
from asgiref.sync import async_to_sync
from django.contrib import admin
from django.contrib.auth.models import Permission, User
from django.test import AsyncClient, Client
from django.urls import path as url_path
from django.utils import translation

from django_tracing.admin import ProcessStatusAdmin, TraceAdmin
from django_tracing.exceptions import ReadError
from django_tracing.models import ProcessStatus, Trace
from django_tracing.traces.formats import otlp_json
from django_tracing.traces.model import Dependencies
from django_tracing.traces.readers.sqlite import store as local
from django_tracing.traces.readers.sqlite.store import LocalStore
from example_project.servers import free_port
from tests.jaegers import wait_until
from tests.traces.builders import NOON, blueprint_trace, exception, row
from tests.traces.readers.jaeger.test_reader import Server

#: A second admin, for operators.
operators = admin.AdminSite(name="operators")
operators.register(Trace, TraceAdmin)
operators.register(ProcessStatus, ProcessStatusAdmin)

urlpatterns = [url_path("admin/", admin.site.urls), url_path("ops/", operators.urls)]
pytestmark = pytest.mark.django_db

TRACES = "/admin/django_tracing/trace/"
BLUEPRINT = "0" * 31 + "1"
SCRIPT = '<script>alert("x")</script>\'&'


@pytest.fixture(autouse=True)
def path(settings: Any, tmp_path: Path) -> Path:
    settings.ROOT_URLCONF = __name__
    if django.VERSION >= (6, 0):
        settings.MIDDLEWARE = ["django.middleware.csp.ContentSecurityPolicyMiddleware", *settings.MIDDLEWARE]
        settings.SECURE_CSP = {"default-src": ["'self'"]}
    path = tmp_path / "traces.sqlite3"
    settings.TRACING = {"EXPORTER": "local", "LOCAL_STORE": str(path), "SERVICE_NAME": "shop"}
    return path


@pytest.fixture
def store(path: Path) -> Iterator[LocalStore]:
    store = LocalStore(path)
    store.write(blueprint_trace())
    yield store
    store.close()


@pytest.fixture
def root() -> Client:
    client = Client()
    client.force_login(User.objects.create(username="root", is_staff=True, is_superuser=True))
    return client


@pytest.fixture
def async_root(root: Client) -> AsyncClient:
    client = AsyncClient()
    client.cookies = root.cookies
    return client


def staff(*permissions: str) -> Client:
    user = User.objects.create(username="staff", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


def content(client: Client, address: str = "", status: int = 200, **query: str) -> str:
    """What is ours of a page."""
    answer = client.get(f"{TRACES}{address}", query)
    assert answer.status_code == status, answer.content.decode()[:2000]
    text = answer.content.decode()
    ours = text.split('<div id="content-main"')[-1].split("<footer")[0]
    # A strict policy stops what is inline.
    assert not re.search(r"\sstyle=|\son\w+=|<script|<style", ours.split("<pre")[0])
    return ours


class Words(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_data(self, data: str) -> None:
        self.found.append(data)


def words(text: str) -> str:
    parser = Words()
    parser.feed(text)
    return " ".join(" ".join(parser.found).split())


def listed(text: str) -> list[str]:
    """The ids of the traces in a list, in its order."""
    return re.findall(rf'<th scope="row"><a href="{TRACES}([0-9a-f]+)/"', text)


# ----- who may look


ADDRESSES = [
    *("", "routes/", "map/", f"{BLUEPRINT}/", f"{BLUEPRINT}/spans/{2:016x}/"),
    *(f"{BLUEPRINT}/otlp.json", f"{BLUEPRINT}/jaeger.json", f"{BLUEPRINT}/compare/?with={BLUEPRINT}"),
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_looking_needs_the_permission(store: LocalStore, address: str) -> None:
    assert Client().get(TRACES + address).status_code == 302, "to the login"
    assert staff("view_samplingrule").get(TRACES + address).status_code == 403
    User.objects.all().delete()
    assert staff("view_trace").get(TRACES + address).status_code == 200


def test_nothing_can_be_changed_and_the_index_shows_it(root: Client) -> None:
    index = root.get("/admin/").content.decode()
    assert f'href="{TRACES}"' in index
    assert f"{TRACES}add/" not in index
    for address in ("add/", "1/change/", "1/delete/", "1/history/"):
        assert root.get(TRACES + address).status_code == 404


def test_looking_at_traces_makes_none(root: Client, store: LocalStore, spans: Any) -> None:
    for address in ADDRESSES:
        root.get(TRACES + address)
    assert spans.names == []
    root.get("/admin/")
    assert spans.names != []


def test_links_stay_within_the_admin_that_they_are_of(root: Client, store: LocalStore) -> None:
    store.write([{**span, "trace_id": f"{2:032x}"} for span in blueprint_trace()])
    for address in [*ADDRESSES[:5], f"{BLUEPRINT}/compare/?with={2:032x}", f"{'f' * 32}/"]:
        text = root.get(f"/ops/django_tracing/trace/{address}").content.decode()
        assert "/ops/django_tracing/trace/" in text
        assert "/admin/django_tracing/" not in text, address


# ----- the list


def fill(store: LocalStore, count: int = 60) -> None:
    now = time.time_ns()
    store.write(
        [
            row(
                100 + number,
                1,
                base=now - number * 10**9,
                took=number,
                kind="server",
                name="GET /items" if number % 2 else "POST /orders",
                status="error" if number == 7 else "unset",
                attributes={
                    "user.id": str(number % 3),
                    "http.status_code": 500 if number == 7 else 200,
                    "correlation.id": f"c-{number}",
                    "operation.type": "circuit_breaker" if number == 9 else "http",
                    "db.name": "my db" if number == 11 else "x",
                },
            )
            for number in range(count)
        ]
    )


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
    # New ones don't move what is already on the second page.
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
        # Further than 64 bits of nanoseconds go.
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
        assert "No trace is like that." in text
    # What was asked for stands in the form again.
    for value in query.values():
        assert value == "on" or html.escape(value) in text


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"min_duration": "5"}, "Write it with its unit, such as 250ms or 1.5s."),
        ({"max_duration": "soon"}, "Write it with its unit"),
        ({"attributes": "urgent"}, "“urgent” is no attribute: write key=value"),
        ({"attributes": '"a=b'}, "A quotation mark is missing."),
        ({"start": "yesterday"}, "Write it as 2026-01-31 13:45."),
        ({"start": "2026-02-31 13:45"}, "Write it as 2026-01-31 13:45."),
        ({"status_code": "9"}, "greater than or equal to 100"),
        ({"limit": "1000000"}, "not one of the available choices"),
    ],
)
def test_what_is_no_search_is_said_beside_its_field(root: Client, query: dict[str, str], message: str) -> None:
    assert message in words(content(root, **query))


@pytest.mark.parametrize("before", ["x", "1", "-", "9" * 30 + "-a", "9" * 19 + "-a", "1-<b>", "1-\0"])
def test_a_page_that_is_not_there(root: Client, store: LocalStore, before: str) -> None:
    content(root, before=before)


def test_the_four_searches_are_one_click_away(root: Client, store: LocalStore) -> None:
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
        # Coordinates are for the browser, whatever the language.
        assert not re.search(r'c[xy]="[0-9]+,', content(root))


def test_a_list_of_nothing_says_how_to_get_something(root: Client) -> None:
    assert "There are no traces yet." in content(root)
    assert "python manage.py check_tracing" in content(root)


def test_a_part_of_the_page_for_the_live_list(root: Client, store: LocalStore) -> None:
    part = root.get(TRACES, {"part": "results"}).content.decode()
    assert listed(part) == [BLUEPRINT]
    assert "<html" not in part
    assert "part=results" not in part


# ----- one trace


def test_a_waterfall(root: Client, store: LocalStore) -> None:
    text = content(root, f"{BLUEPRINT}/")
    said = words(text)
    assert "api-gateway" in said
    assert "8 spans" in said
    assert "2 errors" in said
    names = re.findall(r'<a href="spans/[0-9a-f]{16}/">([^<]+)</a>', text)
    assert [html.unescape(name) for name in names] == [
        *("GET /api/blueprints/<int:pk>", "middleware.auth", "db.select.users", "cache.get.blueprint:*"),
        *("circuit_breaker.blueprint-service", "http.post.blueprint-service", "POST /validate", "rate_limit.check"),
    ]
    assert re.findall(r'aria-level="(\d)"', text) == ["1", "2", "3", "2", "2", "3", "4", "1"]
    assert "One span names a parent that is not stored here." in said
    assert f'href="{TRACES}{BLUEPRINT}/otlp.json"' in text


def test_the_beginning_of_an_id_leads_to_the_trace(root: Client, store: LocalStore) -> None:
    answer = root.get(f"{TRACES}{BLUEPRINT[:31]}/")
    assert (answer.status_code, answer["Location"]) == (302, f"{TRACES}{BLUEPRINT}/")


@pytest.mark.parametrize("address", ["f" * 32 + "/", "f" * 32 + "/otlp.json", "f" * 32 + f"/spans/{1:016x}/"])
def test_a_trace_that_has_left(root: Client, store: LocalStore, address: str) -> None:
    assert f"The trace {'f' * 32} is not stored." in content(root, address, status=404)
    assert "is not stored" in content(root, f"{BLUEPRINT}/spans/{99:016x}/", status=404)
    assert root.get(f"{TRACES}nonsense/").status_code == 404


def repeated(count: int, **attributes: Any) -> list[dict[str, Any]]:
    said = {
        "operation.type": "database",
        "db.system": "postgresql",
        "db.operation": "select",
        "db.statement": "SELECT blueprints.id, blueprints.name, blueprints.owner_id FROM blueprints WHERE id = %s",
        **attributes,
    }
    return [
        row(5, 1, 0, "GET /list", kind="server", took=100),
        row(5, 2, 1, "db.select.owners", kind="client", start=1, attributes={"db.system": "postgresql"}),
        *(
            row(5, 10 + number, 1, "db.select.blueprints", kind="client", start=2 + number * 3, attributes=said)
            for number in range(count)
        ),
        row(5, 3, 1, "cache.get.x", start=90, attributes={"operation.type": "cache"}),
    ]


def test_repeated_queries_are_folded_and_blamed(root: Client, store: LocalStore) -> None:
    location = {"code.filepath": "shop/views.py", "code.lineno": 42, "code.function": "checkout"}
    store.write(repeated(12, **location))
    text = content(root, f"{5:032x}/")
    said = words(text)
    assert "N+1: the same query 12 times, 12.0 ms in all. Made by shop/views.py:42 in checkout ." in said
    assert "SELECT … FROM blueprints WHERE id = %s" in said
    assert "12 × db.select.blueprints" in said
    assert text.count('aria-level="3"') == 12
    # Folded: there, and out of sight until somebody opens the row.
    assert len(re.findall(r'aria-level="3"[^>]* hidden', text)) == 12
    assert " hidden" not in content(root, f"{5:032x}/?all=1").split("<tbody>")[1]
    # Who has no locations is told of them, who has them is not.
    assert "CODE_LOCATIONS" in text


def test_a_trace_too_long_for_a_browser(root: Client, store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("django_tracing.traces.readers.sqlite.store.MOST_SPANS", 6)
    text = content(root, f"{BLUEPRINT}/")
    assert len(set(re.findall(r'href="spans/([0-9a-f]{16})/"', text))) == 6
    assert "8 spans" in words(text)
    assert "The earliest 6 of 8 spans are shown. The download has the others." in words(text)
    assert "MAX_TRACE_SPANS" not in text


def test_a_few_alike_are_folded_and_not_blamed(root: Client, store: LocalStore) -> None:
    store.write(repeated(4))
    said = words(content(root, f"{5:032x}/"))
    assert "4 × db.select.blueprints" in said
    assert "N+1" not in said


def test_one_span_is_one_span(root: Client, store: LocalStore) -> None:
    store.write([row(6, status="error")])
    said = words(content(root, f"{6:032x}/"))
    assert "1 span ·" in said
    assert "1 error " in said


def test_what_tells_of_the_lines_of_the_code(root: Client, store: LocalStore) -> None:
    query = {"db.system": "postgresql", "db.statement": "SELECT x FROM y", "operation.type": "database"}
    spans = [row(6, n, 1, "db.select.y", kind="client", start=n, attributes=query) for n in range(2, 9)]
    store.write([row(6, 1, took=50), *spans])
    assert 'TRACING["CODE_LOCATIONS"] = True says which line makes it.' in words(content(root, f"{6:032x}/"))


def test_where_the_time_went(root: Client, store: LocalStore) -> None:
    store.write(repeated(12))
    said = words(content(root, f"{5:032x}/"))
    assert "Python 86.0 ms 86 % SQL 13.0 ms 13 % Cache 1.00 ms 1 %" in said


def test_a_span_says_everything(root: Client, store: LocalStore) -> None:
    event = exception("ValueError", "boom")
    event["attributes"]["exception.stacktrace"] = 'Traceback:\n  File "x.py", line 1\nValueError: boom'
    store.write(
        [
            row(
                6,
                1,
                kind="server",
                status="error",
                status_message="it broke",
                attributes={"http.method": "POST", "tags": ["a", "b"], "big": 2**60},
                events=[event],
                links=[{"trace_id": BLUEPRINT, "span_id": f"{2:016x}", "attributes": {"why": "retry"}}],
            )
        ]
    )
    for address in (f"{6:032x}/spans/{1:016x}/", f"{6:032x}/spans/{1:016x}/?part=1"):
        text = root.get(TRACES + address).content.decode()
        said = words(text)
        for wanted in ("it broke", "exception.type ValueError", "http.method POST", 'tags ["a", "b"]', str(2**60)):
            assert wanted in said
        assert "ValueError: boom</pre>" in text
        assert f'href="{TRACES}{BLUEPRINT}/"' in text
        assert f'href="{TRACES}?attributes=http.method%3DPOST"' in text
        assert ("<html" in text) is ("part" not in address)


def test_an_attributes_link_finds_its_traces(root: Client, store: LocalStore) -> None:
    """Also with blanks and quotation marks in it."""
    store.write([row(6, attributes={"note": """it's a "test" """})])
    text = root.get(f"{TRACES}{6:032x}/spans/{1:016x}/").content.decode()
    link = html.unescape(
        re.search(rf'href="{re.escape(TRACES)}(\?attributes=note[^"]+|\?attributes=%27note[^"]+)"', text)[1]
    )  # type: ignore[index]
    assert listed(content(root, link)) == [f"{6:032x}"]


def test_a_link_to_what_is_no_trace(root: Client, store: LocalStore) -> None:
    links = [{"trace_id": trace_id, "span_id": "", "attributes": {}} for trace_id in ("", "x/../y", "abc")]
    store.write([row(6, links=links)])
    text = content(root, f"{6:032x}/spans/{1:016x}/")
    assert "x/../y" in text
    assert 'href="">' not in text


def test_every_field_is_escaped(root: Client, store: LocalStore) -> None:
    """Whoever sends requests, or spans, chooses these."""
    evil = {
        "name": SCRIPT,
        "service": SCRIPT,
        "scope": SCRIPT,
        "status_message": SCRIPT,
        "status": "error",
        "resource": {SCRIPT: SCRIPT},
        "events": [{"name": SCRIPT, "time": NOON, "attributes": {SCRIPT: SCRIPT, "exception.stacktrace": SCRIPT}}],
        "links": [{"trace_id": "ab" * 16, "span_id": "cd" * 8, "attributes": {SCRIPT: SCRIPT}}],
    }
    said = {
        **{SCRIPT: SCRIPT, "db.system": SCRIPT, "db.name": SCRIPT, "db.statement": f"SELECT {SCRIPT} FROM x"},
        **{"db.operation": "select", "code.filepath": SCRIPT, "code.function": SCRIPT, "http.status_code": SCRIPT},
        **{"user.id": SCRIPT, "user.subscription": SCRIPT, "correlation.id": SCRIPT, "peer.service": SCRIPT},
    }
    breaker = {"operation.type": "circuit_breaker", "circuit_breaker.name": SCRIPT, "circuit_breaker.state": SCRIPT}
    spans = [row(7, 1, 0, kind="server", attributes=said, took=50, **evil)]
    spans += [row(7, 10 + each, 1, kind="client", start=each, attributes=said, **evil) for each in range(6)]
    spans.append(row(7, 20, 1, attributes=breaker, **evil))
    store.write([*spans, row(8, 1, 0, kind="server", attributes=said, **evil)])
    trace, span = f"{7:032x}", f"{1:016x}"
    for address in (
        *("", f"?{urlencode({'service': SCRIPT, 'operation': SCRIPT, 'attributes': SCRIPT, 'before': SCRIPT})}"),
        *("routes/", f"routes/?{urlencode({'service': SCRIPT, 'o': SCRIPT, 'within': SCRIPT})}", "map/"),
        *(f"{trace}/", f"{trace}/spans/{span}/", f"{trace}/compare/?with={8:032x}"),
    ):
        answer = root.get(TRACES + address)
        assert answer.status_code == 200
        text = answer.content.decode()
        assert "<script>alert" not in text
        assert "alert" in text or address == ""
        # None of them ends an attribute's value either.
        assert '"x")&lt;/script' not in text
    assert "<script" not in root.get(f"{TRACES}{trace}/otlp.json")["Content-Disposition"]


# ----- files, comparing, statistics


def test_downloads(root: Client, store: LocalStore) -> None:
    answer = root.get(f"{TRACES}{BLUEPRINT}/otlp.json")
    assert answer["Content-Type"] == "application/json"
    assert answer["Content-Disposition"] == 'attachment; filename="get-apiblueprintsintpk-00000000-otlp.json"'
    spans = [
        span
        for resource in json.loads(answer.getvalue())["resourceSpans"]
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    ]
    assert len(spans) == 8
    (trace,) = json.loads(root.get(f"{TRACES}{BLUEPRINT}/jaeger.json").getvalue())["data"]
    assert (trace["traceID"], len(trace["spans"])) == (BLUEPRINT, 8)
    assert {process["serviceName"] for process in trace["processes"].values()} == {"api-gateway", "blueprint-service"}


def long_trace(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> str:
    """A trace of several slices and pieces."""
    monkeypatch.setattr("django_tracing.traces.readers.sqlite.store.SLICE", 20)
    monkeypatch.setattr("django_tracing.pages.views.PIECE", 2000)
    store.write([row(77, number, number // 2) for number in range(1, 101)])
    return f"{TRACES}{77:032x}/jaeger.json"


def test_a_download_is_sent_as_it_is_read(root: Client, store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    address = long_trace(store, monkeypatch)
    answer = root.get(address)
    assert answer.streaming
    assert not answer.is_async
    pieces = list(answer)
    assert len(pieces) > 10
    (trace,) = json.loads(b"".join(pieces))["data"]
    assert len(trace["spans"]) == 100


def test_a_download_is_sent_as_it_is_read_under_asgi(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, async_root: AsyncClient
) -> None:
    """A plain iterator would be read whole before the first of it is sent, with a warning, which is an error here."""
    address = long_trace(store, monkeypatch)

    async def take() -> list[bytes]:
        answer = await async_root.get(address)
        assert answer.streaming
        assert answer.is_async
        return [piece async for piece in answer]

    pieces = async_to_sync(take)()
    assert len(pieces) > 10
    (trace,) = json.loads(b"".join(pieces))["data"]
    assert len(trace["spans"]) == 100


@pytest.mark.parametrize("way", ["wsgi", "asgi"])
def test_a_download_that_breaks_off_is_seen_and_told(
    way: str,
    root: Client,
    async_root: AsyncClient,
    store: LocalStore,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    address = long_trace(store, monkeypatch)
    read = []

    def take() -> None:
        """As a server does, whose connection ends with an exception."""
        for piece in root.get(address):
            read.append(piece)
            store.path.unlink(missing_ok=True)

    async def take_async() -> None:
        async for piece in await async_root.get(address):
            read.append(piece)
            store.path.unlink(missing_ok=True)

    with pytest.raises(ReadError, match="left the local store"):
        async_to_sync(take_async)() if way == "asgi" else take()
    assert read
    with pytest.raises(ValueError):
        json.loads(b"".join(read))
    said = [record.getMessage() for record in caplog.records if record.name == "django_tracing"]
    assert len(said) == 1
    assert said[0].startswith(f"The download of trace {77:032x} ended before its end: ")


def test_a_span_that_is_asked_for_is_the_only_one_read(
    root: Client, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    original = local.span_of_row
    monkeypatch.setattr(local, "span_of_row", lambda *args: read.append(1) or original(*args))
    content(root, f"{BLUEPRINT}/spans/{5:016x}/")
    assert len(read) == 1


def test_what_was_not_stored_is_said_in_the_list_and_on_the_page(root: Client, store: LocalStore) -> None:
    bounded = LocalStore(store.path, max_trace_spans=3)
    bounded.write([row(88, number) for number in range(1, 11)])
    bounded.close()
    assert "(6 of them not stored)" in content(root)
    text = words(content(root, f"{88:032x}/"))
    assert "The earliest 4 of 10 spans are shown." in text
    assert '6 were not stored: TRACING["MAX_TRACE_SPANS"] says how many are kept of a trace.' in text
    assert "The download has" not in text


def test_a_trace_of_very_many_services(root: Client, store: LocalStore) -> None:
    store.write([row(99, number, service=f"service-{number}") for number in range(1, 131)])
    text = content(root, f"{99:032x}/")
    assert text.count('class="tracing-key"') <= 102
    assert "and 30 more services" in words(text)


def test_comparing(root: Client, store: LocalStore) -> None:
    store.write(repeated(12))
    faster = [{**span, "trace_id": f"{6:032x}", "end": span["start"] + 500_000} for span in repeated(3)]
    store.write(faster)
    text = content(root, f"{5:032x}/")
    option = re.search(rf'<option value="{6:032x}">([^<]+)</option>', text)
    assert option is not None, "traces of the same route are offered"
    said = words(content(root, f"{5:032x}/compare/", **{"with": f"{6:032x}"}))
    assert "GET /list shop 1 1 100 ms 500 µs −99.5 ms" in said
    assert "db.select.blueprints shop 12 3 12.0 ms 1.50 ms −10.5 ms" in said
    assert "is not stored" in content(root, f"{5:032x}/compare/", status=404, **{"with": "e" * 32})
    assert root.get(f"{TRACES}{5:032x}/compare/").status_code == 404


def test_routes(root: Client, path: Path) -> None:
    store = LocalStore(path)
    fill(store, 20)
    store.close()

    def first(**query: str) -> tuple[str, ...]:
        text = content(root, "routes/", **query)
        cells = re.findall(r"<tr><th scope=\"row\">(.*?)</tr>", text, re.DOTALL)
        return tuple(words(f'<th scope="row">{cell}') for cell in cells)

    rows = first()
    assert rows[0].startswith("GET /items shop 10 1 10 % 9.00 ms 19.0 ms 19.0 ms 19.0 ms 100 ms")
    assert rows[1].startswith("POST /orders shop 10 8.00 ms 18.0 ms")
    assert first(o="p95")[0].startswith("POST /orders")
    assert first(o="-p95")[0].startswith("GET /items")
    assert first(o="nonsense") == first(o="count")
    assert first(service="nobody") == ()
    assert len(first(within="900")) == 2
    text = content(root, "routes/", o="-p95")
    assert 'aria-sort="descending"' in text
    assert 'href="?o=p95"' in text, "a second click turns the order"
    # A route leads to its traces, its slowest time to that trace.
    assert f'href="{TRACES}?service=shop&amp;operation=GET+%2Fitems"' in text
    assert f'href="{TRACES}{119:032x}/">19.0 ms' in text


def test_the_map(root: Client, store: LocalStore) -> None:
    state = {"circuit_breaker.name": "mail", "circuit_breaker.state": "open", "operation.type": "circuit_breaker"}
    store.write([row(9, 1, 0, kind="server"), row(9, 2, 1, attributes=state, status="error")])
    text = content(root, "map/")
    said = words(text)
    assert "api-gateway blueprint-service service 1 100 %" in said
    assert "shop mail circuit breaker: open 1 100 %" in said
    boxes = re.findall(r'<g class="tracing-box tracing-(\w+)', text)
    assert sorted(boxes) == ["breaker", "service", "service", "service"]
    assert "tracing-state-open" in text
    assert "No service has called anything yet" in content(root, "map/", within="900")


# ----- when it can't be read


def test_a_jaeger_that_is_down_is_said_at_once(root: Client, settings: Any) -> None:
    port = free_port()
    settings.TRACING = {"ENDPOINT": "http://127.0.0.1:4318", "QUERY_URL": f"http://127.0.0.1:{port}"}
    for address in ADDRESSES:
        text = content(root, address)
        assert 'role="alert"' in text
        assert f"Nothing listens on 127.0.0.1:{port}. Does Jaeger run, and is QUERY_URL right?" in words(text)
        assert "python manage.py check_tracing" in text
        assert "/admin/django_tracing/processstatus/" in text, "the admin's own check"


def test_only_who_may_check_is_sent_there(settings: Any) -> None:
    settings.TRACING = {"EXPORTER": "none"}
    text = content(staff("view_trace"))
    assert "Traces can&#x27;t be read back" in text
    assert "processstatus" not in text.split('role="alert"')[1]


def test_a_jaeger_that_hangs_is_given_up(root: Client, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("django_tracing.pages.views.ANSWER_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        settings.TRACING = {"ENDPOINT": "http://127.0.0.1:4318", "QUERY_URL": address}
        assert "did not answer within 0.2 s" in words(content(root))


def test_a_jaeger_with_many_slow_services_is_given_up(
    root: Client, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each answer is quick enough, all of them together are not."""
    monkeypatch.setattr("django_tracing.pages.views.PAGE_BUDGET", 0.5)

    def answer(path: str) -> tuple[int, Any]:
        time.sleep(0.05)
        if path.startswith("/api/v3/services"):
            return 200, {"services": [f"service-{number}" for number in range(50)]}
        return (200, {"summaries": []}) if "?" in path else (400, {"error": {"message": "query"}})

    with Server(answer) as server:
        settings.TRACING = {"ENDPOINT": "http://127.0.0.1:4318", "QUERY_URL": server.url}
        assert "takes too long to answer. Ask for less" in words(content(root, service=""))
        assert len(server.asked) < 20


def test_a_file_that_is_another_programs(root: Client, path: Path) -> None:
    path.write_bytes(b"SQLite format 3\0" + b"\x10\x00" + b"\1" * 50 + b"\0" * 5000)
    assert "another program" in words(content(root))


def test_a_store_with_too_much_in_it_is_given_up(root: Client, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(path)
    fill(store, 2000)
    store.close()
    assert listed(content(root, user="nobody")) == []
    monkeypatch.setattr("django_tracing.traces.readers.sqlite.store.READING_TIMEOUT", -1.0)
    for address, query in (("", {"user": "nobody"}), ("routes/", {})):
        said = words(content(root, address, **query))
        assert "holds too much to look through within -1 s. Ask for less: a shorter time, one service." in said


class Broken:
    """A reader of a user's own, with a fault."""

    def __init__(self, settings: Any) -> None:
        pass

    def describe(self) -> str:
        return "broken"

    def trace_link(self, trace_id: str) -> str | None:
        return None

    def services(self) -> list[str]:
        raise ZeroDivisionError("of its own")

    operations = search = trace = routes = services

    def dependencies(self, **within: Any) -> Dependencies:
        raise ReadError("It sleeps.", "asleep")


def test_a_reader_of_the_users_own_that_fails(root: Client, settings: Any) -> None:
    settings.TRACING = {"READER": f"{__name__}.Broken"}
    assert "Broken.services failed: ZeroDivisionError: of its own." in words(content(root))
    assert "It sleeps." in words(content(root, "map/"))
    settings.TRACING = {"READER": "nowhere.at.all"}
    assert "TRACING[\"READER\"] is 'nowhere.at.all', which fails with" in words(content(root))
    settings.TRACING = {"READER": f"{__name__}.Client"}
    assert 'what TRACING["READER"] names has no describe' in words(content(root))


def test_numbers_are_the_browsers_whatever_the_language(root: Client, store: LocalStore, settings: Any) -> None:
    settings.LANGUAGE_CODE = "de"
    settings.USE_THOUSAND_SEPARATOR = True
    store.write([row(5, 1, 0, "GET /x", took=5_000_000)])
    for address in (f"{5:032x}/", "", "routes/", "map/", f"{BLUEPRINT}/"):
        text = content(root, address)
        assert not re.search(r'\s(?:x|y|width|height|cx|cy|viewBox|data-\w+|aria-level)="[^"]*,', text)
    assert 'data-total="5000000000000"' in content(root, f"{5:032x}/")


# ----- from a real Jaeger


@pytest.mark.parametrize("version", ["jaeger", "jaeger-1.51"])
def test_the_same_pages_from_jaeger(
    version: str, request: pytest.FixtureRequest, root: Client, settings: Any, store: LocalStore
) -> None:
    jaeger = request.getfixturevalue("jaeger" if version == "jaeger" else "jaeger_151")
    # Of this test alone, and of today: Jaeger is shared, and looks back a day.
    trace_id = f"{time.time_ns():032x}"
    shift = time.time_ns() - 60 * 10**9 - NOON
    store.write(
        [
            {
                **span,
                "trace_id": trace_id,
                "start": span["start"] + shift,
                "end": min(span["end"], NOON + 10**9) + shift,
            }
            for span in blueprint_trace()
        ]
    )
    trace = store.trace(trace_id)
    assert trace is not None
    sent = urllib.request.Request(
        f"{jaeger.otlp_http}/v1/traces",
        data="".join(otlp_json(trace.spans)).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(sent, timeout=10) as answer:
        assert answer.status == 200
    settings.TRACING = {"ENDPOINT": jaeger.otlp_http, "QUERY_URL": jaeger.query, "SERVICE_NAME": "api-gateway"}

    def arrived() -> bool:
        return trace_id in listed(content(root, service="blueprint-service"))

    wait_until(arrived, "the trace in the list")
    # Whoever asks for nothing sees their own service.
    text = content(root)
    assert trace_id in listed(text)
    assert '<option value="api-gateway" selected>' in text
    assert jaeger.query in words(text)
    for query in (
        {"operation": "POST /validate", "service": "blueprint-service"},
        {"errors_only": "on", "service": ""},
        {"attributes": "circuit_breaker.outcome=failure"},
        {"status_code": "200", "min_duration": "100ms"},
    ):
        assert trace_id in listed(content(root, **query)), query
    assert trace_id not in listed(content(root, max_duration="100ms"))

    text = content(root, f"{trace_id}/")
    assert f'<a href="{jaeger.query}/trace/{trace_id}">Open in Jaeger</a>' in text
    assert "8 spans" in words(text)
    assert "requests.exceptions.ReadTimeout" in words(content(root, f"{trace_id}/spans/{5:016x}/"))
    assert "GET /api/blueprints/" in words(content(root, "routes/", service="api-gateway"))
    said = words(content(root, "map/"))
    assert "Calls between services are as Jaeger counts them" in said
    assert re.search(r"api-gateway blueprint-service service \d+", said)
    assert json.loads(root.get(f"{TRACES}{trace_id}/jaeger.json").getvalue())["data"][0]["traceID"] == trace_id
    assert "is not stored" in content(root, f"{'f' * 31}0/", status=404)
