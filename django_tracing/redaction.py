"""What may leave the process: SQL, URLs, free text, e-mails, cache keys and lengths.

Pure functions on strings. None of them raises: text that one of them cannot deal with becomes ``[redacted]``.
Everything is linear in the length of its input, because all of it is attacker-controlled.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import Any, Final, Literal, ParamSpec, TypeVar
from urllib.parse import parse_qsl, quote

__all__ = [
    "REDACTED",
    "SensitiveKeys",
    "Statement",
    "cut",
    "describe_sql",
    "key_pattern",
    "mask_email",
    "redact_db_error",
    "redact_query",
    "redact_stacktrace",
    "redact_text",
    "sanitise_sql",
    "sanitise_url",
]

P = ParamSpec("P")
T = TypeVar("T")

REDACTED: Final = "[redacted]"
#: At the end of a value that was cut.
MARK: Final = "…"

#: Longer statements are cut before they are read: nobody reads on, and reading them would take the request's time.
#: The first bounds what is searched for lists to fold, the second what is left of that to read.
_SQL_SCANNED: Final = 200_000
_SQL_INPUT: Final = 10_000
_STATEMENT_LENGTH: Final = 2000
#: Longer statements are not kept in the cache, which bounds its memory.
_SQL_CACHED: Final = 10_000
_TEXT_INPUT: Final = 100_000
_QUERY_PARAMETERS: Final = 50

DoubleQuotes = Literal["identifier", "string"]


def _safely(otherwise: Callable[[], Any]) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """What goes wrong here must cost the value, not the request, and must not let the value through."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @wraps(function)
        def safe(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return function(*args, **kwargs)
            except Exception:
                return otherwise()  # type: ignore[no-any-return]

        return safe

    return decorate


def cut(value: str, max_length: int) -> str:
    """``value`` with at most ``max_length`` characters (one or more), the last of them ``…`` when some were cut."""
    return value if len(value) <= max_length else value[: max(max_length - 1, 0)] + MARK


# ----- SQL


@dataclass(frozen=True)
class Statement:
    """What may be said of an SQL statement."""

    #: The statement without any literal, white space folded.
    text: str
    #: The verb in lower case: ``select``, ``insert``, ...
    operation: str
    #: The tables in order of appearance, ``schema.table`` where the statement says so.
    tables: tuple[str, ...]


_STANDARD_STRING: Final = r"""
              (?:[uU]&|[nNbBxX])?'[^']*(?:''[^']*)*(?:'|\Z)
            # Oracle's q'[it's]': up to the bracket's partner, or to the same character again.
            | [nN]?[qQ]'(?:\[[\s\S]*?(?:\]'|\Z)|\([\s\S]*?(?:\)'|\Z)|\{[\s\S]*?(?:\}'|\Z)|<[\s\S]*?(?:>'|\Z)
                |(?P<edge>[^\s'])[\s\S]*?(?:(?P=edge)'|\Z))
"""
#: MySQL escapes by backslash in every string, and double quotes make strings too.
_MYSQL_STRING: Final = r"""
              [nNbBxX]?'[^'\\]*(?:(?:\\[\s\S]|'')[^'\\]*)*(?:'|\\?\Z)
            | "[^"\\]*(?:(?:\\[\s\S]|"")[^"\\]*)*(?:"|\\?\Z)
"""


def _scanner(string: str, prefix: str, comment: str, quoted: str) -> re.Pattern[str]:
    # Every alternative that opens something also ends at the end of the text, so that none backtracks.
    return re.compile(
        rf"""
          (?P<quoted>{quoted}`[^`]*(?:``[^`]*)*(?:`|\Z))
        | (?P<word>(?!{prefix}')[^\W\d][\w$]*)
        | (?P<space>\s+|{comment})
        | (?P<placeholder>%s|%\(\w+\)s|\$\d+|\?|:[^\W\d]\w*)
        | (?P<literal>
              # A string that goes on in the next line goes on with its escapes.
              [eE]'[^'\\]*(?:(?:\\[\s\S]|''|'[ \t\r\f\v]*\n\s*')[^'\\]*)*(?:'|\\?\Z)
            | {string}
            | \$(?P<tag>(?:[^\W\d]\w*)?)\$[\s\S]*?(?:\$(?P=tag)\$|\Z)
          )
        # Whatever letters follow a digit belong to the number, so that no part of it is left over.
        | (?P<number>(?:\d|\.\d)[\w.]*(?:(?<=[eE])[+-]\d[\w.]*)?)
        | (?P<comment>/\*)
        | (?P<operator>::|->>|->|[\s\S])
        """,
        re.VERBOSE,
    )


_SCANNERS: Final[dict[str, re.Pattern[str]]] = {
    "identifier": _scanner(
        _STANDARD_STRING, "(?:[eEnNbBxX]|[uU]&|[nN]?[qQ])", r"--[^\n]*", r'"[^"]*(?:""[^"]*)*(?:"|\Z)|'
    ),
    # In MySQL two dashes open a comment only before white space: 5--1 is six.
    "string": _scanner(_MYSQL_STRING, "[eEnNbBxX]", r"--(?=\s|\Z)[^\n]*|\#[^\n]*", ""),
}
_COMMENT_EDGE: Final = re.compile(r"/\*|\*/")
_IDENTIFIER: Final = re.compile(r"[\w$. -]{1,128}")

#: What a bulk insert and a long IN list consist of. Folding it as text, before anything is read, costs a
#: hundredth of reading it; nothing here holds a quote, so inside a string it changes nothing that matters.
_REPEATED_ROW: Final = re.compile(r"(\([%\w ,?]+\))(?:\s*,\s*\1)+")
_REPEATED_PLACEHOLDER: Final = re.compile(r"(\bIN\s*\(\s*(%s|\?))(?:\s*,\s*\2)+", re.IGNORECASE)

Token = tuple[str, str, bool]  # kind, text, whether white space stood before it


def _tokens(sql: str, double_quotes: DoubleQuotes) -> list[Token]:
    if len(sql) > _STATEMENT_LENGTH:
        sql = _REPEATED_PLACEHOLDER.sub(r"\1", _REPEATED_ROW.sub(r"\1", sql[:_SQL_SCANNED]))[:_SQL_INPUT]
    finditer = _SCANNERS[double_quotes].finditer
    tokens: list[Token] = []
    append = tokens.append
    position, end, space = 0, len(sql), False
    while position < end:
        for match in finditer(sql, position):
            kind = match.lastgroup
            if kind == "space":
                space = True
            elif kind == "comment":
                # Comments nest (in PostgreSQL), which no regular expression can follow.
                position = _after_comment(sql, match.end(), nests=double_quotes == "identifier")
                space = True
                break
            else:
                append((kind or "operator", match.group(), space))
                space = False
        else:
            break
    return tokens


def _after_comment(sql: str, position: int, *, nests: bool) -> int:
    depth = 1
    while depth:
        edge = _COMMENT_EDGE.search(sql, position)
        if edge is None:
            return len(sql)
        if edge.group() == "*/":
            depth -= 1
        elif nests:
            depth += 1
        position = edge.end()
    return position


_ITEM: Final = r"(?:-?(?:\?|%s|%\(\w+\)s|\$\d+|:\w+)(?:::[\w.]+(?:\[\])?)?|NULL|TRUE|FALSE)"
_LIST: Final = rf"({_ITEM})(?: ?, ?{_ITEM})+"
_IN_LIST: Final = re.compile(rf"\b(IN) ?\( ?{_LIST} ?\)", re.IGNORECASE)
_ARRAY_LIST: Final = re.compile(rf"\b(ARRAY) ?\[ ?{_LIST} ?\]", re.IGNORECASE)
_ROWS: Final = re.compile(r"\b(VALUES ?|IN ?\( ?)(\([^()]*\))(?: ?, ?\([^()]*\))+", re.IGNORECASE)
#: Oracle's passwords are written as identifiers.
_PASSWORD: Final = re.compile(r"\b(IDENTIFIED BY(?: VALUES)?) (?:\"[^\"]*\"|[^\s?;]+)", re.IGNORECASE)
#: By the word without which there is nothing to do.
_REWRITTEN: Final[dict[str, tuple[tuple[re.Pattern[str], str], ...]]] = {
    "values": ((_ROWS, r"\1\2"),),
    "in": ((_ROWS, r"\1\2"), (_IN_LIST, r"\1 (\2)")),
    "array": ((_ARRAY_LIST, r"\1[\2]"),),
    "identified": ((_PASSWORD, r"\1 ?"),),
}

#: SET x TO word, PRAGMA x = word: the only places where a bare word is a value.
_SETTERS: Final = frozenset({"set", "pragma"})
#: Django makes a savepoint's name of the thread's number and a counter: no two statements would be alike.
_SAVEPOINTS: Final = frozenset({"savepoint", "release", "rollback"})
_SAVEPOINT_WORDS: Final = _SAVEPOINTS | {"to", "work", "transaction", "tran", "and", "no", "chain", "prepared"}


def _text(tokens: list[Token], max_length: int) -> str:
    parts: list[str] = []
    append = parts.append
    first = tokens[0][1].lower() if tokens else ""
    setter, savepoint, value = first in _SETTERS, first in _SAVEPOINTS, False
    words: set[str] = set()
    for kind, text, space in tokens:
        if space and parts:
            append(" ")
        if kind == "literal" or kind == "number":
            append("?")
        elif kind == "quoted":
            if value or savepoint:
                append("?")
            elif len(text) > 2 and text[-1] == text[0] and _IDENTIFIER.fullmatch(text[1:-1]):
                append(text)
            else:
                append(f"{text[0]}?{text[0]}")
        elif kind == "word":
            lower = text.lower()
            words.add(lower)
            append("?" if value or (savepoint and lower not in _SAVEPOINT_WORDS) else text)
            value = value or (setter and lower == "to")
        else:
            append(text)
            value = value or (setter and text == "=")
    text = "".join(parts).rstrip("; ")
    for word in words & _REWRITTEN.keys():
        for pattern, replacement in _REWRITTEN[word]:
            text = pattern.sub(replacement, text)
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
_NOT_OF_AN_OPERATION: Final = re.compile(r"[^a-z_]+")
#: A partition's date or number: it would make a name of its own of every day.
_DIGITS: Final = re.compile(r"\d{4,}")
_MAX_TABLES: Final = 10


def _operation(tokens: list[Token]) -> tuple[str, frozenset[str]]:
    """The verb, and the names that WITH gives to subqueries, in lower case."""
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
    """Reads ``[RECURSIVE] name [(columns)] AS [NOT] [MATERIALIZED] (...), ...``; where that ends.

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
    return text[1:-1].replace('""', '"') if text[:1] in '"`' else text


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
        if tokens[index][1] == "[":  # SQL Server's quotes
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


def _describe(sql: str, double_quotes: DoubleQuotes) -> Statement:
    tokens = _tokens(_as_text(sql), double_quotes)
    operation, subqueries = _operation(tokens)
    return Statement(_text(tokens, _STATEMENT_LENGTH), operation, _tables(tokens, operation, subqueries))


def _as_text(sql: Any) -> str:
    """Drivers take more than strings: bytes, and psycopg's composed statements."""
    if isinstance(sql, str):
        return sql
    if isinstance(sql, bytes):
        return sql.decode("utf-8", "replace")
    return str(sql.as_string(None))


_describe_cached = lru_cache(maxsize=1024)(_describe)


def describe_sql(sql: str, *, double_quotes: DoubleQuotes = "identifier") -> Statement:
    """The statement without literals (at most 2,000 characters), its operation and its tables.

    ``double_quotes`` says what they make: identifiers in standard SQL, strings in MySQL (which then also escapes
    by backslash). Repeated statements are looked up, not read again. Bytes and psycopg's ``sql.Composable`` are
    read too; of what cannot be read, the text is ``[redacted]`` and the operation ``unknown``.
    """
    try:
        if isinstance(sql, str) and len(sql) <= _SQL_CACHED:
            return _describe_cached(sql, double_quotes)
        return _describe(sql, double_quotes)
    except Exception:
        return _UNREADABLE


def sanitise_sql(sql: str, max_length: int = _STATEMENT_LENGTH, *, double_quotes: DoubleQuotes = "identifier") -> str:
    """The statement without any literal: strings, numbers and comments gone, lists folded, white space collapsed.

    At most ``max_length`` characters. An unterminated string or comment takes the rest of the statement with it.
    """
    try:
        return _text(_tokens(_as_text(sql), double_quotes), max_length)
    except Exception:
        return REDACTED


# ----- names whose values are secret

_WORDS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
#: Anywhere in a name, its separators and capitals aside.
_SENSITIVE_PARTS: Final = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "authorization",
    "cookie",
    "apikey",
    "session",
    "csrf",
    "creditcard",
    "cardnumber",
    "privatekey",
    "accesskey",
    "credential",
    "signature",
    "bearer",
    "jwt",
]
#: Only as a whole word of a name: they stand inside harmless ones.
_SENSITIVE_WORDS: Final = frozenset(["pwd", "auth", "ssn", "sig", "cvv", "cvc", "pin", "otp", "pass"])


