"""Categorize a span's time and find what it calls, by its attributes.

The names are this app's own and those of OpenTelemetry's semantic conventions, old and stable
(https://opentelemetry.io/docs/specs/semconv/), so spans of services in other languages are categorized, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple, get_args
from urllib.parse import urlsplit

__all__ = [
    "KEYS",
    "TARGET_KINDS",
    "WORKS",
    "Category",
    "Target",
    "TargetKind",
    "breaker_state",
    "category_of",
    "is_statement",
    "target_of",
]

#: ``python`` is Django's and the user's own code. ``other`` is the code of services in other languages, and what fits
#: in no other category.
Category = Literal["sql", "cache", "http", "python", "other"]
WORKS: Final[tuple[Category, ...]] = get_args(Category)

TargetKind = Literal["database", "cache", "breaker", "external"]
TARGET_KINDS: Final[tuple[TargetKind, ...]] = get_args(TargetKind)

_BY_OPERATION: Final[Mapping[Any, Category]] = {"database": "sql", "cache": "cache", "external": "http"}
#: Values of ``db.system`` that are caches.
_CACHES: Final = frozenset({"redis", "memcached", "valkey"})
#: Values of ``db.operation`` of spans that take a database's time without a statement.
_CONNECTING: Final = frozenset({"connect", "pool.wait"})


#: The attributes that the functions of this module look at.
KEYS: Final = frozenset(
    {
        "cache.alias",
        "cache.system",
        "circuit_breaker.name",
        "circuit_breaker.service",
        "circuit_breaker.state",
        "circuit_breaker.state_after",
        "db.name",
        "db.namespace",
        "db.operation",
        "db.operation.name",
        "db.system",
        "db.system.name",
        "http.method",
        "http.request.method",
        "http.url",
        "net.peer.name",
        "net.peer.port",
        "operation.type",
        "peer.service",
        "server.address",
        "server.port",
        "url.full",
    }
)


class Target(NamedTuple):
    """What a span calls, apart from services that are traced themselves."""

    kind: TargetKind
    name: str


def category_of(kind: str, attributes: Mapping[str, Any], resource: Mapping[str, Any]) -> Category:
    """Return the category of the span's own time."""
    operation = attributes.get("operation.type")
    known = _BY_OPERATION.get(operation) if isinstance(operation, str) else None
    if known is not None:
        return known
    system = _system(attributes)
    if system:
        return "cache" if system in _CACHES else "sql"
    if kind == "client":
        return "http" if "http.method" in attributes or "http.request.method" in attributes else "other"
    if kind == "producer" or resource.get("telemetry.sdk.language", "python") != "python":
        return "other"
    return "python"


def is_statement(attributes: Mapping[str, Any]) -> bool:
    """Return whether a span whose category is ``sql`` is a statement: connecting and waiting for the pool are not."""
    operation = attributes.get("db.operation") or attributes.get("db.operation.name")
    return not isinstance(operation, str) or operation not in _CONNECTING


def target_of(kind: str, attributes: Mapping[str, Any]) -> Target | None:
    """Return the database, cache, breaker or service that the span calls; None where it calls none."""
    operation = attributes.get("operation.type")
    if operation == "circuit_breaker":
        name = attributes.get("circuit_breaker.name") or attributes.get("circuit_breaker.service")
        return Target("breaker", str(name)) if name else None
    system = _system(attributes)
    if operation == "cache" or (system in _CACHES and kind == "client"):
        # Caches and commands that have the same server are one target. Caches without a server have their alias.
        name = attributes.get("cache.system") or system or "cache"
        return Target("cache", _joined(name, _server(attributes) or attributes.get("cache.alias")))
    if system:
        return Target("database", _joined(system, attributes.get("db.name") or attributes.get("db.namespace")))
    if kind == "client":
        peer = attributes.get("peer.service") or _host(attributes)
        return Target("external", str(peer)) if peer else None
    return None


def _system(attributes: Mapping[str, Any]) -> str:
    """Return the database system; "" without one. Any service may have stored anything as an attribute."""
    system = attributes.get("db.system") or attributes.get("db.system.name")
    return system if isinstance(system, str) else str(system or "")


def breaker_state(attributes: Mapping[str, Any]) -> str:
    """Return the state of a breaker after its span."""
    return str(attributes.get("circuit_breaker.state_after") or attributes.get("circuit_breaker.state") or "")


def _joined(*parts: Any) -> str:
    return " ".join(str(part) for part in parts if part)


def _server(attributes: Mapping[str, Any]) -> str:
    """Return the host and the port of a span's server; "" if it has none."""
    host = attributes.get("server.address") or attributes.get("net.peer.name")
    port = attributes.get("server.port") or attributes.get("net.peer.port")
    return f"{host}:{port}" if host and port else str(host or "")


def _host(attributes: Mapping[str, Any]) -> str:
    for name in ("server.address", "net.peer.name"):
        if attributes.get(name):
            return str(attributes[name])
    url = attributes.get("url.full") or attributes.get("http.url")
    try:
        return urlsplit(url).hostname or "" if isinstance(url, str) else ""
    except ValueError:
        return ""
