"""Test that every span of a process is queued, exported or dropped for a reason, and that ``health()`` has the numbers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from django.test import Client, RequestFactory, override_settings
from django.urls import include, path
from opentelemetry.context import Context
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

import django_tracing
from django_tracing import health_metrics, provider
from django_tracing.conf.loading import load
from django_tracing.export.counters import DropReason
from django_tracing.export.failover import FailoverExporter
from django_tracing.export.queue import QueueProcessor
from django_tracing.export.wire import EncodedBatch
from django_tracing.health_view import health_view
from django_tracing.instrumentation.upstream import processor as upstream
from django_tracing.instrumentation.upstream.processor import RedactedProcessor, UpstreamProcessor
from django_tracing.process_health import Health
from django_tracing.recording import undecided
from django_tracing.recording.factory import SpanFactory
from django_tracing.recording.undecided import SamplingDecision, UndecidedTrace
from django_tracing.spans import runtime
from tests.conf.forks import APP, Forks
from tests.conftest import Spans
from tests.export.builders import make_spans
from tests.export.queues import Backend, Gate, Make, end, refuse

urlpatterns = [path("tracing/", include("django_tracing.urls"))]

MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
SECRET = "https://user:hunter2@jaeger.example.com:4318"


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Return a function that makes the queue of this process."""
    made: list[QueueProcessor] = []
    monkeypatch.setattr(undecided, "_waiting", undecided._Waiting())
    monkeypatch.setattr("django_tracing.faults._faults.by_key", {})

    def make(exporter: Any, **options: Any) -> QueueProcessor:
        options = {"export_interval": 60, "shutdown_timeout": 0.2, "name": "otlp", **options}
        queue = QueueProcessor(exporter, **options)
        queue.others = list(made)
        made.append(queue)
        settings = load({"EXPORTER": "otlp", "ENDPOINT": SECRET}, {})
        run = runtime.current.replace(queue=queue, settings=settings, trouble="", refresher=None)
        monkeypatch.setattr(runtime, "current", run)
        return queue

    yield make
    for queue in made:
        queue.others = ()
        queue.shutdown()


def accounted() -> int:
    health = django_tracing.health()
    return health.queued + health.exported + sum(health.dropped.values())


def final(reason: str, **options: Any) -> Callable[[], None]:
    return refuse(reason=reason, retryable=False, **options)


# ----- each reason: a scenario makes spans, and returns how many


def _refused(reason: str) -> Callable[..., int]:
    def scenario(make: Make, **fixtures: Any) -> int:
        queue = make(Backend(final(reason)), batch_size=5)
        end(queue, make_spans(12))
        queue.force_flush(10_000)
        return 12

    return scenario


def _partly_rejected(make: Make, **fixtures: Any) -> int:
    queue = make(Backend(final("rejected", rejected=2)), batch_size=5)
    end(queue, make_spans(10))
    queue.force_flush(10_000)
    assert django_tracing.health().dropped == {"rejected": 4}
    assert django_tracing.health().exported == 6
    return 10


def _too_many(make: Make, gate: Gate, **fixtures: Any) -> int:
    end(make(Backend(gate), batch_size=5, queue_size=20), make_spans(200))
    return 200


def _too_large_together(make: Make, gate: Gate, **fixtures: Any) -> int:
    end(make(Backend(gate), batch_size=5, queue_bytes=65536), make_spans(200))
    return 200


def _expired(make: Make, **fixtures: Any) -> int:
    queue = make(Backend(refuse(reason="unavailable")), batch_size=5, retry_for=0.0)
    end(queue, make_spans(5))
    queue.force_flush(10_000)
    return 5


class Poisoned(Backend):
    """It refuses for a time what begins with certain spans."""

    def export(self, spans: Any) -> Any:
        self.behave = refuse(reason="unavailable") if spans[0].name.endswith("0") else lambda: None
        return super().export(spans)


def _too_much_refused(make: Make, **fixtures: Any) -> int:
    queue = make(Poisoned(), batch_size=5, queue_bytes=65536, retry_for=600)
    for _ in range(3):
        end(queue, make_spans(30))
        queue.force_flush(10_000)
    return 90


def _exporter_exits(make: Make, **fixtures: Any) -> int:
    def leave() -> None:
        raise SystemExit

    queue = make(Backend(leave), batch_size=5)
    end(queue, make_spans(5))
    queue.force_flush(10_000)
    return 5


def _process_ends(make: Make, gate: Gate, **fixtures: Any) -> int:
    queue = make(Backend(gate), batch_size=5)
    end(queue, make_spans(12))
    assert gate.reached.wait(10)
    queue.shutdown()
    end(queue, make_spans(3))
    return 15


