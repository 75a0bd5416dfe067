"""Test the request's span as a backend receives it, and the response as a client receives it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.core.handlers.asgi import ASGIHandler
from django.db import connections
from django.http import FileResponse, HttpRequest, HttpResponse
from django.test import AsyncClient, Client, RequestFactory, override_settings
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from tests.conftest import Spans

pytestmark = pytest.mark.django_db


def tracing(**settings: Any) -> Any:
    return override_settings(TRACING={"SERVICE_NAME": "tests", "EXPORTER": "none", "LAYERS": "off", **settings})


@pytest.fixture(params=["sync", "async"])
def get(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Return a function that requests a path through the WSGI or the ASGI handler and returns the response."""
    if request.param == "sync":
        return lambda path, **headers: Client(raise_request_exception=False).get(path, headers=headers)

    def send(path: str, **headers: str) -> Any:
        async def run() -> Any:
            response = await AsyncClient(raise_request_exception=False).get(path, headers=headers)
            # The thread that sync code ran in has a connection of its own.
            await sync_to_async(connections.close_all)()
            return response

        return asyncio.run(run())

    return send


def only(spans: Spans, kind: SpanKind = SpanKind.SERVER) -> ReadableSpan:
    found = [span for span in spans if span.kind is kind]
    assert len(found) == 1, spans.names
    return found[0]


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def exceptions(span: ReadableSpan) -> list[dict[str, Any]]:
    return [dict(event.attributes or {}) for event in span.events if event.name == "exception"]


class TestSpan:
    def test_is_current_in_the_view_and_describes_the_request(self, get: Callable[..., Any], spans: Spans) -> None:
        response = get("/empty/?page=2&token=s3cr3t", **{"User-Agent": "curl/8"})
        span = only(spans)
        assert response.content.decode() == f"{span.context.span_id:016x}"
        assert span.name == "GET /empty/"
        got = attributes(span)
        assert got["http.method"] == "GET"
        assert got["http.route"] == "/empty/"
        assert got["http.status_code"] == 200
        assert got["http.url"] == "http://testserver/empty/?page=2&token=[redacted]"
        assert got["http.query.page"] == "2"
        assert got["http.query.token"] == "[redacted]"
        assert got["http.user_agent"] == "curl/8"
        assert got["http.client_ip"] == "127.0.0.1"
        assert got["operation.type"] == "http"
        assert span.status.status_code is StatusCode.UNSET
        assert span.parent is None

    @pytest.mark.parametrize(
        ("path", "name"),
        [
            ("/", "GET /"),
            ("/blueprints/12/", "GET /blueprints/<int:pk>/"),
            ("/articles/2024/x-y/", "GET /articles/<year>/<slug>/"),
            ("/nested/6ba7b810-9dad-11d1-80b4-00c04fd430c8/x", "GET /nested/<uuid:key>/x"),
            ("/no/such/page", "GET (no route)"),
        ],
    )
    def test_name_is_the_route(self, get: Callable[..., Any], spans: Spans, path: str, name: str) -> None:
        get(path)
        assert only(spans).name == name

    def test_an_unknown_method_is_not_in_the_name(self, spans: Spans) -> None:
        Client().generic("BREW", "/empty/")
        assert only(spans).name == "HTTP /empty/"

    def test_async_view_under_wsgi_and_sync_view_under_asgi(self, get: Callable[..., Any], spans: Spans) -> None:
        body = get("/async/").content.decode()
        assert body == f"{only(spans).context.span_id:016x}"

    def test_nothing_stays_current_after_a_request(self, spans: Spans) -> None:
        from opentelemetry import context

        before = context.get_current()
        for path in ("/empty/", "/boom/", "/health/", "/stream/"):
            response = Client(raise_request_exception=False).get(path)
            getattr(response, "streaming_content", None) and list(response.streaming_content)
            assert context.get_current() == before


