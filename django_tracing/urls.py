"""Route ``sampling`` and ``health``: ``path("tracing/", include("django_tracing.urls"))``."""

from __future__ import annotations

from django.urls import path

from django_tracing.health_view import health_view
from django_tracing.sampling.server import sampling

app_name = "django_tracing"
urlpatterns = [path("sampling", sampling, name="sampling"), path("health", health_view, name="health")]
