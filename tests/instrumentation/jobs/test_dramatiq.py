"""Test the spans of Dramatiq's messages, with its broker in memory and a real worker."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("dramatiq")

import dramatiq
from dramatiq.brokers.stub import StubBroker
from dramatiq.errors import Retry
from dramatiq.middleware import AgeLimit, Pipelines, Retries, SkipMessage

from django_tracing import create_span, get_correlation_id
from django_tracing.instrumentation.jobs import dramatiq as instrumentation
from tests.conftest import Spans

seen: list[Any] = []


class Skipping(dramatiq.Middleware):
    def before_process_message(self, broker: Any, message: Any) -> None:
        if message.args == ("skip",):
            raise SkipMessage


broker = StubBroker(middleware=[AgeLimit(), Pipelines(), Retries(max_retries=2, min_backoff=1, max_backoff=1)])
broker.add_middleware(Skipping())


@dramatiq.actor(broker=broker, queue_name="shop")
def remember(*args: Any, **kwargs: Any) -> Any:
    seen.append((list(args), kwargs, get_correlation_id()))
    if args == ("retry",) and len(seen) < 3:
        raise Retry(delay=1) if len(seen) == 1 else ValueError("password=hunter2")
    return "result"


@pytest.fixture(autouse=True)
def levels() -> Iterator[None]:
    seen.clear()
    logger = logging.getLogger("dramatiq")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    remember.logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


def work() -> None:
    worker = dramatiq.Worker(broker, worker_timeout=20, worker_threads=1)
    worker.start()
    broker.join("shop", fail_fast=False)
    worker.join()
    worker.stop()


def test_a_pipeline_is_one_trace(spans: Spans) -> None:
    with create_span("request"):
        own = get_correlation_id()
        dramatiq.pipeline([remember.message(1), remember.message(2, color="red")], broker=broker).run()
    work()
    assert seen == [([1], {}, own), ([2, "result"], {"color": "red"}, own)]
    enqueued, runs = spans.named("task.enqueue.remember"), spans.named("task.run.remember")
    assert [run.parent and run.parent.span_id for run in runs] == [
        span.get_span_context().span_id for span in enqueued
    ]
    assert enqueued[1].parent is not None
    assert enqueued[1].parent.span_id == runs[0].get_span_context().span_id


def test_each_attempt_is_below_the_enqueuing(spans: Spans) -> None:
    with create_span("request"):
        own = get_correlation_id()
        remember.send("retry")
    work()
    assert [identifier for _, _, identifier in seen] == [own] * 3
    enqueued = spans.one("task.enqueue.remember").get_span_context().span_id
    runs = spans.named("task.run.remember")
    assert [run.parent and run.parent.span_id for run in runs] == [enqueued] * 3
    shown = [((run.attributes or {})["task.status"], (run.attributes or {})["task.attempt"]) for run in runs]
    assert shown == [("retrying", 1), ("failed", 2), ("successful", 3)]
    assert [len(run.events) for run in runs] == [0, 1, 0]
    assert "hunter2" not in runs[1].to_json()


def test_a_message_that_is_skipped_is_no_error(spans: Spans) -> None:
    with create_span("request"):
        remember.send("skip")
    work()
    run = spans.one("task.run.remember")
    assert seen == []
    assert (run.attributes or {})["task.status"] == "skipped"
    assert run.status.is_unset


def test_a_message_is_not_changed_by_sending_it(spans: Spans) -> None:
    message = remember.message(1)
    with create_span("request"):
        broker.enqueue(message)
    assert message.options == {}
    work()


def test_uninstall_restores_everything(spans: Spans) -> None:
    instrumentation.uninstall()
    try:
        assert not hasattr(StubBroker.enqueue, "__wrapped__")
        assert not hasattr(StubBroker.emit_after, "__wrapped__")
        with create_span("request"):
            assert remember.send(1).options == {}
        work()
        assert spans.names == ["request"]
    finally:
        instrumentation.install()
