"""What operators and people enter: settings, environment variables, sampling rules, searches."""

from __future__ import annotations

import json
import time
from argparse import ArgumentTypeError
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, Final

from django.http import QueryDict
from django.test import RequestFactory
from hypothesis import strategies as st

from django_tracing.conf import environment
from django_tracing.conf.loading import load
from django_tracing.conf.patterns import bounded_search, regex_problem
from django_tracing.conf.table import SPECS
from django_tracing.conf.values import Settings
from django_tracing.conf.variables import BY_A_PACKAGE, HONORED, NOT_HONORED
from django_tracing.exceptions import ReadError
from django_tracing.export.errors import checked_headers
from django_tracing.management.commands.trace_dependencies import _ago
from django_tracing.management.commands.traces import _attribute, _moment, _positive, _seconds
from django_tracing.net import link_base, parse_address, shown_address
from django_tracing.pages.forms import SearchForm
from django_tracing.pages.links import attribute_address, changed_query, current_views, trace_address, trace_id_in
from django_tracing.pages.list import _before
from django_tracing.pages.preview import PreviewForm
from django_tracing.recording.factory import SpanFactory  # noqa: F401 - what settings are for is imported
from django_tracing.sampling.database import as_rule
from django_tracing.sampling.rules import Rule, TraceStart, compile_rules
from django_tracing.sampling.sampler import RuleSampler
from django_tracing.sampling.strategies import inexpressible, serve
from django_tracing.traces import query
from django_tracing.traces.durations import parse_duration
from django_tracing.traces.times import to_nanoseconds
from tests.fuzz import backends, files
from tests.fuzz.promises import check_json, check_line
from tests.fuzz.running import Target

__all__ = ["TARGETS"]

# ----- settings


def check_loaded(loaded: Settings) -> None:
    """Each problem is one line; what has none can be used."""
    assert isinstance(loaded, Settings)
    for problem in (*loaded.problems, *loaded.warnings):
        check_line(str(problem), 3000)
    assert not loaded.problems or not loaded.enabled
    if loaded.problems:
        return
    for endpoint in (loaded.endpoint, *loaded.endpoints, loaded.query_url, loaded.remote_sampling_url):
        if endpoint:
            address = parse_address(endpoint)
            assert address.target.isascii()
            check_line(shown_address(endpoint), 700)
    if loaded.query_url:
        link_base(loaded.query_url)
    with suppress(ValueError):  # it is reported when the exporter is made
        assert all(value.isascii() for value in checked_headers(loaded.headers).values())
    assert 0.0 <= loaded.sample_rate <= 1.0
    RuleSampler(loaded.sample_rate, loaded if loaded.remote_sampling_url is None else None)
    for name, value in loaded._asdict().items():
        assert not isinstance(value, float) or value == value, f"{name} is {value}"
    assert str(loaded.service_name).strip()
    loaded.source("SAMPLE_RATE")


_SPECS: Final = tuple(spec.name for spec in SPECS)


def check_settings(tracing: Any) -> None:
    if isinstance(tracing, dict):
        # Code that is named is imported: what these name is in tests/test_strange_things.py.
        tracing = {
            key: value
            for key, value in tracing.items()
            if not (isinstance(value, str) and "." in value and key in _LATE)
        }
    check_loaded(load(tracing, {}))


_LATE: Final = ("READER", "ROUTE_NAME", "REDACT", "SUBSCRIPTION", "EXPORTER")


def check_environment(variables: Any) -> None:
    if not isinstance(variables, dict):
        return
    # As the operating system has them.
    environ = {
        name: value.encode("utf-8", "surrogateescape" if _escapable(value) else "replace")
        .decode("utf-8", "surrogateescape")
        .replace("\0", "")
        for name, value in variables.items()
        if isinstance(name, str) and isinstance(value, str)
    }
    check_loaded(load({}, environ))
    for name, value in environ.items():
        validate = environment._VALIDATORS.get(name) or (
            environment._patterns if name.endswith("_EXCLUDED_URLS") else None
        )
        problem = None if validate is None or not value.strip() else validate(name, value)
        if problem is not None:
            check_line(f"{problem.variable} {problem.message} {problem.hint}", 2000)


def _escapable(value: str) -> bool:
    try:
        value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


