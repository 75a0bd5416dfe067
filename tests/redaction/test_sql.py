"""Test SQL in spans: no literals, one text for each kind of statement, the operation and the tables."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import import_module
from typing import Any, get_args

import pytest
from django.contrib.auth.models import Group, User
from django.contrib.postgres.search import SearchQuery, SearchRank, SearchVector
from django.db import connections
from django.db.models import (
    Case,
    Count,
    Exists,
    F,
    JSONField,
    OuterRef,
    Q,
    Subquery,
    Sum,
    Value,
    When,
    Window,
)
from django.db.models.functions import Cast, Concat, ExtractYear, Lower, RowNumber, Substr, TruncMonth
from hypothesis import assume, example, given
from hypothesis import strategies as st

from django_tracing.redaction import REDACTED, Dialect, Statement, describe_sql, dialect_of, sanitise_sql

DIALECTS: tuple[Dialect, ...] = get_args(Dialect)

# fmt: off
CASES: list[tuple[str, str, str, tuple[str, ...]]] = [
    # Strings
    ("SELECT 'secret'", "SELECT ?", "select", ()),
    ("SELECT 'it''s', 'b' FROM t", "SELECT ?, ? FROM t", "select", ("t",)),
    ("SELECT E'it\\'s secret', 1 FROM t", "SELECT ?, ? FROM t", "select", ("t",)),
    ("SELECT e'a\\\\', 'b' FROM t", "SELECT ?, ? FROM t", "select", ("t",)),
    ("SELECT E'a'\n 'b\\' c' FROM t", "SELECT ? FROM t", "select", ("t",)),
    ("SELECT U&'d\\0061t' UESCAPE '!' FROM t", "SELECT ? UESCAPE ? FROM t", "select", ("t",)),
    ("SELECT N'x', B'101', X'1F', x'1f' FROM t", "SELECT ?, ?, ?, ? FROM t", "select", ("t",)),
    ("SELECT _utf8'secret' FROM t", "SELECT _utf8? FROM t", "select", ("t",)),
    ("SELECT 'C:\\' AS path, 'b' FROM t", "SELECT ? AS path, ? FROM t", "select", ("t",)),
    ("SELECT $$it's$$, $tag$a $$ b$tag$ FROM t", "SELECT ?, ? FROM t", "select", ("t",)),
    ("SELECT $a$one$a$||$b$two$b$", "SELECT ?||?", "select", ()),
    ("SELECT 'a' 'b'", "SELECT ? ?", "select", ()),
    ("SELECT * FROM t WHERE a LIKE 'x%%' OR b LIKE '%%y'", "SELECT * FROM t WHERE a LIKE ? OR b LIKE ?", "select", ("t",)),
    ("SELECT 'never closed FROM t", "SELECT ?", "select", ()),
    ("SELECT E'never closed\\", "SELECT ?", "select", ()),
    ("SELECT $q$never closed FROM t", "SELECT ?", "select", ()),
    ('SELECT "never closed', 'SELECT "?"', "select", ()),
    ('SELECT "plain name", "it is ""2020""" FROM t', 'SELECT "plain name", "?" FROM t', "select", ("t",)),
    # Numbers
    ("SELECT 1, -2, +3, 4.5, .5, 5., 1e10, 1.5E-3, 0xFF, 0b11, 0o17, 1_000", "SELECT ?, -?, +?, ?, ?, ?, ?, ?, ?, ?, ?, ?", "select", ()),
    ("SELECT t1.c2, \"2fa\".x FROM t1, \"2fa\" WHERE t1.a=42", "SELECT t1.c2, \"2fa\".x FROM t1, \"2fa\" WHERE t1.a=?", "select", ("t1", "2fa")),
    ("SELECT flags#12, a&3, a<<4 FROM t", "SELECT flags#?, a&?, a<<? FROM t", "select", ("t",)),
    ("SELECT x[1:2], y[3] FROM t", "SELECT x[?:?], y[?] FROM t", "select", ("t",)),
    ("SELECT 12abc", "SELECT ?", "select", ()),
    ("SELECT 1e+5_000", "SELECT ?", "select", ()),
    # Casts and typed literals
    ("SELECT '2020-01-01'::date, 5::int FROM t", "SELECT ?::date, ?::int FROM t", "select", ("t",)),
    ("SELECT DATE '2020-01-01', INTERVAL '1 day', TIMESTAMP WITH TIME ZONE 'x'", "SELECT DATE ?, INTERVAL ?, TIMESTAMP WITH TIME ZONE ?", "select", ()),
    ("SELECT CAST('5' AS integer)", "SELECT CAST(? AS integer)", "select", ()),
    ("SELECT ARRAY[1,2,3], ARRAY['a', 'b']::text[]", "SELECT ARRAY[?], ARRAY[?]::text[]", "select", ()),
    ("SELECT '{1,2}'::int[], ROW(1, 'x')", "SELECT ?::int[], ROW(?, ?)", "select", ()),
    ("SELECT data->>'key', data->'a'->0 FROM t", "SELECT data->>?, data->?->? FROM t", "select", ("t",)),
    ("SELECT data#>>'{a,b}', data @> '{\"a\": 1}' FROM t", "SELECT data#>>?, data @> ? FROM t", "select", ("t",)),
    # Comments and white space
    ("SELECT 1 -- it's a secret\nFROM t", "SELECT ? FROM t", "select", ("t",)),
    ("/* route='/x' */ SELECT a/* 'b' */FROM t /* c", "SELECT a FROM t", "select", ("t",)),
    ("SELECT /* a /* b */ 'c' */ 1", "SELECT ?", "select", ()),
    ("  SELECT\n\t a\r\n FROM   t ; ", "SELECT a FROM t", "select", ("t",)),
    # Placeholders and lists
    ("SELECT * FROM t WHERE a = %s AND b = %(name)s AND c = $1 AND d = ? AND e = :e", "SELECT * FROM t WHERE a = %s AND b = %(name)s AND c = $1 AND d = ? AND e = :e", "select", ("t",)),
    ("SELECT * FROM t WHERE a IN (1, 2, 3) AND b IN ('x')", "SELECT * FROM t WHERE a IN (?) AND b IN (?)", "select", ("t",)),
    ("SELECT * FROM t WHERE a in (%s,%s, %s)", "SELECT * FROM t WHERE a in (%s)", "select", ("t",)),
    ("SELECT * FROM t WHERE a NOT IN (-1, NULL, $3, 'x'::uuid)", "SELECT * FROM t WHERE a NOT IN (-?)", "select", ("t",)),
    ("SELECT * FROM t WHERE (a, b) IN ((%s, %s), (%s, %s))", "SELECT * FROM t WHERE (a, b) IN ((%s, %s))", "select", ("t",)),
    ("INSERT INTO t (a, b) VALUES (1, 'x'), (2, 'y'), (3, 'z')", "INSERT INTO t (a, b) VALUES (?, ?)", "insert", ("t",)),
    ("INSERT INTO t (a) VALUES (%s), (%s) RETURNING t.id", "INSERT INTO t (a) VALUES (%s) RETURNING t.id", "insert", ("t",)),
    ("SELECT 10 %('secret')s", "SELECT ? %(?)s", "select", ()),
    # Values that are bare words, names that are values
    ("SET search_path TO secret, public", "SET search_path TO ?, ?", "set", ()),
    ("SET TIME ZONE 'Europe/Vienna'", "SET TIME ZONE ?", "set", ()),
    ("PRAGMA foreign_keys = ON", "PRAGMA foreign_keys = ?", "pragma", ()),
    ('SAVEPOINT "s140735_x12"', "SAVEPOINT ?", "savepoint", ()),
    ('RELEASE SAVEPOINT "s140735_x12"', "RELEASE SAVEPOINT ?", "release", ()),
    ("ROLLBACK TO SAVEPOINT s140735_x12", "ROLLBACK TO SAVEPOINT ?", "rollback", ()),
    # Operations
    ("BEGIN", "BEGIN", "begin", ()),
    ("COMMIT;", "COMMIT", "commit", ()),
    ("ROLLBACK", "ROLLBACK", "rollback", ()),
    ("(SELECT a FROM t) UNION (SELECT b FROM u)", "(SELECT a FROM t) UNION (SELECT b FROM u)", "select", ("t", "u")),
    ("EXPLAIN ANALYZE SELECT * FROM t", "EXPLAIN ANALYZE SELECT * FROM t", "explain", ("t",)),
    ("EXPLAIN (ANALYZE, BUFFERS) UPDATE t SET a = 1", "EXPLAIN (ANALYZE, BUFFERS) UPDATE t SET a = ?", "explain", ("t",)),
    ("CALL make_report(1, 'x')", "CALL make_report(?, ?)", "call", ()),
    ("", "", "unknown", ()),
    ("-- nothing", "", "unknown", ()),
    ("'a'", "?", "unknown", ()),
    ("vacuum_2 'x'", "vacuum_2 ?", "vacuum_", ()),
    # WITH
    ("WITH x AS (SELECT a FROM t) SELECT * FROM x, u", "WITH x AS (SELECT a FROM t) SELECT * FROM x, u", "select", ("t", "u")),
    ("WITH RECURSIVE x(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM x WHERE n < 9), Y AS NOT MATERIALIZED (SELECT 1) INSERT INTO z SELECT * FROM x JOIN y ON TRUE", "WITH RECURSIVE x(n) AS (SELECT ? UNION ALL SELECT n+? FROM x WHERE n < ?), Y AS NOT MATERIALIZED (SELECT ?) INSERT INTO z SELECT * FROM x JOIN y ON TRUE", "insert", ("z",)),
    ("WITH gone AS (DELETE FROM t RETURNING *) SELECT count(*) FROM gone", "WITH gone AS (DELETE FROM t RETURNING *) SELECT count(*) FROM gone", "select", ("t",)),
    ("WITH x AS (UPDATE t SET a = 1 RETURNING id) UPDATE u SET b = 2 FROM x", "WITH x AS (UPDATE t SET a = ? RETURNING id) UPDATE u SET b = ? FROM x", "update", ("t", "u")),
    ("INSERT INTO t WITH x AS (SELECT 1 FROM u) SELECT * FROM x", "INSERT INTO t WITH x AS (SELECT ? FROM u) SELECT * FROM x", "insert", ("t", "u")),
    ("SELECT * FROM (WITH x AS (SELECT 1 FROM u) SELECT * FROM x) s", "SELECT * FROM (WITH x AS (SELECT ? FROM u) SELECT * FROM x) s", "select", ("u",)),
    # Tables
    ('SELECT "b"."id" FROM "public"."blueprints" "b" INNER JOIN "auth_user" U1 ON (U1."id" = "b"."user_id")', 'SELECT "b"."id" FROM "public"."blueprints" "b" INNER JOIN "auth_user" U1 ON (U1."id" = "b"."user_id")', "select", ("public.blueprints", "auth_user")),
    ("SELECT * FROM a AS x, b y, a z WHERE x.i = y.i ORDER BY x.i, y.i", "SELECT * FROM a AS x, b y, a z WHERE x.i = y.i ORDER BY x.i, y.i", "select", ("a", "b")),
    ("SELECT * FROM (a JOIN b USING (i, j)), LATERAL (SELECT 1 FROM c) d, ONLY e", "SELECT * FROM (a JOIN b USING (i, j)), LATERAL (SELECT ? FROM c) d, ONLY e", "select", ("a", "b", "c", "e")),
    ("SELECT * FROM generate_series(1, 3) g, t", "SELECT * FROM generate_series(?, ?) g, t", "select", ("t",)),
    ("SELECT * FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.x = t.x), v", "SELECT * FROM t WHERE EXISTS (SELECT ? FROM u WHERE u.x = t.x), v", "select", ("t", "u")),
    ("SELECT EXTRACT(year FROM ts), SUBSTRING(x FROM 1 FOR 2), TRIM(BOTH FROM x), OVERLAY(a PLACING b FROM 1) FROM t", "SELECT EXTRACT(year FROM ts), SUBSTRING(x FROM ? FOR ?), TRIM(BOTH FROM x), OVERLAY(a PLACING b FROM ?) FROM t", "select", ("t",)),
    ("SELECT * FROM t WHERE a IS DISTINCT FROM b AND c IS NOT DISTINCT FROM d", "SELECT * FROM t WHERE a IS DISTINCT FROM b AND c IS NOT DISTINCT FROM d", "select", ("t",)),
    ("SELECT * FROM t FOR UPDATE OF t SKIP LOCKED", "SELECT * FROM t FOR UPDATE OF t SKIP LOCKED", "select", ("t",)),
    ("SELECT * FROM t FOR NO KEY UPDATE", "SELECT * FROM t FOR NO KEY UPDATE", "select", ("t",)),
    ("SELECT a INTO u FROM t", "SELECT a INTO u FROM t", "select", ("u", "t")),
    ("INSERT INTO t (a) VALUES (1) ON CONFLICT (a) DO UPDATE SET a = EXCLUDED.a", "INSERT INTO t (a) VALUES (?) ON CONFLICT (a) DO UPDATE SET a = EXCLUDED.a", "insert", ("t",)),
    ("INSERT INTO t (a) SELECT b FROM u", "INSERT INTO t (a) SELECT b FROM u", "insert", ("t", "u")),
    ("UPDATE t SET a = u.b FROM u, v WHERE t.i = u.i", "UPDATE t SET a = u.b FROM u, v WHERE t.i = u.i", "update", ("t", "u", "v")),
    ("UPDATE ONLY t SET a = %s", "UPDATE ONLY t SET a = %s", "update", ("t",)),
    ("DELETE FROM t USING u, v WHERE t.i = u.i", "DELETE FROM t USING u, v WHERE t.i = u.i", "delete", ("t", "u", "v")),
    ("MERGE INTO t USING s ON t.i = s.i WHEN MATCHED THEN UPDATE SET a = 1", "MERGE INTO t USING s ON t.i = s.i WHEN MATCHED THEN UPDATE SET a = ?", "merge", ("t", "s")),
    ("TRUNCATE TABLE a, \"b\" RESTART IDENTITY CASCADE", "TRUNCATE TABLE a, \"b\" RESTART IDENTITY CASCADE", "truncate", ("a", "b")),
    ("COPY t (a, b) FROM STDIN", "COPY t (a, b) FROM STDIN", "copy", ("t",)),
    ("COPY (SELECT a FROM t) TO STDOUT WITH (FORMAT csv, DELIMITER ';')", "COPY (SELECT a FROM t) TO STDOUT WITH (FORMAT csv, DELIMITER ?)", "copy", ("t",)),
    ("CREATE TABLE IF NOT EXISTS t (a varchar(10) DEFAULT 'x')", "CREATE TABLE IF NOT EXISTS t (a varchar(?) DEFAULT ?)", "create", ("t",)),
    ("CREATE UNIQUE INDEX CONCURRENTLY i ON t (a) WHERE b = 'x'", "CREATE UNIQUE INDEX CONCURRENTLY i ON t (a) WHERE b = ?", "create", ("t",)),
    ("ALTER TABLE ONLY t ADD COLUMN a int DEFAULT 7", "ALTER TABLE ONLY t ADD COLUMN a int DEFAULT ?", "alter", ("t",)),
    ("DROP TABLE IF EXISTS s.t CASCADE", "DROP TABLE IF EXISTS s.t CASCADE", "drop", ("s.t",)),
    ("SELECT * FROM events_20240131", "SELECT * FROM events_20240131", "select", ("events_*",)),
    ("SELECT * FROM [dbo].[My Table] x", "SELECT * FROM [dbo].[My Table] x", "select", ("dbo.My Table",)),
    ("SELECT * FROM a, b, c, d, e, f, g, h, i, j, k", "SELECT * FROM a, b, c, d, e, f, g, h, i, j, k", "select", tuple("abcdefghij")),
    ("SELECT * FROM", "SELECT * FROM", "select", ()),
    ("CREATE ON", "CREATE ON", "create", ()),
]

