"""gunicorn's gevent workers: threads become greenlets after this app was loaded, and none may wait for another."""

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
        # Nothing has been traced before the first of them: the threads of this app start in the middle of it.
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