class SensitiveKeys:
    """Names (of parameters, headers, attributes) whose values never leave, the default ones and ``extra``."""

    __slots__ = ("_cache", "_parts")

    def __init__(self, extra: Iterable[str] = ()) -> None:
        self._parts = (*_SENSITIVE_PARTS, *(folded for name in extra if (folded := _folded(name))))
        self._cache: dict[str, bool] = {}

    def matches(self, name: str) -> bool:
        """Whether ``name`` is of one, in any case and with any separators: ``X-Api-Key``, ``accessToken``."""
        known = self._cache.get(name)
        if known is None:
            folded = _folded(name[:200])
            known = any(part in folded for part in self._parts) or any(
                word.lower() in _SENSITIVE_WORDS for word in _WORDS.findall(name[:200])
            )
            if len(self._cache) < 1024 and len(name) <= 200:
                self._cache[name] = known
        return known


def _folded(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).lower()


_DEFAULT_KEYS: Final = SensitiveKeys()

# ----- free text

_EMAIL: Final = re.compile(r"(?<![\w.+%-])([\w.+%-]{1,64})@([A-Za-z0-9](?:[A-Za-z0-9-]{0,62}\.)+[A-Za-z0-9-]{2,63})")
_JWT: Final = re.compile(r"\beyJ[\w-]{5,}(?:\.[\w-]*){1,4}")
_BEARER: Final = re.compile(r"\b(Bearer|Basic|Token|Digest|Negotiate)\s+(?=[^\s,;\"']{6,})[^\s,;\"']+", re.IGNORECASE)
_USERINFO: Final = re.compile(r"(\b[A-Za-z][A-Za-z0-9+.-]{0,20}://)[^\s/?#@\"'<>]{1,256}@")
#: name = value, name: value, "name": "value"; whether the name is sensitive is asked for each.
_PAIR: Final = re.compile(
    r"""(?<![\w-])(['"]?)([A-Za-z][\w-]{1,63})\1(\s{0,3}(?:=>|[=:])\s{0,3})"""
    r"""("(?:[^"\\]|\\.){0,2000}"?|'(?:[^'\\]|\\.){0,2000}'?|[^\s,;&"'(){}\[\]<>]{1,2000})"""
)
_CARD: Final = re.compile(r"(?<![\w-])\d(?:[ -]?\d){12,18}(?![\w-])")
#: None of these in a text: nothing in it to redact.
_SUSPICIOUS: Final = re.compile(r"[@=:]|eyJ|\d[\d -]{11}|[Bb]earer|[Bb]asic|[Tt]oken|[Dd]igest|BEARER|BASIC")


