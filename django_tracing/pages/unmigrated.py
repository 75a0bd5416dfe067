"""Show how to create the table of the sampling rules."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext

from django_tracing.pages.mounts import Mount
from django_tracing.pages.responses import respond

__all__ = ["page"]


def page(request: HttpRequest, mount: Mount) -> HttpResponse:
    """Show the command to run. Traces need no table, so the project may never have migrated this app."""
    return respond(request, mount, "unmigrated", gettext("Sampling rules"), {})
