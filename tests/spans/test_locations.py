"""Test ``CODE_LOCATIONS``, which adds the calling line of the user's code to spans, in real requests."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import Group, User
from django.core.cache import cache, caches
from django.db import connection, connections, transaction
from django.http import HttpRequest, HttpResponse
from django.template import Context, Template
from django.test import AsyncClient, Client, override_settings
from django.urls import path
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan

from django_tracing import trace_external_call
from tests.callees import Callee
from tests.conftest import Spans

HERE = "tests/spans/test_locations.py"
KEYS = ("code.filepath", "code.lineno", "code.function")


def tracing(**settings: Any) -> Any:
    return override_settings(
        ROOT_URLCONF=__name__,
        TRACING={"SERVICE_NAME": "tests", "EXPORTER": "none", "LAYERS": "off", **settings},
    )


on = tracing(CODE_LOCATIONS=True)


def location(span: ReadableSpan) -> tuple[Any, ...]:
    attributes = dict(span.attributes or {})
    return tuple(attributes.get(key) for key in KEYS)


def line_of(function: Any, text: str) -> int:
    """Return the number of the only line of ``function`` that contains ``text``."""
    lines, first = inspect.getsourcelines(function)
    (number,) = (first + at for at, line in enumerate(lines) if text in line)
    return number


def here(function: Any, text: str) -> tuple[str, int, str]:
    return HERE, line_of(function, text), function.__name__


# ----- Views


def orders(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(count_users()))


def count_users() -> int:
    return User.objects.count()  # the query


def names(request: HttpRequest) -> HttpResponse:
    return HttpResponse(",".join(group.name for group in Group.objects.all()))  # the names


def whoami(request: HttpRequest) -> HttpResponse:
    request.session["seen"] = True
    return HttpResponse(request.user.get_username())


def page(request: HttpRequest) -> HttpResponse:
    template = Template("{% for group in groups %}{{ group.name }}{% endfor %}")
    return HttpResponse(template.render(Context({"groups": Group.objects.all()})))  # the template


def caching(request: HttpRequest) -> HttpResponse:
    cache.set("order:1", 1)  # set
    cache.get("order:1")  # get
    cache.get_many(["order:1", "order:2"])  # many
    caches["redis"].get("order:1")  # over the network
    return HttpResponse()


async def async_orders(request: HttpRequest) -> HttpResponse:
    await sync_to_async(count_users)()
    return HttpResponse()


async def async_orm(request: HttpRequest) -> HttpResponse:
    await User.objects.acount()
    return HttpResponse()


async def async_caching(request: HttpRequest) -> HttpResponse:
    await caches["redis"].aget_many(["order:1"])  # async
    return HttpResponse()


def writing(request: HttpRequest) -> HttpResponse:
    with transaction.atomic():
        Group.objects.create(name="a")  # insert
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO auth_group (name) VALUES (%s)", [("b",), ("c",)])  # many
    return HttpResponse()


def calling(request: HttpRequest) -> HttpResponse:
    url = request.GET["url"]
    httpx.get(url, trust_env=False)  # by the library
    trace_external_call("paper", "POST", "http://paper/", lambda: None)  # announced
    return HttpResponse()


urlpatterns = [
    path("orders/", orders),
    path("names/", names),
    path("page/", page),
    path("whoami/", whoami),
    path("caching/", caching),
    path("writing/", writing),
    path("calling/", calling),
    path("async-orders/", async_orders),
    path("async-orm/", async_orm),
    path("async-caching/", async_caching),
]


# ----- Requests


@pytest.mark.django_db
class TestRequests:
    @on
    def test_a_query_has_the_line_that_made_it(self, spans: Spans, client: Client) -> None:
        client.get("/orders/")
        assert location(spans.one("db.select.auth_user")) == here(count_users, "# the query")

    @on
    def test_the_function_of_a_generator_expression(self, spans: Spans, client: Client) -> None:
        client.get("/names/")
        assert location(spans.one("db.select.auth_group")) == here(names, "# the names")

    @on
    def test_a_query_in_a_template_has_the_line_of_the_view(self, spans: Spans, client: Client) -> None:
        client.get("/page/")
        assert location(spans.one("db.select.auth_group")) == here(page, "# the template")

    @on
    def test_writing(self, spans: Spans, client: Client) -> None:
        client.get("/writing/")
        inserts = [location(span) for span in spans.named("db.insert.auth_group")]
        assert inserts == [here(writing, "# insert"), here(writing, "# many")]

    @on
    @pytest.mark.usefixtures("redis_url")
    def test_caches(self, spans: Spans, client: Client) -> None:
        caches["redis"].delete("order:1")
        spans.clear()
        client.get("/caching/")
        found = [location(span) for span in spans if span.name.startswith("cache.")]
        assert found == [here(caching, f"# {which}") for which in ("set", "get", "many", "over the network")]

    @on
    def test_outgoing_calls(self, spans: Spans, client: Client) -> None:
        with Callee() as callee:
            client.get("/calling/", {"url": callee.url})
        (library,) = (span for span in spans if span.name.startswith("http.get."))
        assert location(library) == here(calling, "# by the library")
        assert location(spans.one("http.post.paper")) == here(calling, "# announced")

    @on
    def test_a_middleware_of_the_user(self, spans: Spans, client: Client) -> None:
        ours = "django_tracing.middleware.TracingMiddleware"
        with override_settings(MIDDLEWARE=[ours, "tests.spans.test_locations.querying"]):
            client.get("/orders/")
        location_of_query, counted = spans.named("db.select.auth_user")
        assert location(location_of_query) == (HERE, line_of(querying, "# queried first"), "middleware")
        assert location(counted) == here(count_users, "# the query")

    @on
    def test_queries_of_django_itself_have_no_location(self, spans: Spans, client: Client) -> None:
        client.force_login(User.objects.create(username="ada"))
        spans.clear()
        client.get("/whoami/")
        # Not the line of the test, which called Django, nor of the view, which returned before the session is saved.
        assert location(spans.one("db.select.django_session"))[2] == "whoami"
        assert location(spans.one("db.update.django_session")) == (None, None, None)

    @tracing()
    @pytest.mark.usefixtures("redis_url")
    def test_off_is_the_default(self, spans: Spans, client: Client) -> None:
        client.get("/orders/")
        client.get("/caching/")
        assert all(location(span) == (None, None, None) for span in spans)
        assert len(spans) > 5


def querying(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    def middleware(request: HttpRequest) -> HttpResponse:
        User.objects.exists()  # queried first
        return get_response(request)

    return middleware


def get_async(path: str) -> None:
    async def run() -> None:
        await AsyncClient().get(path)
        # The thread that sync code ran in has a connection of its own.
        await sync_to_async(connections.close_all)()

    asyncio.run(run())


@pytest.mark.django_db
class TestAsync:
    @on
    def test_a_function_of_the_user_in_a_thread(self, spans: Spans) -> None:
        get_async("/async-orders/")
        assert location(spans.one("db.select.auth_user")) == here(count_users, "# the query")

    @on
    def test_a_thread_without_the_users_code_has_no_location(self, spans: Spans) -> None:
        get_async("/async-orm/")
        assert location(spans.one("db.select.auth_user")) == (None, None, None)

    @on
    @pytest.mark.usefixtures("redis_url")
    def test_a_coroutine(self, spans: Spans) -> None:
        get_async("/async-caching/")
        (span,) = (span for span in spans if span.name.startswith("cache.get_many"))
        assert location(span) == here(async_caching, "# async")

    @on
    def test_a_sync_view(self, spans: Spans) -> None:
        get_async("/orders/")
        assert location(spans.one("db.select.auth_user")) == here(count_users, "# the query")


# ----- The user's code

tracer = trace.get_tracer("tests")

MODULE = """
from django.contrib.auth.models import User

