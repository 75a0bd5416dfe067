"""Test several endpoints: failover, taking turns, and what is shown of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from django_tracing.conf.loading import load
from django_tracing.diagnosis.processes import as_reported
from django_tracing.diagnosis.steps import Diagnosis
from django_tracing.exceptions import ExportError
from django_tracing.export.failover import FailoverExporter
from django_tracing.models import ProcessStatus
from django_tracing.provider import make_exporter
from example_project.servers import free_port
from tests.export.builders import make_spans
from tests.export.queues import Make, end
from tests.jaegers import wait_until
from tests.receivers import OTLPReceiver

Two = tuple[OTLPReceiver, OTLPReceiver]


@pytest.fixture
def two() -> Iterator[Two]:
    with OTLPReceiver() as first, OTLPReceiver() as second:
        yield first, second


Connect = Callable[..., FailoverExporter]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Return a function that makes exporters, and shut them down after the test."""
    made: list[FailoverExporter] = []

    def connect(*endpoints: str, **options: Any) -> FailoverExporter:
        settings = load({"ENDPOINTS": list(endpoints), "EXPORT_TIMEOUT": 5, **options}, {})
        assert not settings.problems
        exporter = make_exporter(settings)
        assert isinstance(exporter, FailoverExporter)
        made.append(exporter)
        return exporter

    yield connect
    for exporter in made:
        exporter.shutdown()


def spans(receiver: OTLPReceiver) -> list[str]:
    return [span.name for span in receiver.spans]


def test_in_order(connect: Connect, two: Two) -> None:
    first, second = two
    exporter = connect(first.endpoint, second.endpoint)
    for _ in range(3):
        exporter.export(make_spans())
    assert (len(first.spans), len(second.spans)) == (3, 0)


def test_in_turn(connect: Connect, two: Two) -> None:
    first, second = two
    exporter = connect(first.endpoint, second.endpoint, ENDPOINT_ORDER="round_robin")
    for _ in range(4):
        exporter.export(make_spans())
    assert (len(first.spans), len(second.spans)) == (2, 2)
    first.mode = 503
    for _ in range(4):
        exporter.export(make_spans())
    assert (len(first.spans), len(second.spans)) == (2, 6)


@pytest.mark.parametrize("mode", [429, 503, "drop", "garbage", "refused"])
def test_one_that_is_not_available(connect: Connect, two: Two, mode: str | int) -> None:
    first, second = two
    endpoint = first.endpoint
    if mode == "refused":
        endpoint = f"http://127.0.0.1:{free_port()}"
    else:
        first.mode = mode
    exporter = connect(endpoint, second.endpoint)
    exporter.export(make_spans())
    exporter.export(make_spans(name="next"))
    assert spans(second) == ["span-0", "next-0"]
    assert not first.spans
    assert [state["available"] for state in exporter.states()] == [False, True]


def test_one_that_is_back_is_used_again(connect: Connect, two: Two) -> None:
    first, second = two
    first.mode = 503
    exporter = connect(first.endpoint, second.endpoint)
    exporter.export(make_spans())
    first.mode = "ok"

    def export() -> bool:
        exporter.export(make_spans())
        return bool(first.spans)

    wait_until(export, "the first endpoint")
    assert [state["available"] for state in exporter.states()] == [True, True]


def test_one_that_hangs_leaves_time_for_the_next_attempt(connect: Connect, two: Two, make: Make) -> None:
    first, second = two
    first.mode = "hang"
    exporter = connect(first.endpoint, second.endpoint, EXPORT_TIMEOUT=0.3)
    processor = make(exporter, batch_size=1)
    end(processor, make_spans(3))
    second.wait_for(3)
    wait_until(lambda: processor.queued == 0, "the queue to be empty")
    assert processor.counters.snapshot()["dropped"] == {}
    assert exporter.timeout == 0.3


def test_all_are_down_and_one_comes_back(connect: Connect, two: Two, make: Make) -> None:
    first, second = two
    first.mode = second.mode = 503
    exporter = connect(first.endpoint, second.endpoint)
    processor = make(exporter, batch_size=1)
    end(processor, make_spans(5))
    wait_until(lambda: processor._outbox.paused, "both to be down")
    second.mode = "ok"
    second.wait_for(5)


@pytest.mark.parametrize("mode", [400, 401, 413, 500])
def test_what_one_refuses_for_ever_is_not_sent_to_the_next(connect: Connect, two: Two, mode: int) -> None:
    first, second = two
    first.mode = mode
    with pytest.raises(ExportError) as caught:
        connect(first.endpoint, second.endpoint).export(make_spans())
    assert caught.value.status == mode
    assert not second.headers


def test_credentials_are_shown_nowhere(connect: Connect, two: Two) -> None:
    first, _second = two
    secret = [f"http://user:s3cret@127.0.0.1:{receiver.port}/v1/traces" for receiver in two]
    settings = load({"ENDPOINTS": secret}, {})
    exporter = connect(*secret)
    first.mode = 503
    exporter.export(make_spans())
    row = as_reported(
        ProcessStatus(service="s", host="h", report={"exporter": "otlp", "endpoints": exporter.states()})
    )
    shown = f"http://127.0.0.1:{two[0].port}/v1/traces (not available), http://127.0.0.1:{two[1].port}/v1/traces"
    assert row.exporter == f"otlp {shown}"
    steps = list(Diagnosis(settings, timeout=5, query=False).steps())
    by_name = [(step.name, step.outcome) for step in steps]
    assert [step for step in by_name if step[0] == "endpoint"] == [("endpoint", "ok"), ("endpoint", "warning")]
    assert by_name[-2] == ("send", "ok")
    for text in (str(exporter.states()), str(steps), str(row)):
        assert "s3cret" not in text


def test_check_tracing_when_none_is_available() -> None:
    endpoints = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
    diagnosis = Diagnosis(load({"ENDPOINTS": endpoints}, {}), timeout=5, query=False)
    steps = [(step.name, step.outcome) for step in diagnosis.steps()]
    assert steps[-2:] == [("endpoint", "failed"), ("endpoint", "failed")]
    assert diagnosis.exit_code == 1


def test_a_process_may_report_anything() -> None:
    for endpoints in (
        None,
        7,
        "x",
        [None, 7, {}, {"endpoint": "javascript:alert(1)"}],
        [{"endpoint": "http://u:p@h"}] * 50,
    ):
        row = as_reported(ProcessStatus(service="s", host="h", report={"endpoints": endpoints}))
        assert "u:p" not in row.exporter
        assert row.exporter.count("h") <= 16 * 5


class TestSettings:
    def test_the_first_one_decides(self) -> None:
        settings = load({"ENDPOINTS": ["http://a:4317", "http://b:4317"]}, {})
        assert settings.exporter == "otlp-grpc"
        settings = load({"ENDPOINTS": ["http://a:4318", "http://b:4318/x"]}, {"OTEL_TRACES_EXPORTER": "console"})
        assert settings.exporter == "otlp"
        assert settings.endpoints == ("http://a:4318/v1/traces", "http://b:4318/x")
        assert settings.endpoint == settings.endpoints[0]
        assert settings.query_url == "http://a:16686"

    def test_it_takes_precedence_over_the_environment(self) -> None:
        settings = load(
            {"ENDPOINTS": ["http://a:4318", "http://b:4318"]}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}
        )
        assert (settings.problems, settings.endpoint) == ((), "http://a:4318/v1/traces")

    def test_one_is_an_endpoint(self) -> None:
        settings = load({"ENDPOINTS": ["http://a:4318"]}, {})
        assert (settings.endpoint, settings.endpoints) == ("http://a:4318/v1/traces", ())
