"""Test which traces are kept by rules, callers and the outcome of a request, and that they are complete."""

from __future__ import annotations

import contextvars
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import path, re_path, register_converter
from django.urls.converters import IntConverter
from opentelemetry import trace as trace_api
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags, TraceState

import tests.settings
from django_tracing import create_span, get_trace_context, provider, spans
from django_tracing.conf.loading import load
from django_tracing.conf.values import Settings
from django_tracing.export.queue import QueueProcessor
from django_tracing.instrumentation.upstream.processor import UpstreamProcessor
from django_tracing.recording.factory import SpanFactory
from django_tracing.recording.probe import probe
from django_tracing.recording.undecided import late, undecided_traces
from django_tracing.redaction.attributes import AttributeSanitizer
from django_tracing.sampling import make_debug_header
from django_tracing.sampling.rules import Rule, compile_rules
from django_tracing.sampling.sampler import RuleSampler
from django_tracing.sampling.trace_state import randomness, threshold
from django_tracing.semconv.names import Convention
from django_tracing.spans import runtime
from tests.conftest import Spans

_headers: list[dict[str, str]] = []
_user = User(pk=42, username="ada", email="ada@example.com")
shop = "shop"


def view(request: HttpRequest) -> HttpResponse:
    with create_span("before"):
        pass
    with trace_api.get_tracer(shop).start_as_current_span("theirs before"):
        pass
    _headers.append(get_trace_context())
    request.user = _user
    with create_span("after"):
        _headers.append(get_trace_context())
    with trace_api.get_tracer(shop).start_as_current_span("theirs after"):
        pass
    if "fail" in request.GET:
        raise ValueError("failed")
    return HttpResponse("ok")


def plain(request: HttpRequest) -> HttpResponse:
    if "fail" in request.GET:
        raise ValueError("failed")
    with create_span("inside"):
        return HttpResponse("ok")


class Counted(IntConverter):
    calls = 0

    def to_python(self, value: str) -> int:
        Counted.calls += 1
        return super().to_python(value)


register_converter(Counted, "counted")


#: What goes on after the response.
_outliving: list[Callable[[], None]] = []


def outliving(request: HttpRequest) -> HttpResponse:
    context = contextvars.copy_context()
    begun = contextvars.copy_context()
    opened = create_span("open")
    begun.run(opened.__enter__)

    def go_on() -> None:
        def within() -> None:
            with create_span("within"):
                pass
            opened.__exit__(None, None, None)

        def beyond() -> None:
            with create_span("beyond"):
                pass

        begun.run(within)
        context.run(beyond)

    _outliving.append(go_on)
    return plain(request)


urlpatterns = [
    path("outliving/", outliving),
    path("late/", view),
    path("plain/", plain),
    path("things/<int:pk>/", lambda r, pk: plain(r)),
    re_path(r"^people/(?P<pk>\d+)/$", lambda r, pk: plain(r)),
    re_path(r"^optional/?$", plain),
    path("counted/<counted:pk>/", lambda r, pk: plain(r)),
]


class Site:
    """A provider with rules that replaces the tests' provider."""

    def __init__(self, rules: list[Rule], monkeypatch: pytest.MonkeyPatch, **tracing: Any) -> None:
        self.settings: Settings = load({"EXPORTER": "none", **tracing}, {})
        assert self.settings.problems == ()
        self.exporter = InMemorySpanExporter()
        self.sampler = RuleSampler(self.settings.sample_rate, self.settings)
        self.sampler.use(compile_rules(rules, "shop"))
        self.provider = TracerProvider(sampler=self.sampler)
        provider._add_processors(self.provider, probe(), [])
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        tracer = self.provider.get_tracer(spans.SCOPE_NAME)
        factory = SpanFactory.of(tracer, self.sampler.keep, (UpstreamProcessor,), AttributeSanitizer())
        assert factory is not None
        factory.decide = None if self.sampler.is_simple else self.sampler.decide
        monkeypatch.setattr(trace_api, "get_tracer", self.provider.get_tracer)
        runtime.use(runtime.Runtime(tracer=tracer, factory=factory, convention=Convention(), settings=self.settings))
        self.client = Client(raise_request_exception=False)

    def get(self, url: str, **headers: str) -> list[str]:
        self.exporter.clear()
        _headers.clear()
        self.client.get(url, headers=headers)
        assert not undecided_traces, "no undecided trace is left"
        return sorted(span.name for span in self.exporter.get_finished_spans())

    def root(self) -> dict[str, Any]:
        [root] = [span for span in self.exporter.get_finished_spans() if span.kind is SpanKind.SERVER]
        return {key: value for key, value in (root.attributes or {}).items() if key.startswith("sampling.")}


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, settings: Any) -> Iterator[Any]:
    settings.ROOT_URLCONF = __name__
    before = runtime.current
    made: list[Site] = []

    def make(*rules: Rule, **tracing: Any) -> Site:
        # The middleware has its own: whose traces are continued.
        settings.TRACING = {**tests.settings.TRACING, **tracing}
        made.append(Site(list(rules), monkeypatch, **tracing))
        late.append(SimpleSpanProcessor(made[-1].exporter).on_end)
        return made[-1]

    yield make
    del late[:]
    runtime.use(before)
    for one in made:
        one.provider.shutdown()


