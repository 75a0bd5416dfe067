"""Trace requests: start the request's span, and end it when the last byte of the response has been sent.

``TracingMiddleware`` is placed first in MIDDLEWARE (see ``placing``), or stands where the user lists it. If a
recording SERVER span is already current (of OpenTelemetry's Django, WSGI or ASGI instrumentation), that span gets
this app's attributes, and no second one is made.
"""

from __future__ import annotations

import sys
from asyncio import CancelledError
from collections.abc import Awaitable, Callable
from contextvars import Token
from time import time_ns
from typing import Any, Final, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.core.exceptions import DisallowedHost
from django.core.signals import got_request_exception
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from opentelemetry.context import Context
from opentelemetry.sdk.trace import Span as SDKSpan
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind, StatusCode

from django_tracing import spans
from django_tracing.conf.loading import get_settings
from django_tracing.conf.values import Settings
from django_tracing.context.description import method_of
from django_tracing.context.request import RequestState, get_request_state, incoming_id, with_request_state
from django_tracing.context.user import identify
from django_tracing.instrumentation import log_records
from django_tracing.instrumentation.request.describe import set_result, start_attributes
from django_tracing.instrumentation.request.headers import (
    clear_headers,
    own_response,
    set_correlation_id,
    set_trace_headers,
)
from django_tracing.instrumentation.request.incoming import is_left_out, read_caller
from django_tracing.instrumentation.request.streams import AsyncBody, Body, Responding
from django_tracing.recording.span import SPAN_KEY, UnsampledSpan
from django_tracing.semconv import names
from django_tracing.untraced import untraced_context

__all__ = ["TracingMiddleware"]

#: The error type of a refused Host header.
_REFUSED_HOST: Final = "django.core.exceptions.DisallowedHost"


def _remember_exception(*, request: HttpRequest | None = None, **kwargs: Any) -> None:
    """Keep the exception that Django turns into a 500, wherever it was raised, for the request's span."""
    try:
        state = get_request_state()
        if state is not None:
            state.exception = sys.exc_info()[1]
    except Exception:
        spans.log_once("got_request_exception", "An exception could not be kept for its request's span.")


