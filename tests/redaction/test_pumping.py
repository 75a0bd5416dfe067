"""Test that text from outside is read in linear time. Work is counted, not timed.

Each function that reads such text is called with a prefix, a word many times and a suffix. The words consist of the
characters that the function distinguishes. The work of Python's lines and methods is counted (tests/work_counter.py);
that of regular expressions is proven (tests/test_linear.py).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from ipaddress import ip_network
from typing import Any, NamedTuple

import pytest
from django.test import RequestFactory
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import context as context_api
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind, TraceState, set_span_in_context
from opentelemetry.util.re import _DELIMITER_PATTERN

from django_tracing.conf.patterns import regex_problem
from django_tracing.context.clients import client_address, vouched_address
from django_tracing.context.extraction import (
    _WellFormed,
    well_formed_baggage,
    well_formed_traceparent,
    well_formed_tracestate,
    without_gaps,
)
from django_tracing.context.outgoing import may_get
from django_tracing.context.propagation import available_propagator
from django_tracing.context.request import incoming_id
from django_tracing.export.errors import from_status
from django_tracing.export.grpc import _failure
from django_tracing.export.otlp import rejected_spans
from django_tracing.export.wire import encode_span
from django_tracing.instrumentation.request.incoming import _getter
from django_tracing.instrumentation.request.server_timing import server_timing
from django_tracing.instrumentation.upstream.redis_commands import statement_of
from django_tracing.redaction import (
    REDACTED,
    SensitiveKeys,
    describe_sql,
    key_pattern,
    mask_email,
    redact_db_error,
    redact_query,
    redact_stacktrace,
    redact_text,
    redacted_stack,
    sanitise_sql,
    sanitise_url,
    sql,
)
from django_tracing.redaction.attributes import AttributeSanitizer, attribute_name
from django_tracing.redaction.commands import redact_commands
from django_tracing.redaction.keys import _key_pattern
from django_tracing.redaction.patterns import Pattern
from django_tracing.sampling.remote import parse_strategy
from django_tracing.sampling.rules import Rule, TraceStart, compile_rules
from django_tracing.sampling.trace_state import with_own_randomness, with_threshold
from django_tracing.spans.errors import record_error
from tests.linear import steps
from tests.work_counter import work

_keys = SensitiveKeys()
#: Parts that patterns of keys look for.
_KEYS = (
    *(
        "django.contrib.sessions.cache" + "a" * 32,
        "a@b.c:",
        "eyJhbGciO",
        "user_",
        "user-list-",
        "isActive",
        "a:b::",
        "::1",
    ),
    *(
        "views.decorators.cache.cache_page.",
        "." + "a" * 32,
        "template.cache.a",
        "xrq:",
        "rq:",
        "conj:",
        ".reply.celery.pidbox",
    ),
    *("1.2.3.", "aa:", "aa-", "0000-", "aaaaaaaa-", "*:", "a b:", "shop:1:"),
)
_guidelines = AttributeSanitizer()
_proxies = (ip_network("10.0.0.0/8"),)
_rules = compile_rules(
    [Rule(1, "one", path="*a*b*c"), Rule(2, "two", path="~^/(a.*)b"), Rule(3, "3", path="/a?b*")], ""
)
_caller = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"
_propagator, _ = available_propagator(["tracecontext", "baggage"])


def _describe(text: str) -> object:
    sql._describe_cached.cache_clear()
    return describe_sql(text)


class Reader(NamedTuple):
    """A function that reads text from outside."""

    read: Callable[[str], object]
    #: The characters that it distinguishes.
    alphabet: str
    words: tuple[str, ...] = ()


READERS = {
    "text": Reader(
        redact_text,
        "a1A @.%4:=/'\"{[(\\,;-_>&?+",
        (
            *(
                "password=",
                "token: ",
                "Bearer ",
                "eyJhbGciO",
                "://a:b@",
                "[redacted]",
                "4111 ",
                "cookie: ",
                "secret='",
                "IDENTIFIED BY ",
                "create user a ",
                "password '",
            ),
            *("-----BEGIN A", "-----END A-----", "/hooks/", "hooks.a/", "bot12345:", "xoxb-1234", "Zx8abQ9f1cDkk2Lm"),
            *(
                "api key is ",
                " is ",
                "--token ",
                "mysql -p ",
                "?key=",
                "%26key%3D",
                "&a=%3F",
                "5d41402abc4b2a76",
                "words-and_more",
            ),
        ),
    ),
    "database error": Reader(
        redact_db_error, "a1 '\"\\(,)\n:«“", ("(1, '", "near '", "DETAIL: ", "out of range: ", "\nLINE 1: ", "')")
    ),
    "error of a cache": Reader(
        redact_db_error,
        "a1 '()",
        ("Key '", "' not found", "Command # 1 (GET", ") of pipeline", "with args beginning with:"),
    ),
    "stack": Reader(
        lambda text: redact_stacktrace(text, 8000),
        "a1 '\"\\(,)\n: |+-",
        (
            *(
                '  File "a", line 1\n',
                "ValueError: x\n",
                "  | ",
                "+-+",
                "Traceback (most recent call last):\n",
                "\n  | a",
            ),
            *(f"  +{'-' * 16} 1 {'-' * 16}\n", f"  +{'-' * 36}\n", "\nThe above exception was the direct cause\n\n"),
        ),
    ),
    "exception": Reader(
        lambda text: redacted_stack(ValueError(text), 8000),
        "a1 '\"\\(,)\n: |+-",
        ('\n"""\n', "DETAIL:  ", "\nDETAIL: ", "near '", '\n  File "a", line 1\n', "(1, '", "')"),
    ),
    "url": Reader(
        lambda text: sanitise_url(f"http://h/{text}", _keys), "a1/%4@:?&=#+-_.;", ("token=x&", "/1", "%40", "://a@")
    ),
    "query": Reader(lambda text: redact_query(text, _keys), "a1/%@:?&=#+-_.;", ("a=1&", "token=x&", "&&", "%25")),
    "e-mail": Reader(mask_email, "a@."),
    "key": Reader(key_pattern, "a1A:_-.|@%{} /", _KEYS),
    "key that is not cut": Reader(_key_pattern, "a1A:_-.|@%{} /", _KEYS),
    "sql": Reader(
        _describe,
        "a1 '\"`$\\(),;.-/*#?%:[]\nqEN",
        (
            *("with a as (", "select ", "from ", "(1),", "in (", "/*", "*/", "$a$", "q'[", "a.b,", "[a", "with "),
            *("update ", "delete a,", "insert ", "using a ", "rows from (", "lock a,", "top (", "a..", "#", "show "),
        ),
    ),
    **{
        f"sql of {dialect}": Reader(
            lambda text, dialect=dialect: sanitise_sql(text, dialect=dialect),  # type: ignore[misc]
            "a1 '\"`\\(),;-/*#?%:\n[]{$q",
            ("\\'", "''", "/*", "-- ", "/*! ", "['a']", "identified by a,", "set a = b;", "{'a'}", "E'a'\n", "$a$"),
        )
        for dialect in ("postgresql", "mssql", "mysql", "unknown")
    },
    "attribute": Reader(lambda text: _guidelines.attributes({text or "x": text}), "aA1._- @'=:\"", ("token",)),
    "attribute's name": Reader(attribute_name, "aA1._- @"),
    "span's name": Reader(_guidelines.name, "aA1._- @'=:\""),
    "status": Reader(_guidelines.message, "a1 '\"(,)\n:"),
    "sequence": Reader(
        lambda text: _guidelines.value("x", [text[at : at + 50] for at in range(0, len(text), 50)]), "a=@1"
    ),
    "correlation id": Reader(
        lambda text: incoming_id({"HTTP_X_CORRELATION_ID": text, "HTTP_X_REQUEST_ID": text}), "aA1._-: "
    ),
    "addresses": Reader(
        lambda text: client_address({"REMOTE_ADDR": "10.0.0.1", "HTTP_X_FORWARDED_FOR": text}, _proxies),
        "10.,: []",
        ("10.0.0.1,", "::ffff:10.0.0.1,"),
    ),
    "address for permissions": Reader(
        lambda text: vouched_address({"REMOTE_ADDR": "10.0.0.1", "HTTP_X_FORWARDED_FOR": text}, _proxies),
        "10.,: []",
        ("10.0.0.1,", "::ffff:10.0.0.1,"),
    ),
    "callers' headers": Reader(
        lambda text: _propagator.extract(
            {"HTTP_TRACEPARENT": _caller, "HTTP_TRACESTATE": text, "HTTP_BAGGAGE": text}, None, _WellFormed(_getter)
        ),
        "a= ,;@\t%2-",
        ("a=b,", "=,"),
    ),
    "callers' well-formed headers": Reader(
        lambda text: (
            well_formed_baggage(text),
            well_formed_tracestate(text),
            well_formed_traceparent(_caller + text),
        ),
        "a= ,;@\t%2-",
        ("a=b,", "=,", "a=b;"),
    ),
    "traceparent": Reader(
        lambda text: _propagator.extract({"HTTP_TRACEPARENT": _caller + text}, None, _WellFormed(_getter)), "-0 \ta"
    ),
    "Redis": Reader(lambda text: statement_of(["get", *text.split(":")]), "aA1._- :{}"),
    "commands": Reader(lambda text: redact_commands(text, pipelined=True), "aA1 \n\t."),
    "a command": Reader(lambda text: redact_commands(text, pipelined=False), "aA1 \n\t."),
    "rules": Reader(lambda text: _rules.match(TraceStart(path=f"/{text}", user_id=""), 0.0), "abc/"),
    "host of a call": Reader(lambda text: may_get(f"http://{text}", ("a.b", "*.x")), "a.:/@[]%"),
    "caller's randomness": Reader(
        lambda text: (
            with_own_randomness(TraceState([("ot", text[:256])])),
            with_threshold(TraceState([("ot", text[:256])]), 5),
        ),
        "a:;rv",
        ("rv:", "th:"),
    ),
    "pattern of an operator's": Reader(lambda text: regex_problem(text[:1000]), "a.*(|)?+"),
    "gRPC's answer": Reader(lambda text: _failure("UNAVAILABLE", text, "x", compressed=True), "aA \n"),
    "status and wait": Reader(lambda text: from_status(503, "x", text), "19²."),
    "OTLP's answer": Reader(lambda text: rejected_spans(text.encode("latin-1", "replace")), "\x0a\x08\x7f\x80\xff"),
    "strategy": Reader(
        lambda text: parse_strategy(
            {
                "probabilisticSampling": {"samplingRate": 1},
                "operationSampling": {
                    "perOperationStrategies": [
                        {"operation": f"{text[:9]}{number}", "probabilisticSampling": {}}
                        for number in range(len(text) // 9)
                    ]
                },
            }
        ),
        "aA/",
    ),
}


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    """Compile the patterns first: they are compiled on first use, which doesn't depend on the text."""
    for module in list(sys.modules.values()):
        if module.__name__.startswith("django_tracing.redaction"):
            for value in vars(module).values():
                for pattern in value.values() if isinstance(value, dict) else (value,):
                    if isinstance(pattern, Pattern):
                        pattern.match("")


