"""Provide the fixtures of all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.jaegers import jaeger_fixture

# How long an example takes depends on what else the machine does.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


class Spans:
    """The spans that have ended since the test started, as a backend would receive them."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    def __iter__(self) -> Iterator[ReadableSpan]:
        return iter(self._exporter.get_finished_spans())

    def __len__(self) -> int:
        return len(self._exporter.get_finished_spans())

    @property
    def names(self) -> list[str]:
        return [span.name for span in self]

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        found = self.named(name)
        assert len(found) == 1, f"{len(found)} spans are named {name!r} among {self.names}"
        return found[0]

    def clear(self) -> None:
        self._exporter.clear()


_exporter = InMemorySpanExporter()


@pytest.fixture
def spans() -> Iterator[Spans]:
    """Collect the spans of a test in memory, with the provider that the app set up."""
    provider = trace.get_tracer_provider()
    assert isinstance(provider, TracerProvider)
    if not getattr(provider, "_kept_for_tests", False):
        provider.add_span_processor(SimpleSpanProcessor(_exporter))
        provider._kept_for_tests = True  # type: ignore[attr-defined]
    _exporter.clear()
    yield Spans(_exporter)
    _exporter.clear()


@pytest.fixture
def without_coverage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not measure the processes that the test starts.

    Coverage changes what they import and how long they take, and another user may not write its data.
    """
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_modify_db_settings: None, postgres_url: str) -> None:
    """Start PostgreSQL before pytest-django creates the test database."""


jaeger = pytest.fixture(scope="session", name="jaeger")(jaeger_fixture("jaeger"))
jaeger_151 = pytest.fixture(scope="session", name="jaeger_151")(jaeger_fixture("jaeger-1.51"))
