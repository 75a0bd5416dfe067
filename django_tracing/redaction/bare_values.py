"""Find values that a statement writes as words or as names: passwords, settings, a procedure's arguments."""

from __future__ import annotations

import re
from typing import Final

from django_tracing.redaction.dialects import Dialect, Token
from django_tracing.redaction.patterns import REDACTED, pattern

__all__ = ["without_bare_values", "without_passwords_of_sql"]

#: Without one of these there is nothing to do.
_HAS_SOME: Final = pattern(
    r"\b(?:set|pragma|attach|connect|identified|password|administer|encrypt|decrypt|exec|execute|[sx]p_\w*)\b",
    re.IGNORECASE,
)
#: What is made or changed with a password.
_ACCOUNTS: Final = frozenset({"user", "role", "login", "group", "application", "server", "credential", "database"})
_BEFORE_ACCOUNTS: Final = frozenset({"or", "replace", "if", "not", "exists", "public", "shared"})
#: What has settings of its own: ALTER ROLE x SET y TO z.
_WITH_SETTINGS: Final = frozenset({"user", "role", "database", "system"})
#: What stands after PASSWORD and is none.
_NO_PASSWORDS: Final = frozenset(
    {"default", "disable", "expire", "for", "function", "history", "interval", "lifetime", "lock", "never", "null"}
    | {"optional", "policy", "require", "reuse", "unlock", "verify"}
)
#: After these words, the rest of the statement is values.
_OPENS_VALUES: Final = {
    "set": frozenset({"to", "="}),
    # SQLCipher's keys also stand in parentheses.
    "pragma": frozenset({"=", "key", "rekey", "hexkey", "hexrekey", "textkey", "textrekey"}),
    "attach": frozenset({"key"}),
    # CONNECT ann/password, CONNECT TO x USER y USING password.
    "connect": frozenset({"/", "using"}),
    # Oracle's keystores: nearly each clause may hold a password or a secret.
    "administer": frozenset({"management"}),
}
#: Where a procedure's arguments may be texts without quotes.
_WITH_BARE_ARGUMENTS: Final = frozenset({"mssql", "unknown", "names-in-double-quotes"})
_CALLS: Final = frozenset({"exec", "execute"})
_NO_ARGUMENTS: Final = frozenset({"default", "go", "null", "out", "output"})
_ENDS: Final = frozenset({",", "(", ")"})


def without_bare_values(sql: str, tokens: list[Token], dialect: Dialect) -> list[Token]:
    """Return the ``tokens`` of ``sql`` with such values marked as literals."""
    if _HAS_SOME.search(sql) is None:
        return tokens
    kept: list[Token] = []
    start = 0
    for index, token in enumerate(tokens):
        if token[1] == ";":
            kept += _statement(tokens[start:index], dialect)
            kept.append(token)
            start = index + 1
    return kept + _statement(tokens[start:], dialect)


def _statement(tokens: list[Token], dialect: Dialect) -> list[Token]:
    kept: list[Token] = []
    verb = noun = previous = ""
    openers: frozenset[str] = frozenset()
    # Whether the next token is a password, and whether one is under way: what follows it at once belongs to it.
    opening = running = identified = called = values = False
    bare_arguments = dialect in _WITH_BARE_ARGUMENTS
    for kind, text, space in tokens:
        word = text.lower() if kind == "word" else ""
        running = running and not space and text not in _ENDS
        hidden = running
        # Of a call, the name goes on until there is white space.
        values = values or (called and space and previous not in _CALLS)
        called = called or (bare_arguments and (word in _CALLS or (not verb and word.startswith(("sp_", "xp_")))))
        if not verb:
            verb = word or text
            openers = _OPENS_VALUES.get(verb, openers)
        elif not noun and word not in _BEFORE_ACCOUNTS:
            noun = word or text
        if values:
            shown = called and (previous == "@" or word in _NO_ARGUMENTS)
            hidden = kind == "quoted" or (bool(word) and not shown)
        elif opening and text not in ("=", ":", "("):
            opening = False
            hidden = running = text not in _ENDS and (identified or word not in _NO_PASSWORDS)
        if hidden:
            kept.append(("literal", "?", space))
            previous = "?"
            continue
        kept.append((kind, text, space))
        if word == "identified":
            identified = True
        elif identified:
            # GRANT ... TO a, b IDENTIFIED BY one, another
            opening = opening or word in ("by", "replace") or (text == "," and previous == "?" and verb == "grant")
        elif word == "password":
            opening = verb == "set" or (verb in ("create", "alter") and noun in _ACCOUNTS)
        elif word == "using" and previous in ("encrypt", "decrypt"):
            opening = identified = True
        elif word == "set" and verb == "alter" and noun in _WITH_SETTINGS:
            openers = _OPENS_VALUES["set"]
        values = values or (word or text) in openers
        previous = word or text
    return kept


_VALUE: Final = r"""(?:[eEnN]?'(?:[^'\\]|\\[\s\S]|'')*'?|"(?:[^"\\]|\\[\s\S]|"")*"?|[^\s;,)'"]+)"""
#: In a text that may quote a statement. People are "identified by" things, too: without quotes, what stands before
#: makes a statement of it, or capitals do.
_IN_TEXT: Final = pattern(
    rf"""
    \b(
        (?i:identified\s{{1,9}}(?:with\s{{1,9}}\w{{1,64}}\s{{1,9}})?(?:by|as)\s{{0,9}}(?:(?:password|values)\s{{1,9}})?
            |password\s{{1,9}})(?=[eEnN]?['"])
        | IDENTIFIED\s{{1,9}}BY\s{{1,9}}
        | (?i:(?:alter|create)\s{{1,9}}(?:user|role)\s{{1,9}}\S{{1,128}}\s{{1,9}}identified\s{{1,9}}by\s{{1,9}})
    ){_VALUE}((?i:\s{{1,9}}replace\s{{1,9}}){_VALUE})?
    """,
    re.VERBOSE,
)


def without_passwords_of_sql(text: str) -> str:
    """Return ``text`` without the passwords of statements that it quotes: ``IDENTIFIED BY new REPLACE old``."""
    return _IN_TEXT.sub(_hide_password, text)


def _hide_password(match: re.Match[str]) -> str:
    replaced = match[2]
    return f"{match[1]}{REDACTED}{f' REPLACE {REDACTED}' if replaced else ''}"
