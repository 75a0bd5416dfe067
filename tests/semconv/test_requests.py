"""Test what lists show of a request."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_tracing.semconv.requests import NO_REQUEST, RequestFacts, request_facts


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        (
            {"http.method": "GET", "http.url": "https://x.test/a/7?b=1#c", "http.status_code": 200, "user.id": 42},
            RequestFacts("GET", "/a/7", 200, "42"),
        ),
        (
            {"http.request.method": "PUT", "url.full": "http://x/a", "http.response.status_code": "404"},
            RequestFacts("PUT", "/a", 404, ""),
        ),
        ({"url.path": "/p", "user.id": "u-1"}, RequestFacts("", "/p", None, "u-1")),
        ({"http.target": "/p?token=1"}, RequestFacts("", "/p", None, "")),
        ({"http.url": "https://x.test"}, RequestFacts("", "", None, "")),
        # Whatever other services store.
        ({"http.url": "http://[::1", "http.status_code": True}, NO_REQUEST),
        ({"http.method": ["GET"], "http.url": {"a": 1}, "http.status_code": 99.5, "user.id": None}, NO_REQUEST),
        ({"http.status_code": "٢٠٠"}, NO_REQUEST),
        ({"http.status_code": 10**30}, NO_REQUEST),
    ],
)
def test_facts_of_a_server_span(attributes: dict[str, Any], expected: RequestFacts) -> None:
    assert request_facts("server", attributes) == expected


def test_other_spans_have_a_user_only() -> None:
    attributes = {"http.method": "GET", "http.url": "http://x/a", "http.status_code": 200, "user.id": 42}
    assert request_facts("client", attributes) == RequestFacts("", "", None, "42")


@pytest.mark.parametrize(
    ("kind", "event", "expected"),
    [
        ("server", {"http.method": "GET", "http.status_code": 101}, RequestFacts("WS", "/chat/7/", 101, "42")),
        ("consumer", {"websocket.event": "receive"}, RequestFacts("WS receive", "/chat/7/", None, "42")),
    ],
)
def test_web_sockets_are_listed_by_their_path(kind: str, event: dict[str, Any], expected: RequestFacts) -> None:
    attributes = {"operation.type": "websocket", "http.url": "wss://x.test/chat/7/?token=1", "user.id": 42, **event}
    assert request_facts(kind, attributes) == expected


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "http.method",
                "http.url",
                "url.path",
                "http.status_code",
                "user.id",
                "operation.type",
                "websocket.event",
            ]
        ),
        st.one_of(
            st.just("websocket"),
            st.text(),
            st.integers(),
            st.floats(),
            st.none(),
            st.lists(st.text()),
            st.text(min_size=600),
        ),
    )
)
def test_every_fact_is_bounded(attributes: dict[str, Any]) -> None:
    facts = request_facts("server", attributes)
    assert len(facts.path) <= 500
    assert len(facts.method) <= 100
    assert len(facts.user) <= 100
    assert facts.status_code is None or 0 <= facts.status_code <= 999
