"""Test the statistics by route."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from django.test import Client

from django_tracing.traces.readers.sqlite.store import LocalStore
from tests.pages.helpers import TRACES, content, fill, words
from tests.traces.builders import row

pytestmark = pytest.mark.django_db


def test_routes(root: Client, path: Path) -> None:
    store = LocalStore(path)
    fill(store, 20)
    store.close()

    def first(**query: str) -> tuple[str, ...]:
        text = content(root, "routes/", **query)
        cells = re.findall(r"<tr><th scope=\"row\">(.*?)</tr>", text, re.DOTALL)
        return tuple(words(f'<th scope="row">{cell}') for cell in cells)

    rows = first()
    assert rows[0].startswith("GET /items shop 10 1 10 % 9.00 ms 19.0 ms – 19.0 ms 100 ms")
    assert rows[1].startswith("POST /orders shop 10 8.00 ms 18.0 ms")
    assert first(o="p95")[0].startswith("POST /orders")
    assert first(o="-p95")[0].startswith("GET /items")
    assert first(o="nonsense") == first(o="count")
    assert first(service="nobody") == ()
    assert len(first(within="900")) == 2
    text = content(root, "routes/", o="-p95")
    assert 'aria-sort="descending"' in text
    assert 'href="?o=p95"' in text, "a second click reverses the order"
    # The route links to its traces, and the slowest time to its trace.
    assert f'href="{TRACES}?service=shop&amp;operation=GET+%2Fitems"' in text
    assert f'href="{TRACES}{119:032x}/">19.0 ms' in text


def test_the_99th_percentile_needs_a_hundred_traces(root: Client, path: Path) -> None:
    store = LocalStore(path)
    fill(store, 198)
    assert words(content(root, "routes/")).count("–") == 2
    store.write([row(9, took=500, kind="server", name="GET /items", base=time.time_ns())])
    text = content(root, "routes/")
    assert "GET /items shop 100 1 1 % 99.0 ms 189 ms 197 ms 500 ms" in words(text)
    assert words(text).count("–") == 1
    # It is also sorted as what it is: unknown.
    assert re.findall(r'<th scope="row">\s*<a[^>]*>([^<]+)', content(root, "routes/", o="-p99")) == [
        "GET /items",
        "POST /orders",
    ]
    assert re.findall(r'<th scope="row">\s*<a[^>]*>([^<]+)', content(root, "routes/", o="p99")) == [
        "POST /orders",
        "GET /items",
    ]
    store.close()