class TestErrors:
    def test_an_exception_is_recorded_redacted(self, get: Callable[..., Any], spans: Spans) -> None:
        assert get("/boom/").status_code == 500
        span = only(spans)
        assert span.status.status_code is StatusCode.ERROR
        (recorded,) = exceptions(span)
        assert recorded["exception.type"] == "RuntimeError"
        assert recorded["exception.message"] == "no connection for a***@example.com with password=[redacted]"
        assert "in boom" in recorded["exception.stacktrace"]
        whole = f"{recorded} {span.status.description}"
        assert "hunter2" not in whole
        assert "ada@" not in whole

    @pytest.mark.parametrize(("path", "status"), [("/missing/", 404), ("/forbidden/", 403), ("/nowhere", 404)])
    def test_4xx_is_not_an_error(self, get: Callable[..., Any], spans: Spans, path: str, status: int) -> None:
        assert get(path).status_code == status
        span = only(spans)
        assert span.status.status_code is StatusCode.UNSET
        assert exceptions(span) == []
        assert attributes(span)["http.status_code"] == status

    def test_a_5xx_response_is_an_error_without_an_exception(self, get: Callable[..., Any], spans: Spans) -> None:
        get("/failing/")
        span = only(spans)
        assert span.status.status_code is StatusCode.ERROR
        assert attributes(span)["error.type"] == "503"
        assert exceptions(span) == []

    @override_settings(
        MIDDLEWARE=["django_tracing.middleware.TracingMiddleware", "django.middleware.common.CommonMiddleware"]
    )
    def test_a_bad_host_is_answered_as_without_tracing_and_recorded(self, spans: Spans) -> None:
        response = Client().get("/empty/", headers={"Host": "evil example"})
        assert response.status_code == 400
        span = only(spans)
        assert attributes(span)["http.status_code"] == 400
        assert attributes(span)["error.type"] == "django.core.exceptions.DisallowedHost"
        assert exceptions(span)[0]["exception.type"] == "django.core.exceptions.DisallowedHost"

    @override_settings(
        MIDDLEWARE=[
            "django_tracing.middleware.TracingMiddleware",
            "tests.instrumentation.request.test_middleware.raises",
        ]
    )
    def test_a_middleware_that_raises(self, get: Callable[..., Any], spans: Spans) -> None:
        assert get("/empty/").status_code == 500
        assert exceptions(only(spans))[0]["exception.message"] == "raised in a middleware"

    def test_a_broken_url(self, get: Callable[..., Any], spans: Spans) -> None:
        assert get("/%ff%fe/%00?%ff=%00&=&&a").status_code == 404
        assert attributes(only(spans))["http.status_code"] == 404