def _mask_match(match: re.Match[str]) -> str:
    return f"{match[1][:1]}***@{match[2]}"


def _redact_card(match: re.Match[str]) -> str:
    digits = [int(character) for character in match.group() if character.isdigit()]
    total = sum(sum(divmod(digit * 2, 10)) for digit in digits[-2::-2]) + sum(digits[-1::-2])
    return REDACTED if total % 10 == 0 else match.group()


def _redact_pair(match: re.Match[str]) -> str:
    if not _DEFAULT_KEYS.matches(match[2]) or match[4].startswith(REDACTED):
        return match.group()
    edge = match[4][0] if match[4][0] in "\"'" else ""
    return f"{match[1]}{match[2]}{match[1]}{match[3]}{edge}{REDACTED}{edge}"


@_safely(lambda: REDACTED)
def redact_text(text: str) -> str:
    """Free text without e-mails, tokens, card numbers, URL credentials and values of sensitive names."""
    if _SUSPICIOUS.search(text) is None:
        return text
    text = text[:_TEXT_INPUT]
    text = _USERINFO.sub(r"\1", text)
    text = _JWT.sub(REDACTED, text)
    text = _BEARER.sub(rf"\1 {REDACTED}", text)
    text = _PAIR.sub(_redact_pair, text)
    text = _EMAIL.sub(_mask_match, text)
    return _CARD.sub(_redact_card, text)


