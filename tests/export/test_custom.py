"""Test exporters given as dotted paths."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from django_tracing.conf.loading import load
from django_tracing.export import build_exporter

SETTINGS = load({"SERVICE_NAME": "shop"}, {})


class Mine(SpanExporter):
    """An exporter that stores its arguments."""

    def __init__(self, *given: Any) -> None:
        self.given = given

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


class WithSettings(Mine):
    def __init__(self, settings: Any) -> None:
        super().__init__(settings)


class WithoutArguments(Mine):
    def __init__(self) -> None:
        super().__init__()


class WithOptions(Mine):
    """Like OpenTelemetry's exporters: every argument has a default."""

    def __init__(self, endpoint: str | None = None, **options: Any) -> None:
        super().__init__(*([endpoint] if endpoint else []), *options)


class WithCall(Mine):
    @classmethod
    def from_settings(cls, settings: Any) -> Mine:
        return cls(settings)


def plain() -> Mine:
    return Mine()


def positional(config: Any) -> Mine:
    return Mine(config)


def positional_only(settings: Any = None, /) -> Mine:
    return Mine(settings)


def keyword_only(*, config: Any) -> Mine:
    return Mine(config)


def with_default(region: str = "eu", *, settings: Any = None) -> Mine:
    return Mine(settings, region)


def three(region: str, endpoint: str, settings: Any) -> Mine:
    return Mine(settings, region, endpoint)


def two(region: str, endpoint: str) -> Mine:
    return Mine()


def broken(settings: Any) -> Mine:
    return Mine(settings.endpoint + 1)


async def asynchronous() -> Mine:
    return Mine()


from_settings = WithCall.from_settings
partial = functools.partial(three, "eu", endpoint="http://c")
partial_of_settings = functools.partial(with_default, settings="its own")
any_arguments = Mine
instance = Mine()
nothing = object


def given_to(name: str) -> tuple[Any, ...]:
    exporter = build_exporter(f"{__name__}.{name}", settings=SETTINGS)
    assert isinstance(exporter, Mine)
    return exporter.given


@pytest.mark.parametrize("name", ["WithSettings", "from_settings", "positional", "positional_only", "keyword_only"])
def test_one_argument_is_the_settings(name: str) -> None:
    assert given_to(name) == (SETTINGS,)


def test_a_parameter_called_settings_receives_them_at_any_position() -> None:
    assert given_to("with_default") == (SETTINGS, "eu")
    assert given_to("partial") == (SETTINGS, "eu", "http://c")


def test_a_partial_keeps_its_own_settings() -> None:
    assert given_to("partial_of_settings") == ("its own", "eu")


@pytest.mark.parametrize("name", ["plain", "WithoutArguments", "WithOptions", "any_arguments"])
def test_an_exporter_without_required_arguments_receives_none(name: str) -> None:
    assert given_to(name) == ()


def test_opentelemetry_s_exporters_are_called_without_arguments() -> None:
    exporter = build_exporter(
        "opentelemetry.exporter.otlp.proto.http.trace_exporter.OTLPSpanExporter", settings=SETTINGS
    )
    assert exporter is not None
    exporter.shutdown()


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("no_such_module.Exporter", ImportError, "no_such_module"),
        (f"{__name__}.Missing", ImportError, "has no Missing"),
        ("nodots", ImportError, "'nodots' is not the dotted path of an exporter"),
        (f"{__name__}.two", TypeError, "two needs more arguments than the settings: region, endpoint"),
        (f"{__name__}.three", TypeError, "three needs more arguments than the settings: region, endpoint"),
        (f"{__name__}.broken", TypeError, "broken can't be called: unsupported operand"),
        (f"{__name__}.nothing", TypeError, "nothing returns object, which has no export"),
        (f"{__name__}.asynchronous", TypeError, "asynchronous returns coroutine, which has no export"),
        (f"{__name__}.instance", TypeError, "instance is not a class or function: it is an object of type Mine"),
    ],
)
def test_a_wrong_path_is_explained(path: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build_exporter(path, settings=SETTINGS)
