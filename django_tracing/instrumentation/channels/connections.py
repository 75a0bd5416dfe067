"""Trace a connection: the span of a WebSocket's handshake, or of an HTTP request that a consumer answers."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Awaitable, Callable, Mapping
from io import BytesIO
from time import time_ns
from typing import Any, Final, NamedTuple

from django.core.handlers.asgi import ASGIRequest
from opentelemetry.context import Context
from opentelemetry.sdk.trace import Span as SDKSpan
from opentelemetry.trace import INVALID_SPAN, Span, SpanContext, SpanKind, StatusCode

from django_tracing import spans
from django_tracing.conf.loading import get_settings
from django_tracing.conf.values import Settings
from django_tracing.context.description import method_of, resolve_early, resolved_route, span_name, urlconf_of
from django_tracing.context.request import HEADER, RequestState, incoming_id, with_request_state, without_trace
from django_tracing.context.user import identify
from django_tracing.instrumentation.channels.routes import Urlconf, joined, matched_route, urlconf_of_app
from django_tracing.instrumentation.request.describe import describe, start_attributes
from django_tracing.instrumentation.request.incoming import is_left_out, read_caller
from django_tracing.instrumentation.request.page_names import page_name
from django_tracing.recording.shared import SharedAttributes
from django_tracing.recording.span import SPAN_KEY, UnsampledSpan
from django_tracing.redaction import cut
from django_tracing.semconv import names
from django_tracing.untraced import untraced_context

__all__ = ["Connection", "WebSocketRequest", "class_path", "is_stop", "open_connection"]

#: How long the span of a handshake waits for the end of ``connect`` after the connection was accepted. Some consumers
#: send from there for hours.
_LONGEST_CONNECT_NS: Final = 10 * 1_000_000_000
_SWITCHING_PROTOCOLS: Final = 101
#: What a server answers if the application closes a connection that it has not accepted.
_REFUSED: Final = 403
_HEADER: Final = HEADER.lower().encode()
#: The messages that answer a request or a handshake.
_RESPONSES: Final = ("http.response.start", "websocket.http.response.start")

Send = Callable[[dict[str, Any]], Awaitable[Any]]

#: By the method of the handshake.
_starts: Final[spans.Cache[str, SharedAttributes]] = spans.Cache(8)


class WebSocketRequest(ASGIRequest):
    """The handshake of a WebSocket, in all that this app asks of a request."""

    #: What names and sampling rules show in place of a method.
    span_method = "WS"

    def __init__(self, scope: Mapping[str, Any]) -> None:
        super().__init__({**scope, "method": self.span_method}, BytesIO())
        # RFC 8441 for HTTP/2, RFC 6455 before.
        self.handshake_method = "CONNECT" if str(scope.get("http_version", "")).startswith("2") else "GET"

    @property
    def scheme(self) -> str | None:
        scheme = self.scope.get("scheme")
        return "wss" if scheme in ("wss", "https") or super().scheme == "https" else "ws"


class _Match(NamedTuple):
    """What a router has found: as much of Django's ``ResolverMatch`` as this app asks for."""

    route: str
    captured_kwargs: Mapping[str, Any]
    func: Any = None


def class_path(value: Any) -> str:
    """Return the class of ``value``, with its module."""
    return cut(f"{type(value).__module__}.{type(value).__qualname__}", 100)


def is_stop(error: BaseException | None) -> bool:
    """Return whether a consumer ends with this exception when it has nothing more to do."""
    return error is not None and any(
        kind.__name__ == "StopConsumer" and kind.__module__ == "channels.exceptions" for kind in type(error).__mro__
    )


def open_connection(app: Any, scope: Mapping[str, Any], send: Send) -> tuple[Connection | None, Context | None]:
    """Start to trace a connection that ``app`` gets. Return it and the context to call ``app`` in. Never raises.

    Without a connection, there is nothing to trace; with a context, nothing in it is to be traced either.
    """
    try:
        settings = get_settings()
        if not settings.enabled:
            return None, None
        is_http = scope["type"] == "http"
        request: Any = ASGIRequest(dict(scope), BytesIO()) if is_http else WebSocketRequest(scope)
        if is_left_out(request, settings):
            return None, untraced_context()
        request.urlconf = urlconf_of_app(app, scope["type"])
        connection = Connection(request, scope, settings, send)
        return connection, connection.context
    except Exception:
        spans.log_once("channels-open", "A connection could not be traced; it goes on without a span.")
        return None, None