def raises(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    def middleware(request: HttpRequest) -> HttpResponse:
        raise ValueError("raised in a middleware")

    return middleware


class TestStreams:
    def test_the_span_ends_with_the_body(self, spans: Spans) -> None:
        response = Client().get("/stream/")
        assert spans.names == [], "the span is open while the body has not been read"
        chunks = [chunk.decode() for chunk in response.streaming_content]
        span = only(spans)
        assert chunks == [f"{span.context.span_id:016x}"] * 3, "it is current while chunks are made"
        assert "http.client_disconnected" not in attributes(span)
        children = spans.named("cache.get.chunk:*")
        assert [child.parent.span_id for child in children] == [span.context.span_id] * 3  # type: ignore[union-attr]

    def test_async(self, spans: Spans) -> None:
        async def run() -> list[str]:
            response = await AsyncClient().get("/stream-async/")
            assert spans.names == []
            return [chunk.decode() async for chunk in response.streaming_content]

        chunks = asyncio.run(run())
        span = only(spans)
        assert chunks == [f"{span.context.span_id:016x}"] * 3
        children = spans.named("cache.get.chunk:*")
        assert [child.parent.span_id for child in children] == [span.context.span_id] * 3  # type: ignore[union-attr]

    def test_a_client_that_goes_away(self, spans: Spans) -> None:
        response = Client().get("/stream/")
        next(iter(response.streaming_content))
        response.close()
        assert attributes(only(spans))["http.client_disconnected"] is True

    def test_a_body_that_is_never_read(self, spans: Spans) -> None:
        Client().get("/stream/").close()
        assert "http.client_disconnected" not in attributes(only(spans))

    def test_a_body_that_raises(self, spans: Spans) -> None:
        response = Client().get("/broken-stream/")
        with pytest.raises(RuntimeError, match="in the middle"):
            list(response.streaming_content)
        assert exceptions(only(spans))[0]["exception.message"] == "in the middle of the body"

    def test_a_file_keeps_its_sendfile(self, spans: Spans) -> None:
        from django_tracing.instrumentation.request.middleware import TracingMiddleware

        with open(__file__, "rb") as file:
            response = TracingMiddleware(lambda request: FileResponse(file))(RequestFactory().get("/"))
            assert isinstance(response, FileResponse)
            assert response.file_to_stream is file
            assert b"".join(response).startswith(b'"""Test the request')
            response.close()
        only(spans)

    def test_asgi_disconnect_in_the_middle_of_a_body(self, spans: Spans) -> None:
        async def run() -> None:
            sent = asyncio.Event()
            started = False

            async def receive() -> dict[str, Any]:
                nonlocal started
                if not started:
                    started = True
                    return {"type": "http.request", "body": b"", "more_body": False}
                await sent.wait()
                return {"type": "http.disconnect"}

            async def send(message: dict[str, Any]) -> None:
                if message.get("body"):
                    sent.set()
                    await asyncio.Event().wait()  # the client stops reading

            scope = {
                "type": "http",
                "http_version": "1.1",
                "method": "GET",
                "path": "/stream-async/",
                "raw_path": b"/stream-async/",
                "query_string": b"",
                "headers": [(b"host", b"testserver")],
                "client": ("10.1.1.1", 5),
                "server": ("testserver", 80),
            }
            await ASGIHandler()(scope, receive, send)

        asyncio.run(run())
        span = only(spans)
        assert attributes(span)["http.client_disconnected"] is True
        assert attributes(span)["http.client_ip"] == "10.1.1.1"


class TestCorrelation:
    def test_created_and_returned_and_on_every_span(self, get: Callable[..., Any], spans: Spans) -> None:
        response = get("/query/")
        made = response["X-Correlation-ID"]
        assert len(made) == 32
        assert {attributes(span)["correlation.id"] for span in spans} == {made}
        assert {"GET /query/", "db.select"} <= set(spans.names)

    @pytest.mark.parametrize("header", ["X-Correlation-ID", "X-Request-ID"])
    def test_used_when_well_formed(self, get: Callable[..., Any], spans: Spans, header: str) -> None:
        assert get("/empty/", **{header: "order.7:A_b-c"})["X-Correlation-ID"] == "order.7:A_b-c"

    @pytest.mark.parametrize("bad", ["a b", "x" * 129, "<script>", "a;b", "é"])
    def test_replaced_when_malformed(self, get: Callable[..., Any], spans: Spans, bad: str) -> None:
        given = get("/empty/", **{"X-Correlation-ID": bad})["X-Correlation-ID"]
        assert given != bad
        assert len(given) == 32


class TestUser:
    @pytest.fixture(autouse=True)
    def _database(self, db: None) -> None:
        pass

    @pytest.fixture
    def client(self) -> Client:
        client = Client()
        client.force_login(User.objects.create_user("ada", "ada@example.com", "x"))
        return client

    def test_is_on_the_request_and_on_later_spans(self, client: Client, spans: Spans) -> None:
        spans.clear()
        client.get("/whoami/")
        user = User.objects.get()
        for span in (only(spans), spans.one("cache.get.blueprint:*")):
            assert attributes(span)["user.id"] == str(user.pk)
            assert attributes(span)["user.email"] == "a***@example.com"

    def test_is_not_loaded_when_the_view_does_not_use_it(self, client: Client, spans: Spans) -> None:
        spans.clear()
        response = client.get("/empty/")
        assert "user.id" not in attributes(only(spans))
        assert len(spans) == 1, "tracing must not query the database"
        assert "Vary" not in response.headers

    @pytest.mark.parametrize(("mode", "email"), [("full", "ada@example.com"), ("off", None)])
    def test_email_modes(self, client: Client, spans: Spans, mode: str, email: str | None) -> None:
        with tracing(USER_EMAIL=mode):
            client.get("/whoami/")
        assert attributes(only(spans)).get("user.email") == email

    def test_subscription_by_path_and_callable(self, client: Client, spans: Spans) -> None:
        for subscription in ("first_name", lambda user: user.first_name):
            User.objects.update(first_name="gold")
            spans.clear()
            with tracing(SUBSCRIPTION=subscription):
                client.get("/whoami/")
            assert attributes(only(spans))["user.subscription"] == "gold"

    def test_subscription_never_queries(
        self, client: Client, spans: Spans, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("django_tracing.faults._faults.by_key", {})
        with tracing(SUBSCRIPTION=lambda user: user.groups.count()):
            for _ in range(2):
                assert client.get("/whoami/").status_code == 200
        assert "user.subscription" not in attributes(spans.named("GET /whoami/")[0])
        assert len([record for record in caplog.records if "needs a database query" in record.message]) == 1
        assert not any("auth_group" in name for name in spans.names)
        assert User.objects.count() == 1, "the connection still works"


class TestClientAddress:
    @pytest.mark.parametrize(
        ("trusted", "remote", "forwarded", "client"),
        [
            ([], "10.0.0.1", "1.2.3.4", "10.0.0.1"),
            (["10.0.0.0/8"], "10.0.0.1", "1.2.3.4", "1.2.3.4"),
            (["10.0.0.0/8"], "10.0.0.1", "6.6.6.6, 1.2.3.4, 10.0.0.9", "1.2.3.4"),
            (["10.0.0.0/8"], "9.9.9.9", "1.2.3.4", "9.9.9.9"),
            (["10.0.0.0/8"], "10.0.0.1", "garbage", "10.0.0.1"),
            (["10.0.0.0/8"], "10.0.0.1", "10.0.0.2", "10.0.0.2"),
            (["10.0.0.0/8"], "", "1.2.3.4", "1.2.3.4"),
            (["::1"], "::1", "2001:db8::7", "2001:db8::7"),
        ],
    )
    def test_forwarded_is_used_as_far_as_proxies_are_trusted(
        self, spans: Spans, trusted: list[str], remote: str, forwarded: str, client: str
    ) -> None:
        with tracing(TRUSTED_PROXIES=trusted):
            Client(REMOTE_ADDR=remote).get("/empty/", headers={"X-Forwarded-For": forwarded})
        assert attributes(only(spans)).get("http.client_ip") == client


class TestIgnored:
    @pytest.mark.parametrize("path", ["/health", "/health/", "/health/db", "/metrics"])
    def test_neither_the_request_nor_its_calls_make_spans(
        self, get: Callable[..., Any], spans: Spans, path: str
    ) -> None:
        get(path)
        assert spans.names == []

    def test_only_paths_below_the_ignored_path(self, get: Callable[..., Any], spans: Spans) -> None:
        get("/healthy/")
        assert "GET /healthy/" in spans.names

    def test_by_setting(self, get: Callable[..., Any], spans: Spans) -> None:
        with tracing(IGNORE_PATHS=["/empty"]):
            get("/empty/")
            assert spans.names == []
            get("/health/")
        assert "GET /health/" in spans.names


class TestIncomingContext:
    TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"

    def test_a_sampled_parent_is_continued(self, get: Callable[..., Any], spans: Spans) -> None:
        get("/empty/", traceparent=f"00-{self.TRACE}-00f067aa0ba902b7-01")
        span = only(spans)
        assert f"{span.context.trace_id:032x}" == self.TRACE
        assert span.parent is not None
        assert f"{span.parent.span_id:016x}" == "00f067aa0ba902b7"

    def test_an_unsampled_parent_makes_no_span(self, get: Callable[..., Any], spans: Spans) -> None:
        response = get("/query/", traceparent=f"00-{self.TRACE}-00f067aa0ba902b7-00")
        assert spans.names == []
        assert response["X-Correlation-ID"], "the correlation id does not depend on sampling"

    @pytest.mark.parametrize("header", ["", "garbage", "00-0-0-0", "ff-" + "f" * 200, "\x00"])
    def test_a_malformed_context_starts_a_new_trace(self, get: Callable[..., Any], spans: Spans, header: str) -> None:
        assert get("/empty/", traceparent=header).status_code == 200
        assert only(spans).parent is None


class TestSemanticConventions:
    """OTEL_SEMCONV_STABILITY_OPT_IN is read when the process starts; here the convention is replaced in place."""

    @pytest.fixture
    def convention(self, request: pytest.FixtureRequest) -> Iterator[None]:
        from opentelemetry import trace

        from django_tracing.semconv.names import Convention
        from django_tracing.spans import runtime

        tracer = trace.get_tracer("django_tracing")
        changed = runtime.current.replace(tracer=tracer, factory=None, convention=Convention(request.param))
        before = runtime.use(changed)
        yield
        runtime.use(before)

    @pytest.mark.parametrize("convention", [("http", "database")], indirect=True)
    def test_stable(self, convention: None, spans: Spans) -> None:
        Client().get("/query/?a=1")
        got = attributes(only(spans))
        assert got["http.request.method"] == "GET"
        assert got["http.response.status_code"] == 200
        assert got["url.full"] == "http://testserver/query/?a=1"
        assert "http.method" not in got
        sql = attributes(spans.one("db.select"))
        assert sql["db.query.text"] == "SELECT ?, %s"
        assert sql["db.system.name"] == "postgresql"
        assert "db.statement" not in sql

    @pytest.mark.parametrize("convention", [("http/dup",)], indirect=True)
    def test_both(self, convention: None, spans: Spans) -> None:
        Client().get("/query/")
        got = attributes(only(spans))
        assert got["http.request.method"] == got["http.method"] == "GET"
        assert got["http.response.status_code"] == got["http.status_code"] == 200
        assert "db.statement" in attributes(spans.one("db.select"))


def test_an_error_of_this_app_loses_a_span_but_no_response(
    get: Callable[..., Any], spans: Spans, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("django_tracing.faults._faults.by_key", {})

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("a bug in this app")

    for place in (
        *("incoming.extract", "incoming.host_of", "describe.url_of", "describe.resolved_route"),
        *("describe.client_address", "describe.redact_query", "middleware.identify", "middleware.set_correlation_id"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(f"django_tracing.instrumentation.request.{place}", broken)
            for _ in range(3):
                assert get("/empty/?a=1").status_code == 200
    faults = [record for record in caplog.records if record.name == "django_tracing"]
    assert 1 <= len(faults) <= 2, "each kind of fault is logged once, not per request"


def test_the_middleware_is_placed_first_automatically() -> None:
    from django.conf import settings

    assert settings.MIDDLEWARE[0] == "django_tracing.middleware.TracingMiddleware"
    assert settings.MIDDLEWARE.count("django_tracing.middleware.TracingMiddleware") == 1


@override_settings(
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django_tracing.middleware.TracingMiddleware",
    ]
)
def test_it_stays_where_the_user_lists_it(get: Callable[..., Any], spans: Spans) -> None:
    get("/empty/")
    only(spans)


def test_a_server_span_of_another_tracer_is_enriched(spans: Spans) -> None:
    from opentelemetry import trace

    from django_tracing.instrumentation.request.middleware import TracingMiddleware

    with trace.get_tracer("opentelemetry.instrumentation.wsgi").start_as_current_span("GET", kind=SpanKind.SERVER):
        TracingMiddleware(lambda request: HttpResponse("ok"))(RequestFactory().get("/empty/?a=1"))
    span = only(spans)
    assert attributes(span)["correlation.id"]
    assert attributes(span)["http.query.a"] == "1"
