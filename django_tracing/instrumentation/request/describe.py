"""Describe a request on its span: URL, route, client, status and user.

Sets of attributes that repeat from request to request are made once and kept in bounded caches.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from opentelemetry.trace import Span

from django_tracing import spans
from django_tracing.conf.values import Settings
from django_tracing.context.clients import client_address
from django_tracing.context.description import NO_ROUTE, resolved_route, url_of, urlconf_of
from django_tracing.context.request import RequestState
from django_tracing.context.routes import route_name
from django_tracing.instrumentation.request.page_names import page_name
from django_tracing.recording.shared import SharedAttributes
from django_tracing.redaction import REDACTED, SensitiveKeys, cut, redact_query, redact_text, sanitise_url
from django_tracing.redaction.attributes import AGENT_LENGTH
from django_tracing.semconv import names
from django_tracing.semconv.names import Attributes

__all__ = ["describe", "set_result", "start_attributes"]

#: The longest URL. URLs keep more than other attributes do: a cut URL is of no use.
_URL_LENGTH: Final = 2000
#: Longer values are not cached: they hardly repeat.
_KEPT_LENGTH: Final = 512

_starts: Final[spans.Cache[str, SharedAttributes]] = spans.Cache()
#: By method, route, URLconf and status.
_results: Final[spans.Cache[tuple[str, str | None, Any, int | None], tuple[str, SharedAttributes]]] = spans.Cache()
#: By user agent, address and the longest attribute.
_clients: Final[spans.Cache[tuple[str | None, str, int], SharedAttributes]] = spans.Cache()
#: By scheme, host, path, query, the secret values in the path, sensitive keys and the longest attribute.
_urls: Final[spans.Cache[tuple[Any, ...], SharedAttributes]] = spans.Cache()


def start_attributes(method: str) -> SharedAttributes:
    """Return the attributes that are known before the request has been handled."""
    return _starts.get(method) or _starts.keep(
        method, spans.share({names.OPERATION_TYPE: "http", names.HTTP_METHOD: method})
    )


def set_result(
    span: Span,
    state: RequestState,
    method: str,
    settings: Settings,
    response: HttpResponseBase | None,
    *,
    owned: bool,
) -> None:
    """Set on ``span`` what was requested, by which client and user, and how it was answered; and set its name.

    ``response`` is None if the request ended without one. A span keeps a name that the site's code gave it, and
    one that another library started, and that is not ``owned`` by this app, its own.
    """
    status = None if response is None else response.status_code
    name, shared = describe(state.request, method, settings, status)
    user = state.user_attributes
    spans.set_shared(span, shared if user is None else (*shared, user))
    if owned:
        # It starts with the method as its name.
        if getattr(span, "name", method) == method:
            page = page_name(state.request, response, settings)
            spans.set_name(span, name if page is None else f"{method} {page}")
    elif user is not None:
        spans.set_request_attributes(span, user.attributes)


def describe(
    request: HttpRequest, method: str, settings: Settings, status: int | None
) -> tuple[str, tuple[SharedAttributes, SharedAttributes, SharedAttributes]]:
    """Return the name by method and route, and the attributes: of route and status, of the client, of the URL."""
    meta = request.META
    limit = settings.max_attribute_length
    query = meta.get("QUERY_STRING") or ""
    host = meta.get("HTTP_HOST") or (meta.get("SERVER_NAME"), meta.get("SERVER_PORT"))
    arguments = getattr(getattr(request, "resolver_match", None), "captured_kwargs", None)
    secrets = _secret_arguments(arguments, settings.sensitive_keys) if arguments else ()
    url = (request.scheme, host, request.path, query, secrets, settings.sensitive_keys, limit)
    client = (meta.get("HTTP_USER_AGENT"), client_address(meta, settings.trusted_proxies), limit)
    result = (method, resolved_route(request), urlconf_of(request), status)
    name, attributes = _results.get(result) or _describe_result(*result)
    return name, (
        attributes,
        _clients.get(client) or _describe_client(*client),
        _urls.get(url) or _describe_url(request, url),
    )


def _describe_result(
    method: str, route: str | None, urlconf: Any, status: int | None
) -> tuple[str, SharedAttributes]:
    attributes: Attributes = {}
    shown = NO_ROUTE
    if route is not None:
        shown = route_name(route, urlconf)
        attributes[names.HTTP_ROUTE] = cut(shown, _URL_LENGTH)
    if status is not None:
        attributes[names.HTTP_STATUS_CODE] = status
    return _results.keep((method, route, urlconf, status), (f"{method} {shown}", spans.share(attributes)))


def _describe_client(agent: str | None, address: str, limit: int) -> SharedAttributes:
    attributes: Attributes = {}
    redacted = redact_text(agent) if agent else agent
    if redacted:
        attributes[names.HTTP_USER_AGENT] = cut(redacted, max(limit, AGENT_LENGTH))
    if address:
        attributes[names.HTTP_CLIENT_IP] = address
    shared = spans.share(attributes)
    # A user agent that contains a secret is not kept in memory.
    if agent and (len(agent) > _KEPT_LENGTH or redacted != agent):
        return shared
    return _clients.keep((agent, address, limit), shared)


def _describe_url(request: HttpRequest, key: tuple[Any, ...]) -> SharedAttributes:
    *_, query, secrets, sensitive_keys, limit = key
    sensitive = _sensitive_keys(sensitive_keys)
    url = url_of(request, request.path)
    route = route_name(resolved_route(request) or "", urlconf_of(request)) if secrets else ""
    shown = url_of(request, _without(request.path, route, secrets)) if secrets else url
    sanitized = sanitise_url(shown, sensitive)
    attributes: Attributes = {names.HTTP_URL: cut(sanitized, _URL_LENGTH)}
    if query:
        for name, value in redact_query(query, sensitive).items():
            attributes[names.HTTP_QUERY + name] = cut(value, limit)
    shared = spans.share(attributes)
    # A URL that contains a secret is not kept in memory.
    return _urls.keep(key, shared) if sanitized == url and len(url) <= _KEPT_LENGTH else shared


def _secret_arguments(arguments: Mapping[str, Any], sensitive_keys: tuple[str, ...]) -> tuple[str, ...]:
    """Return the values in the path of route parameters with a sensitive name: ``reset/<token>/``."""
    sensitive = _sensitive_keys(sensitive_keys)
    return tuple(str(value) for name, value in arguments.items() if sensitive.matches(name))


def _without(path: str, route: str, secrets: tuple[str, ...]) -> str:
    """Return ``path`` with ``[redacted]`` for the segments that are, or contain, one of ``secrets``."""
    for value in secrets:
        segments = path.split("/")
        if value in segments:
            path = "/".join(REDACTED if segment == value else segment for segment in segments)
        elif value and value in path:
            path = path.replace(value, REDACTED)
        else:
            # A converter has changed the text, so its place in the path is not known.
            return route
    return path


@lru_cache(maxsize=8)
def _sensitive_keys(extra: tuple[str, ...]) -> SensitiveKeys:
    return SensitiveKeys(extra)