_VARIABLES: Final = tuple(
    sorted(
        {*HONORED, *BY_A_PACKAGE, *NOT_HONORED, *(name for spec in SPECS for name in spec.env)}
        # These name code, which is searched for in all installed packages.
        - {"OTEL_PYTHON_CONTEXT", "OTEL_PYTHON_ID_GENERATOR", "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS"}
    )
)
_scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.binary(max_size=9), st.complex_numbers(),
    st.dates(), st.timedeltas(), st.just(object()), st.sampled_from([object, len, lambda *a: 1 / 0]),
)  # fmt: skip
_anything = st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner)
        | st.frozensets(st.text(max_size=5), max_size=3)
        | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3)
    ),
    max_leaves=5,
)
_TRACING: Final = {
    "SERVICE_NAME": "shop", "EXPORTER": "otlp", "ENDPOINT": "http://u:p@collector:4318/v1/traces", "HEADERS": {"X-Key": "secret"},
    "SAMPLE_RATE": 0.5, "IGNORE_PATHS": ["/health"], "TRUSTED_PROXIES": ["10.0.0.0/8"], "TRUST_PARENT": ["::1"],
    "QUERY_URL": "http://jaeger:16686", "DEBUG_HEADER": "X-Debug", "PROPAGATORS": ["tracecontext"], "KEEP_SLOWER_THAN": 1.5,
    "COMMANDS": ["migrate"], "RESOURCE_ATTRIBUTES": {"a": "b"}, "PEER_SERVICES": {"host:80": "name"}, "SPOOL": ("/tmp/x", 10),
    "CACHE_KEY_PREFIXES": ["a:"], "PROPAGATE_TO": ["*.example.org"], "RESPONSE_HEADERS": ["traceresponse"], "ENDPOINTS": None,
    "SAMPLING_CLIENTS": ["10.0.0.1"], "SEMCONV_STABILITY_OPT_IN": ["http"], "MAX_ATTRIBUTE_LENGTH": 100, "QUEUE_BYTES": 2**24,
}  # fmt: skip

# ----- rules


@lru_cache(maxsize=1)
def _sampler_settings() -> Settings:
    return load({"EXPORTER": "none", "SAMPLE_RATE": 0.5, "KEEP_ERRORS": True}, {})


_TEXT_FIELDS: Final = (
    "name",
    "operation",
    "method",
    "path",
    "service",
    "user_id",
    "subscription",
    "header_name",
    "header_value",
)


def check_rules(rows: Any, start: Any) -> None:
    """Rows of the table, as any program may have written them, and a request."""
    rules: list[Rule] = []
    for number, row in enumerate(rows if isinstance(rows, list) else []):
        if not isinstance(row, dict):
            continue
        fields: dict[str, Any] = {name: str(row.get(name) or "")[:300] for name in _TEXT_FIELDS}
        for name in ("rate", "max_per_second", "keep_slower_than"):
            value = row.get(name)
            fields[name] = (
                float(value) if isinstance(value, (int, float)) and abs(value) < 1e300 or value != value else None
            )
        fields["rate"] = 50.0 if fields["rate"] is None else fields["rate"]
        rules.append(as_rule(SimpleNamespace(pk=number, keep_errors=None, valid_until=None, **fields)))  # type: ignore[arg-type]
    given = start if isinstance(start, dict) else {}
    path, route = (str(given.get(name, "")) for name in ("path", "route"))
    begun = TraceStart(
        path=path,
        route=route,
        method="GET",
        headers={"HTTP_X": path},
        user_id=None if given.get("user") is None else str(given["user"]),
    )
    found = compile_rules(rules, "shop")
    found.match(begun, 1000.0)
    found.explain(begun, 1000.0)
    found.uses_routes(frozenset({route, "items/<int:pk>"}))
    for rule, why in found.left_out:
        assert why
        assert rule in rules
    for rule in rules:
        inexpressible(rule)
    check_json(json.dumps(serve(rules, path, 0.5).document))
    sampler = RuleSampler(0.5, _sampler_settings())
    sampler.use(found)
    for trace_id in (1, 2**127):
        from opentelemetry.trace import SpanKind

        request = SimpleNamespace(META={"HTTP_X": path}, method="GET", path_info=path, path=path, urlconf=None)
        state = SimpleNamespace(request=request, user=None, user_known=False, user_attributes=None)
        sampler.decide(state, "GET", SpanKind.SERVER, None, trace_id)
    check_json(json.dumps(sampler.describe()))


