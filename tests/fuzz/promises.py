"""Check what is promised of everything that came from outside: one function for each promise."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["check_attributes", "check_headers", "check_json", "check_line", "check_terminal"]

_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,4200}")
_VALUE: Final = re.compile(r"[\t -~]*")
#: The longest header that servers usually accept.
_LONGEST_HEADER: Final = 8192
_LONGEST_ATTRIBUTE: Final = 8192


def check_line(text: object, longest: int = 20_000) -> None:
    """No line break, control character, escape sequence or character that turns the direction of writing."""
    assert isinstance(text, str), text
    assert text.isprintable(), f"not printable: {text!r}"
    assert len(text) <= longest, f"{len(text)} characters"


def check_terminal(text: str, longest: int = 2_000_000) -> None:
    assert len(text) <= longest, f"{len(text)} characters"
    for line in text.split("\n"):
        assert line.isprintable(), f"not printable: {line!r}"


def check_headers(headers: Mapping[str, str]) -> None:
    """Each name and each value may be sent by any client of HTTP."""
    for name, value in headers.items():
        assert isinstance(name, str) and _NAME.fullmatch(name), f"name: {name!r}"
        assert isinstance(value, str) and _VALUE.fullmatch(value), f"{name}: {value!r}"
        assert value == value.strip(" \t"), f"{name}: {value!r}"
        assert len(value) <= _LONGEST_HEADER, f"{name} has {len(value)} characters"


def check_attributes(attributes: Mapping[str, Any], longest: int = _LONGEST_ATTRIBUTE, most: int = 200) -> None:
    """What a span has is bounded: the names, the values, and their number."""
    assert len(attributes) <= most, f"{len(attributes)} attributes"
    for key, value in attributes.items():
        assert isinstance(key, str) and len(key) <= 256, f"{key!r}"
        for item in value if isinstance(value, (list, tuple)) else [value]:
            assert not isinstance(item, str) or len(item) <= longest, f"{key} has {len(item)} characters"


def check_json(text: str) -> None:
    """Any parser reads it, and any file can have it."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    json.loads(text, parse_constant=refuse)
    text.encode("utf-8")
