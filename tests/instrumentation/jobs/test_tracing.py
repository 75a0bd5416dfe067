"""Test what jobs carry, and the runs that continue it."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.http import HttpRequest
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import SpanKind

from django_tracing import create_span, current_trace_id, get_correlation_id, use_trace_context
from django_tracing.conf.loading import get_settings
from django_tracing.context.request import RequestState, get_request_state, with_request_state
from django_tracing.context.user import identify
from django_tracing.instrumentation.jobs import tracing as jobs
from django_tracing.instrumentation.patching import Patches
from django_tracing.spans import attach, detach
from tests.conftest import Spans

_patches = Patches()
_patches.start()


def describe(job: dict[str, Any]) -> jobs.Job:
    return jobs.Job(job["path"], job["id"], "shop")


def carry(job: dict[str, Any], carrier: Any) -> dict[str, Any]:
    return {**job, "carrier": dict(carrier)}


LIBRARY = jobs.Library("acme", _patches, describe, carry, lambda job: job.get("carrier"))
JOB = {"path": "shop.jobs.send_invoice", "id": "4711"}


def test_a_run_in_another_process_continues_the_trace(spans: Spans) -> None:
    with create_span("request"):
        own = get_correlation_id()
        with jobs.begin_enqueuing(LIBRARY, JOB) as carrying:
            pass
    with jobs.begin_run(LIBRARY, carrying):
        assert get_correlation_id() == own
    enqueued, run = spans.one("task.enqueue.send_invoice"), spans.one("task.run.send_invoice")
    assert run.parent is not None
    assert run.parent.span_id == enqueued.get_span_context().span_id
    assert (enqueued.kind, run.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert JOB == {"path": "shop.jobs.send_invoice", "id": "4711"}


@override_settings(TRACING={"EXPORTER": "none", "TASKS": "link"})
def test_a_linked_run_has_a_trace_of_its_own(spans: Spans) -> None:
    with create_span("request"), jobs.begin_enqueuing(LIBRARY, JOB) as carrying:
        pass
    with jobs.begin_run(LIBRARY, carrying):
        pass
    enqueued, run = spans.one("task.enqueue.send_invoice"), spans.one("task.run.send_invoice")
    assert run.parent is None
    assert [link.context.span_id for link in run.links] == [enqueued.get_span_context().span_id]


def test_the_run_of_an_unsampled_trace_is_not_sampled(spans: Spans) -> None:
    caller = {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-00"}
    with use_trace_context(caller), create_span("request"), jobs.begin_enqueuing(LIBRARY, JOB) as carrying:
        pass
    assert carrying["carrier"]["traceparent"].startswith(f"00-{'ab' * 16}-")
    with jobs.begin_run(LIBRARY, carrying), create_span("inside"):
        assert current_trace_id() == "ab" * 16
    assert spans.names == []


def test_outside_a_trace_a_job_keeps_what_it_carries(spans: Spans) -> None:
    carrying = {**JOB, "carrier": {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"}}
    for job in (JOB, carrying):
        with jobs.begin_enqueuing(LIBRARY, job) as enqueued:
            assert enqueued is job
    assert spans.names == []


def test_a_job_that_is_put_back_in_its_run_keeps_what_it_carries(spans: Spans) -> None:
    with create_span("request"), jobs.begin_enqueuing(LIBRARY, JOB) as carrying:
        pass
    with jobs.begin_run(LIBRARY, carrying):
        with jobs.begin_enqueuing(LIBRARY, carrying) as again:
            assert again is carrying
        with jobs.begin_enqueuing(LIBRARY, {**JOB, "id": "4712"}) as other:
            assert other["carrier"]["traceparent"] != carrying["carrier"]["traceparent"]
    assert len(spans.named("task.enqueue.send_invoice")) == 2


def test_one_enqueuing_through_two_queues_is_one_span(spans: Spans) -> None:
    outer = LIBRARY._replace(system="outer")
    with create_span("request"), jobs.begin_enqueuing(outer, JOB), jobs.begin_enqueuing(LIBRARY, JOB) as inner:
        pass
    with jobs.begin_run(LIBRARY, inner):
        pass
    assert spans.names == ["task.enqueue.send_invoice", "request"]


def test_a_failure_to_describe_a_job_leaves_it_alone(spans: Spans) -> None:
    def fail(*args: Any) -> Any:
        raise RuntimeError("a job of another version")

    for broken in (LIBRARY._replace(describe=fail), LIBRARY._replace(carry=fail), LIBRARY._replace(carried=fail)):
        with create_span("request"), jobs.begin_enqueuing(broken, JOB) as job:
            assert job["id"] == "4711"
        with jobs.begin_run(broken, JOB):
            pass


def test_the_id_of_a_job_is_redacted(spans: Spans) -> None:
    with jobs.begin_run(LIBRARY, {**JOB, "id": "invoice-ada@example.com"}):
        pass
    attributes = spans.one("task.run.send_invoice").attributes or {}
    assert "ada" not in str(attributes["task.id"])
    assert attributes["messaging.message.id"] == attributes["task.id"]


# ----- the user


def carrier_of_user(user: User) -> dict[str, str]:
    request = HttpRequest()
    request.user = user
    state = RequestState("abc", request)
    token = attach(with_request_state(state))
    try:
        with create_span("request"):
            identify(state, get_settings())
            return jobs.carrier_of()
    finally:
        detach(token)


@override_settings(TRACING={"EXPORTER": "none", "USER_EMAIL": "full", "SUBSCRIPTION": "first_name"})
def test_a_run_has_the_user_of_the_request_without_the_email_address(spans: Spans) -> None:
    carrier = carrier_of_user(User(pk=4711, email="ada@example.com", first_name="pro"))
    assert "ada" not in str(carrier)
    with jobs.begin_run(LIBRARY, {**JOB, "carrier": carrier}), create_span("inside"):
        pass
    for name in ("task.run.send_invoice", "inside"):
        attributes = spans.one(name).attributes or {}
        assert (attributes["user.id"], attributes["user.subscription"]) == ("4711", "pro")


@pytest.mark.parametrize("value", ["ada@example.com", "x" * 500, "x" * 5000, "\x00\x1b[31m", "password=hunter2"])
def test_a_users_id_from_outside_is_bounded_and_redacted(spans: Spans, value: str) -> None:
    with jobs.begin_run(LIBRARY, {**JOB, "carrier": {"user.id": value}}):
        pass
    shown = str((spans.one("task.run.send_invoice").attributes or {}).get("user.id", ""))
    assert len(shown) <= 100
    assert "ada@" not in shown
    assert "hunter2" not in shown


anything = st.recursive(
    st.none() | st.integers() | st.text(max_size=40) | st.binary(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=20) | st.integers(), inner, max_size=4)
    ),
    max_leaves=8,
)
names = st.sampled_from(["traceparent", "tracestate", "baggage", "X-Correlation-ID", "user.id", "user.subscription"])


@given(carrier=anything | st.dictionaries(names, anything, max_size=6))
def test_whatever_a_job_carries_it_runs(carrier: Any) -> None:
    ran = False
    with jobs.begin_run(LIBRARY, {**JOB, "carrier": carrier}):
        ran = True
        state = get_request_state()
        if carrier != {}:
            assert state is not None
            assert len(state.correlation_id) <= 128
    assert ran


def test_a_huge_carrier_is_not_read_to_its_end(spans: Spans) -> None:
    class Endless(dict[str, str]):
        def items(self) -> Any:
            count = 0
            while count < 1_000_000:
                count += 1
                assert count <= 100, "read to its end"
                yield f"name{count}", "value"

    with jobs.begin_run(LIBRARY, {**JOB, "carrier": Endless(name="value")}):
        pass
    assert spans.one("task.run.send_invoice").parent is None
