"""Outgoing HTTP: what a span of OpenTelemetry's requests, httpx, urllib3 or urllib instrumentation is called.

The spans are upstream's; their names and ``peer.service`` are ours, so that a service map has services in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from django_tracing.attributes import OPERATION_TYPE, PEER_SERVICE, Attributes
from django_tracing.redaction import cut

__all__ = ["describe", "peer_service"]

_METHODS: Final = frozenset({"get", "head", "post", "put", "patch", "delete", "options", "trace", "connect"})
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def peer_service(url: str, services: Mapping[str, str]) -> str:
    """The service that ``url`` leads to: by ``host:port``, then by ``host`` in ``services``, else the host itself."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return "unknown"
    return services.get(f"{host}:{port}") or services.get(host) or cut(host, 100) or "unknown"


def describe(attributes: Mapping[str, Any], services: Mapping[str, str]) -> tuple[str, Attributes] | None:
    """The name and our attributes for an HTTP client span that started with ``attributes``; None for another."""
    method = attributes.get("http.method") or attributes.get("http.request.method")
    url = attributes.get("http.url") or attributes.get("url.full")
    if not method or not url:
        return None
    verb = str(method).lower()
    service = peer_service(str(url), services)
    return (
        f"http.{verb if verb in _METHODS else 'other'}.{service}",
        {OPERATION_TYPE: "external", PEER_SERVICE: service},
    )