@settings(max_examples=int(os.environ.get("PUMPING_EXAMPLES", "12")), derandomize=True)
@given(st.data())
@pytest.mark.parametrize("name", READERS)
def test_the_work_is_linear_in_the_length(name: str, data: st.DataObject) -> None:
    reader = READERS[name]
    words = st.text(reader.alphabet, min_size=1, max_size=8)
    if reader.words:
        words = st.one_of(
            words, st.sampled_from(reader.words), st.lists(st.sampled_from(reader.words), min_size=2).map("".join)
        )
    begin, word, end = (
        data.draw(st.text(reader.alphabet, max_size=3)),
        data.draw(words, label="word"),
        data.draw(st.text(reader.alphabet, max_size=3)),
    )

    _pump(reader.read, begin, word, end)


@pytest.mark.parametrize(
    ("name", "begin", "word", "end"),
    [
        # Some functions consider these digits, others don't.
        ("status and wait", "", "²", ""),
    ],
)
def test_former_failures(name: str, begin: str, word: str, end: str) -> None:
    _pump(READERS[name].read, begin, word, end)


def _pump(read: Callable[[str], object], begin: str, word: str, end: str) -> None:
    def counted(length: int) -> int:
        return work(read, begin + (word * (length // len(word) + 1))[:length] + end)

    before = counted(1000)
    for length, times in ((4000, 5), (16_000, 5), (100_000, 8)):
        after = counted(length)
        # The place of a cut may change the work: a small amount for each character is acceptable.
        assert after <= max(times * before + 300, 3 * min(length, 20_000)), f"{begin!r} + {word!r} * n + {end!r}"
        before = after


def test_nested_tuples_of_mysql_are_read_once() -> None:
    """Each used to be read again from its start."""
    nested, flat = "(1, '" * 800 + "')" * 800, "(1, '" + "1, (" * 1400 + "')"
    assert len(flat) >= len(nested)
    redact_db_error(nested)
    assert work(redact_db_error, nested) <= 5 * work(redact_db_error, flat) + 5000


@pytest.mark.parametrize("white", [" ", "\t", " \t", " ,"])
def test_white_space_in_a_callers_header_takes_linear_time(white: str) -> None:
    """OpenTelemetry's propagators search for a comma from each position: 8,000 blanks took 80 ms."""

    def counted(length: int) -> int:
        value = without_gaps("a=b" + white * (length // len(white)) + "c=d")
        return steps(_DELIMITER_PATTERN.pattern, 0, "split", value)

    assert counted(1600) <= 5 * counted(400) + 100


def test_ordinary_white_space_is_kept() -> None:
    meta = {"HTTP_BAGGAGE": "a=b ,\tc=d;x=y", "HTTP_TRACESTATE": "v=1  2,w=3"}
    assert _WellFormed(_getter).get(meta, "tracestate") == ["v=1  2,w=3"]
    context = W3CBaggagePropagator().extract(meta, context_api.Context(), _WellFormed(_getter))
    carrier: dict[str, str] = {}
    W3CBaggagePropagator().inject(carrier, context)
    assert carrier["baggage"].startswith("a=b,c=d")


# ----- Nested values


def _shared(depth: int) -> list[Any]:
    """Return nested lists that contain the same list twice: two to the power of ``depth`` items."""
    value: list[Any] = ["secret@example.com"]
    for _ in range(depth):
        value = [value, value]
    return value


def test_nested_lists_are_not_an_attribute() -> None:
    assert work(_guidelines.attributes, {"x": _shared(40)}) < 200
    assert _guidelines.attributes({"x": _shared(2), "y": [1, None, "a@b.cd"]}) == {
        "x": [REDACTED, REDACTED],
        "y": [1, None, "a***@b.cd"],
    }
    endless: list[Any] = []
    endless += [endless, endless]
    assert _guidelines.attributes({"x": endless}) == {"x": [REDACTED, REDACTED]}


def test_the_value_of_a_very_long_name_is_redacted() -> None:
    assert _guidelines.value("a" * 5000, "x") == REDACTED
    assert _guidelines.value("a" * 500, "x") == "x"


def test_encoding_a_long_sequence_takes_linear_time() -> None:
    span = TracerProvider().get_tracer("x").start_span("x")
    span.set_attribute("x", tuple(range(4000)))
    other = TracerProvider().get_tracer("x").start_span("x")
    other.set_attribute("x", tuple(range(1000)))
    assert work(encode_span, span) <= 5 * work(encode_span, other)


# ----- Spans


@pytest.mark.parametrize("calls", [1, 7])
def test_calls_below_a_chain_of_spans_take_linear_time(calls: int) -> None:
    """A recursive view, with queries at each depth."""
    tracer = TracerProvider().get_tracer("x")

    def finished(depth: int) -> list[Any]:
        found: list[Any] = []
        context = context_api.Context()
        for _ in range(depth):
            span = tracer.start_span("mine", context)
            found.append(span)
            context = set_span_in_context(span)
            for _ in range(calls):
                call = tracer.start_span("db", context, SpanKind.CLIENT, {"db.system": "sqlite", "db.statement": "x"})
                call.end()
                found.append(call)
        for span in found:
            span.end()
        return found

    few, many = finished(100), finished(400)
    server_timing(few, 1)
    assert work(server_timing, many, 1) <= 5 * work(server_timing, few, 1)
    assert f'desc="{400 * calls} queries"' in server_timing(many, 1)


def _failed(depth: int) -> Exception:
    # Two functions: Python folds the frames of one that calls itself.
    def one(left: int) -> None:
        other(left - 1)

    def other(left: int) -> None:
        if left <= 0:
            raise ValueError("too deep")
        one(left - 1)

    try:
        one(depth)
    except ValueError as error:
        return error
    raise AssertionError


def test_only_the_innermost_frames_of_a_deep_stack_are_read() -> None:
    span = TracerProvider().get_tracer("x").start_span("x")

    def counted(depth: int) -> int:
        error = _failed(depth)
        record_error(span, error)  # reads the lines of source, which are cached
        return work(record_error, TracerProvider().get_tracer("x").start_span("x"), error)

    assert counted(600) <= 1.5 * counted(200)
    [event, *_] = span.events
    stack = str((event.attributes or {})["exception.stacktrace"])
    assert stack.endswith("ValueError: too deep\n") or stack.endswith("ValueError: too deep")
    assert len(stack) > 7000


# ----- A whole request

REQUEST = """
import json, sys
import django
from django.conf import settings
from django.http import HttpResponse
settings.configure(
    ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="x", INSTALLED_APPS=["django_tracing"],
    MIDDLEWARE=["django_tracing.middleware.TracingMiddleware"], DATABASES={}, DEFAULT_AUTO_FIELD="django.db.models.AutoField",
    TRACING={"EXPORTER": "none", "SAMPLE_RATE": 0.0, "TRUST_PARENT": "always", "RESPONSE_HEADERS": ["traceresponse"]},
)
urlpatterns = []
django.setup()
from django.test import Client
client = Client()
statuses = []
for path, headers in json.load(sys.stdin):
    response = client.get(path, **headers)
    statuses.append([response.status_code, response.headers["traceresponse"][-2:]])
print(json.dumps(statuses))
"""


def test_no_path_and_no_header_delays_a_request() -> None:
    """In another process, which can be stopped: the first of these used to take minutes."""
    asked = [
        ("/1" * 30 + "/!", {}),
        ("/1" * 4000 + "/!", {}),
        ("/a1-" * 2000 + "!", {}),
        ("/?" + "a=1&" * 2000 + "!", {}),
        ("/?" + "&" * 8000, {}),
        ("/", {"HTTP_HOST": "1." * 30 + "!"}),
        ("/", {"HTTP_HOST": "a1." * 2000 + "!"}),
        ("/", {"HTTP_USER_AGENT": "4111 " * 2000}),
        ("/", {"HTTP_BAGGAGE": "a=b" + " " * 8000 + "c", "HTTP_TRACESTATE": "a=b" + " " * 8000 + "c"}),
        ("/", {"HTTP_X_CORRELATION_ID": "a" * 8000, "HTTP_X_FORWARDED_FOR": "10.0.0.1, " * 800}),
    ]
    traced = [(path, {"HTTP_TRACEPARENT": _caller, **headers}) for path, headers in asked]
    ended = subprocess.run(
        [sys.executable, "-c", REQUEST], input=json.dumps(traced), capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    # Each was recorded, as requested by its caller.
    assert [flags for _, flags in json.loads(ended.stdout)] == ["01"] * len(asked)


def test_a_requests_work_is_linear_in_its_url(db: None) -> None:
    from django_tracing.instrumentation.request.describe import _describe_url

    def counted(length: int) -> int:
        request = RequestFactory().get("/x", QUERY_STRING=("a=1&token=2&&" * length)[:length])
        return work(_describe_url, request, ("http", "h", "/x", request.META["QUERY_STRING"], (), 100))

    few = counted(1000)
    # Only 200 of thousands of parameters are read.
    assert counted(100_000) <= 5 * few + 300