MYSQL_CASES: list[tuple[str, str, tuple[str, ...]]] = [
    ('SELECT "secret", \'it\\\'s\' FROM `t`', "SELECT ?, ? FROM `t`", ("t",)),
    ('SELECT "a""b\\"c" # it\'s\nFROM t', "SELECT ? FROM t", ("t",)),
    ("SELECT a#secret's\n, 'x' FROM t", "SELECT a , ? FROM t", ("t",)),
    ("SELECT 5--'secret'", "SELECT ?- -?", ()),
    ("SELECT 5 -- 'secret'", "SELECT ?", ()),
    ("SELECT 'ends in \\", "SELECT ?", ()),
    ("/* /* */ SELECT 'x'", "SELECT ?", ()),
    ("SELECT * FROM `d b`.`t``x`", "SELECT * FROM `d b`.`?`", ()),
    ("INSERT INTO t (`a`) VALUES ('x') ON DUPLICATE KEY UPDATE a = 'y'", "INSERT INTO t (`a`) VALUES (?) ON DUPLICATE KEY UPDATE a = ?", ("t",)),
]
# fmt: on


@pytest.mark.parametrize(("sql", "text", "operation", "tables"), CASES, ids=[case[0][:40] for case in CASES])
def test_hard_cases(sql: str, text: str, operation: str, tables: tuple[str, ...]) -> None:
    assert describe_sql(sql, "postgresql") == Statement(text, operation, tables)
    assert sanitise_sql(sql, dialect="postgresql") == text
    assert sanitise_sql(text, dialect="postgresql") == text