_DETAIL: Final = re.compile(r"\s*^\s*(?:DETAIL|CONTEXT|HINT|QUERY|STATEMENT|WHERE|LINE \d+):[\s\S]*", re.MULTILINE)
#: A value in quotes, unless the word before it says that it is a name.
_QUOTED_VALUE: Final = re.compile(
    r"(?:\b(column|table|relation|constraint|index|schema|database|function|type|role|user|operator|extension|"
    r"sequence|view|cursor|key|parameter|trigger|savepoint|language|collation|for)\s+)?"
    r"(\"[^\"\n]{0,2000}\"|'[^'\n]{0,2000}')"
)


def _redact_quoted(match: re.Match[str]) -> str:
    if match[1]:
        # "invalid input syntax for type integer: "x"" names the type without quotes: what is quoted is a name.
        return match.group()
    return f"{match[2][0]}?{match[2][0]}"


@_safely(lambda: REDACTED)
def redact_db_error(text: str) -> str:
    """An exception's message without the values that database drivers put into it."""
    text = _DETAIL.sub("", text[:_TEXT_INPUT])
    if '"' in text or "'" in text:
        text = _QUOTED_VALUE.sub(_redact_quoted, text)
    return redact_text(text)


_FRAME: Final = re.compile(r'^\s*File "[^"]*", line \d+(?:, in .*)?$|^Traceback |^\s*\|? *[~^]+\s*$')
_CAUSES: Final = (
    "The above exception was the direct cause",
    "During handling of the above exception",
)


