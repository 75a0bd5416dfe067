"""Open the reader and build the responses that all pages share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from django.contrib.admin import AdminSite
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.translation import gettext

from django_tracing.conf.loading import get_settings
from django_tracing.models import Trace as TraceModel
from django_tracing.pages.links import _address
from django_tracing.reading import get_reader
from django_tracing.traces.model import Reader, ReadError

__all__ = ["ANSWER_TIMEOUT", "PAGE_BUDGET"]

#: A page waits as long for one answer of Jaeger's, and for all that it asks, in seconds.
ANSWER_TIMEOUT: Final = 3.0


PAGE_BUDGET: Final = 10.0


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


def _missing(request: HttpRequest, site: AdminSite, trace_id: str) -> HttpResponse:
    problem = {
        "message": gettext("The trace %(id)s is not stored.") % {"id": trace_id},
        "remedy": gettext("It may have left to make room for newer ones, or not have arrived yet."),
    }
    return _answer(request, site, "unreadable", gettext("Trace"), {"problem": problem}, status=404)


def _problem(request: HttpRequest, error: ReadError) -> dict[str, str]:
    """What is wrong and what to do; where to look further, for those who may."""
    may = request.user.has_perm("django_tracing.view_processstatus")
    return {
        "message": str(error),
        "remedy": "",
        "status": _address("admin:django_tracing_processstatus_changelist") if may else "",
    }
