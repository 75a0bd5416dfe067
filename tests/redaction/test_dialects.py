"""Test SQL of known and unknown vendors: nothing that any vendor would parse as a literal is shown.

:func:`quoted` is another reader of SQL than the app's: one character after another, by rules that can be combined
freely. What it finds inside of literals and comments is looked for in what the app makes of the same text.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from django_tracing.redaction import REDACTED, Dialect, describe_sql, dialect_of, redact_text, sanitise_sql

EXAMPLES = int(os.environ.get("DIALECT_EXAMPLES", "250"))


class Reading(NamedTuple):
    """How a server parses SQL."""

    #: Whether a backslash escapes in strings.
    escapes: bool = False
    #: Whether double quotes make strings.
    double_strings: bool = False
    #: What opens a comment beside "-- ".
    hash_comments: bool = False
    slash_comments: bool = False
    brace_comments: bool = False
    #: Whether two dashes need white space behind them.
    spaced_dashes: bool = False
    #: Whether a carriage return ends a line.
    returns_end_lines: bool = False
    nested: bool = False
    #: Whether the inside of /*! is run.
    executes: bool = False
    dollars: bool = False
    brackets: bool = False
    backticks: bool = False
    triples: bool = False
    q_strings: bool = False
    e_strings: bool = False


POSTGRESQL = Reading(returns_end_lines=True, nested=True, dollars=True, e_strings=True)
SQLITE = Reading(brackets=True, backticks=True)
ORACLE = Reading(q_strings=True)
MSSQL = Reading(brackets=True, nested=True)
MYSQL = Reading(
    escapes=True, double_strings=True, hash_comments=True, spaced_dashes=True, executes=True, backticks=True
)
GOOGLESQL = Reading(escapes=True, double_strings=True, hash_comments=True, backticks=True, triples=True)
SNOWFLAKE = Reading(escapes=True, slash_comments=True, dollars=True)
ANY = st.builds(Reading, **{name: st.booleans() for name in Reading._fields})

READINGS: dict[Dialect, Any] = {
    "postgresql": st.just(POSTGRESQL),
    "sqlite": st.just(SQLITE),
    "oracle": st.builds(ORACLE._replace, returns_end_lines=st.booleans()),
    "mssql": st.builds(MSSQL._replace, returns_end_lines=st.booleans()),
    "mysql-escapes": st.builds(MYSQL._replace, executes=st.booleans(), dollars=st.booleans()),
    "mysql-no-escapes": st.builds(
        MYSQL._replace, escapes=st.just(False), executes=st.booleans(), dollars=st.booleans()
    ),
    "mysql": st.builds(MYSQL._replace, escapes=st.booleans(), executes=st.booleans(), dollars=st.booleans()),
    "unknown": ANY,
    "names-in-double-quotes": ANY.map(lambda reading: reading._replace(double_strings=False)),
}


def _identifier(character: str) -> bool:
    return character.isalnum() or character == "_"


def quoted(sql: str, reading: Reading) -> list[tuple[int, int]]:
    """Return where literals and comments start and end."""
    spans: list[tuple[int, int]] = []
    at, end = 0, len(sql)
    executing = prefixed = False

    def until(closing: str, start: int) -> int:
        found = sql.find(closing, start)
        return end if found < 0 else found + len(closing)

    def string(start: int, quote: str, *, escapes: bool) -> int:
        """Return the end of the string whose first character is at ``start``."""
        if reading.triples and sql.startswith(quote * 2, start):
            quote *= 3
            start += 2
        while start < end:
            if escapes and sql[start] == "\\":
                start += 2
            elif sql.startswith(quote, start):
                start += len(quote)
                # Doubled; or, with triples, the next string: its inside is quoted as well.
                if len(quote) == 3 or reading.triples or not sql.startswith(quote, start):
                    return start
                start += 1
            else:
                start += 1
        return end

    def line(start: int) -> int:
        ends = [sql.find("\n", start)] + ([sql.find("\r", start)] if reading.returns_end_lines else [])
        return min((place for place in ends if place >= 0), default=end)

    while at < end:
        here = sql[at]
        first = at == 0 or not (_identifier(sql[at - 1]) or sql[at - 1] == "$")
        if executing and sql.startswith("*/", at):
            executing = False
            at += 2
        elif sql.startswith("/*", at):
            if reading.executes and sql.startswith("/*!", at):
                executing = True
                at += 3
                continue
            depth, start = 1, at
            at += 2
            while depth and at < end:
                if sql.startswith("*/", at):
                    depth -= 1
                    at += 2
                elif reading.nested and sql.startswith("/*", at):
                    depth += 1
                    at += 2
                else:
                    at += 1
            spans.append((start, at))
        elif (
            sql.startswith("--", at)
            and (not reading.spaced_dashes or at + 2 == end or sql[at + 2].isspace())
            or (here == "#" and reading.hash_comments)
            or (reading.slash_comments and sql.startswith("//", at))
        ):
            start, at = at, line(at)
            spans.append((start, at))
        elif here == "{" and reading.brace_comments:
            at = until("}", at)
        elif here == "[" and reading.brackets:
            at = until("]", at)
            while reading.nested and at < end and sql[at] == "]":  # SQL Server's doubled one
                at = until("]", at + 1)
        elif here == "`" and reading.backticks:
            at = until("`", at + 1)
            while at < end and sql[at] == "`" and not reading.triples:
                at = until("`", at + 1)
        elif here == "'" or (here == '"' and reading.double_strings):
            start, at = at, string(at + 1, here, escapes=reading.escapes)
            spans.append((start, at))
        elif here == '"':
            at = string(at + 1, here, escapes=False)
        elif first and here in "eE" and reading.e_strings and sql.startswith("'", at + 1):
            start, at = at, string(at + 2, "'", escapes=True)
            spans.append((start, at))
        elif first and here in "nN" and reading.q_strings and sql[at + 1 : at + 3].lower() == "q'":
            at += 1
            prefixed = True
            continue
        elif (
            (first or prefixed)
            and here in "qQ"
            and reading.q_strings
            and sql[at + 1 : at + 2] == "'"
            and at + 2 < end
        ):
            prefixed = False
            edge = sql[at + 2]
            if edge.isspace() or edge == "'":
                at += 1
                continue
            start, at = at, until({"[": "]", "(": ")", "{": "}", "<": ">"}.get(edge, edge) + "'", at + 3)
            spans.append((start, at))
        elif here == "$" and reading.dollars and first:
            tag = at + 1
            while tag < end and _identifier(sql[tag]) and not (tag == at + 1 and sql[tag].isdigit()):
                tag += 1
            if tag < end and sql[tag] == "$":
                start, at = at, until(sql[at : tag + 1], tag + 1)
                spans.append((start, at))
            else:
                at += 1
        else:
            at += 1
    return spans


#: What vendors read in different ways: what opens, with what closes; quotes; and anything else.
OPENERS = [
    ("[", "]"), ("[", "]]", "]"), ("{", "}"), ("--", "\n"), ("-- ", "\n"), ("#", "\n"), ("//", "\n"), ("-- ", "\r", "\n"), ("#", "\r", "\n"),
    ("/*", "*/"), ("/*!", "*/"), ("/*!50000 ", "*/"), ("/*+", "*/"), ("q'[", "]'"), (" q'!", "!'"), (" nq'(", ")'"), ("`",), ("``", "`"),
    ("$$",), ("$a$",), ("$a$", "$b$"), ("\\", "\\\\"), ("\\'",), ('\\"',), ("'''",), ('"""',), ("x$",),
]  # fmt: skip
QUOTES = ["'", "'", '"', "''", '""', "''''", " E'", " N'", " r'", " U&'", ' b"', "`"]
OTHERS = [
    "\r\n",
    "\r",
    "\n",
    " ",
    ",",
    "(",
    ")",
    "=",
    "-",
    "/",
    "*",
    "1",
    "?",
    "%s",
    "%%",
    ";",
    "::",
    "ESCAPE '\\'",
    *QUOTES,
]
_WORDS = [f"zq{letter}x" for letter in "abcdefghijklmnop"]


