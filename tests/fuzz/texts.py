"""What statements, keys, errors, URLs and values of users contain, before it is sent."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from hypothesis import strategies as st
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from django_tracing.export.wire import encode_spans
from django_tracing.instrumentation.upstream.redis_commands import statement_of
from django_tracing.net import host_and_port, link_base, parse_address, shown_address
from django_tracing.redaction import SensitiveKeys, mask_email, redact_resource, redact_text
from django_tracing.redaction.attributes import AttributeSanitizer, attribute_name
from django_tracing.redaction.commands import redact_commands
from django_tracing.redaction.dialects import Dialect, dialect_of
from django_tracing.redaction.errors import _redact_message, redact_db_error, redact_stacktrace
from django_tracing.redaction.keys import _key_pattern
from django_tracing.redaction.printable import printable
from django_tracing.redaction.sql import _describe
from django_tracing.redaction.stacks import redacted_stack
from django_tracing.redaction.urls import _sanitise_any_url, redact_query, sanitise_url
from tests.fuzz.promises import check_attributes, check_headers, check_line
from tests.fuzz.running import Target
from tests.fuzz.spans import recorded

__all__ = ["TARGETS"]

_keys: Final = SensitiveKeys()


def bare(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of redaction without what hides its exceptions."""
    return function.__wrapped__  # type: ignore[attr-defined,no-any-return]


# ----- SQL

_WORDS: Final = (
    *(
        "SELECT ",
        "INSERT INTO ",
        "UPDATE ",
        "DELETE FROM ",
        "WITH a AS (",
        " FROM ",
        " JOIN ",
        " WHERE ",
        " IN (",
        " = ",
    ),
    *(
        "'a'",
        '"t"',
        "`t`",
        "[t]",
        "$$",
        "$a$",
        "E'\\'",
        "q'[",
        "N'",
        "--",
        "/*",
        "*/",
        "#",
        "%s",
        "?",
        "$1",
        ":a",
        "(1, 2)",
    ),
    *(
        " VALUES ",
        "NULL",
        "0x1F",
        "1e9",
        "t.c",
        "schema.t",
        ";",
        "\n",
        "::int[]",
        "ARRAY[",
        "EXPLAIN ",
        "COPY ",
        "CALL ",
    ),
)
_sql = st.lists(st.sampled_from(_WORDS), max_size=20).map("".join) | st.text(max_size=60)
_STATEMENTS: Final = (
    "SELECT \"shop_item\".\"id\", 'x''y' FROM \"shop_item\" INNER JOIN b ON (a = b.c) WHERE id IN (%s, %s) AND n = 'O''Brien'",
    "INSERT INTO shop.order (id, total) VALUES (1, 2.5), (3, 4.5) ON CONFLICT DO NOTHING RETURNING id",
    "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM t WHERE n < 100) UPDATE a SET b = $1 FROM t",
    "SELECT `a`.`b` FROM `c` WHERE d = 'it\\'s' # comment\n AND e = 0xFF /* hint */",
    "DECLARE c CURSOR FOR SELECT q'[it's]', $tag$ body $tag$, E'\\x41' FROM [dbo].[t] WHERE x = :name",
)


def check_sql(sql: str) -> None:
    for dialect in ("postgresql", "mysql", "mssql", "unknown"):
        _check_statement(sql, dialect)  # type: ignore[arg-type]


def _check_statement(sql: str, dialect: Dialect) -> None:
    found = _describe(sql, dialect)
    assert len(found.text) <= 2000, len(found.text)
    assert len(found.operation) <= 64, found.operation
    assert len(found.tables) <= 200, len(found.tables)
    assert all(len(table) <= 300 for table in found.tables), found.tables
    # As it is read again by a backend, or by this app.
    if len(found.text) < 2000:
        _describe(found.text, dialect)


# ----- keys and commands


def check_key(key: str) -> None:
    assert len(_key_pattern(key)) <= 100


def check_redis(arguments: Any) -> None:
    if isinstance(arguments, list) and arguments:
        assert len(statement_of(arguments)) <= 2500


