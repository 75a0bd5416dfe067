"""Test what a stranger, a caller that TRUST_PARENT does not name, can do to the traces of others: nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import path
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind

from django_tracing import get_trace_context
from django_tracing.conf.loading import load
from django_tracing.conf.values import PRIVATE
from django_tracing.export.local import LocalExporter
from django_tracing.sampling.rules import Rule
from django_tracing.traces.model import Trace
from django_tracing.traces.readers.sqlite.store import LocalStore
from tests.sampling.test_deciding import Site, site  # noqa: F401 - a fixture
from tests.traces.builders import blueprint_trace

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
STRANGER = {"REMOTE_ADDR": "203.0.113.7"}
_sent: list[dict[str, str]] = []


def view(request: HttpRequest) -> HttpResponse:
    _sent.append(get_trace_context())
    return HttpResponse("ok")


urlpatterns = [path("view/", view)]

#: Requests of strangers: what the server sees of them, with the settings that leave them strangers.
STRANGERS: list[tuple[dict[str, Any], dict[str, str], dict[str, Any]]] = [
    (STRANGER, {}, {}),
    ({"REMOTE_ADDR": "2001:db8::7"}, {}, {}),
    ({"REMOTE_ADDR": "::ffff:203.0.113.7"}, {}, {}),
    # On a Unix socket, or sent by a proxy that is not listed: its own address is no one's.
    ({"REMOTE_ADDR": ""}, {}, {}),
    ({"REMOTE_ADDR": "10.0.0.1"}, {"x-forwarded-for": "203.0.113.7"}, {}),
    ({"REMOTE_ADDR": ""}, {"x-forwarded-for": "10.0.0.2, 203.0.113.7"}, {}),
    ({"REMOTE_ADDR": "10.0.0.1"}, {"x-forwarded-for": "203.0.113.7, 10.0.0.2"}, {}),
    ({"REMOTE_ADDR": "10.0.0.1"}, {"x-forwarded-for": "10.0.0.2, 203.0.113.7"}, {}),
    ({"REMOTE_ADDR": "10.0.0.1"}, {"x-forwarded-for": "10.0.0.2", "x-real-ip": "203.0.113.7"}, {}),
    ({"REMOTE_ADDR": "10.0.0.1"}, {"x-forwarded-for": "unknown"}, {}),
    ({"REMOTE_ADDR": "10.0.0.1"}, {"x-forwarded-for": "10.0.0.2," * 200 + "10.0.0.2"}, {}),
    ({"REMOTE_ADDR": "10.0.0.1"}, {"x-forwarded-for": "10.0.0.2", "forwarded": "for=203.0.113.7"}, {}),
    (STRANGER, {"x-forwarded-for": "10.0.0.2"}, {}),
    # A sidecar names no client.
    ({"REMOTE_ADDR": "127.0.0.6"}, {"x-forwarded-proto": "http"}, {}),
    ({"REMOTE_ADDR": "10.0.0.1"}, {"x-forwarded-proto": "http"}, {"TRUSTED_PROXIES": ["127.0.0.0/8"]}),
    ({"REMOTE_ADDR": "10.0.0.1"}, {"forwarded": "for=127.0.0.1"}, {}),
    ({"REMOTE_ADDR": "10.0.0.1"}, {"x-forwarded-for": "127.0.0.1, 203.0.113.7"}, {"TRUSTED_PROXIES": ["10.0.0.0/8"]}),
    (STRANGER, {"x-forwarded-for": "127.0.0.1"}, {"TRUSTED_PROXIES": ["10.0.0.0/8"]}),
    ({"REMOTE_ADDR": "127.0.0.1"}, {}, {"TRUST_PARENT": "never"}),
    ({"REMOTE_ADDR": "127.0.0.1"}, {}, {"TRUST_PARENT": ["10.0.0.0/8"]}),
]
TRUSTED: list[tuple[dict[str, Any], dict[str, str], dict[str, Any]]] = [
    ({"REMOTE_ADDR": "127.0.0.1"}, {}, {}),
    ({"REMOTE_ADDR": "::1"}, {}, {}),
    ({"REMOTE_ADDR": "::ffff:10.1.2.3"}, {}, {}),
    ({"REMOTE_ADDR": "172.20.0.3"}, {}, {}),
    ({"REMOTE_ADDR": "10.0.0.1"}, {"x-forwarded-for": "192.168.1.1"}, {"TRUSTED_PROXIES": ["10.0.0.0/8"]}),
    # Through a proxy that is not listed, between services.
    ({"REMOTE_ADDR": "10.0.0.1"}, {"x-forwarded-for": "10.0.0.2"}, {}),
    (
        {"REMOTE_ADDR": "10.0.0.1"},
        {"x-forwarded-for": "10.0.0.3, 10.0.0.2", "via": "1.1 a", "x-real-ip": "10.0.0.3"},
        {},
    ),
    ({"REMOTE_ADDR": ""}, {"x-forwarded-for": "10.0.0.2"}, {}),
    ({"REMOTE_ADDR": "127.0.0.6"}, {"x-forwarded-proto": "http"}, {"TRUSTED_PROXIES": ["127.0.0.0/8"]}),
    (STRANGER, {}, {"TRUST_PARENT": "always"}),
    (STRANGER, {}, {"TRUST_PARENT": ["203.0.113.0/24"]}),
]


@pytest.fixture
def here(site: Any, settings: Any) -> Any:  # noqa: F811
    settings.ROOT_URLCONF = __name__
    _sent.clear()
    return site


def ask(one: Site, meta: dict[str, Any], headers: dict[str, str], **sent: str) -> ReadableSpan | None:
    """Send a request with the context of a trace, and return its span."""
    one.exporter.clear()
    flags = sent.pop("flags", "01")
    given = {"traceparent": f"00-{TRACE}-{CALLER}-{flags}", "tracestate": "their=s", "baggage": "their=b"}
    Client(**meta).get("/view/", headers={**given, **headers, **sent})
    spans = [span for span in one.exporter.get_finished_spans() if span.kind is SpanKind.SERVER]
    return spans[0] if spans else None


@pytest.mark.parametrize(("meta", "headers", "tracing"), STRANGERS)
def test_a_stranger_gets_a_trace_of_its_own(
    here: Any, meta: dict[str, Any], headers: dict[str, str], tracing: dict[str, Any]
) -> None:
    one: Site = here(**tracing)
    span = ask(one, meta, headers)
    assert span is not None
    assert span.parent is None
    assert f"{span.context.trace_id:032x}" != TRACE
    [link] = span.links
    assert (f"{link.context.trace_id:032x}", f"{link.context.span_id:016x}") == (TRACE, CALLER)
    assert not link.context.trace_state
    # Nothing of it goes on to the services that this one calls.
    [sent] = _sent
    assert TRACE not in sent["traceparent"]
    assert "their" not in f"{sent}"


@pytest.mark.parametrize(("meta", "headers", "tracing"), TRUSTED)
def test_the_trace_of_a_trusted_caller_is_continued(
    here: Any, meta: dict[str, Any], headers: dict[str, str], tracing: dict[str, Any]
) -> None:
    one: Site = here(**tracing)
    span = ask(one, meta, headers)
    assert span is not None
    assert (span.context.trace_id, span.parent.span_id) == (int(TRACE, 16), int(CALLER, 16))
    assert not span.links
    assert (_sent[0]["tracestate"], _sent[0]["baggage"]) == ("their=s", "their=b")


@pytest.mark.parametrize("rules", [[], [Rule(1, "half", rate=0.5)]])
@pytest.mark.parametrize("flags", ["00", "01"])
def test_a_stranger_does_not_decide(here: Any, rules: list[Rule], flags: str) -> None:
    """Neither that its requests are recorded nor that they are not."""
    assert ask(here(*rules, SAMPLE_RATE=1.0), STRANGER, {}, flags=flags) is not None or rules
    one: Site = here(*rules, SAMPLE_RATE=0.5)
    kept = sum(ask(one, STRANGER, {}, flags=flags) is not None for _ in range(60))
    assert 10 < kept < 50
    none: Site = here(SAMPLE_RATE=0.0)
    assert [ask(none, STRANGER, {}, flags=flags) for _ in range(20)] == [None] * 20


def test_a_stranger_cannot_touch_the_trace_of_another(here: Any, tmp_path: Path) -> None:
    """Not by its id, however many spans are sent with it; and each request is a trace, so that none hides in another."""
    store = LocalStore(tmp_path / "traces.sqlite3", max_trace_spans=20)
    store.write(blueprint_trace())
    [before] = store.search()
    whole = spans_of(store.trace(before.trace_id))
    one: Site = here(LOCAL_STORE=str(store.path))
    exporter = LocalExporter(store.store)
    for number in range(30):
        span = ask(one, STRANGER, {}, traceparent=f"00-{before.trace_id}-{number + 1:016x}-01")
        assert span is not None
        exporter.export([span])
    exporter.shutdown()
    found = {summary.trace_id: summary for summary in store.search(limit=100)}
    assert len(found) == 31
    assert found[before.trace_id] == before
    assert spans_of(store.trace(before.trace_id)) == whole
    store.close()


def spans_of(trace: Trace | None) -> list[str]:
    return [repr(span) for span in ([] if trace is None else trace.spans)]


@hypothesis_settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    header=st.sampled_from(
        [
            "traceparent",
            "tracestate",
            "baggage",
            "b3",
            "x-b3-traceid",
            "uber-trace-id",
            "uberctx-a",
            "x-amzn-trace-id",
        ]
    ),
    value=st.one_of(
        st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=200),
        st.sampled_from(
            [f"{TRACE}-{CALLER}-1", f"{TRACE}:{CALLER}:0:1", f"Root=1-{TRACE[:8]}-{TRACE[8:]};Sampled=1"]
        ),
    ),
)
def test_whatever_a_stranger_sends_nothing_is_continued(here: Any, header: str, value: str) -> None:
    one: Site = here()
    _sent.clear()
    span = ask(one, STRANGER, {}, **{header: value})
    assert span is not None
    assert span.parent is None
    assert TRACE not in f"{_sent}"
    assert "baggage" not in _sent[0]


def test_the_default_is_private_networks() -> None:
    assert load({}, {}).trust_parent == load({"TRUST_PARENT": "Private"}, {}).trust_parent == PRIVATE
    assert not any(network.is_global for network in PRIVATE)
