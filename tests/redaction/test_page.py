"""Test every row of the tables of docs/redaction.md in one request, one command and one task.

Values that the page says are removed must not be in the exported bytes. Values that it says are kept, or can't be
recognized, must be readable. The page and the tables here must have the same rows, so that neither becomes outdated.
"""

from __future__ import annotations

import builtins
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import django
import pybreaker
import pytest
import requests
from asgiref.sync import async_to_sync
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.layers import get_channel_layer
from django.contrib.auth.models import User
from django.core.cache import caches
from django.core.files.storage import Storage
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend
from django.core.management import CommandError, call_command
from django.core.management.base import BaseCommand
from django.db import DatabaseError, connection
from django.http import HttpRequest, HttpResponse
from django.template import Context, Template
from django.test import Client, RequestFactory, override_settings
from django.urls import path
from opentelemetry import trace as trace_api

import django_tracing
from django_tracing.conf.loading import get_settings
from django_tracing.context.request import RequestState
from django_tracing.context.user import identify
from django_tracing.export.wire import encode_spans
from django_tracing.instrumentation import commands
from django_tracing.instrumentation import log_records as logs
from django_tracing.net import shown_address
from django_tracing.redaction import SensitiveKeys, redact_resource
from django_tracing.sampling.sampler import _decided_by
from tests.callees import Callee
from tests.conftest import Spans
from tests.e2e.processes import ROOT
from tests.instrumentation.channels.site import connected, in_memory
from tests.redaction.test_text import CARD, JWT

_callee: list[str] = []
#: Python 3.10 has no exception groups.
Group: Any = vars(builtins).get("ExceptionGroup", ValueError)


def plain(request: HttpRequest) -> HttpResponse:
    return HttpResponse(request.body)


def all_at_once(request: HttpRequest) -> HttpResponse:
    everything()
    return HttpResponse("ok")


urlpatterns = [path("plain/", plain), path("everything/", all_at_once)]

#: Each kind of secret in the page's guidelines, with the parts that must not be exported.
KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "a sensitive name": ("password=zqhunter2", ("zqhunter2",)),
    "an e-mail": ("zqada@example.com", ("zqada",)),
    "a card's number": (CARD, (CARD,)),
    "a JWT": (JWT, (JWT[:20], JWT[-12:])),
    "a bearer token": ("Authorization: Bearer zqbearer2", ("zqbearer2",)),
    "credentials in a URL": ("https://u:zqcredential@example.com/", ("zqcredential",)),
    "a password of SQL": ("ALTER USER u IDENTIFIED BY zqnew2 REPLACE zqold2", ("zqnew2", "zqold2")),
    "a random word": ("x9Kq7vTz4RwLm2Np8QsD", ("x9Kq7vTz",)),
    "a known beginning": ("ghp_zqA1B2C3D4E5F6G7H8I9J0", ("zqA1B2C3",)),
    "a PEM block": ("-----BEGIN PRIVATE KEY-----\\nzqMIIE\\n-----END PRIVATE KEY-----", ("zqMIIE",)),
    "a webhook": ("https://hooks.example.com/services/zqT0/zqB0", ("zqT0", "zqB0")),
    "a home folder": ("/home/zqjohn/shop/x.py", ("zqjohn",)),
    "a URL in a URL": ("/login?next=%2Fcb%3Fcode%3Dzqcode2", ("zqcode2",)),
    "an option": ("--password zqoption2", ("zqoption2",)),
}


def in_sql(secret: str) -> None:
    quoted = secret.replace("'", "''").replace("%", "%%")
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT '{quoted}' /* {quoted.replace('/', ' ')} */, %s, %s", [secret, "x"])
        cursor.fetchall()


