"""Redact messages and stacks of exceptions: remove the values that drivers and Python put into them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Final

from django_tracing.redaction.patterns import MARK, REDACTED, cut, pattern, safely
from django_tracing.redaction.text import TEXT_INPUT, redact_text

__all__ = ["redact_db_error", "redact_stacktrace"]

#: libpq writes ``DETAIL:  ...`` and ``LINE 1: ...`` in the user's language, always at a line's start.
_DETAIL: Final = pattern(
    r"(?:^|\n)[ \t]{0,40}(?:\| {0,8})?(?:DETAIL|CONTEXT|HINT|QUERY|STATEMENT|WHERE|LINE \d+):[\s\S]*"
    # With both blanks it is libpq's wherever it stands: behind a bar, or in a message that was made one line.
    r"|(?:DETAIL|CONTEXT|HINT|QUERY|STATEMENT|WHERE): {2}[\s\S]*"
    # SQLAlchemy's statement and parameters.
    r"|\n\[(?:SQL|parameters): [\s\S]*"
    r"|\n(?: {0,40}\| ?)?(?:[^\W\d_]{3,20} ?: {2}|[^\W\d_a-z]{3,20} \d{1,9} ?: )[\s\S]*"
)
#: A parser quotes the statement from its error on, to the end of the message.
_NEAR: Final = pattern(r"\bnear (['\"])")
#: What is in quotes, with the words before it that say that it is a name. An apostrophe in a word opens nothing, and
#: a quote before a letter closes nothing ('o'brien'); what is not closed goes on to the end.
_QUOTED_VALUE: Final = pattern(
    r"(?:\b(column|table|relation|constraint|index|schema|database|function|type|role|user|operator|extension|"
    r"sequence|view|cursor|for key|parameter|trigger|savepoint|language|collation|attribute|argument|[Ff]ield|method|"
    r"module named|resolve keyword|keyword arguments:|Unsupported lookup|field named|import name|connection|"
    r"unsaved related object|Reverse for|Invalid filter:|block tag on line \d{1,9}:|unhashable type:|"
    r"select_related:|prefetch_related:|"
    r"name\(s\) for model \w{1,100}:) )?"
    r"(?:(?:(?<!\w)|(?<=\b[bBuUrR]))'([^']*(?:'(?=\w)[^']*)*)(?:'|\Z)|\"([^\"]*(?:\"(?=\w)[^\"]*)*)(?:\"|\Z)"
    r"|«[^»]*(?:»|\Z)|„[^“]*(?:“|\Z)|“[^”]*(?:”|\Z))"
)
_NAME_IN_QUOTES: Final = pattern(r"[\w.$-]{1,128}")
#: So Python's own messages go on after a type or a name.
_AFTER_NAMES: Final = (
    *(" object has no ", " object is not ", " object does not ", " is not defined"),
    # And Django's.
    *(" is not a registered ", " is not a valid view function", " is an invalid parameter to prefetch_related"),
)
_LONGEST_KEY: Final = 200
#: All that a KeyError shows. An identifier is hardly ever personal, and needed to find the error. It has no digits in
#: its words, as short passwords have, and is no word with a capital, as names are.
_KEY: Final = pattern(
    r"(?:[\w.]{0,100}(?:KeyError|LookupError): )?"
    r"'(?![A-Z][a-z]+')_?[A-Za-z]{1,20}(?:_(?:[A-Za-z]{1,20}|\d{1,3})){0,5}'",
    re.ASCII,
)
#: Values that stand without quotes, in PostgreSQL's errors, SQL Server's and Oracle's, and in Pydantic's.
_BARE_VALUE: Final = pattern(
    r"\b(out of range: |input_value=(?!['\"]))(?:(?!, input_type=)[^\n])+|\b(value|object) [-+]?\d[\d.]*"
)
_BARE_ROW: Final = pattern(r"\b(?:duplicate key value is|with column values) \(")
#: redis-py writes the command that failed in a pipeline, Redis the arguments of one that it does not know.
_OF_PIPELINE: Final = pattern(r"\bCommand # \d{1,9} \([A-Z]{0,32}")
_OF_COMMAND: Final = "with args beginning with:"
#: Django's caches write the key that is not there, django-redis in two pairs of quotes.
_ABSENT: Final = ("Key '", "' not found")
#: MySQL's errors are a number and a message, printed as a tuple: the message's own quotes are no value's.
_NUMBERED: Final = pattern(r"\(\d{1,6}, (['\"])")


#: So the pools of concurrent.futures and multiprocessing begin and end the trace of another process, as a message.
_REMOTE: Final = '\n"""\n'
_REMOTE_END: Final = '"""'


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