class Connection:
    """A connection that is being traced. No method raises.

    It lives as long as the connection, its span only as long as the handshake, or as the HTTP request.
    """

    __slots__ = (
        *("base", "closed", "consumer", "context", "ended", "gone", "headers", "link", "method", "name", "opened_ns"),
        *("owned", "received", "request", "sent", "settings", "span", "state", "status", "_answered_ns", "_send"),
        *("_takes_headers", "_unsampled"),
    )

    def __init__(self, request: ASGIRequest, scope: Mapping[str, Any], settings: Settings, send: Send) -> None:
        self.request = request
        self.settings = settings
        self.opened_ns = time_ns()
        self._send = send
        #: Whether the application may answer with headers.
        version = str((scope.get("asgi") or {}).get("spec_version") or "2.0")
        self._takes_headers = scope["type"] == "http" or version >= "2.1"
        #: What tells the connection from others: copies of its scope have the same.
        self.headers = scope.get("headers")
        self.consumer = ""
        self.status: int | None = None
        self._answered_ns = 0
        #: How many messages came from the client, and went to it.
        self.received = self.sent = 0
        #: The exception with which the server refused a message, because the client has gone.
        self.gone: OSError | None = None
        self.ended = self.closed = False
        self.link: SpanContext | None = None
        self._unsampled: tuple[Context, int] | None = None
        self.method = self.name = method = method_of(request)
        self.state = state = RequestState(incoming_id(request.META), request)
        current = spans.current_context()
        #: The context of messages, which are no part of the handshake's trace.
        self.base = without_trace(current)
        # OpenTelemetry's ASGI middleware may have started a span.
        theirs: Any = current.get(SPAN_KEY)
        self.owned = not (isinstance(theirs, SDKSpan) and theirs.is_recording() and theirs.kind is SpanKind.SERVER)
        if self.owned:
            caller = read_caller(request.META, current, settings)
            context = with_request_state(state, caller.context)
            self.span: Span = spans.start_request_span(method, state, context, self._start_shared())
            if caller.stranger is not None:
                spans.link_to(self.span, caller.stranger)
            self.context = context if self.span is INVALID_SPAN else spans.with_span(self.span, context)
            if self.span.__class__ is UnsampledSpan:
                self._unsampled = context, self.opened_ns
        else:
            self.span = theirs
            self.context = with_request_state(state, current)
            spans.set_request_attributes(theirs, state.common)
        state.span = self.span

    def _start_shared(self) -> tuple[SharedAttributes, ...]:
        request = self.request
        if not isinstance(request, WebSocketRequest):
            return start_attributes(self.method), self.state.correlation
        method = request.handshake_method
        start = _starts.get(method) or _starts.keep(
            method, spans.share({names.OPERATION_TYPE: "websocket", names.HTTP_METHOD: method})
        )
        return start, self.state.correlation

    # ----- what becomes known of it

    def is_of(self, scope: Mapping[str, Any]) -> bool:
        """Return whether ``scope`` is this connection's."""
        return not self.closed and self.headers is scope.get("headers")

    def route(self, router: Any, scope: Mapping[str, Any]) -> None:
        """Add what ``router`` finds for ``scope`` to the route, and rename the span."""
        try:
            found = matched_route(router, scope)
            if found is None:
                return
            request: Any = self.request
            urlconf = urlconf_of(request)
            if not isinstance(urlconf, Urlconf) or not urlconf.urlpatterns:
                request.urlconf = urlconf_of_app(router, scope["type"])
            request.resolver_match = _Match(joined(resolved_route(request), found), {})
            if self.span.is_recording():
                self._rename(span_name(request))
        except Exception:
            spans.log_once("channels-route", "The route of a connection could not be found.")

    def serve(self, consumer: Any, scope: Mapping[str, Any]) -> None:
        """Take what the scope of the ``consumer`` has more than that of the server."""
        try:
            self.consumer = self.consumer or class_path(consumer)
            request: Any = self.request
            match = request.resolver_match
            if match is not None:
                captured = (scope.get("url_route") or {}).get("kwargs")
                request.resolver_match = match._replace(captured_kwargs=captured or {})
            self.use_user(scope)
        except Exception:
            spans.log_once("channels-serve", "The consumer of a connection could not be described.")

    def use_user(self, scope: Mapping[str, Any]) -> None:
        """Take the user of a consumer's scope, which may log in at any time. May raise."""
        user = scope.get("user")
        if user is not None:
            self.request.__dict__["user"] = user

    def _rename(self, name: str) -> None:
        # A name that the site's code gave stays.
        if self.owned and getattr(self.span, "name", self.name) == self.name:
            spans.set_name(self.span, name)
            self.name = name

    # ----- sending

    async def send(self, message: dict[str, Any]) -> Any:
        """Send ``message`` to the client, and note what the span needs to know of it."""
        if not self._answered_ns:
            message = self._answer(message)
        try:
            result = await self._send(message)
        except OSError as error:
            # As the ASGI specification says it of a client that has disconnected.
            self.gone = error
            raise
        if message.__class__ is dict and message.get("type") == "websocket.send":
            self.sent += 1
            if self._answered_ns and not self.ended and time_ns() - self._answered_ns >= _LONGEST_CONNECT_NS:
                self.end()
        return result

    def _answer(self, message: dict[str, Any]) -> dict[str, Any]:
        """Note the answer to the request or handshake, and return it with the correlation id."""
        try:
            kind = message.get("type")
            if kind == "websocket.accept":
                self.status = _SWITCHING_PROTOCOLS
            elif kind == "websocket.close":
                self.status = _REFUSED
            elif kind in _RESPONSES and isinstance(message.get("status"), int):
                self.status = message["status"]
            else:
                return message
            self._answered_ns = time_ns()
            headers = message.get("headers") or []
            # An iterator is the server's to read.
            takes_one = self._takes_headers and kind != "websocket.close" and isinstance(headers, (list, tuple))
            if takes_one and not any(name.lower() == _HEADER for name, _ in headers):
                return {**message, "headers": [*headers, (_HEADER, self.state.correlation_id.encode())]}
        except Exception:
            spans.log_once("channels-answer", "The answer to a connection could not be read for its span.")
        return message

    def is_gone(self, error: BaseException | None) -> bool:
        """Return whether ``error`` is that the client has gone."""
        return isinstance(error, (CancelledError, GeneratorExit)) or (error is not None and error is self.gone)

    # ----- its end

    def end(self, error: BaseException | None = None) -> None:
        """End the span; ``error`` is the exception that ended the handshake or the request."""
        if self.ended:
            return
        self.ended = True
        try:
            failed = error is not None and not self.is_gone(error) and not is_stop(error)
            if self._unsampled is not None and (failed or (self.status or 0) >= 500):
                self._record_failed(*self._unsampled)
            if self.span.is_recording():
                self._describe(error, failed)
        except Exception:
            spans.log_once("channels-end", "The span of a connection could not be completed.")
        self._unsampled = None
        self.state.span = None
        if self.owned:
            spans.end_span(self.span)
        self.link = self.span.get_span_context()
        self.state.end()
        self.span = INVALID_SPAN
        self.context = self.base

    def _record_failed(self, context: Context, started: int) -> None:
        """Make a span afterwards if the caller did not sample the connection, but this site keeps errors."""
        span = spans.start_failed_request_span(self.method, self.state, context, self._start_shared(), started)
        if span.is_recording():
            self.span, self.name = span, self.method

    def _describe(self, error: BaseException | None, failed: bool) -> None:
        span, state, settings = self.span, self.state, self.settings
        request: Any = self.request
        if request.resolver_match is None:
            # A middleware refused it before a router had it.
            match = resolve_early(request.path_info, urlconf_of(request))
            if match is not None:
                request.resolver_match = _Match(match.route, match.kwargs)
        identify(state, settings, again=True)
        name, shared = describe(request, self.method, settings, self.status)
        user = state.user_attributes
        spans.set_shared(span, shared if user is None else (*shared, user))
        if user is not None and not self.owned:
            spans.set_request_attributes(span, user.attributes)
        if not isinstance(request, WebSocketRequest):
            page = page_name(request, None, settings)
            name = name if page is None else f"{self.method} {page}"
        self._rename(name)
        attributes: names.Attributes = {}
        if self.consumer:
            attributes[names.CHANNELS_CONSUMER] = self.consumer
        if self.sent:
            attributes[names.WEBSOCKET_SENT] = self.sent
        if error is not None and self.is_gone(error):
            attributes[names.HTTP_CLIENT_DISCONNECTED] = True
        if failed and error is not None:
            spans.record_error(span, error)
        elif (self.status or 0) >= 500 and self.owned:
            span.set_status(StatusCode.ERROR, f"HTTP {self.status}")
            attributes[names.ERROR_TYPE] = str(self.status)
        if attributes:
            spans.set_attributes(span, attributes)

    def close(self) -> None:
        """Let go of what the connection used: its application has returned."""
        self.end()
        self.closed = True
        self.gone = None
