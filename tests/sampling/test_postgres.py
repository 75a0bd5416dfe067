"""Test a site whose database locks rows: neither requests nor the thread wait for locks of the other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection, connections, transaction
from django.db.models.signals import post_delete, post_save, pre_delete, pre_save
from django.utils import timezone

from django_tracing.models import ProcessStatus, SamplingCount, SamplingRule
from tests.sampling.test_refresh import decided, make, names  # noqa: F401 - make is a fixture

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif("connection.vendor != 'postgresql'", reason="needs a database that locks rows"),
]


def apart(run: Callable[[], Any]) -> None:
    """Run with another connection, as in another process. Raise its exception; waiting for a lock is an error."""
    failed: list[BaseException] = []

    def target() -> None:
        try:
            run()
        except BaseException as error:
            failed.append(error)
        finally:
            connections.close_all()

    thread = threading.Thread(target=target)
    thread.start()
    thread.join(30)
    assert not thread.is_alive(), "it waits for a lock"
    if failed:
        raise failed[0]


def work(refresher: Any) -> None:
    """Do all the work of the refresher's thread, at any time."""
    decided(refresher, 3)
    refresher._status_stored = float("-inf")
    apart(refresher.refresh)


@pytest.fixture
def refresher(make: Any, caplog: pytest.LogCaptureFixture) -> Iterator[Any]:  # noqa: F811
    SamplingRule.objects.create(name="first")
    SamplingRule.objects.create(name="second", order=1)
    one = make()
    one.refresh()
    yield one
    assert not caplog.records, "nothing went wrong"


def test_no_step_of_a_request_conflicts_with_the_thread(refresher: Any) -> None:
    """The request holds all locks on rules that are possible, like the reordering in the admin."""
    for _ in range(3):
        work(refresher)
        with transaction.atomic():
            work(refresher)
            rules = list(SamplingRule.objects.select_for_update().order_by("order", "id"))
            work(refresher)
            for rule in rules:
                rule.order += 1
                rule.save()
                work(refresher)
        work(refresher)
    assert names(refresher) == ["first", "second"]
    [count] = {row.rule_id for row in SamplingCount.objects.all()}
    assert count == SamplingRule.objects.get(name="first").pk
    assert sum(row.kept + row.passed_over for row in SamplingCount.objects.all()) > 0


def test_a_rule_can_be_deleted_while_it_is_counted(refresher: Any) -> None:
    def between(execute: Any, *arguments: Any) -> Any:
        work(refresher)
        found = execute(*arguments)
        work(refresher)
        return found

    rule = SamplingRule.objects.get(name="first")
    with transaction.atomic(), connection.execute_wrapper(between):
        rule.delete()
    work(refresher)
    work(refresher)
    assert names(refresher) == ["second"]
    assert ProcessStatus.objects.count() == 1


def test_after_each_statement_of_the_thread_nothing_is_locked(refresher: Any) -> None:
    statements = []

    def request() -> None:
        with transaction.atomic():
            for model in (SamplingRule, SamplingCount, ProcessStatus):
                # Don't wait for locks: one is an error.
                list(model.objects.select_for_update(nowait=True))
            SamplingRule.objects.filter(name="second").update(updated=timezone.now())

    def between(execute: Any, *arguments: Any) -> Any:
        found = execute(*arguments)
        statements.append(arguments[0].split()[0])
        apart(request)
        return found

    for old in (False, True):
        decided(refresher, 3)
        refresher._status_stored = float("-inf")
        if old:
            ProcessStatus.objects.update(updated="2020-01-01T00:00Z")
        with connection.execute_wrapper(between):
            refresher.refresh()
    assert {"SELECT", "INSERT", "UPDATE", "DELETE"} <= set(statements)


def test_signal_receivers_of_the_site_are_not_called(refresher: Any) -> None:
    """Receivers that write a history of every model would otherwise write in this thread, too."""
    heard: list[Any] = []

    def receive(sender: Any, **kwargs: Any) -> None:
        heard.append(sender)

    signals = (pre_save, post_save, pre_delete, post_delete)
    for signal in signals:
        signal.connect(receive)
    try:
        for _ in range(2):
            ProcessStatus.objects.bulk_create(
                [
                    ProcessStatus(
                        process="gone",
                        service="shop",
                        host="h",
                        pid=1,
                        started="2020-01-01T00:00Z",
                        updated="2020-01-01T00:00Z",
                    )
                ]
            )
            work(refresher)
    finally:
        for signal in signals:
            signal.disconnect(receive)
    assert heard == []
    assert ProcessStatus.objects.count() == 1


def test_a_site_without_autocommit(refresher: Any) -> None:
    def refresh() -> None:
        connection.settings_dict = {**connection.settings_dict, "AUTOCOMMIT": False}
        refresher._status_stored = float("-inf")
        refresher.refresh()
        assert connection.get_autocommit()

    decided(refresher, 5)
    ProcessStatus.objects.all().delete()
    apart(refresh)
    assert ProcessStatus.objects.count() == 1
    assert sum(row.kept for row in SamplingCount.objects.all()) == 5


def test_no_request_of_many_threads_fails_while_all_refresh(refresher: Any, make: Any) -> None:  # noqa: F811
    over = threading.Event()
    refreshers = [make() for _ in range(4)]
    failed: list[BaseException] = []

    def refresh(one: Any) -> None:
        while not over.is_set():
            decided(one)
            one._status_stored = float("-inf")
            one.refresh()

    def request() -> None:
        for _ in range(50):
            with transaction.atomic():
                rule = SamplingRule.objects.select_for_update().get(name="first")
                rule.order += 1
                rule.save()

    def guarded(run: Callable[..., None], *arguments: Any) -> None:
        try:
            run(*arguments)
        except BaseException as error:
            failed.append(error)
        finally:
            connections.close_all()

    for number, one in enumerate(refreshers):
        one._process = f"p{number}"
        one.refresh()
    telling = [threading.Thread(target=guarded, args=(refresh, one)) for one in refreshers]
    asking = [threading.Thread(target=guarded, args=(request,)) for _ in range(4)]
    for thread in telling + asking:
        thread.start()
    for thread in asking:
        thread.join()
    over.set()
    for thread in telling:
        thread.join()
    assert failed == []
    assert SamplingRule.objects.get(name="first").order == 200