@safely(lambda: REDACTED)
def redact_db_error(text: str) -> str:
    """Return an exception's message without the values that database drivers and Python put into it.

    Text in quotes is removed, unless it is a name (``constraint "auth_user_username_key"``, ``attribute 'pk'``);
    so are PostgreSQL's further lines (DETAIL, CONTEXT, HINT, LINE 1).
    """
    text = text[:TEXT_INPUT]
    if text.startswith(_REMOTE):
        # Its quotes are three, which would turn all others inside out.
        stack = _redact_stack(text[len(_REMOTE) :].removesuffix(_REMOTE_END), TEXT_INPUT, _redact_message)
        return f"{_REMOTE}{stack}{_REMOTE_END}"
    return _redact_message(text)


def _redact_message(text: str) -> str:
    if len(text) <= _LONGEST_KEY and _KEY.fullmatch(text):
        return redact_text(text)
    numbered = _NUMBERED.search(text)
    if numbered is not None and text.rstrip().endswith(f"{numbered[1]})"):
        # Once: a message that quotes such a tuple again, and again, would be read as often.
        message = _without_values(text[numbered.end() : text.rindex(numbered[1])])
        return f"{_without_values(text[: numbered.start()])}{numbered.group()}{message}{numbered[1]})"
    return _without_values(text)


def _without_values(text: str) -> str:
    text = _without_rows(_without_quoted_statement(_DETAIL.sub("", _without_keys(text))))
    text = _BARE_VALUE.sub(_redact_bare, text)
    return redact_text(_QUOTED_VALUE.sub(_redact_quoted, text))


def _without_quoted_statement(text: str) -> str:
    parts: list[str] = []
    kept = 0
    for match in _NEAR.finditer(text):
        if match.start() >= kept:
            # Up to the last quote: the statement may hold more of them. One that was cut off has none.
            end = text.rfind(match[1], match.end())
            parts += (text[kept : match.start()], 'near "?"')
            kept = end + 1 if end >= 0 else len(text)
    return "".join((*parts, text[kept:])) if parts else text


def _without_keys(text: str) -> str:
    """Remove the keys that caches and Redis quote. They may contain quotes and brackets themselves."""
    before, arguments, _ = text.partition(_OF_COMMAND)
    command = _OF_PIPELINE.search(before)
    if command is not None:
        before = _without_middle(before, command.end(), " ?", ") of pipeline")
    start = before.find(_ABSENT[0])
    if start >= 0 and _ABSENT[1] in before:
        before = _without_middle(before, start + len(_ABSENT[0]), "?", _ABSENT[1])
    return f"{before}{arguments} ?" if arguments else before


def _without_middle(text: str, start: int, instead: str, end: str) -> str:
    """Replace ``text`` from ``start`` to the last ``end``, or to its own end, by ``instead``."""
    found = text.rfind(end, start)
    return f"{text[:start]}{instead}{text[found:] if found >= 0 else ''}"


def _without_rows(text: str) -> str:
    parts: list[str] = []
    kept = 0
    for match in _BARE_ROW.finditer(text):
        if match.start() >= kept:
            line = text.find("\n", match.end())
            line = len(text) if line < 0 else line
            end = text.rfind(")", match.end(), line)
            parts += (text[kept : match.end()], "?)")
            kept = end + 1 if end >= 0 else line
    return "".join((*parts, text[kept:])) if parts else text


def _redact_bare(match: re.Match[str]) -> str:
    value, number = match.groups()
    return f"{value}?" if value else f"{number} ?"


