"""Test reading the attribute values of stored spans."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_tracing.traces.readers.jaeger.json_stream import JsonStream
from django_tracing.traces.values import parse_json

texts = st.text(st.characters() | st.sampled_from("\ud800\udbff\udc00\udfff\\😀d"), max_size=8)
values = st.recursive(
    st.none() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


def streamed(text: str) -> Any:
    pieces = iter([text.encode()])
    return JsonStream(lambda: next(pieces, b"")).value()


@pytest.mark.parametrize("parse", [parse_json, streamed])
@given(value=values, upper=st.booleans())
def test_what_is_read_can_be_encoded(parse: Any, value: Any, upper: bool) -> None:
    text = json.dumps(value)
    if upper:
        text = text.replace("\\ud", "\\uD")
    found = parse(text)
    whole = json.loads(text)
    shown = json.dumps(found, ensure_ascii=False).encode()
    try:
        json.dumps(whole, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        assert b"?" in shown
    else:
        assert found == whole
