"""The admin's pages of traces: the list, one trace, two side by side, the routes, the service map.

Imported with the first page that is asked for: no process that shows none waits for SQLite.
"""

from __future__ import annotations

import json
import logging
import math
import re
import shlex
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlencode

from asgiref.sync import sync_to_async
from django import forms
from django.contrib.admin import AdminSite
from django.core.exceptions import ValidationError
from django.core.handlers.asgi import ASGIRequest
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.text import slugify
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from django_tracing.conf.loading import get_settings
from django_tracing.exceptions import ReadError
from django_tracing.models import Trace as TraceModel
from django_tracing.pages.rows import OPEN_ROWS, SCALE, WORKS, Colours, row_of, rows_of, shares_of, svg_number
from django_tracing.redaction import SensitiveKeys, redact_resource
from django_tracing.semconv import names
from django_tracing.traces import query as asked
from django_tracing.traces.analysis.layout import BOX_HEIGHT, BOX_WIDTH, layout
from django_tracing.traces.analysis.waterfall import (
    Row,
    Waterfall,
    location_of,
    short_statement,
    statement_of,
    waterfall,
)
from django_tracing.traces.diagrams import errors_of
from django_tracing.traces.durations import duration_text, parse_duration
from django_tracing.traces.formats import jaeger_json, otlp_json
from django_tracing.traces.model import RouteStatistics, Span, Trace, TraceSummary
from django_tracing.traces.readers.base import Reader, limits_of
from django_tracing.traces.readers.choosing import get_reader, read_span, stream_spans
from django_tracing.traces.times import to_datetime

__all__ = ["SearchForm", "show"]

_logger = logging.getLogger("django_tracing")

#: A page waits as long for one answer of Jaeger's, and for all that it asks, in seconds.
ANSWER_TIMEOUT: Final = 3.0
PAGE_BUDGET: Final = 10.0
#: More services are counted, not named.
MOST_SERVICES: Final = 100
#: A piece of a download has about as many characters.
PIECE: Final = 64 * 1024
#: As the addresses of the pages take it: whole, or its beginning.
_TRACE_ID: Final = re.compile(r"[0-9a-fA-F]{6,32}")
_RANGES: Final = (
    ("", _("Any time")),
    ("900", _("Last 15 minutes")),
    ("3600", _("Last hour")),
    ("21600", _("Last 6 hours")),
    ("86400", _("Last 24 hours")),
    ("604800", _("Last 7 days")),
)
_LIMITS: Final = (("20", "20"), ("", "50"), ("100", "100"), ("200", "200"), ("500", "500"))


# ----- What is asked


class DurationField(forms.CharField):
    """A duration with its unit, as seconds: ``250ms``, ``1.5s``."""

    def clean(self, value: Any) -> Any:
        text = super().clean(value)
        if not text:
            return None
        try:
            return parse_duration(text)
        except ValueError:
            raise ValidationError(gettext("Write it with its unit, such as 250ms or 1.5s.")) from None


class MomentField(forms.CharField):
    """A moment in ISO 8601, as seconds since the epoch; without an offset in the current time zone."""

    def clean(self, value: Any) -> Any:
        text = super().clean(value)
        if not text:
            return None
        try:
            moment = parse_datetime(text)
        except ValueError:
            moment = None
        if moment is None:
            raise ValidationError(gettext("Write it as 2026-01-31 13:45."))
        if timezone.is_naive(moment):
            moment = timezone.make_aware(moment)
        try:
            return moment.timestamp()
        except (OverflowError, ValueError):
            raise ValidationError(gettext("No trace is as old as that.")) from None