def check_commands(text: str) -> None:
    for pipelined in (True, False):
        shown, name = redact_commands(text, pipelined=pipelined)
        assert len(shown) <= 5000
        assert 0 < len(name) <= 32
        assert all(line.isprintable() for line in shown.split("\n")), shown


# ----- errors


def check_message(text: str) -> None:
    bare(redact_db_error)(text)
    _redact_message(text[:8192])


def check_stack(text: str) -> None:
    for limit in (200, 4000):
        assert len(bare(redact_stacktrace)(text, limit)) <= limit


class _Named(Exception):
    """An error with any name, notes, causes and members."""


def _error(spec: Any, depth: int = 0) -> BaseException:
    if not isinstance(spec, dict):
        return ValueError(spec)
    message = spec.get("message")
    members = spec.get("members")
    error: BaseException
    group: Any = getattr(builtins, "BaseExceptionGroup", None)  # Python 3.11 and later
    if isinstance(members, list) and members and depth < 12 and group is not None:
        error = group(str(message), [_error(each, depth + 1) for each in members])
    else:
        error = _Named(message)
    notes = spec.get("notes")
    if notes is not None:
        with suppress(Exception):
            error.__notes__ = notes  # type: ignore[attr-defined]
    cause = spec.get("cause")
    if cause is not None and depth < 12:
        error.__cause__ = _error(cause, depth + 1)
    context = spec.get("context")
    if context is not None and depth < 12:
        error.__context__ = _error(context, depth + 1)
    if spec.get("raised") is not None:
        try:
            raise error
        except BaseException as raised:
            return raised
    return error


def check_error(spec: Any) -> None:
    error = _error(spec)
    for limit in (300, 8000):
        assert len(bare(redacted_stack)(error, limit)) <= limit


_MESSAGES: Final = (
    'duplicate key value violates unique constraint "auth_user_username_key"\nDETAIL:  Key (username)=(jane) already exists.\n',
    'null value in column "name" of relation "x" violates not-null constraint\nCONTEXT:  COPY x, line 1\nHINT:  none',
    "(1062, \"Duplicate entry 'a@b.c' for key 'email'\")",
    'near "SELEC": syntax error',
    "Command # 1 (GET user:1) of pipeline caused error: WRONGTYPE with args beginning with: 'a' 'b'",
    "Key 'user:42' not found",
    "1 validation error for A\nx\n  Input should be 1 [type=int, input_value='secret', input_type=str]",
    '\n"""\nTraceback (most recent call last):\n  File "a.py", line 1, in b\n    c()\nValueError: \'x\'\n"""\n',
    "value too long for type character varying(10)\nLINE 1: INSERT INTO a VALUES ('x')\n               ^",
)
_STACK: Final = """Traceback (most recent call last):
  File "/srv/shop/views.py", line 42, in checkout
    pay(card="4111111111111111")
ValueError: card 'x' refused

The above exception was the direct cause of the following exception:

  + Exception Group Traceback (most recent call last):
  |   File "a.py", line 1, in <module>
  | ExceptionGroup: two (2 sub-exceptions)
  +-+---------------- 1 ----------------
    | ValueError: password='hunter2'
    +---------------- 2 ----------------
    | KeyError: 'x'
    +------------------------------------
"""
_STACK_WORDS: Final = (
    *(
        '  File "a.py", line 1, in b\n',
        "    code()\n",
        "ValueError: x\n",
        "Traceback (most recent call last):\n",
        "\n\n",
    ),
    *(
        "  | ",
        "  +-+---------------- 1 ----------------\n",
        "    +------------------------------------\n",
        "DETAIL:  ",
        '"""\n',
    ),
    *(
        "The above exception was the direct cause of the following exception:\n",
        "  [Previous line repeated 9 more times]\n",
    ),
)
_error_specs = st.recursive(
    st.text(max_size=30),
    lambda inner: st.fixed_dictionaries(
        {"message": st.text(max_size=30) | st.none() | st.binary(max_size=9)},
        optional={
            "notes": st.lists(st.text(max_size=20), max_size=3) | st.integers(),
            "cause": inner,
            "context": inner,
            "members": st.lists(inner, max_size=3),
            "raised": st.just(1),
        },
    ),
    max_leaves=5,
)

