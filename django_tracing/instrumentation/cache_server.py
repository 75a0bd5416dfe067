"""Find the server of a cache in the setting CACHES."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlsplit

from django.conf import settings

from django_tracing.semconv.names import NET_PEER_NAME, NET_PEER_PORT, Attributes

__all__ = ["server_of"]

#: The ports that are used if the address has none, by ``cache.system``.
_PORTS: Final = {"redis": 6379, "memcached": 11211}


def server_of(alias: str, system: object) -> Attributes:
    """Return the attributes of the server of a cache on the network; none if it has no single address.

    Of several Redis addresses, the first is the primary. Several memcached servers share the keys. The names are
    those of OpenTelemetry's conventions for database calls, and credentials are never part of them.
    """
    port = _PORTS.get(str(system))
    if port is None:
        return {}
    try:
        location: Any = settings.CACHES[alias]["LOCATION"]
        given = location.replace(",", ";").split(";") if isinstance(location, str) else location
        addresses = [str(each) for each in given if each]
        if not addresses or (system == "memcached" and len(addresses) > 1):
            return {}
        address = addresses[0]
        parts = urlsplit(address if "://" in address else f"//{address}")
        if parts.scheme.startswith("unix") or not parts.hostname or parts.hostname.startswith("unix"):
            return {}
        return {NET_PEER_NAME: parts.hostname, NET_PEER_PORT: parts.port or port}
    except Exception:
        # A project may use other kinds of addresses.
        return {}