@st.composite
def statements(draw: st.DrawFn) -> str:
    # Of a few kinds each: so they meet as they have to, to be read in different ways.
    opener, *closers = draw(st.sampled_from(OPENERS))
    quote = draw(st.sampled_from(QUOTES))
    kinds = [opener, quote, *closers, *draw(st.lists(st.sampled_from(OTHERS), max_size=1))]
    pieces = draw(st.one_of(st.just([opener, quote, *closers, quote]), st.just([quote, opener, *closers, quote])))
    pieces += draw(st.lists(st.sampled_from(kinds), max_size=8))
    parts = [draw(st.sampled_from(["", "SELECT ", "INSERT INTO t VALUES ("]))]
    for piece, word in zip(pieces, _WORDS, strict=False):
        # Blanks on both sides, or none: letters before a quote are part of it.
        parts += (piece, draw(st.sampled_from([word, f" {word} "])))
    return "".join(parts)


def _shown(sql: str, reading: Reading, text: str) -> list[str]:
    """Return the planted words that are in a literal or a comment and are shown."""
    spans = quoted(sql, reading)
    return [word for word in _WORDS if word in text and any(start <= sql.index(word) < end for start, end in spans)]


@pytest.mark.parametrize("dialect", READINGS)
def test_no_literal_of_any_reading_is_shown(dialect: Dialect) -> None:
    @settings(max_examples=EXAMPLES)
    @given(statements(), READINGS[dialect])
    def holds(sql: str, reading: Reading) -> None:
        statement = describe_sql(sql, dialect)
        text = statement.text
        assert _shown(sql, reading, " ".join([text, statement.operation, *statement.tables])) == []
        assert text != REDACTED
        assert sanitise_sql(text, dialect=dialect) == text

    holds()


