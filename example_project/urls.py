"""Define the paths of the service that this process runs."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.urls import path

from example_project.blueprints import pages, views

GATEWAY = [
    path("", pages.index),
    path("demo/<str:path>", pages.asset),
    path("health", views.health),
    path("api/blueprints", views.blueprint_list),
    path("api/blueprints/owners", views.blueprint_owners),
    path("api/blueprints/export", views.blueprint_export),
    path("api/blueprints/<int:blueprint_id>", views.blueprint_detail),
    path("api/blueprints/<int:blueprint_id>/validate", views.blueprint_validate),
    path("api/iac/generate", views.iac_generate),
    path("api/reports", views.report),
    path("api/boom", views.boom),
]
BLUEPRINT_SERVICE = [
    path("health", views.health),
    path("internal/validate", views.internal_validate),
    path("internal/statistics", views.internal_statistics),
]


if settings.SERVICE == "admin":
    from django.contrib import admin

    urlpatterns: list[Any] = [path("health", views.health), path("admin/", admin.site.urls)]
else:
    urlpatterns = GATEWAY if settings.SERVICE == "api-gateway" else BLUEPRINT_SERVICE