#: Exception groups draw their traces behind a bar, and rulers between them.
_MARGIN: Final = pattern(r" *\| ?")
_RULER: Final = pattern(r" *(?:\+-)?\+-{16} (?:\d{1,5}|\.{3}) -{16}")
_LAST_RULER: Final = pattern(r" *\+-{36}")
_FRAME: Final = pattern(
    r'  File "[^"]*", line \d+(?:, in .*)?'
    r"|  \[(?:Previous line repeated \d{1,9} more times?|the frames before these are left out)\]"
)
#: How the names of this app's files start. Its frames are left out of stacks.
OWN_FILES: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_OWN_FRAME: Final = f'  File "{OWN_FILES}'
_HEADINGS: Final = (
    "Traceback (most recent call last):",
    "Exception Group Traceback",
)
_RELATIONS: Final = (
    "The above exception was the direct cause",
    "During handling of the above exception",
)


@safely(lambda: REDACTED)
def redact_stacktrace(text: str, limit: int) -> str:
    """Redact the messages of a stack trace. Frames and source lines stay, but for those of this app.

    At most ``limit`` characters, cut at the front: the innermost frame and the message are at the end.
    """
    return _redact_stack(text, limit, redact_db_error)


def _redact_stack(text: str, limit: int, redact_message: Callable[[str], str]) -> str:
    lines: list[str] = []
    message: list[str] = []
    text = _innermost(text).rstrip()
    # The bar that a message stands behind follows from the lines above it: in its own, a bar may be the message's.
    # None where another exception starts, which its first line shows.
    bar: str | None = None
    in_frame = own = False
    for line in (*text.split("\n"), None):
        ruler = relation = structure = False
        if line is not None:
            bare = line.removeprefix(bar or "") if in_frame else line[len(_bar(line)) :]
            frame = _FRAME.fullmatch(bare) is not None
            # The lines of source under a frame are indented, a message's first line never is.
            source = in_frame and bare.startswith("    ")
            ruler = _RULER.fullmatch(line) is not None
            relation = bare.startswith(_RELATIONS)
            heading = bare.lstrip(" +").startswith(_HEADINGS) or _LAST_RULER.fullmatch(line) is not None
            # Between two exceptions there are blank lines.
            structure = frame or source or ruler or relation or heading or (bar is None and not bare.strip())
            in_frame = frame or source
            own = in_frame and (own if source or bare.startswith("  [Previous") else bare.startswith(_OWN_FRAME))
            if not structure:
                if bar is None:
                    bar = _bar(line)
                message.append("" if line == bar.rstrip() else line.removeprefix(bar))
                continue
        if message:
            # Half, so that an endless message leaves room for the frames.
            redacted = cut(redact_message("\n".join(message)), limit // 2)
            lines += [f"{bar}{part}" for part in redacted.split("\n")]
            message = []
        if line is not None:
            if not own:
                lines.append(redact_text(line))
            if ruler:
                bar = f"{' ' * line.rindex('+')}| "
            elif relation:
                bar = None
            elif bar is not None or line.strip(" |"):
                bar = _bar(line)
    result = "\n".join(lines)
    return result if len(result) <= limit else MARK + result[len(result) - limit + 1 :]


def _bar(line: str) -> str:
    """Return the bar at the start of ``line``: exception groups have one on each line, with a plus on the first."""
    margin = _MARGIN.match(line)
    if margin is not None:
        return margin.group()
    return f"{line[: line.index('+')]}| " if line.lstrip(" ").startswith("+ Exception Group Traceback") else ""


def _innermost(text: str) -> str:
    """Return the end of a long stack trace, from a frame on: a cut within a message would invert its quotes."""
    if len(text) <= TEXT_INPUT:
        return text
    last = text.rfind('\n  File "')
    start = text.find('\n  File "', max(0, last - TEXT_INPUT // 2)) if last >= 0 else -1
    end = start + TEXT_INPUT
    if end < len(text):
        # No part of a line: of DETAIL: the word alone would say nothing of what follows it.
        end = max(text.rfind("\n", start + 1, end), start + 1)
    return text[start + 1 : end]
