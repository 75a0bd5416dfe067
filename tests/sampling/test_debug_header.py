"""Test that a debug header keeps what it was made for, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.signing import TimestampSigner, dumps
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from django_tracing.sampling import make_debug_header
from django_tracing.sampling.debug_header import DEBUG_HEADER_AGE, is_valid_debug_header
from tests.sampling.test_deciding import Site, site  # noqa: F401 - a fixture

#: Any path that a request may have.
paths = st.text(st.characters(exclude_characters="?"), max_size=50).map(lambda text: f"/{text}")
NOW = 1_800_000_000.0


@hypothesis_settings(max_examples=200, deadline=None)
@given(path=paths, other=paths)
def test_it_is_valid_for_its_path_alone(path: str, other: str) -> None:
    value = make_debug_header(path)
    assert value.isascii()
    assert value.isprintable()
    assert is_valid_debug_header(value, path)
    assert is_valid_debug_header(value, other) is (path == other)


@hypothesis_settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_changed_one_is_not_valid(data: Any) -> None:
    value = make_debug_header("/orders/")
    place = data.draw(st.integers(0, len(value) - 1))
    character = data.draw(st.characters(codec="ascii"))
    changed = value[:place] + character + value[place + 1 :]
    assert is_valid_debug_header(changed, "/orders/") is (changed == value)


@pytest.mark.parametrize(
    ("age", "valid"),
    [
        (0, True),
        (DEBUG_HEADER_AGE - 1, True),
        (DEBUG_HEADER_AGE + 1, False),
        # Made by a machine whose clock is ahead. One that is a day ahead would be valid for a day and an hour.
        (-30, True),
        (-90, False),
        (-86400, False),
    ],
)
def test_it_is_valid_for_an_hour(monkeypatch: pytest.MonkeyPatch, age: float, valid: bool) -> None:
    monkeypatch.setattr("time.time", lambda: NOW)
    value = make_debug_header("/orders/")
    monkeypatch.setattr("time.time", lambda: NOW + age)
    assert is_valid_debug_header(value, "/orders/") is valid


@pytest.mark.parametrize("value", ["", "x", ":", "::", "a:b:c", "é:b:c", "trace", "x" * 100_000, "\x00"])
def test_what_nobody_signed_is_not_valid(value: str) -> None:
    assert not is_valid_debug_header(value, "/orders/")


def test_no_other_signature_of_the_site_is_valid(settings: Any) -> None:
    value = make_debug_header("/orders/")
    signed = value.split(":")[0]
    for other in (TimestampSigner().sign(signed), TimestampSigner(salt="shop").sign(signed), dumps(signed)):
        assert not is_valid_debug_header(other, "/orders/")
    settings.SECRET_KEY = "another"
    assert not is_valid_debug_header(value, "/orders/")
    # A key that is being replaced is still known.
    settings.SECRET_KEY_FALLBACKS = ["tests-only"]
    assert is_valid_debug_header(value, "/orders/")


@pytest.mark.parametrize("path", ["orders/", "", "https://shop.example/orders/", "/orders/?a=1"])
def test_it_is_made_for_a_path(path: str) -> None:
    with pytest.raises(ValueError, match="path must be the path of a URL"):
        make_debug_header(path)


def test_how_many_traces_it_keeps_is_bounded(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Whoever has seen a value may send it again and again."""
    # One at first, and then one every hundred seconds.
    monkeypatch.setattr("django_tracing.sampling.sampler._DEBUGGED_PER_SECOND", 0.01)
    one: Site = site(SAMPLE_RATE=0.0, DEBUG_HEADER="X-Trace-Debug", FORCED_PER_SECOND=None)
    headers = {"x-trace-debug": make_debug_header("/plain/")}
    kept = [one.get("/plain/", **headers) for _ in range(20)]
    assert [bool(names) for names in kept] == [True] + [False] * 19


def test_it_is_on_no_span_and_in_no_log(site: Any, caplog: pytest.LogCaptureFixture) -> None:  # noqa: F811
    one: Site = site(SAMPLE_RATE=0.0, DEBUG_HEADER="X-Trace-Debug")
    caplog.set_level(1)
    value = make_debug_header("/plain/")
    assert one.get("/plain/", **{"x-trace-debug": value})
    assert one.get("/late/", **{"x-trace-debug": value}) == []
    told = [span.to_json() for span in one.exporter.get_finished_spans()] + [
        record.getMessage() for record in caplog.records
    ]
    signature = value.rpartition(":")[2]
    assert not any(signature in each for each in told)
