"""Test that objects of the site (contexts, processors, responses, settings, connections, errors) are unchanged."""

from __future__ import annotations

import asyncio
import io
import logging
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any
from unittest.mock import Mock

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings as django_settings
from django.conf.urls.i18n import i18n_patterns
from django.contrib import admin
from django.contrib.auth.models import Group, User
from django.core.cache import cache
from django.core.management import call_command
from django.db import connection, transaction
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client
from django.urls import include, path
from django.utils import translation
from django.utils.translation import trans_real
from opentelemetry import context as context_api
from opentelemetry import trace as trace_api
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NonRecordingSpan, SpanContext

from django_tracing import create_span
from django_tracing.context import user as identity
from django_tracing.context.request import RequestState
from django_tracing.instrumentation.request import placing, streams
from django_tracing.recording.factory import SpanFactory
from django_tracing.recording.span import RecordingSpan
from django_tracing.redaction.attributes import AttributeSanitizer
from django_tracing.semconv.names import Convention
from django_tracing.spans import runtime
from tests.conftest import Spans

OK = HttpResponse("the same object for every request", headers={"Server-Timing": "view;dur=1"})


def same(request: HttpRequest) -> HttpResponse:
    return OK


def signed_in(request: HttpRequest) -> HttpResponse:
    Group.objects.create(name="written by the view")
    return HttpResponse(str(request.user.pk))  # type: ignore[attr-defined]


urlpatterns = [
    path("same/", same),
    path("health", same),
    path("signed-in/", signed_in),
    path("files/<path:name>", lambda request, name: HttpResponse(name)),
    path("admin/", admin.site.urls),
    path("inner/", include([path("admin/", admin.site.urls)])),
]


# ----- contexts


class Hostile:
    """Every access to an attribute raises."""

    def __getattribute__(self, name: str) -> Any:
        if name in ("__class__", "__dict__"):
            return object.__getattribute__(self, name)
        raise RuntimeError(name)


class HostileSpan(NonRecordingSpan):
    def is_recording(self) -> bool:
        raise RuntimeError("is_recording")


STRANGE = {
    "span context": SpanContext(1, 2, is_remote=False),
    "number": 7,
    "mock": Mock(),
    "hostile": Hostile(),
    "hostile span": HostileSpan(SpanContext(1, 2, is_remote=False)),
}


@pytest.fixture(params=STRANGE, ids=str)
def strange(request: pytest.FixtureRequest) -> Iterator[None]:
    """Use a context with another object in place of the span, which the API accepts."""
    token = context_api.attach(trace_api.set_span_in_context(STRANGE[request.param]))
    yield
    context_api.detach(token)


def _query() -> object:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 7")
        return cursor.fetchone()


def _commit() -> object:
    with transaction.atomic():
        return Group.objects.count()


def _by_hand() -> object:
    with create_span("by.hand"):
        return 7


TRACED: dict[str, Callable[[], object]] = {
    "request": lambda: Client().get("/empty/").status_code,
    "query": _query,
    "transaction": _commit,
    "cache": lambda: cache.get("absent", 7),
    "async cache": lambda: asyncio.run(cache.aget("absent", 7)),
    "command": lambda: call_command("check", stdout=io.StringIO()),
    "by hand": _by_hand,
    "log": lambda: logging.getLogger("shop").error("with %s", "words"),
}


@pytest.mark.django_db
@pytest.mark.parametrize("name", TRACED)
def test_an_object_in_place_of_a_span_in_the_context(
    name: str, strange: None, caplog: pytest.LogCaptureFixture
) -> None:
    token = context_api.attach(context_api.Context())
    expected = TRACED[name]()
    context_api.detach(token)
    caplog.clear()
    assert TRACED[name]() == expected
    assert [record.getMessage() for record in caplog.records if record.name.startswith("django_tracing")] == []


# ----- processors


