"""Trace your own library: the public names for instrumentations in other packages.

See docs/instrumentations/your_library.md. An instrumentation is a module, or an object, with ``is_available()``,
``install()`` and ``uninstall()``, named by an entry point of the group ``django_tracing_instrumentation``.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import Token
from types import TracebackType
from typing import Any

from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind

from django_tracing import spans
from django_tracing.faults import log_once
from django_tracing.instrumentation.imports import when_imported
from django_tracing.instrumentation.patching import Patches
from django_tracing.redaction import key_pattern, redact_text
from django_tracing.spans import runtime

__all__ = ["Patches", "child_span", "key_pattern", "log_once", "recording", "redact_text", "when_imported"]

recording = spans.recording


class child_span:  # noqa: N801 - it is used as a function
    """A span below the current one: ``with child_span("acme.send", {"acme.queue": queue}) as span``.

    Outside a recorded trace it does nothing. An exception that leaves the block is recorded and raised on. Names and
    attributes are sanitized, as all that users set (see docs/redaction.md). ``span`` is an OpenTelemetry span.
    ``suppress_upstream`` keeps OpenTelemetry's instrumentations, those of HTTP clients for example, from making spans
    inside the block.
    """

    __slots__ = ("_attributes", "_kind", "_name", "_suppress_upstream", "_token", "span")

    def __init__(
        self,
        name: str,
        attributes: Mapping[str, Any] | None = None,
        *,
        kind: SpanKind = SpanKind.CLIENT,
        suppress_upstream: bool = False,
    ) -> None:
        self._name = name
        self._attributes = attributes
        self._kind = kind
        self._suppress_upstream = suppress_upstream
        self._token: Token[Context] | None = None
        self.span: Span = INVALID_SPAN

    def __enter__(self) -> Span:
        parent = spans.recording_span()
        if parent is not None:
            try:
                sanitizer = runtime.current.sanitizer
                attributes = sanitizer.attributes(self._attributes) if self._attributes else None
                self.span = spans.start_child(parent, sanitizer.name(self._name), self._kind, (), attributes)
                if self.span is not INVALID_SPAN:
                    context = spans.with_span(self.span)
                    self._token = spans.attach(spans.suppressed(context) if self._suppress_upstream else context)
            except Exception:
                log_once("instrumenting", "A span of another package's instrumentation could not be started.")
        return self.span

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.span is INVALID_SPAN:
            return
        spans.detach(self._token)
        if error is not None:
            spans.record_error(self.span, error)
        spans.end_span(self.span)
