"""Test gunicorn's gevent workers, where threads become greenlets after this app was loaded and must not block each other."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.processes import ROOT, Process
from tests.receivers import OTLPReceiver

SITE = """
import os, time
from django.core.cache import cache
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path
from example_project.servers import database_settings

SECRET_KEY = "tests-only"
ROOT_URLCONF = "site_of_greenlets"
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = ["django_tracing"]
if "SITE_DATABASE" in os.environ:
    DATABASES = {"default": database_settings(os.environ["SITE_DATABASE"])}

def view(request):
    cache.set("a", 1)
    time.sleep(0.05)
    return HttpResponse("ok")

urlpatterns = [path("health/", view), path("", view)]
"""
WSGI = "from django.core.wsgi import get_wsgi_application\napplication = get_wsgi_application()\n"


@pytest.mark.parametrize("database", [False, True], ids=["no database", "postgresql"])
@pytest.mark.parametrize("preload", [["--preload"], []], ids=["preload", "load"])
def test_many_greenlets_at_once(tmp_path: Path, preload: list[str], database: bool) -> None:
    (tmp_path / "site_of_greenlets.py").write_text(SITE)
    (tmp_path / "site_of_greenlets_wsgi.py").write_text(WSGI)
    variables = {
        "DJANGO_SETTINGS_MODULE": "site_of_greenlets",
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        **({"SITE_DATABASE": os.environ["TEST_POSTGRES_URL"]} if database else {}),
    }
    arguments = ["gunicorn", "site_of_greenlets_wsgi", "--bind", "127.0.0.1:{port}", "--worker-class", "gevent"]
    with (
        OTLPReceiver() as receiver,
        # Nothing was traced before, so the first requests start the threads of this app.
        Process([*arguments, *preload], ready=None, JAEGER_ENDPOINT=receiver.endpoint, **variables) as server,
        ThreadPoolExecutor(30) as pool,
    ):
        server.wait_for_port()
        answers = list(pool.map(lambda _: server.get("/")[0], range(30)))
        assert answers == [200] * 30, server.log()
        spans = receiver.wait_for(lambda spans: sum(span.kind == "server" for span in spans) >= 30)
        assert len({span.trace_id for span in spans}) == 30
        log = server.log()
    assert "Traceback" not in log, log
    # All greenlets share Django's connections then, so this app's thread doesn't use them and logs this.
    assert ("sampling rules are not read" in log) is bool(preload and database)


def test_gevent_that_patched_first(tmp_path: Path) -> None:
    """With --preload too, each greenlet has its own connections, and the rules are read."""
    (tmp_path / "site_of_greenlets.py").write_text(SITE)
    (tmp_path / "site_of_greenlets_wsgi.py").write_text(WSGI)
    configuration = tmp_path / "gunicorn_configuration.py"
    configuration.write_text("import gevent.monkey\ngevent.monkey.patch_all()\npreload_app = True\n")
    arguments = ["gunicorn", "site_of_greenlets_wsgi", "--bind", "127.0.0.1:{port}", "--worker-class", "gevent"]
    with (
        OTLPReceiver() as receiver,
        Process(
            [*arguments, "--config", str(configuration)],
            ready=None,
            JAEGER_ENDPOINT=receiver.endpoint,
            DJANGO_SETTINGS_MODULE="site_of_greenlets",
            PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}",
            SITE_DATABASE=os.environ["TEST_POSTGRES_URL"],
            OTEL_BSP_SCHEDULE_DELAY="100",
        ) as server,
        ThreadPoolExecutor(30) as pool,
    ):
        server.wait_for_port()
        assert list(pool.map(lambda _: server.get("/")[0], range(30))) == [200] * 30
        receiver.wait_for(lambda spans: sum(span.kind == "server" for span in spans) >= 30)
        log = server.log()
    assert "Traceback" not in log, log
    assert "sampling rules are not read" not in log


@pytest.mark.parametrize("arguments", [["--max-requests", "5"], ["--preload"]], ids=["max requests", "preload"])
def test_no_span_is_queued_when_a_worker_ends(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "site_of_greenlets.py").write_text(SITE)
    (tmp_path / "site_of_greenlets_wsgi.py").write_text(WSGI)
    gunicorn = ["gunicorn", "site_of_greenlets_wsgi", "--bind", "127.0.0.1:{port}", "--worker-class", "gevent"]
    with OTLPReceiver() as receiver:
        with Process(
            [*gunicorn, *arguments],
            ready=None,
            JAEGER_ENDPOINT=receiver.endpoint,
            DJANGO_SETTINGS_MODULE="site_of_greenlets",
            PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}",
            # Longer than the test.
            OTEL_BSP_SCHEDULE_DELAY="3600000",
        ) as server:
            server.wait_for_port()
            assert [server.get("/")[0] for _ in range(8)] == [200] * 8
            server.stop()
            log = server.log()
        assert sum(span.kind == "server" for span in receiver.spans) == 8, log
        assert "Traceback" not in log
