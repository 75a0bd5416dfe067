"""Describe a request: its method, host, URL and route, as spans, sampling rules and pages show them.

Everything that needs one of these asks here, so that a rule or a strategy that is written as a span's name reads
matches that span. The client's address is in :mod:`django_tracing.context.clients`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from django.conf import settings as site
from django.http import HttpRequest
from django.urls import ResolverMatch, resolve
from django.utils import translation

__all__ = [
    "find_route",
    "host_of",
    "method_of",
    "readable_route",
    "resolve_early",
    "resolved_route",
    "span_name",
    "url_of",
]

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
#: The method that spans show for any other.
OTHER_METHOD: Final = "HTTP"
_SLASHES: Final = re.compile(r"/{2,}")


def method_of(request: HttpRequest) -> str:
    """Return the request's method, or ``HTTP`` for one that HTTP does not define.

    Clients can send any word as a method: each would make a span name of its own.
    """
    method = request.method or ""
    return method if method in _METHODS else OTHER_METHOD


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


def find_route(path_info: str, urlconf: Any = None) -> str:
    """Return the readable route of a path that Django has not resolved yet; empty if no route matches.

    This is the route that the request's span will show.
    """
    match = resolve_early(path_info, urlconf)
    return "" if match is None else readable_route(str(match.route))


def resolve_early(path_info: str, urlconf: Any = None) -> ResolverMatch | None:
    """Resolve a path as Django will, before any middleware has run; None if it leads nowhere. Never raises."""
    # Only sites with rules by route come here, and Django imports it with the first request anyway.
    from django.conf.urls.i18n import is_language_prefix_patterns_used

    try:
        if not is_language_prefix_patterns_used(urlconf or site.ROOT_URLCONF)[0]:
            return resolve(path_info, urlconf)
        # The path starts with a language, which LocaleMiddleware has not activated yet. On other sites the language
        # is not read from the path: the client would choose which message catalogs are loaded.
        language = translation.get_language_from_path(path_info) or translation.get_language()
        with translation.override(language):
            return resolve(path_info, urlconf)
    except Exception:  # no such page, or an error in the site's URLs or converters: Django reports it
        return None


@lru_cache(maxsize=1024)
def readable_route(route: str) -> str:
    """Return a route of the URLconf as span names show it: with a leading slash, regular expressions simplified.

    ``re_path(r"^users/(?P<pk>[0-9]+)/$")`` becomes ``/users/<pk>/``.
    """
    if "^" in route or "(?" in route or "\\" in route:
        # Django's own simplification of regular expressions, from its admin documentation pages.
        from django.contrib.admindocs.utils import (
            remove_non_capturing_groups,
            replace_metacharacters,
            replace_named_groups,
            replace_unnamed_groups,
        )

        route = replace_metacharacters(
            replace_unnamed_groups(replace_named_groups(remove_non_capturing_groups(route)))
        )
        route = _SLASHES.sub("/", route)
    return route if route.startswith("/") else f"/{route}"


def span_name(request: HttpRequest) -> str:
    """Return the name of the request's span: its method and, once it is resolved, its readable route."""
    method = method_of(request)
    route = resolved_route(request)
    return method if route is None else f"{method} {readable_route(route)}"
