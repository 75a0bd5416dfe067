"""Test the traces of a line of the service map."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.test import Client

from django_tracing.exceptions import ReadError
from django_tracing.pages import calls
from django_tracing.traces.readers.sqlite.store import LocalStore
from tests.pages.helpers import SCRIPT, content, words
from tests.traces.builders import row

pytestmark = pytest.mark.django_db

BREAKER = {"operation.type": "circuit_breaker", "circuit_breaker.name": "mail", "circuit_breaker.state": "open"}


def call(trace: int, caller: str, callee: str, status: str = "unset") -> list[dict[str, Any]]:
    return [
        row(trace, 1, 0, "GET /", kind="server", service=caller),
        row(trace, 2, 1, kind="client", service=caller, attributes={"http.method": "GET"}),
        row(trace, 3, 2, kind="server", service=callee, status=status),
    ]


def opened(root: Client, caller: str, callee: str, kind: str) -> list[int]:
    """Return the numbers of the traces that a line opens."""
    text = content(root, "map/calls/", caller=caller, callee=callee, kind=kind)
    return sorted(int(found, 16) for found in re.findall(r'<th scope="row"><a href="[^"]*/([0-9a-f]{32})/"', text))


def test_a_line_opens_the_traces_with_its_calls_and_no_others(root: Client, store: LocalStore) -> None:
    store.write([*call(20, "web", "shop"), *call(21, "web", "billing"), *call(22, "shop", "billing", "error")])
    for number, attributes in enumerate(
        [
            {"db.system": "postgresql", "db.name": "main"},
            {"db.system": "postgresql", "db.name": "other"},
            {"operation.type": "cache", "cache.system": "redis", "cache.alias": "default"},
            BREAKER,
            {"http.method": "GET", "http.url": "http://smtp.example/x"},
            {"http.method": "GET", "server.address": "smtp.example"},
        ],
        start=30,
    ):
        store.write([row(number, 1, 0, kind="server", service="shop")])
        store.write([row(number, 2, 1, kind="client", service="shop", attributes=attributes)])
    assert opened(root, "web", "shop", "service") == [20]
    assert opened(root, "web", "billing", "service") == [21]
    assert opened(root, "shop", "billing", "service") == [22]
    assert opened(root, "shop", "postgresql main", "database") == [30]
    assert opened(root, "shop", "postgresql other", "database") == [31]
    assert opened(root, "shop", "redis default", "cache") == [32]
    assert opened(root, "shop", "mail", "breaker") == [33]
    assert opened(root, "shop", "smtp.example", "external") == [34, 35]
    shown = words(content(root, "map/calls/", caller="shop", callee="billing", kind="service"))
    assert "shop → billing (service) The newest trace with these calls" in shown
    assert "GET / shop" in shown
    assert "1 100 %" in shown


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"caller": "web", "callee": "shop", "kind": SCRIPT},
        {"caller": SCRIPT, "callee": SCRIPT, "kind": "service", "within": SCRIPT},
        {"caller": "x" * 100_000, "callee": "\0", "kind": "cache"},
    ],
)
def test_unknown_calls_are_not_an_error(root: Client, store: LocalStore, query: dict[str, str]) -> None:
    text = content(root, "map/calls/", **query)
    assert re.search("There are no such calls|None of the newest", text)
    assert SCRIPT not in text


def test_what_is_read_for_one_line_is_bounded(
    root: Client, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write([span for number in range(40, 60) for span in call(number, "web", "shop")])
    monkeypatch.setattr(calls, "_MOST_SHOWN", 7)
    assert len(opened(root, "web", "shop", "service")) == 7
    monkeypatch.setattr(calls, "_MOST_SPANS", 8)
    assert len(opened(root, "web", "shop", "service")) == 3
    monkeypatch.setattr(calls, "_MOST_READ", 2)
    assert len(opened(root, "web", "shop", "service")) == 2
    assert "None of the newest 2 traces that were read has these calls." in content(
        root, "map/calls/", caller="other", callee="shop", kind="service"
    )


def test_what_was_found_is_shown_when_the_backend_stops_to_answer(
    root: Client, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write([span for number in range(40, 44) for span in call(number, "web", "shop")])
    read, answers = LocalStore.trace, [2]

    def trace(self: LocalStore, trace_id: str) -> Any:
        answers[0] -= 1
        if answers[0] < 0:
            raise ReadError("no answer in time", "timeout")
        return read(self, trace_id)

    monkeypatch.setattr(LocalStore, "trace", trace)
    assert len(opened(root, "web", "shop", "service")) == 2
    assert "no answer in time" in content(root, "map/calls/", caller="web", callee="shop", kind="service")
