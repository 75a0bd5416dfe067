"""Test that users' test suites pass as before with Django's runner and pytest-django, and export nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import ROOT, Process, environment
from tests.receivers import OTLPReceiver

SETTINGS = """
import json
import os
from pathlib import Path
from example_project.servers import database_settings
from shop.tiers import tier

HERE = Path(__file__).parent
SECRET_KEY = "tests-only"
ROOT_URLCONF = "shop.urls"
USE_TZ = True
STATIC_URL = "/static/"
ALLOWED_HOSTS = ["testserver", "localhost"]
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions", "django_tracing"]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
DATABASES = {
    "default": {
        **database_settings(os.environ["SHOP_DATABASE"]), "ATOMIC_REQUESTS": True, "TEST": {"NAME": "test_runners"}
    },
    "other": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
}
TRACING = {"SUBSCRIPTION": tier, "LOCAL_STORE": str(HERE / "store" / "traces.sqlite3"), "EXPORT_INTERVAL": 0.01}
TRACING.update(json.loads(os.environ.get("TRACING_SETTINGS", "{}")))
"""

#: A subscription that tries to write, and whose value shows if it was allowed to.
TIERS = """
def tier(user):
    try:
        from django.contrib.auth.models import Group
        Group.objects.create(name="made by the subscription")
        return "written"
    except Exception:
        return "caught"
"""

URLS = """
from django.contrib.auth.models import User
from django.db import transaction
from django.http import HttpResponse
from django.urls import path

@transaction.non_atomic_requests
def plain(request):
    return HttpResponse("plain")

def rename(request):
    assert request.user.is_authenticated
    User.objects.filter(pk=request.user.pk).update(last_name="renamed")
    return HttpResponse(request.user.username)

urlpatterns = [path("plain/", plain), path("rename/", rename)]
"""

TESTS = """
from concurrent.futures import ThreadPoolExecutor
from urllib.request import Request, urlopen

from django.contrib.auth.models import Group, User
from django.db import connections
from django.test import Client, LiveServerTestCase, SimpleTestCase, TestCase, TransactionTestCase


class TestNoDatabase(SimpleTestCase):
    def test_guards(self):
        for _ in range(2):
            with self.assertRaisesMessage(AssertionError, "Database queries to"):
                User.objects.count()
            assert self.client.get("/plain/").status_code == 200


class TestOneDatabase(TestCase):
    databases = {"default"}

    def test_requests(self):
        self.client.force_login(User.objects.create(username="ada"))
        for _ in range(3):
            assert self.client.get("/rename/").content == b"ada"
            with self.assertRaisesMessage(AssertionError, "Database queries to 'other'"):
                connections["other"].cursor()
        assert User.objects.get().last_name == "renamed"
        assert not Group.objects.exists()


class TestTransactions(TransactionTestCase):
    def test_requests(self):
        user = User.objects.create(username="ada")
        self.client.force_login(user)
        with self.assertNumQueries(5):  # begin, session, user, update, commit
            assert self.client.get("/rename/").status_code == 200
        assert User.objects.get().last_name == "renamed"


class TestLive(LiveServerTestCase):
    def test_threads_that_share_a_connection(self):
        clients = []
        for number in range(8):
            client = Client()
            client.force_login(User.objects.create(username=f"user{number}"))
            clients.append((f"user{number}", client.cookies["sessionid"].value))

        def ask(who):
            name, session = who
            request = Request(self.live_server_url + "/rename/", headers={"Cookie": f"sessionid={session}"})
            with urlopen(request) as response:
                assert response.read().decode() == name

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(ask, clients * 3))
        assert set(User.objects.values_list("last_name", flat=True)) == {"renamed"}
        assert not Group.objects.exists()
"""

PYTEST = """
[pytest]
DJANGO_SETTINGS_MODULE = shop_settings
python_files = tests.py
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    package = tmp_path / "shop"
    package.mkdir()
    (tmp_path / "shop_settings.py").write_text(SETTINGS)
    (tmp_path / "pytest.ini").write_text(PYTEST)
    for name, text in (("__init__", ""), ("tiers", TIERS), ("urls", URLS), ("tests", TESTS)):
        (package / f"{name}.py").write_text(text)
    return tmp_path


def run(shop: Path, *command: str, **variables: str) -> str:
    known = environment(DJANGO_SETTINGS_MODULE="shop_settings", SHOP_DATABASE=os.environ["TEST_POSTGRES_URL"])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", *command],
        env={**known, "PYTHONPATH": f"{shop}{os.pathsep}{known['PYTHONPATH']}", **variables},
        cwd=shop,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