def count():
    return User.objects.count()

def run(function):
    return function()
"""


def load(file: Path) -> ModuleType:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(MODULE, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.django_db
class TestUsersCode:
    @pytest.fixture(autouse=True)
    def _on(self) -> Iterator[None]:
        with on:
            yield

    def location_of_query(self, spans: Spans, count: Callable[[], Any]) -> tuple[Any, ...]:
        spans.clear()
        with tracer.start_as_current_span("root"):
            count()
        return location(spans.one("db.select.auth_user"))

    def test_the_path_is_below_the_longest_entry(
        self, spans: Spans, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.syspath_prepend(str(tmp_path / "project"))
        monkeypatch.syspath_prepend(str(tmp_path))
        module = load(tmp_path / "project" / "shop" / "views.py")
        assert self.location_of_query(spans, module.count) == ("shop/views.py", 5, "count")

    def test_outside_of_every_entry_it_is_only_the_file_name(self, spans: Spans, tmp_path: Path) -> None:
        module = load(tmp_path / "shop" / "views.py")
        assert self.location_of_query(spans, module.count) == ("views.py", 5, "count")

    def test_the_home_folder_is_never_shown(
        self, spans: Spans, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path / "home" / "ada"))
        monkeypatch.setenv("USERPROFILE", str(tmp_path / "home" / "ada"))
        monkeypatch.syspath_prepend(str(tmp_path / "home"))
        module = load(tmp_path / "home" / "ada" / "shop" / "views.py")
        assert self.location_of_query(spans, module.count) == ("views.py", 5, "count")
        # A path outside of it is not changed.
        module = load(tmp_path / "home" / "shop" / "views.py")
        assert self.location_of_query(spans, module.count) == ("shop/views.py", 5, "count")
        monkeypatch.syspath_prepend(str(tmp_path / "home" / "ada"))
        module = load(tmp_path / "home" / "ada" / "shop" / "models.py")
        assert self.location_of_query(spans, module.count) == ("shop/models.py", 5, "count")

    @pytest.mark.parametrize("packages", ["site-packages", "dist-packages"])
    def test_installed_packages_are_skipped(self, spans: Spans, tmp_path: Path, packages: str) -> None:
        module = load(tmp_path / "venv" / "lib" / "python3" / packages / "shelf" / "views.py")
        found = self.location_of_query(spans, module.count)
        assert found[::2] == (HERE, "location_of_query")

    def test_a_project_below_a_virtual_environment_is_the_users_code(
        self, spans: Spans, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.syspath_prepend(str(tmp_path / "venv" / "src"))
        module = load(tmp_path / "venv" / "src" / "my-site-packages" / "views.py")
        assert self.location_of_query(spans, module.count) == ("my-site-packages/views.py", 5, "count")

    def test_code_without_a_file_is_skipped(self, spans: Spans, tmp_path: Path) -> None:
        module = load(tmp_path / "views.py")
        for filename in ("<string>", "shop/templates/cart.html"):
            names: dict[str, Any] = {}
            exec(compile(MODULE, filename, "exec"), names)  # noqa: S102
            assert self.location_of_query(spans, lambda count=names["count"]: module.run(count)) == (
                "views.py",
                8,
                "run",
            )

    def test_many_files_and_lines_use_bounded_memory(self, spans: Spans) -> None:
        from django_tracing.spans import locations as code_locations

        names: dict[str, Any] = {}
        for number in range(code_locations._MOST_FILES + 10):
            exec(compile("def run(f):\n    return f()", f"generated{number}.py", "exec"), names)  # noqa: S102
            code_locations._classify(names["run"].__code__.co_filename)
            assert len(code_locations._files) <= code_locations._MOST_FILES

    def test_a_failure_loses_only_the_location(self, spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
        from django_tracing.spans import locations as code_locations

        def fails(*args: Any) -> str:
            raise OSError("the working folder is gone")

        monkeypatch.setattr(code_locations, "_files", {})
        monkeypatch.setattr(os.path, "abspath", fails)
        assert self.location_of_query(spans, User.objects.count) == (None, None, None)


def test_in_a_process_of_its_own(tmp_path: Path) -> None:
    """As in a deployed project: the setting is in its settings module, not changed by a test."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "work.py").write_text(MODULE, encoding="utf-8")
    (tmp_path / "shop" / "settings.py").write_text(
        textwrap.dedent(
            """
            SECRET_KEY = "x"
            INSTALLED_APPS = ["django_tracing", "django.contrib.auth", "django.contrib.contenttypes"]
            DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
            TRACING = {"EXPORTER": "none", "CODE_LOCATIONS": True}
            """
        ),
        encoding="utf-8",
    )
    script = textwrap.dedent(
        """
        import django
        django.setup()
        from django.core.management import call_command
        from django_tracing.testing import capture_spans
        from django_tracing import create_span
        from shop.work import count
        call_command("migrate", verbosity=0)
        with capture_spans() as spans:
            with create_span("work"):
                count()
        found = spans.find("db.select.auth_user").attributes
        print(found["code.filepath"], found["code.lineno"], found["code.function"])
        """
    )
    run = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "shop.settings", "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["shop/work.py", "5", "count"]
