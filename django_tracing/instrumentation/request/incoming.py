"""Read an incoming request: whether it is traced, and the trace context that its caller sent.

Whoever sends the ids of a trace has chosen them. A stranger who knows the id of somebody's trace could add spans to
it, or hide all its requests in one trace, of which only so many spans are stored. So only the traces of callers in
``TRACING["TRUST_PARENT"]`` are continued. For all others a trace begins here, with a link to theirs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from django.conf import settings as site
from django.core.signals import setting_changed
from django.http import HttpRequest
from django.urls import get_script_prefix
from opentelemetry import propagate
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter, TextMapPropagator
from opentelemetry.trace import SpanContext, get_current_span

from django_tracing.conf.patterns import bounded_search
from django_tracing.conf.values import Settings
from django_tracing.context.clients import is_trusted
from django_tracing.context.description import host_of, resolve_early, urlconf_of
from django_tracing.context.extraction import extract
from django_tracing.context.trace_page import PLAIN_APP, PLAIN_URLS, plain_mounts
from django_tracing.faults import CONTAINED, log_once

__all__ = ["Caller", "is_left_out", "read_caller"]

#: Part of the path of this app's pages in the admin, wherever the admin is.
_OWN_PAGES: Final = "/django_tracing/trace/"
#: The end of the path of this app's own view for probes.
_HEALTH: Final = ("/health", "/health/")


# ----- whether it is traced


def is_left_out(request: HttpRequest, settings: Settings) -> bool:
    """Return whether the request is not to be traced.

    It is in ``IGNORE_PATHS``, or for a static or media file, or excluded by a variable of OpenTelemetry's, or shows
    traces: a page of traces that refreshes itself would fill with its own requests. Or it is a probe of this app's.
    """
    path = request.path_info
    return bool(
        (path.startswith(_bare(settings.ignore_paths)) and _is_ignored(path, settings.ignore_paths))
        or (settings.ignore_static and path.startswith(_static_paths()))
        or (settings.excluded_urls and _is_excluded(request, settings.excluded_urls))
        or (_may_be_own_page(path, request) and _is_own_page(request))
        or (path.endswith(_HEALTH) and _is_probe(request))
    )


def _is_ignored(path: str, ignored: tuple[str, ...]) -> bool:
    return any(
        path.startswith(prefix) and (len(path) == len(prefix) or path[len(prefix)] == "/")
        for prefix in _bare(ignored)
    )


@lru_cache(maxsize=8)
def _bare(prefixes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(prefix.rstrip("/") for prefix in prefixes)


@lru_cache(maxsize=1)
def _static_paths() -> tuple[str, ...]:
    """Return the beginnings of the paths of static and media files, below the site's prefix."""
    # STATIC_URL and MEDIA_URL begin with the prefix if they are relative.
    prefix = get_script_prefix()
    whitenoise = any("whitenoise" in str(name) for name in site.MIDDLEWARE)
    paths = []
    for setting in ("STATIC_URL", "MEDIA_URL", "WHITENOISE_STATIC_PREFIX"):
        try:
            parts = urlsplit(str(getattr(site, setting, None) or ""))
        except ValueError:  # no URL
            continue
        # The files of another host are requested here only by a CDN that fetches them from WhiteNoise.
        if parts.netloc and not whitenoise:
            continue
        path = parts.path.removeprefix(prefix).strip("/")
        # A MEDIA_URL that is not set is all of the site.
        if path:
            paths.append(f"/{path}/")
    return tuple(paths)


def _forget_static_paths(*, setting: str, **kwargs: Any) -> None:
    if setting in ("STATIC_URL", "MEDIA_URL", "WHITENOISE_STATIC_PREFIX", "MIDDLEWARE"):
        _static_paths.cache_clear()


setting_changed.connect(_forget_static_paths, dispatch_uid="django_tracing.static_paths")


def _is_excluded(request: HttpRequest, patterns: tuple[str, ...]) -> bool:
    # The text that OpenTelemetry's instrumentations search: the URL, with a question mark in place of the query.
    url = f"{request.scheme}://{host_of(request.META)}{request.path}?"
    return any(search(url) is not None for search in _searches(patterns))


@lru_cache(maxsize=8)
def _searches(patterns: tuple[str, ...]) -> tuple[Callable[[str], object], ...]:
    return tuple(bounded_search(pattern, len(patterns)) for pattern in patterns)


def _may_be_own_page(path: str, request: HttpRequest) -> bool:
    # Asked of every request: most sites have none of these URLs.
    return _OWN_PAGES in path or (
        PLAIN_URLS in sys.modules and any(mount.path in path for mount in plain_mounts(urlconf_of(request)))
    )


def _is_own_page(request: HttpRequest) -> bool:
    """Return whether the path leads to a page of traces, and does not only look like one."""
    match = resolve_early(request.path_info, urlconf_of(request))
    if match is None:
        return False
    name = match.url_name or ""
    if PLAIN_APP in match.app_names:
        return name.startswith("trace_")
    return "admin" in match.app_names and name.startswith("django_tracing_trace_")


def _is_probe(request: HttpRequest) -> bool:
    """Return whether the path leads to the view of this app's health, and not to one of the site's."""
    match = resolve_early(request.path_info, urlconf_of(request))
    return match is not None and match.url_name == "health" and "django_tracing" in match.app_names


# ----- the caller's trace context


class _EnvironGetter(Getter[Mapping[str, Any]]):
    """Look up headers in ``request.META``."""

    def get(self, carrier: Mapping[str, Any], key: str) -> list[str] | None:
        value = carrier.get(_environ_key(key))
        return None if value is None else [value]

    def keys(self, carrier: Mapping[str, Any]) -> list[str]:
        return [key[5:].replace("_", "-").lower() for key in carrier if key.startswith("HTTP_")]


_getter: Final = _EnvironGetter()


class Caller(NamedTuple):
    """What a request's caller sent."""

    #: The current context, with what the caller sent if it is trusted.
    context: Context
    #: The span of a caller that is not trusted.
    stranger: SpanContext | None = None


def read_caller(meta: Mapping[str, Any], current: Context, settings: Settings) -> Caller:
    """Return the context that the caller sent. Most requests carry none: nothing is parsed then."""
    propagator = propagate.get_global_textmap()
    try:
        keys = _environ_keys(propagator)
    except CONTAINED:
        log_once("fields", "The headers of the propagator %s are not known.", type(propagator).__name__)
        return Caller(current)
    for key in keys:
        if key in meta:
            found = extract(meta, current, _getter)
            if is_trusted(meta, settings.trust_parent, settings.trusted_proxies):
                return Caller(found)
            span = get_current_span(found).get_span_context()
            if not span.is_valid or not span.is_remote:
                return Caller(current)
            # Without what else the stranger wrote into the trace's state.
            return Caller(current, SpanContext(span.trace_id, span.span_id, True, span.trace_flags))
    return Caller(current)


@lru_cache(maxsize=8)
def _environ_keys(propagator: TextMapPropagator) -> tuple[str, ...]:
    return tuple(_environ_key(header) for header in propagator.fields)


@lru_cache(maxsize=64)
def _environ_key(header: str) -> str:
    return "HTTP_" + header.upper().replace("-", "_")
