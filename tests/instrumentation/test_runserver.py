"""Test the line of runserver that shows where traces are seen, as a developer's terminal has it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import Process
from tests.jaegers import wait_until

ROOT = Path(__file__).parent.parent.parent

SITE = """
import json, os
SECRET_KEY = "x"
DEBUG = True
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "shop.urls"
INSTALLED_APPS = [
    "django_tracing", "django.contrib.auth", "django.contrib.contenttypes", "django.contrib.messages",
    "django.contrib.sessions", "django.contrib.staticfiles", "django.contrib.admin",
]
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
STATIC_URL = "/static/"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
TRACING = json.loads(os.environ["TRACING_SETTINGS"])
"""
URLS = {
    "admin": 'from django.contrib import admin\nfrom django.urls import path\nurlpatterns = [path("office/", '
    "admin.site.urls)]\n",
    "none": "urlpatterns = []\n",
    "broken": 'raise RuntimeError("the URLs of this project are wrong")\n',
}
RUNSERVER = [sys.executable, "-m", "django", "runserver", "--skip-checks"]


def started(folder: Path, tracing: dict[str, Any], *options: str, urls: str = "admin", addrport: str = "") -> str:
    """Return what runserver has printed when it serves; ``{port}`` is its port."""
    (folder / "shop").mkdir()
    (folder / "shop" / "__init__.py").touch()
    (folder / "shop" / "settings.py").write_text(SITE)
    (folder / "shop" / "urls.py").write_text(URLS[urls])
    server = Process(
        [*RUNSERVER, *options, addrport or "127.0.0.1:{port}"],
        ready=None,
        DJANGO_SETTINGS_MODULE="shop.settings",
        PYTHONPATH=os.pathsep.join([str(folder), str(ROOT)]),
        PYTHONUNBUFFERED="1",
        TRACING_SETTINGS=json.dumps({"LOCAL_STORE": str(folder / "traces.sqlite3"), **tracing}),
        DJANGO_RUNSERVER_HIDE_WARNING="false",
    )
    with server:
        server.wait_for_port()
        # Django's warning comes before our line, and the log line of a request after it.
        server.get("/")
        wait_until(lambda: '"GET / ' in server.log(), "the line of the request", 60)
        return server.log().replace(str(server.port), "{port}")


def lines_of(log: str) -> list[str]:
    return [line for line in log.splitlines() if line.startswith("Traces: ")]


@pytest.mark.parametrize("options", [[], ["--noreload"]], ids=["autoreloader", "noreload"])
def test_the_address_of_the_list_is_printed_once(tmp_path: Path, options: list[str]) -> None:
    log = started(tmp_path, {}, *options)
    assert lines_of(log) == ["Traces: http://127.0.0.1:{port}/office/django_tracing/trace/"]


def test_a_server_of_all_addresses_has_one_that_can_be_opened(tmp_path: Path) -> None:
    log = started(tmp_path, {}, "--noreload", addrport="0:{port}")
    assert lines_of(log) == ["Traces: http://localhost:{port}/office/django_tracing/trace/"]


@pytest.mark.parametrize("urls", ["none", "broken"])
def test_without_an_admin_it_is_the_command_or_jaeger(tmp_path: Path, urls: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert lines_of(started(tmp_path / "a", {}, "--noreload", urls=urls)) == ["Traces: python manage.py traces"]
    jaeger = {"EXPORTER": "otlp", "QUERY_URL": "http://user:secret@localhost:16686"}
    assert lines_of(started(tmp_path / "b", jaeger, "--noreload", urls=urls)) == ["Traces: http://localhost:16686"]


@pytest.mark.parametrize("tracing", [{"EXPORTER": "none"}, {"ENABLED": False}, {"SAMPLE_RATE": 5}])
def test_there_is_no_line_if_nothing_can_be_seen(tmp_path: Path, tracing: dict[str, Any]) -> None:
    assert lines_of(started(tmp_path, tracing, "--noreload")) == []


def test_other_commands_print_no_line(tmp_path: Path) -> None:
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "example_project.settings", "PYTHONPATH": str(ROOT)}
    environment["DEMO_LOCAL_STORE"] = str(tmp_path / "traces.sqlite3")
    command = [sys.executable, "-m", "django", "check"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Traces:" not in done.stdout + done.stderr
