"""Read JSON piece by piece, without keeping all of it in memory."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

from django_tracing.traces.values import encodable

__all__ = ["MOST_CHARACTERS", "JsonStream"]

#: The longest value that is read as a whole, e.g. a span, in characters.
MOST_CHARACTERS: Final = 8 * 1024 * 1024
_PIECE: Final = 64 * 1024
_SPACE: Final = re.compile(r"[ \t\n\r]*")


class JsonStream:
    """Parses the bytes that ``read`` returns, a piece with each call and no bytes at the end.

    :meth:`members` and :meth:`items` iterate over objects and arrays. Each member or item must be read, by one of
    them or by :meth:`value`, before the next one. Raises ValueError for invalid JSON, TypeError if an object or array
    is expected and there is none, and RecursionError for values that are nested too deeply.
    """

    def __init__(self, read: Callable[[], bytes]) -> None:
        self._read = read
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._decode = json.JSONDecoder().raw_decode
        self._text = ""
        self._at = 0
        self._ended = False

    def value(self) -> Any:
        """Read the whole next value."""
        self._peek()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except json.JSONDecodeError:
                if self._ended:
                    raise
            else:
                # A number may continue in the next piece, although its first part is a number, too.
                if self._ended or self._text[end : end + 1] not in ("", ".", "e", "E"):
                    begin, self._at = self._at, end
                    return encodable(value, self._text[begin:end])
            if len(self._text) - self._at > MOST_CHARACTERS:
                raise ValueError("a value that is too long")
            self._more()

    def members(self) -> Iterator[str]:
        """Iterate over the keys of the next value, an object. The caller must read their values."""
        if self._peek() != "{":
            raise TypeError("no object")
        self._at += 1
        if self._peek() == "}":
            self._at += 1
            return
        while True:
            key = self.value()
            if not isinstance(key, str):
                raise ValueError("a key that is no text")
            self._expect(":")
            yield key
            if self._expect(",}") == "}":
                return

    def items(self) -> Iterator[None]:
        """Iterate over the next value, an array, whose items the caller must read. null counts as an empty array."""
        if self._peek() != "[":
            if self.value() is None:
                return
            raise TypeError("no array")
        self._at += 1
        if self._peek() == "]":
            self._at += 1
            return
        while True:
            yield
            if self._expect(",]") == "]":
                return

    def _peek(self) -> str:
        """Return the next character that is not white space."""
        while True:
            found = _SPACE.match(self._text, self._at)
            self._at = len(self._text) if found is None else found.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if self._ended:
                raise ValueError("the end comes too early")
            self._more()

    def _expect(self, characters: str) -> str:
        character = self._peek()
        if character not in characters:
            raise ValueError(f"{character!r} instead of one of {characters!r}")
        self._at += 1
        return character

    def _more(self) -> None:
        # Read as much again as is there. A value is then parsed again with twice as much text, so that all attempts
        # together take linear time.
        left = self._text[self._at :]
        parts, wanted = [left], max(_PIECE, len(left))
        while wanted > 0 and not self._ended:
            piece = self._read()
            self._ended = not piece
            text = self._decoder.decode(piece, final=self._ended)
            parts.append(text)
            wanted -= len(text)
        self._text, self._at = "".join(parts), 0
