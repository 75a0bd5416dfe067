"""Check the settings, as Django's system checks. Ids are append-only; docs/checks.md has a section for each."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from inspect import iscoroutinefunction
from typing import Any, Final
from urllib.parse import urlsplit

from django.apps import apps
from django.core import checks
from django.urls import NoReverseMatch, get_resolver, reverse

from django_tracing.conf import environment
from django_tracing.conf.loading import DEFAULT_ENDPOINTS, get_settings
from django_tracing.conf.parsers import did_you_mean
from django_tracing.conf.values import Settings
from django_tracing.context.propagation import available_propagator
from django_tracing.context.trace_page import plain_mounts
from django_tracing.exceptions import MissingExtra
from django_tracing.faults import contained
from django_tracing.instrumentation import OURS, third_party
from django_tracing.instrumentation.upstream.known import KNOWN
from django_tracing.provider import exporter_source, make_exporter, tls_setting
from django_tracing.redaction.printable import printable
from django_tracing.spans import runtime

__all__ = ["check_deployment", "check_pages", "check_settings", "register"]

WRONG_SETTING: Final = "django_tracing.E001"
NO_EXPORTER: Final = "django_tracing.E002"
UNKNOWN_INSTRUMENTATION: Final = "django_tracing.E003"
SUBSCRIPTION_AWAITED: Final = "django_tracing.E005"
ROUTE_NAME_UNUSABLE: Final = "django_tracing.E006"
TRACED_TWICE: Final = "django_tracing.W001"
CREDENTIALS_IN_THE_CLEAR: Final = "django_tracing.W002"
WRONG_ENVIRONMENT: Final = "django_tracing.W003"
EXPORTER_NOT_INSTALLED: Final = "django_tracing.W004"
INSTRUMENTATION_NOT_INSTALLED: Final = "django_tracing.W005"
NO_PROPAGATOR: Final = "django_tracing.W006"
EVERY_CALLER_DECIDES: Final = "django_tracing.W007"
VARIABLE_NOT_HONORED: Final = "django_tracing.W008"
REGISTERED_SAMPLER: Final = "django_tracing.W009"
LOCAL_STORE_DEPLOYED: Final = "django_tracing.W010"
SPOOL_UNUSABLE: Final = "django_tracing.W011"
PAGES_UNUSABLE: Final = "django_tracing.W012"
LOCAL_STORE_REMOTE: Final = "django_tracing.W013"


def register() -> None:
    """Register the checks. A second call does nothing."""
    checks.register(check_settings)
    checks.register(check_pages)
    checks.register(check_deployment, deploy=True)


def check_settings(app_configs: Any = None, **kwargs: Any) -> list[checks.CheckMessage]:
    """Check TRACING and the environment."""
    return list(_messages(get_settings()))


def _messages(settings: Settings) -> Iterable[checks.CheckMessage]:
    for problem in settings.problems:
        if problem.in_environment:
            # It is not in the code: a deployment's mistake must not keep migrate from running.
            yield checks.Warning(
                f"{problem.source} {problem.message} Tracing is off.", hint=problem.hint, id=WRONG_ENVIRONMENT
            )
        else:
            yield checks.Error(f"{problem.source} {problem.message}", hint=problem.hint, id=WRONG_SETTING)
    if settings.problems or settings.enabled:
        yield from _variables(settings)
    if settings.problems or not settings.enabled:
        return
    yield from _exporters(settings)
    yield from _spool(settings)
    yield from _file_system(settings)
    if _is_coroutine_function(settings.subscription):
        yield checks.Error(
            f"{settings.source('SUBSCRIPTION')} is a coroutine function, which can't be awaited where a span starts.",
            hint='Write it as "def", and let it return what is already loaded. Until then, spans have no '
            '"user.subscription".',
            id=SUBSCRIPTION_AWAITED,
        )
    if settings.route_name is not None:
        yield from _route_name(settings)
    for missing in available_propagator(settings.propagators)[1]:
        yield checks.Warning(
            f"{settings.source('PROPAGATORS')} names a propagator that can't be used. The others are used.",
            hint=str(missing),
            id=NO_PROPAGATOR,
        )
    if settings.source("INSTRUMENTATIONS") != "default":
        yield from _instrumentations(settings)
    if {"request", "django"} <= set(settings.instrumentations):
        yield checks.Warning(
            f"{settings.source('INSTRUMENTATIONS')} contains both 'request' and 'django', which trace the same.",
            hint="Remove one of them: 'request' is this app's own, 'django' is OpenTelemetry's.",
            id=TRACED_TWICE,
        )


def _is_coroutine_function(function: object) -> bool:
    """Return whether ``function`` is a coroutine function, or an object whose ``__call__`` is one."""
    return iscoroutinefunction(function) or iscoroutinefunction(vars(type(function)).get("__call__"))


def _route_name(settings: Settings) -> Iterable[checks.CheckMessage]:
    # Imported with the middleware anyway, but not by every command.
    from django_tracing.instrumentation.request.page_names import load_route_name

    problem = ""
    try:
        with contained():
            function = load_route_name(settings)
        if _is_coroutine_function(function):
            problem = "is a coroutine function, which can't be awaited where a span ends."
    except Exception as error:
        problem = f"can't be imported: {error}."
    if problem:
        yield checks.Error(
            f"{settings.source('ROUTE_NAME')} {problem}",
            hint='Write it as the path of a function of the request: "shop.tracing.route_name". Until then, spans '
            "are named by their routes.",
            id=ROUTE_NAME_UNUSABLE,
        )


def _variables(settings: Settings) -> Iterable[checks.CheckMessage]:
    """Check OpenTelemetry's own variables."""
    for wrong in environment.problems():
        yield checks.Warning(
            f"environment variable {wrong.variable} {wrong.message} {wrong.effect}",
            hint=wrong.hint,
            id=WRONG_ENVIRONMENT,
        )
    for problem in settings.warnings:
        yield checks.Warning(
            f"{problem.source} {problem.message} It counts as unset.", hint=problem.hint, id=WRONG_ENVIRONMENT
        )
    if not _has_own_provider():
        # Whatever set the provider honors them: opentelemetry-instrument, or the project's own code.
        return
    if settings.sampler is not None:
        yield from _sampler(settings)
    # Imported here: only the checks need the long list.
    from django_tracing.conf.variables import NOT_HONORED, not_honored

    for name in not_honored(os.environ):
        yield checks.Warning(
            f"environment variable {name} is set, and has no effect on django_tracing.",
            hint=f"{NOT_HONORED[name]} docs/settings.md lists the variables that have one.",
            id=VARIABLE_NOT_HONORED,
        )


