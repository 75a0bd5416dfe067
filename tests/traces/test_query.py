"""Test the parsing of searches."""

from __future__ import annotations

import pytest

from django_tracing.traces.durations import parse_duration as seconds
from django_tracing.traces.query import attribute, attributes


@pytest.mark.parametrize(
    ("text", "expected"),
    [("250ms", 0.25), (" 1.5 s ", 1.5), ("1,5s", 1.5), ("10us", 1e-5), ("10µs", 1e-5), ("2m", 120), ("2min", 120),
     ("1h", 3600), ("1D", 86400), (".5s", 0.5), ("0ms", 0)],
)  # fmt: skip
def test_durations(text: str, expected: float) -> None:
    assert seconds(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "5", "ms", "-1s", "1 year", "1e3s", "1s1s", "١s"])
def test_an_invalid_duration(text: str) -> None:
    with pytest.raises(ValueError):
        seconds(text)


def test_attributes() -> None:
    assert attributes("") == {}
    assert attributes("http.method=POST  'db.name=my db' empty= url=http://x/?a=b") == {
        **{"http.method": "POST", "db.name": "my db", "empty": "", "url": "http://x/?a=b"},
    }
    assert attribute("a=b=c") == ("a", "b=c")


@pytest.mark.parametrize(("text", "message"), [("a=b urgent", "urgent"), ("=b", "=b"), ("'a=b", "")])
def test_an_invalid_attribute(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        attributes(text)
    assert str(caught.value) == message
