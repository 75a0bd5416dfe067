"""Test that a process uses the rules in the database, also if the database fails."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, connections, transaction
from django.db.models import Sum
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind

from django_tracing.conf.loading import load
from django_tracing.models import ProcessStatus, SamplingCount, SamplingRule
from django_tracing.recording.factory import SpanFactory
from django_tracing.sampling import refresh
from django_tracing.sampling.refresh import Refresher
from django_tracing.sampling.sampler import RuleSampler
from django_tracing.spans import runtime
from tests.jaegers import wait_until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    # The tests' own process must not apply the rules of a test.
    monkeypatch.setattr(runtime, "current", runtime.current.replace(refresher=None))
    providers: list[TracerProvider] = []
    refreshers: list[Refresher] = []

    def one(**tracing: Any) -> Refresher:
        settings = load({"EXPORTER": "none", "SERVICE_NAME": "shop", **tracing}, {})
        sampler = RuleSampler(settings.sample_rate, settings)
        providers.append(TracerProvider(sampler=sampler))
        factory = SpanFactory.of(providers[-1].get_tracer("x"), sampler.keep)
        assert factory is not None
        refresher = Refresher(sampler, factory, settings, lambda: {"queued": 0})
        refresher.prepare()
        refreshers.append(refresher)
        return refresher

    yield one
    for refresher in refreshers:
        thread, wake = refresher._thread, refresher._wake
        refresher.prepare()
        wake.set()
        if thread is not None:
            thread.join(10)
    for provider in providers:
        provider.shutdown()


def names(refresher: Refresher) -> list[str]:
    return [compiled.rule.name for compiled in refresher.sampler.rules.compiled]


def decided(refresher: Refresher, count: int = 1) -> int:
    judge = refresher.factory.decide
    assert judge is not None
    return sum(judge(None, "GET", SpanKind.SERVER, None, n << 40).kept for n in range(count))


def test_rules_are_those_in_force_in_their_order(make: Any) -> None:
    now = timezone.now()
    SamplingRule.objects.create(name="second", order=2, rate=50)
    SamplingRule.objects.create(name="first", order=1, valid_until=now + timedelta(hours=1))
    SamplingRule.objects.create(name="off", enabled=False)
    SamplingRule.objects.create(name="ended", valid_until=now - timedelta(seconds=1))
    SamplingRule.objects.create(name="theirs", service="billing")
    refresher = make()
    refresher.refresh()
    assert names(refresher) == ["first", "second"]
    assert refresher.sampler.rules.compiled[1].rule.rate == 0.5


def test_without_rules_deciding_costs_nothing(make: Any) -> None:
    refresher = make()
    assert refresher.factory.decide is not None, "the first trace starts the thread"
    refresher.refresh()
    assert refresher.factory.decide is None
    assert make(SAMPLING_REFRESH=0).factory.decide is None


def test_without_rules_a_rate_below_1_is_recorded(make: Any) -> None:
    refresher = make(SAMPLE_RATE=0.5)
    refresher.refresh()
    kept = [refresher.factory.start("x", Context(), SpanKind.INTERNAL, (), None) for _ in range(200)]
    message = [span.attributes for span in kept if span.is_recording()]
    assert 50 < len(message) < 150
    assert message[0] == {"sampling.rule": "settings", "sampling.rate": 0.5}


def test_a_thread_reads_changes_of_the_database(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refresh, "_in_tests", lambda: False)
    refresher = make(SAMPLE_RATE=0.0)
    refresher.settings = refresher.settings._replace(sampling_refresh=0.05)
    assert decided(refresher) == 0
    rule = SamplingRule.objects.create(name="all")
    # It reads the rules before they are needed for a decision.
    wait_until(lambda: names(refresher) == ["all"] and refresher.factory.decide, "the thread to read the rule")
    assert decided(refresher, 5) == 5
    rule.delete()
    wait_until(lambda: names(refresher) == [], "the thread to see that it was deleted")


def test_the_process_that_saves_a_rule_applies_it_immediately(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refresh, "_in_tests", lambda: False)
    refresher = make()
    refresher.settings = refresher.settings._replace(sampling_refresh=3600)
    monkeypatch.setattr(runtime, "current", runtime.current.replace(refresher=refresher))
    refresher.start()
    wait_until(lambda: refresher.factory.decide is None, "the first look")
    SamplingRule.objects.create(name="new")
    wait_until(lambda: names(refresher) == ["new"], "the thread to be woken")


class Lost:
    """A router that fails for the table of the rules."""

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        if model is SamplingRule:
            raise LookupError("no such database")
        return None


def test_saving_a_rule_never_fails_because_of_the_thread(
    make: Any, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    monkeypatch.setattr(refresh, "_in_tests", lambda: False)
    refresher = make(SAMPLING_REFRESH=0)
    monkeypatch.setattr(runtime, "current", runtime.current.replace(refresher=refresher))
    settings.DATABASE_ROUTERS = [Lost()]
    with transaction.atomic():
        SamplingRule(name="new").save(force_insert=True)
    settings.DATABASE_ROUTERS = []
    assert SamplingRule.objects.count() == 1


def test_a_missing_table_and_its_return(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    SamplingRule.objects.create(name="known")
    refresher = make()
    refresher.refresh()
    caplog.set_level(logging.INFO, "django_tracing")
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE django_tracing_samplingrule RENAME TO away")
        try:
            refresher.refresh()
            refresher.refresh()
            fresh = make()
            with CaptureQueriesContext(connection) as asked:
                fresh.refresh()
            assert not [query for query in asked if "samplingrule" in query["sql"]], (
                "no failure in the database's log"
            )
        finally:
            cursor.execute("ALTER TABLE away RENAME TO django_tracing_samplingrule")
    assert names(refresher) == ["known"], "the last known rules remain in force"
    assert [(record.levelname, "migrate" in record.message) for record in caplog.records] == [
        ("WARNING", False),
        ("INFO", True),
    ], "once each; a site without the table gets a hint and no error"
    refresher.refresh()
    assert "read again" in caplog.records[-1].message


def test_a_database_that_is_down(
    make: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    SamplingRule.objects.create(name="known")
    refresher = make()
    refresher.refresh()
    connection.close()
    monkeypatch.setitem(connections["default"].settings_dict, "HOST", "/nowhere")
    refresher.refresh()
    refresher.refresh()
    monkeypatch.undo()
    assert names(refresher) == ["known"]
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1


def test_the_counts_of_each_process_are_stored(make: Any) -> None:
    rule = SamplingRule.objects.create(name="half", rate=50)
    processes = [make(), make()]
    for number, refresher in enumerate(processes):
        refresher._process = f"p{number}"
        refresher.refresh()
        decided(refresher, 100)
        refresher.refresh()
        decided(refresher, 100)
        refresher.refresh()
    total = SamplingCount.objects.filter(rule=rule).aggregate(kept=Sum("kept"), passed_over=Sum("passed_over"))
    assert total["kept"] + total["passed_over"] == 400
    assert SamplingCount.objects.values("process").distinct().count() == 2
    statuses = {status.process: status.report for status in ProcessStatus.objects.all()}
    assert statuses["p0"]["sampling"]["rules"] == ["half"]
    assert processes[1]._processes == 2, "they share the rule's budget of traces per second"


def test_counts_that_could_not_be_stored_are_stored_the_next_time(
    make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    rule = SamplingRule.objects.create(name="all")
    refresher = make()
    with connection.cursor() as cursor:
        for table in ("processstatus", "samplingcount"):
            cursor.execute(f"ALTER TABLE django_tracing_{table} RENAME TO {table}_away")
        try:
            refresher.refresh()
            decided(refresher, 3)
            refresher.refresh()
            refresher.refresh()
        finally:
            for table in ("processstatus", "samplingcount"):
                cursor.execute(f"ALTER TABLE {table}_away RENAME TO django_tracing_{table}")
    assert names(refresher) == ["all"], "rules are read nevertheless"
    [message] = [record.getMessage() for record in caplog.records]
    assert message == "The status of this process can't be stored: ProgrammingError."
    refresher.refresh()
    assert ProcessStatus.objects.count() == 1
    assert SamplingCount.objects.get(rule=rule).kept == 3


def test_a_request_never_queries_the_database(make: Any, django_assert_num_queries: Any) -> None:
    SamplingRule.objects.create(name="some", user_id="1", rate=50)
    refresher = make()
    refresher.refresh()
    with django_assert_num_queries(0):
        decided(refresher, 50)


def test_a_connection_that_cannot_be_closed_is_no_fault(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("already gone")

    connection.ensure_connection()
    with monkeypatch.context() as patch:
        patch.setattr(connections["default"], "close", fail)
        with caplog.at_level(logging.DEBUG, "django_tracing"):
            refresh._close_connections()
    (record,) = [record for record in caplog.records if "sampling thread" in record.getMessage()]
    assert record.levelno == logging.DEBUG and record.exc_info is not None
