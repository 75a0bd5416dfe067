"""Trace a message that a consumer handles: from the client, or from a channel layer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from contextvars import Token
from time import time_ns
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.propagators.textmap import default_getter
from opentelemetry.trace import INVALID_SPAN, SpanContext, SpanKind

from django_tracing import spans
from django_tracing.conf.loading import get_settings
from django_tracing.context.extraction import extract
from django_tracing.context.request import HEADER, RequestState, incoming_id, with_request_state, without_trace
from django_tracing.context.user import identify
from django_tracing.instrumentation.channels.connections import Connection, class_path, is_stop
from django_tracing.instrumentation.request.describe import describe
from django_tracing.semconv import names
from django_tracing.semconv.names import Attributes

__all__ = ["CARRIER", "CarriedMessage", "Handling", "carrier_of", "shown_type", "start_handling"]

#: The key of a channel layer's message that carries the context.
CARRIER: Final = "_django_tracing"
#: What a client does, by the type of its message.
_EVENTS: Final = {"websocket.receive": "receive", "websocket.disconnect": "disconnect"}
#: The types of the messages that are handled within the span of a connection.
_OPENING: Final = frozenset({"websocket.connect", "http.request", "http.disconnect"})
_TYPE: Final = re.compile(r"[A-Za-z0-9_.-]{1,80}")
#: How many messages of one sending a process handles in its trace. A group may have more members than can be shown.
_MOST_CONTINUED: Final = 100
_MOST_SENDINGS: Final = 1000
#: How many messages of a sending have been handled, by the id of its span.
_continued: Final[dict[int, int]] = {}


class CarriedMessage(dict[str, Any]):
    """A message of a channel layer as it was sent, and beside it the context of its sender."""

    __slots__ = ("carrier",)

    def __init__(self, message: Mapping[str, Any]) -> None:
        super().__init__({key: value for key, value in message.items() if key != CARRIER})
        #: Headers, from another process.
        self.carrier: Any = message[CARRIER]

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return dict, (dict(self),)


def shown_type(message: Any) -> str:
    """Return the type of a message where it is a name, else an empty string."""
    kind = message.get("type")
    return kind if isinstance(kind, str) and _TYPE.fullmatch(kind) else ""


def carrier_of(message: Any) -> Mapping[str, str] | None:
    """Return the headers that came with a message; None without."""
    carrier = message.carrier if message.__class__ is CarriedMessage else None
    if not isinstance(carrier, dict):
        return None
    return {str(key): value for key, value in carrier.items() if isinstance(value, str)}


class Handling:
    """The handling of one message. No method raises."""

    __slots__ = ("_connection", "_consumer", "_sent", "_started", "_token")

    def __init__(self, connection: Connection | None, consumer: Any) -> None:
        self._connection = connection
        self._consumer = consumer
        self._started: spans.StartedSpan | None = None
        self._token: Token[Context] | None = None
        self._sent = 0 if connection is None else connection.sent

    def start(self, message: Any) -> None:
        """Start the span of ``message``, and make it current. May raise."""
        connection = self._connection
        kind = message.get("type")
        if connection is None:
            self._started = self._start_event(message, None)
        elif kind in _OPENING:
            self._token = spans.attach(connection.context)
            return
        else:
            connection.use_user(self._consumer.scope)
            event = _EVENTS.get(kind)
            if event == "receive":
                connection.received += 1
            self._started = (
                self._start_event(message, connection)
                if event is None
                else self._start_own(f"WS {event}", "websocket", connection.state.correlation_id, connection)
            )
            if self._started is not None and self._started.span.is_recording():
                self._link(self._started.span, connection.link)
        started = self._started
        if started is None:
            return
        if started.span.is_recording():
            self._describe(started.span, message)
        self._token = spans.attach(started.context)

    def _start_own(
        self, name: str, operation: str, correlation_id: str, connection: Connection
    ) -> spans.StartedSpan | None:
        """Start a trace of a connection."""
        state = RequestState(correlation_id, connection.request)
        context = with_request_state(state, connection.base)
        span = spans.start_span(name, {names.OPERATION_TYPE: operation}, SpanKind.CONSUMER, context)
        if span is INVALID_SPAN:
            return None
        state.span = span
        return spans.StartedSpan(span, spans.with_span(span, context), state)

    def _start_event(self, message: Any, connection: Connection | None) -> spans.StartedSpan | None:
        """Start the span of a message from a channel layer, in the trace of its sender or in another one."""
        name = f"channel.receive.{shown_type(message)}".rstrip(".")
        base = without_trace(spans.current_context()) if connection is None else connection.base
        carrier = carrier_of(message)
        known = None if carrier is None else carrier.get(HEADER)
        if known is None and connection is not None:
            known = connection.state.correlation_id
        known = incoming_id({"HTTP_X_CORRELATION_ID": known})
        context = base if carrier is None else extract(carrier, base, default_getter)
        sender = spans.span_context(context)
        continues = sender.is_valid and get_settings().tasks == "trace" and _may_continue(sender)
        if connection is not None and not continues:
            started = self._start_own(name, "channel", known, connection)
        else:
            # Its sender has decided whether the trace is kept, whoever is connected here.
            started = spans.start_operation(
                name,
                {names.OPERATION_TYPE: "channel"},
                SpanKind.CONSUMER,
                context=context if continues else base,
                correlation_id=known,
            )
            if started is not None and started.state is not None and connection is not None:
                started.state.request = connection.request
        if started is not None and not continues and started.span.is_recording():
            self._link(started.span, sender)
        return started

    @staticmethod
    def _link(span: Any, context: SpanContext | None) -> None:
        if context is not None and context.is_valid and context.trace_flags.sampled:
            span.add_link(context)

    def _describe(self, span: Any, message: Any) -> None:
        connection = self._connection
        event = "" if connection is None else _EVENTS.get(message.get("type"), "")
        attributes: Attributes = {names.CHANNELS_CONSUMER: class_path(self._consumer)}
        if event:
            attributes[names.WEBSOCKET_EVENT] = event
        else:
            attributes[names.CHANNEL_TYPE] = shown_type(message)
        if connection is None:
            spans.set_attributes(span, attributes)
            return
        name, (result, _, url) = describe(connection.request, connection.method, connection.settings, None)
        spans.set_shared(span, (result, url))
        if event:
            spans.set_name(span, f"WS {event}{name.removeprefix(connection.method)}")
        if event == "receive":
            text = message.get("text")
            content = message.get("bytes") if text is None else text
            attributes[names.WEBSOCKET_MESSAGE_TYPE] = "binary" if text is None else "text"
            attributes[names.WEBSOCKET_MESSAGE_LENGTH] = (
                len(content) if isinstance(content, (str, bytes, bytearray)) else 0
            )
        elif event == "disconnect":
            code = message.get("code")
            if isinstance(code, int):
                attributes[names.WEBSOCKET_CLOSE_CODE] = code
            attributes[names.WEBSOCKET_TOTAL_RECEIVED] = connection.received
            attributes[names.WEBSOCKET_TOTAL_SENT] = connection.sent
            attributes[names.WEBSOCKET_TOTAL_SECONDS] = round((time_ns() - connection.opened_ns) / 1e9, 3)
        spans.set_attributes(span, attributes)

    def end(self, error: BaseException | None) -> None:
        """End the span, and record ``error`` unless it is none."""
        spans.detach(self._token)
        connection, started = self._connection, self._started
        try:
            if started is None:
                if connection is not None and self._token is not None:
                    connection.use_user(self._consumer.scope)
                    self._end_opening(connection, error)
                return
            gone = connection is not None and connection.is_gone(error)
            if started.span.is_recording():
                self._complete(started, gone)
            started.end(None if gone or is_stop(error) else error)
        except Exception:
            spans.log_once("channels-handled", "The span of a message could not be completed.")
        finally:
            if connection is not None:
                # It refers to its frames.
                connection.gone = None

    @staticmethod
    def _end_opening(connection: Connection, error: BaseException | None) -> None:
        # The response to an HTTP request may be sent later.
        if connection.method == "WS" or (error is not None and not is_stop(error)):
            connection.end(error)

    def _complete(self, started: spans.StartedSpan, gone: bool) -> None:
        connection, span, state = self._connection, started.span, started.state
        if connection is None or state is None:
            return
        connection.use_user(self._consumer.scope)
        identify(state, connection.settings, again=True)
        if state.user_attributes is not None:
            spans.set_shared(span, (state.user_attributes,))
        attributes: Attributes = {}
        if connection.sent > self._sent:
            attributes[names.WEBSOCKET_SENT] = connection.sent - self._sent
        if gone:
            attributes[names.HTTP_CLIENT_DISCONNECTED] = True
        if attributes:
            spans.set_attributes(span, attributes)


def start_handling(connection: Connection | None, consumer: Any, message: Any) -> Handling | None:
    """Start to trace a message. Return None if that fails. Never raises."""
    try:
        handling = Handling(connection, consumer)
        handling.start(message)
        return handling
    except Exception:
        spans.log_once("channels-message", "A message could not be traced; it is handled without a span.")
        return None


def _may_continue(caller: SpanContext) -> bool:
    """Return whether one more message of a sending is handled in its trace, and count it."""
    if not caller.trace_flags.sampled:
        # Nothing of it is kept, however many there are.
        return True
    count = _continued.get(caller.span_id, 0)
    if count >= _MOST_CONTINUED:
        return False
    # Another thread may remove one at the same time.
    with suppress(KeyError, StopIteration, RuntimeError):
        while len(_continued) >= _MOST_SENDINGS:
            del _continued[next(iter(_continued))]
    _continued[caller.span_id] = count + 1
    return True
