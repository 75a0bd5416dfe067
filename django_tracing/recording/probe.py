"""Find out at start what the installed SDK lets this app do."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final, NamedTuple

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanLimits
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.sdk.version import __version__ as sdk_version
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, set_span_in_context

from django_tracing.recording import sdk
from django_tracing.recording.copies import copy_span
from django_tracing.recording.factory import SpanFactory
from django_tracing.recording.shared import SharedAttributes
from django_tracing.recording.span import RecordingSpan
from django_tracing.redaction.attributes import AttributeSanitizer

__all__ = ["Abilities", "probe"]

_logger = logging.getLogger("django_tracing")


class Abilities(NamedTuple):
    """What works with the installed SDK."""

    #: Our own spans. Otherwise the SDK's are used, which cost more.
    own_spans: bool
    #: Redacting the spans of other tracers in place. Otherwise processors get redacted copies.
    redaction_in_place: bool
    #: Redacting a copy. Otherwise the spans of other tracers are dropped.
    redaction_of_copies: bool


#: Stands for what must not leave.
_SECRET: Final = "correct-horse-battery-staple"  # noqa: S105 - not a password
_KEPT: Final = "kept"
_SCOPE: Final = "django_tracing.probe"
#: Independent of the environment, which may limit spans to nothing.
_LIMITS: Final = SpanLimits(
    max_attributes=16,
    max_events=16,
    max_links=16,
    max_span_attributes=128,
    max_event_attributes=16,
    max_link_attributes=16,
    max_attribute_length=SpanLimits.UNSET,
    max_span_attribute_length=SpanLimits.UNSET,
)
_LINKED: Final = SpanContext(1, 2, is_remote=True)


@cache
def probe() -> Abilities:
    """Make spans with a separate provider and examine the result. Never raises."""
    ended = _Ended()
    provider = sdk.make_provider(
        sampler=ALWAYS_ON, resource=Resource({_KEPT: _KEPT}), span_limits=_LIMITS, shutdown_on_exit=False
    )
    provider.add_span_processor(ended)
    tracer = provider.get_tracer(_SCOPE, _KEPT)
    own_spans = _works(_own_span, tracer, ended)
    in_place = _works(_in_place, tracer, ended)
    # Copies are needed only where redaction in place does not work.
    abilities = Abilities(own_spans, in_place, in_place or _works(_copy, tracer, ended))
    if not own_spans:
        _logger.warning(
            "opentelemetry-sdk %s is not supported by this version of django-tracing-otel: requests are traced with "
            "the SDK's own spans, which cost more, and SAMPLE_RATE alone decides which traces are kept.",
            sdk_version,
        )
    if not abilities.redaction_of_copies:
        _logger.warning(
            "opentelemetry-sdk %s is not supported by this version of django-tracing-otel: the spans of other "
            'tracers cannot be redacted. They are dropped, and counted as "unredacted".',
            sdk_version,
        )
    return abilities


def _works(check: Callable[[Any, _Ended], bool], tracer: Any, ended: _Ended) -> bool:
    ended.reset()
    try:
        return check(tracer, ended)
    except Exception:
        # Any change: another name, another type, another number of arguments.
        _logger.debug("opentelemetry-sdk %s is not as expected.", sdk_version, exc_info=True)
        return False


class _Ended(sdk.EndingProcessor):
    """Keep what a provider's processors are given."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.change: Callable[[Any], None] | None = None
        self.started = 0
        self.ending = 0
        self.spans: list[ReadableSpan] = []

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self.started += 1

    def on_ending(self, span: Span) -> None:
        self.ending += 1
        if self.change is not None:
            self.change(span)

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


def _fill(span: Any, value: str) -> None:
    """Give a span one of each, with ``value`` where it may have to be changed, and a secret that is to be dropped."""
    attributes = {"changed": value, "dropped": _SECRET}
    span.set_attributes(attributes)
    span.add_event(value, attributes)
    span.add_link(_LINKED, attributes)
    span.set_status(StatusCode.ERROR, _SECRET)