def in_a_connection(secret: str) -> None:
    from django_tracing.instrumentation.database import _static_attributes

    class Connection:
        vendor, alias = "postgresql", "default"
        settings_dict: ClassVar[dict[str, str]] = {
            "NAME": secret,
            "USER": secret,
            # According to the page, names of hosts may look random.
            "HOST": secret if "/" in secret or "@" in secret else "db",
        }

    django_tracing.set_span_attributes({"db.rows": 1})
    with trace_api.get_tracer("django_tracing").start_as_current_span("db.of.connection") as span:
        span.set_attributes(_static_attributes(Connection()))  # type: ignore[arg-type]


def in_keys(secret: str) -> None:
    for cache in (caches["default"], caches["redis"]):
        cache.get(f"user:{secret}")
        cache.get_many([f"user:{secret}"])
    caches["redis"].client.get_client().get(f"user:{secret}")  # type: ignore[attr-defined]
    django_tracing.set_span_attributes({"messaging.kafka.message.key": f"user:zqjane:{secret}"})


def in_values(secret: str) -> None:
    for cache in (caches["default"], caches["redis"]):
        cache.set("user:1", secret)
    caches["redis"].client.get_client().set("user:1", secret)  # type: ignore[attr-defined]


def in_scripts(secret: str) -> None:
    client = caches["redis"].client.get_client()  # type: ignore[attr-defined]
    client.eval(f"return {quote(secret)!r}", 0)


def in_urls(secret: str) -> None:
    whole = quote(secret, safe="")
    django_tracing.trace_external_call(
        "shop", "GET", f"https://u:{whole}@h.example/a?password={whole}&q={whole}#{whole}", int
    )
    requests.get(f"{_callee[0]}/404?q={whole}&code={whole}", timeout=10).raise_for_status()


def in_a_request(secret: str) -> None:
    # A request with a query, headers, cookies, a session and a body.
    client = Client(raise_request_exception=False)
    client.cookies["x"] = quote(secret, safe="")
    client.post(
        f"/plain/?q={quote(secret, safe='')}&page=7",
        {"q": secret},
        headers={"user-agent": f"agent {secret}", "x-whatever": secret, "referer": secret, "tracestate": "v=zq@x.yz"},
    )


def in_a_user(secret: str) -> None:
    request = RequestFactory().get("/")
    request.user = User(email=secret if "@" in secret else "zqada@example.com", pk="zqada@example.com")
    scope = RequestState("id", request)
    identify(scope, get_settings())
    assert scope.user_part is not None
    with django_tracing.create_span("of a user") as span:
        span.set_attributes(scope.user_part.attributes)


def in_exceptions(secret: str) -> None:
    try:
        try:
            raise ValueError(f"refused {secret}")
        except ValueError as error:
            error.__dict__["__notes__"] = [f"of {secret}"]
            database = DatabaseError(f"no\nDETAIL:  Key (a)=({secret}) exists.")
            raise Group(f"of {secret}", [ValueError(secret), Group("x", [database])]) from error
    except Group as group:
        with suppress(Group), django_tracing.create_span("group"):
            raise group


def in_names(secret: str) -> None:
    Template("", name=f"shop/{secret}.html").render(Context())
    with suppress(ValueError):
        pybreaker.CircuitBreaker(name=f"payments {secret}").call(fail, secret)
    with (
        django_tracing.create_span(f"work {secret}"),
        django_tracing.trace_rate_limit_check(
            f"limit {secret}", user="zqada@example.com", subscription="of zqada@x.example"
        ),
        trace_api.get_tracer("shop").start_as_current_span(f"shop {secret}") as span,
    ):
        span.update_name(f"again {secret}")
        django_tracing.trace_external_call(f"service {secret}", "GET", "https://h/", int)
        span.set_attributes(_decided_by(secret, 0.5).attributes)


def in_files(secret: str) -> None:
    class Bucket(Storage):
        bucket_name = "acme-media"

        def exists(self, name: str) -> bool:
            raise ValueError("no such bucket")

    with suppress(ValueError):
        Bucket().exists(f"uploads/{secret}.pdf")
    Bucket.bucket_name = Bucket.location = secret  # type: ignore[attr-defined]
    with suppress(ValueError):
        Bucket().exists(secret)


