"""SQL of every vendor, and of none that is known: nothing that any reading calls a literal is shown.

:func:`quoted` is another reader of SQL than the app's: one character after another, by rules that can be combined
freely. What it finds inside of literals and comments is looked for in what the app makes of the same text.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from django_tracing.redaction import REDACTED, Dialect, describe_sql, dialect_of, sanitise_sql

EXAMPLES = int(os.environ.get("DIALECT_EXAMPLES", "400"))


class Reading(NamedTuple):
    """How a server reads SQL."""

    #: Whether a backslash escapes in strings.
    escapes: bool = False
    #: Whether double quotes make strings.
    double_strings: bool = False
    #: What opens a comment beside "-- ".
    hash_comments: bool = False
    slash_comments: bool = False
    brace_comments: bool = False
    #: Whether two dashes need white space behind them.
    spaced_dashes: bool = False
    #: Whether a carriage return ends a line.
    returns_end_lines: bool = False
    nested: bool = False
    #: Whether the inside of /*! is run.
    executes: bool = False
    dollars: bool = False
    brackets: bool = False
    backticks: bool = False
    triples: bool = False
    q_strings: bool = False
    e_strings: bool = False


POSTGRESQL = Reading(returns_end_lines=True, nested=True, dollars=True, e_strings=True)
SQLITE = Reading(brackets=True, backticks=True)
ORACLE = Reading(q_strings=True)
MSSQL = Reading(brackets=True, nested=True)
MYSQL = Reading(
    escapes=True, double_strings=True, hash_comments=True, spaced_dashes=True, executes=True, backticks=True
)
GOOGLESQL = Reading(escapes=True, double_strings=True, hash_comments=True, backticks=True, triples=True)
SNOWFLAKE = Reading(escapes=True, slash_comments=True, dollars=True)
ANY = st.builds(Reading, **{name: st.booleans() for name in Reading._fields})

READINGS: dict[Dialect, Any] = {
    "postgresql": st.just(POSTGRESQL),
    "sqlite": st.just(SQLITE),
    "oracle": st.builds(ORACLE._replace, returns_end_lines=st.booleans()),
    "mssql": st.builds(MSSQL._replace, returns_end_lines=st.booleans()),
    "mysql-escapes": st.builds(MYSQL._replace, executes=st.booleans(), dollars=st.booleans()),
    "mysql-no-escapes": st.builds(
        MYSQL._replace, escapes=st.just(False), executes=st.booleans(), dollars=st.booleans()
    ),
    "mysql": st.builds(MYSQL._replace, escapes=st.booleans(), executes=st.booleans(), dollars=st.booleans()),
    "unknown": ANY,
    "names-in-double-quotes": ANY.map(lambda reading: reading._replace(double_strings=False)),
}


def _identifier(character: str) -> bool:
    return character.isalnum() or character == "_"


def quoted(sql: str, reading: Reading) -> list[tuple[int, int]]:
    """Where literals and comments begin and end."""
    spans: list[tuple[int, int]] = []
    at, end = 0, len(sql)
    executing = prefixed = False

    def until(closing: str, start: int) -> int:
        found = sql.find(closing, start)
        return end if found < 0 else found + len(closing)

    def string(start: int, quote: str, *, escapes: bool) -> int:
        """Where the string ends whose first character is at ``start``."""
        if reading.triples and sql.startswith(quote * 2, start):
            quote *= 3
            start += 2
        while start < end:
            if escapes and sql[start] == "\\":
                start += 2
            elif sql.startswith(quote, start):
                start += len(quote)
                # Doubled; or, with triples, the next string: its inside is quoted as well.
                if len(quote) == 3 or reading.triples or not sql.startswith(quote, start):
                    return start
                start += 1
            else:
                start += 1
        return end

    def line(start: int) -> int:
        ends = [sql.find("\n", start)] + ([sql.find("\r", start)] if reading.returns_end_lines else [])
        return min((place for place in ends if place >= 0), default=end)

    while at < end:
        here = sql[at]
        first = at == 0 or not (_identifier(sql[at - 1]) or sql[at - 1] == "$")
        if executing and sql.startswith("*/", at):
            executing = False
            at += 2
        elif sql.startswith("/*", at):
            if reading.executes and sql.startswith("/*!", at):
                executing = True
                at += 3
                continue
            depth, start = 1, at
            at += 2
            while depth and at < end:
                if sql.startswith("*/", at):
                    depth -= 1
                    at += 2
                elif reading.nested and sql.startswith("/*", at):
                    depth += 1
                    at += 2
                else:
                    at += 1
            spans.append((start, at))
        elif sql.startswith("--", at) and (
            not reading.spaced_dashes or at + 2 == end or sql[at + 2].isspace()
        ) or (here == "#" and reading.hash_comments) or (reading.slash_comments and sql.startswith("//", at)):
            start, at = at, line(at)
            spans.append((start, at))
        elif here == "{" and reading.brace_comments:
            at = until("}", at)
        elif here == "[" and reading.brackets:
            at = until("]", at)
            while reading.nested and at < end and sql[at] == "]":  # SQL Server's doubled one
                at = until("]", at + 1)
        elif here == "`" and reading.backticks:
            at = until("`", at + 1)
            while at < end and sql[at] == "`" and not reading.triples:
                at = until("`", at + 1)
        elif here == "'" or (here == '"' and reading.double_strings):
            start, at = at, string(at + 1, here, escapes=reading.escapes)
            spans.append((start, at))
        elif here == '"':
            at = string(at + 1, here, escapes=False)
        elif first and here in "eE" and reading.e_strings and sql.startswith("'", at + 1):
            start, at = at, string(at + 2, "'", escapes=True)
            spans.append((start, at))
        elif first and here in "nN" and reading.q_strings and sql[at + 1 : at + 3].lower() == "q'":
            at += 1
            prefixed = True
            continue
        elif (first or prefixed) and here in "qQ" and reading.q_strings and sql[at + 1 : at + 2] == "'" and at + 2 < end:
            prefixed = False
            edge = sql[at + 2]
            if edge.isspace() or edge == "'":
                at += 1
                continue
            start, at = at, until({"[": "]", "(": ")", "{": "}", "<": ">"}.get(edge, edge) + "'", at + 3)
            spans.append((start, at))
        elif here == "$" and reading.dollars and first:
            tag = at + 1
            while tag < end and _identifier(sql[tag]) and not (tag == at + 1 and sql[tag].isdigit()):
                tag += 1
            if tag < end and sql[tag] == "$":
                start, at = at, until(sql[at : tag + 1], tag + 1)
                spans.append((start, at))
            else:
                at += 1
        else:
            at += 1
    return spans


#: What vendors read in different ways: what opens, with what closes; quotes; and anything else.
OPENERS = [
    ("[", "]"), ("[", "]]", "]"), ("{", "}"), ("--", "\n"), ("-- ", "\n"), ("#", "\n"), ("//", "\n"), ("-- ", "\r", "\n"), ("#", "\r", "\n"),
    ("/*", "*/"), ("/*!", "*/"), ("/*!50000 ", "*/"), ("/*+", "*/"), ("q'[", "]'"), (" q'!", "!'"), (" nq'(", ")'"), ("`",), ("``", "`"),
    ("$$",), ("$a$",), ("$a$", "$b$"), ("\\", "\\\\"), ("\\'",), ('\\"',), ("'''",), ('"""',), ("x$",),
]  # fmt: skip
QUOTES = ["'", "'", '"', "''", '""', "''''", " E'", " N'", " r'", " U&'", ' b"', "`"]
OTHERS = ["\r\n", "\r", "\n", " ", ",", "(", ")", "=", "-", "/", "*", "1", "?", "%s", "%%", ";", "::", "ESCAPE '\\'", *QUOTES]
_WORDS = [f"zq{letter}x" for letter in "abcdefghijklmnop"]


