"""Configure the Django app."""

from __future__ import annotations

import logging
from contextlib import suppress

from django.apps import AppConfig

from django_tracing.faults import CONTAINED, contained
from django_tracing.redaction.printable import printable

__all__ = ["DjangoTracingConfig"]


class DjangoTracingConfig(AppConfig):
    name = "django_tracing"
    verbose_name = "Tracing"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        # If this app can't start, the project starts without it.
        try:
            with contained():
                from django_tracing import checks, provider

                checks.register()
                provider.start()
        except Exception as error:
            # A filter of the user's log may raise.
            with suppress(*CONTAINED):
                logging.getLogger("django_tracing").error(
                    "Tracing is off: it could not be started (%s: %s). The application goes on without it.",
                    type(error).__name__,
                    printable(str(error), 300),
                )
