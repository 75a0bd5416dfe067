"""Open the reader of the traces, and explain why traces can't be read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext, ngettext

from django_tracing.conf.loading import get_settings
from django_tracing.exceptions import ReadError
from django_tracing.models import ProcessStatus
from django_tracing.pages.links import page_address
from django_tracing.pages.mounts import Mount
from django_tracing.pages.responses import respond
from django_tracing.pages.rows import local_time
from django_tracing.traces.model import Sample
from django_tracing.traces.readers.base import Reader, limits_of
from django_tracing.traces.readers.choosing import get_reader

__all__ = [
    "ANSWER_TIMEOUT",
    "PAGE_BUDGET",
    "chosen_service",
    "open_reader",
    "problem_of",
    "respond_missing",
    "respond_unreadable",
    "sample_sentence",
]

#: How long a page waits for one answer from Jaeger, in seconds.
ANSWER_TIMEOUT: Final = 3.0
#: How long a page waits for all answers together, in seconds.
PAGE_BUDGET: Final = 10.0


def open_reader() -> Reader:
    """Return the reader that the settings choose, with the limits of a page."""
    return get_reader(get_settings(), timeout=ANSWER_TIMEOUT, budget=PAGE_BUDGET)


def chosen_service(request: HttpRequest, reader: Reader, services: Sequence[str]) -> str:
    """Return the service that a page shows; "" for all.

    If the reader needs a request for each service, the page starts with the project's own.
    """
    service = request.GET.get("service")
    if service is not None:
        return service
    own = get_settings().service_name
    return own if limits_of(reader).per_service and own in services else ""


def sample_sentence(reader: Reader, sample: Sample | None) -> str:
    """Describe the traces that figures are computed from; "" if these are all traces."""
    if sample is None:
        return gettext("Computed from the newest traces.") if limits_of(reader).newest_only else ""
    return ngettext(
        "Computed from the newest trace, of %(first)s.",
        "Computed from the newest %(count)d traces, which started from %(first)s to %(last)s.",
        sample.traces,
    ) % {
        "count": sample.traces,
        "first": f"{local_time(sample.first):%Y-%m-%d %H:%M:%S}",
        "last": f"{local_time(sample.last):%Y-%m-%d %H:%M:%S}",
    }


def problem_of(request: HttpRequest, mount: Mount, error: ReadError) -> dict[str, str]:
    """Describe an error for the template, with a link to the status page if there is one that the user may view."""
    allowed = mount.may(request, "view", ProcessStatus)
    return {
        "message": str(error),
        "remedy": "",
        "status": page_address("processstatus_changelist") if allowed else "",
    }


def respond_unreadable(request: HttpRequest, mount: Mount, title: str, error: ReadError) -> HttpResponse:
    """Show why traces can't be read."""
    return respond(request, mount, "unreadable", title, {"problem": problem_of(request, mount, error)})


def respond_missing(request: HttpRequest, mount: Mount, trace_id: str) -> HttpResponse:
    """Show that a trace is not stored."""
    problem = {
        "message": gettext("The trace %(id)s is not stored.") % {"id": trace_id},
        "remedy": gettext("It was removed to make room for newer traces, or it has not arrived yet."),
    }
    return respond(request, mount, "unreadable", gettext("Trace"), {"problem": problem}, status=404)