def in_an_email(secret: str) -> None:
    class Backend(BaseEmailBackend):
        def send_messages(self, email_messages: Any) -> int:
            raise ValueError("no server")

    message = EmailMessage(secret, secret, secret, ["zqada@example.com", secret], headers={"X-Note": secret})
    message.attach(secret, secret, "text/plain")
    backend = Backend()
    backend.alias = backend.host = secret if "zqada" in secret else "mail"  # type: ignore[assignment,attr-defined]
    with suppress(ValueError):
        backend.send_messages([message])


def fail(secret: str) -> None:
    raise ValueError(f"refused {secret}")


def in_baggage(secret: str) -> None:
    django_tracing.set_baggage("tenant", quote(secret))
    requests.get(_callee[0], timeout=10)


def in_arguments(secret: str) -> None:
    with suppress(CommandError):
        call_command(Refuse(), secret, key=secret)


def in_messages(secret: str) -> None:
    async def talk() -> None:
        async with connected("/ws/page/", AsyncWebsocketConsumer.as_asgi()) as client:
            # The consumer does not answer.
            await client.send_input({"type": "websocket.receive", "text": secret})
        await get_channel_layer().send("zqjane", {"type": "page.shown", "text": secret})

    with in_memory:
        async_to_sync(talk)()


def in_a_log(secret: str) -> None:
    try:
        raise ValueError(f"refused {secret}")
    except ValueError:
        logging.getLogger("shop").exception("no %s", secret)


def in_ones_own(secret: str) -> None:
    django_tracing.set_span_attributes({"note": secret, "list": ["a", secret], f"of {secret}": secret})
    django_tracing.add_span_event(f"of {secret}", {"note": secret})
    link = trace_api.Link(trace_api.SpanContext(5, 6, is_remote=True), {"note": secret})
    with trace_api.get_tracer("shop").start_as_current_span("own", attributes={"a": secret}, links=[link]) as span:
        span.set_status(trace_api.StatusCode.ERROR, secret)


def in_a_resource(secret: str) -> None:
    redacted = redact_resource({"team": secret, "password": secret, "list": [secret]}, SensitiveKeys())
    _said.append(str(redacted))


def in_addresses(secret: str) -> None:
    _said.append(shown_address(f"https://u:{secret}@h:1/{secret}/v1/traces?{secret}#{secret}"))
    _said.append(shown_address(f"https://h:1/{quote(secret, safe='')}/v1/traces"))


def readable(*values: str) -> Callable[[str], None]:
    """Return a function that sets ``values`` in attributes, a URL and an exception, where the page says they are kept."""

    def action(secret: str) -> None:
        for value in values:
            with suppress(ValueError), django_tracing.create_span(f"of {value}", {"note": value}):
                raise ValueError(f"of {value}")
            django_tracing.trace_external_call("s", "GET", f"https://h/a?q={quote(value, safe='')}", int)

    return action


def attribute(**attributes: str) -> Callable[[str], None]:
    def action(secret: str) -> None:
        recorded = {name.replace("__", "."): value for name, value in attributes.items()}
        with trace_api.get_tracer("shop").start_as_current_span("attributes", attributes=recorded):
            pass

    return action


def key(*keys: str) -> Callable[[str], None]:
    def action(secret: str) -> None:
        caches["default"].get_many(keys)
        for each in keys:
            caches["default"].get(each)

    return action


_said: list[str] = []
_UUID = "0b0c8c1e-5d2f-4f0b-9a44-2f1d1f6c1a10"
_POD = "web-7d9f8b6c5d-x2k9p"
_RESULT = "c8Wn2QkTz7YpLm4RvXb1Dg9HsJf6Ktne"
_HASH = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b"

