"""Test the pages with the sources of traces: Jaeger, the local store, a project's own reader."""

from __future__ import annotations

import json
import re
import socket
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from django_tracing.exceptions import ReadError
from django_tracing.models import SamplingRule
from django_tracing.traces.formats import otlp_json
from django_tracing.traces.model import Dependencies
from django_tracing.traces.readers.sqlite.store import LocalStore
from example_project.servers import free_port
from tests.jaegers import wait_until
from tests.pages.helpers import ADDRESSES, TRACES, content, fill, listed, staff, words
from tests.traces.builders import NOON, blueprint_trace
from tests.traces.readers.jaeger.helpers import Server

pytestmark = pytest.mark.django_db


def test_a_jaeger_that_is_down_is_reported_immediately(root: Client, settings: Any) -> None:
    port = free_port()
    settings.TRACING = {"ENDPOINT": "http://127.0.0.1:4318", "QUERY_URL": f"http://127.0.0.1:{port}"}
    for address in ADDRESSES:
        text = content(root, address)
        assert 'role="alert"' in text
        assert f"Nothing listens on 127.0.0.1:{port}. Is Jaeger running, and is QUERY_URL right?" in words(text)
        assert "python manage.py check_tracing" in text
        assert "/admin/django_tracing/processstatus/" in text, "the admin's own check"


def test_an_admin_without_the_other_pages_reports_it_without_links_to_them(root: Client, settings: Any) -> None:
    SamplingRule.objects.create(name="a")
    settings.TRACING = {"EXPORTER": "none"}
    for address in ADDRESSES:
        text = root.get(f"/lonely/django_tracing/trace/{address}").content.decode()
        assert "Traces can&#x27;t be read:" in text
        assert "processstatus" not in text
    preview = root.get("/rules_only/django_tracing/samplingrule/preview/")
    assert "Traces can&#x27;t be read:" not in preview.content.decode()


def test_an_admin_without_traces_does_not_link_to_the_one_of_a_check(root: Client, store: LocalStore) -> None:
    status = "django_tracing/processstatus/"
    assert "Show the trace" in root.post(f"/admin/{status}").content.decode()
    text = root.post(f"/rules_only/{status}").content.decode()
    assert "The trace arrived." in text
    assert "Show the trace" not in text


def test_only_users_who_may_run_the_check_get_its_link(settings: Any) -> None:
    settings.TRACING = {"EXPORTER": "none"}
    text = content(staff("view_trace"))
    assert "Traces can&#x27;t be read:" in text
    assert "processstatus" not in text.split('role="alert"')[1]


def test_a_jaeger_that_hangs_times_out(root: Client, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("django_tracing.pages.source.ANSWER_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        settings.TRACING = {"ENDPOINT": "http://127.0.0.1:4318", "QUERY_URL": address}
        assert "did not answer within 0.2 s" in words(content(root))


def test_a_jaeger_with_many_slow_services_times_out(
    root: Client, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each answer is fast enough, but all of them together are not."""
    monkeypatch.setattr("django_tracing.pages.source.PAGE_BUDGET", 0.5)

    def answer(path: str) -> tuple[int, Any]:
        time.sleep(0.05)
        if path.startswith("/api/v3/services"):
            return 200, {"services": [f"service-{number}" for number in range(50)]}
        return (200, {"summaries": []}) if "?" in path else (400, {"error": {"message": "query"}})

    with Server(answer) as server:
        settings.TRACING = {"ENDPOINT": "http://127.0.0.1:4318", "QUERY_URL": server.url}
        assert "takes too long to answer. Search one service" in words(content(root, service=""))
        assert len(server.asked) < 20


def test_a_file_of_another_program(root: Client, path: Path) -> None:
    path.write_bytes(b"SQLite format 3\0" + b"\x10\x00" + b"\1" * 50 + b"\0" * 5000)
    assert "another program" in words(content(root))


def test_a_search_in_a_large_store_times_out(root: Client, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(path)
    fill(store, 2000)
    store.close()
    assert listed(content(root, user="nobody")) == []
    for module in ("store", "file"):
        monkeypatch.setattr(f"django_tracing.traces.readers.sqlite.{module}.READING_TIMEOUT", -1.0)
    for address, query in (("", {"user": "nobody"}), ("routes/", {})):
        shown = words(content(root, address, **query))
        assert "holds too much to look through within -1 s. Ask for less: a shorter time, one service." in shown


class Broken:
    """A project's own reader, with a bug."""

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


def test_a_custom_reader_that_fails(root: Client, settings: Any) -> None:
    settings.TRACING = {"READER": f"{__name__}.Broken"}
    assert "Broken.services failed: ZeroDivisionError: of its own." in words(content(root))
    assert "It sleeps." in words(content(root, "map/"))
    settings.TRACING = {"READER": "nowhere.at.all"}
    assert "TRACING[\"READER\"] is 'nowhere.at.all', which fails with" in words(content(root))
    settings.TRACING = {"READER": f"{__name__}.Client"}
    assert 'the reader of TRACING["READER"] has no describe' in words(content(root))


@pytest.mark.parametrize("version", ["jaeger", "jaeger-1.51"])
def test_the_same_pages_from_jaeger(
    version: str, request: pytest.FixtureRequest, root: Client, settings: Any, store: LocalStore
) -> None:
    jaeger = request.getfixturevalue("jaeger" if version == "jaeger" else "jaeger_151")
    # A new id and the current date: the tests share this Jaeger, and it searches the last 24 hours.
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
    # Without a search, the list shows the project's own service.
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
    shown = words(content(root, "map/"))
    assert "The calls between services are Jaeger's own counts." in shown
    assert re.search(
        r"Computed from the newest (trace, of|\d+ traces, which started from) \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", shown
    )
    # Both start with the project's own service.
    for page in ("map/", "routes/"):
        assert "<option selected>api-gateway</option>" in content(root, page)
        assert "<option selected>api-gateway</option>" not in content(root, page, service="")
    assert re.search(r"api-gateway blueprint-service service \d+", shown)
    assert json.loads(root.get(f"{TRACES}{trace_id}/jaeger.json").getvalue())["data"][0]["traceID"] == trace_id
    assert "is not stored" in content(root, f"{'f' * 31}0/", status=404)