RUNNERS: Any = pytest.mark.parametrize(
    ("runner", "result"),
    [
        (("django", "test", "shop"), "Ran 4 tests"),
        (("django", "test", "shop", "--parallel", "2"), "Ran 4 tests"),
        (("pytest", "-q", "-p", "no:cacheprovider"), "4 passed"),
    ],
    ids=["django", "parallel", "pytest"],
)


@RUNNERS
def test_a_suite_passes_and_exports_nothing(shop: Path, runner: tuple[str, ...], result: str) -> None:
    with OTLPReceiver() as receiver:
        assert result in run(shop, *runner, JAEGER_ENDPOINT=receiver.endpoint)
        assert receiver.connections == 0


def test_the_developers_store_is_unchanged(shop: Path) -> None:
    run(shop, "django", "test", "shop")
    assert not (shop / "store").exists()


@RUNNERS
def test_a_suite_that_opts_in_is_exported(shop: Path, runner: tuple[str, ...], result: str) -> None:
    with OTLPReceiver() as receiver:
        asked = json.dumps({"ENABLED_IN_TESTS": True})
        assert result in run(shop, *runner, JAEGER_ENDPOINT=receiver.endpoint, TRACING_SETTINGS=asked)
        received = receiver.wait_for(4)
    assert {"GET /plain/", "GET /rename/"} <= {span.name for span in received}
    # The subscription's query is refused, and its value shows this.
    assert {span.attributes.get("user.subscription", "caught") for span in received} == {"caught"}


WRONG: Any = pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"JAEGER_ENDPOINT": "jaeger:4318"}, "Tracing is off"),
        ({"JAEGER_ENDPOINT": "http://127.0.0.1:4317", "WITHOUT": "grpc"}, "Spans are not exported"),
        ({"OTEL_PROPAGATORS": "tracecontext,baggage,b4"}, "b4"),
        ({"OTEL_PYTHON_TRACER_PROVIDER": "foo"}, "OTEL_PYTHON_TRACER_PROVIDER"),
        ({"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "abc", "OTEL_SDK_DISABLED": "true"}, ""),
    ],
    ids=["endpoint", "extra", "propagator", "provider", "disabled"],
)


@WRONG
def test_a_wrong_environment_does_not_stop_a_test_run(shop: Path, variables: dict[str, str], message: str) -> None:
    (shop / "sitecustomize.py").write_text(WITHOUT)
    result = run(shop, "django", "test", "shop", **variables)
    assert "Ran 4 tests" in result
    assert message in result


@WRONG
def test_a_wrong_environment_does_not_stop_runserver(shop: Path, variables: dict[str, str], message: str) -> None:
    (shop / "sitecustomize.py").write_text(WITHOUT)
    known = {
        "DJANGO_SETTINGS_MODULE": "shop_settings",
        "SHOP_DATABASE": os.environ["TEST_POSTGRES_URL"],
        "PYTHONPATH": f"{shop}{os.pathsep}{ROOT}",
    }
    command = [sys.executable, "-m", "django", "runserver", "127.0.0.1:{port}", "--noreload"]
    with Process(command, ready=None, **known, **variables) as server:
        server.wait_for_port()
        assert server.get("/plain/", Host="localhost")[:2] == (200, b"plain")
        log = server.log()
    assert message in log
    assert "Traceback" not in log
    lines = [line for line in log.splitlines() if message and line.startswith(("Tracing is off", "Spans are not"))]
    assert len(lines) <= 1


#: Code that makes a package unavailable.
WITHOUT = """
import os, sys
if "WITHOUT" in os.environ:
    sys.modules[os.environ["WITHOUT"]] = None
"""


CAPTURED = """
from django.test import SimpleTestCase
from django_tracing.testing import capture_spans

class TestCaptured(SimpleTestCase):
    def test_what_is_asked_for_is_sent(self):
        self.client.get("/plain/?before")
        with capture_spans(export=True) as spans:
            self.client.get("/plain/?asked")
        self.client.get("/plain/?after")
        assert spans.names == ["GET /plain/"]
"""


def test_one_block_that_opts_in_is_exported(shop: Path) -> None:
    (shop / "shop" / "tests.py").write_text(CAPTURED)
    with OTLPReceiver() as receiver:
        run(shop, "django", "test", "shop", JAEGER_ENDPOINT=receiver.endpoint)
        [span] = receiver.wait_for(1)
    assert span.attributes["http.url"].endswith("/plain/?asked")
