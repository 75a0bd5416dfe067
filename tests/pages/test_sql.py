"""Test the SQL of one trace."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest
from django.test import Client

from django_tracing.traces.readers.sqlite.store import LocalStore
from tests.pages.helpers import BLUEPRINT, SCRIPT, TRACES, content, repeated, words
from tests.traces.builders import row

pytestmark = pytest.mark.django_db

ADDRESS = f"{5:032x}/sql/"


def sql(text: str) -> list[str]:
    return [
        html.unescape(found) for found in re.findall(r'<pre class="tracing-sql"[^>]*>(.*?)</pre>', text, re.DOTALL)
    ]


def test_statements_in_full_counted_and_summed(root: Client, store: LocalStore) -> None:
    location = {"code.filepath": "shop/views.py", "code.lineno": 42, "code.function": "checkout"}
    store.write(repeated(12, **location))
    text = content(root, ADDRESS)
    shown = words(text)
    assert sql(text) == [
        "SELECT blueprints.id, blueprints.name, blueprints.owner_id FROM blueprints WHERE id = %s",
    ]
    assert "13 statements, 2 different, 13.0 ms in total · 11 duplicates" in shown
    assert "12 duplicate 12.0 ms slowest 1.00 ms" in shown
    assert "shop/views.py:42 in checkout" in shown
    # One that has no statement is named by its span.
    assert "db.select.owners" in shown
    # Each leads to its spans.
    assert f'<a href="../spans/{10:016x}/">+2.00 ms</a>' in text
    assert "11 more" in shown
    # The spans are one click away, and so is the SQL from there.
    assert f'href="{TRACES}{5:032x}/"' in text
    assert re.search(
        rf'href="{TRACES}{5:032x}/sql/">SQL\s*<span class="tracing-count">13', content(root, f"{5:032x}/")
    )


def test_connecting_is_listed_and_is_no_statement(root: Client, store: LocalStore) -> None:
    connect = {"operation.type": "database", "db.operation": "connect"}
    store.write([row(7, 1, 0, "GET /"), row(7, 2, 1, "db.connect", took=3, kind="client", attributes=connect)])
    select = {"operation.type": "database", "db.operation": "select", "db.statement": "SELECT 1"}
    store.write([row(7, number, 1, "db.select", took=2, kind="client", attributes=select) for number in (3, 4)])
    shown = words(content(root, f"{7:032x}/sql/"))
    assert "2 statements, 1 different, 7.00 ms in total · 1 duplicate" in shown
    assert "db.connect" in shown
    assert re.search(r'>SQL\s*<span class="tracing-count">2<', content(root, f"{7:032x}/"))


def test_a_trace_without_sql(root: Client, path: Path) -> None:
    store = LocalStore(path)
    store.write([row(5, 1, 0, "GET /")])
    store.close()
    assert "This trace has no SQL." in content(root, ADDRESS)


def test_a_trace_that_was_deleted(root: Client, store: LocalStore) -> None:
    assert "is not stored" in content(root, f"{'f' * 32}/sql/", status=404)


def test_whatever_is_stored_is_escaped(root: Client, store: LocalStore) -> None:
    hostile = {"db.system": SCRIPT, "db.name": SCRIPT, "db.statement": SCRIPT, "code.filepath": SCRIPT}
    store.write([row(5, 1, 0, SCRIPT, kind="client", service=SCRIPT, attributes=hostile)])
    text = content(root, ADDRESS)
    assert sql(text) == [SCRIPT]
    assert "<script" not in text


def test_a_page_of_hostile_statements_is_bounded(root: Client, store: LocalStore) -> None:
    store.write(
        [
            row(5, number, 0, "db.x", took=number, kind="client",
                attributes={"db.system": "x", "db.statement": f"{number} {'x' * 60_000}"})
            for number in range(1, 41)
        ]
    )  # fmt: skip
    text = content(root, ADDRESS)
    assert len(text) < 1_200_000
    assert len(sql(text)) == 20
    # The slowest is first, and the others are counted.
    assert sql(text)[0].startswith("40 x")
    assert sql(text)[0].endswith("x…")
    assert "20 more statements that took less are not shown: 210 ms in total." in words(text)


def test_many_statements_are_bounded(root: Client, store: LocalStore) -> None:
    store.write(
        [
            row(
                5, number, 0, "db.x", kind="client", attributes={"db.system": "x", "db.statement": f"SELECT {number}"}
            )
            for number in range(1, 1001)
        ]
    )
    text = content(root, ADDRESS)
    assert len(sql(text)) == 300
    assert "700 more statements that took less are not shown" in words(text)


def test_the_blueprint_has_one_statement(root: Client, store: LocalStore) -> None:
    assert sql(content(root, f"{BLUEPRINT}/sql/")) == []
