"""Test what all pages have in common; tests/e2e/test_trace_pages.py runs them in a browser."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlencode

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.test import Client, override_settings
from django.urls import path as url_path

from django_tracing import pages
from django_tracing.admin import TraceAdmin
from django_tracing.models import Trace
from django_tracing.traces.readers.sqlite.store import LocalStore
from tests.pages.helpers import ADDRESSES, BLUEPRINT, NESTED, PLAIN, SCRIPT, TRACES, content, staff
from tests.traces.builders import NOON, blueprint_trace, row

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("mount", [TRACES, PLAIN])
@pytest.mark.parametrize("address", ADDRESSES)
def test_viewing_requires_the_permission(root: Client, store: LocalStore, mount: str, address: str) -> None:
    assert Client().get(mount + address).status_code == 302, "to the login"
    assert root.get(mount + address).status_code == 200
    assert staff("view_samplingrule").get(mount + address).status_code == 403
    User.objects.filter(username="staff").delete()
    assert staff("view_trace").get(mount + address).status_code == 200


def test_traces_cannot_be_changed_and_the_index_says_view(root: Client) -> None:
    index = root.get("/admin/").content.decode()
    assert f'href="{TRACES}"' in index
    assert f"{TRACES}add/" not in index
    for address in ("add/", "1/change/", "1/delete/", "1/history/"):
        assert root.get(TRACES + address).status_code == 404


@pytest.mark.parametrize("mount", [TRACES, PLAIN, NESTED])
def test_viewing_traces_makes_no_traces(root: Client, store: LocalStore, spans: Any, mount: str) -> None:
    for address in ADDRESSES:
        root.get(mount + address)
    assert spans.names == []
    root.get("/admin/")
    assert spans.names != []


@pytest.mark.parametrize("mount", ["/ops/django_tracing/trace/", PLAIN, NESTED])
def test_links_stay_within_their_mount(root: Client, store: LocalStore, mount: str) -> None:
    store.write([{**span, "trace_id": f"{2:032x}"} for span in blueprint_trace()])
    for address in [*ADDRESSES[:7], f"{BLUEPRINT}/compare/?with={2:032x}", f"{'f' * 32}/"]:
        text = root.get(mount + address).content.decode()
        links = [
            link for link in re.findall(r'(?:href|action)="(/[^"]*)"', text) if "/static/" not in link and link != "/"
        ]
        assert any(link.startswith(mount) for link in links)
        prefix = mount.partition("django_tracing/trace/")[0]
        assert [link for link in links if not link.startswith(prefix)] == [], address


@pytest.mark.parametrize("mount", [TRACES, PLAIN])
@pytest.mark.parametrize("text", [SCRIPT, f"{SCRIPT}\udc80\x00\x1b[31m\u202e"], ids=["markup", "undecodable"])
def test_every_field_is_escaped(root: Client, store: LocalStore, mount: str, text: str) -> None:
    """Anyone who sends requests or spans can set these fields."""
    evil = {
        "name": text,
        "service": text,
        "scope": text,
        "status_message": text,
        "status": "error",
        "resource": {text: text},
        "events": [{"name": text, "time": NOON, "attributes": {text: text, "exception.stacktrace": text}}],
        "links": [{"trace_id": "ab" * 16, "span_id": "cd" * 8, "attributes": {text: text}}],
    }
    attributes = {
        **{text: text, "db.system": text, "db.name": text, "db.statement": f"SELECT {text} FROM x"},
        **{"db.operation": "select", "code.filepath": text, "code.function": text, "http.status_code": text},
        **{"user.id": text, "user.subscription": text, "correlation.id": text, "peer.service": text},
    }
    breaker = {"operation.type": "circuit_breaker", "circuit_breaker.name": text, "circuit_breaker.state": text}
    spans = [row(7, 1, 0, kind="server", attributes=attributes, took=50, **evil)]
    spans += [row(7, 10 + each, 1, kind="client", start=each, attributes=attributes, **evil) for each in range(6)]
    spans.append(row(7, 20, 1, attributes=breaker, **evil))
    store.write([*spans, row(8, 1, 0, kind="server", attributes=attributes, **evil)])
    trace, span = f"{7:032x}", f"{1:016x}"
    for address in (
        *("", f"?{urlencode({'service': SCRIPT, 'operation': SCRIPT, 'attributes': SCRIPT, 'before': SCRIPT})}"),
        *("routes/", f"routes/?{urlencode({'service': SCRIPT, 'o': SCRIPT, 'within': SCRIPT})}", "map/"),
        *(f"{trace}/", f"{trace}/sql/", f"{trace}/spans/{span}/", f"{trace}/compare/?with={8:032x}"),
    ):
        answer = root.get(mount + address)
        assert answer.status_code == 200
        shown = answer.content.decode()
        assert "<script>alert" not in shown
        assert "alert" in shown or address == ""
        # None of them closes the value of an HTML attribute either.
        assert '"x")&lt;/script' not in shown
    assert "<script" not in root.get(f"{mount}{trace}/otlp.json")["Content-Disposition"]
    for kind in ("otlp", "jaeger"):
        assert "alert" in b"".join(root.get(f"{mount}{trace}/{kind}.json")).decode()


def test_numbers_for_the_browser_are_not_localized(root: Client, store: LocalStore, settings: Any) -> None:
    settings.LANGUAGE_CODE = "de"
    settings.USE_THOUSAND_SEPARATOR = True
    store.write([row(5, 1, 0, "GET /x", took=5_000_000)])
    for address in (f"{5:032x}/", "", "routes/", "map/", f"{BLUEPRINT}/"):
        text = content(root, address)
        assert not re.search(r'\s(?:x|y|width|height|cx|cy|viewBox|data-\w+|aria-level)="[^"]*,', text)
    assert 'data-total="5000000000000"' in content(root, f"{5:032x}/")


def test_every_page_is_registered(root: Client, store: LocalStore) -> None:
    """A page is a module with a function ``page`` and a line in a list, except for the one that others show in their place."""
    folder = Path(pages.__file__).parent
    modules = {path.stem for path in folder.glob("*.py") if "\ndef page(" in path.read_text()}
    everything = (*pages.TRACE_PAGES, *pages.RULE_PAGES, *pages.PLAIN_RULE_PAGES, *pages.STATUS_PAGES)
    listed = {page.module for page in everything}
    assert modules - listed == {"unmigrated"}
    assert listed <= modules
    patterns = {page.pattern for page in pages.TRACE_PAGES}
    for address in ADDRESSES:
        patterns -= {pattern for pattern in patterns if re.search(pattern, address.partition("?")[0])}
    assert patterns == set(), "the tests of permissions must visit each page"


def test_one_line_adds_a_page(root: Client, store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its address and its tab come from the list."""
    added = pages.Page("routes", r"^again/$", "again", "Once more")
    monkeypatch.setattr(pages, "TRACE_PAGES", (*pages.TRACE_PAGES, added))
    site = admin.AdminSite(name="admin")
    site.register(Trace, TraceAdmin)
    urls = ModuleType("urls_with_one_more_page")
    urls.urlpatterns = [url_path("admin/", site.urls)]  # type: ignore[attr-defined]
    with override_settings(ROOT_URLCONF=urls):
        text = root.get(f"{TRACES}again/").content.decode()
    assert re.search(rf'<a href="{TRACES}again/"[^>]*>Once more</a>', text)
    assert "GET /api/blueprints/" in text


def test_the_admin_imports_no_page_at_start() -> None:
    code = """
import sys, django
django.setup()
import django_tracing.admin
ours = [name for name in sys.modules if name.startswith(("django_tracing.pages.", "django_tracing.diagnosis"))]
print(ours + [name for name in sys.modules if name.startswith("django_tracing.traces")])
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.strip() == "[]", done.stderr
