"""Change real inputs at random: texts, bytes, JSON values, and what consists of these."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Final

__all__ = ["BYTES", "PIECES", "SCALARS", "mutated", "pumped", "smaller"]

#: What readers of texts look for, or don't expect.
PIECES: Final = (
    *(",", "=", ";", ":", "-", "_", ".", "%", " ", "\t", "@", "/", "*", '"', "'", "\\", "[", "]", "{", "}", "(", ")"),
    *("+", "?", "&", "#", "~", "|", "$", "<", ">", "`", "^", "0", "1", "9", "a", "f", "A", "true", "null", "None"),
    *("\x00", "\r\n", "\n", "\r", "\x1b[31m", "\x1b]0;x\x07", "\x9b2J", "\x7f", "\x85", "\u2028", "\u202e", "\u2066"),
    *("\ud800", "\udcff", "\ufeff", "\u200b", "\xe9", "\xff", "é", "😀", "²", "٣", "ı", "K", "ﬁ"),
    *(
        "%00",
        "%0d%0a",
        "%zz",
        "%25",
        "%ff",
        "%u0041",
        "%e2%80%ae",
        "<script>",
        "javascript:",
        "../",
        "://",
        "--",
        "/*",
    ),
    *("1e999", "-1", "nan", "Infinity", "9" * 20, "9" * 400, "0x1", "1_0", "a" * 300, " " * 40, "%s", "{0}", "%(a)s"),
    *(
        "[::1]",
        "127.0.0.1",
        "::ffff:1.2.3.4",
        "fe80::1%eth0",
        "http://u:p@h/",
        "eyJhbGciOi",
        "password=",
        "2026-01-01",
    ),
)
#: The same for bytes: lengths, tags and the ends of numbers.
BYTES: Final = (
    *(b"\x00", b"\xff", b"\x80", b"\x7f", b"\x0a", b"\x12", b"\x08", b"\x18", b"\x22", b"\xff" * 10, b"\x80" * 11),
    *(
        b"\r\n",
        b"\r\n\r\n",
        b"{",
        b"}",
        b"[",
        b"]",
        b'"',
        b",",
        b":",
        b"\\u0000",
        b"\\ud800",
        b"1e999",
        b"NaN",
        b"null",
    ),
    *(b"\xc3\x28", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"[" * 200, b'{"a":' * 200, b"9" * 400, b"0" * 70),
    *(b"\x00\x00\x00\x00", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00" * 8, b"HTTP/1.1 200 OK\r\n", b"\x1b[2J"),
)
#: What stands where another type is expected.
SCALARS: Final = (
    *(None, True, False, 0, 1, -1, 2, 2**31, 2**53, 2**63, -(2**63) - 1, 2**64, 10**30, 10**400, 0.5, -0.0, 1e308),
    *(
        float("nan"),
        float("inf"),
        float("-inf"),
        "",
        " ",
        "0",
        "-1",
        "1e999",
        "nan",
        "x",
        "\x00",
        "\x1b[31m\r\n\u202e",
    ),
    *("\ud800", "9" * 5000, "a" * 3000, [], {}, [[]], [None], {"": None}, {"a": {"b": []}}, "²", "true", "null"),
)
#: Longer inputs are cut: each reader has its own limit, which pumped() passes.
_LONGEST: Final = 6000


def mutated(value: Any, random: Random, pieces: tuple[str, ...] = PIECES) -> Any:
    """Return ``value`` with one to four changes."""
    for _ in range(random.choice((1, 1, 1, 2, 2, 4))):
        value = _mutated(value, random, pieces)
    return value


def _mutated(value: Any, random: Random, pieces: tuple[str, ...]) -> Any:
    if isinstance(value, str):
        changed = _sequence(value, random, lambda: random.choice(pieces), lambda: chr(random.choice(_CODES)))
        return changed[:_LONGEST]
    if isinstance(value, bytes):
        changed = _sequence(value, random, lambda: random.choice(BYTES), lambda: bytes((random.randrange(256),)))
        return changed[:_LONGEST]
    if isinstance(value, dict):
        return _mapping(value, random, pieces)
    if isinstance(value, list):
        return _list(value, random, pieces)
    if isinstance(value, tuple):
        # A case of several inputs keeps their number and their types.
        at = random.randrange(len(value)) if value else 0
        return tuple(mutated(item, random, pieces) if number == at else item for number, item in enumerate(value))
    return random.choice(SCALARS)


#: Characters of all kinds: controls, ASCII, Latin, separators, directions, surrogates, others.
_CODES: Final = (*range(256), 0x131, 0x200B, 0x200F, 0x2028, 0x202E, 0x2066, 0x3000, 0xD800, 0xDFFF, 0xFEFF, 0x1F600)


def _sequence(value: Any, random: Random, piece: Callable[[], Any], unit: Callable[[], Any]) -> Any:
    begin = random.randint(0, len(value))
    end = min(len(value), begin + random.choice((0, 1, 1, 2, 4, 8, 16, 32)))
    part, before, behind = value[begin:end], value[:begin], value[end:]
    match random.randrange(9):
        case 0:
            return before + behind
        case 1:
            return before + piece() + value[begin:]
        case 2:
            return before + piece() + behind
        case 3:
            return before + unit() + behind
        case 4:
            return before + part * random.choice((2, 2, 3, 10)) + behind
        case 5:
            return before
        case 6:
            return behind + before + part
        case 7:
            other = random.randint(0, len(value))
            return before + value[other : other + 8] + behind
        case _:
            return before + piece() * random.choice((2, 5, 20)) + behind


def _mapping(value: dict[Any, Any], random: Random, pieces: tuple[str, ...]) -> Any:
    if not value:
        return {random.choice(pieces): random.choice(SCALARS)}
    changed = dict(value)
    key = random.choice(list(changed))
    # Most changes are further down: there are more places.
    match random.randrange(16):
        case 0:
            del changed[key]
        case 1:
            changed[key] = random.choice(SCALARS)
        case 2:
            changed[mutated(key, random, pieces) if isinstance(key, str) else key] = changed.pop(key)
        case 3:
            changed[random.choice(list(changed))] = changed[key]
        case 4:
            changed[key] = [changed[key]]
        case 5:
            changed[random.choice(pieces)] = random.choice(SCALARS)
        case _:
            changed[key] = _mutated(changed[key], random, pieces)
    return changed


def _list(value: list[Any], random: Random, pieces: tuple[str, ...]) -> Any:
    if not value:
        return [random.choice(SCALARS)]
    changed = list(value)
    at = random.randrange(len(changed))
    match random.randrange(12):
        case 0:
            del changed[at]
        case 1:
            changed[at:at] = [changed[at]] * random.choice((1, 2, 30))
        case 2:
            changed[at] = random.choice(SCALARS)
        case 3:
            changed[at] = changed[random.randrange(len(changed))]
        case 4:
            return {"a": changed}
        case _:
            changed[at] = _mutated(changed[at], random, pieces)
    return changed


# ----- longer ones


def pumped(value: Any, random: Random) -> Callable[[int], Any] | None:
    """Return a function that makes a part of ``value`` so many times longer; None if it has no such part."""
    if isinstance(value, (str, bytes)):
        begin = random.randint(0, len(value))
        end = min(len(value), begin + random.choice((1, 1, 2, 3, 5, 8, 20)))
        before, part, behind = value[:begin], value[begin:end], value[end:]
        return (lambda times: before + part * times + behind) if part else None
    if isinstance(value, dict):
        found = [(key, made) for key in value if (made := pumped(value[key], random)) is not None]
        if not found:
            return None
        key, make = random.choice(found)
        return lambda times: {**value, key: make(times)}
    if isinstance(value, (list, tuple)) and value:
        at = random.randrange(len(value))
        item = value[at]
        if isinstance(value, list) and random.random() < 0.5:
            return lambda times: [*value[:at], *[item] * times, *value[at + 1 :]]
        inner = pumped(item, random)
        if inner is None:
            return None
        kind = type(value)
        return lambda times: kind((*value[:at], inner(times), *value[at + 1 :]))
    return None


# ----- smaller ones


def smaller(value: Any, fails: Callable[[Any], bool], attempts: int = 1500) -> Any:
    """Return the smallest input that still fails, as far as so many attempts find it."""
    left = attempts
    progress = True
    while progress and left > 0:
        progress = False
        for candidate in _smaller(value):
            left -= 1
            if left <= 0:
                break
            if fails(candidate):
                value = candidate
                progress = True
                break
    return value


def _smaller(value: Any) -> Any:
    if isinstance(value, (str, bytes)):
        size = len(value)
        step = size
        while step:
            for begin in range(0, size, step):
                yield value[:begin] + value[begin + step :]
            step //= 2
    elif isinstance(value, dict):
        for key in value:
            yield {other: item for other, item in value.items() if other != key}
        for key, item in value.items():
            for candidate in _smaller(item):
                yield {**value, key: candidate}
    elif isinstance(value, list):
        for at in range(len(value)):
            yield value[:at] + value[at + 1 :]
        for at, item in enumerate(value):
            for candidate in _smaller(item):
                yield [*value[:at], candidate, *value[at + 1 :]]
    elif isinstance(value, tuple):
        for at, item in enumerate(value):
            for candidate in _smaller(item):
                yield (*value[:at], candidate, *value[at + 1 :])
    elif isinstance(value, int) and not isinstance(value, bool) and value not in (0, 1):
        yield 0