# ----- Examples

UNKNOWN: list[tuple[str, str, str]] = [
    # statement, of an unknown vendor, of one that quotes names by double quotes
    ("SELECT a FROM t WHERE b = 'x' AND c IN (1, 2)", "SELECT a FROM t WHERE b = ? AND c IN (?)", ""),
    ('SELECT "u"."id" FROM "u"', "SELECT ?.? FROM ?", 'SELECT "u"."id" FROM "u"'),
    ("SELECT `u`.`id` FROM `u` WHERE a = 'it''s'", "SELECT `u`.`id` FROM `u` WHERE a = ?", ""),
    ("SELECT 'C:\\dir', 'a\\\\', x FROM t", "SELECT ?, ?, x FROM t", ""),
    ("SELECT a FROM t WHERE b = 'C:\\' AND c = 'zq'", "SELECT a FROM t WHERE b = ?", ""),
    ("SELECT a FROM t WHERE b = 'it\\'s zq' AND c = 1", "SELECT a FROM t WHERE b = ?", ""),
    ('SELECT "a\\" zq", b', "SELECT ?", 'SELECT "?"'),
    ("SELECT '''it's zq''', b FROM t", "SELECT ?", ""),
    ("SELECT 'a''''zq' zq '''", "SELECT ?", ""),
    ("SELECT r'zq', b'zq', E'zq', x FROM t", "SELECT r?, b?, E?, x FROM t", ""),
    ("SELECT a -- it's zq\nFROM t", "SELECT a FROM t", ""),
    ("SELECT a --it's zq\nFROM t", "SELECT a ?", ""),
    ("SELECT a # zq\nFROM t", "SELECT a FROM t", ""),
    ("SELECT a # it's zq\nFROM t", "SELECT a ?", ""),
    ("SELECT a // zq\r\nFROM t", "SELECT a FROM t", ""),
    ("/* zq */ SELECT a /* zq ' */ FROM t", "SELECT a FROM t", ""),
    ("SELECT a /* /* zq */ ' */ FROM t", "SELECT a ?", ""),
    ("SELECT a /*! FROM zq 'b' */ c", "SELECT a c", ""),
    ("SELECT a /*! 'b */ zq' */ c", "SELECT a ?", ""),
    ("SELECT $$zq$$, $tag$zq$tag$ FROM t", "SELECT ?", ""),
    ("SELECT q'[it's zq]' FROM t", "SELECT ?", ""),
    ("SELECT a['zq'], b[1], c['x', \"y\"] FROM t", "SELECT a[?], b[?], c[?, ?] FROM t", 'SELECT a[?], b[?], c[?, "y"] FROM t'),
    ("SELECT [it's] FROM t WHERE a = 'zq'", "SELECT ?", ""),
    ("SELECT a WHERE b = @name AND c = %s AND d = :e AND f = {g:String}", "SELECT a WHERE b = @name AND c = %s AND d = :e AND f = {g:String}", ""),
    ("CREATE USER ann WITH PASSWORD zq", "CREATE USER ann WITH PASSWORD ?", ""),
]  # fmt: skip