def _has_own_provider() -> bool:
    """Return whether this app set the TracerProvider of this process, or has not started yet."""
    if not runtime.current.tracing:
        return True
    from opentelemetry import trace

    from django_tracing.sampling.registered import GuardedSampler
    from django_tracing.sampling.sampler import RuleSampler

    return isinstance(getattr(trace.get_tracer_provider(), "sampler", None), (RuleSampler, GuardedSampler))


def _sampler(settings: Settings) -> Iterable[checks.CheckMessage]:
    """Check the sampler of an installed package, which replaces this app's."""
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON

    from django_tracing.sampling.registered import make_registered_sampler

    source = settings.source("SAMPLER")
    try:
        make_registered_sampler(str(settings.sampler), settings.sampler_argument, ALWAYS_ON)
    except Exception as error:
        yield checks.Warning(
            f"{source} is {settings.sampler!r}, which can't be made "
            f"({printable(f'{type(error).__name__}: {error}', 300)}). It counts as unset.",
            hint="Correct OTEL_TRACES_SAMPLER_ARG, or choose a sampler of OpenTelemetry's specification.",
            id=WRONG_ENVIRONMENT,
        )
        return
    yield checks.Warning(
        f"{source} is {settings.sampler!r}, a sampler of an installed package. It decides alone: the admin's rules, "
        "SAMPLE_RATE, TRUST_PARENT, KEEP_ERRORS, KEEP_SLOWER_THAN and DEBUG_HEADER are not applied.",
        hint="Silence this check if that is intended. To use the rules, unset the variable or set "
        'TRACING["SAMPLE_RATE"].',
        id=REGISTERED_SAMPLER,
    )