@pytest.mark.parametrize(("sql", "text", "tables"), MYSQL_CASES, ids=[case[0][:40] for case in MYSQL_CASES])
def test_mysql_writes_strings_in_double_quotes_and_escapes_by_backslash(
    sql: str, text: str, tables: tuple[str, ...]
) -> None:
    statement = describe_sql(sql, dialect="mysql-escapes")
    assert (statement.text, statement.tables) == (text, tables)
    assert sanitise_sql(sql, dialect="mysql-escapes") == text
    assert sanitise_sql(text, dialect="mysql-escapes") == text


# ----- No literal survives

TEMPLATES = [
    "SELECT {}",
    "SELECT {}::text, {} AS x FROM t WHERE a = {} AND b > {}",
    "SELECT * FROM t WHERE a IN ({}, {},{}) OR b BETWEEN {} AND {}",
    "SELECT * FROM t WHERE (a, b) IN (({}, {}), ({}, {}))",
    "SELECT * FROM t WHERE a = ANY(ARRAY[{}, {}]) LIMIT {} OFFSET {}",
    "SELECT data->>{} FROM t WHERE f({}, g({})) = -{}",
    "INSERT INTO t (a, b) VALUES ({}, {}), ({}, {}) RETURNING id",
    "UPDATE t SET a={}, b = b + {} WHERE id={}",
    "DELETE FROM t WHERE a LIKE {} /* {} */ -- {}",
    "WITH x AS (SELECT {} FROM t) SELECT * FROM x WHERE y = CAST({} AS date)",
    "CALL p({}, {});",
    "SELECT CASE WHEN a = {} THEN {} ELSE {} END FROM t",
    "SET x = {}",
    "SELECT DATE {}, INTERVAL {} FROM t",
    "CREATE TABLE t (a text DEFAULT {}, CHECK (a <> {}))",
]
Quoting = Callable[[str], str]


