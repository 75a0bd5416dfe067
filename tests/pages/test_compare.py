"""Test the comparison of two traces."""

from __future__ import annotations

import re

import pytest
from django.test import Client

from django_tracing.traces.readers.sqlite.store import LocalStore
from tests.pages.helpers import TRACES, content, repeated, words

pytestmark = pytest.mark.django_db


def test_comparing(root: Client, store: LocalStore) -> None:
    store.write(repeated(12))
    faster = [{**span, "trace_id": f"{6:032x}", "end": span["start"] + 500_000} for span in repeated(3)]
    store.write(faster)
    text = content(root, f"{5:032x}/")
    option = re.search(rf'<option value="{6:032x}">([^<]+)</option>', text)
    assert option is not None, "traces of the same route are offered"
    shown = words(content(root, f"{5:032x}/compare/", **{"with": f"{6:032x}"}))
    assert "GET /list shop 1 1 100 ms 500 µs −99.5 ms" in shown
    assert "db.select.blueprints shop 12 3 12.0 ms 1.50 ms −10.5 ms" in shown
    assert "is not stored" in content(root, f"{5:032x}/compare/", status=404, **{"with": "e" * 32})
    assert root.get(f"{TRACES}{5:032x}/compare/").status_code == 404
