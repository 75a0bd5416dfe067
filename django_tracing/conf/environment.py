"""OpenTelemetry's environment variables that its packages can't be imported with.

An environment is often set for all pods of a cluster, also for those where a variable's package is missing. The API
and the SDK read such variables while they are imported or when a provider is made, and raise. :func:`prepare` imports
them with the wrong variables hidden, so that each is as if it were not set, and :func:`problems` tells which.

Imports nothing of OpenTelemetry itself, and nothing at all where no such variable is set.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Final, NamedTuple

from django_tracing.conf.patterns import regex_problem

__all__ = ["EnvironmentProblem", "hidden", "prepare", "problems"]


class EnvironmentProblem(NamedTuple):
    """A variable that OpenTelemetry can't work with; it counts as unset."""

    variable: str
    #: What is wrong with it.
    message: str
    #: What to do.
    hint: str

    def __str__(self) -> str:
        return f"environment variable {self.variable} {self.message} {self.hint}"


#: What the packages read while they are imported, or when a provider is made.
_LIMITS: Final = (
    "OTEL_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
    "OTEL_SPAN_EVENT_COUNT_LIMIT",
    "OTEL_SPAN_LINK_COUNT_LIMIT",
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT",
)
_IMPORTED: Final = (
    "opentelemetry.context",
    "opentelemetry.trace",
    "opentelemetry.propagate",
    "opentelemetry.sdk.resources",
    "opentelemetry.sdk.trace",
    "opentelemetry.sdk.trace.export",
)
#: Names in OTEL_PROPAGATORS that the API itself brings.
_OWN_PROPAGATORS: Final = frozenset({"tracecontext", "baggage", "none"})
#: What is known to be harmless, and is set nearly everywhere: nothing has to be imported to judge it.
_HARMLESS: Final = (
    *("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_SDK_DISABLED", "OTEL_TRACES_", "OTEL_METRICS_"),
    *("OTEL_LOGS_", "OTEL_LOG_LEVEL", "OTEL_EXPORTER_", "OTEL_BSP_", "OTEL_BLRP_", "OTEL_METRIC_"),
    *("OTEL_SEMCONV_", "OTEL_PYTHON_DJANGO_INSTRUMENT", "OTEL_PYTHON_DJANGO_TRACED_", "OTEL_INSTRUMENTATION_"),
)

_found: tuple[EnvironmentProblem, ...] | None = None


def problems() -> tuple[EnvironmentProblem, ...]:
    """The variables that count as unset, found when this package was imported first.

    Without OTEL_PROPAGATORS: it is a setting of this app too, and what is missing in it is told with that.
    """
    return tuple(problem for problem in _found or () if problem.variable != "OTEL_PROPAGATORS")


def prepare() -> None:
    """Imports OpenTelemetry where the environment might keep it from being imported. Never raises."""
    global _found
    if _found is not None:
        return
    _found = ()
    suspects = [name for name in os.environ if name.startswith("OTEL_") and not name.startswith(_HARMLESS)]
    if not suspects:
        return
    try:
        _found = tuple(_judge(suspects))
        with hidden():
            _import()
    except Exception as error:
        # It is none of the variables that are known to matter: then it may be any of them.
        _found += tuple(
            EnvironmentProblem(
                name, f"may keep OpenTelemetry from being imported ({_shown(error)}).", "Unset it, or correct it."
            )
            for name in suspects
            if name not in {problem.variable for problem in _found}
        )
        try:
            with hidden():
                _import()
        except Exception:  # noqa: S110 - it is not the environment; whoever imports it next is told
            pass


@contextmanager
def hidden() -> Iterator[None]:
    """A block in which the wrong variables are not set. For the start, when there is one thread."""
    taken = {
        name: os.environ.pop(name) for name in {problem.variable for problem in _found or ()} & os.environ.keys()
    }
    try:
        yield
    finally:
        os.environ.update(taken)


def _import() -> None:
    for module in _IMPORTED:
        import_module(module)