@_safely(lambda: REDACTED)
def redact_stacktrace(text: str, limit: int) -> str:
    """A stack trace whose messages are redacted; frames and source lines stay.

    At most ``limit`` characters, cut at the front: the innermost frame and the message are at the end.
    """
    lines: list[str] = []
    message: list[str] = []
    source = False
    for line in text[-_TEXT_INPUT:].splitlines():
        frame = _FRAME.match(line) is not None
        if frame or source or line.startswith(_CAUSES) or not line.strip():
            if message:
                lines.append(redact_db_error("\n".join(message)))
                message = []
            # Source code may hold a literal secret; its names are what one reads it for.
            lines.append(line if frame else redact_text(line))
            source = frame and ", line " in line
        else:
            message.append(line)
    if message:
        lines.append(redact_db_error("\n".join(message)))
    result = "\n".join(lines)
    return result if len(result) <= limit else MARK + result[-(limit - 1) :]


# ----- URLs


@_safely(lambda: REDACTED)
def sanitise_url(url: str, sensitive: SensitiveKeys) -> str:
    """``url`` without credentials and fragment, the values of sensitive parameters ``[redacted]``.

    Works on any text, a broken URL or one with undecodable bytes included.
    """
    url = url[:8192].encode("utf-8", "replace").decode("utf-8").partition("#")[0]
    head, mark, query = url.partition("?")
    scheme, separator, rest = head.partition("://")
    if separator:
        authority, slash, path = rest.partition("/")
        head = scheme + separator + authority.rpartition("@")[2] + slash + path
    head = redact_text(head)
    if not mark:
        return head
    parts = []
    for part in query.split("&"):
        name, equals, value = part.partition("=")
        if equals and sensitive.matches(_decoded(name)):
            parts.append(f"{name}={REDACTED}")
        elif equals:
            decoded = _decoded(value)
            redacted = redact_text(decoded)
            parts.append(part if redacted == decoded else f"{name}={quote(redacted, safe='[]*@')}")
        else:
            parts.append(redact_text(part))
    return f"{head}?{'&'.join(parts)}"


