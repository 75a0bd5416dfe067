"""Remove the literals of SQL statements; find their operation and tables."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

from django_tracing.redaction.bare_values import without_bare_values
from django_tracing.redaction.dialects import Dialect, Token, tokens_of
from django_tracing.redaction.patterns import REDACTED, cut, pattern

__all__ = ["Statement", "describe_sql", "sanitise_sql"]

#: Longer statements are cut before they are read, which would take the request's time.
#: The first bounds what is searched for lists to fold, the second what is left of that to read.
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


def _tokens(sql: str, dialect: Dialect) -> list[Token]:
    if len(sql) > _STATEMENT_LENGTH:
        sql = _REPEATED_PLACEHOLDER.sub(r"\1", _REPEATED_ROW.sub(r"\1", sql[:_SQL_SCANNED]))[:_SQL_INPUT]
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


_VERBS: Final = frozenset({"select", "insert", "update", "delete", "merge", "values", "replace"})
_FROM_ENDS: Final = frozenset(
    [
        "where",
        "group",
        "order",
        "having",
        "limit",
        "offset",
        "union",
        "intersect",
        "except",
        "set",
        "values",
        "returning",
        "select",
        "window",
        "fetch",
        "for",
        "with",
    ]
)
#: Functions whose arguments have a FROM of their own.
_FROM_FUNCTIONS: Final = frozenset({"extract", "substring", "trim", "overlay", "position", "substr"})
_SKIPPED_BEFORE_NAME: Final = frozenset(
    {"only", "lateral", "table", "if", "not", "exists", "into", "concurrently", "ignore", "from", "temporary", "temp"}
)
#: After these, UPDATE opens a statement; after others it belongs to FOR UPDATE, DO UPDATE, a trigger.
_BEFORE_UPDATE: Final = frozenset({"", "(", ")", ";", "explain", "analyze", "verbose"})
_WITH_TABLE: Final = frozenset({"create", "alter", "drop", "truncate", "lock", "comment"})
_NOT_OF_AN_OPERATION: Final = pattern(r"[^a-z_]+")
#: A partition's date or number: it would make a name of its own of every day.
_DIGITS: Final = pattern(r"\d{4,}")
_MAX_TABLES: Final = 10


def _operation(tokens: list[Token]) -> tuple[str, frozenset[str]]:
    """Return the verb, and the names that WITH gives to subqueries, in lower case."""
    count = len(tokens)
    index = 0
    while index < count and tokens[index][1] in ("(", ";"):
        index += 1
    if index == count or tokens[index][0] != "word":
        return "unknown", frozenset()
    verb = _NOT_OF_AN_OPERATION.sub("", tokens[index][1].lower())[:32] or "unknown"
    withs = [position for position, token in enumerate(tokens) if token[0] == "word" and token[1].lower() == "with"]
    if not withs:
        return verb, frozenset()
    partners: dict[int, int] = {}
    opened: list[int] = []
    for position, (_, text, _) in enumerate(tokens):
        if text == "(":
            opened.append(position)
        elif text == ")" and opened:
            partners[opened.pop()] = position
    names: set[str] = set()
    for start in withs:
        after = _common_tables(tokens, start + 1, partners, names)
        if start != index:
            continue
        while after < count:
            kind, text, _ = tokens[after]
            if kind == "word" and text.lower() in _VERBS:
                verb = text.lower()
                break
            after = partners.get(after, after) + 1
    return verb, frozenset(names)


def _common_tables(tokens: list[Token], index: int, partners: dict[int, int], names: set[str]) -> int:
    """Read ``[RECURSIVE] name [(columns)] AS [NOT] [MATERIALIZED] (...), ...``. Return its end.

    A WITH of another kind (TIME ZONE, TIES, ORDINALITY) has nothing of the sort after it and gives no name.
    """
    count = len(tokens)

    def at(position: int) -> str:
        return tokens[position][1].lower() if position < count else ""

    if at(index) == "recursive":
        index += 1
    while index < count and tokens[index][0] in ("word", "quoted"):
        name = _unquoted(tokens[index][1]).lower()
        following = index + 1
        if at(following) == "(":
            following = partners.get(following, count) + 1
        if at(following) != "as":
            break
        following += 1
        while at(following) in ("not", "materialized"):
            following += 1
        if at(following) != "(":
            break
        names.add(name)
        index = partners.get(following, count) + 1
        if at(index) != ",":
            break
        index += 1
    return index


def _unquoted(text: str) -> str:
    return text[1:-1].replace('""', '"') if text[:1] in _CLOSING else text


def _tables(tokens: list[Token], operation: str, subqueries: frozenset[str]) -> tuple[str, ...]:
    found: list[str] = []
    from_lists: set[int] = set()  # the depths at which a comma leads to one more table
    functions: list[bool] = []  # for each open parenthesis, whether its FROM is not a table's
    expecting = ""
    count = len(tokens)
    index = 0
    previous = ""
    while index < count and len(found) < _MAX_TABLES:
        kind, text, _ = tokens[index]
        lower = text.lower() if kind == "word" else text
        if expecting:
            if kind == "word" and lower in _SKIPPED_BEFORE_NAME:
                previous = lower
                index += 1
                continue
            if text == "(" and expecting in ("from", "join"):
                # A subquery, or tables in parentheses.
                functions.append(False)
                from_lists.add(len(functions))
                previous = text
                index += 1
                continue
            keyword, expecting = expecting, ""
            if (kind == "word" and lower not in _FROM_ENDS) or kind == "quoted" or text == "[":
                name, index = _name(tokens, index)
                called = index < count and tokens[index][1] == "(" and keyword in ("from", "join", "using")
                if not called and name.lower() not in subqueries and _IDENTIFIER.fullmatch(name):
                    name = _DIGITS.sub("*", name)
                    if name not in found:
                        found.append(name)
                previous = name.lower()
                continue
        if text == "(":
            functions.append(previous in _FROM_FUNCTIONS)
        elif text == ")":
            from_lists.discard(len(functions))
            if functions:
                functions.pop()
        elif text == ",":
            if len(functions) in from_lists:
                expecting = "from"
        elif kind == "word":
            if lower in _FROM_ENDS:
                from_lists.discard(len(functions))
            if lower == "from":
                # COPY t FROM names a file or STDIN.
                copied = operation == "copy" and not functions
                if previous != "distinct" and not copied and not (functions and functions[-1]):
                    expecting = "from"
                    from_lists.add(len(functions))
            elif lower == "join" or lower == "into":
                expecting = lower
            elif lower == "using":
                if operation in ("delete", "merge"):
                    expecting = "using"
                    from_lists.add(len(functions))
            elif lower == "update":
                if previous in _BEFORE_UPDATE:
                    expecting = "update"
            elif lower == "truncate" or lower == "copy":
                if not previous:
                    expecting = lower
                    from_lists.add(0)
            elif lower == "table" or lower == "view":
                if operation in _WITH_TABLE:
                    expecting = "table"
            elif lower == "on" and operation == "create" and any(t.lower() == "index" for _, t, _ in tokens[1:3]):
                expecting = "table"
        previous = lower
        index += 1
    return tuple(found)


def _name(tokens: list[Token], index: int) -> tuple[str, int]:
    parts: list[str] = []
    while True:
        if tokens[index][1] == "[":  # a name's quotes, where the vendor is not known
            words: list[str] = []
            index += 1
            while index < len(tokens) and tokens[index][1] != "]":
                words.append(tokens[index][1])
                index += 1
            parts.append(" ".join(words))
        else:
            parts.append(_unquoted(tokens[index][1]))
        index += 1
        if index + 1 >= len(tokens) or tokens[index][1] != ".":
            break
        if tokens[index + 1][0] not in ("word", "quoted") and tokens[index + 1][1] != "[":
            break
        index += 1
    return ".".join(parts), index


_UNREADABLE: Final = Statement(REDACTED, "unknown", ())


def _describe(sql: str, dialect: Dialect) -> Statement:
    tokens = _tokens(sql, dialect)
    operation, subqueries = _operation(tokens)
    return Statement(_text(tokens, _STATEMENT_LENGTH), operation, _tables(tokens, operation, subqueries))


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
        return _text(_tokens(sql, dialect), max_length)
    except Exception:
        return REDACTED
