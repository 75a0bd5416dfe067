"""Set ``trace_id``, ``span_id``, ``correlation_id`` and ``service`` on log records.

A log record factory sets them on every record, whichever logger makes it and whichever formatter shows it.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from typing import Any, Final

from django.http import HttpRequest
from opentelemetry.context import Context

from django_tracing import spans
from django_tracing.conf.values import Settings
from django_tracing.context.request import get_request_state
from django_tracing.context.trace_page import address_in_request
from django_tracing.instrumentation.patching import Patches
from django_tracing.recording.span import SPAN_KEY, RecordingSpan

__all__ = [
    "FIELDS",
    "NOTHING",
    "TraceContextFilter",
    "TracePageFilter",
    "install",
    "remember_request",
    "structlog_processor",
    "uninstall",
]

FIELDS: Final = ("trace_id", "span_id", "correlation_id", "service")
#: The value of a field where there is no trace: log formats with columns keep their columns.
NOTHING: Final = "-"

_OURS: Final = frozenset(FIELDS)
#: The methods of a logger in which a record is complete.
_HANDLING: Final = frozenset({"handle", "filter", "callHandlers"})
#: How many frames are searched for the logger that makes a record.
_MOST_FRAMES: Final = 30
#: The logger of runserver's line about each request.
_SERVER: Final = "django.server"
#: The logger of refused Host headers. Its exception is another object than the one that the middleware gets.
_BAD_HOST: Final = "django.security.DisallowedHost"

_patches: Final = Patches()
#: Under runserver: the trace of the request that this thread has just answered. Its log line comes afterwards.
_answered = threading.local()


class _Options:
    """The settings in force."""

    __slots__ = ("correlate", "log_errors", "runserver", "service", "settings")

    def __init__(self) -> None:
        self.service = NOTHING
        self.correlate = False
        self.log_errors = False
        self.settings: Settings | None = None
        #: Whether this is runserver, whose lines about requests get their trace.
        self.runserver = False


_options: Final = _Options()


class _RecordFactory:
    """Where logging keeps its record factory."""

    def get(self) -> Any:
        return logging.getLogRecordFactory()

    def set(self, value: Any) -> None:
        logging.setLogRecordFactory(value)


_place: Final = _RecordFactory()


def install(settings: Settings) -> None:
    """Wrap the log record factory, if the settings ask for it. Called again, it only takes the new settings."""
    _options.service = settings.service_name
    _options.correlate = settings.log_correlation
    _options.log_errors = settings.log_errors
    _options.settings = settings
    _options.runserver = settings.log_correlation and sys.argv[1:2] == ["runserver"]
    if settings.log_correlation or settings.log_errors:
        _patches.start()
        _patches.wrap_at(_place, _completing)


def uninstall() -> None:
    """Restore the former factory. Below another tool's factory ours stays and does nothing."""
    _options.correlate = _options.log_errors = _options.runserver = False
    _patches.stop()


class _Fields(dict[str, Any]):
    """A record's ``__dict__`` in which ``extra={"service": ...}`` replaces our field.

    A logger refuses an extra whose name the record has already, and code that logs such an extra must not start to
    fail because of this app. So our fields are hidden while a logger makes the record, and visible afterwards.
    """

    __slots__ = ()

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) and not (key in _OURS and _is_being_made())

    def __reduce__(self) -> tuple[Any, ...]:
        # Records are sent to other processes, which may not have this app.
        return dict, (dict(self),)


def _is_being_made() -> bool:
    """Return whether a logger that is making the record looks: in makeRecord, or in a method of its own."""
    frame = sys._getframe(2)
    for _ in range(_MOST_FRAMES):
        # By its type alone: reading the class of a lazy proxy may evaluate the proxy, or raise.
        if issubclass(type(frame.f_locals.get("self")), logging.Logger):
            return frame.f_code.co_name not in _HANDLING
        if frame.f_back is None:
            break
        frame = frame.f_back
    return False


def _completing(former: Callable[..., logging.LogRecord]) -> Callable[..., logging.LogRecord]:
    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = former(*args, **kwargs)
        if _options.correlate or _options.log_errors:
            # An error is not logged: logging it would call this function again.
            with suppress(Exception):
                _complete(record)
        return record

    factory.__wrapped__ = former  # type: ignore[attr-defined]
    return factory