def _standard(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _escaped(value: str) -> str:
    return "E'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _dollars(value: str) -> str:
    return f"$tag${value.replace('$tag$', '')}$tag$"


QUOTINGS: list[Quoting] = [
    _standard,
    _escaped,
    _dollars,
    lambda value: f"$${value.replace('$', '')}$$",
    lambda value: "N" + _standard(value),
    lambda value: "U&" + _standard(value),
    lambda value: _standard(value) + "::jsonb",
    lambda value: "_utf8" + _standard(value),
    lambda value: _standard("a") + "\n" + _standard(value),
]
MYSQL_QUOTINGS: list[Quoting] = [
    lambda value: "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'",
    lambda value: "'" + value.replace("\\", "\\\\").replace("'", "''") + "'",
    lambda value: '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"',
    lambda value: '"' + value.replace("\\", "\\\\").replace('"', '""') + '"',
    lambda value: "N'" + value.replace("\\", "\\\\").replace("'", "''") + "'",
]
#: Planted inside each value; no template and no sanitized text contains it otherwise.
MARKER = "zqx"
AROUND = st.text(alphabet=st.sampled_from("ab1 '\"\\$%`#-/*();:,\n?{}[]é%s"), max_size=12)


@given(data=st.data(), template=st.sampled_from(TEMPLATES), value=st.tuples(AROUND, AROUND))
def test_no_string_survives(data: Any, template: str, value: tuple[str, str]) -> None:
    literal = f"{value[0]}{MARKER}{value[1]}"
    # In the template's comments, a quoted value is not a literal: the end of a comment would end it.
    if "/*" in template:
        assume("*/" not in literal and "/*" not in literal and "\n" not in literal)
        quotings = QUOTINGS[:-1]
    else:
        quotings = QUOTINGS
    sql = template.format(*[data.draw(st.sampled_from(quotings))(literal) for _ in range(template.count("{}"))])
    text = sanitise_sql(sql, dialect="postgresql")
    assert MARKER not in text
    statement = describe_sql(sql, "postgresql")
    assert statement.text == text
    assert not any(MARKER in table for table in statement.tables)
    assert sanitise_sql(text, dialect="postgresql") == text


@given(data=st.data(), template=st.sampled_from(TEMPLATES), value=st.tuples(AROUND, AROUND))
def test_no_mysql_string_survives(data: Any, template: str, value: tuple[str, str]) -> None:
    literal = f"{value[0]}{MARKER}{value[1]}"
    if "/*" in template:
        assume("*/" not in literal and "\n" not in literal)
    quoted = [data.draw(st.sampled_from(MYSQL_QUOTINGS))(literal) for _ in range(template.count("{}"))]
    text = sanitise_sql(template.format(*quoted), dialect="mysql-escapes")
    assert MARKER not in text
    assert sanitise_sql(text, dialect="mysql-escapes") == text


NUMBERS = st.one_of(
    st.integers(min_value=100).map(str),
    st.integers(min_value=100).map(lambda number: f"{number:_}"),
    st.integers(min_value=100).map(hex),
    st.floats(min_value=100, allow_infinity=False).map(repr),
    st.floats(min_value=100, max_value=1e9).map(lambda number: f"{number:.3e}"),
    st.decimals(min_value=100, max_value=10**9, places=4).map(str),
    st.dates().map(lambda date: f"'{date}'::date"),
    st.uuids().map(lambda uuid: f"'{uuid}'::uuid"),
)


@given(data=st.data(), template=st.sampled_from(TEMPLATES), dialect=st.sampled_from(DIALECTS))
def test_no_number_survives(data: Any, template: str, dialect: Dialect) -> None:
    sql = template.format(*[data.draw(NUMBERS) for _ in range(template.count("{}"))])
    text = sanitise_sql(sql, dialect=dialect)
    assert not any(character.isdigit() for character in text)
    assert sanitise_sql(text, dialect=dialect) == text


@given(st.text(alphabet=st.sampled_from("ab1 '\"\\$%`#-/*();:,.\n?{}[]EUNBXq_&@é"), max_size=60))
@example("$a$'$a$'x'")
@example("E'\\''x'")
@example("q'['']'x'")
@example('"a"')
@example("--#")
@example("5--/**/1")
@example("SELECT [a]]b] [it's]")
@example("a//#b\n/*! /* */ */")
@example("SET ROLE a IDENTIFIED BY b, c")
def test_sanitizing_twice_changes_nothing(sql: str) -> None:
    for dialect in DIALECTS:
        text = sanitise_sql(sql, dialect=dialect)
        assert text != REDACTED
        assert sanitise_sql(text, dialect=dialect) == text
        assert describe_sql(sql, dialect) != Statement(REDACTED, "unknown", ())


# ----- Lengths


def test_text_is_cut_after_literals_were_removed() -> None:
    sql = "SELECT '" + "secret " * 1000 + "', " + ", ".join(f"column_{letter}" for letter in "abcdefgh" * 100)
    text = sanitise_sql(sql, max_length=60)
    assert len(text) == 60
    assert text.startswith("SELECT ?, column_a, column_b") and text.endswith("…")
    assert "secret" not in text
    assert len(describe_sql(sql).text) == 2000


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO t (a, b) VALUES " + ", ".join(["(%s, %s)"] * 5000),
        "INSERT INTO t (a, b) VALUES " + ", ".join(f"({number}, '{number}')" for number in range(5000)),
        "INSERT INTO t (a, b) VALUES " + ", ".join(["(?, ?)"] * 20000),
    ],
    ids=["placeholders", "literals", "more than is read"],
)
def test_a_bulk_insert_is_shown_like_a_small_one(sql: str) -> None:
    statement = describe_sql(sql)
    assert statement.text.startswith(("INSERT INTO t (a, b) VALUES (%s, %s)", "INSERT INTO t (a, b) VALUES (?, ?)"))
    assert len(statement.text) < 60
    assert (statement.operation, statement.tables) == ("insert", ("t",))