# ----- URLs


def check_url(url: str) -> None:
    shown = bare(sanitise_url)(url, _keys)
    assert len(shown) <= 30_000
    shown.encode("utf-8")
    _sanitise_any_url(url[:8192], _keys).encode("utf-8")


def check_query(query: str) -> None:
    found = bare(redact_query)(query, _keys)
    assert len(found) <= 50
    for name in found:
        assert 0 < len(name) <= 64
        assert name.isascii() and name.isprintable(), name


def check_address(url: str) -> None:
    check_line(shown_address(url), 700)
    try:
        address = parse_address(url)
    except ValueError:
        return
    check_line(shown_address(f"{address.scheme}://{address.where}"), 700)
    assert host_and_port(address.host, address.port)
    # It is a part of a request's first line.
    assert address.target.isascii() and address.target.isprintable() and " " not in address.target, address.target
    if address.authorization is not None:
        check_headers({"Authorization": address.authorization})
    with suppress(ValueError):
        link_base(url)


_URLS: Final = (
    "https://user:p%40ss@example.org:8443/a/b%20c/reset/MQ-abc123/?token=x&page=2&next=%2Fa%3Fkey%3D1#frag",
    "http://[2001:db8::1%25eth0]:80/a;b=c?x[]=1&x[]=2&&=",
    "//host/path?q=a+b",
    "mailto:a@b.c",
    "file:///etc/passwd",
    "ws://h/a/../b",
    "postgres://u:p@h/db",
)
_url_words = (
    "http://",
    "://",
    "@",
    ":",
    "/",
    "?",
    "&",
    "#",
    "token=",
    "%2F",
    "%3F",
    "%3D",
    "[",
    "]",
    "a",
    "=",
    ";",
    "//",
)
_urls = st.lists(st.sampled_from(_url_words), max_size=20).map("".join) | st.text(max_size=60)

# ----- any text, attributes


def check_text(text: str) -> None:
    for random in (True, False):
        redact_text(text, random=random)
    for mode in ("masked", "full", "off"):
        mask_email(text, mode)  # type: ignore[arg-type]
    check_line(printable(text), 10 * len(text) + 10)
    check_line(printable(text, 60), 60)
    name = attribute_name(text)
    assert 0 < len(name) <= 100
    assert name.isascii() and name.isprintable(), name


_sanitizer: Final = AttributeSanitizer()
#: Older versions of the SDK log a line for each map that user code sets as an attribute, with and without this app.
_LOGS_MAPS: Final = not dict(BoundedAttributes(attributes={"map": {"name": 1}}))


def check_values(attributes: Any) -> None:
    """Attributes that users and libraries set, to the bytes that are sent."""
    if not isinstance(attributes, dict):
        return
    found = _sanitizer.attributes(attributes)
    check_attributes(
        {key: value for key, value in found.items() if isinstance(value, (str, list))}, 8192, len(attributes)
    )
    given = {str(key): value for key, value in attributes.items()}
    redact_resource(given, _keys)
    spans = recorded(str(next(iter(attributes), "fuzz")), attributes)
    for span in spans:
        check_attributes(span.attributes or {})
        assert len(span.name) <= 300
    ExportTraceServiceRequest.FromString(encode_spans(spans))


_scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.binary(max_size=10), st.decimals(),
    st.uuids(), st.dates(), st.complex_numbers(),
)  # fmt: skip
_NAMES: Final = (
    *("db.statement", "db.query.text", "db.system", "http.url", "url.full", "url.query", "http.route", "cache.key"),
    *(
        "exception.message",
        "exception.stacktrace",
        "user_agent.original",
        "password",
        "a",
        "orderId",
        "",
        "db.system.name",
    ),
)
_attributes = st.dictionaries(
    st.sampled_from(_NAMES) | st.text(max_size=10), _scalars | st.lists(_scalars, max_size=3), max_size=6
)

