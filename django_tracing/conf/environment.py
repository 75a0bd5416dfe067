"""Keep OpenTelemetry's environment variables from breaking the import of its packages.

An environment is often set for all pods of a cluster, also for those where a variable's package is missing. The API
and the SDK read such variables while they are imported or when a provider is created, and raise. :func:`prepare`
imports them with the wrong variables hidden, so that each counts as unset, and :func:`problems` lists them.

Imports no part of OpenTelemetry itself, and nothing at all where no such variable is set.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Final, NamedTuple

from django_tracing.conf.entry_points import MOST_NAMES, load_entry_point, loads
from django_tracing.conf.patterns import regex_problem
from django_tracing.faults import contained

__all__ = ["METER_PROVIDER", "EnvironmentProblem", "hidden", "prepare", "problems"]


class EnvironmentProblem(NamedTuple):
    """A variable that OpenTelemetry can't use. It counts as unset, or as if it had the value ``instead``."""

    variable: str
    #: What is wrong with it.
    message: str
    #: How to fix it.
    hint: str
    #: The part of its value that can be used.
    instead: str = ""

    def __str__(self) -> str:
        return f"environment variable {self.variable} {self.message} {self.effect} {self.hint}"

    @property
    def effect(self) -> str:
        return "The others are used." if self.instead else "It counts as unset."


#: What the packages read while they are imported, or when a provider is created.
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
#: The variable of the provider that the SDK's tracers count their spans with.
METER_PROVIDER: Final = "OTEL_PYTHON_METER_PROVIDER"
#: Names in OTEL_PROPAGATORS that the API itself provides.
_OWN_PROPAGATORS: Final = frozenset({"tracecontext", "baggage", "none"})
#: Prefixes of variables that can't break an import. They are set nearly everywhere, so nothing is imported for them.
_HARMLESS: Final = (
    *("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_SDK_DISABLED", "OTEL_TRACES_", "OTEL_METRICS_"),
    *("OTEL_LOGS_", "OTEL_LOG_LEVEL", "OTEL_EXPORTER_", "OTEL_BSP_", "OTEL_BLRP_", "OTEL_METRIC_"),
    *("OTEL_SEMCONV_", "OTEL_PYTHON_DJANGO_INSTRUMENT", "OTEL_PYTHON_DJANGO_TRACED_", "OTEL_INSTRUMENTATION_"),
)

#: What :func:`prepare` found.
_found: Final[list[EnvironmentProblem]] = []


def problems() -> tuple[EnvironmentProblem, ...]:
    """Return the variables that count as unset, as found when this package was first imported.

    OTEL_PROPAGATORS is not among them: it is a setting of this app too, and reported with that.
    """
    return tuple(problem for problem in _found if problem.variable != "OTEL_PROPAGATORS")


@cache
def prepare() -> None:
    """Import OpenTelemetry where the environment might break its import. Never raises; a second call does nothing."""
    suspects = [name for name in os.environ if name.startswith("OTEL_") and not name.startswith(_HARMLESS)]
    if not suspects:
        return
    try:
        _found.extend(_validate(suspects))
        with hidden(), contained():
            _import()
    except Exception as error:
        # It is none of the variables that are known to matter, so it may be any of them.
        known = {problem.variable for problem in _found}
        reason = f"may keep OpenTelemetry from being imported ({_display(error)})."
        _found.extend(
            EnvironmentProblem(name, reason, "Unset it, or correct it.") for name in suspects if name not in known
        )
        try:
            with hidden(), contained():
                _import()
        except Exception:  # noqa: S110 - it is not the environment; the next import raises it again
            pass


@contextmanager
def hidden(variables: Iterable[str] = ()) -> Iterator[None]:
    """Hide the wrong variables, and ``variables``, within a block. For the start, when there is one thread."""
    # The specification treats an empty variable as unset. The SDK looks for what is called "", or takes it for 0.
    wrong = {name: "" for name, value in os.environ.items() if name.startswith("OTEL_") and not value.strip()}
    wrong |= {problem.variable: problem.instead for problem in _found}
    wrong |= dict.fromkeys(variables, "")
    originals = {name: os.environ.pop(name) for name in wrong.keys() & os.environ.keys()}
    os.environ.update({name: wrong[name] for name in originals if wrong[name]})
    try:
        yield
    finally:
        # The SDK reads this one for each tracer that the user's code gets, too.
        originals.pop(METER_PROVIDER, None)
        os.environ.update(originals)


def _import() -> None:
    for module in _IMPORTED:
        import_module(module)