@pytest.mark.parametrize(("sql", "text", "named"), UNKNOWN, ids=[case[0] for case in UNKNOWN])
def test_sql_of_an_unknown_vendor_shows_only_what_all_vendors_parse_alike(sql: str, text: str, named: str) -> None:
    assert sanitise_sql(sql) == text
    assert sanitise_sql(sql, dialect="names-in-double-quotes") == (named or text)
    for dialect in ("unknown", "names-in-double-quotes"):
        again = sanitise_sql(sql, dialect=dialect)  # type: ignore[arg-type]
        assert "zq" not in again
        assert sanitise_sql(again, dialect=dialect) == again  # type: ignore[arg-type]


KNOWN: list[tuple[Dialect, str, str]] = [
    ("oracle", "SELECT q'[it's]', nq'(it's)', q'!it's!' FROM dual", "SELECT ?, ?, ? FROM dual"),
    ("oracle", "SELECT 'C:\\', $$ FROM v$session", "SELECT ?, $$ FROM v$session"),
    ("oracle", "SELECT /* /* */ a FROM t", "SELECT a FROM t"),
    ("oracle", "SELECT a -- x\r'zq\n' FROM t", "SELECT a ?"),
    ("oracle", "CONNECT ann/zq@db", "CONNECT ann/?@?"),
    ("oracle", "SELECT a FROM t CONNECT BY PRIOR a = b / c", "SELECT a FROM t CONNECT BY PRIOR a = b / c"),
    ("sqlite", "SELECT [it's], `it's`, 'zq' FROM [My Table]", "SELECT [?], `?`, ? FROM [My Table]"),
    ("sqlite", "SELECT /* /* */ 'a */ zq' FROM t", "SELECT ? FROM t"),
    ("sqlite", "SELECT $a, @b, ?1 FROM t", "SELECT $a, @b, ?? FROM t"),
    ("sqlite", 'PRAGMA key("zq")', "PRAGMA key(?)"),
    ("sqlite", "PRAGMA table_info(t)", "PRAGMA table_info(t)"),
    ("sqlite", "ATTACH 'zq' AS x KEY \"zq\"", "ATTACH ? AS x KEY ?"),
    ("mssql", "SELECT [it's], [a]]'b], 'zq' FROM [dbo].[t] WHERE c > $12.50", "SELECT [?], [?], ? FROM [dbo].[t] WHERE c > $?"),
    ("mssql", "SELECT /* /* */ 'zq' */ a FROM #t", "SELECT a FROM #t"),
    ("mssql", "EXEC sp_addlogin ann, zq, @c = zq, @d = @e", "EXEC sp_addlogin ?, ?, @c = ?, @d = @e"),
    ("mssql", "INSERT INTO t EXEC dbo.sp_x zq, @a; SELECT b FROM u", "INSERT INTO t EXEC dbo.sp_x ?, @a; SELECT b FROM u"),
    ("mssql", "EXECUTE @r = [dbo].[sp_x] zq", "EXECUTE @r = ?.? ?"),
    ("mssql", "sp_addlogin ann, \"zq\"; SELECT a FROM t", "sp_addlogin ?, ?; SELECT a FROM t"),
    ("postgresql", "SELECT a -- x\r'b\nzq' FROM t", "SELECT a ? FROM t"),
    ("postgresql", "SELECT E'a' -- b\n '\\' zq', c FROM t", "SELECT ?, c FROM t"),
    ("postgresql", "SELECT EXECUTE", "SELECT EXECUTE"),
    ("postgresql", "ALTER ROLE ann SET search_path TO zq, zq", "ALTER ROLE ann SET search_path TO ?, ?"),
    ("postgresql", "BEGIN; SET a TO zq; UPDATE t SET b = c", "BEGIN; SET a TO ?; UPDATE t SET b = c"),
    ("mysql", "SELECT 'it''s', 'C:\\dir', \"zq\", `a` FROM t # zq", "SELECT ?, ?, ?, `a` FROM t"),
    ("mysql", "SELECT 'it\\'s zq', b FROM t", "SELECT ?"),
    ("mysql", "SELECT 'C:\\', 'zq' FROM t", "SELECT ?"),
    ("mysql-no-escapes", "SELECT 'C:\\', \"C:\\\", 'zq' FROM t", "SELECT ?, ?, ? FROM t"),
    ("mysql-escapes", "SELECT 'it\\'s zq', b FROM t", "SELECT ?, b FROM t"),
    ("mysql", "SELECT /*! STRAIGHT_JOIN 'a' */ /*+ NO_ICP(t) */ b FROM t", "SELECT b FROM t"),
    ("mysql", "SELECT /*!50000 'a */ zq' */ b FROM t", "SELECT ?"),
    ("mysql", "SELECT a, $$zq$$ FROM t", "SELECT a, ?"),
]  # fmt: skip


