"""Hold the state of a traced request: its correlation id, its user, and the attributes that all its spans share.

A :class:`RequestState` is part of the OpenTelemetry context, so it goes wherever the current span goes: into threads,
tasks and callbacks that carry the context.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from random import getrandbits
from time import time_ns
from typing import Any, Final

from opentelemetry import baggage
from opentelemetry import context as context_api
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind

from django_tracing.recording.shared import SharedAttributes
from django_tracing.recording.span import SPAN_KEY, RecordingSpan
from django_tracing.semconv.names import CORRELATION_ID, Attributes

__all__ = [
    "HEADER",
    "RequestState",
    "get_correlation_id",
    "get_request_state",
    "incoming_id",
    "well_formed",
    "with_request_state",
    "without_trace",
]

#: The header that carries a correlation id: to us, back to the client and on to called services.
HEADER: Final = "X-Correlation-ID"
_SOURCES: Final = ("HTTP_X_CORRELATION_ID", "HTTP_X_REQUEST_ID")
_WELL_FORMED: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_STATE_KEY: Final = context_api.create_key("django_tracing.request")

#: How long a trace goes on after its request has ended, in nanoseconds, and how many spans may start below ended ones
#: in that time. A thread that lives as long as the process carries the context of the request that started it.
LATE_NS: Final = 3600 * 1_000_000_000
MOST_LATE: Final = 1000


class RequestState:
    """The state of one request (or command, or task) that is being traced.

    Every span that starts in it gets the attributes in ``shared``. More are added when the user becomes known.
    """

    __slots__ = (
        *("collected", "correlation", "correlation_id", "ended_ns", "exception", "late", "named", "recorded"),
        *("request", "shared", "span", "user", "user_attributes", "user_known", "when_user_known"),
    )

    def __init__(self, correlation_id: str, request: Any = None) -> None:
        self.correlation_id = correlation_id
        self.correlation = SharedAttributes({CORRELATION_ID: correlation_id})
        self.shared: tuple[SharedAttributes, ...] = (self.correlation,)
        self.request = request
        #: The span of the whole request, until it ends (then None, or they would keep each other alive).
        self.span: Any = None
        #: Whether one of its spans was sent with its name, before its own span.
        self.named = False
        #: The user, once it is known, and the attributes that it gives to spans.
        self.user: Any = None
        self.user_attributes: SharedAttributes | None = None
        self.user_known = False
        #: Called when the user becomes known, or another user does: a trace may be undecided until then.
        self.when_user_known: Callable[[], None] | None = None
        #: The exception that became a 5xx response, until the request's span has recorded it.
        self.exception: BaseException | None = None
        #: By the marks of exceptions that were recorded lately (``spans.errors``): the id of their span, and when.
        self.recorded: dict[Any, tuple[int, int]] | None = None
        #: The spans that ended in it, if ``spans.collect`` was called for it, until the response is complete.
        self.collected: list[Any] | None = None
        #: When it ended, in nanoseconds since the epoch; None while it runs.
        self.ended_ns: int | None = None
        #: How many spans have started below ended ones since.
        self.late = 0

    def end(self) -> None:
        """End it. Threads and tasks may carry it on, so let go of everything that is large."""
        self.ended_ns = time_ns()
        # The exception refers to its frames, which refer to the request.
        self.exception = self.collected = self.span = None
        self.request = self.user = self.when_user_known = None

    def is_over(self) -> bool:
        """Return whether what still runs in it is no part of its trace any more."""
        ended = self.ended_ns
        return ended is not None and (self.late >= MOST_LATE or time_ns() - ended >= LATE_NS)

    @property
    def common(self) -> Attributes:
        """The attributes that every span gets."""
        return {key: value for part in self.shared for key, value in part.attributes.items()}

    def running_name(self) -> str:
        """Return the name that the request's span would get if it ended now; empty if it has ended."""
        span, request = self.span, self.request
        if span is None:
            return ""
        if request is None or getattr(span, "kind", None) is not SpanKind.SERVER:
            # A message of a WebSocket has the request of its handshake.
            return str(getattr(span, "name", ""))
        # Here: without Django, this module is usable.
        from django_tracing.context.description import span_name

        return span_name(request)

    def set_user(self, attributes: SharedAttributes) -> None:
        """Give the user's ``attributes`` to every span from now on."""
        self.user_attributes = attributes
        self.shared = (self.correlation, attributes)
        if self.when_user_known is not None:
            self.when_user_known()


def well_formed(value: str) -> bool:
    """Return whether ``value`` may be a correlation id."""
    return _WELL_FORMED.fullmatch(value) is not None


def incoming_id(meta: Mapping[str, Any]) -> str:
    """Return the request's correlation id: ``X-Correlation-ID`` or ``X-Request-ID`` if well-formed, else a new one.

    ``meta`` is ``request.META``. Well-formed is 1 to 128 characters of ``[A-Za-z0-9._:-]``.
    """
    for name in _SOURCES:
        value = meta.get(name)
        if value and well_formed(value):
            return str(value)
    # As random as a uuid4 in hexadecimal, at a third of its cost. Python seeds the generator again in a forked child.
    return f"{getrandbits(128):032x}"


def with_request_state(state: RequestState, context: Context | None = None) -> Context:
    """Return ``context`` (default: the current one) with ``state`` in it."""
    return Context({**(context_api.get_current() if context is None else context), _STATE_KEY: state})


def without_trace(context: Context) -> Context:
    """Return ``context`` without its current span, without a request's state and without baggage."""
    return baggage.clear(Context({key: value for key, value in context.items() if key not in (SPAN_KEY, _STATE_KEY)}))


def get_request_state(context: Context | None = None) -> RequestState | None:
    """Return the state in ``context`` (default: the current one), or None outside a traced request."""
    state = (context_api.get_current() if context is None else context).get(_STATE_KEY)
    return state if state.__class__ is RequestState else None


def get_correlation_id() -> str | None:
    """Return the current request's correlation id, or None outside a traced request."""
    state = get_request_state()
    if state is None:
        return None
    if state.is_over():
        span = context_api.get_current().get(SPAN_KEY)
        if span.__class__ is not RecordingSpan or span.end_ns is not None:
            return None
    return state.correlation_id
