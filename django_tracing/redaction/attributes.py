"""Sanitize attributes set by users and libraries.

Users set attributes on the current span, add events, and make spans with their own tracers; libraries do the same.
These attributes pass through :class:`AttributeSanitizer` before they are kept: names become dotted snake_case, values
of sensitive names ``[redacted]``, e-mail addresses, tokens, card numbers and credentials are removed from texts, and
texts are cut.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from itertools import islice
from pathlib import PurePath
from typing import Any, Final, Literal
from uuid import UUID

from django_tracing.faults import CONTAINED, log_hourly
from django_tracing.redaction import (
    REDACTED,
    Dialect,
    SensitiveKeys,
    cut,
    dialect_of,
    key_pattern,
    numbers_machines,
    redact_commands,
    redact_db_error,
    redact_stacktrace,
    redact_text,
    redact_words,
    sanitise_sql,
    sanitise_url,
)
from django_tracing.redaction.patterns import pattern
from django_tracing.semconv.names import (
    CACHE_KEY,
    DB_QUERY_TEXT,
    DB_STATEMENT,
    DB_SYSTEM,
    EXCEPTION_MESSAGE,
    EXCEPTION_STACKTRACE,
    HTTP_ROUTE,
    HTTP_URL,
    HTTP_USER_AGENT,
    URL_FULL,
    USER_AGENT_ORIGINAL,
)
from django_tracing.untraced import Untraced

__all__ = [
    "AGENT_LENGTH",
    "LONG_LENGTH",
    "MESSAGE_LENGTH",
    "STACKTRACE_LENGTH",
    "AttributeSanitizer",
    "Redact",
    "attribute_name",
]


#: A user's own last word: given name and value, it gives the value to send, or None to send none.
Redact = Callable[[str, Any], Any]

#: URLs and statements keep more than other attributes do, in characters: a cut one is of no use.
LONG_LENGTH: Final = 2000
#: User agents, too: Edge and Opera name themselves at the end, after Chrome.
AGENT_LENGTH: Final = 512
#: How much of a stack trace an event keeps: the innermost frames and the message.
STACKTRACE_LENGTH: Final = 8000
MESSAGE_LENGTH: Final = 1000
_MOST_ITEMS: Final = 100
#: A card's number may come as a number, too: no shorter one can be one.
_SHORTEST_CARD: Final = 10**12
#: The value of a longer name is redacted, because the rest of the name isn't read.
_KEY_LENGTH: Final = 1000

_AGENTS: Final = frozenset({HTTP_USER_AGENT, USER_AGENT_ORIGINAL})
_URLS: Final = frozenset({HTTP_URL, URL_FULL, "http.target", "url.path"})
#: The query of a URL by itself.
_QUERIES: Final = ("url.query", "query_string", "querystring")
#: Keys of stores, and Kafka's, which are people's as often.
_KEYS: Final = frozenset({CACHE_KEY, "messaging.kafka.message.key", "messaging.kafka.message_key"})
#: Systems with commands whose words are keys and values.
_KEY_VALUE_STORES: Final = ("redis", "valkey", "keydb", "dragonfly", "memcached")
_Dialect = Dialect | Literal["no-sql"]
_PARAMETERS_OF_ROUTE: Final = pattern(r"(<[^<>]*>)")
_STATEMENTS: Final = frozenset({DB_STATEMENT, DB_QUERY_TEXT})
_DB_SYSTEM_NAME: Final = "db.system.name"
#: What is redacted as a whole in another one of them.
_NESTED: Final = (list, tuple, Mapping, set, frozenset)
#: Types that are converted to text.
_TEXTUAL: Final = (UUID, Decimal, date, time, timedelta, PurePath, IPv4Address, IPv6Address)

_NAME: Final = pattern(r"[a-z][a-z0-9_]*(?:\.[a-z0-9_]+)*")
_CAMEL: Final = pattern(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_NOT_IN_NAMES: Final = pattern(r"[^a-z0-9.]+")
_NAME_LENGTH: Final = 100


@lru_cache(maxsize=2048)
def _cached_name(name: str) -> str:
    redacted = redact_text(name)
    if redacted == name and _NAME.fullmatch(name):
        return name
    # Its words, written in another way, may look like a secret by now.
    for _ in range(3):
        # The underscores between its words have made it longer.
        name = _snake_case(redacted)[:_NAME_LENGTH].strip("._")
        redacted = redact_text(name)
        if redacted == name:
            return name
    return "attribute"


def _snake_case(name: str) -> str:
    words = _NOT_IN_NAMES.sub("_", _CAMEL.sub("_", name).lower())
    return ".".join(part for piece in words.split(".") if (part := piece.strip("_"))) or "attribute"


def attribute_name(name: str) -> str:
    """Return ``name`` as dotted snake_case of at most 100 characters: ``orderId`` and ``Order ID`` are ``order_id``.

    Convention: https://opentelemetry.io/docs/specs/semconv/general/naming/
    """
    return _cached_name(name[:_NAME_LENGTH])


def _redacted_of_route(part: str) -> str:
    return part if part[:1] == "<" else redact_text(part)


def _is_lazy_text(kind: type) -> bool:
    """Return whether objects of this type are texts that Django translates when they are shown."""
    return any(base.__name__ == "Promise" and base.__module__ == "django.utils.functional" for base in kind.__mro__)


class AttributeSanitizer:
    """What is made of attributes that are not this app's own.

    ``sensitive_keys`` are names beside the default ones; ``max_length`` is in characters; ``redact`` is
    ``TRACING["REDACT"]``.
    """

    __slots__ = ("_max_length", "_sensitive", "redact")

    def __init__(
        self, sensitive_keys: Sequence[str] = (), max_length: int = 100, redact: Redact | None = None
    ) -> None:
        self._sensitive = SensitiveKeys(sensitive_keys)
        self._max_length = max_length
        self.redact = redact

    def attributes(self, attributes: Mapping[str, Any], *, rename: bool = True) -> dict[str, Any]:
        """Return the redacted ``attributes``, without those that are None. Never raises."""
        kept: dict[str, Any] = {}
        dialect: _Dialect = "unknown"
        if DB_STATEMENT in attributes or DB_QUERY_TEXT in attributes:
            system = attributes.get(DB_SYSTEM) or attributes.get(_DB_SYSTEM_NAME)
            dialect = "no-sql" if system in _KEY_VALUE_STORES else dialect_of(system)
        for key, value in attributes.items():
            try:
                # The SDK logs a line for each empty name, which may come from a client's JSON.
                if value is None or key == "":
                    continue
                if rename and key.__class__ is str and key:
                    kept[attribute_name(key)] = self.value(key, value, dialect)
                else:
                    kept[key] = self.value(str(key), value, dialect)
            except Exception:
                # The value could not be read: its name is sent, the value is not.
                kept[key] = REDACTED
        return kept

    def value(self, key: str, value: Any, dialect: _Dialect = "unknown") -> Any:
        """Return the redacted ``value`` of the attribute ``key``; ``[redacted]`` for what can't be an attribute.

        ``dialect`` is what a statement is read as. Of any other type, the SDK would send the text (``str(value)``),
        which nothing has redacted, and which of a QuerySet is a query.
        """
        kind = value.__class__
        if len(key) > _KEY_LENGTH or (
            self._sensitive.matches(key) and not self._sensitive.says_no_secret(key, value)
        ):
            return REDACTED
        if kind is bool or kind is float:
            return value
        if kind is int:
            return REDACTED if abs(value) >= _SHORTEST_CARD and redact_text(str(value)) != str(value) else value
        if isinstance(value, Enum):
            return self.value(key, value.value, dialect)
        if isinstance(value, _TEXTUAL):
            value = str(value)
        elif isinstance(value, (bytes, bytearray)):
            value = bytes(value[: 4 * LONG_LENGTH]).decode("utf-8", "replace")
        if isinstance(value, str):
            return self._text(key, str(value), dialect)
        if isinstance(value, (list, tuple)):
            # Not one in another: a few of them, each several times in the next, are millions.
            return [
                item if item is None else REDACTED if isinstance(item, _NESTED) else self.value(key, item, dialect)
                for item in redact_words(value[:_MOST_ITEMS])
            ]
        if isinstance(value, Mapping):
            return self._map(value)
        if isinstance(value, (set, frozenset)):
            return self.value(key, list(islice(value, _MOST_ITEMS)), dialect)
        if _is_lazy_text(kind):
            return self._text(key, str(value), dialect)
        return value if isinstance(value, (bool, int, float)) else REDACTED

    def _map(self, values: Mapping[Any, Any]) -> dict[str, Any]:
        """Return a map, which newer versions of the SDK accept, with redacted names and values."""
        kept: dict[str, Any] = {}
        for name, value in islice(values.items(), _MOST_ITEMS):
            text = str(name) if isinstance(name, (str, int, float)) else ""
            # The SDK logs a line for each empty name.
            if text:
                shown = cut(redact_text(text[:_KEY_LENGTH]), _NAME_LENGTH)
                kept[shown] = REDACTED if isinstance(value, _NESTED) else self.value(text, value)
        return kept

    def _text(self, key: str, text: str, dialect: _Dialect) -> str:
        if key in _URLS:
            return cut(sanitise_url(text, self._sensitive), LONG_LENGTH)
        if key.lower().endswith(_QUERIES):
            return cut(sanitise_url(f"?{text.removeprefix('?')}", self._sensitive)[1:], LONG_LENGTH)
        if key in _KEYS:
            # This app's own comes here too, where spans are the SDK's: a pattern's pattern is itself.
            return cut(key_pattern(text), self._max_length)
        if key == HTTP_ROUTE:
            # The names of its parameters are no values' names.
            return cut("".join(map(_redacted_of_route, _PARAMETERS_OF_ROUTE.split(text))), LONG_LENGTH)
        if key in _STATEMENTS:
            if dialect == "no-sql":
                return cut(redact_commands(text)[0], LONG_LENGTH)
            return sanitise_sql(text, LONG_LENGTH, dialect=dialect)
        if key == EXCEPTION_MESSAGE:
            return cut(redact_db_error(text), MESSAGE_LENGTH)
        if key == EXCEPTION_STACKTRACE:
            return redact_stacktrace(text, STACKTRACE_LENGTH)
        length = max(self._max_length, AGENT_LENGTH) if key in _AGENTS else self._max_length
        return cut(redact_text(text, random=not numbers_machines(key)), length)

    def name(self, name: str) -> str:
        """Return the redacted name of a span or an event."""
        return cut(redact_text(name), self._max_length)

    def message(self, text: str | None) -> str | None:
        """Return the redacted description of a status, which is usually an exception's message."""
        return text and cut(redact_db_error(text), MESSAGE_LENGTH)

    def last(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``attributes`` after the user's ``REDACT``, without those for which it returns None or raises."""
        redact = self.redact
        if redact is None:
            return dict(attributes)
        kept: dict[str, Any] = {}
        if getattr(_redacting, "now", False):
            # A span that REDACT itself has ended: redacting it would never end. It has no attributes.
            return kept
        _redacting.now = True
        try:
            # The function's calls make no spans: their attributes would be passed to it again.
            with Untraced():
                for key, value in attributes.items():
                    try:
                        value = redact(key, value)
                    except CONTAINED as error:
                        _warn_of(error)
                        continue
                    if value is not None:
                        kept[key] = value
        finally:
            _redacting.now = False
        return kept


#: Whether this thread is inside REDACT.
_redacting: Final = threading.local()


def _warn_of(error: BaseException) -> None:
    name = type(error).__name__
    # Not the error's message: it may quote the value.
    log_hourly(
        f"redact-{name}", 'TRACING["REDACT"] raised %s: what it was given is dropped, never sent as it was.', name
    )
