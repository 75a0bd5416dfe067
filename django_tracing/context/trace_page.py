"""Build the address of the page that shows a trace, for people who read it outside the site.

A host in a request is chosen by the client. A link goes only to hosts that ``ALLOWED_HOSTS`` names, or to this
machine: with ``ALLOWED_HOSTS = ["*"]``, a request could otherwise make a log line link to any site.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import urlsplit

from django.conf import settings as site
from django.http import HttpRequest
from django.http.request import split_domain_port, validate_host
from django.urls.resolvers import RoutePattern

from django_tracing.net import link_base

__all__ = [
    "PLAIN_APP",
    "PLAIN_URLS",
    "PlainMount",
    "address_in_request",
    "jaeger_address",
    "list_path",
    "origin_of_url",
    "page_path",
    "pages_read_traces",
    "plain_mounts",
]

#: The ``app_name`` of the pages outside the admin, and the module with their URLs.
PLAIN_APP: Final = "django_tracing_pages"
PLAIN_URLS: Final = "django_tracing.pages.urls"

_THIS_MACHINE: Final = (".localhost", "127.0.0.1", "[::1]")


class _ReaderSettings(Protocol):
    @property
    def reader(self) -> Any: ...

    @property
    def exporter(self) -> str: ...

    @property
    def query_url(self) -> str | None: ...


def pages_read_traces(settings: _ReaderSettings) -> bool:
    """Return whether pages can show the traces: they are in the local store, or the settings name a reader."""
    return settings.reader is not None or settings.exporter == "local" or bool(settings.query_url)


def page_path(trace_id: str) -> str:
    """Return the path of a trace's page, in the admin or without it; "" if this project has none. Never raises."""
    return _path("trace", trace_id)


def list_path() -> str:
    """Return the path of the list of traces, in the admin or without it; "" if there is none. Never raises."""
    return _path("changelist")


def _path(page: str, *args: str) -> str:
    # Here: the URLs of a project are imported with its first request.
    from django.urls import NoReverseMatch, reverse

    try:
        with suppress(NoReverseMatch):
            return reverse(f"admin:django_tracing_trace_{page}", args=args)
        for mount in plain_mounts():
            # It may be below a pattern with parameters.
            with suppress(NoReverseMatch):
                return reverse(f"{mount.namespace}:trace_{page}", args=args)
    except Exception:  # an error in the project's URLs: Django reports it
        return ""
    return ""


class PlainMount(NamedTuple):
    """Where a project includes ``django_tracing.pages.urls``."""

    #: With the namespaces around it.
    namespace: str
    #: A text that is in the path of each of its pages; "" if none is known.
    path: str


def plain_mounts(urlconf: Any = None) -> tuple[PlainMount, ...]:
    """Return where a project (or one of its URLconfs) includes ``django_tracing.pages.urls``. Never raises."""
    # The project's URLs import the module, and most projects' don't.
    if PLAIN_URLS not in sys.modules:
        return ()
    from django.urls import get_resolver

    try:
        return _mounts_of(get_resolver(urlconf))
    except Exception:  # an error in the project's URLs: Django reports it
        return ()


@lru_cache(maxsize=8)
def _mounts_of(resolver: Any) -> tuple[PlainMount, ...]:
    return tuple(_mounts_below(resolver, ""))


def _mounts_below(resolver: Any, above: str) -> Iterator[PlainMount]:
    # Django has the last of the patterns first.
    for namespace, (_prefix, inner) in reversed(resolver.namespace_dict.items()):
        if inner.app_name == PLAIN_APP:
            yield PlainMount(f"{above}{namespace}", _fixed_text(inner.pattern))
        else:
            yield from _mounts_below(inner, f"{above}{namespace}:")


def _fixed_text(pattern: Any) -> str:
    """Return the route of ``path``; "" if it has parameters, or differs by language, or is a regular expression."""
    route = getattr(pattern, "_route", "") if isinstance(pattern, RoutePattern) else ""
    return route if isinstance(route, str) and "<" not in route else ""


def jaeger_address(settings: _ReaderSettings, trace_id: str) -> str:
    """Return the address of a trace in Jaeger's UI; "" without a Jaeger, or if its path may hold a secret."""
    links = None if settings.query_url is None else link_base(settings.query_url)
    return f"{links}/trace/{trace_id}" if links else ""


def address_in_request(settings: _ReaderSettings, request: Any, trace_id: str) -> str:
    """Return the absolute address of a trace's page on the host of ``request``, or in Jaeger's UI. Never raises.

    Return "" if no page shows the trace, or if its host is unknown.
    """
    return _address_on_site(settings, request, trace_id) or jaeger_address(settings, trace_id)


def _address_on_site(settings: _ReaderSettings, request: Any, trace_id: str) -> str:
    if not isinstance(request, HttpRequest) or not pages_read_traces(settings):
        return ""
    try:
        host, scheme = request.get_host(), request.scheme
    except Exception:  # a refused Host header, a wrong setting
        return ""
    path = page_path(trace_id) if _is_own(host) else ""
    return f"{scheme}://{host}{path}" if path else ""


def origin_of_url(url: str) -> str:
    """Return the scheme and host of the URL of a request, as its span has it; "" if they are not this site's."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    if parts.scheme not in ("http", "https") or not _is_own(parts.netloc):
        return ""
    return f"{parts.scheme}://{parts.netloc}"


def _is_own(host: str) -> bool:
    domain, _port = split_domain_port(host)
    named = [pattern for pattern in site.ALLOWED_HOSTS if pattern != "*"]
    return bool(domain) and validate_host(domain, [*named, *_THIS_MACHINE])