#: The first cell of each row of the page's tables -> the function for it, and what must be readable.
#: The functions of the first table are called with each kind of secret, none of which may be readable.
ROWS: dict[str, dict[str, tuple[Callable[[str], Any], tuple[str, ...]]]] = {
    "What | What leaves by default": {
        "SQL": (in_sql, ("SELECT ?",)),
        "SQL parameters, rows": (in_sql, ("%s",)),
        "name, user and host of a database": (in_a_connection, ("db.user",)),
        "keys of caches, of Redis, of Kafka's messages": (in_keys, ("user:*",)),
        "cache values, Redis arguments": (in_values, ("SET user:* ?",)),
        "scripts, FT.SEARCH": (in_scripts, ("EVAL",)),
        "URLs": (in_urls, ("https://h.example/a?password=",)),
        "query parameters": (in_a_request, ("http.query.page",)),
        "headers": (in_a_request, ("agent ", "http.client_ip", "correlation.id", "testserver")),
        "cookies, sessions, request and response bodies": (in_a_request, ()),
        "the user": (in_a_user, ("z***@example.com",)),
        "exceptions, also in groups, in chains and with notes": (in_exceptions, (Group.__name__, "refused ")),
        "names of files in storages": (in_files, ("uploads/*.pdf", "acme-media")),
        "e-mail": (in_an_email, ("email.recipients",)),
        "names of spans, templates, circuit breakers, rate limits, called services, sampling rules": (
            in_names,
            ("work ", "template.render.shop", "payments ", "limit ", "service ", "sampling.rule"),
        ),
        "baggage": (in_baggage, ()),
        "messages of WebSockets and of channel layers": (in_messages, ("WS receive", "channel.send.page.shown")),
        "arguments and results of commands, tasks, jobs, Celery's tasks": (in_arguments, ("command.refuse",)),
        "log records": (in_a_log, ("ValueError",)),
        "your attributes, events, links": (in_ones_own, ("note", "[redacted]")),
        "RESOURCE_ATTRIBUTES, OTEL_RESOURCE_ATTRIBUTES": (in_a_resource, ("team",)),
        "addresses (ENDPOINT, QUERY_URL, REMOTE_SAMPLING_URL) in logs, on the admin's pages, in check_tracing": (
            in_addresses,
            ("https://h:1/…/v1/traces",),
        ),
    },
    "What | Why": {
        "uuids": (readable(_UUID), (_UUID,)),
        "numbers, times, versions, IP and MAC addresses": (
            readable("4829131", "2026-11-26T15:53:45Z", "10.0.0.12", "00:1b:44:11:3a:b7", "1.2.3.dev4"),
            ("4829131", "2026-11-26T15:53:45Z", "10.0.0.12", "00:1b:44:11:3a:b7", "1.2.3.dev4"),
        ),
        "words shorter than 13 characters, passwords made of words": (
            readable("1a2b3c4d5e6f", "correct-horse-battery"),
            ("1a2b3c4d5e6f", "correct-horse-battery"),
        ),
        "names of hosts in URLs, and in attributes such as net.peer.name and server.address": (
            attribute(url=f"http://{_POD}:80/", net__peer__name=_POD),
            (f"http://{_POD}:80/", f"net.peer.name {_POD}"),
        ),
        "identifiers of machines and versions in the attributes of the semantic conventions (container.*, host.*, "
        "k8s.*, cloud.*, aws.*, vcs.*, service.version, service.instance.id and the like)": (
            attribute(k8s__pod__name=_POD, service__version=_HASH, host__id="ghp_zqA1B2C3D4E5F6G7"),
            (f"k8s.pod.name {_POD}", f"service.version {_HASH}", "host.id [redacted]"),
        ),
        "identifiers of requests, tasks and users in correlation.id, task.id, user.id, user.subscription, "
        "messaging.message.id": (
            attribute(messaging__message__id=_HASH, user__id="k7fQz2Wm9RtYb4Nd", task__id=_RESULT),
            (f"messaging.message.id {_HASH}", "user.id k7fQz2Wm9RtYb4Nd", f"task.id {_RESULT}"),
        ),
        "a value after -p, -a, -w, -u of an unknown program (mysql, mariadb, sshpass, mongo, ... login, "
        "redis-cli, ldap..., curl)": (readable("ssh -p 2222 host"), ("ssh -p 2222 host",)),
    },
    "Stays | For example": {
        "words that programs commonly put in keys, about 180, such as user, session, list, count, cart, invoice": (
            key("user:zqjane:profile"),
            ("user:*:profile",),
        ),
        "the labels of your apps and the names of your models, singular and plural": (
            key("permission:zqjane"),
            ("permission:*",),
        ),
        "a part that is a single letter, and versions": (key("u:zqjane", "v2:zqjane"), ("u:*", "v2:*")),
        "the prefixes of Django and of well-known libraries, and their own words in the rest": (
            key("celery-task-meta-" + _UUID, "throttle_user_zqjane"),
            ("celery-task-meta-*", "throttle_user_*"),
        ),
        'whatever TRACING["CACHE_KEY_PREFIXES"] lists, and the words behind it': (
            key("blueprint:winter:42"),
            ("blueprint:winter:*",),
        ),
    },
    "What | For example": {
        "personal data in free text: names, addresses, phone numbers, dates of birth, search terms": (
            readable("called Jane Doe at 0660 1234567"),
            ("called Jane Doe at 0660 1234567",),
        ),
        "personal data in paths and names: slugs, user names, files": (
            readable("/files/janedoe-diagnosis.pdf"),
            ("/files/janedoe-diagnosis.pdf",),
        ),
        "names that programs create at run time: of spans, classes, tables, of templates in exceptions": (
            readable("letters/jane_doe.html", "import of Jane Doe"),
            ("letters/jane_doe.html", "import of Jane Doe"),
        ),
        "a user with the name of a model, an app or one of the 180 words": (
            key("profile:invoice"),
            ("profile:invoice",),
        ),
        "short secrets and passwords made of words, with a harmless name or none": (
            readable("try hunter2"),
            ("try hunter2",),
        ),
        "short secrets as segments of a path": (readable("/t/hunter2/"), ("/t/hunter2/",)),
        "a value in a sentence of another shape, and the second word of one without quotes": (
            readable("the password was set to hunter2", "password: right hunter2"),
            ("the password was set to hunter2", "password: [redacted] hunter2"),
        ),
        "secrets that have only digits, uuids that are keys": (readable("code sent: 482913"), ("code sent: 482913",)),
        "a secret that is divided into short parts": (readable("hun-ter-2"), ("hun-ter-2",)),
        "secrets inside an encoding: base64 of a small document, hexadecimal in groups, gzip, HTML entities, "
        "invisible characters in a name": (readable("pass\u200bword=hunter2"), ("pass\u200bword=hunter2",)),
        "literals of your source code, in stacks": (
            readable('connect("db", "hunter2")'),
            ('connect("db", "hunter2")',),
        ),
        "correlation ids, as the client sends them": (
            lambda secret: Client().get("/plain/", headers={"x-correlation-id": "hunter2"}),
            ("correlation.id hunter2",),
        ),
        "what another tracer, exporter or span processor reads itself, without this app": (
            lambda secret: None,
            (),
        ),
        "names and attributes of tracers, names of services and of hosts": (
            lambda secret: trace_api.get_tracer("hunter2-tracer").start_span("of a tracer").end(),
            ("hunter2-tracer",),
        ),
    },
}


