"""Extract what lists show of a request from the attributes of its span: method, path, status and user.

The names are those of OpenTelemetry's semantic conventions, old and stable
(https://opentelemetry.io/docs/specs/semconv/http/), so requests of services in other languages have them, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from django_tracing.semconv import names

__all__ = ["NO_REQUEST", "RequestFacts", "path_of", "request_facts"]

#: Longer values are cut: they come from requests, and a list shows one line of each.
_PATH_LENGTH: Final = 500
#: More of a URL is not read. This app's spans have as much.
_URL_LENGTH: Final = 2000
_WORD_LENGTH: Final = 100


class RequestFacts(NamedTuple):
    """A request in one line. Texts are empty, and the status is None, where the span does not have them."""

    method: str
    #: The path of the URL, without its query.
    path: str
    status_code: int | None
    user: str


NO_REQUEST: Final = RequestFacts("", "", None, "")


def request_facts(kind: str, attributes: Mapping[str, Any]) -> RequestFacts:
    """Return the facts of a span. Only a server's span has a method, a path and a status of its own.

    What stands for the method of a WebSocket's handshake, and of its messages, is the beginning of their names.
    """
    user = _text(attributes, names.USER_ID, length=_WORD_LENGTH) if names.USER_ID in attributes else ""
    if kind != "server" and not _is_socket(attributes):
        return NO_REQUEST if not user else NO_REQUEST._replace(user=user)
    return RequestFacts(
        _method(attributes),
        _cut(path_of(attributes), _PATH_LENGTH),
        _status(attributes),
        user,
    )


def _is_socket(attributes: Mapping[str, Any]) -> bool:
    return bool(attributes.get(names.OPERATION_TYPE) == "websocket")


def _method(attributes: Mapping[str, Any]) -> str:
    if _is_socket(attributes):
        event = _text(attributes, names.WEBSOCKET_EVENT, length=_WORD_LENGTH)
        return _cut(f"WS {event}" if event else "WS", _WORD_LENGTH)
    return _text(attributes, names.HTTP_METHOD, "http.request.method", length=_WORD_LENGTH)


def _text(attributes: Mapping[str, Any], *keys: str, length: int) -> str:
    for key in keys:
        value = attributes.get(key)
        if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
            return _cut(str(value), length)
    return ""


def path_of(attributes: Mapping[str, Any]) -> str:
    """Return the path of a request's URL, as long as it was stored; empty if the span has none."""
    # The URL is first: http.target has the query, too, but url.path is not always sent.
    url = _text(attributes, names.HTTP_URL, names.URL_FULL, length=_URL_LENGTH)
    try:
        return (
            urlsplit(url).path
            if url
            else _text(attributes, "url.path", "http.target", length=_URL_LENGTH).partition("?")[0]
        )
    except ValueError:  # not a URL
        return ""


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _status(attributes: Mapping[str, Any]) -> int | None:
    value = _text(attributes, names.HTTP_STATUS_CODE, "http.response.status_code", length=_WORD_LENGTH)
    # Clients can't choose it, but other services may store anything.
    return int(value) if len(value) == 3 and value.isascii() and value.isdecimal() else None
