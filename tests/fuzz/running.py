"""Run a target: make its inputs, give them to the reader, and keep what breaks a promise."""

from __future__ import annotations

import gc
import logging
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random
from typing import Any, Final

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from django_tracing import faults
from tests.fuzz.mutation import PIECES, mutated, pumped, smaller
from tests.work_counter import work

__all__ = ["Crash", "Result", "Target", "fails_as", "kept", "run"]

#: How many changed inputs follow each one that Hypothesis draws, which takes about as long.
_VARIANTS: Final = 19
#: In one of so many cases, the work is counted for a longer and longer input.
_COUNTED: Final = 400
#: Sizes of these. Four times the input may take this many times the work; a sort is not quite linear.
_SIZES: Final = (40, 160, 640)
_TIMES: Final = 6
#: Work that does not count: caches, the first use of a regular expression.
_FREE: Final = 2000
#: From so many cases on, what the modules keep is compared after a tenth of them and at the end.
_MEMORY: Final = 10_000
#: More different crashes of one target are not kept.
_MOST_CRASHES: Final = 30


@dataclass(frozen=True)
class Target:
    """Something that reads what comes from outside."""

    name: str
    #: Give one input to the reader, and check what is promised of its result. Only AssertionError and what the reader
    #: must not raise come out.
    check: Callable[[Any], object]
    #: What Hypothesis draws: structured and raw.
    inputs: st.SearchStrategy[Any]
    #: Real inputs, to be changed.
    examples: tuple[Any, ...] = ()
    #: Text that these inputs consist of, beside what all have.
    pieces: tuple[str, ...] = ()
    #: Inputs that once broke a promise.
    former: tuple[Any, ...] = ()
    #: What is needed around the run.
    around: Callable[[], AbstractContextManager[object]] = nullcontext
    #: Whether longer inputs are tried. Not where the input is not what grows.
    linear: bool = True
    #: Lines that it may log, checked to be one line each.
    logs: bool = False
    #: How the names of faults begin that it may count: a damaged file is one.
    faults: tuple[str, ...] = ()
    #: A slow reader has fewer cases in the suite.
    weight: int = 1


@dataclass
class Crash:
    """One way to break a promise."""

    target: str
    kind: str
    where: str
    value: Any
    trace: str
    count: int = 1


@dataclass
class Result:
    target: str
    cases: int = 0
    crashes: dict[tuple[str, str], Crash] = field(default_factory=dict)
    seconds: float = 0.0
    #: The longest case, in seconds.
    slowest: float = 0.0
    slowest_value: Any = None
    #: Names of what kept growing in the modules of the app.
    grown: dict[str, tuple[int, int]] = field(default_factory=dict)


