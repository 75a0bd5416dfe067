"""``python -m benchmarks.sql_agreement``: how often the SQL reader finds the operation and tables that parsers find.

The statements are those of the databases' own regression tests, in a folder:

- PostgreSQL's, ``src/test/regress/sql`` of its source (or ``test/sql/postgres_regress`` of libpg_query's), read by
  libpg_query, which is PostgreSQL's own parser (``pip install pglast``);
- MySQL's or MariaDB's, ``mysql-test`` of its source (or of Debian's package mariadb-test), read by sqlglot
  (``pip install sqlglot``). Statements that it does not know are left out.
"""

from __future__ import annotations

import argparse
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from django_tracing.redaction import Dialect, describe_sql

#: As many tables as the reader returns, and longer statements than it reads whole, are not compared.
_MOST_TABLES: Final = 10
_LONGEST: Final = 10_000
_DIGITS: Final = re.compile(r"\d{4,}")
_SHOWN: Final = re.compile(r"[\w$#. -]{1,128}")


class Known(NamedTuple):
    """What a parser knows of a statement."""

    kind: str
    operation: str
    tables: frozenset[str]


def compared(names: Iterator[str] | frozenset[str]) -> frozenset[str]:
    """The names as the reader shows them, in lower case."""
    return frozenset(_DIGITS.sub("*", name.lower()) for name in names if _SHOWN.fullmatch(name))


# ----- PostgreSQL

_COPIED: Final = re.compile(r"(\bFROM\s+STDIN\b[^;\n]*;[^\n]*\n)[\s\S]*?^\\\.$", re.IGNORECASE | re.MULTILINE)
#: psql's own commands, on a line of their own or at the end of a statement.
_PSQL: Final = re.compile(r"^\s*\\[^\n]*$|\\(?:gset|gexec|gdesc|g|crosstabview|bind|parse|;)[^\n]*", re.MULTILINE)
_KINDS: Final = {
    "SelectStmt": "SELECT",
    "InsertStmt": "DML",
    "UpdateStmt": "DML",
    "DeleteStmt": "DML",
    "MergeStmt": "DML",
}


def postgresql(folder: Path) -> Iterator[tuple[str, Known]]:
    """The statements that PostgreSQL's parser takes."""
    import pglast
    from pglast.visitors import Delete, Visitor, referenced_relations

    class WithoutLocks(Visitor):  # type: ignore[misc]
        """FOR UPDATE OF names what FROM has named."""

        def visit_LockingClause(self, ancestors: Any, node: Any) -> Any:
            return Delete

    for file in sorted(folder.rglob("*.sql")):
        text = _PSQL.sub("", _COPIED.sub(r"\1", file.read_text("utf-8", "replace")))
        try:
            statements = pglast.split(text, with_parser=False)
        except pglast.Error:
            statements = tuple(re.split(r";[ \t]*\n", text))
        for sql in statements:
            try:
                (parsed,) = pglast.parse_sql(sql)
                WithoutLocks()(parsed.stmt)
                tables = referenced_relations(parsed.stmt)
                if isinstance(parsed.stmt, pglast.ast.MergeStmt) and parsed.stmt.withClause is not None:
                    # pglast takes the names that WITH gives here for tables.
                    tables = tables - {each.ctename for each in parsed.stmt.withClause.ctes}
            except (pglast.Error, ValueError, AttributeError, TypeError):
                continue
            name = type(parsed.stmt).__name__
            kind = _KINDS.get(name, "other")
            operation = name.removesuffix("Stmt").lower() if kind == "DML" else ""
            yield sql, Known(kind, operation, compared(table.replace('"', "") for table in tables))


# ----- MySQL