def check_pattern(pattern: str, text: str) -> None:
    problem = regex_problem(pattern)
    if problem:
        check_line(problem, 1000)
    else:
        bounded_search(pattern, 2)(text)


_rule = st.fixed_dictionaries(
    {},
    optional={
        "path": st.text(max_size=20) | st.sampled_from(["~^/api/v[12]/", "/a/*/b?", "~(a+)+$", "*", "**a**"]),
        "service": st.text(max_size=9),
        "method": st.sampled_from(["GET", "get", "x"]),
        "user_id": st.text(max_size=5),
        "header_name": st.text(max_size=9),
        "rate": st.floats() | st.integers(),
        "max_per_second": st.none() | st.floats(),
        "keep_slower_than": st.none() | st.floats(),
    },
)

# ----- searches


class _Views:
    def address(self, page: str, *args: Any) -> str:
        return "/tracing/"


@contextmanager
def _searching() -> Iterator[None]:
    token = current_views.set(_Views())  # type: ignore[arg-type]
    try:
        with files._in_folder():
            yield
    finally:
        current_views.reset(token)


def _search(wanted: Mapping[str, Any], before: tuple[int, str] | None) -> None:
    from django_tracing.traces.readers.sqlite.store import LocalStore

    store = LocalStore(files._template())
    try:
        store.search(**wanted, limit=5, before=before)
    finally:
        store.close()
    backends._client.status, backends._client.body = 200, b'{"summaries": []}'
    backends._asked(lambda: backends._reader("v3").search(**{**wanted, "service": "shop"}, limit=5, before=before))


def check_form(data: Any) -> None:
    """The parameters of the pages."""
    given = QueryDict(mutable=True)
    for name, value in data.items() if isinstance(data, dict) else ():
        # Django decodes what a browser sent: there are no surrogates.
        given[str(name).encode("utf-8", "replace").decode()] = str(value).encode("utf-8", "replace").decode()
    request = RequestFactory().get("/tracing/")
    request.GET = given
    check_line(changed_query(request, before=None, o="x"), 200_000)
    before = _before(given.get("before", ""))
    form = SearchForm(given)
    if form.is_valid():
        _search(form.query(), before)
        assert 0 < form.page_size <= 500
    preview = PreviewForm(given)
    if preview.is_valid():
        preview.trace_start()
    found = trace_id_in(given.get("trace", ""))
    assert found == "" or trace_address(found)
    check_line(attribute_address(given.get("operation", ""), given.get("user", "")), 200_000)


def check_terms(text: str) -> None:
    """What is entered on the command line."""
    with suppress(ValueError):
        found = query.attributes(text)
        assert all(key.strip() for key in found)
    with suppress(ReadError):
        assert 6 <= len(query.trace_id_prefix(text)) <= 32
    with suppress(ValueError):
        to_nanoseconds(parse_duration(text))
    wanted: dict[str, Any] = {"service": text, "operation": text, "attributes": {}}
    for name, parse in (("min_duration", _seconds), ("start", _moment), ("end", _moment)):
        with suppress(ArgumentTypeError, ValueError, TypeError):
            wanted[name] = parse(text)
    with suppress(ArgumentTypeError, ValueError, TypeError):
        wanted["attributes"] = dict([_attribute(text)])
    with suppress(ArgumentTypeError, ValueError, TypeError):
        assert 0 < _positive(text) <= 10_000
    _search(wanted, None)
    with suppress(ArgumentTypeError, ValueError, TypeError):
        start = time.time() - _ago(text)
        backends._client.body = b'{"data": [], "result": {"resourceSpans": []}}'
        backends._asked(lambda: backends._reader("v3").dependencies(start=start, service="shop"))


_FORM: Final = {
    "service": "shop", "operation": "GET /items", "min_duration": "250ms", "max_duration": "1.5s", "status_code": "404", "user": "42",
    "correlation_id": "a1", "attributes": 'http.method=POST "db.name=my db"', "within": "3600", "start": "2026-01-31 13:45",
    "end": "2026-01-31T14:00:00+02:00", "limit": "20", "errors_only": "on", "before": "1795435200000000000-abc", "trace": "ab" * 16,
    "path": "/items/7/", "headers": "X-Debug: 1\nb", "method": "post",
}  # fmt: skip
_TERMS: Final = (
    "http.method=POST",
    'a=b "c=d e"',
    "250ms",
    "1,5 s",
    "2026-01-31T13:45Z",
    "15m",
    "ab" * 16,
    "9" * 310 + "d",
    "20",
)

