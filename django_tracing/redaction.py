"""What may leave the process: SQL, URLs, free text, e-mails, cache keys and lengths.

Pure functions on strings. None of them raises: text that one of them cannot deal with becomes ``[redacted]``.
Everything is linear in the length of its input, because all of it is attacker-controlled.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache, wraps
from typing import Any, Final, Literal, NamedTuple, ParamSpec, TypeVar, cast
from urllib.parse import parse_qsl, quote, unquote_plus

__all__ = [
    "REDACTED",
    "SensitiveKeys",
    "Statement",
    "also_sensitive",
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
_TEXT_INPUT: Final = 20_000
_URL_INPUT: Final = 8192
_QUERY_PARAMETERS: Final = 50

#: What is called of a pattern here.
_METHODS: Final = ("findall", "finditer", "fullmatch", "match", "search", "sub")

DoubleQuotes = Literal["identifier", "string"]


class _Pattern:
    """A regular expression that is compiled when it is used first.

    There are fifty here, which take 10 ms to compile: a third of what starting may cost. A process uses few of them.
    """

    __slots__ = ("_flags", "_source", *_METHODS)

    def __init__(self, source: str, flags: int) -> None:
        self._source = source
        self._flags = flags

    def __getattr__(self, name: str) -> Any:
        # Asked once: from then on the slots hold the compiled pattern's own methods, as quick to call as they are.
        compiled = re.compile(self._source, self._flags)
        for method in _METHODS:
            setattr(self, method, getattr(compiled, method))
        return getattr(compiled, name)


def _pattern(source: str, flags: int = 0) -> re.Pattern[str]:
    return cast("re.Pattern[str]", _Pattern(source, flags))


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


class Statement(NamedTuple):
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
    return _pattern(
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
_COMMENT_EDGE: Final = _pattern(r"/\*|\*/")
_IDENTIFIER: Final = _pattern(r"[\w$. -]{1,128}")

#: What a bulk insert and a long IN list consist of. Folding it as text, before anything is read, costs a
#: hundredth of reading it; nothing here holds a quote, so inside a string it changes nothing that matters.
_REPEATED_ROW: Final = _pattern(r"(\([%\w ,?]+\))(?:\s*,\s*\1)+")
_REPEATED_PLACEHOLDER: Final = _pattern(r"(\bIN\s*\(\s*(%s|\?))(?:\s*,\s*\2)+", re.IGNORECASE)

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
_IN_LIST: Final = _pattern(rf"\b(IN) ?\( ?{_LIST} ?\)", re.IGNORECASE)
_ARRAY_LIST: Final = _pattern(rf"\b(ARRAY) ?\[ ?{_LIST} ?\]", re.IGNORECASE)
_ROWS: Final = _pattern(r"\b(VALUES ?|IN ?\( ?)(\([^()]*\))(?: ?, ?\([^()]*\))+", re.IGNORECASE)
#: Oracle's passwords are written as identifiers.
_PASSWORD: Final = _pattern(r"\b(IDENTIFIED BY(?: VALUES)?) (?:\"[^\"]*\"|[^\s?;]+)", re.IGNORECASE)
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
        # Two dashes that are none of a comment's must not become one when the statement is read again.
        if (space and parts) or (text == "-" and parts and parts[-1] == "-"):
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
_NOT_OF_AN_OPERATION: Final = _pattern(r"[^a-z_]+")
#: A partition's date or number: it would make a name of its own of every day.
_DIGITS: Final = _pattern(r"\d{4,}")
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
    tokens = _tokens(sql, double_quotes)
    operation, subqueries = _operation(tokens)
    return Statement(_text(tokens, _STATEMENT_LENGTH), operation, _tables(tokens, operation, subqueries))


_describe_cached = lru_cache(maxsize=1024)(_describe)


def describe_sql(sql: str, *, double_quotes: DoubleQuotes = "identifier") -> Statement:
    """The statement without literals (at most 2,000 characters), its operation and its tables.

    ``double_quotes`` says what they make: identifiers in standard SQL, strings in MySQL (which then also escapes
    by backslash). Repeated statements are looked up, not read again. Of what cannot be read, the text is
    ``[redacted]`` and the operation ``unknown``.
    """
    try:
        if len(sql) <= _SQL_CACHED:
            return _describe_cached(sql, double_quotes)
        return _describe(sql, double_quotes)
    except Exception:
        return _UNREADABLE


def sanitise_sql(sql: str, max_length: int = _STATEMENT_LENGTH, *, double_quotes: DoubleQuotes = "identifier") -> str:
    """The statement without any literal: strings, numbers and comments gone, lists folded, white space collapsed.

    At most ``max_length`` characters. An unterminated string or comment takes the rest of the statement with it.
    """
    try:
        return _text(_tokens(sql, double_quotes), max_length)
    except Exception:
        return REDACTED


# ----- names whose values are secret

_NOT_OF_A_WORD: Final = _pattern(r"[\W_]+")
_WORDS: Final = _pattern(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
#: Anywhere in a name, its separators and capitals aside.
_SENSITIVE_PARTS: Final = (
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "pwd",
    "secret",
    "token",
    "authorization",
    "cookie",
    "apikey",
    "session",
    "sessid",
    "csrf",
    "creditcard",
    "cardnumber",
    "privatekey",
    "accesskey",
    "encryptionkey",
    "signingkey",
    "credential",
    "signature",
    "bearer",
    "jwt",
)
#: Only as a whole word of a name: they stand inside harmless ones.
_SENSITIVE_WORDS: Final = frozenset({"auth", "ssn", "sig", "cvv", "cvc", "pin", "otp", "totp", "pass"})
#: One of these is in every sensitive name: what free text is asked before anything dearer.
_SENSITIVE_STEMS: Final = (
    *("pass", "pwd", "secret", "token", "auth", "cookie", "key", "sess", "csrf", "card", "cred", "sig", "jwt"),
    *("bearer", "ssn", "cvv", "cvc", "pin", "otp"),
)


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
            folded = _folded(name)
            known = any(part in folded for part in self._parts) or any(
                word.lower() in _SENSITIVE_WORDS for word in _WORDS.findall(name)
            )
            if len(self._cache) < 1024 and len(name) <= 200:
                self._cache[name] = known
        return known


def _folded(name: str) -> str:
    return _NOT_OF_A_WORD.sub("", name).lower()


_text_keys = SensitiveKeys()
_text_stems = _SENSITIVE_STEMS


def also_sensitive(names: Iterable[str]) -> None:
    """Makes free text lose the values of ``names`` (``TRACING["SENSITIVE_KEYS"]``) too; called at set-up."""
    global _text_keys, _text_stems
    names = tuple(names)
    _text_keys = SensitiveKeys(names)
    # A name's first word stands in whatever is written of it: iban, iban_number, "IBAN number".
    firsts = tuple(words[0].lower() for name in names if (words := _WORDS.findall(name)))
    _text_stems = (*_SENSITIVE_STEMS, *firsts)


# ----- free text

_EMAIL: Final = _pattern(r"(?<![\w.+%!#$*^~-])([\w.+%!#$*^~-]+)(@|%40)((?:[\w-]{1,63}\.)*[\w-]{2,63})")
#: ``eyJ`` is how ``{"`` begins in base64: the parts of a JWT, and any other token that is JSON.
_JWT: Final = _pattern(r"(?<![A-Za-z0-9])eyJ[\w-]{5,}(?:\.[\w-]*){0,4}")
#: "Basic usage" is no credential: after all but Bearer, what follows must look like one.
_SCHEME: Final = _pattern(
    r"\b((?i:Bearer)\s+(?=[^\s,;\"']{4})|(?i:Basic|Token|Digest|Negotiate)\s+(?=[^\s,;\"']{6})"
    r"(?=[^\s,;\"']*(?:[0-9=]|[a-z][A-Z])|[^\s,;\"']{20}))[^\s,;\"']+"
)
#: Of these headers, the whole line is the value.
_HEADER: Final = _pattern(r"((?:authorization|cookie)\s{0,3}[:=]\s{0,3})(?![\"'])[^\r\n]+", re.IGNORECASE)
_USERINFO: Final = _pattern(
    r"://(?:[^\s/?#\"'<>]*@"
    # A password with a slash or the like in it: what follows the colon is no port.
    r"|[^\s:/?#@\"'<>\[]{0,100}:(?!\d{1,5}(?:[/?#,\s\"']|$))[^\s\"'<>]{1,300}@)"
)
#: What makes a name of the word before it, in whatever language the text was printed by.
_NAME: Final = _pattern(
    r"""(?<![\w-])([\w-]{2,})(?:(?:\\{0,4}["'])?\]?\s*(?:=>|->|[=:]{1,3})\s*|>|["'],\s*(?=[bu]?["']))"""
)
_VALUE: Final = _pattern(
    r"""
      [bBuUrRfF]{0,2}(?:"[^"\\]*(?:\\[\s\S][^"\\]*)*["\\]?|'[^'\\]*(?:\\[\s\S][^'\\]*)*['\\]?)
    | \\+(?:"[^"]*"?|'[^']*'?)
    | [\[({](?:"[^"\\]*(?:\\[\s\S][^"\\]*)*["\\]?|'[^'\\]*(?:\\[\s\S][^'\\]*)*['\\]?|[^\])}"'])*[\])}]?
    | [^\s,;&]+
    """,
    re.VERBOSE,
)
#: The look back stands after the digit: so the search for a first digit is quick.
_CARD: Final = _pattern(r"\d(?<!\d\d)(?:[ -]?\d){12,}(?!\d)")
_CARD_GROUP: Final = _pattern(r"\d+")


def _mask_match(match: re.Match[str]) -> str:
    return f"{match[1][:1]}***{match[2]}{match[3]}"


def _redact_cards(match: re.Match[str]) -> str:
    """A run of digits, perhaps with an expiry date after the number: every card-like part of it is redacted."""
    text = match.group()
    groups = [group.span() for group in _CARD_GROUP.finditer(text)]
    parts: list[str] = []
    position = index = 0
    while index < len(groups):
        start = groups[index][0]
        digits, redacted = "", 0
        for last in range(index, min(index + 7, len(groups))):
            left, right = groups[last]
            if last > index and right - left < 3:
                break
            digits += text[left:right]
            if len(digits) > 19:
                break
            if len(digits) >= 13 and _is_card(digits):
                redacted = last + 1
        if redacted:
            parts += (text[position:start], REDACTED)
            index = redacted
            position = groups[index - 1][1]
        else:
            index += 1
    parts.append(text[position:])
    return "".join(parts)


def _is_card(digits: str) -> bool:
    # Cards begin with 2 to 6 or 8; times and many identifiers, as long as cards, with 1.
    if digits[0] not in "234568":
        return False
    values = [int(digit) for digit in digits]
    return (sum(sum(divmod(value * 2, 10)) for value in values[-2::-2]) + sum(values[-1::-2])) % 10 == 0


def _redact_values(text: str) -> str:
    """Values of sensitive names: ``name=value``, ``"name": "value"``, ``<name>value``.

    Not one substitution: the value of a harmless name may itself hold a sensitive one (``next=/?token=x``).
    """
    parts: list[str] = []
    kept = position = 0
    while (name := _NAME.search(text, position)) is not None:
        position = name.end()
        if not _text_keys.matches(name[1]) or name[1].endswith(("Error", "Exception", "Warning")):
            continue
        value = _VALUE.match(text, position)
        if value is None or value.group().startswith(REDACTED):
            continue
        edge = value.group()[0] if value.group()[0] in "\"'" else ""
        parts += (text[kept:position], edge, REDACTED, edge)
        kept = position = value.end()
    return "".join((*parts, text[kept:])) if parts else text


@_safely(lambda: REDACTED)
def redact_text(text: str) -> str:
    """Free text without e-mails, tokens, card numbers, URL credentials and values of sensitive names."""
    # Each step first asks for what is cheap to find: most texts have nothing to redact.
    if len(text) < 13 and text.isalnum() and "eyJ" not in text:
        return text
    text = text[:_TEXT_INPUT]
    if "://" in text and "@" in text:
        text = _USERINFO.sub("://", text)
    if "eyJ" in text:
        text = _JWT.sub(REDACTED, text)
    lower = text.lower()
    for stem in _text_stems:
        if stem in lower:
            text = _HEADER.sub(rf"\1{REDACTED}", text)
            text = _SCHEME.sub(rf"\1{REDACTED}", text)
            text = _redact_values(text)
            break
    else:
        if "basic" in lower or "digest" in lower or "negotiate" in lower:
            text = _SCHEME.sub(rf"\1{REDACTED}", text)
    if "@" in text or "%40" in text:
        text = _EMAIL.sub(_mask_match, text)
    return _CARD.sub(_redact_cards, text) if len(text) >= 13 else text


#: libpq writes ``DETAIL:  ...`` and ``LINE 1: ...`` in the user's language, always at a line's start.
_DETAIL: Final = _pattern(
    r"(?:^|\n)[ \t]{0,8}(?:DETAIL|CONTEXT|HINT|QUERY|STATEMENT|WHERE|LINE \d+):[\s\S]*"
    r"|\n(?:[^\W\d_]{3,20} ?: {2}|[^\W\d_a-z]{3,20} \d{1,9} ?: )[\s\S]*"
)
#: A parser quotes the statement from its error on, to the end of the message.
_NEAR: Final = _pattern(r"\bnear (?:'[\s\S]*'|\"[\s\S]*\")")
#: What is in quotes, with the words before it that say that it is a name. An apostrophe in a word opens nothing, and
#: a quote before a letter closes nothing ('o'brien'); what is not closed goes on to the end.
_QUOTED_VALUE: Final = _pattern(
    r"(?:\b(column|table|relation|constraint|index|schema|database|function|type|role|user|operator|extension|"
    r"sequence|view|cursor|for key|parameter|trigger|savepoint|language|collation|attribute|argument|[Ff]ield|method|"
    r"module named) )?"
    r"(?:(?:(?<!\w)|(?<=\b[bBuUrR]))'([^']*(?:'(?=\w)[^']*)*)(?:'|\Z)|\"([^\"]*(?:\"(?=\w)[^\"]*)*)(?:\"|\Z)"
    r"|«[^»]*(?:»|\Z)|„[^“]*(?:“|\Z)|“[^”]*(?:”|\Z))"
)
_NAME_IN_QUOTES: Final = _pattern(r"[\w.$-]{1,128}")
#: So Python's own messages go on after a type or a name.
_AFTER_NAMES: Final = (" object has no ", " object is not ", " object does not ", " is not defined")
#: Values that stand without quotes, in PostgreSQL's errors, SQL Server's and Oracle's.
_BARE_VALUE: Final = _pattern(
    r"\b(out of range: )[^\n]+|\b(duplicate key value is|with column values) \([^\n]*\)"
    r"|\b(value|object) [-+]?\d[\d.]*"
)
#: MySQL's errors are a number and a message, printed as a tuple: the message's own quotes are no value's.
_NUMBERED: Final = _pattern(r"\(\d{1,6}, (['\"])")


def _redact_quoted(match: re.Match[str]) -> str:
    named, single, double = match.groups()
    quoted = double if single is None else single
    if (
        quoted is not None
        and _NAME_IN_QUOTES.fullmatch(quoted)
        and (named or match.string.startswith(_AFTER_NAMES, match.end()))
    ):
        return match.group()
    edge = '"' if single is None else "'"
    return f"{named} {edge}?{edge}" if named else f"{edge}?{edge}"


@_safely(lambda: REDACTED)
def redact_db_error(text: str) -> str:
    """An exception's message without the values that database drivers, and Python, put into it.

    What is in quotes goes, unless it is a name (``constraint "auth_user_username_key"``, ``attribute 'pk'``);
    so do PostgreSQL's further lines (DETAIL, CONTEXT, HINT, LINE 1).
    """
    text = text[:_TEXT_INPUT]
    numbered = _NUMBERED.search(text)
    if numbered is not None and text.rstrip().endswith(f"{numbered[1]})"):
        message = redact_db_error(text[numbered.end() : text.rindex(numbered[1])])
        return f"{_without_values(text[: numbered.start()])}{numbered.group()}{message}{numbered[1]})"
    return _without_values(text)


def _without_values(text: str) -> str:
    text = _DETAIL.sub("", text)
    text = _NEAR.sub('near "?"', text)
    text = _BARE_VALUE.sub(_redact_bare, text)
    return redact_text(_QUOTED_VALUE.sub(_redact_quoted, text))


def _redact_bare(match: re.Match[str]) -> str:
    value, values, number = match.groups()
    if value:
        return f"{value}?"
    return f"{values} (?)" if values else f"{number} ?"


#: Exception groups draw their traces behind a bar, and rulers between them.
_MARGIN: Final = _pattern(r" *\| ?")
_RULER: Final = _pattern(r" *[+|][ +-]*(?:\d{1,5}|\.{3})? ?-*")
_FRAME: Final = _pattern(r'  File "[^"]*", line \d+(?:, in .*)?')
_HEADINGS: Final = (
    "Traceback (most recent call last):",
    "Exception Group Traceback",
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
    in_frame = False
    for line in (*_innermost(text).rstrip().split("\n"), None):
        if line is not None:
            margin = _MARGIN.match(line)
            bare = line if margin is None else line[margin.end() :]
            frame = _FRAME.fullmatch(bare) is not None
            # The lines of source under a frame are indented, a message's first line never is.
            source = in_frame and bare.startswith("    ")
            heading = bare.lstrip(" +|").startswith(_HEADINGS) or (margin or "+" in line) and _RULER.fullmatch(line)
            in_frame = frame or source
            if not (frame or source or heading):
                message.append(line)
                continue
        if message:
            # Half, so that an endless message leaves room for the frames.
            lines.append(cut(redact_db_error("\n".join(message)), limit // 2))
            message = []
        if line is not None:
            lines.append(redact_text(line))
    result = "\n".join(lines)
    return result if len(result) <= limit else MARK + result[len(result) - limit + 1 :]


def _innermost(text: str) -> str:
    """The end of a long stack trace, from a frame on: cut within a message, its quotes would turn inside out."""
    if len(text) <= _TEXT_INPUT:
        return text
    last = text.rfind('\n  File "')
    start = text.find('\n  File "', max(0, last - _TEXT_INPUT // 2)) if last >= 0 else -1
    return text[start + 1 : start + _TEXT_INPUT]


# ----- URLs

_PLAIN_PARAMETERS: Final = r"[A-Za-z_]\w{0,30}=\w{0,12}(?:&[A-Za-z_]\w{0,30}=\w{0,12})*"
_PLAIN_QUERY: Final = _pattern(_PLAIN_PARAMETERS, re.ASCII)
#: What most URLs are: host, words and numbers, short parameters. Nothing below would change such a one, the names of
#: parameters aside; a test holds it against the long way.
_PLAIN_URL: Final = _pattern(
    r"https?://(?:[A-Za-z]{1,30}\d{0,3}[.-]|\d{1,3}\.)*(?:[A-Za-z]{1,30}\d{0,3}|\d{1,3})(?::\d{1,5})?"
    rf"(?:/(?:[A-Za-z_-]{{0,15}}\d{{0,4}}|\d{{1,12}}))*(?:\?({_PLAIN_PARAMETERS}))?",
    re.ASCII,
)
_USERINFO_START: Final = _pattern(r"((?:[A-Za-z][\w+.-]*:)?(?://)?)[^/?#]*@")


@_safely(lambda: REDACTED)
def sanitise_url(url: str, sensitive: SensitiveKeys) -> str:
    """``url`` without credentials and fragment, the values of sensitive parameters ``[redacted]``.

    A segment of the path that looks like a token (of a password reset, an invitation) is redacted too.
    Works on any text, a broken URL or one with undecodable bytes included.
    """
    url = url[:_URL_INPUT]
    plain = _PLAIN_URL.fullmatch(url)
    if plain is not None and "eyJ" not in url:
        parameters = plain[1]
        if parameters is None or not any(
            sensitive.matches(parameter.partition("=")[0]) for parameter in parameters.split("&")
        ):
            return url
    return _sanitise_any_url(url, sensitive)


def _sanitise_any_url(url: str, sensitive: SensitiveKeys) -> str:
    if not url.isascii():
        url = url.encode("utf-8", "replace").decode("utf-8")
    if "@" in url:
        # Before the URL is taken apart: a password may hold a ? or a #.
        url = _USERINFO.sub("://", url)
        start = _USERINFO_START.match(url)
        url = url if start is None else start[1] + url[start.end() :]
    head, mark, query = url.partition("#")[0].partition("?")
    head = redact_text(head)
    if len(head) >= _TOKEN_LENGTH:
        segments = head.split("/")
        path = 3 if "://" in head else 0
        segments[path:] = [REDACTED if _is_token(segment) else segment for segment in segments[path:]]
        head = "/".join(segments)
    if not mark:
        return head
    parts = []
    for part in query.split("&"):
        name, equals, value = part.partition("=")
        if not equals:
            parts.append(redact_text(part))
            continue
        name = _redacted_encoded(name)
        if sensitive.matches(_decoded(name)):
            parts.append(f"{name}={REDACTED}")
        else:
            parts.append(f"{name}={_redacted_encoded(value)}")
    return f"{head}?{'&'.join(parts)}"


def _redacted_encoded(text: str) -> str:
    decoded = _decoded(text)
    redacted = redact_text(decoded)
    return text if redacted == decoded else quote(redacted, safe="[]*@/:")


def _decoded(text: str) -> str:
    return unquote_plus(text) if "%" in text or "+" in text else text


_TOKEN_LENGTH: Final = 20
#: Digits, small letters and capitals in one word: what a random generator writes, and hardly anyone else.
_MIXED: Final = _pattern(r"(?=.*\d)(?=.*[a-z])(?=.*[A-Z])")
_ALPHANUMERIC: Final = _pattern(r"[A-Za-z0-9]+")
_UUID: Final = _pattern(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def _is_token(segment: str) -> bool:
    """Whether a segment of a path is random rather than a word, a slug, a number or a uuid."""
    if len(segment) < _TOKEN_LENGTH or _UUID.fullmatch(segment):
        return False
    # A slug has words between its hyphens, a token has long stretches of letters among digits.
    return any(
        len(chunk) >= 10
        and not chunk.isdigit()
        and not chunk.isalpha()
        and (len(chunk) >= 16 or _MIXED.match(chunk) is not None)
        for chunk in _ALPHANUMERIC.findall(segment)
    )


_NOT_IN_NAMES: Final = _pattern(r"[^A-Za-z0-9_.-]+")


@_safely(dict)
def redact_query(query_string: str, sensitive: SensitiveKeys) -> dict[str, str]:
    """The parameters of a query string: name to value, sensitive values ``[redacted]``.

    At most 50 parameters; of a repeated one the last counts, as in Django's ``request.GET``.
    """
    parameters: dict[str, str] = {}
    if len(query_string) < 500 and "eyJ" not in query_string and _PLAIN_QUERY.fullmatch(query_string):
        for parameter in query_string.split("&")[:_QUERY_PARAMETERS]:
            name, _, value = parameter.partition("=")
            parameters[name] = REDACTED if sensitive.matches(name) else value
        return parameters
    for name, value in parse_qsl(query_string[:_URL_INPUT], keep_blank_values=True, errors="replace"):
        key = _NOT_IN_NAMES.sub("_", redact_text(name))[:64]
        if not key:
            continue
        parameters[key] = REDACTED if sensitive.matches(name) else redact_text(value)
        if len(parameters) >= _QUERY_PARAMETERS:
            break
    return parameters


# ----- e-mails and keys


@_safely(lambda: "***")
def mask_email(email: str, mode: Literal["masked", "full", "off"] = "masked") -> str | None:
    """``ada@example.com`` as ``a***@example.com`` (masked), as it is (full), or None (off)."""
    if mode == "off":
        return None
    if mode == "full":
        return email
    name, at, domain = email.rpartition("@")
    return f"{name[:1]}***@{domain}" if at and name and domain else "***"


_PATTERN_LENGTH: Final = 100
#: Parts of a key that belong together less than words joined by a hyphen or an underscore do.
_KEY_PART: Final = _pattern(r"[^:/.|,;=#&?\s\[\]{}()<>\"']+")
_KEY_WORD: Final = _pattern(r"[^_-]+")
_KEY_EMAIL: Final = _pattern(r"[^:/|,;\s]+(?:@|%40)[^:/|,;\s]+")
_PLAIN_WORD: Final = _pattern(r"[A-Za-z]{1,24}|v\d{1,3}")
_HEXADECIMAL: Final = _pattern(r"[0-9a-fA-F]{8,}")
_LETTERS_AND_DIGITS: Final = _pattern(r"(?=.*\d)(?=.*[A-Za-z])")
_CAMELS: Final = _pattern(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
#: What Django's session keys follow without a separator.
_SESSION_PREFIX: Final = _pattern(r"(sessions\.(?:cache|cached_db))[a-z0-9]{32}")
#: A uuid is one value, not five; so is a date.
_STARS: Final = _pattern(r"\*(?:[-_]\*)+")


def _key_pattern(key: str) -> str:
    session = _SESSION_PREFIX.search(key) if "sessions.cache" in key else None
    if session is not None:
        return cut(f"{_key_pattern(key[: session.end(1)])}*{_key_pattern(key[session.end() :])}", _PATTERN_LENGTH)
    if "@" in key or "%40" in key:
        key = _KEY_EMAIL.sub("*", key)
    if "eyJ" in key:
        key = _JWT.sub("*", key)
    return cut(_STARS.sub("*", _KEY_PART.sub(_key_part, key)), _PATTERN_LENGTH)


def _key_part(match: re.Match[str]) -> str:
    part = match.group()
    # A token may hold hyphens, and letters between them that could be words.
    if (
        len(part) >= 16
        and not (part.islower() or part.isupper())
        and any(_LETTERS_AND_DIGITS.match(word) or _is_jumbled(word) for word in _KEY_WORD.findall(part))
    ):
        return "*"
    return _KEY_WORD.sub(_key_word, part)


def _key_word(match: re.Match[str]) -> str:
    word = match.group()
    return word if _names_something(word) else "*"


def _names_something(word: str) -> bool:
    """Whether a word of a key is what a programmer wrote, rather than a value."""
    if not _PLAIN_WORD.fullmatch(word) or _HEXADECIMAL.fullmatch(word):
        return False
    if _is_jumbled(word):
        return False
    # Random letters have hardly a vowel.
    return len(word) < 8 or sum(word.lower().count(vowel) for vowel in "aeiouy") * 6 >= len(word)


def _is_jumbled(word: str) -> bool:
    """Whether capitals stand among small letters more often than at the heads of words."""
    return len(word) >= 6 and len(_CAMELS.findall(word)) * 5 > len(word) * 2


_key_pattern_cached: Final = lru_cache(maxsize=2048)(_key_pattern)


@_safely(lambda: "*")
def key_pattern(key: str) -> str:
    """A cache key as a pattern of low cardinality: ``blueprint:123`` is ``blueprint:*``.

    Whatever looks like a number, a uuid, a hash, a token, a date or an e-mail is a star; so is what is doubtful.
    At most 100 characters.
    """
    # Longer ones are not kept in the cache, which bounds its memory.
    return _key_pattern_cached(key) if len(key) <= 250 else _key_pattern(key[:1000])
