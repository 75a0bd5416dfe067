"""The request's span: its start, its attributes, its end when the last byte has been sent.

``TracingMiddleware`` places itself first (``instrumentation.request``) or stands where the user lists it. Where a
recording SERVER span is already current (upstream's Django, WSGI or ASGI instrumentation), that span is enriched
and no second one is made.
"""

from __future__ import annotations

import re
import sys
from asyncio import CancelledError
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextvars import Token
from functools import lru_cache
from time import time_ns
from typing import Any, Final, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings as site
from django.conf.urls.i18n import is_language_prefix_patterns_used
from django.core.exceptions import DisallowedHost
from django.core.signals import got_request_exception
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.urls import resolve
from django.utils import translation
from opentelemetry import propagate
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter, TextMapPropagator
from opentelemetry.sdk.trace import Span as SDKSpan
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind, StatusCode

from django_tracing import spans
from django_tracing.conf.loading import get_settings
from django_tracing.conf.patterns import bounded_search
from django_tracing.conf.values import Settings
from django_tracing.context.clients import client_address
from django_tracing.context.extraction import extract
from django_tracing.context.request import HEADER, RequestState, get_request_state, incoming_id, with_request_state
from django_tracing.context.user import identify
from django_tracing.instrumentation import log_records as logs
from django_tracing.instrumentation.request.headers import (
    SERVER_TIMING,
    TRACERESPONSE,
    server_timing,
    traceresponse,
)
from django_tracing.recording.shared import SharedAttributes
from django_tracing.recording.span import SPAN_KEY, UnsampledSpan
from django_tracing.redaction import REDACTED, SensitiveKeys, cut, redact_query, redact_text, sanitise_url
from django_tracing.semconv import names
from django_tracing.semconv.names import Attributes
from django_tracing.untraced import untraced_context

__all__ = ["TracingMiddleware", "readable_route"]

#: The admin's pages of traces, wherever the admin is: looking at traces makes none.
_OWN_PAGES: Final = "/django_tracing/trace/"
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
#: URLs keep more than other attributes do: a cut URL is of no use.
_URL_LENGTH: Final = 2000


class _EnvironGetter(Getter[Mapping[str, Any]]):
    """Headers as they stand in ``request.META``."""

    def get(self, carrier: Mapping[str, Any], key: str) -> list[str] | None:
        value = carrier.get(_environ_key(key))
        return None if value is None else [value]

    def keys(self, carrier: Mapping[str, Any]) -> list[str]:
        return [key[5:].replace("_", "-").lower() for key in carrier if key.startswith("HTTP_")]


@lru_cache(maxsize=64)
def _environ_key(header: str) -> str:
    return "HTTP_" + header.upper().replace("-", "_")


_getter: Final = _EnvironGetter()


def _remember_exception(*, request: HttpRequest | None = None, **kwargs: Any) -> None:
    """Keeps what Django turns into a 500, wherever it was raised, for the request's span."""
    try:
        state = get_request_state()
        if state is not None:
            state.exception = sys.exc_info()[1]
    except Exception:
        spans.log_once("got_request_exception", "An exception could not be kept for its request's span.")