class Delegating:
    """Passes everything on, like a wrapper."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class Raising(Delegating):
    def on_start(self, span: Any, parent_context: Any = None) -> None:
        raise RuntimeError("on_start")

    def on_end(self, span: Any) -> None:
        raise RuntimeError("on_end")


@pytest.mark.parametrize("make", [Delegating, Raising, lambda inner: Mock()], ids=["delegating", "raising", "mock"])
def test_any_processor_is_called_like_the_sdk_does_and_its_errors_affect_nothing_else(
    make: Callable[[Any], Any],
) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    behind, last = InMemorySpanExporter(), InMemorySpanExporter()
    provider.add_span_processor(make(SimpleSpanProcessor(behind)))
    provider.add_span_processor(SimpleSpanProcessor(last))
    factory = SpanFactory.of(provider.get_tracer("django_tracing"), lambda parent, trace_id: True)
    assert factory is not None
    span = factory.start("shop", context_api.Context(), trace_api.SpanKind.INTERNAL, (), None)
    assert isinstance(span, RecordingSpan)
    span.end()
    assert [span.name for span in last.get_finished_spans()] == ["shop"]
    if make is Delegating:
        assert [span.name for span in behind.get_finished_spans()] == ["shop"]


# ----- responses, settings, paths


@pytest.mark.urls(__name__)
def test_a_reused_response_has_the_headers_of_the_current_request(settings: Any) -> None:
    settings.TRACING = {**settings.TRACING, "RESPONSE_HEADERS": ["Server-Timing", "traceresponse"]}
    seen = []
    for number in range(3):
        answer = Client().get("/same/", headers={"X-Correlation-ID": f"request-{number}"})
        assert answer["X-Correlation-ID"] == f"request-{number}"
        assert answer["Server-Timing"].startswith("view;dur=1, total;dur=")
        assert answer["Server-Timing"].count("total;dur=") == 1
        seen.append(answer["traceresponse"])
    assert len(set(seen)) == 3


@pytest.mark.urls(__name__)
@pytest.mark.parametrize("asked", ["ignored", "ignored and awaited", "not sampled", "switched off"])
async def test_a_reused_response_has_no_headers_of_an_earlier_request(settings: Any, asked: str) -> None:
    tracing = {
        **settings.TRACING,
        "RESPONSE_HEADERS": ["Server-Timing", "traceresponse"],
        "IGNORE_PATHS": ["/health"],
    }
    settings.TRACING = tracing
    first = await AsyncClient().get("/same/", headers={"X-Correlation-ID": "request-1"})
    assert first["X-Correlation-ID"] == "request-1"
    assert first["traceresponse"]
    if asked == "not sampled":
        answer: Any = await AsyncClient().get("/same/", headers={"traceparent": f"00-{'1' * 32}-{'2' * 16}-00"})
        assert answer["traceresponse"].startswith(f"00-{'1' * 32}-")
        assert answer["X-Correlation-ID"] != "request-1"
    else:
        if asked == "switched off":
            settings.TRACING = {**tracing, "ENABLED": False}
        url = "/same/" if asked == "switched off" else "/health"
        awaited = asked == "ignored and awaited"
        answer = await AsyncClient().get(url) if awaited else await sync_to_async(Client().get)(url)
        assert "traceresponse" not in answer
        assert "X-Correlation-ID" not in answer
    assert answer["Server-Timing"] == "view;dur=1"


@pytest.mark.parametrize("before", [("one", "two"), ["one", "two"]], ids=["tuple", "list"])
def test_middleware_keeps_its_type(before: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(django_settings, "MIDDLEWARE", before)
    monkeypatch.setattr(placing._placing, "placed", False)
    placing.install()
    assert type(before)([placing.MIDDLEWARE, "one", "two"]) == django_settings.MIDDLEWARE
    try:
        placing.uninstall()
        assert before == django_settings.MIDDLEWARE
    finally:
        streams.install()  # the other tests need it


@pytest.mark.urls(__name__)
@pytest.mark.django_db
def test_only_this_apps_admin_pages_are_not_traced(spans: Spans) -> None:
    looks_like_it = Client().get("/files/django_tracing/trace/x")
    assert looks_like_it.content == b"django_tracing/trace/x"
    assert looks_like_it["X-Correlation-ID"]
    assert spans.names == ["GET /files/<path:name>"]
    spans.clear()
    client = Client()
    client.force_login(User.objects.create(username="root", is_staff=True, is_superuser=True))
    spans.clear()
    for prefix in ("/admin/", "/inner/admin/"):
        assert client.get(f"{prefix}django_tracing/trace/").status_code == 200
    assert spans.names == []


@pytest.mark.django_db
def test_this_apps_admin_pages_below_a_language(spans: Spans, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    prefixed: Any = ModuleType("tests_prefixed_urls")
    prefixed.urlpatterns = i18n_patterns(path("admin/", admin.site.urls))
    monkeypatch.setitem(sys.modules, prefixed.__name__, prefixed)
    settings.ROOT_URLCONF = prefixed.__name__
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django.middleware.locale.LocaleMiddleware"]
    client = Client()
    client.force_login(User.objects.create(username="root", is_staff=True, is_superuser=True))
    spans.clear()
    # The middleware leaves the language of the last request active.
    with translation.override("en"):
        assert client.get("/de/admin/django_tracing/trace/").status_code == 200
    assert spans.names == []


@pytest.mark.urls(__name__)
def test_a_caller_cannot_choose_which_catalogs_are_loaded(spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred languages take a second and 15 MB, for paths that don't exist."""
    monkeypatch.setattr(trans_real, "_translations", {})
    for language in ("de", "fr", "pl"):
        Client().get(f"/{language}/django_tracing/trace/")
    assert not {"de", "fr", "pl"} & set(trans_real._translations)


