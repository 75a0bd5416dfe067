"""The operation of a statement and the tables it names, by vendor."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from django_tracing.redaction import Dialect, describe_sql
from django_tracing.redaction.dialects import tokens_of, words_outside
from tests.work_counter import growth

#: Statement, dialect, operation, tables.
CASES: list[tuple[str, Dialect, str, tuple[str, ...]]] = [
    ("REFRESH MATERIALIZED VIEW v", "postgresql", "refresh", ("v",)),
    ("REFRESH MATERIALIZED VIEW CONCURRENTLY s.v WITH NO DATA", "postgresql", "refresh", ("s.v",)),
    # ANALYZE and VACUUM
    ("ANALYZE t", "postgresql", "analyze", ("t",)),
    ("ANALYZE", "postgresql", "analyze", ()),
    ('ANALYZE VERBOSE t (a, b), "u"', "postgresql", "analyze", ("t", "u")),
    ("ANALYZE (VERBOSE, BUFFER_USAGE_LIMIT '1 GB') t", "postgresql", "analyze", ("t",)),
    ("ANALYZE NO_WRITE_TO_BINLOG TABLE t, u", "mysql", "analyze", ("t", "u")),
    ("ANALYZE FORMAT=JSON SELECT * FROM t", "mysql", "analyze", ("t",)),
    ("ANALYZE UPDATE t SET a = 1", "mysql", "analyze", ("t",)),
    ("EXPLAIN ANALYZE SELECT * FROM t", "postgresql", "explain", ("t",)),
    ("EXPLAIN (COSTS OFF) UPDATE t SET a = 1 FROM u", "postgresql", "explain", ("t", "u")),
    ("EXPLAIN FORMAT=JSON DELETE FROM t", "mysql", "explain", ("t",)),
    ("VACUUM t", "postgresql", "vacuum", ("t",)),
    ("VACUUM", "sqlite", "vacuum", ()),
    ("VACUUM FULL FREEZE VERBOSE ANALYZE t (a), u", "postgresql", "vacuum", ("t", "u")),
    ("VACUUM (FULL, ANALYZE) t", "postgresql", "vacuum", ("t",)),
    ("VACUUM INTO 'copy.sqlite3'", "sqlite", "vacuum", ()),
    # LOCK
    ("LOCK t", "postgresql", "lock", ("t",)),
    ("LOCK TABLE ONLY t, u IN ACCESS EXCLUSIVE MODE NOWAIT", "postgresql", "lock", ("t", "u")),
    ("LOCK TABLES t READ, u AS x WRITE", "mysql", "lock", ("t", "u")),
    ("LOCK INSTANCE FOR BACKUP", "mysql", "lock", ()),
    ("UNLOCK TABLES", "mysql", "unlock", ()),
    # TABLE
    ("TABLE t", "postgresql", "table", ("t",)),
    ("TABLE a UNION ALL TABLE s.b ORDER BY 1", "postgresql", "table", ("a", "s.b")),
    ("WITH x AS (SELECT * FROM t) TABLE x", "postgresql", "table", ("t",)),
    ("SELECT * FROM (TABLE t) AS x", "postgresql", "select", ("t",)),
    ("INSERT INTO t TABLE u", "mysql", "insert", ("t", "u")),
    ("CREATE TABLE a AS TABLE b", "postgresql", "create", ("a", "b")),
    # INSERT, REPLACE, MERGE and DELETE without INTO and FROM
    ("INSERT t VALUES (1)", "mysql", "insert", ("t",)),
    ("INSERT s.t (a) SELECT a FROM u", "mysql", "insert", ("s.t", "u")),
    ("INSERT LOW_PRIORITY IGNORE t SET a = 1", "mysql", "insert", ("t",)),
    ("REPLACE DELAYED t VALUES (1)", "mysql", "replace", ("t",)),
    ("INSERT OR REPLACE INTO t VALUES (1)", "sqlite", "insert", ("t",)),
    ("INSERT [t] VALUES (1)", "mssql", "insert", ("t",)),
    ("MERGE t USING s ON t.a = s.a WHEN MATCHED THEN UPDATE SET a = 1", "mssql", "merge", ("t", "s")),
    ("DELETE t WHERE a = 1", "oracle", "delete", ("t",)),
    ("DELETE a, b.* FROM t AS a JOIN u AS b", "mysql", "delete", ("t", "u")),
    ("DELETE a FROM t AS a WHERE a.x = 1", "mssql", "delete", ("t",)),
    ("SELECT REPLACE(a, 'x', b), INSERT(c, 1, 2, 'y') FROM t", "mysql", "select", ("t",)),
    ("SELECT max(a) replace FROM t", "postgresql", "select", ("t",)),
    ("DELETE FROM a USING b JOIN c USING (x), d WHERE a.y = b.y", "postgresql", "delete", ("a", "b", "c", "d")),
    ("DELETE a FROM a LEFT JOIN b USING (x)", "mysql", "delete", ("a", "b")),
    ("DELETE LOW_PRIORITY QUICK IGNORE FROM t", "mysql", "delete", ("t",)),
    # UPDATE
    ("UPDATE a, b SET a.x = b.x", "mysql", "update", ("a", "b")),
    ("UPDATE a JOIN b ON a.id = b.id, c SET a.x = 1, b.x = 2", "mysql", "update", ("a", "b", "c")),
    ("UPDATE (a, b) SET a.x = 1", "mysql", "update", ("a", "b")),
    ("UPDATE a, (SELECT * FROM b) AS c SET a.x = 1", "mysql", "update", ("a", "b")),
    ("UPDATE t SET a = 1, b = 2 FROM u, v", "postgresql", "update", ("t", "u", "v")),
    ("UPDATE OR IGNORE t SET a = 1", "sqlite", "update", ("t",)),
    ("UPDATE TOP (10) t SET a = 1", "mssql", "update", ("t",)),
    ("UPDATE TOP ((@n)) PERCENT t SET a = 1", "mssql", "update", ("t",)),
    ("DELETE TOP (10) FROM t", "mssql", "delete", ("t",)),
    ("INSERT TOP (10) INTO t SELECT * FROM u", "mssql", "insert", ("t", "u")),
    ("SELECT * FROM t FOR UPDATE OF u", "postgresql", "select", ("t",)),
    ("INSERT INTO t VALUES (1) ON DUPLICATE KEY UPDATE a = 1, b = 2", "mysql", "insert", ("t",)),
    ("INSERT t SELECT * FROM u ON DUPLICATE KEY UPDATE a = 1, b = 2", "mysql", "insert", ("t", "u")),
    ("INSERT INTO t SELECT * FROM u ON CONFLICT DO UPDATE SET a = 1, b = 2", "postgresql", "insert", ("t", "u")),
    # STRAIGHT_JOIN
    ("SELECT * FROM a STRAIGHT_JOIN b ON a.x = b.x", "mysql", "select", ("a", "b")),
    ("SELECT * FROM a NATURAL STRAIGHT_JOIN (b, c)", "mysql", "select", ("a", "b", "c")),
    ("UPDATE a STRAIGHT_JOIN b SET a.x = 1", "mysql", "update", ("a", "b")),
    ("SELECT STRAIGHT_JOIN x, y FROM a, b", "mysql", "select", ("a", "b")),
    # FROM that leads to no table
    ("REVOKE admin FROM alice", "postgresql", "revoke", ()),
    ("REVOKE SELECT, UPDATE (a), DELETE ON ALL TABLES IN SCHEMA s FROM alice, bob", "postgresql", "revoke", ()),
    ("GRANT SELECT ON SEQUENCE x TO alice", "postgresql", "grant", ()),
    ("ALTER DEFAULT PRIVILEGES REVOKE SELECT ON TABLES FROM alice", "postgresql", "alter", ()),
    ("FETCH 1 FROM cursor", "postgresql", "fetch", ()),
    ("FETCH NEXT FROM c INTO @x, @y", "mssql", "fetch", ()),
    ("MOVE FORWARD 1 FROM c", "postgresql", "move", ()),
    ("DECLARE c CURSOR FOR SELECT * FROM t", "postgresql", "declare", ("t",)),
    ("CREATE TABLE p PARTITION OF q FOR VALUES FROM (MINVALUE) TO (1)", "postgresql", "create", ("p",)),
    ("CREATE STATISTICS x ON a, b FROM t", "postgresql", "create", ("t",)),
    ("CREATE EXTENSION x FROM unpackaged", "postgresql", "create", ()),
    ("IMPORT FOREIGN SCHEMA s FROM SERVER x INTO y", "postgresql", "import", ()),
    ("SHOW TABLES FROM db", "mysql", "show", ()),
    ("SHOW FULL COLUMNS FROM t FROM db", "mysql", "show", ("t",)),
    ("SELECT a INTO OUTFILE '/tmp/x' FROM t", "mysql", "select", ("t",)),
    ("SELECT extract(year FROM a), substring(b from 1), trim(both from c) FROM t", "postgresql", "select", ("t",)),
    ("SELECT extract(year FROM (SELECT a FROM t))", "postgresql", "select", ("t",)),
    # functions as tables
    ("SELECT * FROM ROWS FROM (f())", "postgresql", "select", ()),
    ("SELECT * FROM ROWS FROM (f(1), g(2) AS (a int, b text)) WITH ORDINALITY, t", "postgresql", "select", ("t",)),
    ("SELECT * FROM a LEFT JOIN LATERAL ROWS FROM (f(a.x)) AS b ON true", "postgresql", "select", ("a",)),
    # names
    ("SELECT [from], [order by] FROM t", "mssql", "select", ("t",)),
    ("SELECT [from], t.[update], [order from x] FROM [my t], u", "unknown", "select", ("my t", "u")),
    ("SELECT t.from, t.join FROM t, u", "mysql", "select", ("t", "u")),
    ("SELECT @from = a FROM t", "mssql", "select", ("t",)),
    ("SELECT ARRAY[a, b], c[1] FROM t", "postgresql", "select", ("t",)),
    ("SELECT * FROM db..t", "mssql", "select", ("db..t",)),
    ("SELECT * FROM server.db..t JOIN [b]..[c] ON 1 = 1", "mssql", "select", ("server.db..t", "b..c")),
    ("SELECT * FROM #temp", "mssql", "select", ("#temp",)),
    ("INSERT INTO ##temp VALUES (1)", "mssql", "insert", ("##temp",)),
    ("SELECT * INTO #a FROM tempdb..#b", "mssql", "select", ("#a", "tempdb..#b")),
    ("SELECT * FROM temp.t", "sqlite", "select", ("temp.t",)),
    ("INSERT INTO temp.t SELECT * FROM main.u", "sqlite", "insert", ("temp.t", "main.u")),
    ("UPDATE temp.t SET a = 1", "sqlite", "update", ("temp.t",)),
    ("DROP TABLE IF EXISTS temp.t", "sqlite", "drop", ("temp.t",)),
    ("CREATE TEMP TABLE t (a)", "sqlite", "create", ("t",)),
    ("SELECT * FROM temp JOIN temporary", "mysql", "select", ("temp", "temporary")),
    ("INSERT INTO temp SELECT 1", "mysql", "insert", ("temp",)),
    ("SELECT a INTO temp FROM t", "mssql", "select", ("temp", "t")),
    ("SELECT a INTO TEMPORARY TABLE t FROM u", "postgresql", "select", ("t", "u")),
    # WITH
    (
        "WITH x AS (MERGE INTO t USING u, v ON true WHEN MATCHED THEN DELETE RETURNING *) SELECT * FROM x",
        "postgresql",
        "select",
        ("t", "u", "v"),
    ),
    ("WITH x AS (DELETE FROM t USING u RETURNING *) INSERT INTO v TABLE x", "postgresql", "insert", ("t", "u", "v")),
    ("WITH x AS (UPDATE t SET a = 1 RETURNING *) DELETE FROM u USING x", "postgresql", "delete", ("t", "u")),
    ("SELECT * FROM (WITH x AS (SELECT 1), y AS (SELECT 2) SELECT * FROM x, y, t) z", "postgresql", "select", ("t",)),
    ("WITH x AS (SELECT * FROM t) (SELECT * FROM x UNION SELECT * FROM u)", "postgresql", "select", ("t", "u")),
    # several tables
    ("DROP TABLE IF EXISTS a, b CASCADE", "postgresql", "drop", ("a", "b")),
    ("ALTER TABLE t ADD a int, ADD b int", "postgresql", "alter", ("t",)),
    ("TRUNCATE TABLE ONLY a, b", "postgresql", "truncate", ("a", "b")),
    ("CHECK TABLE a, b", "mysql", "check", ("a", "b")),
    ("RENAME TABLE a TO b, c TO d", "mysql", "rename", ("a", "c")),
    # what is made for a table
    ("CREATE UNIQUE INDEX i ON t (a, b)", "postgresql", "create", ("t",)),
    ("CREATE TRIGGER x AFTER UPDATE OR DELETE ON t REFERENCING NEW TABLE AS n", "postgresql", "create", ("t",)),
    ("CREATE EVENT TRIGGER x ON ddl_command_start EXECUTE FUNCTION f()", "postgresql", "create", ()),
    ("CREATE TRIGGER x ON DATABASE FOR DROP_TABLE AS PRINT 'x'", "mssql", "create", ()),
    ("CREATE TABLE t (index int UNIQUE ON CONFLICT IGNORE)", "sqlite", "create", ("t",)),
    ("DROP TRIGGER x ON t", "postgresql", "drop", ("t",)),
    ("CREATE POLICY p ON t FOR SELECT USING (a IN (SELECT b FROM u))", "postgresql", "create", ("t", "u")),
    ("CREATE RULE r AS ON UPDATE TO t DO INSTEAD DELETE FROM u", "postgresql", "create", ("u",)),
    ("PREPARE p (int) AS UPDATE t SET a = $1", "postgresql", "prepare", ("t",)),
    ("COPY (SELECT * FROM t) TO STDOUT", "postgresql", "copy", ("t",)),
    ("LOAD DATA INFILE 'x' INTO TABLE t", "mysql", "load", ("t",)),
]


@pytest.mark.parametrize(("sql", "dialect", "operation", "tables"), CASES, ids=[case[0] for case in CASES])
def test_operation_and_tables(sql: str, dialect: Dialect, operation: str, tables: tuple[str, ...]) -> None:
    for written in (sql, f"-- a comment\n{sql};", f"{sql}; {sql}"):
        statement = describe_sql(written, dialect)
        assert (statement.operation, statement.tables) == (operation, tables)


@pytest.mark.parametrize("sql", ["SELECT 1 FROM", "UPDATE", "INSERT INTO", "LOCK", "DELETE a,", "SELECT * FROM #"])
@pytest.mark.parametrize("rest", ["", "(", ")", "[", "#", ".", "a.", "a..", "TOP (", "ROWS FROM", "ROWS FROM ("])
def test_a_statement_that_breaks_off(sql: str, rest: str) -> None:
    assert describe_sql(f"{sql} {rest}", "mssql").text != "[redacted]"


# ----- WITH whose verb is far behind


def with_many(count: int, end: str) -> str:
    """A WITH whose subqueries, none like the other, hold verbs themselves, in literals and comments too."""
    subqueries = (
        f"x{number} AS (SELECT a, \"INSERT\" FROM t{number % 7} /* UPDATE */ WHERE b = '(DELETE' AND c IN (SELECT 1))"
        for number in range(count)
    )
    return f"WITH RECURSIVE {', '.join(subqueries)} {end}"


@pytest.mark.parametrize(
    ("end", "operation"),
    [
        ("INSERT INTO z SELECT * FROM x1", "insert"),
        ("UPDATE z SET a = 1", "update"),
        ("DELETE FROM z", "delete"),
        ("MERGE INTO z USING x1 ON true WHEN MATCHED THEN DELETE", "merge"),
        ("SELECT * FROM x1", "select"),
    ],
)
@pytest.mark.parametrize("count", [1, 120, 1500])
@pytest.mark.parametrize("dialect", ["postgresql", "sqlite", "oracle", "mssql", "mysql"])
def test_a_verb_after_ten_thousand_characters(count: int, end: str, operation: str, dialect: Dialect) -> None:
    sql = with_many(count, end)
    assert len(sql) > 10_000 or count == 1
    assert describe_sql(sql, dialect).operation == operation


def test_the_names_of_subqueries_are_no_verbs() -> None:
    padding = ", ".join(f"a{number} AS (SELECT {'b, ' * 500}c)" for number in range(10))
    sql = f"WITH replace AS (SELECT 1), {padding}, merge AS (SELECT 2) UPDATE t SET a = 1"
    assert describe_sql(sql, "postgresql").operation == "update"


def test_a_verb_that_is_not_reached_is_not_guessed() -> None:
    assert describe_sql(with_many(3000, "DELETE FROM z"), "postgresql").operation == "with"
    # The rest of the statement may be a literal there.
    broken = with_many(200, "DELETE FROM z").replace("x150 ", "'it\\'s x150 ")
    assert describe_sql(broken, "unknown").operation == "with"


def test_its_work_grows_as_its_length_and_its_memory_does_not() -> None:
    def describe(sql: str) -> None:
        assert describe_sql(sql, "postgresql").operation == "delete"

    assert all(factor < 2.5 for factor in growth(describe, lambda n: with_many(n, "DELETE FROM z"), 200, 400, 800))
    sql = with_many(1500, "DELETE FROM z")
    peaks = []
    for text in (sql[:10_000], sql):
        tracemalloc.start()
        describe_sql(text, "postgresql")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # The text itself is copied once, by the search for lists to fold.
    assert peaks[1] < peaks[0] + 2 * len(sql)


_PIECES = [
    "a",
    "with",
    "Select",
    "(",
    ")",
    "'",
    "''",
    '"',
    "`",
    "[",
    "]",
    "{",
    "}",
    "$",
    "$$",
    "$a$",
    "#",
    "-",
    "--",
    "/",
    "/*",
    "*/",
    "*/ ",
    "//",
]
_PIECES += [
    "E'",
    "e",
    "q'[",
    "n",
    "U&'",
    "x$",
    "1",
    "1.5e",
    "1e-3",
    ".",
    ",",
    ";",
    " ",
    "\n",
    "\r",
    "\\",
    "%s",
    ":x",
    "?",
    "é",
    "/*!",
    "&",
    "||",
]
_DIALECTS: tuple[Dialect, ...] = (
    "postgresql",
    "sqlite",
    "oracle",
    "mssql",
    "mysql",
    "mysql-escapes",
    "mysql-no-escapes",
    "unknown",
    "names-in-double-quotes",
)


@settings(max_examples=400)
@given(st.lists(st.sampled_from(_PIECES), max_size=40).map("".join), st.sampled_from(_DIALECTS))
def test_words_outside_parentheses_are_those_of_the_tokens(sql: str, dialect: Dialect) -> None:
    expected, depth, before = [], 0, ""
    for kind, text, _ in tokens_of(sql, dialect):
        if text in ("(", ")"):
            depth += 1 if text == "(" else -1
        elif not depth and kind == "word":
            expected.append((before, text.lower()))
        if not depth or text in ("(", ")"):
            before = text.lower()
    assert list(words_outside(sql, dialect)) == expected