def test_a_long_in_list_is_shown_like_a_short_one_and_the_rest_is_kept() -> None:
    sql = f"SELECT * FROM t WHERE a IN ({', '.join(['%s'] * 20000)}) AND b IN (SELECT c FROM u)"
    statement = describe_sql(sql)
    assert statement.text == "SELECT * FROM t WHERE a IN (%s) AND b IN (SELECT c FROM u)"
    assert statement.tables == ("t", "u")


@pytest.mark.parametrize("quote", ["'", "E'", "$x$", "N'", "/*", "--", "q'["])
@pytest.mark.parametrize("dialect", ["postgresql", "unknown"])
def test_a_literal_beyond_the_limit_is_removed_completely(quote: str, dialect: Dialect) -> None:
    assert MARKER not in sanitise_sql(f"SELECT a, {quote}{MARKER * 200_000}", dialect=dialect)


HOSTILE = [
    "'",
    "(",
    "[",
    "%(",
    "$a",
    "/*",
    "--",
    '"',
    "E'",
    "E'\\n",
    "'\\",
    "q'[",
    "1e",
    "IN(%s,",
    "IN(",
    "VALUES(a),",
    "with(",
    "a,(",
    ":a",
    "::",
    "(?),",
    "\\",
    "`",
    "#",
    "\n",
]


