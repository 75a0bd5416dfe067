"""JSON that is read piece by piece: what is kept of a long answer is up to its reader, and never all of it."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

__all__ = ["MOST_CHARACTERS", "JsonStream"]

#: A value that is read whole, e.g. a span, may have as many characters.
MOST_CHARACTERS: Final = 8 * 1024 * 1024
_PIECE: Final = 64 * 1024
_SPACE: Final = re.compile(r"[ \t\n\r]*")


class JsonStream:
    """The JSON whose bytes ``read`` returns, a piece with each call and none at the end.

    Objects and arrays are walked through by :meth:`members` and :meth:`items`; each of theirs has to be taken, by one
    of these or by :meth:`value`, before the next one comes. Raises ValueError for what is no JSON, TypeError where an
    object or an array was meant and there is none, and RecursionError for one that is nested very deeply.
    """

    def __init__(self, read: Callable[[], bytes]) -> None:
        self._read = read
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._decode = json.JSONDecoder().raw_decode
        self._text = ""
        self._at = 0
        self._ended = False

    def value(self) -> Any:
        """The next value, whole."""
        self._peek()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except json.JSONDecodeError:
                if self._ended:
                    raise
            else:
                # A number may go on in the next piece, and what there is of it be a number as well.
                if self._ended or self._text[end : end + 1] not in ("", ".", "e", "E"):
                    self._at = end
                    return value
            if len(self._text) - self._at > MOST_CHARACTERS:
                raise ValueError("a value that is too long")
            self._more()

    def members(self) -> Iterator[str]:
        """The keys of the next value, an object; their values are to be taken."""
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
        """Once for each value of an array, which is to be taken; null is an empty one."""
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
        """The next character that is no space."""
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
        # As much again as is waiting: a value is tried again with twice as much of it, and all tries together are
        # linear in its length.
        left = self._text[self._at :]
        parts, wanted = [left], max(_PIECE, len(left))
        while wanted > 0 and not self._ended:
            piece = self._read()
            self._ended = not piece
            text = self._decoder.decode(piece, final=self._ended)
            parts.append(text)
            wanted -= len(text)
        self._text, self._at = "".join(parts), 0
