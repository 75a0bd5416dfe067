"""Describe SQL statements: their text without literals, their operation and tables."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

from django_tracing.redaction.bare_values import without_bare_values
from django_tracing.redaction.dialects import Dialect, Token, tokens_of
from django_tracing.redaction.patterns import REDACTED, cut, pattern
from django_tracing.redaction.tables import operation_of, tables_of, verb_after_with

__all__ = ["Statement", "describe_sql", "sanitise_sql"]

#: Longer statements are cut before they are read, which would take the request's time.
#: The first bounds what is searched for lists to fold and for the verb after WITH, the second what is left to read.
_SQL_SCANNED: Final = 200_000
_SQL_INPUT: Final = 10_000
_STATEMENT_LENGTH: Final = 2000
#: Longer statements are not kept in the cache, which bounds its memory.
_SQL_CACHED: Final = 10_000


class Statement(NamedTuple):
    """What may be sent of an SQL statement."""

    #: The statement without any literal, white space folded.
    text: str
    #: The verb in lower case: ``select``, ``insert``, ...
    operation: str
    #: The tables in order of appearance, ``schema.table`` if the statement has the schema.
    tables: tuple[str, ...]


_IDENTIFIER: Final = pattern(r"[\w$. -]{1,128}")
_CLOSING: Final = {'"': '"', "`": "`", "[": "]"}

#: What a bulk insert and a long IN list consist of. Folding it as text, before anything is read, costs a
#: hundredth of reading it; nothing here holds a quote, so inside a string it changes nothing that matters.
_REPEATED_ROW: Final = pattern(r"(\([%\w ,?]+\))(?:\s*,\s*\1)+")
_REPEATED_PLACEHOLDER: Final = pattern(r"(\bIN\s*\(\s*(%s|\?))(?:\s*,\s*\2)+", re.IGNORECASE)


def _folded(sql: str) -> str:
    if len(sql) <= _STATEMENT_LENGTH:
        return sql
    return _REPEATED_PLACEHOLDER.sub(r"\1", _REPEATED_ROW.sub(r"\1", sql[:_SQL_SCANNED]))


def _tokens(folded: str, dialect: Dialect) -> list[Token]:
    sql = folded[:_SQL_INPUT]
    return without_bare_values(sql, tokens_of(sql, dialect), dialect)


_ITEM: Final = r"(?:-?(?:\?|%s|%\(\w+\)s|\$\d+|:\w+)(?:::[\w.]+(?:\[\])?)?|NULL|TRUE|FALSE)"
_LIST: Final = rf"({_ITEM})(?: ?, ?{_ITEM})+"
_IN_LIST: Final = pattern(rf"\b(IN) ?\( ?{_LIST} ?\)", re.IGNORECASE)
_ARRAY_LIST: Final = pattern(rf"\b(ARRAY) ?\[ ?{_LIST} ?\]", re.IGNORECASE)
_ROWS: Final = pattern(r"\b(VALUES ?|IN ?\( ?)(\([^()]*\))(?: ?, ?\([^()]*\))+", re.IGNORECASE)
#: By the word without which there is nothing to do.
_REWRITTEN: Final[dict[str, tuple[tuple[re.Pattern[str], str], ...]]] = {
    "values": ((_ROWS, r"\1\2"),),
    "in": ((_ROWS, r"\1\2"), (_IN_LIST, r"\1 (\2)")),
    "array": ((_ARRAY_LIST, r"\1[\2]"),),
}

#: Django makes a savepoint's name of the thread's number and a counter: no two statements would be alike.
_SAVEPOINTS: Final = frozenset({"savepoint", "release", "rollback"})
_SAVEPOINT_WORDS: Final = _SAVEPOINTS | {"to", "work", "transaction", "tran", "and", "no", "chain", "prepared"}


def _text(tokens: list[Token], max_length: int) -> str:
    parts: list[str] = []
    append = parts.append
    first = tokens[0][1].lower() if tokens else ""
    savepoint = first in _SAVEPOINTS
    words: set[str] = set()
    for kind, text, space in tokens:
        # Two dashes that are none of a comment's must not become one when the statement is read again.
        if (space and parts) or (text == "-" and parts and parts[-1] == "-"):
            append(" ")
        if kind == "literal" or kind == "number":
            append("?")
        elif kind == "quoted":
            if savepoint:
                append("?")
            elif len(text) > 2 and text[-1] == _CLOSING[text[0]] and _IDENTIFIER.fullmatch(text[1:-1]):
                append(text)
            else:
                append(f"{text[0]}?{_CLOSING[text[0]]}")
        elif kind == "word":
            lower = text.lower()
            words.add(lower)
            append("?" if savepoint and lower not in _SAVEPOINT_WORDS else text)
        else:
            append(text)
    text = "".join(parts).rstrip("; ")
    for word in words & _REWRITTEN.keys():
        for rewritten, replacement in _REWRITTEN[word]:
            text = rewritten.sub(replacement, text)
    return cut(text, max_length)


_UNREADABLE: Final = Statement(REDACTED, "unknown", ())


def _describe(sql: str, dialect: Dialect) -> Statement:
    folded = _folded(sql)
    tokens = _tokens(folded, dialect)
    operation, subqueries = operation_of(tokens)
    if operation == "with" and len(folded) > _SQL_INPUT:
        operation = verb_after_with(folded, dialect)
    return Statement(_text(tokens, _STATEMENT_LENGTH), operation, tables_of(tokens, operation, subqueries))


_describe_cached = lru_cache(maxsize=1024)(_describe)


def describe_sql(sql: str, dialect: Dialect = "unknown") -> Statement:
    """Return the statement without literals (at most 2,000 characters), its operation and its tables.

    ``dialect`` is how its vendor reads SQL (:func:`~django_tracing.redaction.dialects.dialect_of`). Repeated
    statements are looked up, not read again. If it cannot be read, the text is ``[redacted]`` and the operation
    ``unknown``.
    """
    try:
        if len(sql) <= _SQL_CACHED:
            return _describe_cached(sql, dialect)
        return _describe(sql, dialect)
    except Exception:
        return _UNREADABLE


def sanitise_sql(sql: str, max_length: int = _STATEMENT_LENGTH, *, dialect: Dialect = "unknown") -> str:
    """Return the statement without literals and comments, with lists folded and white space collapsed.

    At most ``max_length`` characters. An unterminated string or comment takes the rest of the statement with it.
    """
    try:
        return _text(_tokens(_folded(sql), dialect), max_length)
    except Exception:
        return REDACTED