class _Traced:
    """One request on its way: the shared half of the sync and async twins. No method raises."""

    __slots__ = (
        "called",
        "context",
        "ended",
        "exhausted",
        "method",
        "owned",
        "request",
        "state",
        "settings",
        "span",
        "started",
        "token",
    )

    def __init__(self, request: HttpRequest, settings: Settings, creates: bool) -> None:
        self.request = request
        self.settings = settings
        self.ended = False
        self.exhausted = False
        self.started = False
        self.token: Token[Context] | None = None
        #: Of a request that is not recorded: the context that it came with, and when.
        self.called: tuple[Context, int] | None = None
        self.span: Span = INVALID_SPAN
        method = request.method or ""
        # Anything else is the client's invention, and would make as many names as there are inventions.
        self.method = method if method in _METHODS else "HTTP"
        self.state = state = RequestState(incoming_id(request.META), request)
        current = spans.current_context()
        # Somebody else's span of this very request: enriched, and left to them to end.
        theirs: Any = current.get(SPAN_KEY)
        self.owned = not (isinstance(theirs, SDKSpan) and theirs.is_recording() and theirs.kind is SpanKind.SERVER)
        if not self.owned:
            self.span = theirs
            self.context = with_request_state(state, current)
            spans.set_attributes(theirs, {names.OPERATION_TYPE: "http"})
            spans.set_request_attributes(theirs, state.common)
        elif creates:
            method = self.method
            context = with_request_state(state, _extract(request.META, current))
            shared = (_starts.get(method) or _start(method), state.correlation)
            self.span = span = spans.start_request_span(method, state, context, shared)
            self.context = context if span is INVALID_SPAN else spans.with_span(span, context)
            if span.__class__ is UnsampledSpan:
                self.called = context, time_ns()
        else:
            self.context = with_request_state(state, current)
        state.span = self.span
        if settings.response_headers and "server-timing" in settings.response_headers and self.span.is_recording():
            spans.collect(state)
        logs.remember_request(self.span)
        self.token = spans.attach(self.context)

    def respond(self, response: HttpResponseBase) -> HttpResponseBase:
        """What is left to do when the response is there; the span of a stream ends with its body."""
        try:
            spans.detach(self.token)
            _set_header(response, self.state.correlation_id)
            if self.settings.response_headers:
                self._tell(response)
            # A stream may go on for hours: what ends from here on is nobody's to show.
            self.state.collected = None
            if self.called is not None and response.status_code >= 500:
                self._show_failure(self.called)
            if self.span.is_recording():
                self._describe(response)
                if self.owned and response.streaming:
                    self._follow(cast(StreamingHttpResponse, response))
                    return response
        except Exception:
            spans.log_once("respond", "A request's span could not be completed.")
        self.end()
        return response

    def fail(self, error: BaseException) -> None:
        """An exception leaves the whole of Django: the server is stopping, or the client went away."""
        try:
            spans.detach(self.token)
            gone = isinstance(error, (CancelledError, GeneratorExit))
            if self.called is not None and not gone:
                self._show_failure(self.called)
            if self.span.is_recording():
                if gone:
                    spans.set_attributes(self.span, {names.HTTP_CLIENT_DISCONNECTED: True})
                else:
                    spans.record_error(self.span, error)
                self._say(None)
        except Exception:
            spans.log_once("fail", "A request's span could not be completed.")
        self.end()

    def end(self) -> None:
        if not self.ended:
            self.ended = True
            # The exception holds its frames, which hold the request: let go of it.
            self.state.exception = self.state.span = self.state.collected = self.state.last_error = self.called = None
            if self.owned:
                spans.end_span(self.span)

    def _show_failure(self, called: tuple[Context, int]) -> None:
        """Gives a failed request its span after all, where its caller did not keep it and this site would have."""
        context, started = called
        shared = (_starts.get(self.method) or _start(self.method), self.state.correlation)
        span = spans.start_failed_request_span(self.method, self.state, context, shared, started)
        if span.is_recording():
            self.span = self.state.span = span

    def _tell(self, response: HttpResponseBase) -> None:
        """Sets the headers that tell the reader of the response about its trace, beside what the view said itself."""
        try:
            wanted = self.settings.response_headers
            headers = response.headers
            given = response.__dict__[_GIVEN]
            span: Any = self.span
            context = span.get_span_context()
            if "traceresponse" in wanted and context.is_valid and TRACERESPONSE not in headers:
                headers[TRACERESPONSE] = given[TRACERESPONSE] = traceresponse(context)
            collected = self.state.collected
            if collected is not None and "server-timing" in wanted:
                timing = server_timing(tuple(collected), time_ns() - span.start_time)
                # What the view said itself stands in front.
                before = headers.get(SERVER_TIMING)
                headers[SERVER_TIMING] = given[SERVER_TIMING] = f"{before}, {timing}" if before else timing
                given[_BEFORE] = before or ""
        except Exception:
            spans.log_once("response-headers", "A response could not be told of its trace.")

    # ----- what the span says

    def _describe(self, response: HttpResponseBase) -> None:
        status = response.status_code
        state = self.state
        span = self.span
        # The user may have logged in meanwhile: what is known now counts.
        identify(state, self.settings, again=True)
        self._say(status)
        error = state.exception
        if status >= 500:
            if error is not None:
                spans.record_error(span, error)
            elif self.owned:
                span.set_status(StatusCode.ERROR, f"HTTP {status}")
                spans.set_attributes(span, {names.ERROR_TYPE: str(status)})
        elif status == 400:
            self._say_bad_host()

    def _say_bad_host(self) -> None:
        """A refused Host header becomes a plain 400 in Django; its span says which 400 it is."""
        try:
            self.request.get_host()
        except DisallowedHost as error:
            spans.record_error(self.span, error, status=False)
            spans.set_attributes(self.span, {names.ERROR_TYPE: "django.core.exceptions.DisallowedHost"})

    def _say(self, status: int | None) -> None:
        """What was asked, by whom, the route and the name that it makes, and the status (None: there is none)."""
        request = self.request
        meta = request.META
        settings = self.settings
        limit = settings.max_attribute_length
        query = meta.get("QUERY_STRING") or ""
        host = meta.get("HTTP_HOST") or (meta.get("SERVER_NAME"), meta.get("SERVER_PORT"))
        hidden = _secret_arguments(request, _sensitive_keys(settings.sensitive_keys))
        asked = (request.scheme, host, request.path, query, hidden, settings.sensitive_keys, limit)
        who = (meta.get("HTTP_USER_AGENT"), client_address(meta, settings.trusted_proxies), limit)
        answered = (self.method, _route(request), status)
        name, answer = _answers.get(answered) or _answer(*answered)
        shared = (answer, _clients.get(who) or _client(*who), _urls.get(asked) or _url_part(request, asked))
        user = self.state.user_attributes
        spans.set_shared(self.span, shared if user is None else (*shared, user))
        if user is not None and not self.owned:
            spans.set_request_attributes(self.span, user.attributes)
        if name and self.owned:
            spans.set_name(self.span, name)

    # ----- streams

    def _follow(self, response: StreamingHttpResponse) -> None:
        """Keeps the span open and current until the body ends or the client goes away. Nothing is buffered."""
        # Not by the streaming_content setter: it would add closers, and take FileResponse's sendfile away.
        if response.is_async:
            response._iterator = _AsyncBody(self, response._iterator)  # type: ignore[attr-defined]
        else:
            response._iterator = _Body(self, response._iterator)  # type: ignore[attr-defined]
        # The server closes the response when it is done with it, also when nobody took its whole body.
        response._resource_closers.append(self.closed)  # type: ignore[attr-defined]

    def closed(self) -> None:
        if self.started and not self.exhausted and not self.ended:
            spans.set_attributes(self.span, {names.HTTP_CLIENT_DISCONNECTED: True})
        self.end()

    def stream_failed(self, error: BaseException) -> None:
        if self.ended:
            return
        if isinstance(error, (CancelledError, GeneratorExit)):
            spans.set_attributes(self.span, {names.HTTP_CLIENT_DISCONNECTED: True})
        else:
            spans.record_error(self.span, error)
        self.end()

    def stream_ended(self) -> None:
        self.exhausted = True
        self.end()