class LeftOpen:
    """A block that is never left, in a separate context."""

    def __init__(self) -> None:
        self._context = contextvars.copy_context()
        self._block = create_span("left open")
        self._context.run(self._start)

    def _start(self) -> None:
        self._block.__enter__()
        with create_span("inside"):
            pass

    def fail(self) -> None:
        self._context.run(self._block.__exit__, ValueError, ValueError("failed"), None)


WHOLE = ["GET /late/", "after", "before", "theirs after", "theirs before"]


def test_a_rule_by_path(site: Any) -> None:
    one = site(Rule(1, "none of it", path="/plain/*", rate=0.0), SAMPLE_RATE=1.0)
    assert one.get("/plain/") == []
    assert one.get("/late/") == WHOLE
    assert one.root() == {"sampling.rule": "settings", "sampling.rate": 1.0}
    assert one.sampler.drain() == {1: (0, 1), None: (1, 0)}
    assert one.sampler.drain() == {}


def test_a_rule_by_route(site: Any) -> None:
    one = site(Rule(1, "things", path="/things/<int:pk>/"), SAMPLE_RATE=0.0)
    assert one.get("/things/7/") == ["GET /things/<int:pk>/", "inside"]
    assert one.root() == {"sampling.rule": "things", "sampling.rate": 1.0}
    assert one.get("/plain/") == []


def test_a_rule_by_the_route_of_a_regular_expression(site: Any) -> None:
    """The route is written as in the span."""
    one = site(Rule(1, "people", path="/people/<pk>/"), SAMPLE_RATE=0.0)
    assert one.get("/people/7/") == ["GET /people/<pk>/", "inside"]
    assert one.root() == {"sampling.rule": "people", "sampling.rate": 1.0}
    assert one.get("/things/7/") == []


@pytest.mark.parametrize("rule", ["/optional/", "/optional/*", "~^/optional/$"])
def test_a_rule_by_a_route_that_differs_from_the_path(site: Any, rule: str) -> None:
    one = site(Rule(1, "optional", path=rule), SAMPLE_RATE=0.0)
    assert one.get("/optional") == ["GET /optional/", "inside"]
    assert one.get("/optional/") == ["GET /optional/", "inside"]
    assert one.get("/plain/") == []


def test_a_rule_by_route_below_a_prefix(site: Any) -> None:
    one = site(Rule(1, "plain", path="/plain/"), SAMPLE_RATE=0.0)
    one.client.get("/site/plain/", SCRIPT_NAME="/site", PATH_INFO="/plain/")
    assert one.root() == {"sampling.rule": "plain", "sampling.rate": 1.0}


@pytest.mark.parametrize(
    ("rule", "resolved"), [("/plain/", 1), ("/plain/*", 1), ("~^/plain", 1), ("/things/<int:pk>/", 2), ("/c*", 2)]
)
def test_a_url_is_resolved_early_only_for_a_rule_that_some_route_matches(site: Any, rule: str, resolved: int) -> None:
    one = site(Rule(1, "it", path=rule), SAMPLE_RATE=1.0)
    one.get("/counted/1/")
    Counted.calls = 0
    one.get("/counted/1/")
    assert Counted.calls == resolved


