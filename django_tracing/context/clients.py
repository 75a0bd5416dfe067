"""Find the address of a request's client, as far as trusted proxies confirm it.

Any client can write ``X-Forwarded-For``: only what a proxy in ``TRACING["TRUSTED_PROXIES"]`` added to it counts. A
span may show an address that no trusted proxy confirms; a permission must not depend on one.

A socket that accepts IPv6 and IPv4 reports IPv4 clients as IPv6 addresses (``::ffff:10.0.0.1``). They are read as the
IPv4 addresses that they stand for, here and nowhere else, in addresses and in networks of settings alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, Final

__all__ = ["Network", "client_address", "is_trusted", "is_within", "vouched_address"]

Network = IPv4Network | IPv6Network

#: Headers that proxies set: a request with one of them came through a proxy, or claims to.
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
#: Those with one address, of the client.
_CLIENT: Final = ("HTTP_X_REAL_IP", "HTTP_X_CLIENT_IP", "HTTP_CF_CONNECTING_IP", "HTTP_TRUE_CLIENT_IP")
#: The most characters of X-Forwarded-For that are read. The nearest hops are last.
_LONGEST: Final = 1000
#: An address with a port and a zone is shorter.
_LONGEST_ADDRESS: Final = 100
#: The bits of an IPv6 address before the IPv4 address that it stands for.
_MAPPED_BITS: Final = 96


def client_address(meta: Mapping[str, Any], trusted: tuple[Network, ...]) -> str:
    """Return the client's address for display: the nearest that is not a trusted proxy's; empty if there is none."""
    remote = _remote(meta)
    forwarded = meta.get("HTTP_X_FORWARDED_FOR")
    if trusted and forwarded:
        return _forwarded(remote, _nearest(str(forwarded)), trusted)[0]
    return _readable(remote) if ":" in remote else remote


def vouched_address(meta: Mapping[str, Any], trusted: tuple[Network, ...]) -> str:
    """Return the client's address for permissions: one that cannot be forged; empty if there is none.

    Without a trusted proxy, a request that came through any proxy has no such address: ``REMOTE_ADDR`` is the
    proxy's own, and on the same machine that would be 127.0.0.1 for every client.
    """
    remote = _remote(meta)
    if not any(name in meta for name in _PROXIED):
        return _readable(remote) if ":" in remote else remote
    if not trusted or (remote and not is_within(remote, trusted)):
        return ""
    forwarded = str(meta.get("HTTP_X_FORWARDED_FOR") or "")
    address, vouched = _forwarded(remote, _nearest(forwarded), trusted)
    return address if vouched else ""


def is_trusted(meta: Mapping[str, Any], trusted: str | tuple[Network, ...], proxies: tuple[Network, ...]) -> bool:
    """Return whether the caller is in ``TRACING["TRUST_PARENT"]``. Callers with an unknown address are not.

    Behind a proxy that is not listed, each address that the request came from must be in it: a proxy that writes
    ``X-Forwarded-For`` adds a stranger's address to it.
    """
    if isinstance(trusted, str):
        return trusted == "always"
    address = vouched_address(meta, proxies)
    if not address and proxies and "HTTP_X_FORWARDED_FOR" not in meta and is_within(_remote(meta), proxies):
        # A listed proxy that names no client, as the sidecar of a service mesh for a call between services.
        address = _remote(meta)
    return is_within(address, trusted) if address else _came_from(meta, (*trusted, *proxies))


def _came_from(meta: Mapping[str, Any], networks: tuple[Network, ...]) -> bool:
    """Return whether each address that a request names is in ``networks``, and it names one in X-Forwarded-For."""
    forwarded = str(meta.get("HTTP_X_FORWARDED_FOR") or "")
    if not forwarded or len(forwarded) > _LONGEST or "HTTP_FORWARDED" in meta:
        return False
    hops = [hop.strip() for hop in forwarded.split(",")]
    # A server on a Unix socket has no address of the other end, which is on this machine.
    hops += [_remote(meta)] if meta.get("REMOTE_ADDR") else []
    hops += [str(meta[name])[:_LONGEST_ADDRESS] for name in _CLIENT if name in meta]
    return all(is_within(hop, networks) for hop in hops)


def _remote(meta: Mapping[str, Any]) -> str:
    # A middleware of the site may have set it from a header, which may be of any length.
    return str(meta.get("REMOTE_ADDR") or "")[:_LONGEST_ADDRESS]


def _nearest(forwarded: str) -> str:
    """Return the last hops, as many as are read. A part of an address, which would be another one, is left out."""
    return forwarded if len(forwarded) <= _LONGEST else forwarded[-_LONGEST:].partition(",")[2]


@lru_cache(maxsize=1024)
def _forwarded(remote: str, forwarded: str, trusted: tuple[Network, ...]) -> tuple[str, bool]:
    """Return the nearest address that is not a trusted proxy's, and whether one was found."""
    client = remote
    # A server on a Unix socket has no address of the other end, which is a proxy.
    hops = ([remote] if remote else []) + [part.strip() for part in reversed(forwarded.split(","))]
    for hop in hops:
        address = _parse(hop)
        if address is None:
            return client, False
        client = str(address)
        if not _contain(trusted, address):
            return client, True
    # All of them are proxies: a request of a proxy's own.
    return client, bool(client)


@lru_cache(maxsize=1024)
def is_within(address: str, networks: tuple[Network, ...]) -> bool:
    """Return whether ``address`` is an IP address in one of ``networks``."""
    found = _parse(address)
    return found is not None and _contain(networks, found)


@lru_cache(maxsize=1024)
def _readable(address: str) -> str:
    """Return ``address`` with an IPv4-mapped address as the IPv4 address; any other text as it is."""
    found = _parse(address)
    return str(found) if isinstance(found, IPv4Address) else address


def _parse(hop: str) -> IPv4Address | IPv6Address | None:
    """Return the address of a hop, with a port (as some load balancers write it) or without."""
    if hop.startswith("["):
        hop = hop[1:].partition("]")[0]
    elif hop.count(":") == 1:
        hop = hop.partition(":")[0]
    try:
        # Without the zone of an IPv6 address: it is of use on its own machine only, and may be any text.
        address = ip_address(hop.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _contain(networks: tuple[Network, ...], address: IPv4Address | IPv6Address) -> bool:
    return any(address in network for network in _unmapped(networks))


@lru_cache(maxsize=16)
def _unmapped(networks: tuple[Network, ...]) -> tuple[Network, ...]:
    """Return ``networks`` with those of IPv4-mapped addresses as the IPv4 networks that they stand for."""
    return tuple(_unmapped_network(network) for network in networks)


def _unmapped_network(network: Network) -> Network:
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is None or network.prefixlen < _MAPPED_BITS:
        return network
    return IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))