class _Logged(logging.Handler):
    """The lines of this app, of OpenTelemetry and of warnings."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.partition(".")[0] in ("django_tracing", "opentelemetry", "py"):
            self.lines.append(f"{record.name}: {record.getMessage()}")


@contextmanager
def _logged() -> Iterator[_Logged]:
    handler, root = _Logged(), logging.getLogger()
    root.addHandler(handler)
    try:
        yield handler
    finally:
        root.removeHandler(handler)


@contextmanager
def _own_faults() -> Iterator[None]:
    """Count faults from zero, and log each of them."""
    before, faults._faults.by_key = faults._faults.by_key, {}
    try:
        yield
    finally:
        faults._faults.by_key = before


def _checked(target: Target, value: Any, logged: _Logged) -> None:
    """Run one case. Raise what it breaks."""
    faults._faults.by_key.clear()
    logged.lines.clear()
    target.check(value)
    # What one of our own functions caught is a crash, too.
    counted = [key for key in faults.fault_counts() if not key.startswith(target.faults)]
    assert not counted, f"a fault was counted: {counted} {logged.lines}"
    for line in logged.lines:
        assert target.logs, f"it was logged: {line!r}"
        assert line.isprintable() and len(line) <= 3000, f"a log line can be forged: {line!r}"


def _where(error: BaseException) -> str:
    """Return the innermost line of this app, or of the check."""
    found = ""
    for frame in traceback.extract_tb(error.__traceback__):
        for folder in ("/django_tracing/", "/tests/fuzz/"):
            if folder in frame.filename:
                found = f"{folder[1:]}{frame.filename.rpartition(folder)[2]}:{frame.lineno}"
    return found


def run(target: Target, cases: int, *, number: int = 0, shrink: bool = True) -> Result:
    """Give ``cases`` inputs to ``target``. ``number`` chooses which: the same for the same number."""
    result = Result(target.name)
    random = Random(f"{target.name} {number}")
    pieces = PIECES + target.pieces * 3
    begin = time.perf_counter()
    tenth: dict[str, int] = {}
    with target.around(), _logged() as logged, _own_faults():

        def case(value: Any) -> None:
            nonlocal tenth
            result.cases += 1
            started = time.perf_counter()
            try:
                _checked(target, value, logged)
                if target.linear and result.cases % _COUNTED == 1:
                    _count(target, value, random)
            except Exception as error:
                _keep(result, error, value)
            took = time.perf_counter() - started
            if took > result.slowest and result.cases % _COUNTED != 1:
                result.slowest, result.slowest_value = took, value
            if cases >= _MEMORY and result.cases == cases // 10:
                tenth = kept()

        for example in (*target.former, *target.examples):
            case(example)

        @seed(number)
        @settings(
            max_examples=max(cases // (_VARIANTS + 1), 1),
            phases=[Phase.generate],
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(target.inputs)
        def draw(value: Any) -> None:
            case(value)
            for _ in range(_VARIANTS):
                if result.cases >= cases:
                    return
                base = random.choice(target.examples) if target.examples and random.random() < 0.7 else value
                case(mutated(base, random, pieces))

        draw()
        while result.cases < cases and target.examples:
            case(mutated(random.choice(target.examples), random, pieces))
        result.seconds = time.perf_counter() - begin
        if cases >= _MEMORY:
            result.grown = {
                name: (tenth.get(name, 0), size)
                for name, size in kept().items()
                if size > 1.5 * tenth.get(name, 0) + 4096
            }
        if shrink:
            for crash in result.crashes.values():
                crash.value = smaller(
                    crash.value,
                    lambda value, crash=crash: fails_as(target, value, crash, logged),
                    1500 // target.weight,
                )
    return result


def fails_as(target: Target, value: Any, crash: Crash, logged: _Logged) -> bool:
    try:
        _checked(target, value, logged)
    except Exception as error:
        return (type(error).__name__, _where(error)) == (crash.kind, crash.where)
    return False


def _keep(result: Result, error: Exception, value: Any) -> None:
    key = type(error).__name__, _where(error)
    known = result.crashes.get(key)
    if known is not None:
        known.count += 1
    elif len(result.crashes) < _MOST_CRASHES:
        trace = "".join(traceback.format_exception(error))[-4000:]
        result.crashes[key] = Crash(result.target, *key, value, trace)


def _count(target: Target, value: Any, random: Random) -> None:
    """Check that the work is linear in the length of a part of ``value``."""
    make = pumped(value, random)
    if make is None:
        return

    def quietly(value: Any) -> None:
        # What longer inputs raise is found by themselves.
        with suppress(Exception):
            target.check(value)

    quietly(make(2))
    few, some, many = (work(quietly, make(size)) for size in _SIZES)
    # A place where something is cut may be between two sizes, but not between all of them.
    assert some <= _TIMES * few + _FREE or many <= _TIMES * some + _FREE, f"not linear: {few}, {some}, {many}"


# ----- memory

_CONTAINERS: Final = (dict, list, set)
_CACHE: Final = type(lru_cache(lambda: None))


def kept() -> dict[str, int]:
    """Return how much the modules of the app keep: the lengths of their containers and caches, by name."""
    gc.collect()
    found: dict[str, int] = {}
    for name, module in list(sys.modules.items()):
        if name == "django_tracing" or name.startswith("django_tracing."):
            for attribute, value in list(vars(module).items()):
                _measure(f"{name}.{attribute}", value, found, 2)
    return found


def _measure(name: str, value: Any, found: dict[str, int], depth: int) -> None:
    if isinstance(value, _CONTAINERS):
        found[name] = len(value)
    elif isinstance(value, _CACHE):
        found[name] = value.cache_info().currsize
    elif depth and not isinstance(value, type) and type(value).__module__.startswith("django_tracing."):
        for attribute in (*getattr(type(value), "__slots__", ()), *getattr(value, "__dict__", ())):
            if isinstance(attribute, str):
                _measure(f"{name}.{attribute}", getattr(value, attribute, None), found, depth - 1)