def test_a_rule_for_a_user_keeps_the_whole_request_though_she_is_known_late(site: Any) -> None:
    one = site(Rule(1, "ada", user_id="42"), SAMPLE_RATE=0.0)
    assert one.get("/late/") == WHOLE
    before, after = (headers["traceparent"][-2:] for headers in _headers)
    assert int(before, 16) & 1 == 0
    assert int(after, 16) & 1 == 1, "calls from then on are sampled"
    assert one.root() == {"sampling.rule": "ada", "sampling.rate": 1.0}
    for span in one.exporter.get_finished_spans():
        assert span.context is not None
        assert span.context.trace_flags.sampled
    assert one.get("/plain/") == [], "the user was unknown"


def test_a_rule_for_another_user_keeps_nothing(site: Any) -> None:
    one = site(Rule(1, "grace", user_id="43"), SAMPLE_RATE=0.0)
    assert one.get("/late/") == []
    assert one.sampler.drain() == {None: (0, 1)}, "one decision"


def test_a_rule_that_drops_the_requests_of_one_user(site: Any) -> None:
    one = site(Rule(1, "ada", user_id="42", rate=0.0), SAMPLE_RATE=1.0)
    assert one.get("/late/") == []
    assert one.get("/plain/") == ["GET /plain/", "inside"]


@pytest.mark.parametrize("tracing", [{"KEEP_ERRORS": True}, {"KEEP_SLOWER_THAN": 0.0}])
def test_failed_or_slow_requests_are_kept_completely(site: Any, tracing: dict[str, Any]) -> None:
    one = site(SAMPLE_RATE=0.0, **tracing)
    assert one.get("/late/?fail=1") == WHOLE
    assert [headers["traceparent"][-2:] in ("00", "02") for headers in _headers] == [True, True]
    assert (one.get("/plain/") == []) is ("KEEP_ERRORS" in tracing)


@pytest.mark.parametrize(
    ("query", "kept"),
    [("", []), ("?fail=1", ["GET /outliving/", "beyond", "open", "within"])],
    ids=["dropped", "kept"],
)
def test_work_after_a_trace_is_kept_or_dropped_with_it(site: Any, query: str, kept: list[str]) -> None:
    one = site(SAMPLE_RATE=0.0, KEEP_ERRORS=True)
    one.get(f"/outliving/{query}")
    _outliving.pop()()
    found = {span.name: span for span in one.exporter.get_finished_spans() if span.name != "inside"}
    assert sorted(found) == kept
    if kept:
        root = found["GET /outliving/"].context.span_id
        assert found["beyond"].parent.span_id == found["open"].parent.span_id == root
        assert found["within"].parent.span_id == found["open"].context.span_id
        assert all(span.context.trace_flags.sampled for span in found.values())


def test_a_rules_own_setting_for_errors_takes_precedence(site: Any) -> None:
    one = site(
        Rule(1, "not these", path="/late/", rate=0.0, keep_errors=False),
        Rule(2, "these", rate=0.0, keep_errors=True),
        SAMPLE_RATE=0.0,
        KEEP_ERRORS=True,
    )
    assert one.get("/late/?fail=1") == []
    assert one.get("/plain/?fail=1") == ["GET /plain/"]
    assert one.root() == {"sampling.rule": "these", "sampling.rate": 0.0}


