"""Test that what lives as long as the process is bounded, whatever callers and sites invent.

The inventory finds each container of the package that grows: one without a row here fails. A row of ``GROWING`` feeds
its container with names that nobody has used before. ``FEW`` has those that can't grow with what is invented.
"""

from __future__ import annotations

import ast
import functools
import gc
import importlib
import pkgutil
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from django.core.cache import CacheKeyWarning
from django.core.cache import caches as caching
from django.dispatch import Signal
from django.http import HttpRequest
from django.test import RequestFactory
from opentelemetry.context import attach, detach
from opentelemetry.propagators.textmap import default_setter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanContext, TraceFlags

import django_tracing
from django_tracing import create_span, faults
from django_tracing.conf.loading import get_settings
from django_tracing.context import clients, outgoing, user
from django_tracing.context.request import RequestState, with_request_state
from django_tracing.exceptions import ExportError
from django_tracing.export import outbox, spooling, wire
from django_tracing.export.announcements import Announcements
from django_tracing.export.counters import Counters
from django_tracing.export.outbox import Outbox
from django_tracing.export.spool import StoredBatch
from django_tracing.export.spooling import Spooling
from django_tracing.instrumentation import circuit_breaker, patching, signals, tasks, templates
from django_tracing.instrumentation.channels import messages
from django_tracing.instrumentation.request import describe, page_names
from django_tracing.instrumentation.subclasses import wrap_methods
from django_tracing.instrumentation.upstream.processor import UpstreamProcessor
from django_tracing.recording import undecided
from django_tracing.recording.undecided import UndecidedTrace
from django_tracing.redaction import describe_sql, key_pattern
from django_tracing.redaction.attributes import attribute_name
from django_tracing.redaction.names import SensitiveKeys
from django_tracing.sampling import remote, rules
from django_tracing.spans import collector, errors, locations, runtime
from django_tracing.traces.readers.jaeger import reader as jaeger_reader
from django_tracing.traces.readers.jaeger.reader import JaegerReader
from django_tracing.traces.readers.sqlite import file as sqlite_store
from django_tracing.traces.readers.sqlite.figures import FigureKeeper
from django_tracing.traces.readers.sqlite.store import LocalStore
from django_tracing.traces.readers.sqlite.writing import StoredIds
from tests.conftest import Spans
from tests.export.builders import make_spans

PACKAGE = Path(django_tracing.__file__).parent
#: The bound of a container while its row is tested, and how many names it is fed with.
SMALL, MANY = 16, 60
#: No bound is larger.
LARGEST = 10_000
#: How long invented names are at most, and how much a container may keep of one, in bytes.
LONG, KEPT = 100_000, 25_000

Feed = Callable[[str], Any]


class Growing(NamedTuple):
    """A container, what feeds it with a new name and returns it, and the name of the constant that bounds it.

    ``bound`` is None where the number is in the code itself: then it is below ``MANY_MORE``. ``any_length`` is False
    where names are those of the site's own code and URLs, which are in memory anyway.
    """

    feed: Feed
    bound: tuple[Any, str] | None = None
    any_length: bool = True


#: Enough for containers whose bound has no name.
MANY_MORE = 1100


# ----- feeding


def _header(name: str) -> Any:
    outgoing._RememberingSetter(default_setter).set({}, "traceparent", name)
    return outgoing._written


def _user(name: str) -> Any:
    request: Any = HttpRequest()
    request.user = SimpleNamespace(pk=name, email=f"{name}@example.com", is_anonymous=False)
    assert user.identify(RequestState("id", request), get_settings())
    return user._shared


def _encoded(container: Any) -> Feed:
    def feed(name: str) -> Any:
        for span in (*make_spans(1, name=name, **{name: "x", "same": name, "number": hash(name)}), *_recorded(name)):
            wire.encode_span(span)
        return container

    return feed


def _recorded(name: str) -> Any:
    with create_span(name, {name: "x", "same": name}) as span:
        span.set_attributes({name: 1})
        span.span.update_name(name)
    return [span.span]


def _fault(name: str) -> Any:
    faults.log_hourly(name, "Something happened.")
    return faults._faults.by_key


