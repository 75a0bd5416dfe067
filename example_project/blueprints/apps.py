from __future__ import annotations

from django.apps import AppConfig


class BlueprintsConfig(AppConfig):
    name = "example_project.blueprints"
    default_auto_field = "django.db.models.BigAutoField"