def everything(secret: str = "") -> None:
    for text, _ in KINDS.values():
        for action, _ in ROWS["What | What leaves by default"].values():
            with suppress(Exception), django_tracing.create_span("action"):
                action(text)
    for table in ROWS.values():
        if table is not ROWS["What | What leaves by default"]:
            for action, _ in table.values():
                with django_tracing.create_span("action"):
                    action("")


class Refuse(BaseCommand):
    __module__ = "shop.management.commands.refuse"

    def add_arguments(self, parser: Any) -> None:
        parser.add_argument("arguments", nargs="*")
        parser.add_argument("--key")

    def handle(self, *args: Any, **options: Any) -> None:
        raise CommandError("refused")


class Everything(BaseCommand):
    __module__ = "shop.management.commands.everything"

    def add_arguments(self, parser: Any) -> None:
        parser.add_argument("--key")

    def handle(self, *args: Any, **options: Any) -> None:
        everything()


if django.VERSION >= (6, 0):
    from django.tasks import task

    @task
    def everything_task(secret: str) -> None:
        everything()


#: Stacks have lines of source, in which this is a name.
ARGUMENT = "zqhunter2"


def by_a_request() -> None:
    Client().get("/everything/")


def by_a_command() -> None:
    call_command(Everything(), key=ARGUMENT)


