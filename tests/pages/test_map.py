"""Test the service map."""

from __future__ import annotations

import re

import pytest
from django.test import Client

from django_tracing.traces.readers.sqlite.store import LocalStore
from tests.pages.helpers import content, words
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
    assert "tracing-state-open" in text
    assert "The stored traces contain no calls yet." in content(root, "map/", within="900")
