"""Test the benchmark: every span arrives and is counted."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks import processes
from benchmarks.__main__ import PAGES, servers
from benchmarks.processes import Receiver, Worker, receiver

pytestmark = pytest.mark.usefixtures("without_coverage")

REQUESTS = 130  # more than two of the slices that spans are encoded in


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    with servers() as variables:
        yield variables


@pytest.fixture
def sink(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    # All packages are installed, so no virtual environments are created.
    monkeypatch.setattr(processes, "virtual_environment", lambda variant: Path(sys.executable))
    with receiver() as started:
        yield started


@contextmanager
def working(variant: str, environment: dict[str, str], sink: Receiver, rate: str = "1") -> Iterator[Worker]:
    worker = Worker(
        variant,
        variant,
        environment,
        BENCHMARK_RATE=rate,
        BENCHMARK_ENDPOINT=sink.url,
        # Slow layers are spans too: how many depends on the machine.
        BENCHMARK_INSTRUMENTATIONS="request,database,cache,circuit_breaker",
    )
    try:
        # The first page connects to the servers, which makes additional spans.
        worker.send("run", path=PAGES["page"], requests=1)
        yield worker
    finally:
        worker.stop()


@pytest.mark.parametrize(("variant", "spans_a_page"), [("ours", 5), ("upstream", 4)])
def test_every_span_of_a_page_arrives(
    variant: str, spans_a_page: int, environment: dict[str, str], sink: Receiver
) -> None:
    with working(variant, environment, sink) as worker:
        before = sink.count()["spans"][variant]
        answer = worker.send("run", path=PAGES["page"], requests=REQUESTS)
        assert len(answer["latencies"]) == REQUESTS
        assert sink.count()["spans"][variant] - before == REQUESTS * spans_a_page
        if variant == "ours":
            assert worker.send("dropped") == {"dropped": {}}


def test_unsampled_spans_do_not_arrive(environment: dict[str, str], sink: Receiver) -> None:
    with working("ours", environment, sink, rate="0") as worker:
        worker.send("run", path=PAGES["page"], requests=REQUESTS)
        assert sink.count()["spans"] == {}


def test_threads_and_async_requests_lose_no_span(environment: dict[str, str], sink: Receiver) -> None:
    with working("ours", environment, sink) as worker:
        before = sink.count()["spans"]["ours"]
        worker.send("threads", path=PAGES["page"], threads=16, requests=5)
        assert sink.count()["spans"]["ours"] - before >= 16 * 5 * 5
        between = sink.count()["spans"]["ours"]
        worker.send("concurrent", path="/waiting/", requests=200)
        assert sink.count()["spans"]["ours"] - between == 200
        assert worker.send("dropped") == {"dropped": {}}


def test_the_pages_of_traces() -> None:
    """``python -m benchmarks.pages``, over a store that fills quickly."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.pages", "--spans", "2000"],
        cwd=Path(__file__).parent.parent,
        env={name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["page", "1,000", "spans", "2,000", "spans", "ratio"]
    assert [line.split("  ")[0] for line in lines[1:]][-4:-2] == ["routes", "service map"]
    assert all(float(line.split()[-1]) > 0 for line in lines[1:13])
