"""Addresses for people: as much of a URL as may stand in a log, on a page, in a terminal."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

__all__ = ["linkable", "shown_address"]

#: What paths of collectors, of Jaegers and of what stands before them are made of. Any other word may be a key.
_WORDS: Final = frozenset(
    """
    agent api apm client collector collectors default dev export ingest insert intake jaeger local logs main metrics
    monitoring observability opentelemetry otel otlp prod production proxy public push query receiver sampling search
    services spans staging telemetry tempo test trace traces tracing ui v1 v1.0 v2 v3 v4 write zipkin
    """.split()  # noqa: SIM905
)
_HOST: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_[]:%")
_MOST: Final = 300
_SEGMENTS: Final = 12
_HIDDEN: Final = "…"


def shown_address(url: str) -> str:
    """``url`` without what may be secret: scheme, host, port, and of its path the well-known words.

    The rest, credentials aside, is ``…``: ``https://collector:4318/…/v1/traces?…``. Takes any text, and never raises.
    """
    scheme, separator, rest = url.strip().partition("://")
    if not separator:
        scheme, rest = "", scheme
    elif not scheme.isascii() or not scheme.replace("+", "").isalnum() or len(scheme) > 20:
        scheme = _HIDDEN
    end = min((place for place in map(rest.find, "/?#\\") if place >= 0), default=len(rest))
    authority, behind = rest[:end], rest[end:]
    if "@" in authority:
        authority = authority.rpartition("@")[2]
    elif "@" in behind:
        # A password with a slash in it, not escaped, ends the host's name too early.
        return f"{scheme}{separator}{_HIDDEN}"
    path = behind.partition("?")[0].partition("#")[0]
    query = "?…" if "?" in behind or "#" in behind else ""
    segments = path[:_MOST].split("/")
    shown = [each if not each or each.lower() in _WORDS else _HIDDEN for each in segments[:_SEGMENTS]]
    if len(path) > _MOST or len(segments) > _SEGMENTS:
        shown.append(_HIDDEN)
    return f"{scheme}{separator}{_host(authority)}{'/'.join(shown)}{query}"


def _host(authority: str) -> str:
    if not authority or len(authority) > _MOST or not _HOST.issuperset(authority):
        return authority and _HIDDEN
    name, colon, port = authority.rpartition(":")
    # What stands where a port should may be half of a password.
    return authority if not colon or port.isdigit() or authority.endswith("]") else f"{name}:{_HIDDEN}"


def linkable(url: str) -> str | None:
    """``url`` as the beginning of links for people: without credentials and query.

    None where its path has more than well-known words and names: a link gives away all of it.
    """
    from django_tracing.redaction import SensitiveKeys, sanitise_url

    parts = urlsplit(url)
    host = parts.hostname or "localhost"
    host = f"[{host}]" if ":" in host else host
    base = f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}{parts.path.rstrip('/')}"
    return base if sanitise_url(base, SensitiveKeys()) == base else None
