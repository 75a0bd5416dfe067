"""Measure the admin's pages of traces with a full local store: ``python -m benchmarks.pages``.

Each page is asked for as a browser would, templates and all, in the same process over two stores: one of a thousand
spans and one of as many as ``--spans`` says, in traces of 20, and one long trace beside them. The last column is the
one over the other. Nothing is cached between two requests.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, Final
from urllib.parse import urlencode

import django
from django.conf import settings
from django.contrib import admin
from django.test import Client, override_settings
from django.urls import path

from django_tracing.traces.readers.sqlite.store import LocalStore

ROUNDS: Final = 5
SPANS_A_TRACE: Final = 20
MS: Final = 1_000_000
TRACES: Final = "/admin/django_tracing/trace/"
#: The longest possible trace, see docs/traces.md.
LONG: Final = 10_000

#: Set when the settings are loaded.
urlpatterns: list[Any] = []


def span(
    trace: int, number: int, parent: int, name: str, start: int, took: int, service: str, kind: str, **said: Any
) -> dict[str, Any]:
    return {
        "trace_id": f"{trace:032x}",
        "span_id": f"{number:016x}",
        "parent_id": f"{parent:016x}" if parent else "",
        "name": name,
        "kind": kind,
        "service": service,
        "resource": {"service.name": service, "telemetry.sdk.language": "python"},
        "start": start,
        "end": start + took,
        "status": "error" if said.pop("failed", False) else "unset",
        "attributes": {"correlation.id": f"c-{trace}", "user.id": str(trace % 50), **said},
    }


def trace(number: int, began: int, rng: random.Random) -> list[dict[str, Any]]:
    """Return the spans of a request that calls the database, a cache and, behind a breaker, another service."""
    took = int(rng.lognormvariate(3.5, 1) * MS)
    route = rng.choice(["/items", "/items/<int:pk>", "/orders", "/cart"])
    failed = number % 40 == 0
    request = {"operation.type": "http", "http.method": "GET", "http.status_code": 500 if failed else 200}
    query = {
        **{"operation.type": "database", "db.system": "postgresql", "db.name": "shop", "db.operation": "select"},
        "db.statement": "SELECT id, name, price, owner_id FROM items WHERE id = %s",
    }
    cache = {"operation.type": "cache", "cache.system": "redis", "cache.alias": "default", "cache.hit": True}
    breaker = {
        **{"operation.type": "circuit_breaker", "circuit_breaker.name": "billing"},
        "circuit_breaker.state": "open" if failed else "closed",
    }
    call = {"operation.type": "external", "http.method": "GET", "peer.service": "billing"}
    spans = [span(number, 1, 0, f"GET {route}", began, took, "shop", "server", failed=failed, **request)]
    for each in range(2, SPANS_A_TRACE - 3):
        spans.append(
            span(number, each, 1, f"db.select.t{each % 3}", began + each * MS, MS, "shop", "client", **query)
        )
    outer, above = SPANS_A_TRACE - 2, SPANS_A_TRACE - 1
    spans.append(span(number, outer - 1, 1, "cache.get.item:*", began, MS, "shop", "internal", **cache))
    spans.append(span(number, outer, 1, "circuit_breaker.billing", began, 4 * MS, "shop", "internal", **breaker))
    spans.append(span(number, above, outer, "http.get.billing", began, 3 * MS, "shop", "client", **call))
    spans.append(span(number, SPANS_A_TRACE, above, "GET /charge", began, 2 * MS, "billing", "server", **request))
    return spans


def fill(folder: Path, spans: int) -> Path:
    """Create a store of ``spans`` spans, and one long trace at the end."""
    store = LocalStore(folder / f"{spans}.sqlite3", max_traces=spans)
    rng = random.Random(1)
    now = time.time_ns()
    long = min(LONG, spans // 10)
    count = spans // SPANS_A_TRACE
    waiting: list[dict[str, Any]] = []
    for number in range(1, count + 1):
        waiting += trace(number + (rng.getrandbits(60) << 64), now - (count - number) * 500 * MS, rng)
        if len(waiting) > 2000 or number == count:
            store.write(waiting)
            waiting.clear()
    store.write(
        [span(0xB16, 1, 0, "GET /long", now, 10_000 * MS, "shop", "server")]
        + [
            span(0xB16, each, max(1, each // 20), f"step.{each % 97}", now + each * MS, 3 * MS, "shop", "internal")
            for each in range(2, long + 1)
        ]
    )
    store.write(trace(1 + (rng.getrandbits(60) << 64), now, rng))
    # As the queue does when nothing waits.
    while store.work_in_pause():
        pass
    store.close()
    return store.path


def measure(send: Callable[[], Any]) -> float:
    """Return the median of some rounds, after one to warm up, in milliseconds."""
    times = []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        send()
        times.append((time.perf_counter() - began) * 1000)
    return median(times[1:])


def pages(store: LocalStore) -> dict[str, str]:
    """Return the addresses of the pages by their names."""
    found = store.search(limit=store.max_traces)
    deep = found[len(found) * 9 // 10]
    newest = next(summary for summary in found if summary.span_count == SPANS_A_TRACE)
    long = next(summary for summary in found if summary.span_count != SPANS_A_TRACE)
    return {
        "list: the newest": "",
        "list: 90 % of the way back": f"?{urlencode({'before': f'{deep.start}-{deep.trace_id}'})}",
        "list: slow requests": "?min_duration=1s",
        "list: errors": "?errors_only=on",
        "list: database queries": f"?{urlencode({'attributes': 'operation.type=database'})}",
        "list: an attribute that none has": f"?{urlencode({'attributes': 'user.id=nobody'})}",
        "one trace": f"{newest.trace_id}/",
        f"one trace of {long.span_count:,} spans": f"{long.trace_id}/",
        "the SQL of one trace": f"{newest.trace_id}/sql/",
        f"the SQL of {long.span_count:,} spans": f"{long.trace_id}/sql/",
        "one span": f"{newest.trace_id}/spans/{1:016x}/?part=1",
        "two traces compared": f"{newest.trace_id}/compare/?with={deep.trace_id}",
        "routes": "routes/",
        "service map": "map/",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spans", type=int, default=100_000, help="in the large store (default: %(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        _configure()
        small, large = (fill(Path(folder), spans) for spans in (1_000, arguments.spans))
        figures: dict[Path, dict[str, float]] = {}
        client = _client()
        for store in (small, large):
            figures[store] = {}
            with override_settings(TRACING={"EXPORTER": "local", "LOCAL_STORE": str(store)}):
                for what, address in pages(LocalStore(store, max_traces=arguments.spans)).items():
                    answer = client.get(TRACES + address)
                    assert answer.status_code == 200, (address, answer.status_code)
                    figures[store][what] = measure(lambda address=address: client.get(TRACES + address))  # type: ignore[misc]
        print(f"{'page':40} {'1,000 spans':>14} {f'{arguments.spans:,} spans':>16} {'ratio':>8}")
        for (what, slow), quick in zip(figures[large].items(), figures[small].values(), strict=True):
            print(f"{what:40} {quick:11.0f} ms {slow:13.0f} ms {slow / quick:8.1f}")
        traces = arguments.spans // SPANS_A_TRACE
        print(f"\n{traces:,} traces and a long one; the file: {large.stat().st_size / 1e6:.0f} MB")


def _configure() -> None:
    settings.configure(
        SECRET_KEY="benchmark",
        ROOT_URLCONF=__name__,
        ALLOWED_HOSTS=["testserver"],
        INSTALLED_APPS=[
            "django_tracing",
            *(f"django.contrib.{name}" for name in ("admin", "auth", "contenttypes", "messages", "sessions")),
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
        USE_TZ=True,
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        TRACING={"EXPORTER": "none"},
    )
    django.setup()
    urlpatterns.append(path("admin/", admin.site.urls))


def _client() -> Client:
    from django.contrib.auth.models import User
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    client = Client()
    client.force_login(User.objects.create(username="benchmark", is_staff=True, is_superuser=True))
    return client


if __name__ == "__main__":
    main()
