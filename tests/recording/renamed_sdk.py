"""Trace a request while OpenTelemetry's packages have another name for one of their private parts.

Run as a script: ``renamed_sdk.py SECRET NAME ...`` prints a line of JSON for each name, which describes what a site
sends when that name was replaced. The name is replaced in the source of all of OpenTelemetry's modules when they are
imported, so that they agree with each other and only this app uses the old name. ``foreign:NAME`` does the same in a
site that has its own tracer provider.
"""

from __future__ import annotations

import importlib.machinery
import io
import json
import logging
import os
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

#: Imported once, before the process is forked for each name. None of them imports OpenTelemetry.
import django
import django.core.handlers.wsgi
import django.core.mail
import django.db.backends.sqlite3.base
import django.test.client
import django.urls
import django.views.debug
from django.conf import settings
from django.http import HttpRequest, HttpResponse

urlpatterns: list[Any] = []


class Renaming(importlib.machinery.SourceFileLoader):
    """Load a module of OpenTelemetry in which ``renamed`` has another name."""

    renamed = ""

    def get_code(self, fullname: str) -> Any:
        path = self.get_filename(fullname)
        source = self.get_data(path)
        name = self.renamed.encode()
        if not name or name not in source:
            return super().get_code(fullname)
        # Neither reads nor writes bytecode.
        # A module with that name is not renamed.
        pattern = rb"(?<!\w)(?<!sdk\.trace\.)%s(?!\w)" % name
        return self.source_to_code(re.sub(pattern, name + b"_renamed", source), path)


class Finder:
    """Find OpenTelemetry's modules for :class:`Renaming`."""

    @staticmethod
    def find_spec(fullname: str, path: Any = None, target: Any = None) -> Any:
        if not fullname.startswith("opentelemetry"):
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = Renaming(spec.loader.name, spec.loader.path)
        return spec


class Receiver(BaseHTTPRequestHandler):
    """An OTLP receiver that stores the requests it receives."""

    received: list[bytes] = []

    def do_POST(self) -> None:
        self.received.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def view(request: HttpRequest, secret: str) -> HttpResponse:
    """Set the secret wherever the user's code, its tracer or an instrumentation can set a value."""
    from opentelemetry import trace

    attributes = {"password": secret, "plain": "kept"}
    linked = trace.SpanContext(1, 2, is_remote=True)
    text = f"password={secret}"
    # The span name of an instrumentation isn't redacted: it is the method.
    for scope, name in (("shop", text), ("opentelemetry.instrumentation.requests", "GET")):
        links = [trace.Link(linked, attributes)]
        with trace.get_tracer(scope).start_as_current_span(name, attributes=attributes, links=links) as span:
            fill(span, attributes, text)
            span.set_attribute("http.url", f"https://shop.example/?{text}")
            span.set_attribute("note", "from the user's tracer")
            span.record_exception(ValueError(text))
    fill(trace.get_current_span(), attributes, text)
    raise ValueError(text)


def fill(span: Any, attributes: dict[str, str], text: str) -> None:
    from opentelemetry.trace import StatusCode

    span.set_attributes(attributes)
    span.add_event(text, attributes)
    span.set_status(StatusCode.ERROR, text)


def run(name: str, secret: str) -> dict[str, Any]:
    """Return a description of what a site sends for a request with the secret in every place."""
    foreign = name.startswith("foreign:")
    Renaming.renamed = name.removeprefix("foreign:")
    sys.meta_path.insert(0, Finder())  # type: ignore[arg-type]
    log = io.StringIO()
    logging.basicConfig(stream=log, level=logging.INFO)
    server = HTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings.configure(
        SECRET_KEY="no secret",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF="__main__",
        LOGGING_CONFIG=None,
        INSTALLED_APPS=["django_tracing"],
        TRACING={
            "ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "COMPRESSION": "none",
            "INSTRUMENTATIONS": ["request"],
        },
    )
    urlpatterns.append(django.urls.path("pages/<int:number>/", lambda request, number: view(request, secret)))
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

    consoles = [io.StringIO(), io.StringIO()]
    if foreign:
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=consoles[0])))
        trace.set_tracer_provider(provider)
    django.setup()
    provider = trace.get_tracer_provider()  # type: ignore[assignment]
    provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=consoles[1])))
    client = django.test.client.Client(raise_request_exception=False)
    status = client.get(f"/pages/1/?password={secret}").status_code
    flushed = provider.force_flush(5000)
    from django_tracing.recording.probe import probe

    sent = b"".join(Receiver.received)
    text = "".join(console.getvalue() for console in consoles)
    return {
        "status": status,
        "flushed": flushed,
        "abilities": probe()._asdict(),
        "request": b"GET /pages/<int:number>/" in sent and "GET /pages/<int:number>/" in text,
        "other tracers": b"from the user's tracer" in sent and "from the user's tracer" in text,
        "leaks": [where for where, what in (("sent", sent.decode("latin-1")), ("user's", text)) if secret in what],
        "log": [line for line in log.getvalue().splitlines() if ":django_tracing:" in line],
    }


def main() -> None:
    secret, *names = sys.argv[1:]
    for name in names:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                answer = run(name, secret)
            except BaseException as error:
                answer = {"error": repr(error)}
            os.write(writing, json.dumps(answer).encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            answer = json.loads(pipe.read() or '{"error": "nothing"}')
        os.waitpid(pid, 0)
        print(json.dumps({"name": name, **answer}), flush=True)


if __name__ == "__main__":
    sys.modules["tests.recording.renamed_sdk"] = sys.modules["__main__"]
    sys.path.insert(0, str(Path(__file__).parents[2]))
    main()
