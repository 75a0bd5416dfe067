"""Pass the trace and its baggage to threads, consumers and other services, and continue a trace of theirs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable, Mapping
from contextvars import Token
from typing import Any, Final, TypeVar

from opentelemetry import baggage
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter

from django_tracing import spans
from django_tracing.context.extraction import extract, inject
from django_tracing.context.request import RequestState, get_request_state, incoming_id, with_request_state
from django_tracing.recording.span import SPAN_KEY

__all__ = ["bind_trace_context", "get_baggage", "get_trace_context", "set_baggage", "use_trace_context"]

_F = TypeVar("_F")


def get_trace_context() -> dict[str, str]:
    """Return the headers by which another service, or a consumer, continues this trace.

    All configured propagators write to them, including baggage and the correlation id. Empty if there is no trace.
    """
    carrier: dict[str, str] = {}
    try:
        inject(carrier)
    except Exception:
        spans.log_once("inject", "The headers of a trace could not be created.")
    return carrier


class _HeadersGetter(Getter[Mapping[str, str]]):
    """Read headers whose names are in lower case."""

    def get(self, carrier: Mapping[str, str], key: str) -> list[str] | None:
        value = carrier.get(key.lower())
        return None if value is None else [value]

    def keys(self, carrier: Mapping[str, str]) -> list[str]:
        return list(carrier)


_getter: Final = _HeadersGetter()


class use_trace_context:
    """Continue the trace of ``headers`` in a block. For consumers of queues and streams.

    ``headers`` is a mapping or a list of pairs, as Kafka's clients provide them. Names are case-insensitive, values
    are text or bytes. Spans that start in the block have the caller's span as parent, and its correlation id (a new
    one if the headers have none).
    """

    __slots__ = ("_headers", "_token")

    def __init__(self, headers: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> None:
        self._headers = headers
        self._token: Token[Context] | None = None

    def __enter__(self) -> None:
        try:
            headers = _read_headers(self._headers)
            context = extract(headers, spans.current_context(), _getter)
            found = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers.items()}
            self._token = spans.attach(with_request_state(RequestState(incoming_id(found)), context))
        except Exception:
            spans.log_once("extract", "The headers of a trace could not be read; a new trace is started.")

    def __exit__(self, *exc_info: object) -> None:
        token, self._token = self._token, None
        spans.detach(token)

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(self, *exc_info: object) -> None:
        self.__exit__()


def _read_headers(headers: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> dict[str, str]:
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    read: dict[str, str] = {}
    for name, value in pairs:
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        if isinstance(value, str):
            read[str(name).lower()] = value
    return read


def set_baggage(key: str, value: str) -> None:
    """Pass ``value`` to all services called from now on, until the request or block ends.

    It is sent as text in a header of every call, so keep it short and free of secrets. It is not set on spans.
    Outside a request or block, or if tracing is off, it does nothing: the thread's next request would inherit it.
    """
    try:
        if get_request_state() is None and SPAN_KEY not in spans.current_context():
            return
        spans.attach(baggage.set_baggage(key, str(value)))
    except Exception:
        spans.log_once("baggage", "Baggage could not be set.")


def get_baggage(key: str) -> str | None:
    """Return what this process or a caller set by :func:`set_baggage`; None if it is not set."""
    value = baggage.get_baggage(key)
    return None if value is None else str(value)


def bind_trace_context(func: _F) -> _F:
    """Return ``func`` bound to the current trace, wherever it is called: in a thread, in an executor, later.

    asyncio's tasks, ``asyncio.to_thread`` and asgiref's ``sync_to_async`` copy the context. Threads
    (``threading.Thread``, ``ThreadPoolExecutor``, ``loop.run_in_executor``) do not.
    """
    context = spans.current_context()
    function: Any = func
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def bound_async(*args: Any, **kwargs: Any) -> Any:
            token = spans.attach(context)
            try:
                return await function(*args, **kwargs)
            finally:
                spans.detach(token)

        return bound_async  # type: ignore[return-value]

    @functools.wraps(function)
    def bound(*args: Any, **kwargs: Any) -> Any:
        token = spans.attach(context)
        try:
            return function(*args, **kwargs)
        finally:
            spans.detach(token)

    return bound  # type: ignore[return-value]
