"""Show one span."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.contrib.admin import AdminSite
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext

from django_tracing.conf.loading import get_settings
from django_tracing.pages.answers import _answer, _failed, _missing, _reader
from django_tracing.pages.links import _searchable, _trace_address, _value
from django_tracing.pages.times import _time
from django_tracing.reading import read_span
from django_tracing.redaction import SensitiveKeys, redact_resource
from django_tracing.traces.analysis.waterfall import (
    location_of,
)
from django_tracing.traces.model import ReadError, Span, to_datetime
from django_tracing.traces.text import duration_text

__all__ = ["span_page"]


def _attributes(found: Mapping[str, Any], *, searchable: bool = False) -> list[dict[str, str]]:
    shown = [(key, _value(value)) for key, value in sorted(found.items())]
    return [
        {"key": key, "value": value, "url": _searchable(key, found[key]) if searchable and len(value) < 500 else ""}
        for key, value in shown
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
                "stack": _value(stack) if stack else "",
            }
        )
    return {
        "name": span.name,
        "service": span.service,
        "kind": span.kind,
        "status": span.status,
        "status_message": span.status_message,
        "started": _time(span.start),
        "iso": to_datetime(span.start).isoformat(),
        "offset": duration_text(span.start - trace_start),
        "duration": duration_text(span.duration),
        "span_id": span.span_id,
        "parent_id": span.parent_id,
        "scope": span.scope,
        "location": location_of(span.attributes),
        "attributes": _attributes(span.attributes, searchable=True),
        "resource": _attributes(redact_resource(span.resource, SensitiveKeys(get_settings().sensitive_keys))),
        "events": events,
        "links": [
            {
                "trace_id": link.trace_id,
                "span_id": link.span_id,
                "url": _trace_address(link.trace_id),
                "attributes": _attributes(link.attributes),
            }
            for link in span.links
        ],
    }


def span_page(request: HttpRequest, site: AdminSite, trace_id: str, span_id: str) -> HttpResponse:
    """All that a span says: by itself, or as the part of a page that a script asks for."""
    try:
        found = read_span(_reader(), trace_id, span_id)
    except ReadError as error:
        return _failed(request, site, gettext("Span"), error)
    if found is None:
        return _missing(request, site, trace_id)
    span = found.span
    context = {"span": _detail(span, found.trace_start), "trace": {"id": span.trace_id, "name": found.trace_name}}
    return _answer(request, site, "detail" if "part" in request.GET else "span", span.name, context)