class _Body(Iterator[Any]):
    """A sync body whose chunks are made with the request's span current."""

    __slots__ = ("_body", "_traced")

    def __init__(self, traced: _Traced, body: Iterator[Any]) -> None:
        self._traced = traced
        self._body = body

    def __next__(self) -> Any:
        traced = self._traced
        traced.started = True
        token = spans.attach(traced.context)
        try:
            return next(self._body)
        except StopIteration:
            traced.stream_ended()
            raise
        except BaseException as error:
            traced.stream_failed(error)
            raise
        finally:
            spans.detach(token)


class _AsyncBody(AsyncIterator[Any]):
    """An async body whose chunks are made with the request's span current."""

    __slots__ = ("_body", "_traced")

    def __init__(self, traced: _Traced, body: AsyncIterator[Any]) -> None:
        self._traced = traced
        self._body = body

    async def __anext__(self) -> Any:
        traced = self._traced
        traced.started = True
        token = spans.attach(traced.context)
        try:
            return await self._body.__anext__()
        except StopAsyncIteration:
            traced.stream_ended()
            raise
        except BaseException as error:
            traced.stream_failed(error)
            raise
        finally:
            spans.detach(token)


class TracingMiddleware:
    """Traces each request: a SERVER span, current while the request is worked on."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        self._async = iscoroutinefunction(get_response)
        if self._async:
            markcoroutinefunction(self)
        got_request_exception.connect(_remember_exception, dispatch_uid="django_tracing.middleware")

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        if self._async:
            return self._call_async(request)
        traced, token = _begin(request)
        if traced is None:
            try:
                return _untold(cast(HttpResponse, self.get_response(request)))
            finally:
                spans.detach(token)
        try:
            response = self.get_response(request)
        except BaseException as error:
            traced.fail(error)
            raise
        return traced.respond(response)

    async def _call_async(self, request: HttpRequest) -> HttpResponseBase:
        traced, token = _begin(request)
        if traced is None:
            try:
                return _untold(cast(HttpResponse, await self.get_response(request)))
            finally:
                spans.detach(token)
        try:
            response = await self.get_response(request)
        except BaseException as error:
            traced.fail(error)
            raise
        return traced.respond(response)


def _begin(request: HttpRequest) -> tuple[_Traced | None, Token[Context] | None]:
    """The traced request; or None, and the token of the context in which nothing is traced."""
    try:
        settings = get_settings()
        if not settings.enabled:
            return None, None
        path = request.path_info
        if (
            (path.startswith(_bare(settings.ignore_paths)) and _ignored(path, settings.ignore_paths))
            or (settings.excluded_urls and _is_excluded(request, settings.excluded_urls))
            or (_OWN_PAGES in path and _is_own_page(request))
        ):
            return None, spans.attach(untraced_context())
        return _Traced(request, settings, "request" in settings.instrumentations), None
    except Exception:
        spans.log_once("begin", "A request could not be traced; it goes on without a span.")
        return None, None


def _ignored(path: str, ignored: tuple[str, ...]) -> bool:
    return any(
        path.startswith(prefix) and (len(path) == len(prefix) or path[len(prefix)] == "/")
        for prefix in _bare(ignored)
    )


def _is_excluded(request: HttpRequest, patterns: tuple[str, ...]) -> bool:
    # As upstream gives it to them: the whole URL, in place of the query a question mark.
    url = f"{request.scheme}://{_host(request)}{request.path}?"
    return any(search(url) is not None for search in _searches(patterns))


@lru_cache(maxsize=8)
def _searches(patterns: tuple[str, ...]) -> tuple[Callable[[str], object], ...]:
    return tuple(bounded_search(pattern, len(patterns)) for pattern in patterns)


def _is_own_page(request: HttpRequest) -> bool:
    """Whether the path leads to an admin's page of traces, and does not merely look like it."""
    try:
        urlconf = getattr(request, "urlconf", None)
        language = translation.get_language()
        if is_language_prefix_patterns_used(urlconf or site.ROOT_URLCONF)[0]:
            # Where paths begin with a language, nobody has activated it yet. Elsewhere the caller would choose which
            # catalogs are loaded.
            language = translation.get_language_from_path(request.path_info) or language
        with translation.override(language):
            match = resolve(request.path_info, urlconf)
    except Exception:  # there is no such page, which is for Django to say
        return False
    return "admin" in match.app_names and (match.url_name or "").startswith("django_tracing_trace_")