@pytest.mark.parametrize(("dialect", "sql", "text"), KNOWN, ids=[f"{case[0]} {case[1]}" for case in KNOWN])
def test_sql_of_a_known_vendor_is_parsed_by_its_rules(dialect: Dialect, sql: str, text: str) -> None:
    assert sanitise_sql(sql, dialect=dialect) == text
    assert "zq" not in text
    assert sanitise_sql(text, dialect=dialect) == text


@pytest.mark.parametrize(
    ("system", "dialect"),
    [
        ("postgresql", "postgresql"),
        ("PostgreSQL", "postgresql"),
        ("mariadb", "mysql"),
        ("microsoft", "mssql"),
        ("oracle.db", "oracle"),
        ("planetscale", "unknown"),
        ("spanner", "unknown"),
        ("cockroachdb", "names-in-double-quotes"),
        ("", "unknown"),
        (None, "unknown"),
        (["mysql"], "unknown"),
    ],
)
def test_the_vendors_name_selects_the_dialect(system: object, dialect: Dialect) -> None:
    assert dialect_of(system) == dialect


# ----- Passwords

ACCOUNTS: dict[Dialect, list[str]] = {
    "oracle": [
        "CREATE USER ann IDENTIFIED BY {} DEFAULT TABLESPACE users QUOTA 10M ON users",
        "ALTER USER ann IDENTIFIED BY {} REPLACE {}",
        "ALTER USER ann IDENTIFIED BY {} REPLACE {} ACCOUNT UNLOCK",
        "GRANT CONNECT TO ann, bob IDENTIFIED BY {}, {}",
        "CREATE ROLE r IDENTIFIED BY {}",
        "SET ROLE a IDENTIFIED BY {}, b IDENTIFIED BY {}",
        "CREATE DATABASE LINK l CONNECT TO ann IDENTIFIED BY {} AUTHENTICATED BY bob IDENTIFIED BY {} USING 'tns'",
        "ALTER TABLE t MODIFY (a ENCRYPT IDENTIFIED BY {})",
        "CREATE PLUGGABLE DATABASE p ADMIN USER ann IDENTIFIED BY {} FILE_NAME_CONVERT = ('a', 'b')",
        "ALTER PLUGGABLE DATABASE p UNPLUG INTO 'x' ENCRYPT USING {}",
        "ADMINISTER KEY MANAGEMENT SET KEYSTORE OPEN IDENTIFIED BY {} CONTAINER = ALL",
        "ADMINISTER KEY MANAGEMENT ALTER KEYSTORE PASSWORD IDENTIFIED BY {} SET {} WITH BACKUP",
        "ADMINISTER KEY MANAGEMENT EXPORT KEYS WITH SECRET {} TO 'x' IDENTIFIED BY {}",
        "BEGIN NULL; END; ALTER USER ann IDENTIFIED BY {}",
    ],
    "names-in-double-quotes": [
        "CREATE USER ann WITH PASSWORD {}",
        "CREATE USER IF NOT EXISTS ann WITH LOGIN PASSWORD {} VALID UNTIL 'x'",
        "ALTER ROLE ann PASSWORD {}",
        "ALTER USER ann PASSWORD = {}",
        "CREATE USER ann PASSWORD {} NO FORCE_FIRST_PASSWORD_CHANGE",
        "CREATE USER ann FROM dbc AS PERM = 1, PASSWORD = {}",
        "CREATE USER ann IDENTIFIED BY {}",
        "SET ENCRYPTION PASSWORD = {}",
        "ALTER LOGIN ann WITH PASSWORD {}",
    ],
}
#: Statements whose password is always a string.
STRINGS: dict[Dialect, list[str]] = {
    "postgresql": [
        "CREATE ROLE ann LOGIN PASSWORD {}",
        "CREATE USER ann WITH ENCRYPTED PASSWORD {} VALID UNTIL {}",
        "ALTER USER ann WITH PASSWORD {}",
        "ALTER ROLE ann PASSWORD {};",
        "CREATE USER MAPPING FOR ann SERVER s OPTIONS (user {}, password {})",
        "CREATE SUBSCRIPTION s CONNECTION {} PUBLICATION p",
        "ALTER SYSTEM SET primary_conninfo TO {}",
    ],
    "mysql": [
        "CREATE USER {}@{} IDENTIFIED BY {}",
        "ALTER USER ann IDENTIFIED WITH caching_sha2_password BY {} REPLACE {} RETAIN CURRENT PASSWORD",
        "CREATE USER ann IDENTIFIED WITH mysql_native_password AS {}",
        "CREATE USER ann IDENTIFIED VIA ed25519 USING PASSWORD({}) OR unix_socket",
        "GRANT ALL ON *.* TO ann IDENTIFIED BY PASSWORD {}",
        "SET PASSWORD FOR ann = PASSWORD({})",
        "SET PASSWORD = {} REPLACE {}",
        "CHANGE MASTER TO MASTER_PASSWORD = {}, MASTER_USER = {}",
    ],
    "mssql": [
        "CREATE LOGIN ann WITH PASSWORD = {} MUST_CHANGE, DEFAULT_DATABASE = d",
        "ALTER LOGIN ann WITH PASSWORD = {} OLD_PASSWORD = {}",
        "CREATE USER ann WITH PASSWORD={}",
        "CREATE CREDENTIAL c WITH IDENTITY = {}, SECRET = {}",
        "OPEN MASTER KEY DECRYPTION BY PASSWORD = {}",
    ],
}
STRINGS["unknown"] = [
    *STRINGS["postgresql"],
    *STRINGS["mysql"],
    *STRINGS["mssql"],
    "CREATE USER ann SET PLAINTEXT PASSWORD {}",
]
STRINGS["mysql-escapes"] = STRINGS["mysql-no-escapes"] = STRINGS["mysql"]
_NAMES = st.sampled_from(
    ["{}", '"{}"', " {}", '\n\t"{}"', "{}#1", "{}$x", "a#{}#{}", "/* c */{}", '"a b {}"', '"a--{}"', "%{}"]
)
_AROUND = st.text(st.sampled_from("ab1 \\$#-/*;,.[]{}`"), max_size=6)


