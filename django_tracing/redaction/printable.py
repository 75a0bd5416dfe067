"""Make untrusted text printable on one line, for logs, terminals and messages."""

from __future__ import annotations

from typing import Final

__all__ = ["printable"]

_WORDS: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: str, length: int | None = None) -> str:
    """Return ``text`` without control sequences, at most ``length`` characters long.

    Control characters, line separators, the characters that turn the direction of writing, surrogates and their like
    become escapes such as ``\\n`` and ``\\u202e``.
    """
    shown = text if length is None else text[: length + 1]
    if not shown.isprintable():
        shown = "".join(each if each.isprintable() else _escape(each) for each in shown)
    if length is not None and len(shown) > length:
        return f"{shown[: length - 1]}…"
    return shown


def _escape(character: str) -> str:
    code = ord(character)
    word = _WORDS.get(character)
    if word is not None:
        return word
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