@pytest.mark.parametrize("unit", HOSTILE)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_takes_linear_time(unit: str, dialect: Dialect) -> None:
    """CPU time, the smallest of three: eight times the text may take eight times as long, not sixty-four times."""

    def cost(length: int) -> float:
        sql = (unit * length)[:length]
        times = []
        for _ in range(3):
            start = time.thread_time()
            sanitise_sql(sql, dialect=dialect)
            times.append(time.thread_time() - start)
        return min(times)

    assert cost(9600) < 32 * max(cost(1200), 0.00005)
    # Longer text is not read to its end.
    assert len(sanitise_sql(unit * 500_000, dialect=dialect)) <= 2000


@pytest.mark.parametrize("value", [None, 5, object(), b"SELECT 'secret'", ["SELECT 'secret'"]])
def test_unreadable_values_are_redacted(value: Any) -> None:
    assert describe_sql(value) == Statement(REDACTED, "unknown", ())
    assert sanitise_sql(value) == REDACTED


# ----- SQL of Django


@pytest.fixture(params=["sqlite3", "postgresql"])
def connection(request: pytest.FixtureRequest) -> Any:
    """Return a connection that compiles SQL for a vendor, without a database."""
    backend = import_module(f"django.db.backends.{request.param}.base")
    return backend.DatabaseWrapper({**connections["default"].settings_dict, "NAME": ":memory:"}, alias="compiled")