def _string(draw: st.DrawFn, dialect: Dialect) -> str:
    text = f"{draw(_AROUND)}zqx{draw(_AROUND)}"
    escapes = dialect in ("mysql", "mysql-escapes", "unknown")
    if escapes and draw(st.booleans()):
        text, doubled = text.replace("\\", "\\\\"), "\\'"
    else:
        # As a server writes it that does not escape: in no other way can a backslash stand before the end.
        doubled = "''"
        if dialect == "mysql-escapes":
            text = text.replace("\\", "\\\\")
    if draw(st.booleans()):
        text += f" o{doubled}zqx"
    kinds = ["'{}'", "N'{}'"]
    if dialect == "postgresql":
        kinds += ["$${}$$", "$a1${}$a1$"] if "$" not in text else []
        kinds += ["E'{}'"] if "\\" not in text else []
    elif dialect != "mssql" and doubled == "\\'":
        kinds.append('"{}"')
    return draw(st.sampled_from(kinds)).replace("{}", text)


@settings(max_examples=EXAMPLES)
@given(st.data(), st.sampled_from([(dialect, sql) for dialect, sqls in STRINGS.items() for sql in sqls]))
def test_no_password_in_a_string_is_shown(data: st.DataObject, account: tuple[Dialect, str]) -> None:
    dialect, template = account
    draw: Any = data.draw
    parts = template.split("{}")
    sql = parts[0] + "".join(_string(draw, dialect) + part for part in parts[1:])
    text = sanitise_sql(sql, dialect=dialect)
    assert "zqx" not in text
    assert sanitise_sql(text, dialect=dialect) == text