def _exporters(settings: Settings) -> Iterable[checks.CheckMessage]:
    yield from _exporter(settings)
    for kind in settings.more_exporters:
        yield from _exporter(settings._replace(exporter=kind, endpoint=DEFAULT_ENDPOINTS.get(kind)))


def _spool(settings: Settings) -> Iterable[checks.CheckMessage]:
    if settings.spool is None:
        return
    # Imported here: most sites have none.
    from django_tracing.export.spool import can_spool, is_writable

    folder = settings.spool.path
    if settings.exporter not in ("otlp", "otlp-grpc"):
        problem = f"is not used by the exporter {settings.exporter!r}."
        hint = "Only OTLP has batches that can wait on disk. Set ENDPOINT to an OTLP endpoint, or remove SPOOL."
    elif not can_spool():
        problem, hint = "is not used on this system, which has no flock().", "Remove it."
    elif not is_writable(folder):
        problem = f"has the PATH {folder}, which can't be written to."
        hint = "Choose a folder that this user may write to. Until then, batches wait in memory."
    else:
        return
    yield checks.Warning(f"{settings.source('SPOOL')} {problem}", hint=hint, id=SPOOL_UNUSABLE)


def _exporter(settings: Settings) -> Iterable[checks.CheckMessage]:
    try:
        exporter = make_exporter(settings)
        if exporter is not None:
            exporter.shutdown()
    except Exception as error:
        source = exporter_source(settings, error)
        # The file may be there where the site runs. A build machine without it must be able to run migrate.
        file = bool(tls_setting(error))
        if file:
            message = f"{source} names a file that the exporter {settings.exporter!r} can't use. Spans are not sent."
        else:
            message = f"{source} names the exporter {settings.exporter!r}, which can't be made. Spans are not sent."
        if isinstance(error, MissingExtra) or file or not source.startswith("TRACING"):
            yield checks.Warning(message, hint=str(error), id=EXPORTER_NOT_INSTALLED)
        else:
            yield checks.Error(message, hint=str(error), id=NO_EXPORTER)


def _instrumentations(settings: Settings) -> Iterable[checks.CheckMessage]:
    # Imported here: a process that runs no checks does not need it.
    from importlib.metadata import entry_points

    installed = {point.name for point in entry_points(group="opentelemetry_instrumentor")}
    for name in settings.instrumentations:
        if name in OURS or name in installed or name in third_party.names():
            continue
        registry = "https://opentelemetry.io/ecosystem/registry/?language=python lists its package."
        if name in KNOWN:
            yield checks.Warning(
                f"{settings.source('INSTRUMENTATIONS')} contains {name!r}, which is not installed here.",
                hint=f"It is one of OpenTelemetry's: {registry} Until it is installed, it is left out.",
                id=INSTRUMENTATION_NOT_INSTALLED,
            )
        else:
            yield checks.Error(
                f"{settings.source('INSTRUMENTATIONS')} contains {name!r}, which is not an instrumentation"
                f"{did_you_mean(name, (*OURS, *KNOWN))}.",
                hint=f"Ours are {', '.join(OURS)}. For one of OpenTelemetry's, {registry}",
                id=UNKNOWN_INSTRUMENTATION,
            )