#: Commands of mysqltest, on lines of their own.
_MYSQLTEST: Final = re.compile(r"^\s*(?:--|#|\}|(?:if|while)\b)[^\n]*$", re.MULTILINE | re.IGNORECASE)
_CHUNK: Final = re.compile(r"(?:[^;'\"`]|'(?:[^'\\]|\\.|'')*'|\"(?:[^\"\\]|\\.|\"\")*\"|`[^`]*`)+;", re.DOTALL)
_READ_BY_SQLGLOT: Final = ("select", "with", "insert", "replace", "update", "delete", "(")


def mysql(folder: Path) -> Iterator[tuple[str, Known]]:
    """The statements of mysqltest's files that sqlglot takes."""
    import sqlglot
    from sqlglot import exp

    logging.getLogger("sqlglot").setLevel(logging.CRITICAL)
    kinds = {exp.Insert: "DML", exp.Update: "DML", exp.Delete: "DML"}
    for file in sorted(folder.rglob("*.test")):
        for chunk in _CHUNK.findall(_MYSQLTEST.sub("", file.read_text("utf-8", "replace"))):
            sql = chunk.strip().rstrip(";")
            # $x is a variable of mysqltest, which may hold anything.
            if "$" in sql or len(sql) > _LONGEST or not sql.lower().startswith(_READ_BY_SQLGLOT):
                continue
            try:
                parsed = sqlglot.parse_one(sql, dialect="mysql")
            except Exception:  # sqlglot raises many kinds
                continue
            if parsed is None or not isinstance(parsed, (exp.Query, *kinds)):
                continue
            kind = kinds.get(type(parsed), "SELECT")
            operation = sql.split(None, 1)[0].lower() if kind == "DML" and not sql.lower().startswith("with") else ""
            subqueries = {each.alias.lower() for each in parsed.find_all(exp.CTE)}
            # DELETE a, b FROM t AS a, u AS b: what stands before FROM is named by FROM.
            deleted = {id(table) for table in parsed.args.get("tables") or ()} if kind == "DML" else set()
            tables = frozenset(
                ".".join(part for part in (table.db, table.name) if part)
                for table in parsed.find_all(exp.Table)
                if id(table) not in deleted
                and isinstance(table.this, exp.Identifier)
                and (table.db or table.name.lower() not in subqueries)
            )
            yield sql, Known(kind, operation, compared(tables))


SOURCES: Final[dict[Dialect, Any]] = {"postgresql": postgresql, "mysql": mysql}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--postgresql", type=Path, metavar="FOLDER")
    parser.add_argument("--mysql", type=Path, metavar="FOLDER")
    parser.add_argument("--show", type=int, default=0, help="print as many disagreements of each kind")
    arguments = parser.parse_args()
    for dialect, source in SOURCES.items():
        folder = getattr(arguments, dialect)
        if folder is not None:
            report(dialect, source(folder), arguments.show)


def report(dialect: Dialect, statements: Iterator[tuple[str, Known]], show: int) -> None:
    """Print the shares, and some of the disagreements."""
    count: Counter[str] = Counter()
    agreed: Counter[str] = Counter()
    differing: defaultdict[str, list[str]] = defaultdict(list)
    seen: set[str] = set()
    for sql, known in statements:
        if sql in seen or len(sql) > _LONGEST or len(known.tables) >= _MOST_TABLES:
            continue
        seen.add(sql)
        count[known.kind] += 1
        found = describe_sql(sql, dialect)
        tables = frozenset(table.lower() for table in found.tables)
        if tables == known.tables and known.operation in ("", found.operation):
            agreed[known.kind] += 1
        else:
            differing[known.kind].append(
                f"{' '.join(sql.split())[:400]}\n    parser: {known.operation} {sorted(known.tables)}\n"
                f"    reader: {found.operation} {sorted(tables)}"
            )
    for kind in sorted(count):
        share = agreed[kind] / count[kind]
        print(f"{dialect} {kind}: {agreed[kind]} of {count[kind]}, {share:.2%}")
        for text in differing[kind][:show]:
            print(f"  {text}")


if __name__ == "__main__":
    main()
