"""Test sampling, its pages and the helpers with hostile or accidental input."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import AnonymousUser, User
from django.core.exceptions import ImproperlyConfigured
from django.db import InterfaceError, connection
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from django.urls import include, path, register_converter
from django.utils import timezone
from django.utils.functional import SimpleLazyObject
from opentelemetry import trace as trace_api
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags, TraceState

from django_tracing import (
    create_span,
    get_baggage,
    set_baggage,
    trace,
    trace_cache_operation,
    trace_database_operation,
    trace_external_call,
    trace_function,
    trace_rate_limit_check,
)
from django_tracing.conf.loading import load
from django_tracing.context.request import RequestState, with_request_state
from django_tracing.instrumentation.request.middleware import TracingMiddleware
from django_tracing.models import ProcessStatus, SamplingCount, SamplingRule
from django_tracing.provider import _report
from django_tracing.recording.factory import SpanFactory
from django_tracing.sampling import refresh
from django_tracing.sampling.database import as_rule, read_rules
from django_tracing.sampling.refresh import Refresher
from django_tracing.sampling.remote import JaegerRemoteSampler
from django_tracing.sampling.rules import Rule, TraceStart, compile_rules, pattern_problem
from django_tracing.sampling.sampler import RuleSampler
from django_tracing.sampling.strategies import serve
from django_tracing.spans import runtime
from tests.conftest import Spans
from tests.jaegers import wait_until


class Failing:
    """A custom converter that fails."""

    regex = "[^/]+"

    def to_python(self, value: str) -> str:
        raise LookupError("no such shop")

    def to_url(self, value: str) -> str:
        return value


register_converter(Failing, "failing")


def nothing(request: HttpRequest, **kwargs: Any) -> HttpResponse:
    return HttpResponse("ok")


backoffice = admin.AdminSite(name="backoffice")
for model in (SamplingRule, ProcessStatus):
    backoffice.register(model, type(admin.site._registry[model]))

urlpatterns = [
    path("admin/", admin.site.urls),
    path("backoffice/", backoffice.urls),
    path("tracing/", include("django_tracing.urls")),
    path("shops/<failing:shop>/", nothing),
]


def matches(rule: Rule, **start: Any) -> bool:
    return compile_rules([rule], "shop").match(TraceStart(**start), 0.0).rule is not None


# ----- Patterns

#: Pairs for which Python would never finish. They run in another process, which can be stopped.
SLOW = (
    ("/api/*/orders/*/items/*/x*y*z/w", "/api/" + "/orders//items//x/y/z" * 90),
    ("*a*a*a*a*a*a*b", "a" * 3000),
    ("~^/a.*b.*c.*d$", "/abc" * 1000),
    ("~.*x.*y", "xx" * 4000),
    (r"~\d+/\d+!", "1" * 8000),
)


@pytest.mark.parametrize(("pattern", "text"), SLOW)
def test_no_path_makes_a_pattern_slow(pattern: str, text: str) -> None:
    program = (
        "import sys\n"
        "from django_tracing.sampling.rules import TraceStart, Rule, compile_rules\n"
        "pattern, text = sys.argv[1:]\n"
        "rules = compile_rules([Rule(1, 'x', path=pattern)], 'shop')\n"
        "assert rules.match(TraceStart(path=text), 0.0).rule is None\n"
    )
    subprocess.run([sys.executable, "-c", program, pattern, text], timeout=120, check=True)


@pytest.mark.parametrize(
    "pattern", ["^(a+)+$", "(a|aa)*b", "(a?){40}a{40}", "^(.*,){12}P", "^/(x+x+)+y", r"^/\w+_\w+_\w+_\w+_\w+$"]
)
def test_a_pattern_that_may_take_forever_is_rejected(pattern: str) -> None:
    assert "may take too long" in pattern_problem("~" + pattern)
    [(rule, why)] = compile_rules([Rule(1, "x", path="~" + pattern)], "shop").left_out
    assert (rule.name, why) == ("x", pattern_problem("~" + pattern))


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"^/\w+/\w+/\w+/\w+/$", "/a/b/c/d/"),
        (r"^/(?P<shop>[^/]+)/(\d+)/[\w-]+/.*\.json$", "/a/1/x-y/z.json"),
        (r"^/x(\w+|\d+)/(\w+|\d+)/(?:/x)?(/y)?$", "/xa/1//y"),
        (r"(?i)^/API/[a-z]+A", "/api/bba"),
        (r"\d{4}-\d{2}", "/x/2026-01/" + "y" * 9000),
        (r"^/api/v[12]/", "/api/v1/" + "z" * 9000),
        ("", "/"),
    ],
)
def test_ordinary_patterns_are_accepted(pattern: str, text: str) -> None:
    assert pattern_problem("~" + pattern) == ""
    assert matches(Rule(1, "x", path="~" + pattern), path=text)


@pytest.mark.parametrize("pattern", ["a{99999999999999999999}", "[", "(?P<x>", "(" * 3000 + ")" * 3000])
def test_an_invalid_pattern_is_reported(pattern: str) -> None:
    assert pattern_problem("~" + pattern).startswith("This regular expression can't be read: ")


@pytest.mark.parametrize("nested", [("(?:", "a", ")?"), ("(a|", "b", ")"), ("(", "a", "){1,2}")])
def test_nested_parentheses_are_accepted_or_rejected_at_any_stack_depth(nested: tuple[str, str, str]) -> None:
    """The parser is recursive: it used to accept some if much of the stack was left, and raised with less."""

    def deep(frames: int, pattern: str) -> str:
        return deep(frames - 1, pattern) if frames else pattern_problem("~" + pattern)

    begin, inside, end = nested
    for depth in (30, 100, 400, 500):
        pattern = begin * depth + inside + end * depth
        problem = deep(300, pattern)
        assert problem.startswith("This regular expression") or depth == 30
        load({"EXPORTER": "none"}, {"OTEL_PYTHON_DJANGO_EXCLUDED_URLS": pattern})


@pytest.mark.parametrize(
    ("pattern", "met", "not_met"),
    [
        ("/a/*", ["/a/", "/a/b/c\n"], ["/a", "/b/a/"]),
        ("*.json", [".json", "/a.json.json"], ["/a.jsonp"]),
        ("/*/b/*/c", ["//b//c", "/b/b/c/b/c/c"], ["/b/c", "/x/b/c/d"]),
        ("/a**b", ["/ab", "/axb"], ["/a"]),
        ("/v?/x*y?", ["/v1/xy2", "/v1/xyy2"], ["/v/xy2", "/v1/xy"]),
        ("*a?a*", ["aba", "xaaax"], ["aa", "abba"]),
        ("/a+(b)|*", ["/a+(b)|"], ["/aab"]),
    ],
)
def test_wildcards(pattern: str, met: list[str], not_met: list[str]) -> None:
    for text in met:
        assert matches(Rule(1, "x", path=pattern), path=text), text
    for text in not_met:
        assert not matches(Rule(1, "x", path=pattern), path=text), text


def test_a_rule_by_a_header_with_another_name_in_wsgi() -> None:
    rule = Rule(1, "x", header_name="Content-Type", header_value="application/json")
    request = RequestFactory().post("/", "{}", content_type="application/json")
    assert matches(rule, path="/", headers=request.META)
    assert not matches(rule, path="/", headers=RequestFactory().get("/").META)


# ----- Decisions


@pytest.fixture
def provider() -> Iterator[Callable[[RuleSampler], TracerProvider]]:
    made: list[TracerProvider] = []

    def make(sampler: RuleSampler) -> TracerProvider:
        made.append(TracerProvider(sampler=sampler))
        return made[-1]

    yield make
    for one in made:
        one.shutdown()


def sampler_of(*rules: Rule, **tracing: Any) -> RuleSampler:
    settings = load({"EXPORTER": "none", **tracing}, {})
    sampler = RuleSampler(settings.sample_rate, settings)
    sampler.use(compile_rules(rules, "shop"))
    return sampler


def decided(sampler: RuleSampler, trace_id: int = 1, parent: SpanContext | None = None) -> Any:
    return sampler.decide(None, "GET", SpanKind.CONSUMER, parent, trace_id)


def test_a_budget_of_zero_keeps_nothing() -> None:
    rule = Rule(1, "none", max_per_second=0)
    sampler = sampler_of(rule)
    assert not decided(sampler).kept
    assert serve([rule], "node", 1.0).document == {
        "strategyType": "PROBABILISTIC",
        "probabilisticSampling": {"samplingRate": 0.0},
    }
    sampler.use(compile_rules([Rule(1, "some", max_per_second=5)], "shop"))
    assert decided(sampler).kept
    sampler.use(compile_rules([rule], "shop"))
    assert not decided(sampler).kept


def test_a_callers_long_tracestate(caplog: pytest.LogCaptureFixture) -> None:
    by_id = {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"}
    sampler = RuleSampler(0.5, load({"EXPORTER": "none"}, by_id))
    full = TraceState([(f"k{n}", "v") for n in range(32)])
    long = TraceState([("ot", "rv:" + "f" * 14 + ";x:" + "y" * 230)])
    endless = TraceState([("ot", "rv:" + "f" * 250)])
    for state in (full, long, endless):
        parent = SpanContext(2**56 - 1, 7, True, TraceFlags(0), state)
        kept = decided(sampler, 2**56 - 1, parent)
        assert kept.kept
        assert "th:8" in kept.trace_state["ot"]
    assert len(decided(sampler, 2**56 - 1, SpanContext(1, 7, True, TraceFlags(0), full)).trace_state) == 32
    assert caplog.records == [], "a caller must not cause log lines"


def test_urls_that_fail_affect_no_decision_and_raise_no_error(settings: Any, provider: Any) -> None:
    settings.ROOT_URLCONF = __name__
    sampler = sampler_of(Rule(1, "a route", path="/shops/<failing:shop>/", rate=0.0), SAMPLE_RATE=1.0)
    scope = RequestState("x", RequestFactory().get("/shops/one/"))
    assert sampler.decide(scope, "GET", SpanKind.SERVER, None, 1).kept
    with provider(sampler).get_tracer("x").start_as_current_span("theirs", with_request_state(scope)) as span:
        assert span.is_recording()


def test_an_error_of_this_app_is_not_raised_into_another_tracer(
    provider: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = sampler_of(Rule(1, "one"), SAMPLE_RATE=1.0)
    monkeypatch.setattr(sampler, "rules", None)
    monkeypatch.setattr(RuleSampler, "is_simple", False)
    with provider(sampler).get_tracer("x").start_as_current_span("theirs") as span:
        assert span.is_recording()


@pytest.mark.parametrize("address", ["127.0.0.1", "::ffff:127.0.0.1"])
def test_an_address_of_a_dual_stack_socket(address: str, settings: Any, db: None) -> None:
    settings.ROOT_URLCONF = __name__
    assert Client(REMOTE_ADDR=address).get("/tracing/sampling?service=node").status_code == 200
    sampler = sampler_of(SAMPLE_RATE=1.0, TRUST_PARENT=["127.0.0.0/8"])
    scope = RequestState("x", RequestFactory(REMOTE_ADDR=address).get("/"))
    parent = SpanContext(1, 7, True, TraceFlags(0))
    assert not sampler.decide(scope, "GET", SpanKind.SERVER, parent, 1).kept, "it is trusted"


# ----- Processes, threads, forks

FORKED = """
import os, signal, threading
from django_tracing.sampling.rules import Rule, compile_rules
from django_tracing.sampling.sampler import RuleSampler
from django_tracing.sampling.remote import JaegerRemoteSampler, Strategy, _Decider
from django_tracing.sampling import refresh
from django_tracing.conf.loading import load
from django_tracing.recording.factory import SpanFactory
from django_tracing.spans import runtime
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind

