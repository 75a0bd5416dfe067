"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig

__all__ = ["DjangoTracingConfig"]


class DjangoTracingConfig(AppConfig):
    name = "django_tracing"
    verbose_name = "Tracing"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from django_tracing import checks, provider

        checks.register()
        provider.start()
