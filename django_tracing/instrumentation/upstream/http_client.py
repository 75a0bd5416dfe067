"""Name the spans of OpenTelemetry's requests, httpx, urllib3 and urllib instrumentations after the called service.

The spans are OpenTelemetry's; their names and ``peer.service`` are ours, so that a service map shows services.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from opentelemetry.context import create_key

from django_tracing.redaction import cut
from django_tracing.semconv.names import HTTP_METHOD, HTTP_URL, OPERATION_TYPE, PEER_SERVICE, URL_FULL, Attributes

__all__ = ["CALL_KEY", "ExternalCall", "describe", "peer_service", "span_name"]

#: The context key of an :class:`ExternalCall`: an outgoing call that has a span already.
CALL_KEY: Final = create_key("django_tracing.external_call")


class ExternalCall:
    """A call to another service that the user's code traces (``trace_external_call``)."""

    __slots__ = ("delegated", "service")

    def __init__(self, service: str) -> None:
        self.service = service
        #: Whether the client library's instrumentation has started the call's CLIENT span.
        self.delegated = False


_METHODS: Final = frozenset({"get", "head", "post", "put", "patch", "delete", "options", "trace", "connect"})
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_NAME_LENGTH: Final = 100


def peer_service(url: str, services: Mapping[str, str]) -> str:
    """Return the service of ``url``: that of its ``host:port`` or its ``host`` in ``services``, else its host.

    ``services`` is ``TRACING["PEER_SERVICES"]``, with hosts in lower case. A URL without a port has its scheme's.
    Return ``unknown`` if the URL has no host.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return "unknown"
    # An IPv6 address is in brackets before a port.
    name = f"[{host}]" if ":" in host else host
    service = services.get(f"{name}:{port}") or services.get(name) or services.get(host)
    return cut(service or host or "unknown", _NAME_LENGTH)


def span_name(method: str, service: str) -> str:
    """Return ``http.get.user-service``. A method that HTTP does not define is ``other``."""
    verb = method.lower()
    return cut(f"http.{verb if verb in _METHODS else 'other'}.{service}", _NAME_LENGTH)


def describe(
    attributes: Mapping[str, Any], services: Mapping[str, str], call: ExternalCall | None = None
) -> tuple[str, Attributes] | None:
    """Return the name and our attributes of an HTTP client span that has ``attributes``; None for other spans.

    ``call`` is the call that the span belongs to, if the user's code traces it.
    """
    method = attributes.get(HTTP_METHOD) or attributes.get("http.request.method")
    url = attributes.get(HTTP_URL) or attributes.get(URL_FULL)
    if not method or not url:
        return None
    if call is None:
        service = peer_service(str(url), services)
    else:
        call.delegated = True
        service = call.service
    return span_name(str(method), service), {OPERATION_TYPE: "external", PEER_SERVICE: service}