def check_pages(app_configs: Any = None, **kwargs: Any) -> Iterable[checks.CheckMessage]:
    """Check where the project includes ``django_tracing.pages.urls``."""
    # Django's own check imports the URLs, too, and reports their errors.
    with suppress(Exception):
        get_resolver().url_patterns  # noqa: B018
    for mount in plain_mounts():
        if not apps.is_installed("django.contrib.auth"):
            yield checks.Warning(
                "Nobody may see the pages of django_tracing.pages.urls: their permissions are those of "
                "django.contrib.auth, which is not installed.",
                hint="Add it to INSTALLED_APPS, or remove the pages from the URLs.",
                id=PAGES_UNUSABLE,
            )
            return
        try:
            reverse(f"{mount.namespace}:trace_changelist")
        except NoReverseMatch:
            yield checks.Warning(
                f"The pages of django_tracing.pages.urls with the namespace {mount.namespace!r} can't be shown: they "
                "are below a pattern with parameters.",
                hint="Include them below a pattern without parameters.",
                id=PAGES_UNUSABLE,
            )


def check_deployment(app_configs: Any = None, **kwargs: Any) -> list[checks.CheckMessage]:
    """Check what matters in production only: credentials without TLS, who may force traces, and the local store."""
    settings = get_settings()
    if settings.problems or not settings.enabled:
        return []
    return [*_credentials(settings), *_callers(settings), *_local_store(settings)]


def _local_store(settings: Settings) -> Iterable[checks.CheckMessage]:
    if settings.exporter != "local" or settings.more_exporters:
        return
    chosen = settings.source("EXPORTER")
    why = "no ENDPOINT is set" if chosen == "default" else f"chosen by {chosen}"
    yield checks.Warning(
        f"Traces are written to the local store of this machine ({why}): {settings.local_store}.",
        hint='To collect the traces of all machines, send them to a backend: TRACING = {"ENDPOINT": '
        '"http://jaeger:4318"}. Silence this check if the site runs on one machine and its admin shows the traces.',
        id=LOCAL_STORE_DEPLOYED,
    )


def _file_system(settings: Settings) -> Iterable[checks.CheckMessage]:
    if "local" not in (settings.exporter, *settings.more_exporters):
        return
    # Imported here: it imports SQLite.
    from django_tracing.sqlite_file import network_file_system

    kind = network_file_system(settings.local_store)
    if kind is not None:
        yield checks.Warning(
            f"The local store {settings.local_store} is on a network file system ({kind}), where SQLite's files can "
            f"be damaged if processes of several machines use them.",
            hint="Set LOCAL_STORE to a path on a disk of this machine, or send the traces to a backend.",
            id=LOCAL_STORE_REMOTE,
        )


def _callers(settings: Settings) -> Iterable[checks.CheckMessage]:
    trusted = settings.trust_parent
    if trusted != "always" and (isinstance(trusted, str) or all(network.prefixlen for network in trusted)):
        return
    bound = settings.forced_per_second
    most = "any number of" if bound is None else f"up to {bound:g}"
    yield checks.Warning(
        'TRACING["TRUST_PARENT"] names everybody: the sender of a request decides by its headers to which trace it '
        f"belongs and whether it is recorded. It can force {most} traces a second in each process "
        "(FORCED_PER_SECOND).",
        hint='Remove it, or name the networks of your services, TRACING = {"TRUST_PARENT": ["10.0.0.0/8"]}, and your '
        "proxies in TRUSTED_PROXIES. Silence this check where only your own services can call.",
        id=EVERY_CALLER_DECIDES,
    )


def _credentials(settings: Settings) -> Iterable[checks.CheckMessage]:
    endpoints = settings.endpoints or (settings.endpoint,)
    if any(endpoint is not None and _is_in_the_clear(endpoint, settings) for endpoint in endpoints):
        yield checks.Warning(
            f"{settings.source('ENDPOINT')} sends the credentials of your trace backend without TLS.",
            hint="Use an https:// endpoint, or remove the credentials.",
            id=CREDENTIALS_IN_THE_CLEAR,
        )


def _is_in_the_clear(endpoint: str, settings: Settings) -> bool:
    parts = urlsplit(endpoint)
    local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    return parts.scheme != "https" and not local and bool(settings.headers or parts.password)
