"""Test which traces callers can force or suppress, as limited by the settings, and that they can't suppress errors."""

from __future__ import annotations

import random
from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client
from django.urls import path
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from django_tracing import create_span
from django_tracing.sampling.rules import Rule
from tests.sampling.test_deciding import Site, site  # noqa: F401 - a fixture

CALLER = "b7ad6b7169203331"
SAMPLED = f"00-0af7651916cd43dd8448eb211c80319c-{CALLER}-01"
UNSAMPLED = f"00-0af7651916cd43dd8448eb211c80319c-{CALLER}-00"
#: An id and a randomness that every rate above 0 keeps.
CHOSEN = {"traceparent": f"00-{'f' * 32}-{CALLER}-00", "tracestate": f"ot=rv:{'f' * 14}"}


def work(request: HttpRequest) -> HttpResponse:
    with create_span("inside"):
        pass
    if "fail" in request.GET:
        raise ValueError("failed")
    return HttpResponse("ok", status=int(request.GET.get("status", 200)))


async def awork(request: HttpRequest) -> HttpResponse:
    return work(request)


urlpatterns = [path("work/", work), path("awork/", awork)]


@pytest.fixture
def here(site: Any, settings: Any) -> Any:  # noqa: F811
    settings.ROOT_URLCONF = __name__
    return site


#: A Jaeger that hasn't answered: SAMPLE_RATE is used as its strategy.
STEERED = {"REMOTE_SAMPLING_URL": "http://127.0.0.1:1/sampling"}


def steered(one: Site) -> Site:
    assert one.sampler.remote is not None
    one.sampler.remote.close()
    return one


class TestErrors:
    def test_a_caller_cannot_suppress_errors(self, here: Any) -> None:
        one: Site = here(SAMPLE_RATE=1.0)
        assert one.get("/work/?fail", traceparent=UNSAMPLED) == ["GET /work/"]
        [span] = one.exporter.get_finished_spans()
        assert f"{span.parent.span_id:016x}" == CALLER
        assert span.context.trace_flags.sampled
        assert span.status.status_code is StatusCode.ERROR
        assert span.attributes["error.type"] == span.events[0].attributes["exception.type"] == "ValueError"
        assert span.attributes["http.route"] == "/work/"
        assert span.start_time < span.events[0].timestamp <= span.end_time, "it started with the request"

    @pytest.mark.django_db
    async def test_a_caller_cannot_suppress_errors_of_async_views(self, here: Any) -> None:
        one: Site = here(SAMPLE_RATE=1.0)
        client = AsyncClient(raise_request_exception=False)
        await client.get("/awork/?fail", headers={"traceparent": UNSAMPLED})
        assert [span.name for span in one.exporter.get_finished_spans()] == ["GET /awork/"]

    @pytest.mark.parametrize(
        ("rules", "tracing", "names"),
        [
            ([], {"SAMPLE_RATE": 0.0}, []),
            ([], {"SAMPLE_RATE": 0.0, "KEEP_ERRORS": True}, ["GET /work/", "inside"]),
            ([], {"SAMPLE_RATE": 1.0, "DEBUG_HEADER": "X-Debug"}, ["GET /work/"]),
            ([Rule(1, "none", rate=0.0)], {"SAMPLE_RATE": 1.0}, []),
            ([Rule(1, "all", rate=1.0)], {"SAMPLE_RATE": 0.0}, ["GET /work/"]),
            ([Rule(1, "errors", rate=0.0, keep_errors=True)], {"SAMPLE_RATE": 0.0}, ["GET /work/", "inside"]),
            ([Rule(1, "theirs", user_id="7", rate=1.0)], {"SAMPLE_RATE": 0.0}, []),
            ([Rule(1, "none", rate=0.0, keep_errors=False)], {"SAMPLE_RATE": 0.0, "KEEP_ERRORS": True}, []),
            ([], {"SAMPLE_RATE": 0.0, "TRUST_PARENT": "never"}, []),
        ],
    )
    def test_only_errors_that_this_site_would_have_kept(
        self, here: Any, rules: list[Rule], tracing: dict[str, Any], names: list[str]
    ) -> None:
        one: Site = here(*rules, **tracing)
        assert one.get("/work/?fail", traceparent=UNSAMPLED) == names

    def test_the_span_says_what_has_kept_it(self, here: Any) -> None:
        one: Site = here(Rule(1, "all", rate=1.0), SAMPLE_RATE=0.0)
        one.get("/work/?fail", traceparent=UNSAMPLED)
        assert one.root() == {"sampling.rule": "all", "sampling.rate": 1.0}

    def test_a_caller_can_suppress_successful_requests(self, here: Any) -> None:
        one: Site = here(SAMPLE_RATE=1.0)
        for query in ("", "?status=404", "?status=302"):
            assert one.get(f"/work/{query}", traceparent=UNSAMPLED) == []
        assert one.get("/work/?status=503", traceparent=UNSAMPLED) == ["GET /work/"]

    def test_the_own_decision_is_not_repeated_for_untrusted_callers(self, here: Any) -> None:
        """A failed request that this site itself decided to drop isn't sampled a second time."""
        random.seed(11)
        one: Site = here(SAMPLE_RATE=0.5, TRUST_PARENT="never")
        kept = [one.get("/work/?fail", traceparent=UNSAMPLED) for _ in range(200)]
        assert [] in kept
        assert all(names in ([], ["GET /work/", "inside"]) for names in kept)

    def test_slow_requests_by_rule(self, here: Any) -> None:
        one: Site = here(Rule(1, "slow", rate=0.0, keep_slower_than=0.0), SAMPLE_RATE=0.0)
        assert one.get("/work/", traceparent=UNSAMPLED) == ["GET /work/", "inside"]