def by_a_task() -> None:
    with django_tracing.create_span("enqueuing"):
        everything_task.enqueue(ARGUMENT)


WAYS = [by_a_request, by_a_command]
if django.VERSION >= (6, 0):
    WAYS.append(by_a_task)


@pytest.fixture(scope="module")
def site(redis_url: str) -> Iterator[None]:
    tracing = {
        "EXPORTER": "none",
        "LAYERS": "all",
        "LOG_ERRORS": True,
        "COMMANDS": ["everything", "refuse"],
        "CACHE_KEY_PREFIXES": ["blueprint:"],
    }
    with Callee() as callee, override_settings(ROOT_URLCONF=__name__, TRACING=tracing):
        _callee[:] = [callee.url]
        logs.install(get_settings())
        commands.install()
        yield
        commands.uninstall()
    logs.install(get_settings())


@pytest.mark.usefixtures("site", "db")
@pytest.mark.filterwarnings("ignore::django.core.cache.backends.base.CacheKeyWarning")
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_every_row_in_every_place(way: Callable[[], None], spans: Spans) -> None:
    _said.clear()
    way()
    exported = encode_spans(list(spans)).decode("utf-8", "replace")
    recorded = [*_said]
    for span in spans:
        recorded += [span.name, span.instrumentation_scope.name if span.instrumentation_scope else ""]
        for of in (span, *span.events, *span.links):
            recorded += [f"{name} {value}" for name, value in (of.attributes or {}).items()]
    everything_said = "\n".join([exported, *recorded])
    for kind, (_, secrets) in KINDS.items():
        for secret in secrets:
            assert secret not in everything_said, (kind, [text for text in recorded if secret in text][:5])
    for table in ROWS.values():
        for row, (_, kept) in table.items():
            for text in kept:
                assert text in everything_said, (row, text)
    # Like words of people in keys.
    assert "zqjane" not in everything_said


def rows_of_the_page() -> dict[str, list[str]]:
    tables: dict[str, list[str]] = {}
    heading = ""
    for line in (Path(ROOT) / "docs" / "redaction.md").read_text().splitlines():
        if not line.startswith("|"):
            heading = ""
        # Skip the line below a heading.
        if not line.startswith("| "):
            continue
        cells = [re.sub(r"\[([^]]+)\]\([^)]*\)", r"\1", cell).replace("`", "").strip() for cell in line.split(" | ")]
        if not heading:
            heading = f"{cells[0][2:].strip()} | {cells[1].rstrip('| ')}"
            tables[heading] = []
        else:
            tables[heading].append(cells[0][2:].strip())
    return tables


def test_the_page_and_this_module_have_the_same_rows() -> None:
    page = rows_of_the_page()
    assert sorted(page) == sorted(ROWS)
    for heading, rows in page.items():
        # Only the start of longer cells.
        here = list(ROWS[heading])
        assert len(rows) == len(here), (set(rows) - set(here), set(here) - set(rows))
        for row, known in zip(sorted(rows), sorted(here), strict=True):
            assert row.startswith(known), (row, known)