def _groups() -> Any:
    return Group.objects.filter(user=OuterRef("pk"), name=f"{MARKER}1").values("name")


QUERIES: dict[str, tuple[Callable[[Any], Any], set[str]]] = {
    "filter": (lambda users: users.filter(username=MARKER, id__in=[77, 78, 79]), {"auth_user"}),
    "like": (
        lambda users: users.filter(Q(email__icontains=f"{MARKER}%'") | ~Q(first_name__startswith=MARKER)),
        {"auth_user"},
    ),
    "join": (
        lambda users: users.filter(groups__name=MARKER).distinct().order_by("-date_joined")[77:87],
        {"auth_user", "auth_user_groups", "auth_group"},
    ),
    "exclude": (lambda users: users.exclude(groups=777).only("id"), {"auth_user", "auth_user_groups"}),
    "aggregate": (
        lambda users: users.values("is_staff").annotate(n=Count("id"), s=Sum("id")).filter(n__gt=777),
        {"auth_user"},
    ),
    "F": (lambda users: users.filter(last_login__lt=F("date_joined"), id__gt=F("id") - 777), {"auth_user"}),
    "subquery": (
        lambda users: users.annotate(g=Subquery(_groups()[:1])).filter(g=MARKER),
        {"auth_group", "auth_user_groups", "auth_user"},
    ),
    "exists": (lambda users: users.filter(Exists(_groups())), {"auth_user", "auth_group", "auth_user_groups"}),
    "window": (
        lambda users: users.annotate(r=Window(RowNumber(), partition_by=F("is_staff"))).filter(r__lte=777),
        {"auth_user"},
    ),
    "case": (
        lambda users: users.annotate(c=Case(When(username=MARKER, then=Value(777)), default=0)),
        {"auth_user"},
    ),
    "dates": (
        lambda users: users.annotate(
            y=ExtractYear("date_joined"), m=TruncMonth("date_joined"), s=Substr("email", 77, 7)
        ),
        {"auth_user"},
    ),
    "functions": (
        lambda users: users.annotate(x=Lower(Concat("username", Value(MARKER)))).filter(x=MARKER),
        {"auth_user"},
    ),
    "union": (lambda users: users.filter(id=777).union(User.objects.filter(username=MARKER)), {"auth_user"}),
    "json": (
        lambda users: users.annotate(j=Cast("email", JSONField())).filter(j__zqx__0=777, j__has_key=MARKER),
        {"auth_user"},
    ),
    "search": (
        lambda users: users.annotate(
            v=SearchVector("username", "email", config="english"), r=SearchRank("v", SearchQuery(MARKER))
        ).filter(v=SearchQuery(f"{MARKER} & x", search_type="raw")),
        {"auth_user"},
    ),
}