class SearchForm(forms.Form):
    """Which traces are looked for."""

    service = forms.CharField(label=_("Service"), required=False, max_length=200, widget=forms.Select)
    operation = forms.CharField(label=_("Operation"), required=False, max_length=300)
    min_duration = DurationField(label=_("At least"), required=False, max_length=20)
    max_duration = DurationField(label=_("At most"), required=False, max_length=20)
    status_code = forms.IntegerField(label=_("Status code"), required=False, min_value=100, max_value=599)
    user = forms.CharField(label=_("User id"), required=False, max_length=100)
    correlation_id = forms.CharField(label=_("Correlation id"), required=False, max_length=200)
    attributes = forms.CharField(label=_("Attributes"), required=False, max_length=1000)
    within = forms.ChoiceField(label=_("Time"), choices=_RANGES, required=False)
    start = MomentField(label=_("From"), required=False, max_length=40)
    end = MomentField(label=_("To"), required=False, max_length=40)
    limit = forms.ChoiceField(label=_("Traces a page"), choices=_LIMITS, required=False, initial="")
    errors_only = forms.BooleanField(label=_("Errors only"), required=False)

    def __init__(
        self, *args: Any, services: Sequence[str] = (), operations: Sequence[str] = (), **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.operations = operations
        chosen = str(self.data.get("service", ""))
        known = [*services, *([chosen] if chosen and chosen not in services else [])]
        self.fields["service"].widget.choices = [("", gettext("All")), *((name, name) for name in known)]
        hints = {
            "operation": {"list": "tracing-operations", "placeholder": "GET /items/<int:pk>", "autocomplete": "off"},
            "min_duration": {"placeholder": "250ms"},
            "max_duration": {"placeholder": "1.5s"},
            "attributes": {"placeholder": 'http.method=POST cache.hit=false "db.name=my db"'},
            "start": {"placeholder": "2026-01-31 13:45", "data-moment": ""},
            "end": {"placeholder": "2026-01-31 14:00", "data-moment": ""},
        }
        for name, attributes in hints.items():
            self.fields[name].widget.attrs.update(attributes)

    def clean_attributes(self) -> dict[str, str]:
        try:
            return asked.attributes(self.cleaned_data["attributes"])
        except ValueError as error:
            if not str(error):
                raise ValidationError(gettext("A quotation mark is missing.")) from None
            raise ValidationError(
                gettext("“%(word)s” is no attribute: write key=value, such as http.method=POST.")
                % {"word": str(error)}
            ) from None

    def query(self) -> dict[str, Any]:
        """As a reader's ``search`` takes it."""
        data = self.cleaned_data
        start = data.get("start")
        if start is None and data.get("within"):
            start = timezone.now().timestamp() - float(data["within"])
        return {
            "service": data.get("service") or None,
            "operation": data.get("operation") or None,
            "min_duration": data.get("min_duration"),
            "max_duration": data.get("max_duration"),
            "errors": bool(data.get("errors_only")),
            "attributes": asked.searched_attributes(
                data.get("attributes") or {},
                opt_in=get_settings().semconv_stability_opt_in,
                status_code=data.get("status_code"),
                user=data.get("user"),
                correlation_id=data.get("correlation_id"),
            ),
            "start": start,
            "end": data.get("end"),
        }

    @property
    def first_fields(self) -> list[forms.BoundField]:
        """What most searches need."""
        return [
            self[name] for name in ("service", "operation", "within", "min_duration", "attributes", "errors_only")
        ]

    @property
    def more_fields(self) -> list[forms.BoundField]:
        shown = {field.name for field in self.first_fields}
        return [self[name] for name in self.fields if name not in shown]

    @property
    def page_size(self) -> int:
        return int(self.cleaned_data.get("limit") or 50)


#: The searches that are looked for most.
_SEARCHES: Final[tuple[tuple[Any, dict[str, str]], ...]] = (
    (_("All"), {}),
    (_("Slow requests"), {"min_duration": "1s"}),
    (_("Errors"), {"errors_only": "on"}),
    (_("Circuit breakers"), {"attributes": "operation.type=circuit_breaker"}),
    (_("Database queries"), {"attributes": "operation.type=database"}),
)


# ----- What is shown


#: The admin site that is asked: a project may have several, and links stay within one.
_site: Final[ContextVar[str]] = ContextVar("django_tracing.site", default="admin")


def show(view: str, request: HttpRequest, site: AdminSite, **kwargs: Any) -> HttpResponseBase:
    """The page that the function called ``view`` makes, for ``site``."""
    token = _site.set(site.name)
    # For the templates, which are rendered later.
    request.current_app = site.name
    try:
        page: Callable[..., HttpResponseBase] = _PAGES[view]
        return page(request, site, **kwargs)
    finally:
        _site.reset(token)


def _address(name: str, args: Sequence[Any] = ()) -> str:
    return reverse(name, args=args, current_app=_site.get())


def _trace_address(trace_id: str) -> str:
    """Where a trace is shown; "" for what is no trace id: a link's is what somebody wrote."""
    if not _TRACE_ID.fullmatch(trace_id):
        return ""
    return _address("admin:django_tracing_trace_trace", args=[trace_id])


def _time(nanoseconds: int) -> datetime:
    moment = to_datetime(nanoseconds)
    return timezone.localtime(moment) if timezone.is_aware(moment) else moment


def _listed(summary: TraceSummary, longest: int) -> dict[str, Any]:
    return {
        "id": summary.trace_id,
        "url": _trace_address(summary.trace_id),
        "name": summary.name or gettext("(no name)"),
        "service": summary.service,
        "others": [name for name in summary.services if name != summary.service],
        "started": _time(summary.start),
        "iso": to_datetime(summary.start).isoformat(),
        "duration": duration_text(summary.duration),
        "width": svg_number(SCALE * summary.duration / longest if longest else 0),
        "spans": str(summary.span_count),
        "left_out": gettext("%(count)d of them not stored") % {"count": summary.left_out} if summary.left_out else "",
        "errors": str(summary.error_count) if summary.error_count else "",
    }


#: The scatter plot, in pixels of its drawing.
_PLOT_WIDTH, _PLOT_HEIGHT, _PLOT_LEFT, _PLOT_BOTTOM = 1000, 180, 60, 22


def _plot(summaries: Sequence[TraceSummary]) -> dict[str, Any] | None:
    """Durations over time; durations on a logarithmic scale, since they differ by orders of magnitude."""
    if len(summaries) < 2:
        return None
    starts = [summary.start for summary in summaries]
    logs = [math.log10(max(summary.duration, 1000)) for summary in summaries]
    first, last = min(starts), max(starts)
    low, high = math.floor(min(logs)), math.ceil(max(logs))
    high = max(high, low + 1)
    width, height = _PLOT_WIDTH - _PLOT_LEFT - 10, _PLOT_HEIGHT - _PLOT_BOTTOM - 10

    def x(start: int) -> float:
        return _PLOT_LEFT + (width * (start - first) / (last - first) if last > first else width / 2)

    def y(log: float) -> float:
        return 10 + height * (high - log) / (high - low)

    return {
        "width": str(_PLOT_WIDTH),
        "height": str(_PLOT_HEIGHT),
        "left": str(_PLOT_LEFT),
        "right": str(_PLOT_WIDTH - 10),
        "bottom": str(_PLOT_HEIGHT - 4),
        "lines": [
            {"y": svg_number(y(power)), "text_y": svg_number(y(power) + 4), "label": _round_duration(power)}
            for power in range(low, high + 1)
        ],
        "first": to_datetime(first),
        "last": to_datetime(last),
        "dots": [
            {
                "x": svg_number(x(summary.start)),
                "y": svg_number(y(log)),
                "failed": bool(summary.error_count),
                "url": _trace_address(summary.trace_id),
                "label": f"{summary.service} {summary.name}, {duration_text(summary.duration)}",
            }
            for summary, log in zip(summaries, logs, strict=True)
        ],
    }


def _round_duration(power: int) -> str:
    """Ten to the ``power`` nanoseconds."""
    for unit, exponent in (("s", 9), ("ms", 6), ("µs", 3)):
        if power >= exponent:
            return f"{10 ** (power - exponent)} {unit}"
    return f"{10**power} ns"


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def _searchable(key: str, value: Any) -> str:
    """A link to the traces with this attribute."""
    word = f"{key}={_value(value)}"
    return f"{_address('admin:django_tracing_trace_changelist')}?{urlencode({'attributes': shlex.quote(word)})}"


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


def _head(trace: Trace, fall: Waterfall, colours: Colours) -> dict[str, Any]:
    root = trace.root
    counts, services = trace.spans_by_service(), trace.services
    said = {}
    for key in (names.USER_ID, names.USER_SUBSCRIPTION, names.CORRELATION_ID):
        value = next((span.attributes[key] for span in trace.spans if key in span.attributes), None)
        if value is not None:
            said[key] = {"value": _value(value), "url": _searchable(key, value)}
    return {
        "id": trace.trace_id,
        "url": _trace_address(trace.trace_id),
        "name": root.name or gettext("(no name)"),
        "service": root.service,
        "started": _time(trace.start),
        "iso": to_datetime(trace.start).isoformat(),
        "duration": duration_text(trace.duration),
        "spans": ngettext("%(count)d span", "%(count)d spans", trace.span_count) % {"count": trace.span_count},
        "errors": ngettext("%(count)d error", "%(count)d errors", trace.error_count) % {"count": trace.error_count}
        if trace.error_count
        else "",
        "services": [
            {"name": service, "colour": str(colours[service]), "spans": str(counts[service])}
            for service in services[:MOST_SERVICES]
        ],
        "more_services": max(len(services) - MOST_SERVICES, 0),
        "left_out": _left_out(trace),
        "said": said,
        "shares": shares_of(fall.time_by_work),
        "orphans": sum(row.orphan for row in fall.rows),
    }


def _left_out(trace: Trace) -> list[str]:
    """How much of the trace is not on the page, and where it is."""
    if not trace.left_out and not trace.uncounted:
        return []
    counts = {"shown": len(trace.spans), "count": trace.span_count, "unstored": trace.unstored}
    if trace.uncounted:
        sentences = [gettext("The earliest %(shown)d of more than %(count)d spans are shown.") % counts]
    else:
        sentences = [gettext("The earliest %(shown)d of %(count)d spans are shown.") % counts]
    if trace.uncounted or trace.left_out > trace.unstored:
        sentences.append(gettext("The download has the others."))
    if trace.unstored:
        sentences.append(
            gettext(
                '%(unstored)d were not stored: TRACING["MAX_TRACE_SPANS"] says how many are kept of a trace. '
                "A trace id that many requests share is what a caller that repeats one traceparent makes."
            )
            % counts
        )
    return sentences


def _ticks(trace: Trace) -> list[str]:
    return [duration_text(trace.duration * quarter // 4) for quarter in range(5)]


# ----- The pages


def _reader() -> Reader:
    return get_reader(get_settings(), timeout=ANSWER_TIMEOUT, budget=PAGE_BUDGET)


def _answer(
    request: HttpRequest,
    site: AdminSite,
    template: str,
    title: str,
    context: Mapping[str, Any],
    status: int = 200,
) -> HttpResponse:
    return TemplateResponse(
        request,
        f"admin/django_tracing/trace/{template}.html",
        {**site.each_context(request), "title": title, "opts": TraceModel._meta, **context},
        status=status,
    )


def _failed(request: HttpRequest, site: AdminSite, title: str, error: ReadError) -> HttpResponse:
    return _answer(request, site, "unreadable", title, {"problem": _problem(request, error)})


def list_page(request: HttpRequest, site: AdminSite) -> HttpResponse:
    """The newest traces that are like what is asked for."""
    context: dict[str, Any] = {"found": [], "plot": None, "problem": None, "older": "", "newer": ""}
    data = request.GET.copy()
    form = SearchForm(data)
    try:
        reader = _reader()
        services = reader.services()
        own = get_settings().service_name
        if "service" not in data and limits_of(reader).per_service and own in services:
            # A search of all services may be many requests. It is made only if it is asked for.
            data["service"] = own
        chosen = str(data.get("service", ""))
        operations = reader.operations(chosen) if chosen in services else []
        form = SearchForm(data, services=services, operations=operations)
        context["described"] = reader.describe()
        if form.is_valid():
            before = _before(data.get("before", ""))
            summaries = reader.search(**form.query(), limit=form.page_size + 1, before=before)
            context |= _found(request, summaries, form.page_size)
            context["newer"] = _changed(request, before=None) if before else ""
    except ReadError as error:
        context["problem"] = _problem(request, error)
    context["form"] = form
    context["searches"] = [
        {"label": label, "query": urlencode(query), "chosen": _is_asked(data, query)} for label, query in _SEARCHES
    ]
    context["detailed"] = any(
        data.get(name) for name in ("status_code", "user", "correlation_id", "max_duration", "start", "end", "limit")
    )
    part = request.GET.get("part") == "results"
    return _answer(request, site, "results" if part else "list", gettext("Traces"), context)


def _found(request: HttpRequest, summaries: list[TraceSummary], limit: int) -> dict[str, Any]:
    page = summaries[:limit]
    longest = max((summary.duration for summary in page), default=0)
    more = len(summaries) > limit
    return {
        "found": [_listed(summary, longest) for summary in page],
        "plot": _plot(page),
        "older": _changed(request, before=f"{page[-1].start}-{page[-1].trace_id}") if more else "",
        "shown": ngettext("%(count)d trace", "%(count)d traces", len(page)) % {"count": len(page)},
    }


def trace_page(request: HttpRequest, site: AdminSite, trace_id: str) -> HttpResponse:
    """One trace as a waterfall."""
    try:
        reader = _reader()
        trace = reader.trace(trace_id)
        if trace is None:
            return _missing(request, site, trace_id)
        link = reader.trace_link(trace.trace_id)
    except ReadError as error:
        return _failed(request, site, gettext("Trace"), error)
    if trace.trace_id != trace_id:
        return HttpResponseRedirect(_trace_address(trace.trace_id))
    fall = waterfall(trace)
    colours = Colours(trace.services)
    rows = rows_of(fall, colours, everything="all" in request.GET)
    context = {
        "trace": _head(trace, fall, colours),
        "rows": rows,
        "repeated": [
            {
                "count": str(row.count),
                "statement": short_statement(statement_of(row.span.attributes)) or row.span.name,
                "location": location_of(row.span.attributes),
                "duration": duration_text(row.duration),
            }
            for row in fall.repeated
        ],
        "locations_off": not get_settings().code_locations,
        "ticks": _ticks(trace),
        "total_ns": str(trace.duration),
        "link": link,
        "others": _like(reader, trace),
    }
    return _answer(request, site, "trace", trace.root.name, context)


def _missing(request: HttpRequest, site: AdminSite, trace_id: str) -> HttpResponse:
    problem = {
        "message": gettext("The trace %(id)s is not stored.") % {"id": trace_id},
        "remedy": gettext("It may have left to make room for newer ones, or not have arrived yet."),
    }
    return _answer(request, site, "unreadable", gettext("Trace"), {"problem": problem}, status=404)


def _like(reader: Reader, trace: Trace) -> list[dict[str, str]]:
    """Other traces of the same route, to compare with."""
    root = trace.root
    try:
        found = reader.search(service=root.service, operation=root.name, limit=21)
    except ReadError:
        return []
    return [
        {
            "id": summary.trace_id,
            "label": f"{_time(summary.start):%Y-%m-%d %H:%M:%S}, {duration_text(summary.duration)}"
            + (
                ", "
                + ngettext("%(count)d error", "%(count)d errors", summary.error_count)
                % {"count": summary.error_count}
                if summary.error_count
                else ""
            ),
        }
        for summary in found
        if summary.trace_id != trace.trace_id
    ][:20]


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


def download(request: HttpRequest, site: AdminSite, trace_id: str, kind: str) -> HttpResponseBase:
    """The trace as a file, with all its stored spans: they are read as they are sent."""
    try:
        found = stream_spans(_reader(), trace_id, grouped=kind == "otlp")
    except ReadError as error:
        return _failed(request, site, gettext("Trace"), error)
    if found is None:
        return _missing(request, site, trace_id)
    otlp = kind == "otlp"
    written = otlp_json(found.spans) if otlp else jaeger_json(found.trace_id, found.spans, found.unstored)
    pieces = _pieces(found.trace_id, written)
    answer = StreamingHttpResponse(
        # Django waits for all of a plain iterator before it sends the first of it under ASGI.
        _in_a_thread(pieces) if isinstance(request, ASGIRequest) else pieces,
        content_type="application/json",
    )
    name = slugify(found.name)[:60] or "trace"
    answer["Content-Disposition"] = f'attachment; filename="{name}-{found.trace_id[:8]}-{kind}.json"'
    return answer


def _pieces(trace_id: str, written: Iterator[str]) -> Generator[str, None, None]:
    """``written`` in pieces that are worth sending. What fails is told in the log, and ends the connection: a file
    that is not whole must not look as if it were."""
    parts: list[str] = []
    length = 0
    try:
        for part in written:
            parts.append(part)
            length += len(part)
            if length >= PIECE:
                yield "".join(parts)
                parts, length = [], 0
    except Exception as error:
        _logger.error("The download of trace %s ended before its end: %s", trace_id, error)
        raise
    yield "".join(parts)


async def _in_a_thread(pieces: Generator[str, None, None]) -> AsyncIterator[str]:
    take = sync_to_async(lambda: next(pieces, None), thread_sensitive=False)
    try:
        while (piece := await take()) is not None:
            yield piece
    finally:
        # Refused while its thread still reads, of somebody who has gone: then it ends with that.
        with suppress(ValueError):
            pieces.close()


def compare_page(request: HttpRequest, site: AdminSite, trace_id: str) -> HttpResponse:
    """Two traces side by side, and what takes longer in which."""
    other_id = request.GET.get("with", "").strip()
    if not _TRACE_ID.fullmatch(other_id):
        raise Http404
    try:
        reader = _reader()
        traces = [reader.trace(each) for each in (trace_id, other_id)]
    except ReadError as error:
        return _failed(request, site, gettext("Compare"), error)
    sides = []
    for each, trace in zip((trace_id, other_id), traces, strict=True):
        if trace is None:
            return _missing(request, site, each)
        sides.append((trace, waterfall(trace)))
    colours = Colours(dict.fromkeys(service for trace, _fall in sides for service in trace.services))
    longest = max(trace.duration for trace, _fall in sides)
    context = {
        "sides": [
            {
                "trace": _head(trace, fall, colours),
                "rows": _side(fall, longest, colours),
                "left_out": max(len([row for row in fall.rows if not _inner(row, fall)]) - OPEN_ROWS, 0),
                "ticks": [duration_text(longest * quarter // 4) for quarter in range(5)],
            }
            for trace, fall in sides
        ],
        "differences": _differences(*(trace for trace, _fall in sides)),
    }
    return _answer(request, site, "compare", gettext("Compare"), context)


def routes_page(request: HttpRequest, site: AdminSite) -> HttpResponse:
    """Requests, tasks and commands by route: how often, how long, where the time goes."""
    context: dict[str, Any] = {"routes": [], "problem": None, "services": [], "ranges": _RANGES}
    context["works"] = list(WORKS.items())
    within = request.GET.get("within", "")
    context["within"] = within if within in dict(_RANGES) else ""
    context["service"] = request.GET.get("service", "")
    order = request.GET.get("o", "-count")
    context["columns"] = [_column(request, key, label, order) for key, label in _COLUMNS]
    try:
        reader = _reader()
        context["services"] = reader.services()
        context["newest_only"] = limits_of(reader).newest_only
        found = reader.routes(service=context["service"] or None, start=_since(context["within"]))
        context["routes"] = [_route(route) for route in _sorted(found, order)]
    except ReadError as error:
        context["problem"] = _problem(request, error)
    return _answer(request, site, "routes", gettext("Routes"), context)


def map_page(request: HttpRequest, site: AdminSite) -> HttpResponse:
    """Who calls whom, as a drawing and as a table."""
    context: dict[str, Any] = {"problem": None, "map": None, "links": [], "ranges": _RANGES}
    within = request.GET.get("within", "")
    context["within"] = within if within in dict(_RANGES) else ""
    try:
        dependencies = _reader().dependencies(start=_since(context["within"]))
        context["sampled"] = dependencies.sampled
        context["map"] = _drawn(layout(dependencies.links)) if dependencies.links else None
        context["links"] = [
            {
                "caller": link.caller,
                "callee": link.callee,
                "kind": str(_NODES[link.kind]),
                "calls": str(link.calls),
                "errors": errors_of(link),
                "failing": link.errors > 0,
                "state": link.state,
            }
            for link in dependencies.links
        ]
    except ReadError as error:
        context["problem"] = _problem(request, error)
    return _answer(request, site, "map", gettext("Service map"), context)


def _problem(request: HttpRequest, error: ReadError) -> dict[str, str]:
    """What is wrong and what to do; where to look further, for those who may."""
    may = request.user.has_perm("django_tracing.view_processstatus")
    return {
        "message": str(error),
        "remedy": "",
        "status": _address("admin:django_tracing_processstatus_changelist") if may else "",
    }


def _before(text: str) -> tuple[int, str] | None:
    start, _dash, trace_id = text.partition("-")
    return (int(start), trace_id) if start.isdecimal() and len(start) < 20 and trace_id else None


def _changed(request: HttpRequest, **changes: str | None) -> str:
    """The query of this page with some of it changed; None takes a part out."""
    query = request.GET.copy()
    query.pop("part", None)
    for key, value in changes.items():
        query.pop(key, None)
        if value is not None:
            query[key] = value
    return f"?{query.urlencode()}"


def _is_asked(data: Any, query: Mapping[str, str]) -> bool:
    given = {key: value for key, value in data.items() if value and key not in ("service", "limit", "before", "part")}
    return given == dict(query)


def _since(within: str) -> float | None:
    return (timezone.now() - timedelta(seconds=float(within))).timestamp() if within else None


# ----- Comparing


def _inner(row: Row, fall: Waterfall) -> bool:
    """Whether the row is one of several that another row folds."""
    return row.parent >= 0 and fall.rows[row.parent].folds


def _side(fall: Waterfall, longest: int, colours: Colours) -> list[dict[str, Any]]:
    return [
        row_of(number, row, max(longest, 1), colours, "", False, False)
        for number, row in enumerate(fall.rows)
        if not _inner(row, fall)
    ][:OPEN_ROWS]


def _differences(left: Trace, right: Trace) -> list[dict[str, Any]]:
    """What both did, by service and name: how often, how long in all, and the difference, the largest first."""
    totals: dict[tuple[str, str], list[int]] = {}
    for side, trace in enumerate((left, right)):
        for span in trace.spans:
            counted = totals.setdefault((span.service, span.name), [0, 0, 0, 0])
            counted[side] += 1
            counted[2 + side] += span.duration
    found = []
    for (service, name), (count, other_count, time, other_time) in totals.items():
        found.append((abs(other_time - time), service, name, count, other_count, time, other_time))
    return [
        {
            "service": service,
            "name": name,
            "counts": (str(count) if count else "–", str(other_count) if other_count else "–"),
            "times": (duration_text(time) if count else "–", duration_text(other_time) if other_count else "–"),
            "difference": f"{'+' if other_time >= time else '−'}{duration_text(abs(other_time - time))}",
            "slower": other_time > time,
        }
        for _size, service, name, count, other_count, time, other_time in sorted(found, key=lambda item: -item[0])[
            :OPEN_ROWS
        ]
    ]


# ----- Routes

_COLUMNS: Final = (
    ("name", _("Route")),
    ("service", _("Service")),
    ("count", _("Count")),
    ("errors", _("Errors")),
    ("p50", _("p50")),
    ("p95", _("p95")),
    ("p99", _("p99")),
    ("slowest", _("Slowest")),
    ("total", _("In all")),
)
_KEYS: Final[Mapping[str, Callable[[RouteStatistics], Any]]] = {
    "name": lambda route: route.name,
    "service": lambda route: (route.service, route.name),
    "count": lambda route: route.count,
    "errors": lambda route: route.error_count,
    "p50": lambda route: route.p50,
    "p95": lambda route: route.p95,
    "p99": lambda route: route.p99,
    "slowest": lambda route: route.slowest,
    "total": lambda route: sum(route.time_by_work.values()),
}


def _sorted(routes: list[RouteStatistics], order: str) -> list[RouteStatistics]:
    key = _KEYS.get(order.lstrip("-"), _KEYS["count"])
    return sorted(routes, key=key, reverse=order.startswith("-"))


def _column(request: HttpRequest, key: str, label: Any, order: str) -> dict[str, Any]:
    chosen = order.lstrip("-") == key
    first = "" if key in ("name", "service") else "-"
    turned = f"{'' if order.startswith('-') else '-'}{key}" if chosen else f"{first}{key}"
    return {
        "key": key,
        "label": label,
        "url": _changed(request, o=turned),
        "sort": ("descending" if order.startswith("-") else "ascending") if chosen else "",
        "numeric": key not in ("name", "service"),
    }


def _route(route: RouteStatistics) -> dict[str, Any]:
    traces = _address("admin:django_tracing_trace_changelist")
    return {
        "name": route.name or gettext("(no name)"),
        "service": route.service,
        "url": f"{traces}?{urlencode({'service': route.service, 'operation': route.name})}",
        "count": str(route.count),
        "errors": str(route.error_count) if route.error_count else "",
        "error_share": f"{100 * route.error_count / route.count:.0f} %",
        "p50": duration_text(route.p50),
        "p95": duration_text(route.p95),
        "p99": duration_text(route.p99),
        "slowest": duration_text(route.slowest),
        "slowest_url": _trace_address(route.slowest_trace_id),
        "total": duration_text(sum(route.time_by_work.values())),
        "shares": shares_of(route.time_by_work),
    }


# ----- The map

_NODES: Final = {
    "service": _("service"),
    "database": _("database"),
    "cache": _("cache"),
    "breaker": _("circuit breaker"),
    "external": _("not traced"),
}
#: As much of a name as fits into its box.
_NAME_LENGTH: Final = 20


def _drawn(drawing: Any) -> dict[str, Any]:
    return {
        "width": str(drawing.width),
        "height": str(drawing.height),
        "box_width": str(BOX_WIDTH),
        "box_height": str(BOX_HEIGHT),
        "boxes": [
            {
                "name": box.name,
                "short": box.name if len(box.name) <= _NAME_LENGTH else box.name[: _NAME_LENGTH - 1] + "…",
                "kind": box.kind,
                "what": str(_NODES[box.kind]) + (f", {box.state}" if box.state else ""),
                "state": slugify(box.state),
                "x": str(box.x),
                "y": str(box.y),
                "middle": str(box.x + BOX_WIDTH // 2),
                "name_y": str(box.y + 20),
                "what_y": str(box.y + 36),
                "url": f"{_address('admin:django_tracing_trace_changelist')}?{urlencode({'service': box.name})}"
                if box.kind == "service"
                else "",
            }
            for box in drawing.boxes
        ],
        "lines": [
            {
                "path": line.path,
                "x": str(line.label_x),
                "y": str(line.label_y),
                "calls": str(line.link.calls),
                "failing": line.link.errors > 0,
                "label": gettext("%(caller)s calls %(callee)s: %(calls)d, failed: %(errors)s")
                % {
                    "caller": line.link.caller,
                    "callee": line.link.callee,
                    "calls": line.link.calls,
                    "errors": errors_of(line.link),
                },
                "errors": errors_of(line.link) if line.link.errors else "",
            }
            for line in drawing.lines
        ],
    }


_PAGES: Final[Mapping[str, Callable[..., HttpResponseBase]]] = {
    "list": list_page,
    "routes": routes_page,
    "map": map_page,
    "trace": trace_page,
    "span": span_page,
    "compare": compare_page,
    "download": download,
}
