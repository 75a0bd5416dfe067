"""Log records that say which trace they belong to: ``trace_id``, ``span_id``, ``correlation_id`` and ``service``.

A log record factory puts them on every record, whoever logs and whatever formats it.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from typing import Any, Final

from opentelemetry.context import Context

from django_tracing import spans
from django_tracing.conf.values import Settings
from django_tracing.context.request import get_request_state
from django_tracing.recording.span import SPAN_KEY, RecordingSpan

__all__ = [
    "FIELDS",
    "NOTHING",
    "TraceContextFilter",
    "install",
    "remember_request",
    "structlog_processor",
    "uninstall",
]

FIELDS: Final = ("trace_id", "span_id", "correlation_id", "service")
#: What a field holds where there is no trace: a column stays a column.
NOTHING: Final = "-"

_OURS: Final = frozenset(FIELDS)
#: Methods of a logger in which a record is complete.
_HANDLING: Final = frozenset({"handle", "filter", "callHandlers"})
#: How far up the logger is looked for that makes a record.
_MOST_FRAMES: Final = 30
#: The logger of runserver's line for each request.
_SERVER: Final = "django.server"
#: Where Django logs a refused Host header, with an exception that is not the one that the middleware sees.
_BAD_HOST: Final = "django.security.DisallowedHost"

_service = NOTHING
_correlate = False
_log_errors = False
_factory: Callable[..., logging.LogRecord] | None = None
#: Under runserver, the trace of the request that this thread has just answered: its line comes when the span is over.
_answered = threading.local()
_serving = False


def install(settings: Settings) -> None:
    """Puts the record factory around the one that is there. Called again, it only takes the settings."""
    global _service, _correlate, _log_errors, _factory, _serving
    _service = settings.service_name
    _correlate = settings.log_correlation
    _log_errors = settings.log_errors
    _serving = _correlate and sys.argv[1:2] == ["runserver"]
    if _factory is None and (_correlate or _log_errors):
        _factory = _around(logging.getLogRecordFactory())
        logging.setLogRecordFactory(_factory)


def uninstall() -> None:
    """Puts the former factory back; under somebody else's, ours stays and does nothing."""
    global _correlate, _log_errors, _factory, _serving
    _correlate = _log_errors = _serving = False
    if _factory is not None and logging.getLogRecordFactory() is _factory:
        logging.setLogRecordFactory(_factory.__wrapped__)  # type: ignore[attr-defined]
        _factory = None


class _Fields(dict[str, Any]):
    """A record's ``__dict__`` that lets ``extra={"service": ...}`` have its way.

    A logger refuses an extra of a name that the record has already; who has logged one until now must not begin to
    fail because of ours. While a logger makes the record, the fields are not there; for those who handle it they are.
    """

    __slots__ = ()

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) and not (key in _OURS and _is_being_made())

    def __reduce__(self) -> tuple[Any, ...]:
        # A record goes to other processes, which may not have this app.
        return dict, (dict(self),)


def _is_being_made() -> bool:
    """Whether a logger asks that has not handled the record yet: in makeRecord, or in a function of its own."""
    frame = sys._getframe(2)
    for _ in range(_MOST_FRAMES):
        # Its type alone: a proxy of somebody's that is asked for its class finds out what it stands for, or raises.
        if issubclass(type(frame.f_locals.get("self")), logging.Logger):
            return frame.f_code.co_name not in _HANDLING
        if frame.f_back is None:
            break
        frame = frame.f_back
    return False


def _around(former: Callable[..., logging.LogRecord]) -> Callable[..., logging.LogRecord]:
    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = former(*args, **kwargs)
        if _correlate or _log_errors:
            # Not logged when it fails: that would come back here.
            with suppress(Exception):
                _complete(record)
        return record

    factory.__wrapped__ = former  # type: ignore[attr-defined]
    return factory


def _complete(record: logging.LogRecord) -> None:
    context = spans.current_context()
    span: Any = context.get(SPAN_KEY)
    if _correlate:
        trace_id, span_id, correlation_id = _ids(context, span)
        fields = _Fields(record.__dict__)
        # What the former factory has put there stays.
        fields.setdefault("trace_id", trace_id)
        fields.setdefault("span_id", span_id)
        fields.setdefault("correlation_id", correlation_id)
        fields.setdefault("service", _service)
        record.__dict__ = fields
        if _serving and record.name == _SERVER:
            _name_trace(record)
    if _log_errors and record.levelno >= logging.ERROR and record.exc_info and span is not None:
        error = record.exc_info[1]
        state = get_request_state(context)
        # What became a 500, and a refused Host header, are recorded by the request's span itself.
        told = record.name == _BAD_HOST or (state is not None and state.exception is error)
        if error is not None and not told and span.is_recording():
            spans.record_error(span, error, status=False)


def _ids(context: Context, span: Any) -> tuple[str, str, str]:
    state = get_request_state(context)
    correlation_id = NOTHING if state is None else state.correlation_id
    if span is None:
        return NOTHING, NOTHING, correlation_id
    if span.__class__ is RecordingSpan:
        return f"{span.trace_id:032x}", f"{span.span_id:016x}", correlation_id
    try:
        known = span.get_span_context()
        if known.is_valid:
            return f"{known.trace_id:032x}", f"{known.span_id:016x}", correlation_id
    except Exception:  # noqa: S110 - a span of somebody else's making; logging it would come back here
        pass
    return NOTHING, NOTHING, correlation_id


class TraceContextFilter(logging.Filter):
    """Gives the fields to records that have none of them, for a handler.

    Records come without them from another process (a queue), and from before Django was set up.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        fields = record.__dict__
        if any(fields.get(name) is None for name in FIELDS):
            context = spans.current_context()
            found = (*_ids(context, context.get(SPAN_KEY)), _service)
            for name, value in zip(FIELDS, found, strict=True):
                if fields.get(name) is None:
                    fields[name] = value
        return True


def structlog_processor(logger: Any, method_name: str, event_dict: MutableMapping[str, Any]) -> Any:
    """A processor for structlog: adds the fields that the event does not have; those of a trace only inside one."""
    context = spans.current_context()
    found = (*_ids(context, context.get(SPAN_KEY)), _service)
    for name, value in zip(FIELDS, found, strict=True):
        if value != NOTHING:
            event_dict.setdefault(name, value)
    return event_dict


# ----- runserver's own line


def remember_request(span: Any) -> None:
    """Under runserver: keeps the trace of the request that this thread works on, for the line about it."""
    if _serving:
        _answered.context = span.get_span_context() if span.is_recording() else None


def _name_trace(record: logging.LogRecord) -> None:
    answered = getattr(_answered, "context", None)
    _answered.context = None
    if answered is not None and isinstance(record.msg, str):
        trace_id = f"{answered.trace_id:032x}"
        record.__dict__.update(trace_id=trace_id, span_id=f"{answered.span_id:016x}")
        record.msg = f"{record.msg} trace={trace_id}"
