"""Redact the commands of key-value stores: Redis, Valkey, memcached."""

from __future__ import annotations

from typing import Final

from django_tracing.redaction.patterns import pattern
from django_tracing.redaction.text import redact_text

__all__ = ["redact_commands"]

_LENGTH: Final = 2000
_NAME_LENGTH: Final = 32
_MOST_COMMANDS: Final = 50
_MOST_ARGUMENTS: Final = 20
_NOT_IN_NAMES: Final = pattern(r"[^a-z0-9_.]")


def redact_commands(text: str, *, pipelined: bool = False) -> tuple[str, str]:
    """Return a command without its keys and values (``SET ? ?``), and its name in lower case.

    Without a list of all commands, keys cannot be told from values. If ``pipelined``, ``text`` has one command a
    line, and the name is that of the first.
    """
    lines = []
    first = ""
    text = text[:_LENGTH]
    # The arguments of a single command may contain line breaks, and what follows one is not a command.
    for line in text.splitlines()[:_MOST_COMMANDS] if pipelined else [text]:
        command, *arguments = line.split() or [""]
        if command:
            name = _NOT_IN_NAMES.sub("", redact_text(command[:_NAME_LENGTH]).lower())[:_NAME_LENGTH]
            first = first or name
            lines.append(" ".join([name.upper(), *("?" for _ in arguments[:_MOST_ARGUMENTS])]))
    return "\n".join(lines), first or "unknown"