def _complete(record: logging.LogRecord) -> None:
    context = spans.current_context()
    span: Any = context.get(SPAN_KEY)
    options = _options
    if options.correlate:
        trace_id, span_id, correlation_id = _ids(context, span)
        fields = _Fields(record.__dict__)
        # What the former factory has set stays.
        fields.setdefault("trace_id", trace_id)
        fields.setdefault("span_id", span_id)
        fields.setdefault("correlation_id", correlation_id)
        fields.setdefault("service", options.service)
        record.__dict__ = fields
        if options.runserver and record.name == _SERVER:
            _name_trace(record)
    if options.log_errors and record.levelno >= logging.ERROR and record.exc_info and span is not None:
        error = record.exc_info[1]
        state = get_request_state(context)
        # The request's span itself records exceptions that became a 500, and refused Host headers.
        recorded = record.name == _BAD_HOST or (state is not None and state.exception is error)
        if error is not None and not recorded and span.is_recording():
            spans.record_error(span, error, status=False)


def _ids(context: Context, span: Any) -> tuple[str, str, str]:
    state = get_request_state(context)
    if state is not None and state.ended_ns is not None and spans.outlived(context):
        return NOTHING, NOTHING, NOTHING
    correlation_id = NOTHING if state is None else state.correlation_id
    if span is None:
        return NOTHING, NOTHING, correlation_id
    if span.__class__ is RecordingSpan:
        return f"{span.trace_id:032x}", f"{span.span_id:016x}", correlation_id
    try:
        known = span.get_span_context()
        if known.is_valid:
            return f"{known.trace_id:032x}", f"{known.span_id:016x}", correlation_id
    except Exception:  # noqa: S110 - a span of another library; logging it would call this function again
        pass
    return NOTHING, NOTHING, correlation_id


class TraceContextFilter(logging.Filter):
    """Set the fields on records that lack them. Add it to a handler.

    Records from another process (by a queue), and from before Django was set up, have no such fields.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        fields = record.__dict__
        if any(fields.get(name) is None for name in FIELDS):
            context = spans.current_context()
            found = (*_ids(context, context.get(SPAN_KEY)), _options.service)
            for name, value in zip(FIELDS, found, strict=True):
                if fields.get(name) is None:
                    fields[name] = value
        return True


class TracePageFilter(logging.Filter):
    """Set ``trace_url`` on records: the address of the trace's page in the admin or in Jaeger's UI.

    Add it to a handler of mails. It is ``-`` outside a request, if the trace is not sampled, and if no page shows it
    or the site's host is unknown.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        address = ""
        with suppress(Exception):
            context = spans.current_context()
            span: Any = context.get(SPAN_KEY)
            state = get_request_state(context)
            settings = _options.settings
            if settings is not None and state is not None and span is not None and span.is_recording():
                address = address_in_request(settings, state.request, _ids(context, span)[0])
        record.__dict__["trace_url"] = address or NOTHING
        return True


def structlog_processor(logger: Any, method_name: str, event_dict: MutableMapping[str, Any]) -> Any:
    """Add the fields that a structlog event does not have. Those of a trace are added inside one only."""
    context = spans.current_context()
    found = (*_ids(context, context.get(SPAN_KEY)), _options.service)
    for name, value in zip(FIELDS, found, strict=True):
        if value != NOTHING:
            event_dict.setdefault(name, value)
    return event_dict


# ----- runserver's own line


def remember_request(span: Any, request: HttpRequest) -> None:
    """Under runserver: keep the trace of the request that this thread handles, for the log line about it."""
    if _options.runserver:
        _answered.request = (span.get_span_context(), request) if span.is_recording() else None


def _name_trace(record: logging.LogRecord) -> None:
    answered = getattr(_answered, "request", None)
    _answered.request = None
    if answered is not None and isinstance(record.msg, str):
        context, request = answered
        trace_id = f"{context.trace_id:032x}"
        record.__dict__.update(trace_id=trace_id, span_id=f"{context.span_id:016x}")
        settings = _options.settings
        link = "" if settings is None else address_in_request(settings, request, trace_id)
        # The message is a format: "%" of a path must not be one of its fields.
        record.msg = f"{record.msg} trace={(link or trace_id).replace('%', '%%')}"
