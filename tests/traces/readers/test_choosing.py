"""Test that the settings choose the reader."""

from __future__ import annotations

from typing import Any

import pytest

from django_tracing.conf.loading import load
from django_tracing.exceptions import ReadError
from django_tracing.traces.readers.choosing import get_reader
from django_tracing.traces.readers.jaeger.reader import JaegerReader
from django_tracing.traces.readers.sqlite.store import LocalStore


def test_the_local_store() -> None:
    reader = get_reader(load({"EXPORTER": "local", "LOCAL_STORE": "/x/y.sqlite3", "MAX_TRACES": 7}, {}))
    assert isinstance(reader, LocalStore)
    assert (str(reader.path), reader.max_traces) == ("/x/y.sqlite3", 7)


@pytest.mark.parametrize(
    ("configured", "expected"),
    [
        ({"ENDPOINT": "http://jaeger:4318"}, "http://jaeger:16686"),
        ({"ENDPOINT": "http://jaeger:14268/api/traces"}, "http://jaeger:16686"),
        ({"ENDPOINT": "http://collector:4317", "QUERY_URL": "https://us:pw@jaeger/ui/"}, "https://jaeger/ui"),
        ({"EXPORTER": "console", "QUERY_URL": "http://jaeger:16686"}, "http://jaeger:16686"),
    ],
)
def test_jaeger(configured: dict[str, Any], expected: str) -> None:
    reader = get_reader(load(configured, {}), timeout=1.5)
    assert isinstance(reader, JaegerReader)
    assert (reader.query_url, reader.timeout) == (expected, 1.5)


@pytest.mark.parametrize("exporter", ["console", "none"])
def test_an_exporter_whose_traces_cannot_be_read(exporter: str) -> None:
    with pytest.raises(ReadError) as caught:
        get_reader(load({"EXPORTER": exporter}, {}))
    assert caught.value.reason == "no_reader"
    assert f"""the exporter '{exporter}' (TRACING["EXPORTER"])""" in str(caught.value)
    assert "QUERY_URL" in str(caught.value)