class Wire(Backend):
    new_batch = EncodedBatch

    def export_batch(self, batch: Any) -> Any:
        return super().export([])


def _unencodable(make: Make, **fixtures: Any) -> int:
    queue = make(Wire())
    tracer = TracerProvider(shutdown_on_exit=False)
    tracer.add_span_processor(queue)
    for number in range(3):
        # A user's own time, in another unit.
        tracer.get_tracer("x").start_span(f"{number}", start_time=1 << 80).end()
    end(queue, make_spans(2))
    queue.force_flush(10_000)
    tracer._atexit_handler = None
    return 5


def _unredacted(make: Make, monkeypatch: pytest.MonkeyPatch, **fixtures: Any) -> int:
    queue = make(Backend())

    def fail(*args: Any) -> None:
        raise LookupError("an unknown kind of span")

    monkeypatch.setattr(upstream, "copy_span", fail)
    processor = RedactedProcessor(
        [queue], UpstreamProcessor(in_place=False), lambda: queue.counters.drop("unredacted")
    )
    for span in make_spans(4):
        processor.on_end(span)
    return 4


def _traces(queue: QueueProcessor) -> Callable[..., Any]:
    """Return what starts spans of traces that are kept if they fail."""
    tracer = TracerProvider(shutdown_on_exit=False)
    tracer.add_span_processor(queue)
    factory = SpanFactory.of(tracer.get_tracer("shop"), lambda parent, trace_id: False)
    assert factory is not None
    factory.decide = lambda state, name, kind, parent, trace_id: SamplingDecision(
        False, UndecidedTrace(trace_id, None, keep_errors=True)
    )

    def start(name: str, parent: Any = None) -> Any:
        context = Context() if parent is None else set_span_in_context(parent, Context())
        return factory.start(name, context, SpanKind.SERVER, (), None)

    return start


def _undecided(make: Make, monkeypatch: pytest.MonkeyPatch, **fixtures: Any) -> int:
    monkeypatch.setattr(undecided, "_MOST_SPANS_OF_ONE", 3)
    start = _traces(make(Backend()))
    for status in (StatusCode.ERROR, StatusCode.OK):
        root = start("GET")
        for number in range(8):
            start(f"{number}", root).end()
        root.set_status(Status(status))
        root.end()
    assert django_tracing.health().dropped == {"undecided": 5}
    # The other trace is not sampled: none of its spans counts as lost.
    return 9


def _never_decided(make: Make, monkeypatch: pytest.MonkeyPatch, **fixtures: Any) -> int:
    monkeypatch.setattr(undecided, "_MOST_TRACES", 1)
    monkeypatch.setattr(undecided, "undecided_traces", {})
    start = _traces(make(Backend()))
    forgotten = start("GET")
    start("before", forgotten).end()
    running = start("running", forgotten)
    newer = start("GET")
    running.end()
    # No span is made below one that is not kept.
    assert not start("after", forgotten).is_recording()
    for root in (forgotten, newer):
        root.set_status(Status(StatusCode.ERROR))
        root.end()
    assert django_tracing.health().dropped == {"undecided": 3}
    return 4


SCENARIOS: dict[str, Callable[..., int]] = {
    **{
        reason: _refused(reason)
        for reason in ("rejected", "unauthorized", "not_found", "wrong_protocol", "compression", "too_large", "tls")
    },
    "queue_full_spans": _too_many,
    "queue_full_bytes": _too_large_together,
    "expired": _expired,
    "retry_full": _too_much_refused,
    "export_error": _exporter_exits,
    "shutdown": _process_ends,
    "unencodable": _unencodable,
    "unredacted": _unredacted,
    "undecided": _undecided,
}
#: Tested with a spool on disk: tests/export/test_spooling.py.
ON_DISK = {"spool_full", "spool_damaged"}


