"""Ask a site for its pages, in a process of its own: ``python -m tests.e2e.sites.ask wagtail_site traced``.

Prints one JSON object: the answers, and the spans if the site is traced.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import types
from importlib import import_module
from typing import Any

from django.conf import settings
from django.test.utils import setup_test_environment

#: What differs from run to run: tokens, folders, and the date and the time of day.
_RANDOM = re.compile(
    rb"csrf[\w-]*\W+(?:value=\W)?[\w-]{32,64}|nonce=\W?[\w-]+|/tmp/[\w./-]+"
    rb"|\d{1,2}\w\w \w{3} \d{4}|\w{3,4}\. \d{1,2}, \d{4}|\d{1,2}/\d{1,2}/\d{4}"
    rb"|\d{1,2}:\d{2}(?: [ap]\.m\.)?|\d{1,2} [ap]\.m\.|\bnoon\b|\bmidnight\b",
    re.IGNORECASE,
)


def _configure(site: Any, traced: bool) -> None:
    folder = tempfile.mkdtemp()
    urls = types.ModuleType("site_urls")
    sys.modules["site_urls"] = urls
    chosen = site.settings(folder)
    apps = chosen.pop("INSTALLED_APPS")
    settings.configure(
        **{
            "ALLOWED_HOSTS": ["*"],
            "DATABASES": {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
            "SECRET_KEY": "of a test",
            "ROOT_URLCONF": "site_urls",
            "STATIC_URL": "/static/",
            "MEDIA_URL": "/media/",
            "MEDIA_ROOT": folder,
            "DEFAULT_AUTO_FIELD": "django.db.models.AutoField",
            "USE_TZ": True,
            "PASSWORD_HASHERS": ["django.contrib.auth.hashers.MD5PasswordHasher"],
            # Installed either way: an admin lists its models.
            "INSTALLED_APPS": [*apps, "django_tracing"],
            "TRACING": {"EXPORTER": "none", "LAYERS": "all", "SERVICE_NAME": "site", "ENABLED": traced},
            **chosen,
        }
    )
    import django

    django.setup()
    urls.urlpatterns = site.urls()  # type: ignore[attr-defined]


def ask(name: str, traced: bool) -> dict[str, Any]:
    site = import_module(f"tests.e2e.sites.{name}")
    _configure(site, traced)
    setup_test_environment()
    from django.core.management import call_command
    from django.test import Client

    call_command("migrate", verbosity=0)
    user = site.fill()
    exporter: Any = None
    if traced:
        from opentelemetry import trace
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        exporter = InMemorySpanExporter()
        trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(exporter))  # type: ignore[attr-defined]
    client = Client(raise_request_exception=False, headers={"host": "localhost"})
    answers = []
    spans: list[list[Any]] = []
    for path, more in site.REQUESTS:
        if more == "login":
            client.force_login(user)
            more = {}
        response = client.generic(more.pop("method", "GET"), path, **more)
        body = b"".join(response) if response.streaming else response.content
        headers = sorted(name.lower() for name in response.headers if name.lower() != "x-correlation-id")
        answers.append([path, response.status_code, headers, _RANDOM.sub(b"", body).decode(errors="replace")])
        if exporter is not None:
            spans.append(
                [
                    [
                        span.name,
                        span.kind.name,
                        span.context.trace_id,
                        span.context.span_id,
                        None if span.parent is None else span.parent.span_id,
                    ]
                    for span in exporter.get_finished_spans()
                ]
            )
            exporter.clear()
    return {"answers": answers, "spans": spans}


if __name__ == "__main__":
    print(json.dumps(ask(sys.argv[1], sys.argv[2] == "traced")))