def test_an_error_is_unchanged(spans: Spans) -> None:
    error = ValueError("once")
    with pytest.raises(ValueError, match="once"), create_span("by.hand"):
        raise error
    assert error.__dict__ == {}
    assert [event.name for event in spans.one("by.hand").events] == ["exception"]


# ----- Callables of the user


def _save(user: Any) -> str:
    user.save()
    return "saved"


def _atomic(user: Any) -> str:
    with transaction.atomic():
        return "opened"


def _swallowing(user: Any) -> str:
    try:
        return str(Group.objects.count())
    except Exception:
        return "nobody"


def _leaving(user: Any) -> str:
    sys.exit(3)


async def _later(user: Any) -> str:
    return "pro"


@pytest.mark.urls(__name__)
@pytest.mark.django_db(transaction=True)
@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(
    ("subscription", "recorded"),
    [(_save, None), (_atomic, None), (_swallowing, "nobody"), (_leaving, None), (_later, None)],
    ids=["save", "atomic", "swallowing", "exit", "coroutine"],
)
def test_reading_the_subscription_does_not_use_the_database(
    subscription: Any, recorded: str | None, settings: Any, spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("django_tracing.faults._faults.by_key", {})
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)
    settings.TRACING = {**settings.TRACING, "SUBSCRIPTION": subscription}
    client = Client()
    user = User.objects.create(username="ada")
    client.force_login(user)
    spans.clear()
    answer = client.get("/signed-in/")
    assert answer.content == str(user.pk).encode()
    # The view's data was saved: no refused query broke its transaction.
    assert Group.objects.filter(name="written by the view").exists()
    (request,) = spans.named("GET /signed-in/")
    assert (request.attributes or {}).get("user.subscription") == recorded
    assert "connect" not in vars(connection), "a guard of a test's own would stand here"


def test_reading_the_subscription_is_not_traced_in_this_thread_only(spans: Spans) -> None:
    def subscription(user: Any) -> str:
        cache.get("tier:7")
        with create_span("inside"):
            pass
        return "pro"

    scope = RequestState("id", Mock(user=User(pk=7), _acached_user=None, _cached_user=None))
    with create_span("around"):
        identity.identify(scope, Mock(subscription=subscription, user_email="off", max_attribute_length=100))
    assert scope.common["user.subscription"] == "pro"
    assert spans.names == ["around"]


def test_redact_that_makes_a_traced_call_ends() -> None:
    calls = []
    provider = TracerProvider(shutdown_on_exit=False)
    kept = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(kept))

    def redact(key: str, value: Any) -> Any:
        calls.append(key)
        cache.get("allowed")
        with provider.get_tracer("their own").start_as_current_span("root", context=context_api.Context()):
            return value

    rules = AttributeSanitizer(redact=redact)
    tracer = provider.get_tracer("django_tracing")
    factory = SpanFactory.of(tracer, lambda parent, trace_id: True, sanitizer=rules)
    before = runtime.current
    runtime.use(before.replace(tracer=tracer, convention=Convention(), factory=factory, sanitizer=rules))
    try:
        with create_span("by.hand", {"shop.item": "book", "shop.price": 7}):
            cache.get("price:7")
    finally:
        runtime.use(before)
    assert {"by.hand", "cache.get.price:*"} <= {span.name for span in kept.get_finished_spans()}
    assert 0 < len(calls) < 50


def test_a_key_that_is_an_address_is_masked() -> None:
    scope = RequestState("id", Mock(user=Mock(pk="ada@example.com", is_anonymous=False, email="")))
    identity.identify(scope, Mock(subscription=None, user_email="masked", max_attribute_length=100))
    assert scope.common["user.id"] == "a***@example.com"
