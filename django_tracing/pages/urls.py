"""Route to the pages without the admin: ``path("traces/", include("django_tracing.pages.urls"))``."""

from __future__ import annotations

from typing import Final

from django.urls import include, path

from django_tracing.pages import PLAIN_RULE_PAGES, RULE_PAGES, STATUS_PAGES, TRACE_PAGES, plain_urls

__all__ = ["app_name", "urlpatterns"]

app_name: Final = "django_tracing_pages"
urlpatterns: Final = [
    *plain_urls("trace", TRACE_PAGES),
    path("rules/", include(plain_urls("samplingrule", (*RULE_PAGES, *PLAIN_RULE_PAGES)))),
    path("status/", include(plain_urls("processstatus", STATUS_PAGES))),
]
