"""Describe a request: its method, host, URL and route, as spans, sampling rules and pages show them.

Everything that needs one of these asks here, so that a rule or a strategy that is written as a span's name reads
matches that span. The client's address is in :mod:`django_tracing.context.clients`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

from django.conf import settings as site
from django.http import HttpRequest
from django.urls import ResolverMatch, resolve
from django.utils import translation

from django_tracing.context.routes import route_name

__all__ = [
    "NO_ROUTE",
    "find_route",
    "host_of",
    "method_of",
    "resolve_early",
    "resolved_route",
    "span_name",
    "url_of",
    "urlconf_of",
]

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
#: The method that spans show for any other.
OTHER_METHOD: Final = "HTTP"
#: What names show in place of a route if no route matches.
NO_ROUTE: Final = "(no route)"


def method_of(request: HttpRequest) -> str:
    """Return the request's method, or ``HTTP`` for one that HTTP does not define.

    Clients can send any word as a method: each would make a span name of its own. A class of requests that has no
    method of HTTP (the handshake of a WebSocket) has the attribute ``span_method``.
    """
    method = request.method or ""
    return method if method in _METHODS else getattr(type(request), "span_method", OTHER_METHOD)


def host_of(meta: Mapping[str, Any]) -> str:
    """Return the host that the client asked for, with its port. ``meta`` is ``request.META``.

    Unlike ``request.get_host()`` it never raises, for a refused Host header should be visible in its span.
    """
    host = meta.get("HTTP_HOST")
    if host:
        return str(host)
    port = str(meta.get("SERVER_PORT", ""))
    return str(meta.get("SERVER_NAME", "")) + (f":{port}" if port not in ("", "80", "443") else "")


def url_of(request: HttpRequest, path: str) -> str:
    """Return the requested URL with ``path`` as its path, not redacted.

    ``build_absolute_uri`` raises for a refused Host header.
    """
    query = request.META.get("QUERY_STRING")
    return f"{request.scheme}://{host_of(request.META)}{path}" + (f"?{query}" if query else "")


def resolved_route(request: HttpRequest) -> str | None:
    """Return the route that Django resolved the request to, as it stands in the URLconf; None before and without."""
    match = getattr(request, "resolver_match", None)
    route = getattr(match, "route", None)
    return None if route is None else str(route)


def urlconf_of(request: HttpRequest) -> Any:
    """Return the request's URLconf: ROOT_URLCONF, unless a middleware chose another."""
    return getattr(request, "urlconf", None) or getattr(site, "ROOT_URLCONF", None)


def find_route(path_info: str, urlconf: Any = None) -> str:
    """Return the readable route of a path that Django has not resolved yet; empty if no route matches.

    This is the route that the request's span will show.
    """
    try:
        with _language_of(path_info, urlconf):
            return route_name(str(resolve(path_info, urlconf).route), urlconf)
    except Exception:  # no such page, or an error in the site's URLs or converters: Django reports it
        return ""


def resolve_early(path_info: str, urlconf: Any = None) -> ResolverMatch | None:
    """Resolve a path as Django will, before any middleware has run; None if it leads nowhere. Never raises."""
    try:
        with _language_of(path_info, urlconf):
            return resolve(path_info, urlconf)
    except Exception:  # as above
        return None


def _language_of(path_info: str, urlconf: Any) -> AbstractContextManager[object]:
    """Activate the language that a path starts with, as LocaleMiddleware will."""
    # Only sites with rules by route come here, and Django imports it with the first request anyway.
    from django.conf.urls.i18n import is_language_prefix_patterns_used

    if not is_language_prefix_patterns_used(urlconf or site.ROOT_URLCONF)[0]:
        # The language is not read from the path: the client would choose which message catalogs are loaded.
        return nullcontext()
    return translation.override(translation.get_language_from_path(path_info) or translation.get_language())


def span_name(request: HttpRequest) -> str:
    """Return the name of the request's span: its method and, if it was resolved, its readable route."""
    method = method_of(request)
    route = resolved_route(request)
    return f"{method} {NO_ROUTE if route is None else route_name(route, urlconf_of(request))}"