@settings(max_examples=EXAMPLES)
@given(st.data(), st.sampled_from([(dialect, sql) for dialect, sqls in ACCOUNTS.items() for sql in sqls]))
def test_no_password_that_is_a_name_is_shown(data: st.DataObject, account: tuple[Dialect, str]) -> None:
    dialect, template = account
    parts = template.split("{}")
    # Quoted, it may stand at once behind the word before it.
    written = [data.draw(_NAMES).replace("{}", "zqx") for _ in parts[1:]]
    sql = parts[0] + "".join(name + part for name, part in zip(written, parts[1:], strict=True))
    if all(name.startswith('"') for name in written) and data.draw(st.booleans()):
        sql = sql.replace(' "', '"').replace('" ', '"')
    for case in (sql, sql.lower(), f"SELECT 1;\n{sql}"):
        text = sanitise_sql(case, dialect=dialect)
        assert "zqx" not in text.lower()
        assert sanitise_sql(text, dialect=dialect) == text
        assert "zqx" not in sanitise_sql(case).lower()


@pytest.mark.parametrize(
    ("sql", "text"),
    [
        ("ALTER USER ann IDENTIFIED BY new REPLACE old ACCOUNT UNLOCK", "ALTER USER ann IDENTIFIED BY ? REPLACE ? ACCOUNT UNLOCK"),
        ('CREATE USER ann IDENTIFIED BY"p w"DEFAULT TABLESPACE users', "CREATE USER ann IDENTIFIED BY?? TABLESPACE users"),
        ("CREATE TABLE t (password varchar(10), a text)", "CREATE TABLE t (password varchar(?), a text)"),
        ("ALTER USER ann PASSWORD EXPIRE", "ALTER USER ann PASSWORD EXPIRE"),
        ("SELECT password FROM users WHERE identified = 1 ORDER BY a", "SELECT password FROM users WHERE identified = ? ORDER BY ?"),
        ("UPDATE users SET password = %s, a = b WHERE id = %s", "UPDATE users SET password = %s, a = b WHERE id = %s"),
        ('UPDATE "t" SET "a" = "b" FROM "u"', 'UPDATE "t" SET "a" = "b" FROM "u"'),
    ],
)  # fmt: skip
def test_the_rest_of_a_statement_with_a_password_is_shown(sql: str, text: str) -> None:
    assert sanitise_sql(sql, dialect="oracle") == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ran ALTER USER ann IDENTIFIED BY zq REPLACE zq;", f"ran ALTER USER ann IDENTIFIED BY {REDACTED} REPLACE {REDACTED};"),
        ("alter user ann identified by zq", f"alter user ann identified by {REDACTED}"),
        ("create role ann\n identified  by \"zq zq\" x", f"create role ann\n identified  by {REDACTED} x"),
        ("identified by'zq''zq'", f"identified by{REDACTED}"),
        ("IDENTIFIED WITH sha256 AS 'zq\\'zq' LOCK", f"IDENTIFIED WITH sha256 AS {REDACTED} LOCK"),
        ("identified by password '*zq'", f"identified by password {REDACTED}"),
        ("ALTER ROLE ann ENCRYPTED PASSWORD E'zq", f"ALTER ROLE ann ENCRYPTED PASSWORD {REDACTED}"),
        ("a user is identified by an e-mail", "a user is identified by an e-mail"),
        ("set your password and log in", "set your password and log in"),
    ],
)  # fmt: skip
def test_a_statement_in_a_text_loses_its_password(text: str, expected: str) -> None:
    assert redact_text(text) == expected
    assert redact_text(expected) == expected
