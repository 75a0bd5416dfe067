"""Configure a separate process as a site with a SQLite file: call ``set_up`` first."""

from __future__ import annotations

import fcntl
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.core.management import call_command
from django.db import connection, transaction

#: Paths that SQLite opened in this process.
opened: list[str] = []


def set_up(folder: str, *, migrate: bool = True, timeout: float = 0, name: Any = None, **options: Any) -> Path:
    """Make this process one of the site in ``folder``; return the path of its database.

    By default, it doesn't wait for locks: where another site's request would wait, this one raises an error.
    """
    path = Path(folder) / "site.sqlite3"
    settings.configure(
        SECRET_KEY="x",  # noqa: S106
        BASE_DIR=folder,
        ALLOWED_HOSTS=["testserver"],
        ROOT_URLCONF="tests.pages.urls",
        USE_TZ=options.pop("USE_TZ", True),
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": path if name is None else name,
                "OPTIONS": {"timeout": timeout, **options},
            }
        },
        INSTALLED_APPS=[
            "django_tracing",
            *(f"django.contrib.{app}" for app in ("auth", "contenttypes", "sessions", "messages", "admin")),
            "django.contrib.staticfiles",
        ],
        MIDDLEWARE=[
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.contrib.messages.middleware.MessageMiddleware",
        ],
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "APP_DIRS": True,
                "OPTIONS": {
                    "context_processors": [
                        "django.template.context_processors.request",
                        "django.contrib.auth.context_processors.auth",
                        "django.contrib.messages.context_processors.messages",
                    ]
                },
            }
        ],
        STATIC_URL="/static/",
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        # The tests call their refreshers themselves.
        TRACING={"EXPORTER": "none", "SERVICE_NAME": "shop", "SAMPLING_REFRESH": 0},
    )
    django.setup()
    if migrate:
        call_command("migrate", verbosity=0)
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE stock (number INTEGER)")
            cursor.execute("INSERT INTO stock VALUES (0)")
        connection.close()
    sys.addaudithook(lambda event, given: opened.append(str(given[0])) if event == "sqlite3.connect" else None)
    return path


def make(report: Callable[[], dict[str, Any]] = dict, refresh: float = 0) -> Any:
    """Return a refresher; without ``refresh``, it has no thread, and ``work`` does the thread's work."""
    from opentelemetry.sdk.trace import TracerProvider

    from django_tracing.conf.loading import load
    from django_tracing.recording.factory import SpanFactory
    from django_tracing.sampling.refresh import Refresher
    from django_tracing.sampling.sampler import RuleSampler

    given = {"EXPORTER": "none", "SERVICE_NAME": "shop", "LOCAL_STORE": store(), "SAMPLING_REFRESH": refresh}
    loaded = load(given, {})
    sampler = RuleSampler(loaded.sample_rate, loaded)
    factory = SpanFactory.of(TracerProvider(sampler=sampler, shutdown_on_exit=False).get_tracer("x"), sampler.keep)
    assert factory is not None
    refresher = Refresher(sampler, factory, loaded, report)
    refresher.prepare()
    return refresher


def store() -> str:
    return os.path.join(settings.BASE_DIR, ".tracing", "traces.sqlite3")


def names(refresher: Any) -> list[str]:
    return [compiled.rule.name for compiled in refresher.sampler.rules.compiled]


def decide(refresher: Any, count: int = 1) -> None:
    from opentelemetry.trace import SpanKind

    for number in range(count):
        refresher.sampler.decide(None, "GET", SpanKind.SERVER, None, number << 49)


def work(refresher: Any) -> None:
    """Do all the work of the refresher's thread, at any time, in another thread."""

    def refresh() -> None:
        decide(refresher)
        refresher._status_stored = float("-inf")
        refresher.refresh()

    thread = threading.Thread(target=refresh)
    thread.start()
    thread.join()


def steps(between: Callable[[], None]) -> Iterator[None]:
    """Run a request that reads and then writes, and call ``between`` whenever it isn't using the database."""
    between()
    with transaction.atomic():
        between()
        with connection.cursor() as cursor:
            cursor.execute("SELECT number FROM stock")
            between()
            [number] = cursor.fetchone()
            between()
            cursor.execute("UPDATE stock SET number = %s", [number + 1])
            between()
            cursor.execute("SELECT number FROM stock")
            assert cursor.fetchone() == (number + 1,)
            between()
        yield
    between()


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold a lock on writes: requests that write to one SQLite file fail each other, traced or not."""
    with open(f"{path}.turn", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
