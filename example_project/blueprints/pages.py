"""Show the page of the demo: a button for each flow, and the link to its trace."""

from __future__ import annotations

from pathlib import Path

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.views.static import serve

from example_project.flows import FLOWS, TOKEN

__all__ = ["asset", "index"]

ASSETS = Path(__file__).parent / "static" / "blueprints"
#: Only the page's own stylesheet, script and requests.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)


def index(request: HttpRequest) -> HttpResponse:
    context = {
        "flows": FLOWS,
        "token": TOKEN,
        "traces_url": settings.TRACES_URL,
        "trace_url": settings.TRACE_URL,
        "admin": "/admin/" in settings.TRACES_URL,
    }
    response = render(request, "blueprints/demo.html", context)
    response["Content-Security-Policy"] = POLICY
    return response


def asset(request: HttpRequest, path: str) -> HttpResponseBase:
    """Serve the stylesheet and the script: gunicorn serves no files."""
    return serve(request, path, document_root=str(ASSETS))
