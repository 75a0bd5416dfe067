"""Show one span."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext

from django_tracing.conf.loading import get_settings
from django_tracing.exceptions import ReadError
from django_tracing.pages.links import attribute_address, trace_address, value_text
from django_tracing.pages.mounts import Mount
from django_tracing.pages.responses import respond
from django_tracing.pages.rows import local_time
from django_tracing.pages.source import open_reader, respond_missing, respond_unreadable
from django_tracing.redaction import SensitiveKeys, redact_resource
from django_tracing.traces.analysis.waterfall import location_of
from django_tracing.traces.durations import duration_text
from django_tracing.traces.model import Span
from django_tracing.traces.readers.choosing import read_span
from django_tracing.traces.times import to_datetime

__all__ = ["page"]


#: Longer values are not linked to a search.
_LONGEST_LINKED: Final = 500


def _attributes(found: Mapping[str, Any], *, linked: bool = False) -> list[dict[str, str]]:
    shown = [(key, value_text(value)) for key, value in sorted(found.items())]
    return [
        {
            "key": key,
            "value": text,
            "url": attribute_address(key, text) if linked and len(text) < _LONGEST_LINKED else "",
        }
        for key, text in shown
    ]


def _detail(span: Span, trace_start: int) -> dict[str, Any]:
    events = []
    for event in span.events:
        stack = event.attributes.get("exception.stacktrace")
        rest = {key: value for key, value in event.attributes.items() if key != "exception.stacktrace"}
        events.append(
            {
                "name": event.name or gettext("event"),
                "offset": duration_text(event.time - span.start),
                "attributes": _attributes(rest),
                "stack": value_text(stack) if stack else "",
            }
        )
    return {
        "name": span.name,
        "service": span.service,
        "kind": span.kind,
        "status": span.status,
        "status_message": span.status_message,
        "started": local_time(span.start),
        "iso": to_datetime(span.start).isoformat(),
        "offset": duration_text(span.start - trace_start),
        "duration": duration_text(span.duration),
        "span_id": span.span_id,
        "parent_id": span.parent_id,
        "scope": span.scope,
        "location": location_of(span.attributes),
        "attributes": _attributes(span.attributes, linked=True),
        "resource": _attributes(redact_resource(span.resource, SensitiveKeys(get_settings().sensitive_keys))),
        "events": events,
        "links": [
            {
                "trace_id": link.trace_id,
                "span_id": link.span_id,
                "url": trace_address(link.trace_id),
                "attributes": _attributes(link.attributes),
            }
            for link in span.links
        ],
    }


def page(request: HttpRequest, mount: Mount, trace_id: str, span_id: str) -> HttpResponse:
    """Show everything about a span: as a page, or as the fragment that the script of the waterfall requests."""
    try:
        found = read_span(open_reader(), trace_id, span_id)
    except ReadError as error:
        return respond_unreadable(request, mount, gettext("Span"), error)
    if found is None:
        return respond_missing(request, mount, trace_id)
    span = found.span
    context = {"span": _detail(span, found.trace_start), "trace": {"id": span.trace_id, "name": found.trace_name}}
    return respond(request, mount, "detail" if "part" in request.GET else "span", span.name, context)