TARGETS: Final = (
    Target(
        "TRACING",
        check_settings,
        st.dictionaries(st.sampled_from(_SPECS) | st.text(max_size=9), _anything, max_size=4) | _anything,
        (_TRACING, *({name: value} for name, value in _TRACING.items())),
        ("http://", "10.0.0.0/8", "*", ":99999", "grpc"),
        ({"IGNORE_PATHS": ["\x9d"]}, {"\x1b[31m\n" * 99: 1}, {"COMMANDS": ["\u202e"]}),
        linear=False,
        weight=4,
    ),
    Target(
        "environment variables",
        check_environment,
        st.dictionaries(st.sampled_from(_VARIABLES), st.text(max_size=30), min_size=1, max_size=4),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "https://u:p@c:4318/x",
                "OTEL_EXPORTER_OTLP_HEADERS": "a=b,c=d%20e",
                "OTEL_TRACES_EXPORTER": "otlp,console",
            },
            {
                "OTEL_RESOURCE_ATTRIBUTES": "service.name=x,deployment.environment=p%20q",
                "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
                "OTEL_TRACES_SAMPLER_ARG": "0.5",
            },
            {
                "OTEL_BSP_SCHEDULE_DELAY": "5000",
                "OTEL_BSP_MAX_QUEUE_SIZE": "2048",
                "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "512",
                "OTEL_PROPAGATORS": "tracecontext,b3",
            },
            {
                "OTEL_PYTHON_DJANGO_EXCLUDED_URLS": "health,^/a.*",
                "OTEL_SDK_DISABLED": "true",
                "JAEGER_ENDPOINT": "udp://agent:6831",
            },
            *({name: "1"} for name in _VARIABLES),
        ),
        ("http://[", "nan", "1e309", ",,=", "%zz", "(a+)+$", "endpoint=", "\udcff"),
        linear=False,
        weight=4,
    ),
    Target(
        "sampling rules",
        lambda values: check_rules(*values),
        st.tuples(
            st.lists(_rule, max_size=3),
            st.fixed_dictionaries(
                {"path": st.text(max_size=20)},
                optional={"route": st.text(max_size=9), "user": st.none() | st.text(max_size=5)},
            ),
        ),
        (
            (
                [
                    {"path": "/api/*/orders/?", "method": "GET", "rate": 50.0},
                    {"path": "~^/v[12]/(a|b)+c", "rate": 10},
                    {"header_name": "X-Debug", "header_value": "1", "max_per_second": 5.0},
                ],
                {"path": "/api/x/orders/", "route": "api/<x>/orders/"},
            ),
            (
                [{"user_id": "42", "path": "/a"}, {"subscription": "gold"}, {"service": "sh*p", "rate": 1}],
                {"path": "/a", "user": "42"},
            ),
        ),
        ("*", "?", "~^/", "(a|b)*", "[a-z]+", "{1,9}", "\\d", "(?="),
        weight=3,
    ),
    Target(
        "patterns",
        lambda values: check_pattern(*values),
        st.tuples(st.text("a.*+?()[]|^$\\{}1,-!:=<>Pd", max_size=20), st.text("ab/1", max_size=20)),
        (("^/api/v[12]/", "/api/v1/"), (r"(?i)/(?:a|b)+\d{2,3}$", "/ab12"), ("(a+)+$", "aaaa")),
        ("(?:", ")*", "+", "[^", "]", "{2,}", "(?P<a>", "(?=", "\\1", "|"),
        (("(?\u202e", ""), ("[a||b]", "")),
        linear=False,
        weight=4,
    ),
    Target(
        "search forms and parameters",
        check_form,
        st.dictionaries(st.sampled_from(sorted(_FORM)), st.text(max_size=20), max_size=5),
        (_FORM, {"min_duration": "1s", "before": "5-x"}, {"trace": f"00-{'ab' * 16}-{'cd' * 8}-01"}),
        ("ms", "=", '"', "'", "2026-", "T", "+00:00", "0001-01-01", "9999-12-31"),
        around=_searching,
        linear=False,
        weight=15,
    ),
    Target(
        "search terms",
        check_terms,
        st.text(max_size=30),
        _TERMS,
        ("ms", "d", "=", '"', "2026-", "T", "Z", "9" * 310),
        ("\udcff", "9" * 310 + "d"),
        _searching,
        linear=False,
        weight=10,
    ),
)
