"""Test log lines and mails that link to the page of their trace."""

from __future__ import annotations

import json
import logging
import logging.config
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import django
import pytest
from django.core import mail
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import path

from django_tracing.conf.loading import get_settings
from django_tracing.instrumentation import log_records
from tests.conftest import Spans
from tests.e2e.processes import Process
from tests.jaegers import wait_until

PAGE = Path(__file__).parents[2] / "docs" / "logs.md"
TRACES = "/admin/django_tracing/trace/"


def failing(request: HttpRequest) -> HttpResponse:
    raise ValueError("boom")


def urlpatterns_of() -> list[Any]:
    from django.contrib import admin

    return [path("admin/", admin.site.urls), path("failing/", failing)]


urlpatterns = urlpatterns_of()


@pytest.mark.usefixtures("postgres_url")
@pytest.mark.parametrize(
    ("tracing", "host", "line"),
    [
        ({"EXPORTER": "local"}, "localhost:8000", rf"trace=http://localhost:8000{TRACES}[0-9a-f]{{32}}/$"),
        ({"EXPORTER": "local"}, "evil.example", r"trace=[0-9a-f]{32}$"),
        # Nothing can be read.
        ({"EXPORTER": "none"}, "localhost:8000", r"trace=[0-9a-f]{32}$"),
    ],
)
def test_runserver_s_line_links_to_the_trace(tmp_path: Path, tracing: dict[str, Any], host: str, line: str) -> None:
    server = Process(
        [sys.executable, "-m", "django", "runserver", "--noreload", "127.0.0.1:{port}"],
        ready=None,
        DJANGO_SETTINGS_MODULE="tests.e2e.admin_settings",
        TRACING_SETTINGS=json.dumps({**tracing, "LOCAL_STORE": str(tmp_path / "traces.sqlite3")}),
    )
    with server as started:
        wait_until(lambda: _answers(started, host), "the server", 40)

        def lines() -> list[str]:
            return [line for line in started.log().splitlines() if '"GET /people/1/' in line]

        wait_until(lines, "the line of a request")
        assert re.search(line, lines()[0]), lines()


def _answers(started: Process, host: str) -> bool:
    try:
        started.get("/people/1/", host=host)
    except OSError:
        return False
    return True


@pytest.fixture
def mails(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    settings.TRACING = {"EXPORTER": "local"}
    monkeypatch.setattr(log_records._options, "settings", get_settings())
    settings.ROOT_URLCONF = __name__
    settings.ADMINS = ["root@example.com"] if django.VERSION >= (6, 0) else [("root", "root@example.com")]
    if django.VERSION >= (6, 1):
        settings.MAILERS = {"default": {"BACKEND": "django.core.mail.backends.locmem.EmailBackend"}}
    example = next(
        block for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "mail" in block
    )
    names: dict[str, Any] = {}
    exec(example, names)  # noqa: S102
    logger = logging.getLogger("django")
    before = logger.handlers[:], logger.level, logger.propagate
    logging.config.dictConfig(names["LOGGING"])
    yield
    logger.handlers[:], logger.level, logger.propagate = before


@pytest.mark.usefixtures("mails")
def test_a_mail_about_an_error_links_to_the_trace(spans: Spans) -> None:
    Client(raise_request_exception=False).get("/failing/")
    (message,) = mail.outbox
    trace_id = f"{spans.one('GET /failing/').context.trace_id:032x}"
    assert f"http://testserver{TRACES}{trace_id}/" in message.body
    assert "ValueError at /failing/" in message.body


@pytest.mark.usefixtures("mails")
def test_a_mail_outside_a_trace_has_no_link() -> None:
    logging.getLogger("django.request").error("outside")
    (message,) = mail.outbox
    assert "Trace: -" in message.body