def test_memory_is_bounded_while_a_trace_is_undecided(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("django_tracing.recording.undecided._MOST_SPANS_OF_ONE", 2)
    one = site(SAMPLE_RATE=0.0, KEEP_ERRORS=True)
    assert len(one.get("/late/?fail=1")) == 3
    assert one.root() == {"sampling.lost_spans": 1} or one.root()["sampling.lost_spans"] >= 1
    monkeypatch.setattr("django_tracing.recording.undecided._MOST_SPANS_OF_ONE", 1000)
    assert one.get("/late/?fail=1") == WHOLE


def test_memory_is_bounded_by_traces_that_never_end(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("django_tracing.recording.undecided._MOST_TRACES", 3)
    one = site(SAMPLE_RATE=0.0, KEEP_ERRORS=True)
    try:
        left_open = [LeftOpen() for _ in range(10)]
        assert len(undecided_traces) == 3
        one.exporter.clear()
        for block in left_open:
            block.fail()
        # The oldest are dropped; the others continue.
        assert [span.name for span in one.exporter.get_finished_spans()] == ["inside", "left open"] * 3
    finally:
        undecided_traces.clear()
    assert one.get("/late/?fail=1") == WHOLE


# ----- Callers

SAMPLED, UNSAMPLED = f"00-{'ab' * 16}-{'cd' * 8}-01", f"00-{'ab' * 16}-{'cd' * 8}-00"


def test_a_caller_decides(site: Any) -> None:
    one = site(Rule(1, "all", rate=0.0), SAMPLE_RATE=0.0)
    assert one.get("/plain/", traceparent=SAMPLED) == ["GET /plain/", "inside"]
    assert one.root() == {}, "this site didn't decide"
    one = site(Rule(1, "all"), SAMPLE_RATE=1.0)
    assert one.get("/plain/", traceparent=UNSAMPLED) == []


@pytest.mark.parametrize(
    ("trust", "kept"), [("always", False), ("never", True), (["127.0.0.0/8"], False), (["10.0.0.0/8"], True)]
)
def test_trusted_and_untrusted_callers(site: Any, trust: Any, kept: bool) -> None:
    one = site(SAMPLE_RATE=1.0, TRUST_PARENT=trust)
    assert (one.get("/plain/", traceparent=UNSAMPLED) != []) is kept


def test_services_of_different_rates_agree(site: Any) -> None:
    """A trace kept at 10 % is kept at 50 % too, by its id or by the randomness sent with it."""
    numbers = random.Random(1)
    low, high = RuleSampler(0.1), RuleSampler(0.5)
    for _ in range(2000):
        trace_id = numbers.getrandbits(128)
        assert not low.keep(None, trace_id) or high.keep(None, trace_id)
    state = TraceState([("ot", "rv:" + "f" * 14 + ";x:1"), ("vendor", "1")])
    assert randomness(1, state) == 2**56 - 1
    assert randomness(7, TraceState([("ot", "rv:nonsense")])) == 7
    by_id = {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25"}
    sampler = RuleSampler(0.25, load({"EXPORTER": "none"}, by_id))
    parent = SpanContext(1 << 100, 7, True, TraceFlags(0), state)
    verdict = sampler.decide(None, "run", SpanKind.CONSUMER, parent, parent.trace_id)
    assert verdict.kept
    assert verdict.trace_state.to_header() == "ot=rv:ffffffffffffff;x:1;th:c,vendor=1"


def test_the_debug_header_forces_a_trace(site: Any) -> None:
    one = site(SAMPLE_RATE=0.0, DEBUG_HEADER="X-Trace-Debug")
    assert one.get("/plain/", **{"x-trace-debug": make_debug_header("/plain/")}) == ["GET /plain/", "inside"]
    assert one.root() == {"sampling.rule": "debug header", "sampling.rate": 1.0}
    for wrong in ("trace", "trace:x:y", ""):
        assert one.get("/plain/", **{"x-trace-debug": wrong}) == []


# ----- Rates and budgets


def test_rates_over_20_000_decisions(site: Any) -> None:
    one = site(Rule(1, "some", rate=0.3), SAMPLE_RATE=1.0)
    numbers = random.Random(2)
    for _ in range(20_000):
        one.sampler.decide(None, "GET", SpanKind.SERVER, None, numbers.getrandbits(128))
    kept, passed_over = one.sampler.drain()[1]
    assert kept + passed_over == 20_000
    assert kept / 20_000 == pytest.approx(0.3, abs=0.015)
    assert threshold(0.0) == 1 << 56
    assert threshold(1.0) == 0


def test_a_budget_is_shared_by_the_processes(site: Any) -> None:
    rules = compile_rules([Rule(1, "ten", max_per_second=10)], "shop")
    one = site(SAMPLE_RATE=1.0)
    one.sampler.use(rules, processes=5)
    kept = [one.sampler.decide(None, "GET", SpanKind.SERVER, None, n).kept for n in range(50)]
    assert sum(kept) in (2, 3)


def test_spans_of_a_trace_kept_late_have_the_sampled_flag_in_the_queue(site: Any, spans: Spans) -> None:
    one = site(SAMPLE_RATE=0.0, KEEP_ERRORS=True)
    inner = InMemorySpanExporter()
    queue = QueueProcessor(inner, export_interval=0.05)
    one.provider.add_span_processor(queue)
    late.append(queue.on_end)
    one.get("/late/?fail=1")
    queue.force_flush(5000)
    assert sorted(span.name for span in inner.get_finished_spans()) == WHOLE
    assert spans.names == []