class TestForcing:
    @pytest.mark.parametrize("rules", [[], [Rule(1, "none", rate=0.0)]])
    def test_it_is_bounded(self, here: Any, rules: list[Rule]) -> None:
        # One at first, and then one every hundred seconds.
        one: Site = here(*rules, SAMPLE_RATE=0.0, FORCED_PER_SECOND=0.01)
        kept = [one.get("/work/", traceparent=SAMPLED) for _ in range(20)]
        assert kept == [["GET /work/", "inside"]] + [[]] * 19

    @pytest.mark.parametrize(
        ("tracing", "kept"),
        [
            ({"SAMPLE_RATE": 0.0, "FORCED_PER_SECOND": None}, 20),
            ({"SAMPLE_RATE": 0.0, "FORCED_PER_SECOND": 0}, 0),
            ({"SAMPLE_RATE": 1.0, "FORCED_PER_SECOND": 0}, 20),
            ({"SAMPLE_RATE": 0.0, "TRUST_PARENT": "never"}, 0),
        ],
    )
    def test_it_is_bounded_by_the_settings(self, here: Any, tracing: dict[str, Any], kept: int) -> None:
        one: Site = here(**tracing)
        assert sum(one.get("/work/", traceparent=SAMPLED) != [] for _ in range(20)) == kept

    @pytest.mark.parametrize(
        "tracing", [{"TRUST_PARENT": "never"}, {"TRUST_PARENT": "always", "FORCED_PER_SECOND": 0}]
    )
    @pytest.mark.parametrize("rules", [[], [Rule(1, "half", rate=0.5)]])
    def test_an_id_chosen_by_the_caller_has_no_effect(
        self, here: Any, tracing: dict[str, Any], rules: list[Rule]
    ) -> None:
        random.seed(7)
        one: Site = here(*rules, SAMPLE_RATE=0.5, **tracing)
        headers = {**CHOSEN, "traceparent": CHOSEN["traceparent"][:-1] + "1"}
        kept = sum(one.get("/work/", **headers) != [] for _ in range(200))
        assert 60 < kept < 140

    @pytest.mark.parametrize(
        "tracing", [{"TRUST_PARENT": "never"}, {"TRUST_PARENT": "always", "FORCED_PER_SECOND": 0}]
    )
    @pytest.mark.parametrize("trace_id", ["f" * 32, f"{1:032x}"])
    def test_an_id_chosen_by_the_caller_has_no_effect_with_remote_sampling(
        self, here: Any, tracing: dict[str, Any], trace_id: str
    ) -> None:
        random.seed(7)
        one = steered(here(SAMPLE_RATE=0.5, **STEERED, **tracing))
        state = f"ot=rv:{'f' * 14}"
        kept = sum(
            one.get("/work/", traceparent=f"00-{trace_id}-{CALLER}-01", tracestate=state) != [] for _ in range(200)
        )
        assert 60 < kept < 140

    def test_an_id_chosen_by_the_caller_has_no_effect_on_errors(self, here: Any) -> None:
        random.seed(7)
        one = steered(here(SAMPLE_RATE=0.5, **STEERED))
        kept = sum(one.get("/work/?fail", traceparent=UNSAMPLED) != [] for _ in range(200))
        assert 60 < kept < 140

    @pytest.mark.parametrize("trusted", ["always", "private"])
    def test_an_id_chosen_by_the_caller_has_no_effect_with_spans_of_other_instrumentations(
        self, here: Any, trusted: str
    ) -> None:
        """OpenTelemetry's instrumentation of Django, WSGI or ASGI started the trace, without this app's request state."""
        one: Site = here(SAMPLE_RATE=0.0, TRUST_PARENT=trusted, DEBUG_HEADER="X-Debug", FORCED_PER_SECOND=0.01)
        caller = trace.set_span_in_context(
            trace.NonRecordingSpan(trace.SpanContext(5, 6, is_remote=True, trace_flags=trace.TraceFlags(1)))
        )
        tracer = one.provider.get_tracer("opentelemetry.instrumentation.asgi")
        kept = [tracer.start_span("GET", caller, SpanKind.SERVER).is_recording() for _ in range(20)]
        # The address of the caller is not known there.
        assert kept == [trusted == "always"] + [False] * 19
        task = [tracer.start_span("run", caller, SpanKind.CONSUMER).is_recording() for _ in range(20)]
        assert all(task), "the context of this site's own tasks is trusted"

    def test_the_randomness_of_the_decision_is_sent_on(self, here: Any) -> None:
        random.seed(3)
        one: Site = here(Rule(1, "half", rate=0.5), FORCED_PER_SECOND=0)
        while not one.get("/work/", **{**CHOSEN, "traceparent": SAMPLED}):
            pass
        [root] = [span for span in one.exporter.get_finished_spans() if span.kind is SpanKind.SERVER]
        recorded = dict(part.split(":") for part in root.context.trace_state["ot"].split(";"))
        assert recorded["th"] == "8"
        assert recorded["rv"] != "f" * 14
        assert int(recorded["rv"], 16) >= 1 << 55, "it is above the threshold"