@pytest.mark.parametrize("reason", SCENARIOS)
def test_each_span_is_queued_exported_or_dropped_for_its_reason(
    reason: str, make: Make, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = SCENARIOS[reason](make=make, gate=gate, monkeypatch=monkeypatch)
    health = django_tracing.health()
    assert health.dropped.get(reason), health
    assert set(health.dropped) == {reason}
    assert accounted() == made
    assert health.state in ("degraded", "failing", "stopped") or reason == "undecided"


@pytest.mark.parametrize("scenario", [_partly_rejected, _never_decided])
def test_no_span_of_other_scenarios_is_lost_uncounted(
    scenario: Callable[..., int], make: Make, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert scenario(make=make, gate=gate, monkeypatch=monkeypatch) == accounted()


def test_the_page_lists_each_reason_and_each_has_a_scenario() -> None:
    page = (Path(__file__).parent.parent / "docs" / "reliability.md").read_text()
    table = page.partition("## Why spans are dropped")[2].partition("\n## ")[0]
    listed = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    assert listed == {*get_args(DropReason), "undecided"}
    assert listed - ON_DISK == set(SCENARIOS)


# ----- health()


def test_a_process_that_sends_all_is_ok(make: Make) -> None:
    queue = make(Backend())
    end(queue, make_spans(70))
    health = django_tracing.health()
    assert (health.state, health.queued, health.exported) == ("ok", 70, 0)
    assert health.queued_bytes > 0
    assert health.exporters[0].queue_bytes == 16 * 1024 * 1024
    assert queue.force_flush(10_000)
    health = django_tracing.health()
    assert (health.state, health.queued, health.queued_bytes, health.exported) == ("ok", 0, 0, 70)
    assert health.last_success_time is not None
    assert health.last_error is None
    assert not health.dropped


def test_a_backend_that_is_away_fails_and_recovers(make: Make) -> None:
    backend = Backend(refuse())
    queue = make(backend, batch_size=5)
    end(queue, make_spans(5))
    queue.force_flush(10_000)
    health = django_tracing.health()
    assert (health.state, health.queued, health.retries) == ("failing", 5, 1)
    assert health.last_error == "No."
    backend.behave = lambda: None
    assert queue.force_flush(10_000)
    assert django_tracing.health().state == "ok"


def test_the_sums_are_over_all_exporters(make: Make) -> None:
    second, first = make(Backend(final("tls")), name="jaeger"), make(Backend())
    for queue in (first, second):
        end(queue, make_spans(3))
        queue.force_flush(10_000)
    health = django_tracing.health()
    assert [(each.exporter, each.state, each.exported) for each in health.exporters] == [
        ("otlp", "ok", 3),
        ("jaeger", "degraded", 0),
    ]
    assert (health.state, health.exported, health.dropped) == ("degraded", 3, {"tls": 3})


def test_one_of_several_endpoints_that_is_away_is_shown(make: Make) -> None:
    receivers = [("http://a:4318", Wire(refuse())), ("http://b:4318", Wire())]
    for _, receiver in receivers:
        receiver.timeout = 1.0  # type: ignore[attr-defined]
        receiver.probe = lambda: None  # type: ignore[attr-defined]
    queue = make(FailoverExporter(receivers, "in_order"))
    end(queue, make_spans(3))
    assert queue.force_flush(10_000)
    [exporter] = django_tracing.health().exporters
    assert [(each.endpoint, each.available) for each in exporter.endpoints] == [
        ("http://a:4318", False),
        ("http://b:4318", True),
    ]
    assert exporter.state == "degraded"


def test_an_exporter_s_own_method_called_states_is_not_called(make: Make) -> None:
    class States(Backend):
        def states(self) -> Any:
            raise AssertionError

    make(States())
    assert django_tracing.health().exporters[0].endpoints == ()


def test_a_process_that_traces_nothing_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def state(tracing: dict[str, Any], trouble: str) -> str:
        settings = load(tracing, {})
        run = runtime.current.replace(queue=None, refresher=None, settings=settings, trouble=trouble)
        monkeypatch.setattr(runtime, "current", run)
        assert django_tracing.health().trouble == trouble
        return django_tracing.health().state

    assert state({"ENABLED": False}, "Tracing is off.") == "off"
    assert state({"SAMPLE_RATE": "x"}, "Tracing is off: wrong.") == "broken"
    assert state({"EXPORTER": "acme.Missing"}, "Spans are not exported.") == "broken"
    assert state({"EXPORTER": "none"}, "") == "ok"
    monkeypatch.setattr(runtime, "current", runtime.Runtime())
    assert django_tracing.health().state == "off"


def test_it_is_frozen_and_its_dict_is_json(make: Make) -> None:
    end(make(Backend(final("tls"))), make_spans(2))
    health = django_tracing.health()
    assert isinstance(health, Health)
    with pytest.raises(AttributeError):
        health.queued = 7  # type: ignore[misc]
    with pytest.raises(TypeError):
        health.dropped["x"] = 1  # type: ignore[index]
    document = health.as_dict()
    assert json.loads(json.dumps(document)) == document
    assert document["exporters"][0]["queued"] == document["queued"] == 2
    assert document["rules"]["state"] == "off"
    assert "hunter2" not in json.dumps(provider._report())


def test_the_page_describes_each_field() -> None:
    page = (Path(__file__).parent.parent / "docs" / "reliability.md").read_text()
    table = page.partition("## Health")[2].partition("\n## ")[0]
    listed = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    assert set(Health.__dataclass_fields__) <= listed


# ----- the view


@pytest.mark.urls(__name__)
@override_settings(MIDDLEWARE=[*MIDDLEWARE, "django.contrib.auth.middleware.LoginRequiredMiddleware"])
def test_a_probe_gets_one_word(make: Make, client: Client, caplog: pytest.LogCaptureFixture) -> None:
    queue = make(Backend(refuse()), batch_size=2)
    answer = client.get("/tracing/health")
    assert (answer.status_code, answer.json()) == (200, {"state": "ok"})
    assert "no-store" in answer["Cache-Control"]
    end(queue, make_spans(2))
    queue.force_flush(10_000)
    assert client.get("/tracing/health").status_code == 200
    caplog.clear()
    strict = client.get("/tracing/health?strict")
    assert caplog.messages == []
    assert (strict.status_code, strict.json()) == (503, {"state": "failing"})
    assert client.head("/tracing/health").status_code == 200
    assert client.post("/tracing/health").status_code == 405


@pytest.mark.urls(__name__)
def test_a_probe_is_not_traced(client: Client, spans: Spans) -> None:
    assert client.get("/tracing/health").status_code == 200
    assert spans.names == []
    assert client.get("/elsewhere/health").status_code == 404
    assert spans.names == ["GET (no route)"]


def test_a_probe_reads_no_database(rf: RequestFactory) -> None:
    """Without the mark of pytest-django, a query raises."""
    assert health_view(rf.get("/")).status_code == 200


# ----- metrics


def test_metrics_have_the_numbers_of_each_exporter(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = InMemoryMetricReader()
    meters = MeterProvider([reader], shutdown_on_exit=False)
    monkeypatch.setattr(health_metrics, "get_meter", meters.get_meter)
    health_metrics.install()
    queue = make(Backend(final("rejected", rejected=2)))
    end(queue, make_spans(5))
    queue.force_flush(10_000)
    end(queue, make_spans(70))
    undecided._waiting.lose(4)
    found: dict[str, Any] = {}
    data: Any = reader.get_metrics_data()
    for metric in data.resource_metrics[0].scope_metrics[0].metrics:
        for point in metric.data.data_points:
            found[" ".join((metric.name, *map(str, point.attributes.values())))] = point.value
    memory = found.pop("tracing.queue.memory otlp")
    assert memory > 1000
    assert found == {
        "tracing.spans.exported otlp": 3,
        "tracing.spans.dropped otlp rejected": 2,
        "tracing.spans.dropped undecided": 4,
        "tracing.export.retries otlp": 0,
        "tracing.queue.spans otlp": 70,
    }
    page = (Path(__file__).parent.parent / "docs" / "reliability.md").read_text()
    assert all(f"`{name.split()[0]}`" in page for name in found)
    meters.shutdown()


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks() as forks:
        yield forks


IN_A_PROCESS = (
    APP
    + """
import sys
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
print("django_tracing.health_metrics" in sys.modules)
reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader]))
import django_tracing
with django_tracing.create_span("work"):
    pass
print(django_tracing.health().queued)
data = reader.get_metrics_data()
print([
    (metric.name, point.value)
    for resource in (data.resource_metrics if data else ()) for scope in resource.scope_metrics
    for metric in scope.metrics if metric.name == "tracing.queue.spans" for point in metric.data.data_points
])
"""
)


@pytest.mark.parametrize("on", [True, False])
def test_the_setting_offers_metrics_to_a_provider_that_is_configured_later(on: bool, forks: Forks) -> None:
    tracing = {"EXPORTER": "otlp", "ENDPOINT": "http://127.0.0.1:9", "HEALTH_METRICS": on, "SHUTDOWN_TIMEOUT": 0}
    done = forks.run(IN_A_PROCESS.replace("TRACING=TRACING", f"TRACING={tracing}"))
    metrics = "[('tracing.queue.spans', 1)]" if on else "[]"
    assert done.out.splitlines() == [str(on), "1", metrics], done.err


FORKED = """
import os, threading
from django_tracing import faults
from django_tracing.export import counters
faults.log_hourly("parent", "The parent's.")
held, done = threading.Event(), threading.Event()

def hold():
    with faults._faults.lock, counters._attributes.lock:
        held.set()
        done.wait()

thread = threading.Thread(target=hold)
thread.start()
held.wait()
pid = os.fork()
if pid == 0:
    faults.log_hourly("child", "The child's.")
    counters.drop_attributes("unencodable", 2)
    ok = faults.fault_counts() == {"child": 1} and counters.Counters().snapshot()["dropped_attributes"] == {"unencodable": 2}
    os._exit(0 if ok else 1)
status = os.waitpid(pid, 0)[1]
done.set()
thread.join()
print(os.waitstatus_to_exitcode(status))
"""


def test_a_forked_child_counts_its_own_and_waits_for_no_lock_of_its_parent(forks: Forks) -> None:
    done = forks.run(FORKED)
    assert done.out.splitlines() == ["0"], done.err