def _leaks(span: ReadableSpan) -> bool:
    holders: tuple[Any, ...] = (span, *span.events, *span.links)
    content = [dict(holder.attributes or {}) for holder in holders]
    # As exporters read them: the public way, and ours.
    content += [dict(sdk.plain_attributes(holder)) for holder in holders]
    names = [span.name, *(event.name for event in span.events), span.status.description]
    return _SECRET in repr((names, content))


def _is_whole(span: ReadableSpan) -> bool:
    """Return True if everything that :func:`_fill` set is still there, redacted."""
    content = {"changed": _KEPT}
    scope = span.instrumentation_scope
    return (
        not _leaks(span)
        and span.name == _KEPT
        and dict(span.attributes or {}) == content
        and [(event.name, dict(event.attributes or {})) for event in span.events] == [(_KEPT, content)]
        and [(link.context, dict(link.attributes or {})) for link in span.links] == [(_LINKED, content)]
        and span.status.status_code is StatusCode.ERROR
        and None not in (span.start_time, span.end_time)
        and span.resource.attributes.get(_KEPT) == _KEPT
        and scope is not None
        and scope.name == _SCOPE
    )


# ----- our own spans


class _Sanitizer(AttributeSanitizer):
    """A sanitizer that drops the secret last, as the user's ``REDACT`` does. It compiles no regular expressions."""

    def __init__(self) -> None:
        self.redact = lambda key, value: value

    def attributes(self, attributes: Mapping[str, Any], *, rename: bool = True) -> dict[str, Any]:
        return dict(attributes)

    def name(self, name: str) -> str:
        return name

    def message(self, text: str | None) -> str | None:
        return text

    def last(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in attributes.items() if value != _SECRET}


def _own_span(tracer: Any, ended: _Ended) -> bool:
    factory = SpanFactory.of(tracer, lambda parent, trace_id: True, sanitizer=_Sanitizer())
    if factory is None:
        return False
    shared = (SharedAttributes({"changed": _KEPT}),)
    span = factory.start(_KEPT, Context(), SpanKind.SERVER, shared, None)
    child = factory.start(_SECRET, set_span_in_context(span, Context()), SpanKind.INTERNAL, (), None)
    child.update_name(_KEPT)
    for one in (child, span):
        _fill(one, _KEPT)
        one.end()
    return (
        (ended.started, ended.ending) == (2, 2)
        and [id(one) for one in ended.spans] == [id(child), id(span)]
        and all(isinstance(one, RecordingSpan) and _is_whole(one) for one in ended.spans)
        and ended.spans[0].parent == span.get_span_context()
        # Only code that reads the SDK's own attributes.
        and all(_SECRET not in one.to_json(indent=None) for one in ended.spans)
    )


# ----- the spans of other tracers


def _redact(span: Any) -> None:
    changes, dropped = {"changed": _KEPT}, ["dropped"]
    sdk.set_name(span, _KEPT)
    sdk.set_status(span, Status(StatusCode.ERROR))
    for part in (span, *sdk.events_of(span), *sdk.links_of(span)):
        if sdk.content_of(part):
            sdk.change_attributes(part, changes, dropped)
    for event in sdk.events_of(span):
        sdk.set_name(event, _KEPT)
    sdk.set_context(span, _LINKED)


def _clear(span: Any) -> None:
    sdk.clear(span, _KEPT)


def _is_clear(span: ReadableSpan) -> bool:
    return (span.name, dict(span.attributes or {}), *span.events, *span.links) == (_KEPT, {}) and not _leaks(span)


def _in_place(tracer: Any, ended: _Ended) -> bool:
    for ended.change in (_redact, _clear):
        span = tracer.start_span(_SECRET, Context())
        _fill(span, _SECRET)
        span.end()
    redacted, cleared = ended.spans
    return _is_whole(redacted) and redacted.get_span_context() == _LINKED and _is_clear(cleared)


def _copy(tracer: Any, ended: _Ended) -> bool:
    span = tracer.start_span(_SECRET, Context())
    _fill(span, _SECRET)
    span.end()
    (bare,) = ended.spans
    return _is_whole(copy_span(bare, {}, _redact)) and _is_clear(copy_span(bare, {}, _clear))
