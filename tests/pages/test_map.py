"""Test the service map."""

from __future__ import annotations

import html
import re

import pytest
from django.test import Client

from django_tracing.traces.model import Dependencies, Dependency
from django_tracing.traces.readers.sqlite.store import LocalStore
from tests.pages.helpers import TRACES, content, words
from tests.traces.builders import row

pytestmark = pytest.mark.django_db


def test_the_map(root: Client, store: LocalStore) -> None:
    state = {"circuit_breaker.name": "mail", "circuit_breaker.state": "open", "operation.type": "circuit_breaker"}
    store.write([row(9, 1, 0, kind="server"), row(9, 2, 1, attributes=state, status="error")])
    text = content(root, "map/")
    shown = words(text)
    assert "api-gateway blueprint-service service 1 100 %" in shown
    assert "shop mail circuit breaker: open 1 100 %" in shown
    boxes = re.findall(r'<g class="tracing-box tracing-(\w+)', text)
    assert sorted(boxes) == ["breaker", "service", "service", "service"]
    assert text.count('class="tracing-mark tracing-state-open"') == 1
    assert "circuit breaker mail (open): 1 calls, 100 % failed" in text
    assert "The stored traces contain no calls yet." in content(root, "map/", within="900")


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        *((9_999, "9999"), (10_000, "10k"), (999_999, "999k"), (1_000_000, "1M"), (10**15 - 1, "999T")),
        (10**15, "∞"),
    ],
)
def test_counts_fit_on_their_line(
    root: Client, store: LocalStore, monkeypatch: pytest.MonkeyPatch, count: int, shown: str
) -> None:
    found = Dependencies([Dependency("a", "b", "service", count, 0, count)])
    monkeypatch.setattr(LocalStore, "dependencies", lambda self, **within: found)
    [label] = re.findall(r'<text class="tracing-label"[^>]*>([^<]+)</text>', content(root, "map/"))
    assert label == shown


def test_each_line_and_each_row_opens_its_traces(root: Client, store: LocalStore) -> None:
    evil = "a&kind=cache <b>"
    store.write([row(9, 1, 0, kind="server"), row(9, 2, 1, kind="client", attributes={"peer.service": evil})])
    text = content(root, "map/", within="604800") + content(root, "map/")
    links = {html.unescape(url) for url in re.findall(r'href="([^"]*map/calls/[^"]*)"', text)}
    assert len(links) >= 2
    for url in links:
        shown = root.get(url.replace("&within=604800", "")).content.decode()
        assert len(re.findall(rf'<th scope="row">\s*<a href="{TRACES}[0-9a-f]+/"', shown)) == 1, url
    lines = re.findall(r'<a href="([^"]+)" class="tracing-line', text)
    rows = re.findall(r'<td class="tracing-num"[^>]*><a href="([^"]+)"', text)
    assert sorted(lines) == sorted(rows)
    assert lines != []


def test_the_address_of_a_server_fits_into_its_box(root: Client, store: LocalStore) -> None:
    server = {"db.system": "redis", "net.peer.name": "255.255.255.255", "net.peer.port": 65535}
    store.write([row(9, 1, 0, kind="server"), row(9, 2, 1, kind="client", attributes=server)])
    text = content(root, "map/")
    assert ">255.255.255.255:65535</text>" in text
    assert ">redis, cache</text>" in text