_texts = st.text(max_size=80)

TARGETS: Final = (
    Target("SQL", check_sql, _sql, _STATEMENTS, _WORDS, weight=3),
    Target(
        "cache keys",
        check_key,
        _texts,
        (
            "shop:1:blueprint:42:list",
            "template.cache.sidebar." + "a" * 32,
            "views.decorators.cache.cache_page..GET." + "a" * 32 + "." + "b" * 32 + ".en-us.UTC",
            "user_jane.doe@example.org_2026-01-01",
            "session:eyJhbGciOiJIUzI1NiJ9.e30.x",
            "conj:auth_user:id=1&name=x",
            "a:b::1.2.3.4:aa-bb-cc-dd-ee-ff",
        ),
        (":", ".", "-", "_", "a" * 32, "conj:", "rq:", "template.cache."),
    ),
    Target(
        "Redis commands",
        check_redis,
        st.lists(st.text(max_size=20) | st.binary(max_size=20) | st.integers() | st.none(), min_size=1, max_size=6),
        (
            ["SET", "blueprint:42", "x"],
            [b"MGET", b"a:1", b"b:2"],
            ["EVAL", "return 1", 0],
            ["CLIENT SETINFO", "LIB-NAME", "x"],
        ),
    ),
    Target(
        "commands of key-value stores",
        check_commands,
        _texts,
        ("SET user:1 secret\nGET a\nZADD k 1 v", "FT.SEARCH idx '@a:{b}'"),
        ("\n", " ", "\r"),
    ),
    Target(
        "exceptions' messages",
        check_message,
        _texts,
        _MESSAGES,
        _STACK_WORDS + ("'", '"', "near '", "DETAIL: ", "(1, '"),
    ),
    Target(
        "stack traces",
        check_stack,
        st.lists(st.sampled_from(_STACK_WORDS), max_size=20).map("".join),
        (_STACK, *_MESSAGES),
        _STACK_WORDS,
    ),
    Target(
        "exceptions",
        check_error,
        _error_specs,
        (
            {"message": "x", "cause": {"message": "y", "raised": 1, "notes": ["a"]}, "raised": 1},
            {"message": "g", "members": ["a", {"message": "b"}]},
        ),
        linear=False,
    ),
    Target("URLs", check_url, _urls, _URLS, _url_words),
    Target(
        "query strings",
        check_query,
        _urls,
        ("page=2&token=abc&q=a+b", "a[]=1&a[]=2&&=&b", "x=" + "%41" * 50),
        ("&", "=", "%", "+", "token=", "a=1&"),
    ),
    Target("addresses of servers", check_address, _urls, _URLS, _url_words, ("http://h/\udcff", "http://h/?\udcff")),
    Target(
        "any text",
        check_text,
        _texts,
        (
            *_MESSAGES,
            *_URLS,
            "Cookie: a=b; c=d",
            "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END",
            "card 4111 1111 1111 1111",
        ),
        ("password=", "token: ", "Bearer ", "://a:b@", "4111 ", "--key "),
        ("aB" * 50, "rgé" + "é" * 12 + "Q-2Fa%3Fkey%3D1" * 9),
        weight=2,
    ),
    Target(
        "attributes",
        check_values,
        _attributes,
        (
            {
                "db.statement": _STATEMENTS[0],
                "db.system": "postgresql",
                "http.url": _URLS[0],
                "orderId": 7,
                "tags": ["a", "b"],
            },
            {
                "exception.message": _MESSAGES[0],
                "exception.stacktrace": _STACK,
                "cache.key": "a:1",
                "ratio": 0.5,
                "on": True,
            },
        ),
        former=({"": 1}, {"a": {"": 1}}, {"a": [{"b": [{"": 1}]}]}),
        logs=_LOGS_MAPS,
        weight=4,
    ),
    Target(
        "database systems",
        lambda text: dialect_of(text),
        st.text(max_size=20) | _scalars,
        ("postgresql", "mysql", "microsoft.sql_server"),
        linear=False,
    ),
)
