"""Test the statistics by route."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from django.test import Client

from django_tracing.traces.readers.sqlite.store import LocalStore
from tests.pages.helpers import TRACES, content, fill, words

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
    assert rows[0].startswith("GET /items shop 10 1 10 % 9.00 ms 19.0 ms 19.0 ms 19.0 ms 100 ms")
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