def _sending(name: str) -> Any:
    messages._may_continue(SpanContext(1, hash(name) & (1 << 63) - 1 or 1, True, TraceFlags(1)))
    return messages._continued


def _operation(name: str) -> Any:
    page_names._graphql_operation(RequestFactory().get("/graphql", {"operationName": _word(name)}), None)  # type: ignore[arg-type]
    return page_names._operations


def _word(name: str) -> str:
    """Return a name that looks like one of a programmer's: its number in letters."""
    number = int("".join(filter(str.isdigit, name)))
    return (
        "List" + "".join("abcdefghij"[int(digit)] for digit in str(number)).capitalize() + "x" * (len(name) // 1000)
    )


def _task(name: str) -> Any:
    tasks._remember_carried(name, {"traceparent": name[:100]})
    tasks._remember_carried(name[:100], {})
    return tasks._carried


def _template(name: str) -> Any:
    templates._shown(f"{_word(name)}.html")
    return templates._names


def _file(name: str) -> Any:
    locations._path_of(f"/{name}.py")
    return locations._files


def _line(name: str) -> Any:
    code = compile(
        f"def {_word(name)}():\n    return sys._getframe()\nframe = {_word(name)}()", f"/{name}.py", "exec"
    )
    found: dict[str, Any] = {"sys": sys}
    exec(code, found)
    locations._described(found["frame"], "shown")
    return locations._lines


def _undecided_trace(name: str) -> Any:
    UndecidedTrace(hash(name), None).start(SimpleNamespace(request_state=None))  # type: ignore[arg-type]
    return undecided.undecided_traces


def _undecided_spans() -> Feed:
    trace = UndecidedTrace(1, None)

    def feed(name: str) -> Any:
        trace.end_sdk_span(make_spans(1, name=name[:100])[0])
        return trace.ended

    return feed


def _sensitive(attribute: str) -> Callable[[], Feed]:
    def make() -> Feed:
        known = SensitiveKeys()

        def feed(name: str) -> Any:
            known.matches_parameter(name)
            return getattr(known, attribute)

        return feed

    return make


def _least() -> Feed:
    decider = remote._Decider(remote.Strategy(rate=0.0, lower_bound=1.0))

    def feed(name: str) -> Any:
        decider.decide(name, (1 << 64) - 1)
        return decider._least

    return feed


def _operations() -> Feed:
    listed: list[Any] = []

    def feed(name: str) -> Any:
        listed.append({"operation": name[:100], "probabilisticSampling": {"samplingRate": 1.0}})
        document = {"operationSampling": {"perOperationStrategies": listed}, "probabilisticSampling": {}}
        return remote.parse_strategy(document).operations

    return feed


def _routes() -> Feed:
    rule_set = rules.compile_rules((), "")

    def feed(name: str) -> Any:
        rule_set.uses_routes(frozenset({name}))
        return rule_set._for_routes

    return feed


def _refused() -> Feed:
    counters = Counters()
    spool: Any = SimpleNamespace()
    kept = Spooling(spool, counters, Announcements(counters), 60.0)

    def feed(name: str) -> Any:
        kept._claimed = StoredBatch(name[:60], 1, b"", -1)
        assert kept.keep(1.0, accepted=0)
        return kept._refused

    return feed


def _room() -> Feed:
    waiting = Outbox(retry_for=60, room_bytes=1_000_000, can_probe=False)

    def feed(name: str) -> Any:
        waiting.put(SimpleNamespace(count=1, size=1))
        waiting.current = waiting._fresh.popleft()
        waiting.fail(ExportError("No.", reason="refused", retryable=True), 1.0)
        return waiting._room

    return feed


def _places() -> Feed:
    class Parent:
        def send(self) -> None:
            """Send nothing."""

    patches = patching.Patches()
    patches.start()
    wrap_methods(patches, Parent, {"send": lambda original: lambda *args: original(*args)})

    def feed(name: str) -> Any:
        # A site that makes a class for each request.
        made = type(name[:100], (Parent,), {"send": lambda self: None, "data": name})
        made().send()
        return patches._placed

    return feed


def _topmost() -> Feed:
    read: Any = SimpleNamespace()

    class Reader(JaegerReader):
        _api: Any = SimpleNamespace(walk=lambda stream: [read], TRACES_PATH="")

    reader = Reader("http://127.0.0.1:9")
    client: Any = SimpleNamespace(shown="", ask_for_spans=lambda path, query, walk, none: walk(None))
    reader._client = client

    def feed(name: str) -> Any:
        read.trace_id, read.span = name, lambda: made_span(name)
        summary: Any = SimpleNamespace(trace_id=name, span_count=1)
        assert reader._topmost(summary) is not None
        return jaeger_reader._topmosts

    return feed


def made_span(name: str) -> Any:
    return SimpleNamespace(
        span_id="1", parent_id="", name=name[:100], kind="server", service="shop", start=1, end=2, attributes={}
    )


def _unreadable() -> Feed:
    keeper = FigureKeeper()

    class Damaged:
        def executemany(self, statement: str, rows: Any) -> None:
            pass

        def execute(self, statement: str, parameters: Any = ()) -> Any:
            raise LookupError

    def feed(name: str) -> Any:
        keeper._windows = lambda connection: ([each] for each in [(hash(name), 1, "0" * 32)])  # type: ignore[method-assign]
        keeper.work(Damaged())  # type: ignore[arg-type]
        return keeper._unreadable

    return feed


def _stored_ids() -> Feed:
    """The ids of one trace after the other, each with one span."""

    class OneSpan:
        def execute(self, statement: str, parameters: Any) -> Any:
            return [(1, bytes(8))]

    ids = StoredIds()

    def feed(name: str) -> Any:
        ids.of(OneSpan(), hash(name))  # type: ignore[arg-type]
        return ids._known

    return feed


def _collected() -> Feed:
    state = RequestState("id")
    state.collected = []

    def feed(name: str) -> Any:
        collector._collector._collect(state, make_spans(1, name=name[:100])[0])
        return state.collected

    return feed


def _recorded_errors() -> Feed:
    state = RequestState("id")
    # They are told apart while they live.
    raised: list[RuntimeError] = []
    span: Any = SimpleNamespace(get_span_context=lambda: SpanContext(1, 2, False))

    def feed(name: str) -> Any:
        try:
            raise RuntimeError(name)
        except RuntimeError as error:
            raised.append(error)
            token = attach(with_request_state(state))
            errors._remember(span, error)
            detach(token)
        return state.recorded

    return feed


GROWING: dict[str, Callable[[], Growing]] = {
    "context/outgoing.py:_written": lambda: Growing(_header, (outgoing, "_MOST_WRITTEN")),
    "context/user.py:_shared": lambda: Growing(_user, (user, "_MOST_SHARED")),
    "export/outbox.py:Outbox._room": lambda: Growing(_room(), (outbox, "_MOST_REFUSED")),
    "export/spooling.py:Spooling._refused": lambda: Growing(_refused(), (spooling, "_MOST_REFUSED")),
    "export/wire.py:_attributes": lambda: Growing(_encoded(wire._attributes), (wire, "_CACHED_ATTRIBUTES")),
    "export/wire.py:_keys": lambda: Growing(_encoded(wire._keys), (wire, "_CACHED_ATTRIBUTES")),
    "export/wire.py:_names": lambda: Growing(_encoded(wire._names), (wire, "_CACHED_ATTRIBUTES")),
    "faults.py:_Faults.by_key": lambda: Growing(_fault, (faults, "_MOST_FAULTS")),
    "instrumentation/channels/messages.py:_continued": lambda: Growing(_sending, (messages, "_MOST_SENDINGS")),
    "instrumentation/patching.py:Patches._placed": lambda: Growing(_places(), (patching, "_MOST_PLACES")),
    "instrumentation/request/page_names.py:_operations": lambda: Growing(
        _operation, (page_names, "_MOST_OPERATIONS")
    ),
    "instrumentation/tasks.py:_carried": lambda: Growing(_task, (tasks, "_MOST_CARRIED")),
    "instrumentation/templates.py:_names": lambda: Growing(_template, (templates, "_MOST_NAMES")),
    "recording/undecided.py:UndecidedTrace.ended": lambda: Growing(
        _undecided_spans(), (undecided, "_MOST_SPANS_OF_ONE")
    ),
    "recording/undecided.py:undecided_traces": lambda: Growing(_undecided_trace, (undecided, "_MOST_TRACES")),
    "redaction/names.py:SensitiveKeys._cache": lambda: Growing(_sensitive("_cache")()),
    "redaction/names.py:SensitiveKeys._parameters": lambda: Growing(_sensitive("_parameters")()),
    "sampling/remote.py:Strategy.operations": lambda: Growing(_operations(), (remote, "_MAX_OPERATIONS")),
    "sampling/remote.py:_Decider._least": lambda: Growing(_least(), (remote, "_MAX_OPERATIONS")),
    "sampling/rules.py:RuleSet._for_routes": lambda: Growing(_routes(), (rules, "_MOST_URLCONFS"), any_length=False),
    "spans/collector.py:*.collected": lambda: Growing(_collected(), (collector, "MOST_COLLECTED")),
    "spans/errors.py:*.recorded": lambda: Growing(_recorded_errors(), (errors, "_MOST_REMEMBERED")),
    "spans/locations.py:_files": lambda: Growing(_file, (locations, "_MOST_FILES"), any_length=False),
    "spans/locations.py:_lines": lambda: Growing(_line, (locations, "_MOST_LINES"), any_length=False),
    "traces/readers/jaeger/reader.py:_topmosts": lambda: Growing(
        _topmost(), (jaeger_reader, "_MOST_KEPT"), any_length=False
    ),
    "traces/readers/sqlite/writing.py:StoredIds._known": lambda: Growing(
        _stored_ids(), (StoredIds, "MOST"), any_length=False
    ),
    "traces/readers/sqlite/figures.py:FigureKeeper._unreadable": lambda: Growing(
        _unreadable(), (FigureKeeper, "WINDOW")
    ),
}

#: Containers whose bound another test tests.
ELSEWHERE = {
    # The queue bounds what is put into them.
    "export/outbox.py:Outbox._fresh": "tests/export/test_queue.py::test_by_bytes",
    "export/outbox.py:Outbox._parts": "tests/export/test_queue.py::test_by_bytes",
    "recording/span.py:RecordingSpan.own": "tests/recording/test_limits.py::test_the_newest_attributes_are_kept",
    "sqlite_file.py:_HeaderFiles._open": "tests/test_sqlite_file.py::test_a_process_holds_a_bounded_number_of_files",
    # They hold nothing that the site does not.
    "instrumentation/signals.py:_names": "tests/test_memory_bounds.py::test_what_the_site_has_dropped_is_not_held",
    "instrumentation/upstream/processor.py:UpstreamProcessor._started": (
        "tests/test_memory_bounds.py::test_what_the_site_has_dropped_is_not_held"
    ),
    "traces/readers/sqlite/file.py:_stores": (
        "tests/test_memory_bounds.py::test_what_the_site_has_dropped_is_not_held"
    ),
}

#: Caches of spans, which have a bound of their own: ``test_each_cache_of_spans_is_bounded``.
SPAN_CACHES = frozenset(
    f"instrumentation/{name}"
    for name in (
        *("cache.py:_calls", "cache.py:_traced_method().keys", "channels/connections.py:_starts"),
        *("circuit_breaker.py:_calls", "circuit_breaker.py:_outcomes", "database.py:_connects", "database.py:_parts"),
        *("database.py:_rows", "database.py:_statements", "files.py:_kinds", "layers.py:_view_layers"),
        *("request/describe.py:_clients", "request/describe.py:_results", "request/describe.py:_starts"),
        *("request/describe.py:_urls", "request/page_names.py:_namers", "signals.py:_kinds", "templates.py:_kinds"),
    )
)

#: Containers that do not grow with what callers and sites invent, by the reason.
_REASONS = {
    "as many as the settings and the environment have": (
        *("conf/environment.py:_found", "conf/loading.py:Loader.extra", "conf/loading.py:Loader.problems"),
        *("conf/loading.py:Loader.sources", "conf/loading.py:Loader.values", "conf/loading.py:Loader.warnings"),
        *("context/outgoing.py:OutgoingPropagator.inner", "export/otlp.py:OTLPHTTPExporter._headers"),
        *("semconv/names.py:Convention._duplicate", "semconv/names.py:Convention._rename"),
        "traces/readers/jaeger/http.py:QueryClient._headers",
    ),
    "as many as this app has instrumentations, reasons, lines of the log, caches": (
        *(
            "export/counters.py:Counters.dropped",
            "export/counters.py:_Attributes.dropped",
            "faults.py:Lasting._times",
        ),
        *("instrumentation/__init__.py:_installed", "instrumentation/imports.py:_waiting"),
        *("instrumentation/upstream/registry.py:_State.instrumentors", "redaction/vocabulary.py:_clear"),
        *("recording/undecided.py:late", "spans/runtime.py:_caches"),
        "context/marks.py:_marks",
    ),
    "as many as the site has classes of caches, URLs, languages": (
        *("context/routes.py:_Group.alternatives", "context/routes.py:_Group.parts", "context/routes.py:*.parts"),
        *("context/routes.py:_Site._named", "instrumentation/cache.py:_classes"),
    ),
    "as many as there are sampling rules": (
        *("sampling/refresh.py:Refresher._counts", "sampling/rules.py:RuleSet._headers"),
        *("sampling/rules.py:RuleSet._open_prefixes", "sampling/rules.py:RuleSet._others"),
        *("sampling/rules.py:RuleSet._prefixes", "sampling/rules.py:RuleSet._subscriptions"),
        *("sampling/rules.py:RuleSet._users", "sampling/sampler.py:RuleSampler._counts"),
    ),
    "the last one only": ("context/extraction.py:of_last().kept", "instrumentation/request/page_names.py:_loaded"),
    "of one fork": (
        *("export/grpc.py:_GRPCExporter._inherited", "sampling/refresh.py:Refresher._held_by_fork"),
        *("traces/readers/sqlite/file.py:_held", "traces/readers/sqlite/file.py:_inherited"),
    ),
    "of one batch, which BATCH_SIZE bounds": (
        *("export/batches.py:SpanBatch.spans", "export/jaeger.py:*.tags", "export/wire.py:EncodedBatch._sections"),
        *("export/local.py:LocalBatch._facts", "export/wire.py:_Section.encoded"),
    ),
    "of one call, span or request; it ends with that": (
        *("instrumentation/cache.py:_Call.kwargs", "instrumentation/files.py:_Kind.shared"),
        "instrumentation/circuit_breaker_call.py:trace_circuit_breaker_call().awaitables",
        *("instrumentation/jobs/tracing.py:Job.more", "instrumentation/jobs/tracing.py:Run._tokens"),
        *("instrumentation/request/server_timing.py:_Node.inner", "recording/probe.py:_Ended.spans"),
        *(
            "recording/sdk.py:*._attributes",
            "recording/sdk.py:SpanDraft._attributes",
            "recording/sdk.py:_Part._attributes",
        ),
        *("recording/undecided.py:*.ended", "redaction/stacks.py:_Stacks.above", "redaction/stacks.py:_Stacks.seen"),
        *(
            "redaction/tables.py:_Reader.found",
            "redaction/tables.py:_Reader.lists",
            "redaction/tables.py:_Reader.verbs",
        ),
        *("provider.py:*.known", "sampling/rules.py:TraceStart.headers"),
    ),
    "of one reading of traces; tests/traces/test_bounds.py": (
        *("traces/analysis/routes.py:_Route.durations", "traces/analysis/routes.py:_Route.times"),
        *("traces/readers/jaeger/conversion.py:EarliestSpans._roots", "traces/readers/jaeger/v1.py:*.processes"),
        *("traces/readers/jaeger/conversion.py:Group.processes", "traces/readers/jaeger/v1.py:_Sum.outlines"),
        *("traces/readers/jaeger/reader.py:_topmost().outlines", "traces/readers/jaeger/reader.py:span().found"),
        *("traces/readers/jaeger/sample.py:_read().found", "traces/readers/jaeger/v1.py:_Sum.processes"),
        "traces/readers/jaeger/windows.py:WindowSearch.found",
        "traces/readers/sqlite/chunks.py:ChunkReader._chunks",
        "traces/readers/sqlite/queries.py:SpanCondition._attributes",
        "traces/readers/sqlite/queries.py:SpanCondition._chunks",
        "traces/readers/sqlite/queries.py:SpanCondition._encoded",
        *("traces/readers/sqlite/queries.py:search_query().values", "traces/text.py:_Line._parts"),
        *("traces/readers/sqlite/queries.py:search_query().where", "traces/topmost.py:_Handled._starts"),
    ),
}
FEW = {name: reason for reason, names in _REASONS.items() for name in names}


#: Caches without a bound whose arguments are few.
UNBOUNDED = frozenset({"django_tracing.export.jaeger._timed"})  # the class of a transport


def held(container: Any) -> int:
    """Return how many bytes of text and numbers ``container`` holds, at any depth."""
    seen: set[int] = set()
    waiting = [container]
    total = 0
    while waiting:
        found = waiting.pop()
        if id(found) in seen or isinstance(found, (type, types.ModuleType, types.FunctionType, types.CodeType)):
            continue
        seen.add(id(found))
        if isinstance(found, (str, bytes, bytearray, int)):
            total += sys.getsizeof(found)
        else:
            # A dict whose keys are all text does not refer to them, as the garbage collector sees it.
            waiting += [*(found if isinstance(found, dict) else ()), *gc.get_referents(found)]
    return total


@pytest.fixture(autouse=True)
def _leave_nothing_undecided() -> Iterator[None]:
    yield
    undecided.undecided_traces.clear()
    undecided._waiting.reset()


@pytest.fixture
def row(request: pytest.FixtureRequest, spans: Spans) -> Iterator[Growing]:
    growing = GROWING[request.param]()
    # What an earlier test has left would take the place of what this one feeds.
    container = growing.feed("first0")
    before = list(container.items()) if isinstance(container, dict) else None
    container.clear()
    yield growing
    container.clear()
    if before is not None:
        container.update(before[:-1])


@pytest.mark.parametrize("row", GROWING, indirect=True)
def test_however_many_names_are_invented(row: Growing, monkeypatch: pytest.MonkeyPatch) -> None:
    most, many = MANY_MORE, MANY_MORE + 50
    if row.bound is not None:
        assert getattr(*row.bound) <= LARGEST
        monkeypatch.setattr(*row.bound, SMALL)
        most, many = SMALL, MANY
    sizes = [len(row.feed(f"name{number}")) for number in range(many)]
    assert SMALL // 2 <= max(sizes) <= most


@pytest.mark.parametrize("row", GROWING, indirect=True)
def test_however_long_the_names_are(row: Growing) -> None:
    if not row.any_length:
        return
    for number in range(4):
        container = row.feed(f"name{number}".ljust(LONG, "x"))
    assert held(container) <= 4 * KEPT


def test_what_the_site_has_dropped_is_not_held(tmp_path: Path) -> None:
    processor, provider = UpstreamProcessor(in_place=False), TracerProvider(shutdown_on_exit=False)
    tracer = provider.get_tracer("theirs")
    gc.collect()
    stores = len(sqlite_store._stores)
    for number in range(MANY):
        signals._name_of(Signal(), [])
        span: Any = tracer.start_span(f"never ends {number}")
        processor.on_start(span)
        LocalStore(tmp_path / "traces.sqlite3")
    del span
    gc.collect()
    assert len(signals._names) < MANY // 2
    assert (len(processor._started), len(sqlite_store._stores)) == (0, stores)


# ----- shared caches


def caches() -> list[Any]:
    """Return the caches that functions share: those of spans, and those of ``functools``."""
    _import_all()
    ours = [
        found
        for found in gc.get_objects()
        # Not isinstance(), which evaluates the lazy objects of other tests.
        if type(found) is functools._lru_cache_wrapper and str(found.__module__).startswith("django_tracing.")
    ]
    return [*runtime._caches, *ours]


@functools.cache
def _import_all() -> None:
    for module in pkgutil.walk_packages([str(PACKAGE)], "django_tracing."):
        if ".migrations." not in module.name and not module.name.startswith("django_tracing.debug_toolbar"):
            importlib.import_module(module.name)


def test_each_cache_of_spans_is_bounded() -> None:
    assert len(runtime._caches) > 15
    for cache in runtime._caches:
        assert cache._size <= LARGEST
    one: runtime.Cache[int, int] = runtime.Cache(SMALL)
    runtime._caches.remove(one)
    for number in range(MANY):
        assert one.keep(number, number) == number
        assert len(one) <= SMALL
    assert one


def test_each_cache_of_functools_is_bounded() -> None:
    found = [cache for cache in caches() if not isinstance(cache, dict)]
    assert len(found) > 25
    for cache in found:
        most = cache.cache_parameters()["maxsize"]
        # Without arguments, there is one value.
        arguments = cache.__wrapped__.__code__.co_argcount
        name = f"{cache.__module__}.{cache.__qualname__}"
        assert name in UNBOUNDED or not arguments if most is None else most <= LARGEST, name


def test_what_is_long_is_not_kept_in_shared_caches(client: Any, spans: Spans, settings: Any) -> None:
    """By all ways in which callers, and the names that a site makes of what they send, come into spans."""
    settings.TRACING = {**settings.TRACING, "LAYERS": "all"}
    limits: Any = SimpleNamespace(trusted_proxies=(), sensitive_keys=(), max_attribute_length=100)
    networks = get_settings().sampling_clients
    before = sum(map(held, caches()))
    for number in range(4):
        name = f"name{number}".ljust(LONG, "x")
        request: Any = RequestFactory(
            HTTP_USER_AGENT=name, REMOTE_ADDR=f"{name}:{name}", HTTP_HOST=name, HTTP_X_FORWARDED_FOR=name
        ).get(f"/{name}", {name: name})
        describe.describe(request, "GET", limits, 404)
        for address in (clients.client_address, clients.vouched_address):
            address(request.META, networks)
            address({"REMOTE_ADDR": f"{name}:"}, networks)
        client.generic(name[:200], f"/blueprints/1/?{name}", HTTP_USER_AGENT=name, HTTP_X_CORRELATION_ID=name)
        circuit_breaker._describe_call(name, name, name, "closed")
        describe_sql(f'SELECT "{name}"', "postgresql")
        key_pattern(name)
        attribute_name(name)
        templates._kind_of(SimpleNamespace(name=name), "django", lambda template: template.name)
        outgoing.may_get(f"http://{name}/", ("example.com",))
        with create_span("work"), warnings.catch_warnings():
            # memcached has no keys of this length.
            warnings.simplefilter("ignore", CacheKeyWarning)
            caching["default"].get(name)
        _recorded(name)
    assert sum(map(held, caches())) - before <= 4 * KEPT


# ----- the inventory

#: Methods that make a container grow.
_GROW = frozenset({"add", "append", "appendleft", "extend", "insert", "keep", "setdefault", "subtract", "update"})
_KINDS = frozenset(
    {
        *("Cache", "ChainMap", "Counter", "OrderedDict", "Queue", "SimpleQueue", "WeakKeyDictionary", "WeakSet"),
        *("WeakValueDictionary", "bytearray", "defaultdict", "deque", "dict", "list", "set"),
    }
)


def _is_container(value: ast.expr | None) -> bool:
    if isinstance(value, ast.Call):
        called = value.func.value if isinstance(value.func, ast.Subscript) else value.func
        return _name_of(called) in _KINDS
    if isinstance(value, ast.BoolOp):
        return any(map(_is_container, value.values))
    if isinstance(value, ast.IfExp):
        return _is_container(value.body) or _is_container(value.orelse)
    return isinstance(value, (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp))


def _name_of(node: ast.expr) -> str:
    while isinstance(node, ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _made(node: ast.AST) -> Iterator[ast.expr]:
    """Yield what gets a container by an assignment."""
    if isinstance(node, (ast.Assign, ast.AnnAssign)) and _is_container(node.value):
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            yield from target.elts if isinstance(target, ast.Tuple) else [target]


def _grown(tree: ast.AST) -> Iterator[str]:
    """Yield the names of containers to which something is added."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _GROW:
            yield _name_of(node.func.value)
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            yield _name_of(node)
        elif isinstance(node, ast.AugAssign):
            yield _name_of(node.target)


_FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


class _Inventory(ast.NodeVisitor):
    """Find the containers of a module: its own, those of its classes and objects, and those of closures."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str]] = []
        self._class = ""
        #: For each function around a place: its name, and its own containers.
        self._functions: list[tuple[str, set[str]]] = []

    def visit(self, node: ast.AST) -> None:
        for target in _made(node):
            if isinstance(target, ast.Attribute):
                self.found.append((f"{self._class or '*'}.{target.attr}", target.attr))
            elif isinstance(target, ast.Name) and not self._functions:
                self.found.append((f"{self._class}.{target.id}".lstrip("."), target.id))
        if isinstance(node, ast.ClassDef):
            before, self._class = self._class, node.name
            functions, self._functions = self._functions, []
            self.generic_visit(node)
            self._class, self._functions = before, functions
        elif isinstance(node, _FUNCTION):
            body = node.body if isinstance(node.body, list) else [node.body]
            own = {target.id for each in body for target in _made(each) if isinstance(target, ast.Name)}
            outer = {name: where for where, names in self._functions for name in names}
            if outer:
                self.found += [(f"{outer[name]}().{name}", name) for name in {*_grown(node)} & outer.keys() - own]
            self._functions.append((getattr(node, "name", ""), own))
            self.generic_visit(node)
            self._functions.pop()
        else:
            self.generic_visit(node)


def inventory(trees: Mapping[str, ast.AST]) -> set[str]:
    """Return the containers of these modules that may live long and grow: ``module:name`` or ``module:Class.name``."""
    grown = {name for tree in trees.values() for name in _grown(tree)}
    found = set()
    for module, tree in trees.items():
        visitor = _Inventory()
        visitor.visit(tree)
        found |= {f"{module}:{where}" for where, name in visitor.found if name in grown}
    return found


@functools.cache
def _sources() -> Mapping[str, ast.AST]:
    return {
        path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text())
        for path in sorted(PACKAGE.rglob("*.py"))
        # What is made for one page, one command or one test ends with it.
        if path.relative_to(PACKAGE).parts[0] not in ("migrations", "pages", "management", "diagnosis", "testing")
    }


def test_every_container_that_grows_has_a_row() -> None:
    rows = {*GROWING, *ELSEWHERE, *FEW}
    found = {name for name in inventory(_sources()) if name not in SPAN_CACHES}
    assert sorted(found - rows) == [], "add them to GROWING, with a bound, or to FEW, with the reason"
    assert sorted(rows - found) == [], "they are gone"


def test_the_inventory_finds_a_new_container() -> None:
    source = """
_seen = {}
_fixed = {"a": 1}

class Names:
    def __init__(self):
        self.known: set[str] = set()
        self.order = OrderedDict[str, int]()

    def meet(self, name):
        self.known.add(name)
        self.order[name] = 1
        _seen.setdefault(name, [])

def counted(function):
    counts = Counter()
    def count(name):
        counts[name] += 1
    return count
"""
    assert inventory({"m.py": ast.parse(source)}) == {
        "m.py:_seen",
        "m.py:Names.known",
        "m.py:Names.order",
        "m.py:counted().counts",
    }


def test_the_tests_of_other_containers_exist() -> None:
    for place in ELSEWHERE.values():
        path, _, name = place.partition("::")
        assert f"def {name.rpartition('::')[2]}(" in (PACKAGE.parent / path).read_text(), place


def test_nothing_is_put_into_a_cache_of_spans_past_its_bound() -> None:
    """``keep`` is the way in: ``cache[key] = value`` would go past the bound."""
    for tree in _sources().values():
        kept, stored = set(), set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "keep":
                kept.add(_name_of(node.func.value))
            elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
                stored.add(_name_of(node))
        assert not (kept - {"self"}) & stored