settings = load({"EXPORTER": "none", "SAMPLING_REFRESH": 0}, {})
sampler = RuleSampler(1.0, settings)
sampler.use(compile_rules([Rule(1, "ten", max_per_second=10)], "shop"))
factory = SpanFactory.of(TracerProvider(sampler=sampler).get_tracer("x"), sampler.keep)
runtime.use(runtime.current.replace(refresher=refresh.start(sampler, factory, settings, dict)))
sampler.decide(None, "GET", SpanKind.SERVER, None, 1)
remote = JaegerRemoteSampler("shop", "http://127.0.0.1:1/sampling", refresh=60)
remote._decider = _Decider(Strategy(per_second=10.0))
held = threading.Event()

def hold():
    with sampler._lock, sampler._buckets[1]._lock, remote._decider._bucket._lock:
        held.set()
        threading.Event().wait()

threading.Thread(target=hold, daemon=True).start()
held.wait()
pid = os.fork()
if pid == 0:
    signal.alarm(10)
    kept = sampler.decide(None, "GET", SpanKind.SERVER, None, 1).kept
    found = sampler.drain()
    os._exit(7 if kept and found == {1: (1, 0)} and remote.decide("GET", 1)[0] else 8)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_forked_while_a_thread_decides_works() -> None:
    program = f"import django\nfrom django.conf import settings\nsettings.configure()\ndjango.setup()\n{FORKED}"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], timeout=120, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    # The tests' own process must not apply the rules of a test.
    monkeypatch.setattr(runtime, "current", runtime.current.replace(refresher=None))
    made: list[tuple[Refresher, TracerProvider]] = []

    def one(**tracing: Any) -> Refresher:
        settings = load({"EXPORTER": "none", "SERVICE_NAME": "shop", **tracing}, {})
        sampler = RuleSampler(settings.sample_rate, settings)
        owner = TracerProvider(sampler=sampler)
        factory = SpanFactory.of(owner.get_tracer("x"), sampler.keep)
        assert factory is not None
        refresher = Refresher(sampler, factory, settings, dict)
        refresher.prepare()
        made.append((refresher, owner))
        return refresher

    yield one
    for refresher, owner in made:
        thread, wake = refresher._thread, refresher._wake
        refresher.prepare()
        wake.set()
        if thread is not None:
            thread.join(10)
        owner.shutdown()