class TestNetworks:
    """``TRUST_PARENT`` and ``SAMPLING_CLIENTS`` compare the same address, if it is known."""

    CASES = (
        ("127.0.0.1", {}, [], True),
        ("203.0.113.7", {}, [], False),
        ("127.0.0.1", {"x-forwarded-for": "203.0.113.7"}, [], False),
        ("127.0.0.1", {"forwarded": "for=127.0.0.1"}, [], False),
        ("127.0.0.1", {"x-forwarded-for": "203.0.113.7"}, ["127.0.0.1"], False),
        ("127.0.0.1", {"x-forwarded-for": "127.0.0.1, 203.0.113.7"}, ["127.0.0.1"], False),
        ("10.0.0.1", {"x-forwarded-for": "127.0.0.2"}, ["10.0.0.0/8"], True),
        ("127.0.0.1", {"x-forwarded-for": "unknown"}, ["127.0.0.1"], False),
        ("", {"x-forwarded-for": "203.0.113.7"}, ["127.0.0.1"], False),
    )

    @pytest.mark.parametrize(("remote", "headers", "proxies", "known"), CASES)
    def test_which_callers_are_trusted(
        self, here: Any, remote: str, headers: dict[str, str], proxies: list[str], known: bool
    ) -> None:
        one: Site = here(SAMPLE_RATE=0.0, TRUST_PARENT=["127.0.0.0/8"], TRUSTED_PROXIES=proxies)
        one.client = Client(REMOTE_ADDR=remote)
        assert (one.get("/work/", traceparent=SAMPLED, **headers) != []) is known

    @pytest.mark.django_db
    @pytest.mark.parametrize(("remote", "headers", "proxies", "known"), CASES)
    def test_which_clients_may_read_the_rules(
        self, settings: Any, remote: str, headers: dict[str, str], proxies: list[str], known: bool
    ) -> None:
        settings.ROOT_URLCONF = "tests.sampling.test_strategies"
        settings.TRACING = {"EXPORTER": "none", "TRUSTED_PROXIES": proxies}
        answer = Client(REMOTE_ADDR=remote).get("/tracing/sampling?service=node", headers=headers)
        assert answer.status_code == (200 if known else 403)

    @pytest.mark.django_db
    def test_behind_an_unlisted_proxy_a_trace_is_continued_and_no_rule_is_read(
        self, here: Any, settings: Any
    ) -> None:
        """What a proxy wrote is enough for a trace that begins in a private network, and not for a permission."""
        forwarded = {"x-forwarded-for": "127.0.0.1"}
        one: Site = here(SAMPLE_RATE=0.0, TRUST_PARENT=["127.0.0.0/8"])
        assert one.get("/work/", traceparent=SAMPLED, **forwarded)
        settings.ROOT_URLCONF = "tests.sampling.test_strategies"
        settings.TRACING = {"EXPORTER": "none"}
        assert Client().get("/tracing/sampling?service=node", headers=forwarded).status_code == 403
