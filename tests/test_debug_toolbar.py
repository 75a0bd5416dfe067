"""Test the panel of django-debug-toolbar with real requests, as the toolbar shows it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("debug_toolbar", reason="needs django-debug-toolbar")

#: A project with the toolbar. It runs in its own process, since the toolbar reads its settings once.
SITE = """
import asyncio, json, os, sys, types
os.environ["DJANGO_SETTINGS_MODULE"] = "toolbar_settings"
settings = types.ModuleType("toolbar_settings")
exec(open("tests/settings.py").read(), settings.__dict__)
options = json.loads(sys.argv[1])
settings.DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": options["database"]}}
settings.INSTALLED_APPS += ["debug_toolbar"]
settings.ROOT_URLCONF = "toolbar_urls"
settings.DEBUG = True
settings.MIDDLEWARE = [*options["before"], "debug_toolbar.middleware.DebugToolbarMiddleware", *options["after"],
    *settings.MIDDLEWARE]
settings.DEBUG_TOOLBAR_PANELS = ["django_tracing.debug_toolbar.TracingPanel"]
settings.DEBUG_TOOLBAR_CONFIG = {"SHOW_TOOLBAR_CALLBACK": "toolbar_urls.always"}
settings.TRACING = {**settings.TRACING, "EXPORTER": "local", "LOCAL_STORE": options["store"], **options["tracing"]}
sys.modules["toolbar_settings"] = settings
urls = types.ModuleType("toolbar_urls")
sys.modules["toolbar_urls"] = urls
import django
django.setup()
from asgiref.sync import sync_to_async
from django.contrib import admin
from django.contrib.auth.models import Group, Permission
from django.http import HttpResponse
from django.test import AsyncClient, Client
from django.urls import include, path, re_path
from django_tracing import create_span
from django.core.management import call_command

def page(request):
    with create_span("<script>alert(1)</script>", {"note": "<script>alert(2)</script>"}):
        for number in range(6):
            list(Group.objects.filter(pk=number))
    return HttpResponse("<html><body>page</body></html>")

def long_page(request):
    for number in range(1100):
        with create_span(f"step.{number}"):
            pass
    return HttpResponse("<html><body>page</body></html>")

def around(get_response):
    def middleware(request):
        with create_span("around"):
            return get_response(request)
    return middleware

async def async_page(request):
    await Group.objects.acount()
    return HttpResponse("<html><body>page</body></html>")

urls.always = lambda request: True
urls.around = around
urls.urlpatterns = [
    path("page/", page), path("long/", long_page), path("async/", async_page), path("health", page),
    re_path(r"^old/(?P<number>[0-9]+)/$", lambda request, number: page(request)), path("admin/", admin.site.urls),
    path("__debug__/", include("debug_toolbar.urls")),
]
call_command("migrate", verbosity=0)

def panel(answer):
    body = answer.content.decode()
    request_id = __import__("re").search(r'data-request-id="([^"]+)"', body).group(1)
    shown = Client().get("/__debug__/render_panel/", {"request_id": request_id, "panel_id": "TracingPanel"})
    nav = __import__("re").search(r'id="djdt-TracingPanel".*?</li>|class="djdt-TracingPanel".*?</li>|TracingPanel.*?</li>', body, 16).group(0)
    return {"status": shown.status_code, "content": json.loads(shown.content)["content"], "nav": nav}

if options["fault"]:
    from django_tracing import debug_toolbar
    exec(options["fault"])
if options["async"]:
    answer = asyncio.run(AsyncClient().get(options["path"]))
    print("RESULT", json.dumps(panel(answer)))
else:
    print("RESULT", json.dumps(panel(Client().get(options["path"]))))