@lru_cache(maxsize=8)
def _bare(prefixes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(prefix.rstrip("/") for prefix in prefixes)


def _extract(meta: Mapping[str, Any], current: Context) -> Context:
    """The caller's context. Nothing is parsed for the many requests that carry none."""
    propagator = propagate.get_global_textmap()
    for key in _environ_keys(propagator):
        if key in meta:
            return extract(meta, current, _getter)
    return current


@lru_cache(maxsize=8)
def _environ_keys(propagator: TextMapPropagator) -> tuple[str, ...]:
    return tuple(_environ_key(header) for header in propagator.fields)


_HEADER_KEY: Final = HEADER.lower()
#: Where a response keeps what this app gave it: a view may hand out the same one again and again.
_GIVEN: Final = "_django_tracing_given"
#: The view's own part of Server-Timing.
_BEFORE: Final = "before"


def _take_back(response: HttpResponseBase) -> None:
    """Takes out what this app gave ``response`` for a request before, be that one traced or not."""
    given: dict[str, str] | None = response.__dict__.pop(_GIVEN, None)
    if not given:
        return
    headers = response.headers
    for name in (HEADER, TRACERESPONSE, SERVER_TIMING):
        if name in given and headers.get(name) == given[name]:
            del headers[name]
            if name == SERVER_TIMING and given[_BEFORE]:
                headers[name] = given[_BEFORE]


def _untold(response: HttpResponseBase) -> HttpResponseBase:
    """The response to a request that is not traced."""
    try:
        _take_back(response)
    except Exception:
        spans.log_once("take-back", "A response could not be freed of what it said of another request's trace.")
    return response


def _set_header(response: HttpResponseBase, correlation_id: str) -> None:
    _take_back(response)
    headers = response.headers
    given: dict[str, str] = {}
    response.__dict__[_GIVEN] = given
    store = getattr(headers, "_store", None)
    if store.__class__ is dict:
        # Django's own way checks and converts the value, which was checked before.
        if _HEADER_KEY not in store:
            store[_HEADER_KEY] = (HEADER, correlation_id)
            given[HEADER] = correlation_id
    elif HEADER not in headers:
        headers[HEADER] = given[HEADER] = correlation_id


# ----- what repeats from request to request

_starts: Final[spans.Cache[str, SharedAttributes]] = spans.Cache()
#: By method, route and status.
_answers: Final[spans.Cache[tuple[str, str | None, int | None], tuple[str, SharedAttributes]]] = spans.Cache()
#: By user agent, address and the longest attribute.
_clients: Final[spans.Cache[tuple[str | None, str, int], SharedAttributes]] = spans.Cache()
#: By scheme, host, path, query, what of the path is secret, sensitive keys and the longest attribute.
_urls: Final[spans.Cache[tuple[Any, ...], SharedAttributes]] = spans.Cache()
#: What is longer hardly comes again.
_KEPT_LENGTH: Final = 512


def _start(method: str) -> SharedAttributes:
    return _starts.keep(method, spans.share({names.OPERATION_TYPE: "http", names.HTTP_METHOD: method}))


def _answer(method: str, route: str | None, status: int | None) -> tuple[str, SharedAttributes]:
    attributes: Attributes = {}
    name = ""
    if route is not None:
        readable = readable_route(route)
        name = f"{method} {readable}"
        attributes[names.HTTP_ROUTE] = cut(readable, _URL_LENGTH)
    if status is not None:
        attributes[names.HTTP_STATUS_CODE] = status
    return _answers.keep((method, route, status), (name, spans.share(attributes)))


def _client(agent: str | None, address: str, limit: int) -> SharedAttributes:
    attributes: Attributes = {}
    redacted = redact_text(agent) if agent else agent
    if redacted:
        attributes[names.HTTP_USER_AGENT] = cut(redacted, limit)
    if address:
        attributes[names.HTTP_CLIENT_IP] = address
    part = spans.share(attributes)
    # One that had something to hide is not kept in memory.
    if agent and (len(agent) > _KEPT_LENGTH or redacted != agent):
        return part
    return _clients.keep((agent, address, limit), part)


def _url_part(request: HttpRequest, asked: tuple[Any, ...]) -> SharedAttributes:
    *_, query, hidden, sensitive_keys, limit = asked
    sensitive = _sensitive_keys(sensitive_keys)
    url = _url(request, request.path)
    shown = _url(request, _without(request.path, _route(request), hidden)) if hidden else url
    sanitised = sanitise_url(shown, sensitive)
    attributes: Attributes = {names.HTTP_URL: cut(sanitised, _URL_LENGTH)}
    if query:
        for name, value in redact_query(query, sensitive).items():
            attributes[names.HTTP_QUERY + name] = cut(value, limit)
    part = spans.share(attributes)
    return _urls.keep(asked, part) if sanitised == url and len(url) <= _KEPT_LENGTH else part


def _secret_arguments(request: HttpRequest, sensitive: SensitiveKeys) -> tuple[str, ...]:
    """What the path says of the route's parameters that have a sensitive name: ``reset/<token>/``."""
    arguments = getattr(getattr(request, "resolver_match", None), "captured_kwargs", None)
    if not arguments:
        return ()
    return tuple(str(value) for name, value in arguments.items() if sensitive.matches(name))


def _without(path: str, route: str | None, hidden: tuple[str, ...]) -> str:
    """``path`` with ``[redacted]`` for the segments that are, or hold, one of ``hidden``."""
    for value in hidden:
        segments = path.split("/")
        if value in segments:
            path = "/".join(REDACTED if segment == value else segment for segment in segments)
        elif value and value in path:
            path = path.replace(value, REDACTED)
        else:
            # A converter has made another text of it, and nobody knows which it was.
            return readable_route(route or "")
    return path


def _url(request: HttpRequest, path: str) -> str:
    """The URL as asked for. Not ``build_absolute_uri``, which raises for the very requests one wants to see."""
    query = request.META.get("QUERY_STRING")
    return f"{request.scheme}://{_host(request)}{path}" + (f"?{query}" if query else "")


def _host(request: HttpRequest) -> str:
    meta = request.META
    host = meta.get("HTTP_HOST")
    if host:
        return str(host)
    port = str(meta.get("SERVER_PORT", ""))
    return str(meta.get("SERVER_NAME", "")) + (f":{port}" if port not in ("", "80", "443") else "")


def _route(request: HttpRequest) -> str | None:
    match = getattr(request, "resolver_match", None)
    route = getattr(match, "route", None)
    return None if route is None else str(route)


_SLASHES: Final = re.compile(r"/{2,}")


def readable_route(route: str) -> str:
    """A route of Django's as spans are named after it: from the first slash, regular expressions in words."""
    if "^" in route or "(?" in route or "\\" in route:
        # Django's own words for regular expressions in a person's eyes.
        from django.contrib.admindocs.utils import (
            remove_non_capturing_groups,
            replace_metacharacters,
            replace_named_groups,
            replace_unnamed_groups,
        )

        route = replace_metacharacters(
            replace_unnamed_groups(replace_named_groups(remove_non_capturing_groups(route)))
        )
        route = _SLASHES.sub("/", route)
    return route if route.startswith("/") else f"/{route}"


@lru_cache(maxsize=8)
def _sensitive_keys(extra: tuple[str, ...]) -> SensitiveKeys:
    return SensitiveKeys(extra)