@pytest.mark.parametrize("name", QUERIES)
def test_sql_of_django(name: str, connection: Any) -> None:
    if name == "search" and connection.vendor != "postgresql":
        pytest.skip("only PostgreSQL has full text search")
    query, tables = QUERIES[name]
    sql, parameters = query(User.objects.all()).query.get_compiler(connection=connection).as_sql()
    # As Django sends it, and as a client sends it that inserts the values.
    quoted = [
        _standard(value)
        if isinstance(value, str)
        else repr(value)
        if isinstance(value, int)
        else _standard(str(value))
        for value in parameters
    ]
    for text in (sql, sql % tuple(quoted)):
        # A backend of another vendor that quotes names in this way produces the same.
        for dialect in (dialect_of(connection.vendor), "names-in-double-quotes"):
            statement = describe_sql(text, dialect)
            assert statement.operation == "select"
            assert MARKER not in statement.text and "777" not in statement.text
            assert sanitise_sql(statement.text, dialect=dialect) == statement.text
            if "\\" not in text or dialect == connection.vendor:
                assert set(statement.tables) == tables


@pytest.mark.parametrize("name", QUERIES)
def test_the_same_query_with_other_values_has_the_same_text(name: str, connection: Any) -> None:
    if name == "search" and connection.vendor != "postgresql":
        pytest.skip("only PostgreSQL has full text search")
    query, _ = QUERIES[name]
    sql, parameters = query(User.objects.all()).query.get_compiler(connection=connection).as_sql()
    texts = {
        sanitise_sql(
            sql % tuple([_standard(f"{value}{extra}") for value in parameters]), dialect=dialect_of(connection.vendor)
        )
        for extra in "ab'"
    }
    assert len(texts) == 1