"""


def panel(
    tmp_path: Path,
    path: str = "/page/",
    *,
    use_async: bool = False,
    fault: str = "",
    before: Sequence[str] = (),
    after: Sequence[str] = (),
    **tracing: Any,
) -> Any:
    options = {
        "database": str(tmp_path / "db.sqlite3"),
        "store": str(tmp_path / "traces.sqlite3"),
        "path": path,
        "tracing": tracing,
        "async": use_async,
        "fault": fault,
        "before": before,
        "after": after,
    }
    done = subprocess.run(
        [sys.executable, "-c", SITE, json.dumps(options)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "PYTHONPATH": "."},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    found = json.loads(line.removeprefix("RESULT "))
    assert found["status"] == 200
    found["stderr"] = done.stderr
    return found


def rows(content: str) -> list[tuple[int, str]]:
    """Return the indentation and the name of each row."""
    found = re.findall(
        r'width="(\d+)" height="10" aria-hidden="true"></svg\s*>(?:<strong>)?([^<]+)<', content.split("<tbody>")[1]
    )
    return [(int(indent), name.strip()) for indent, name in found]


def test_the_waterfall_of_a_request(tmp_path: Path) -> None:
    found = panel(tmp_path, CODE_LOCATIONS=True)
    content = found["content"]
    names = [name for _, name in rows(content)]
    assert names[0] == "GET /page/", "the request itself, though it goes on"
    assert names[-1] == "6 × db.select.auth_group", "folded, and not unfolded again"
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in content
    assert "<script" not in content
    assert " style=" not in content
    assert "N+1: the same query 6 times" in content
    assert re.search(r'href="/admin/django_tracing/trace/[0-9a-f]{32}/"', content)
    assert re.search(r"8 spans, [\d.]+ (ms|s)", found["nav"])
    assert 'aria-label="' in content
    assert "SQL" in content


def test_an_async_request(tmp_path: Path) -> None:
    found = panel(tmp_path, "/async/", use_async=True)
    assert "GET /async/" in found["content"]
    assert "db.select.auth_group" in found["content"]


@pytest.mark.parametrize(
    ("path", "tracing", "why"),
    [
        ("/page/", {"SAMPLE_RATE": 0.0}, "its trace was not sampled"),
        ("/page/", {"ENABLED": False}, "Tracing is off"),
        ("/health", {}, "its path is in IGNORE_PATHS"),
        ("/page/", {"INSTRUMENTATIONS": ["database"]}, "The setting INSTRUMENTATIONS does not contain “request”"),
    ],
    ids=["unsampled", "off", "ignored", "not-instrumented"],
)
def test_a_request_that_is_not_recorded(tmp_path: Path, path: str, tracing: dict[str, Any], why: str) -> None:
    found = panel(tmp_path, path, **tracing)
    assert why in found["content"]
    assert "not recorded" in found["nav"]


def test_the_wrong_order_of_middleware_is_explained(tmp_path: Path) -> None:
    found = panel(tmp_path, after=["django_tracing.middleware.TracingMiddleware"])
    assert "TracingMiddleware comes after the toolbar&#x27;s middleware in MIDDLEWARE" in found["content"]


def test_children_of_an_open_span_are_shown_below_the_request(tmp_path: Path) -> None:
    found = panel(tmp_path, "/old/7/", before=["toolbar_urls.around"])
    (indent, name), (below, second), *_ = rows(found["content"])
    assert (indent, name) == (0, "GET /old/<number>/".replace("<", "&lt;").replace(">", "&gt;"))
    assert below > 0
    assert "script" in second


def test_a_long_trace_shows_how_much_is_left_out(tmp_path: Path) -> None:
    found = panel(tmp_path, "/long/")
    assert len(rows(found["content"])) == 1000
    assert "101 more rows are not shown." in found["content"]
    assert "1101 spans" in found["nav"]


@pytest.mark.parametrize(
    "fault",
    [
        "debug_toolbar.waterfall = lambda trace: 1 / 0",
        "debug_toolbar.TracingPanel.template = 'none.html'",
        "debug_toolbar.spans.collect = lambda scope: 1 / 0",
    ],
    ids=["stats", "template", "collect"],
)
def test_an_error_of_the_panel_affects_only_the_panel(tmp_path: Path, fault: str) -> None:
    found = panel(tmp_path, fault=fault)
    assert "The spans could not be shown. The log has the details." in found["content"]
    assert "The toolbar's panel could not" in found["stderr"]


def test_nothing_else_imports_it() -> None:
    code = "import django_tracing, django_tracing.admin, django_tracing.pages.trace, sys; print('debug_toolbar' in sys.modules)"
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"}
    done = subprocess.run(
        [sys.executable, "-c", f"import django; django.setup(); {code}"],
        capture_output=True,
        text=True,
        env=environment,
        cwd=Path(__file__).parent.parent,
        timeout=120,
    )
    assert done.stdout.strip() == "False", done.stderr
