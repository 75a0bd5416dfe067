"""Run code without tracing it: callables from the settings, and the pages that show traces."""

from __future__ import annotations

import contextvars
from contextvars import Token
from threading import Thread
from types import TracebackType
from typing import Any, Final

from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import NonRecordingSpan, SpanContext

__all__ = ["SUPPRESS", "SUPPRESSED", "Untraced", "start_without_context", "untraced_context"]

#: The context key that makes OpenTelemetry's instrumentations make no spans.
SUPPRESS: Final = "suppress_instrumentation"
#: Both keys that instrumentations of OpenTelemetry look up before they make a span: the name, and what the API's
#: ``create_key()`` made of it, which is found by its beginning because its variable is private.
SUPPRESSED: Final[dict[str, object]] = {
    SUPPRESS: True,
    **{key: True for key in vars(context_api).values() if key.__class__ is str and key.startswith(f"{SUPPRESS}-")},
}

_ids: Final = RandomIdGenerator()


def untraced_context(context: Context | None = None) -> Context:
    """Return ``context`` (default: the current one) in which neither this app nor OpenTelemetry's make spans."""
    parent = SpanContext(_ids.generate_trace_id(), _ids.generate_span_id(), is_remote=False)
    return Context({**trace.set_span_in_context(NonRecordingSpan(parent), context), **SUPPRESSED})


class Untraced:
    """A context manager in whose block no spans are made: ``with Untraced(): ...``."""

    __slots__ = ("_token",)

    def __enter__(self) -> None:
        self._token: Token[Any] = context_api.attach(untraced_context())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        context_api.detach(self._token)


def start_without_context(thread: Thread) -> None:
    """Start a thread of this app, which belongs to no request.

    Other tracers (Sentry), and free-threaded Python, give a thread the context in which it is started: what it does
    would be part of that request's trace.
    """
    contextvars.Context().run(thread.start)