def _judge(suspects: list[str]) -> Iterator[EnvironmentProblem]:
    for name in suspects:
        judge = _JUDGES.get(name) or (_patterns if name.endswith("_EXCLUDED_URLS") else None)
        problem = None if judge is None else judge(name, os.environ[name])
        if problem is not None:
            yield problem


def _limit(name: str, value: str) -> EnvironmentProblem | None:
    text = value.strip().lower()
    try:
        good = text == "" or int(text) >= 0
    except ValueError:
        good = False
    # The SDK takes an empty one for no limit, and the specification's for unset.
    if good:
        return None
    return EnvironmentProblem(
        name, f"is {_shown(value)}, which is no limit.", "Set it to a whole number, or unset it."
    )


def _propagators(name: str, value: str) -> EnvironmentProblem | None:
    wanted = [part.strip() for part in value.split(",")]
    if not value or any(part.lower() == "none" for part in wanted) or set(wanted) <= _OWN_PROPAGATORS:
        return None
    foreign = [part for part in wanted if part not in _OWN_PROPAGATORS]
    return _missing(name, "opentelemetry_propagator", foreign)


def _entry_point(group: str, otherwise: str) -> Callable[[str, str], EnvironmentProblem | None]:
    def judge(name: str, value: str) -> EnvironmentProblem | None:
        if not value.strip() and group == "opentelemetry_context":
            return None
        if _loads(group, value):
            return None
        return EnvironmentProblem(
            name, f"is {_shown(value)}, which no installed package provides.", f"Unset it. {otherwise}"
        )

    return judge


def _detectors(name: str, value: str) -> EnvironmentProblem | None:
    wanted = [part.strip() for part in value.split(",") if part.strip() and part.strip() != "*"]
    return _missing(name, "opentelemetry_resource_detector", wanted)


def _missing(name: str, group: str, wanted: list[str]) -> EnvironmentProblem | None:
    missing = [part for part in wanted if not _loads(group, part)]
    if not missing:
        return None
    named = ", ".join(_shown(part) for part in missing[:5])
    return EnvironmentProblem(
        name,
        f"names {named}, which no installed package provides.",
        "Install its package, or take it out of the list.",
    )


def _patterns(name: str, value: str) -> EnvironmentProblem | None:
    for pattern in (part.strip() for part in value.split(",")):
        problem = regex_problem(pattern)
        if problem:
            hint = "It is a list of regular expressions, with commas."
            return EnvironmentProblem(name, f"contains {_shown(pattern)}. {problem}", hint)
    return None


def _boolean(name: str, value: str) -> EnvironmentProblem | None:
    if value.strip().lower() in ("true", "false"):
        return None
    return EnvironmentProblem(name, f"is {_shown(value)}.", 'Set it to "true" or "false", or unset it.')


_JUDGES: Final[dict[str, Callable[[str, str], EnvironmentProblem | None]]] = {
    **dict.fromkeys(_LIMITS, _limit),
    "OTEL_PROPAGATORS": _propagators,
    "OTEL_PYTHON_CONTEXT": _entry_point("opentelemetry_context", "Python's contextvars are used."),
    "OTEL_PYTHON_TRACER_PROVIDER": _entry_point(
        "opentelemetry_tracer_provider", "The provider of django_tracing is used."
    ),
    "OTEL_PYTHON_METER_PROVIDER": _entry_point("opentelemetry_meter_provider", "No metrics are made."),
    "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": _detectors,
    "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED": _boolean,
}


def _loads(group: str, name: str) -> bool:
    from importlib.metadata import entry_points

    for point in entry_points(group=group, name=name):
        try:
            point.load()
        except Exception:
            return False
        return True
    return False


def _shown(value: object) -> str:
    # On one line, whatever stands in it.
    text = ascii(value) if isinstance(value, str) else f"{type(value).__name__}: {ascii(str(value))}"
    return text if len(text) <= 60 else f"{text[:57]}..."