def names(refresher: Refresher) -> list[str]:
    return [compiled.rule.name for compiled in refresher.sampler.rules.compiled]


@pytest.mark.django_db(transaction=True)
def test_without_refreshing_a_saved_rule_starts_nothing(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refresh, "_in_tests", lambda: False)
    refresher = make(SAMPLING_REFRESH=0)
    monkeypatch.setattr(runtime, "current", runtime.current.replace(refresher=refresher))
    SamplingRule.objects.create(name="new")
    assert refresher._thread is None, "the thread would read the rules without a pause"


def no_threads(self: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


@pytest.mark.django_db(transaction=True)
def test_a_thread_that_cannot_be_started_is_started_later(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refresh, "_in_tests", lambda: False)
    SamplingRule.objects.create(name="all")
    refresher = make(SAMPLE_RATE=0.5)
    monkeypatch.setattr(runtime, "current", runtime.current.replace(refresher=refresher))
    remote = JaegerRemoteSampler("shop", "http://127.0.0.1:1/sampling", initial=1.0)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_threads)
        verdicts = [refresher.factory.decide(None, "GET", SpanKind.SERVER, None, n) for n in (0, 2**56 - 1)]
        assert [verdict.kept for verdict in verdicts] == [False, True], "TRACING decides"
        SamplingRule.objects.create(name="another")
        assert remote.decide("GET", 1)[0]
    refresher.factory.decide(None, "GET", SpanKind.SERVER, None, 1)
    wait_until(lambda: names(refresher) == ["all", "another"], "the thread to read the rules", 10)
    remote.decide("GET", 1)
    assert remote._thread is not None
    remote.close()