def _validate(suspects: list[str]) -> Iterator[EnvironmentProblem]:
    for name in suspects:
        validate = _VALIDATORS.get(name) or (_patterns if name.endswith("_EXCLUDED_URLS") else None)
        problem = None if validate is None or not os.environ[name].strip() else validate(name, os.environ[name])
        if problem is not None:
            yield problem


def _limit(name: str, value: str) -> EnvironmentProblem | None:
    try:
        good = int(value.strip()) >= 0
    except ValueError:
        good = False
    if good:
        return None
    return EnvironmentProblem(
        name, f"is {_display(value)}, which is no limit.", "Set it to a whole number of at least 0, or unset it."
    )


def _propagators(name: str, value: str) -> EnvironmentProblem | None:
    wanted = [part.strip() for part in value.split(",")]
    if any(part.lower() == "none" for part in wanted) or set(wanted) <= _OWN_PROPAGATORS:
        return None
    return _missing(name, "opentelemetry_propagator", [part for part in wanted if part not in _OWN_PROPAGATORS])


def _entry_point(group: str, otherwise: str) -> Callable[[str, str], EnvironmentProblem | None]:
    def validate(name: str, value: str) -> EnvironmentProblem | None:
        if loads(group, value):
            return None
        return EnvironmentProblem(
            name, f"is {_display(value)}, which no installed package provides.", f"Unset it. {otherwise}"
        )

    return validate


def _context(name: str, value: str) -> EnvironmentProblem | None:
    """Also try it out: each call of OpenTelemetry's API would fail with one that does not work."""
    problem = _entry_point("opentelemetry_context", "Python's contextvars are used.")(name, value)
    if problem is not None:
        return problem
    try:
        with contained():
            made = load_entry_point("opentelemetry_context", value)()
            current = made.get_current()
            made.detach(made.attach(current))
            works = isinstance(current, dict)
    except Exception:
        works = False
    if works:
        return None
    return EnvironmentProblem(
        name, f"is {_display(value)}, which does not work.", "Unset it. Python's contextvars are used."
    )


def _detectors(name: str, value: str) -> EnvironmentProblem | None:
    wanted = [part.strip() for part in value.split(",") if part.strip()]
    problem = _missing(name, "opentelemetry_resource_detector", [part for part in wanted if part != "*"])
    if problem is None:
        return None
    if len(wanted) > MOST_NAMES:
        return problem
    # The SDK would log a traceback for each of the others.
    good = [part for part in wanted if part == "*" or loads("opentelemetry_resource_detector", part)]
    return problem._replace(instead=",".join(good))


def _missing(name: str, group: str, wanted: list[str]) -> EnvironmentProblem | None:
    if len(wanted) > MOST_NAMES:
        return EnvironmentProblem(name, f"has {len(wanted)} names.", f"Name at most {MOST_NAMES}.")
    missing = [part for part in wanted if not loads(group, part)]
    if not missing:
        return None
    named = ", ".join(_display(part) for part in missing[:5])
    return EnvironmentProblem(
        name,
        f"names {named}, which no installed package provides.",
        "Install its package, or remove it from the list.",
    )


def _patterns(name: str, value: str) -> EnvironmentProblem | None:
    problems = {part.strip(): regex_problem(part.strip()) for part in value.split(",")}
    wrong = next((pattern for pattern, problem in problems.items() if problem), None)
    if wrong is None:
        return None
    return EnvironmentProblem(
        name,
        f"contains {_display(wrong)}. {problems[wrong]}",
        "It is a list of regular expressions, separated by commas.",
        ",".join(pattern for pattern, problem in problems.items() if not problem),
    )


def _boolean(name: str, value: str) -> EnvironmentProblem | None:
    if value.strip().lower() in ("true", "false"):
        return None
    return EnvironmentProblem(name, f"is {_display(value)}.", 'Set it to "true" or "false", or unset it.')


_VALIDATORS: Final[dict[str, Callable[[str, str], EnvironmentProblem | None]]] = {
    **dict.fromkeys(_LIMITS, _limit),
    "OTEL_PROPAGATORS": _propagators,
    "OTEL_PYTHON_CONTEXT": _context,
    "OTEL_PYTHON_TRACER_PROVIDER": _entry_point(
        "opentelemetry_tracer_provider", "The provider of django_tracing is used."
    ),
    METER_PROVIDER: _entry_point("opentelemetry_meter_provider", "No metrics are made."),
    "OTEL_PYTHON_ID_GENERATOR": _entry_point("opentelemetry_id_generator", "Random ids are used."),
    "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": _detectors,
    "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED": _boolean,
}


def _display(value: object) -> str:
    # On one line, whatever it contains.
    text = ascii(value) if isinstance(value, str) else f"{type(value).__name__}: {ascii(str(value))}"
    return text if len(text) <= 60 else f"{text[:57]}..."
