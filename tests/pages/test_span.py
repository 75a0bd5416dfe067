"""Test the page of one span."""

from __future__ import annotations

import html
import re

import pytest
from django.test import Client

from django_tracing.traces.readers.sqlite.chunks import ChunkReader
from django_tracing.traces.readers.sqlite.store import LocalStore
from tests.pages.helpers import BLUEPRINT, TRACES, content, listed, words
from tests.traces.builders import exception, row

pytestmark = pytest.mark.django_db


def test_a_span_shows_everything(root: Client, store: LocalStore) -> None:
    event = exception("ValueError", "boom")
    event["attributes"]["exception.stacktrace"] = 'Traceback:\n  File "x.py", line 1\nValueError: boom'
    store.write(
        [
            row(
                6,
                1,
                kind="server",
                status="error",
                status_message="it broke",
                attributes={"http.method": "POST", "tags": ["a", "b"], "big": 2**60},
                events=[event],
                links=[{"trace_id": BLUEPRINT, "span_id": f"{2:016x}", "attributes": {"why": "retry"}}],
            )
        ]
    )
    for address in (f"{6:032x}/spans/{1:016x}/", f"{6:032x}/spans/{1:016x}/?part=1"):
        text = root.get(TRACES + address).content.decode()
        shown = words(text)
        for wanted in ("it broke", "exception.type ValueError", "http.method POST", 'tags ["a", "b"]', str(2**60)):
            assert wanted in shown
        assert "ValueError: boom</pre>" in text
        assert f'href="{TRACES}{BLUEPRINT}/"' in text
        assert f'href="{TRACES}?attributes=http.method%3DPOST"' in text
        assert ("<html" in text) is ("part" not in address)


def test_an_attributes_link_finds_its_traces(root: Client, store: LocalStore) -> None:
    """The value may contain spaces and quotation marks."""
    store.write([row(6, attributes={"note": """it's a "test" """})])
    text = root.get(f"{TRACES}{6:032x}/spans/{1:016x}/").content.decode()
    link = html.unescape(
        re.search(rf'href="{re.escape(TRACES)}(\?attributes=note[^"]+|\?attributes=%27note[^"]+)"', text)[1]
    )  # type: ignore[index]
    assert listed(content(root, link)) == [f"{6:032x}"]


def test_a_link_with_invalid_ids_is_no_reason_to_lose_others(root: Client, store: LocalStore) -> None:
    """No address is made of it: a span that can't be encoded is not stored."""
    for number, trace_id in enumerate(("", "x/../y", "g" * 32), 1):
        links = [{"trace_id": trace_id, "span_id": "ab" * 8, "attributes": {}}]
        store.write([row(6, number, links=links), row(6, 10 + number)])
        assert f"spans/{10 + number:016x}/" in content(root, f"{6:032x}/")
        assert root.get(f"/admin/django_tracing/trace/{6:032x}/spans/{number:016x}/").status_code == 404


def test_only_the_requested_span_is_read(root: Client, store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    original = ChunkReader.span
    monkeypatch.setattr(ChunkReader, "span", lambda *args: read.append(1) or original(*args))
    content(root, f"{BLUEPRINT}/spans/{5:016x}/")
    assert len(read) == 1
