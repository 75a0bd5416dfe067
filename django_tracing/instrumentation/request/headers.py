"""Set the response headers that lead from a response to its trace, and remove those of an earlier request.

``X-Correlation-ID`` is on every response. ``TRACING["RESPONSE_HEADERS"]`` adds ``traceresponse`` and
``Server-Timing``. A view may return the same response object for several requests, also at the same time: the first
one gets the object, and each other one a copy, without what was set for the first one.
"""

from __future__ import annotations

from collections.abc import Collection
from copy import copy
from time import time_ns
from typing import Any, Final, TypeVar

from django.http.response import HttpResponseBase
from opentelemetry.trace import Span, SpanContext

from django_tracing import spans
from django_tracing.context.request import HEADER, RequestState
from django_tracing.instrumentation.request.server_timing import server_timing

__all__ = [
    "SERVER_TIMING",
    "TRACERESPONSE",
    "clear_headers",
    "own_response",
    "set_correlation_id",
    "set_trace_headers",
]

SERVER_TIMING: Final = "Server-Timing"
TRACERESPONSE: Final = "traceresponse"

_HEADER_KEY: Final = HEADER.lower()
#: The attribute of a response that holds the headers that this app set on it.
_SET_HEADERS: Final = "_django_tracing_headers"
#: In these, the value of Server-Timing that the view set itself.
_BEFORE: Final = "before"

R = TypeVar("R", bound=HttpResponseBase)


def clear_headers(response: R) -> R:
    """Return ``response`` without what was set for another request, because this one is not traced. Never raises."""
    try:
        return _copy(response) if _SET_HEADERS in response.__dict__ else response
    except Exception:
        spans.log_once("clear-headers", "The headers of an earlier request could not be removed from a response.")
    return response


def own_response(response: R) -> R:
    """Return ``response`` if no other request has had it, else a copy, on which this request's headers can be set.

    What is set on the object itself, a server may be sending to another client.
    """
    # One step: of two threads, one gets the object.
    ours: dict[str, str] = {}
    if response.__dict__.setdefault(_SET_HEADERS, ours) is ours:
        return response
    copied = _copy(response)
    copied.__dict__[_SET_HEADERS] = ours
    return copied


def _copy(response: R) -> R:
    """Return a copy with headers of its own, without those that were set here. What is to be closed is shared."""
    copied: R = object.__new__(type(response))
    copied.__dict__.update(response.__dict__)
    headers: Any = copy(response.headers)
    if hasattr(headers, "_store"):
        # Django's class, or one derived from it: its copy has the same dict.
        headers._store = copy(headers._store)
    copied.headers = headers
    former: dict[str, str] = copied.__dict__.pop(_SET_HEADERS)
    for name in (HEADER, TRACERESPONSE, SERVER_TIMING):
        if name in former and headers.get(name) == former[name]:
            del headers[name]
            if name == SERVER_TIMING and former[_BEFORE]:
                headers[name] = former[_BEFORE]
    return copied


def set_correlation_id(response: HttpResponseBase, correlation_id: str) -> None:
    """Set ``X-Correlation-ID`` on what :func:`own_response` returned, unless the view has set it. May raise."""
    headers = response.headers
    # Noted before it is set: whoever copies the response in between leaves it out.
    ours: dict[str, str] = response.__dict__[_SET_HEADERS]
    store = getattr(headers, "_store", None)
    if store.__class__ is dict:
        # Django's own way checks and converts the value, which has been checked.
        if _HEADER_KEY not in store:
            ours[HEADER] = correlation_id
            store[_HEADER_KEY] = (HEADER, correlation_id)
    elif HEADER not in headers:
        ours[HEADER] = headers[HEADER] = correlation_id


def set_trace_headers(response: HttpResponseBase, wanted: Collection[str], span: Span, state: RequestState) -> None:
    """Set those of ``traceresponse`` and ``server-timing`` that are in ``wanted``. Never raises.

    To be called after :func:`set_correlation_id`.
    """
    try:
        headers = response.headers
        ours = response.__dict__[_SET_HEADERS]
        context = span.get_span_context()
        if "traceresponse" in wanted and context.is_valid and TRACERESPONSE not in headers:
            ours[TRACERESPONSE] = headers[TRACERESPONSE] = _traceresponse(context)
        collected = state.collected
        if collected is not None and "server-timing" in wanted:
            recorded: Any = span
            timing = server_timing(tuple(collected), time_ns() - recorded.start_time)
            before = headers.get(SERVER_TIMING)
            ours[_BEFORE] = before or ""
            ours[SERVER_TIMING] = headers[SERVER_TIMING] = f"{before}, {timing}" if before else timing
    except Exception:
        spans.log_once("response-headers", "The headers that name a trace could not be set on a response.")


def _traceresponse(context: SpanContext) -> str:
    """Return the value of a ``traceresponse`` header.

    Convention: https://w3c.github.io/trace-context/#traceresponse-header, a draft.
    """
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
