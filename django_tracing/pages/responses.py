"""Build the responses of the pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.contrib.admin import ModelAdmin
from django.http import HttpRequest
from django.template.response import TemplateResponse

from django_tracing.pages import TRACE_PAGES
from django_tracing.pages.links import page_address

__all__ = ["respond"]


def respond(
    request: HttpRequest,
    admin: ModelAdmin[Any],
    template: str,
    title: str,
    context: Mapping[str, Any],
    status: int = 200,
) -> TemplateResponse:
    """Render one of the model's templates inside the admin site."""
    model = admin.opts.model_name
    shared = {**admin.admin_site.each_context(request), "title": title, "opts": admin.opts}
    if model == "trace":
        shared["tabs"] = [
            {
                "label": page.tab,
                "url": page_address(f"admin:django_tracing_trace_{page.name}"),
                "current": page.module == template,
            }
            for page in TRACE_PAGES
            if page.tab
        ]
    return TemplateResponse(
        request, f"admin/django_tracing/{model}/{template}.html", {**shared, **context}, status=status
    )