@st.composite
def statements(draw: st.DrawFn) -> str:
    # Of a few kinds each: so they meet as they have to, to be read in different ways.
    opener, *closers = draw(st.sampled_from(OPENERS))
    quote = draw(st.sampled_from(QUOTES))
    kinds = [opener, quote, *closers, *draw(st.lists(st.sampled_from(OTHERS), max_size=1))]
    pieces = draw(st.one_of(st.just([opener, quote, *closers, quote]), st.just([quote, opener, *closers, quote])))
    pieces += draw(st.lists(st.sampled_from(kinds), max_size=8))
    parts = [draw(st.sampled_from(["", "SELECT ", "INSERT INTO t VALUES ("]))]
    for piece, word in zip(pieces, _WORDS, strict=False):
        # Blanks on both sides, or none: letters before a quote are part of it.
        parts += (piece, draw(st.sampled_from([word, f" {word} "])))
    return "".join(parts)


def _shown(sql: str, reading: Reading, text: str) -> list[str]:
    """The planted words that are inside of a literal, or a comment, and are shown."""
    spans = quoted(sql, reading)
    return [
        word
        for word in _WORDS
        if word in text and any(start <= sql.index(word) < end for start, end in spans)
    ]


@pytest.mark.parametrize("dialect", READINGS)
def test_no_literal_of_any_reading_is_shown(dialect: Dialect) -> None:
    @settings(max_examples=EXAMPLES, deadline=None)
    @given(statements(), READINGS[dialect])
    def holds(sql: str, reading: Reading) -> None:
        statement = describe_sql(sql, dialect)
        text = statement.text
        assert _shown(sql, reading, " ".join([text, statement.operation, *statement.tables])) == []
        assert text != REDACTED
        assert sanitise_sql(text, dialect=dialect) == text

    holds()