def _decoded(text: str) -> str:
    if "%" not in text and "+" not in text:
        return text
    pairs = parse_qsl(f"x={text}", keep_blank_values=True)
    return pairs[0][1] if pairs else text


_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9_.-]+")


@_safely(dict)
def redact_query(query_string: str, sensitive: SensitiveKeys) -> dict[str, str]:
    """The parameters of a query string: name to value, sensitive values ``[redacted]``.

    At most 50 parameters; of a repeated one the last counts, as in Django's ``request.GET``.
    """
    parameters: dict[str, str] = {}
    for name, value in parse_qsl(query_string[:8192], keep_blank_values=True, errors="replace"):
        key = _NOT_IN_NAMES.sub("_", redact_text(name))[:64]
        if not key:
            continue
        parameters[key] = REDACTED if sensitive.matches(name) else redact_text(value)
        if len(parameters) >= _QUERY_PARAMETERS:
            break
    return parameters


# ----- e-mails and keys


def mask_email(email: str, mode: Literal["masked", "full", "off"] = "masked") -> str | None:
    """``ada@example.com`` as ``a***@example.com`` (masked), as it is (full), or None (off)."""
    if mode == "off":
        return None
    if mode == "full":
        return email
    name, at, domain = email.rpartition("@")
    return f"{name[:1]}***@{domain}" if at and name and domain else "***"


_KEY_SEPARATOR: Final = re.compile(r"([:/.|,;=#&?\s\[\]{}()<>\"'-]+|_)")
_PLAIN_WORD: Final = re.compile(r"[A-Za-z]{1,24}")
_VERSIONED: Final = re.compile(r"v\d{1,3}")
_HEXADECIMAL: Final = re.compile(r"[0-9a-fA-F]{6,}")
#: Django's session keys follow this prefix without a separator.
_SESSION_PREFIX: Final = re.compile(r"(sessions\.(?:cache|cached_db))[a-z0-9]{32}")


@lru_cache(maxsize=2048)
def _pattern(key: str) -> str:
    if "@" in key or "eyJ" in key:
        key = _JWT.sub("*", re.sub(r"[^:/|,;\s]+@[^:/|,;\s]+", "*", key))
    key = _SESSION_PREFIX.sub(r"\1*", key)
    parts = _KEY_SEPARATOR.split(key)
    for index in range(0, len(parts), 2):
        part = parts[index]
        if part and part != "*" and not _names_something(part):
            # The session prefix has its star already.
            parts[index] = "cache*" if part == "cache*" else "cached_db*" if part == "cached_db*" else "*"
    pattern = "".join(parts)
    # A uuid is one value, not five; so is a date.
    pattern = re.sub(r"\*(?:[-_]\*)+", "*", pattern)
    return cut(pattern, 100)


def _names_something(part: str) -> bool:
    """Whether a part of a key is a word that a programmer wrote, rather than a value."""
    if part in ("cache*", "db*"):
        return True
    if _VERSIONED.fullmatch(part):
        return True
    if not _PLAIN_WORD.fullmatch(part) or (len(part) >= 8 and _HEXADECIMAL.fullmatch(part)):
        return False
    # Random letters: capitals in the midst of small ones more than once, or hardly a vowel.
    if sum(a.islower() and b.isupper() for a, b in zip(part, part[1:], strict=False)) > 2:
        return False
    vowels = sum(character in "aeiouyAEIOUY" for character in part)
    return len(part) < 8 or vowels * 6 >= len(part)


@_safely(lambda: "*")
def key_pattern(key: str) -> str:
    """A cache key as a pattern of low cardinality: ``blueprint:123`` is ``blueprint:*``.

    Whatever looks like a number, a uuid, a hash, a token, a date or an e-mail is a star; so is what is doubtful.
    At most 100 characters.
    """
    if len(key) > 250:
        return _pattern.__wrapped__(key[:250])
    return _pattern(key)
