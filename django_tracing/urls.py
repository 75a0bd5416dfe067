"""``path("tracing/", include("django_tracing.urls"))``: the sampling server at ``tracing/sampling``."""

from __future__ import annotations

from django.urls import path

from django_tracing.sampling.server import sampling

app_name = "django_tracing"
urlpatterns = [path("sampling", sampling, name="sampling")]
