"""Test the SQL of a trace."""

from __future__ import annotations

from typing import Any

from django_tracing.traces.analysis.statements import statements
from django_tracing.traces.model import Span
from tests.traces.builders import MS


def span(number: int, text: str = "", name: str = "db.select.x", took: int = 1, **attributes: Any) -> Span:
    failed = attributes.pop("failed", False)
    service = attributes.pop("service", "shop")
    return Span(
        trace_id="1" * 32,
        span_id=f"{number:016x}",
        parent_id="",
        name=name,
        kind="client",
        service=service,
        start=number * MS,
        end=(number + took) * MS,
        status="error" if failed else "unset",
        attributes={"db.system": "postgresql", **({"db.statement": text} if text else {}), **attributes},
    )


def test_statements_are_counted_and_summed() -> None:
    one, two = statements(
        [
            span(1, "SELECT 1", took=2, **{"db.rows": 3, "code.filepath": "a.py", "code.lineno": 1}),
            span(2, "SELECT 2", took=4),
            span(3, "SELECT 1", took=5, failed=True, **{"db.rows": 4, "code.filepath": "b.py"}),
        ]
    )
    assert (one.text, one.count, one.time, one.slowest, one.failed) == ("SELECT 1", 2, 7 * MS, 5 * MS, 1)
    assert (one.rows, one.locations, one.duplicate) == (7, ["a.py:1", "b.py"], True)
    assert [found.span_id for found in one.spans] == [f"{1:016x}", f"{3:016x}"]
    assert (two.text, two.count, two.rows, two.duplicate) == ("SELECT 2", 1, None, False)


def test_the_same_words_for_another_database_or_from_another_service_are_another_statement() -> None:
    found = statements(
        [
            span(1, "SELECT 1"),
            span(2, "SELECT 1", **{"db.name": "other"}),
            span(3, "SELECT 1", service="billing"),
        ]
    )
    assert [statement.count for statement in found] == [1, 1, 1]


def test_operations_without_a_statement_are_counted_by_name_and_are_no_duplicates() -> None:
    commit, rollback = statements([span(1, name="db.commit"), span(2, name="db.commit"), span(3, name="db.rollback")])
    assert (commit.name, commit.text, commit.count, commit.duplicate) == ("db.commit", "", 2, False)
    assert rollback.count == 1


def test_what_is_no_sql_is_left_out() -> None:
    other = Span("1" * 32, "1" * 16, "", "x", "client", "shop", 0, 1, attributes={"db.system": "redis"})
    assert statements([other]) == []


def test_a_statement_keeps_a_few_of_many_spans() -> None:
    (found,) = statements(
        [span(number, "SELECT 1", **{"code.filepath": f"{number}.py", "db.rows": "x"}) for number in range(1, 1000)]
    )
    assert (found.count, len(found.spans), len(found.locations), found.rows) == (999, 10, 10, None)
