"""System checks. Ids are append-only; docs/checks.md has a section for each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import urlsplit

from django.core import checks

from django_tracing.conf import Settings, get_settings
from django_tracing.instrumentation import OURS
from django_tracing.propagation import MissingPropagator, build_propagator
from django_tracing.provider import make_exporter

__all__ = ["check_deployment", "check_settings", "register"]

WRONG_SETTING: Final = "django_tracing.E001"
NO_EXPORTER: Final = "django_tracing.E002"
UNKNOWN_INSTRUMENTATION: Final = "django_tracing.E003"
NO_PROPAGATOR: Final = "django_tracing.E004"
TRACED_TWICE: Final = "django_tracing.W001"
CREDENTIALS_IN_THE_CLEAR: Final = "django_tracing.W002"


def register() -> None:
    """Registers the checks; a second call does nothing."""
    checks.register(check_settings)
    checks.register(check_deployment, deploy=True)


def check_settings(app_configs: Any = None, **kwargs: Any) -> list[checks.CheckMessage]:
    """What is wrong with TRACING and the environment."""
    return list(_messages(get_settings()))


def _messages(settings: Settings) -> Iterable[checks.CheckMessage]:
    for problem in settings.problems:
        yield checks.Error(f"{problem.source} {problem.message}", hint=problem.hint, id=WRONG_SETTING)
    if settings.problems:
        return
    try:
        exporter = make_exporter(settings)
        if exporter is not None:
            exporter.shutdown()
    except Exception as error:
        yield checks.Error(
            f"{settings.source('EXPORTER')} asks for the exporter {settings.exporter!r}, which can't be made.",
            hint=str(error),
            id=NO_EXPORTER,
        )
    try:
        build_propagator(settings.propagators)
    except MissingPropagator as error:
        yield checks.Error(
            f"{settings.source('PROPAGATORS')} asks for a propagator that is not installed.",
            hint=str(error),
            id=NO_PROPAGATOR,
        )
    if settings.source("INSTRUMENTATIONS") != "default":
        # Not at the top: who runs no checks need not wait for it.
        from importlib.metadata import entry_points

        installed = {point.name for point in entry_points(group="opentelemetry_instrumentor")}
        for name in settings.instrumentations:
            if name not in OURS and name not in installed:
                yield checks.Error(
                    f"{settings.source('INSTRUMENTATIONS')} contains {name!r}, which is no instrumentation here.",
                    hint=(
                        f"Ours are {', '.join(OURS)}. One of OpenTelemetry's needs its package, which "
                        "https://opentelemetry.io/ecosystem/registry/?language=python names."
                    ),
                    id=UNKNOWN_INSTRUMENTATION,
                )
    if {"request", "django"} <= set(settings.instrumentations):
        yield checks.Warning(
            f"{settings.source('INSTRUMENTATIONS')} contains both 'request' and 'django', which trace the same.",
            hint="Take one of them out: 'request' is this app's own, 'django' is OpenTelemetry's.",
            id=TRACED_TWICE,
        )


def check_deployment(app_configs: Any = None, **kwargs: Any) -> list[checks.CheckMessage]:
    """What ``check --deploy`` adds: credentials that anyone on the way can read."""
    settings = get_settings()
    if settings.problems or settings.endpoint is None:
        return []
    parts = urlsplit(settings.endpoint)
    local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if parts.scheme != "https" and not local and (settings.headers or parts.password):
        return [
            checks.Warning(
                f"{settings.source('ENDPOINT')} sends the credentials of your trace backend without TLS.",
                hint="Use an https:// endpoint, or take the credentials out.",
                id=CREDENTIALS_IN_THE_CLEAR,
            )
        ]
    return []