@pytest.mark.django_db(transaction=True)
def test_a_rule_that_is_left_out_is_logged_once(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    SamplingRule.objects.create(name="unreadable", path="~[")
    SamplingRule.objects.create(name="too much", path="~a{99999999999999999999}")
    SamplingRule.objects.create(name="good", path="/a/")
    refresher = make()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            refresher.refresh()
    assert names(refresher) == ["good"]
    assert len(caplog.records) == 2
    SamplingRule.objects.filter(name="unreadable").update(path="~(")
    refresher.refresh()
    assert len(caplog.records) == 3, "another error is logged again"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("error", [InterfaceError, OSError, TypeError])
def test_any_error_when_reading_rules_is_logged_once(
    error: type[Exception], make: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    SamplingRule.objects.create(name="known")
    refresher = make()
    refresher.refresh()

    def fail() -> Any:
        raise error("broken")

    with caplog.at_level(logging.INFO), monkeypatch.context() as patched:
        patched.setattr(refresh, "read_rules", fail)
        refresher.refresh()
        refresher.refresh()
    assert [record.getMessage() for record in caplog.records] == [
        f"The sampling rules can't be read ({error.__name__}); the last known rules stay in force."
    ]
    assert names(refresher) == ["known"]


@pytest.mark.django_db
def test_a_broken_connection_is_a_503(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.ROOT_URLCONF = __name__

    def fail() -> Any:
        raise InterfaceError("connection already closed")

    monkeypatch.setattr("django_tracing.sampling.server.read_rules", fail)
    assert Client().get("/tracing/sampling?service=node").status_code == 503


@pytest.mark.django_db(transaction=True)
def test_a_site_without_time_zones(make: Any, settings: Any) -> None:
    settings.USE_TZ = False
    now = timezone.now()
    until = now + timedelta(hours=1)
    SamplingRule.objects.create(name="ended", valid_until=now - timedelta(hours=1), order=1)
    SamplingRule.objects.create(name="tonight", valid_until=until, order=2)
    refresher = make(SAMPLE_RATE=0.0)
    refresher.refresh()
    assert names(refresher) == ["tonight"]
    assert refresher.factory.decide(None, "GET", SpanKind.SERVER, None, 1).kept
    refresher.refresh()
    assert SamplingCount.objects.get(rule__name="tonight").kept == 1
    assert ProcessStatus.objects.count() == 1
    [rule] = read_rules()
    assert rule.valid_until == pytest.approx(until.timestamp(), abs=1)
    assert as_rule(SamplingRule.objects.get(name="ended")).valid_until < until.timestamp()  # type: ignore[operator]


@pytest.mark.django_db(transaction=True)
def test_a_site_without_a_database(
    make: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> Any:
        raise ImproperlyConfigured("settings.DATABASES is improperly configured.")

    refresher = make()
    monkeypatch.setattr(refresh, "table_exists", fail)
    with caplog.at_level(logging.INFO):
        refresher.refresh()
        refresher.refresh()
    assert [record.levelname for record in caplog.records] == ["INFO"], "it has no rules"


def test_names_of_hosts_that_differ_at_the_end_are_distinguished(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    for end in ("x2k4q", "x2k4r"):
        monkeypatch.setattr("socket.gethostname", lambda end=end: "shop-" * 11 + "abc" + end)
        seen.add(make()._process.partition(f"-{os.getpid()}")[0])
    assert len(seen) == 2


# ----- The admin


@pytest.fixture
def root(settings: Any, db: None) -> Client:
    settings.ROOT_URLCONF = __name__
    client = Client()
    client.force_login(User.objects.create(username="root", is_staff=True, is_superuser=True))
    return client


@pytest.mark.parametrize("path", ["~a{99999999999999999999}", "~^(a+)+$"])
def test_the_form_shows_what_is_wrong_with_a_pattern(root: Client, path: str) -> None:
    answer = root.post("/admin/django_tracing/samplingrule/add/", {"name": "x", "path": path, "order": 1, "rate": 1})
    assert answer.status_code == 200
    assert "This regular expression" in answer.content.decode()
    assert not SamplingRule.objects.exists()


def test_an_invalid_order_changes_nothing(root: Client) -> None:
    rules = [SamplingRule.objects.create(name=f"{n}", order=n) for n in (10, 20)]
    ids = f"²,{'9' * 5000},-1,x,{rules[1].pk},{rules[0].pk},{rules[0].pk}"
    assert root.post("/admin/django_tracing/samplingrule/reorder/", {"ids": ids}).status_code == 302
    assert list(SamplingRule.objects.values_list("name", flat=True)) == ["20", "10"]


def test_links_stay_within_their_site(root: Client) -> None:
    rule = SamplingRule.objects.create(name="one")
    site = "/backoffice/django_tracing/"
    for url in (f"{site}samplingrule/preview/?path=/", f"{site}processstatus/"):
        text = root.get(url).content.decode()
        assert 'href="/backoffice/' in text
        assert 'href="/admin/' not in text, url
    answer = root.post(f"{site}samplingrule/reorder/", {"ids": f"{rule.pk}"})
    assert answer["Location"] == f"{site}samplingrule/"


def test_a_key_in_an_address_is_not_shown(root: Client, settings: Any) -> None:
    endpoint = "https://user:hunter2@traces.example/v1/traces?api-key=hunter3"
    settings.TRACING = {**settings.TRACING, "ENDPOINT": endpoint}
    text = root.get("/admin/django_tracing/processstatus/").content.decode()
    assert "https://traces.example/v1/traces?…" in text
    assert "hunter" not in text
    assert "hunter" not in str(_report())


class Whose:
    """A callable object without a name."""

    def __call__(self, user: Any) -> str:
        return "gold"


@pytest.mark.parametrize("value", [functools.partial(lambda x, user: x, "gold"), Whose()])
def test_the_status_with_a_callable_without_a_name(root: Client, settings: Any, value: Any) -> None:
    settings.TRACING = {**settings.TRACING, "SUBSCRIPTION": value}
    assert type(value).__qualname__ in root.get("/admin/django_tracing/processstatus/").content.decode()


# ----- Helpers


class Connected:
    """Like redis.asyncio's: it can be used directly or awaited."""

    def __await__(self) -> Generator[Any, None, Connected]:
        yield from ()
        return self

    def get(self) -> str:
        return "got"


class Block:
    """Like aiohttp's request: a coroutine and an async context manager."""

    def __init__(self) -> None:
        self._coroutine = asyncio.sleep(0, "response")

    def __await__(self) -> Generator[Any, Any, str]:
        return self._coroutine.__await__()

    def send(self, value: Any) -> Any:
        return self._coroutine.send(value)

    def throw(self, *error: Any) -> Any:
        return self._coroutine.throw(*error)

    def close(self) -> None:
        self._coroutine.close()

    async def __aenter__(self) -> str:
        return await self

    async def __aexit__(self, *error: object) -> None:
        pass


async def test_awaitables_are_returned_unchanged(spans: Spans) -> None:
    assert trace_function("client", Connected).get() == "got"
    assert trace("traced")(lambda: Connected())().get() == "got"
    async with trace_function("block", Block) as response:  # type: ignore[attr-defined]
        assert response == "response"
    assert spans.names == ["client", "traced", "block"]


def test_a_lazy_result_stays_lazy(spans: Spans) -> None:
    looked = []
    lazy = trace_function("f", lambda: SimpleLazyObject(lambda: looked.append(1) or "x"))
    assert looked == []
    assert type(lazy) is SimpleLazyObject


def test_headers_of_the_caller_are_kept(spans: Spans) -> None:
    def get(url: str, *, headers: dict[str, str] | None = None) -> dict[str, str] | None:
        return headers

    own = {"Authorization": "Bearer x"}
    call = functools.partial(get, "http://users/", headers=own)
    assert trace_external_call("users", "get", "http://users/", call) == own
    assert "traceparent" in (trace_external_call("users", "get", "/", functools.partial(get, "/")) or {})


class Undescribed:
    def __str__(self) -> str:
        raise AssertionError("it must not be converted")


@pytest.mark.parametrize("where", ["off", "unsampled", "sampled"])
def test_calls_that_cannot_be_described_are_made(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    odd: Any = Undescribed()
    if where == "off":
        monkeypatch.setattr(runtime, "current", runtime.Runtime())
    span = NonRecordingSpan(SpanContext(1, 2, is_remote=False)) if where == "unsampled" else create_span("x").span
    with trace_api.use_span(span):
        assert trace_cache_operation("get", odd, lambda: 1, system="x") == 1
        assert trace_database_operation("get", odd, lambda: 2, statement=odd) == 2
        assert trace_external_call(odd, odd, odd, lambda: 3) == 3
        with trace_rate_limit_check(odd, user=odd, subscription=odd) as check:
            check.allowed = True


@pytest.mark.django_db
def test_a_user_that_was_not_loaded_is_not_loaded(spans: Spans) -> None:
    User.objects.create(pk=42, username="ada")
    user = SimpleLazyObject(lambda: User.objects.get(pk=42))
    with CaptureQueriesContext(connection) as queries, trace_rate_limit_check("orders", user=user):
        pass
    assert len(queries) == 0
    assert str(user) == "ada"
    for known in (user, AnonymousUser()):
        with trace_rate_limit_check("orders", user=known):
            pass
    recorded = [(span.attributes or {}).get("user.id") for span in spans.named("rate_limit.check")]
    assert recorded == [None, "42", None]


def test_baggage_does_not_leak_into_the_next_request(settings: Any, rf: RequestFactory) -> None:
    settings.TRACING = {**settings.TRACING, "ENABLED": False}
    found = []

    def view(request: HttpRequest) -> HttpResponse:
        found.append(get_baggage("tenant"))
        set_baggage("tenant", "one")
        return HttpResponse("ok")

    for _ in range(2):
        TracingMiddleware(view)(rf.get("/"))
    assert found == [None, None]
    settings.TRACING = {**settings.TRACING, "ENABLED": True}
    with create_span("block"):
        set_baggage("tenant", "two")
        assert get_baggage("tenant") == "two"
    assert get_baggage("tenant") is None