class _TracedRequest(Responding):
    """A request that is being traced: what the sync and the async way have in common. No method raises."""

    __slots__ = ("method", "owned", "request", "settings", "span", "state", "token", "unsampled")

    def __init__(self, request: HttpRequest, settings: Settings, starts_span: bool) -> None:
        self.request = request
        self.settings = settings
        self.ended = False
        self.started = False
        self.exhausted = False
        self.token: Token[Context] | None = None
        #: If the request is not recorded: the context that it came with, and its start in nanoseconds.
        self.unsampled: tuple[Context, int] | None = None
        self.span: Span = INVALID_SPAN
        self.method = method = method_of(request)
        self.state = state = RequestState(incoming_id(request.META), request)
        current = spans.current_context()
        # Another library's span of this request gets our attributes, and is ended by that library.
        theirs: Any = current.get(SPAN_KEY)
        self.owned = not (isinstance(theirs, SDKSpan) and theirs.is_recording() and theirs.kind is SpanKind.SERVER)
        if not self.owned:
            self.span = theirs
            self.context = with_request_state(state, current)
            spans.set_attributes(theirs, {names.OPERATION_TYPE: "http"})
            spans.set_request_attributes(theirs, state.common)
        elif starts_span:
            caller = read_caller(request.META, current, settings)
            context = with_request_state(state, caller.context)
            shared = (start_attributes(method), state.correlation)
            self.span = span = spans.start_request_span(method, state, context, shared)
            if caller.stranger is not None:
                spans.link_to(span, caller.stranger)
            self.context = context if span is INVALID_SPAN else spans.with_span(span, context)
            if span.__class__ is UnsampledSpan:
                self.unsampled = context, time_ns()
        else:
            self.context = with_request_state(state, current)
        state.span = self.span
        if settings.response_headers and "server-timing" in settings.response_headers and self.span.is_recording():
            spans.collect(state)
        log_records.remember_request(self.span, request)
        self.token = spans.attach(self.context)

    def respond(self, response: HttpResponseBase) -> HttpResponseBase:
        """Complete the request when its response is there. The span of a streamed response ends with its body."""
        try:
            spans.detach(self.token)
            state = self.state
            response = own_response(response)
            set_correlation_id(response, state.correlation_id)
            if self.settings.response_headers:
                set_trace_headers(response, self.settings.response_headers, self.span, state)
            # Nothing shows the spans that end from here on, and a stream may go on for hours.
            state.collected = None
            if self.unsampled is not None and response.status_code >= 500:
                self._record_failed(self.unsampled)
            if self.span.is_recording():
                self._describe(response)
            if self.span is not INVALID_SPAN:
                # The server closes the response when it is done with it, also if it did not take the whole body.
                closers: list[Any] | None = getattr(response, "_resource_closers", None)
                if closers is not None:
                    self.close_with(closers)
                if self.owned and response.streaming:
                    # Also if it is not recorded: the spans of its body would be new traces.
                    self._follow(cast(StreamingHttpResponse, response))
                    return response
        except Exception:
            spans.log_once("respond", "A request's span could not be completed.")
        self.end()
        return response

    def fail(self, error: BaseException) -> None:
        """Complete the request when an exception leaves Django: the server stops, or the client has gone."""
        try:
            spans.detach(self.token)
            disconnected = isinstance(error, (CancelledError, GeneratorExit))
            if self.unsampled is not None and not disconnected:
                self._record_failed(self.unsampled)
            if self.span.is_recording():
                if disconnected:
                    spans.set_attributes(self.span, {names.HTTP_CLIENT_DISCONNECTED: True})
                else:
                    spans.record_error(self.span, error)
                set_result(self.span, self.state, self.method, self.settings, None, owned=self.owned)
        except Exception:
            spans.log_once("fail", "A request's span could not be completed.")
        self.end()

    def end(self) -> None:
        if not self.ended:
            self.ended = True
            state = self.state
            state.span = state.collected = self.unsampled = None
            if self.owned:
                spans.end_span(self.span)
            state.end()

    def _record_failed(self, unsampled: tuple[Context, int]) -> None:
        """Give a failed request a span if its caller did not sample it, but this site's sampling keeps errors."""
        context, started = unsampled
        shared = (start_attributes(self.method), self.state.correlation)
        span = spans.start_failed_request_span(self.method, self.state, context, shared, started)
        if span.is_recording():
            self.span = self.state.span = span

    def _describe(self, response: HttpResponseBase) -> None:
        status = response.status_code
        state = self.state
        span = self.span
        # The user may have logged in during the request: the user who is known now counts.
        identify(state, self.settings, again=True)
        set_result(span, state, self.method, self.settings, response, owned=self.owned)
        error = state.exception
        if status >= 500:
            if error is not None:
                spans.record_error(span, error)
            elif self.owned:
                span.set_status(StatusCode.ERROR, f"HTTP {status}")
                spans.set_attributes(span, {names.ERROR_TYPE: str(status)})
        elif status == 400:
            self._record_refused_host()

    def _record_refused_host(self) -> None:
        """Record a refused Host header, which Django answers with a plain 400."""
        try:
            self.request.get_host()
        except DisallowedHost as error:
            spans.record_error(self.span, error, status=False)
            spans.set_attributes(self.span, {names.ERROR_TYPE: _REFUSED_HOST})

    # ----- streams

    def _follow(self, response: StreamingHttpResponse) -> None:
        """Keep the span open and current until the body ends or the client disconnects. Nothing is buffered."""
        # The setter of streaming_content would add closers, and prevent FileResponse from using sendfile.
        body: Any = response
        body._iterator = (AsyncBody if body.is_async else Body)(self, body._iterator, body._resource_closers)

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


class TracingMiddleware:
    """Trace each request: a SERVER span that is current while the request is handled."""

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
        traced, token = _trace(request)
        if traced is None:
            try:
                return clear_headers(cast(HttpResponse, self.get_response(request)))
            finally:
                spans.detach(token)
        try:
            response = self.get_response(request)
        except BaseException as error:
            traced.fail(error)
            raise
        return traced.respond(response)

    async def _call_async(self, request: HttpRequest) -> HttpResponseBase:
        traced, token = _trace(request)
        if traced is None:
            try:
                return clear_headers(cast(HttpResponse, await self.get_response(request)))
            finally:
                spans.detach(token)
        try:
            response = await self.get_response(request)
        except BaseException as error:
            traced.fail(error)
            raise
        return traced.respond(response)


def _trace(request: HttpRequest) -> tuple[_TracedRequest | None, Token[Context] | None]:
    """Start to trace a request. If it is not traced, return None and the token of a context in which nothing is."""
    try:
        settings = get_settings()
        if not settings.enabled:
            return None, None
        if is_left_out(request, settings):
            return None, spans.attach(untraced_context())
        return _TracedRequest(request, settings, "request" in settings.instrumentations), None
    except Exception:
        spans.log_once("trace", "A request could not be traced; it goes on without a span.")
        return None, None
