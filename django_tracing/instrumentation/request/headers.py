"""Set the response headers that lead from a response to its trace, and remove those of an earlier request.

``X-Correlation-ID`` is on every response. ``TRACING["RESPONSE_HEADERS"]`` adds ``traceresponse`` and
``Server-Timing``. A view may return the same response object for several requests: each response remembers what was
set on it, which is removed before another request's headers are set.
"""

from __future__ import annotations

from collections.abc import Collection
from time import time_ns
from typing import Any, Final, TypeVar

from django.http.response import HttpResponseBase
from opentelemetry.trace import Span, SpanContext

from django_tracing import spans
from django_tracing.context.request import HEADER, RequestState
from django_tracing.instrumentation.request.server_timing import server_timing

__all__ = ["SERVER_TIMING", "TRACERESPONSE", "clear_headers", "set_correlation_id", "set_trace_headers"]

SERVER_TIMING: Final = "Server-Timing"
TRACERESPONSE: Final = "traceresponse"

_HEADER_KEY: Final = HEADER.lower()
#: The attribute of a response that holds the headers that this app set on it.
_SET_HEADERS: Final = "_django_tracing_headers"
#: In these, the value of Server-Timing that the view set itself.
_BEFORE: Final = "before"

R = TypeVar("R", bound=HttpResponseBase)


def clear_headers(response: R) -> R:
    """Remove what was set on ``response`` for an earlier request, because this one is not traced. Never raises."""
    try:
        _remove_headers(response)
    except Exception:
        spans.log_once("clear-headers", "The headers of an earlier request could not be removed from a response.")
    return response


def _remove_headers(response: HttpResponseBase) -> None:
    former: dict[str, str] | None = response.__dict__.pop(_SET_HEADERS, None)
    if not former:
        return
    headers = response.headers
    for name in (HEADER, TRACERESPONSE, SERVER_TIMING):
        if name in former and headers.get(name) == former[name]:
            del headers[name]
            if name == SERVER_TIMING and former[_BEFORE]:
                headers[name] = former[_BEFORE]


def set_correlation_id(response: HttpResponseBase, correlation_id: str) -> None:
    """Set ``X-Correlation-ID``, unless the view has set it. May raise."""
    _remove_headers(response)
    headers = response.headers
    ours: dict[str, str] = {}
    response.__dict__[_SET_HEADERS] = ours
    store = getattr(headers, "_store", None)
    if store.__class__ is dict:
        # Django's own way checks and converts the value, which has been checked.
        if _HEADER_KEY not in store:
            store[_HEADER_KEY] = (HEADER, correlation_id)
            ours[HEADER] = correlation_id
    elif HEADER not in headers:
        headers[HEADER] = ours[HEADER] = correlation_id


def set_trace_headers(response: HttpResponseBase, wanted: Collection[str], span: Span, state: RequestState) -> None:
    """Set those of ``traceresponse`` and ``server-timing`` that are in ``wanted``. Never raises.

    To be called after :func:`set_correlation_id`.
    """
    try:
        headers = response.headers
        ours = response.__dict__[_SET_HEADERS]
        context = span.get_span_context()
        if "traceresponse" in wanted and context.is_valid and TRACERESPONSE not in headers:
            headers[TRACERESPONSE] = ours[TRACERESPONSE] = _traceresponse(context)
        collected = state.collected
        if collected is not None and "server-timing" in wanted:
            recorded: Any = span
            timing = server_timing(tuple(collected), time_ns() - recorded.start_time)
            before = headers.get(SERVER_TIMING)
            headers[SERVER_TIMING] = ours[SERVER_TIMING] = f"{before}, {timing}" if before else timing
            ours[_BEFORE] = before or ""
    except Exception:
        spans.log_once("response-headers", "The headers that name a trace could not be set on a response.")


def _traceresponse(context: SpanContext) -> str:
    """Return the value of a ``traceresponse`` header.

    Convention: https://w3c.github.io/trace-context/#traceresponse-header, a draft.
    """
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
