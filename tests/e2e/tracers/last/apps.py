"""Start the other tracer in an app that is after this one in INSTALLED_APPS."""

from __future__ import annotations

from django.apps import AppConfig

from tests.e2e.tracers.starting import start


class Other(AppConfig):
    name = "tests.e2e.tracers.last"

    def ready(self) -> None:
        start()
