"""Test that JSON read in parts has the same result as ``json.loads``."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_tracing.traces.readers.jaeger import json_stream
from django_tracing.traces.readers.jaeger.json_stream import JsonStream
from tests.work_counter import growth

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


def stream(text: str | bytes, size: int) -> JsonStream:
    body = text.encode() if isinstance(text, str) else text
    pieces = iter([body[begin : begin + size] for begin in range(0, len(body), size)])
    return JsonStream(lambda: next(pieces, b""))


def walked(source: JsonStream) -> Any:
    """Return the whole value, by iterating over each object and array."""
    character = source._peek()
    if character == "{":
        return {key: walked(source) for key in source.members()}
    if character == "[":
        return [walked(source) for _ in source.items()]
    return source.value()


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "_PIECE", 8)


@given(values, st.integers(1, 9), st.sampled_from([None, 1]), st.booleans())
def test_iterating_yields_the_whole_value(value: Any, size: int, indent: int | None, ascii_only: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    assert walked(stream(text, size)) == value
    assert stream(text, size).value() == value


@pytest.mark.parametrize(
    "text", ["", " ", "{", '{"a"', '{"a":', '{"a":1', '{"a" 1}', "{1:2}", "[1", "[1 2]", "[,]", "nope"]
)
def test_invalid_json_is_rejected(text: str) -> None:
    with pytest.raises(ValueError):
        walked(stream(text, 3))


def test_a_value_of_another_type() -> None:
    with pytest.raises(TypeError):
        list(stream("[]", 9).members())
    with pytest.raises(TypeError):
        list(stream("7", 9).items())
    assert list(stream("null", 9).items()) == []


def test_invalid_utf8() -> None:
    with pytest.raises(ValueError):
        walked(stream(b'["\xff"]', 9))


def test_a_deeply_nested_value_raises_an_error() -> None:
    with pytest.raises((RecursionError, ValueError)):
        stream("[" * 100_000, 1000).value()
    with pytest.raises((RecursionError, ValueError)):
        stream('{"a":' * 100_000, 1000).value()


def test_a_value_that_is_too_long_raises_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "MOST_CHARACTERS", 1000)
    read = 0

    def endless() -> bytes:
        nonlocal read
        read += 1
        assert read < 1000
        return b'"' + b"x" * 99 if read == 1 else b"x" * 100

    with pytest.raises(ValueError, match="too long"):
        JsonStream(endless).value()


@pytest.mark.parametrize(
    "make",
    [
        lambda size: json.dumps([{"name": "x", "number": number} for number in range(size)]),
        lambda size: json.dumps(["x" * 50 * size]),
        lambda size: json.dumps([[0] * 30 * size]),
        lambda size: "[" + " " * 50 * size + "]",
        lambda size: json.dumps({str(number): [] for number in range(size)}),
    ],
)
def test_reading_takes_linear_time(make: Any) -> None:
    def read(text: str) -> None:
        source = stream(text, 7)
        for _ in source.members() if text[0] == "{" else source.items():
            source.value()

    for ratio in growth(read, make, 100, 400, 1600):
        assert ratio < 5
