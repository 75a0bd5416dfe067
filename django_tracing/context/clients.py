"""The address of a request's client, as far as trusted proxies vouch for it.

Anybody writes ``X-Forwarded-For``; only what a proxy in ``TRACING["TRUSTED_PROXIES"]`` added to it counts. A span may
show an address that nobody vouches for; a permission may not depend on one.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, Final

__all__ = ["Network", "client_address", "is_within", "vouched_address"]

Network = IPv4Network | IPv6Network

#: Headers that proxies set; a request with one of them came through a proxy, or claims so.
_PROXIED: Final = (
    "HTTP_X_FORWARDED_FOR",
    "HTTP_FORWARDED",
    "HTTP_X_REAL_IP",
    "HTTP_X_FORWARDED_PROTO",
    "HTTP_X_FORWARDED_HOST",
    "HTTP_X_FORWARDED_PORT",
    "HTTP_X_CLIENT_IP",
    "HTTP_CF_CONNECTING_IP",
    "HTTP_TRUE_CLIENT_IP",
    "HTTP_VIA",
)
#: Of X-Forwarded-For; the nearest hops stand last.
_LONGEST: Final = 1000


def client_address(meta: Mapping[str, Any], trusted: tuple[Network, ...]) -> str:
    """The client's address, to be shown: the nearest one that is no trusted proxy's; empty where none is known."""
    remote = str(meta.get("REMOTE_ADDR") or "")
    forwarded = meta.get("HTTP_X_FORWARDED_FOR")
    if trusted and forwarded:
        return _forwarded(remote, _nearest(str(forwarded)), trusted)[0]
    return remote


def vouched_address(meta: Mapping[str, Any], trusted: tuple[Network, ...]) -> str:
    """The client's address where it can't be forged, for permissions; empty where nobody vouches for one.

    Without a trusted proxy, a request that came through any proxy has no such address: ``REMOTE_ADDR`` is the
    proxy's own, and on the same machine that would be 127.0.0.1 for everybody.
    """
    remote = str(meta.get("REMOTE_ADDR") or "")
    if not any(name in meta for name in _PROXIED):
        return remote
    if not trusted or (remote and not is_within(remote, trusted)):
        return ""
    forwarded = str(meta.get("HTTP_X_FORWARDED_FOR") or "")
    address, vouched = _forwarded(remote, _nearest(forwarded), trusted)
    return address if vouched else ""


def _nearest(forwarded: str) -> str:
    """The last of the hops, as many as are read; no part of an address, which would be another one."""
    return forwarded if len(forwarded) <= _LONGEST else forwarded[-_LONGEST:].partition(",")[2]


@lru_cache(maxsize=1024)
def _forwarded(remote: str, forwarded: str, trusted: tuple[Network, ...]) -> tuple[str, bool]:
    """The first address from here outwards that is no trusted proxy's, and whether one was found."""
    client = remote
    # A server on a Unix socket names no address: the socket's other end is a proxy.
    hops = ([remote] if remote else []) + [part.strip() for part in reversed(forwarded.split(","))]
    for hop in hops:
        address = _parse(hop)
        if address is None:
            return client, False
        client = str(address)
        if not any(address in network for network in trusted):
            return client, True
    # All of them are proxies: a request of a proxy's own.
    return client, bool(client)


def _parse(hop: str) -> IPv4Address | IPv6Address | None:
    """The address of a hop, with a port (as some load balancers write it) or without."""
    if hop.startswith("["):
        hop = hop[1:].partition("]")[0]
    elif hop.count(":") == 1:
        hop = hop.partition(":")[0]
    try:
        address = ip_address(hop)
    except ValueError:
        return None
    # As a socket that listens to both gives IPv4.
    return getattr(address, "ipv4_mapped", None) or address


@lru_cache(maxsize=1024)
def is_within(address: str, networks: tuple[Network, ...]) -> bool:
    """Whether ``address`` is an IP address in one of ``networks``."""
    found = _parse(address)
    return found is not None and any(found in network for network in networks)
