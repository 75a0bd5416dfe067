"""Sample as a Jaeger, or another server with its remote sampling protocol, decides.

It needs neither Django nor the rest of this app: ``JaegerRemoteSampler("shop", "http://jaeger:5778/sampling")`` is a
sampler of OpenTelemetry's, and ``OTEL_TRACES_SAMPLER=jaeger_remote`` creates one. Wrap it in the SDK's
``ParentBased``: it decides on every span that it is asked about.
Conventions: https://www.jaegertracing.io/docs/latest/sampling/#remote-sampling,
https://opentelemetry.io/docs/specs/otel/trace/sdk/#jaegerremotesampler
"""

from __future__ import annotations

import http.client
import json
import logging
import math
import os
import random
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlsplit

from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanKind, TraceState, get_current_span
from opentelemetry.util.types import Attributes

from django_tracing.faults import Lasting
from django_tracing.net import Address, connect, explain_error, parse_address, read_at_most, shown_address
from django_tracing.redaction.printable import printable
from django_tracing.sampling.bucket import TokenBucket
from django_tracing.untraced import start_without_context

__all__ = ["JaegerRemoteSampler", "Strategy", "from_environment", "parse_strategy"]

_logger = logging.getLogger(__name__)

#: The attributes of a trace's first span by which Jaeger's clients record a decision.
TYPE: Final = "sampler.type"
PARAM: Final = "sampler.param"

DEFAULT_ENDPOINT: Final = "http://localhost:5778/sampling"
#: A separate generator: an application may have seeded Python's.
_random: Final = random.Random()  # noqa: S311 - not for secrets
_MAX_BYTES: Final = 1024 * 1024
_MAX_OPERATIONS: Final = 10_000
_LONGEST_NAME: Final = 255
#: How many characters of a server's answer are quoted.
_MAX_QUOTED: Final = 200
_BITS: Final = (1 << 64) - 1


class Strategy(NamedTuple):
    """The sampling of a service."""

    #: The share of traces that is kept, 0 to 1; None if ``per_second`` is used.
    rate: float | None = None
    #: Traces a second.
    per_second: float | None = None
    #: The shares of operations, by the name of the span.
    operations: Mapping[str, float] = {}
    #: The minimum of traces a second of each operation.
    lower_bound: float = 0.0


def parse_strategy(document: Any) -> Strategy:
    """Parse a SamplingStrategyResponse of any Jaeger since 1.51, as decoded from JSON.

    Raise ValueError, with the cause, if it is wrong.
    """
    if not isinstance(document, Mapping):
        raise ValueError("it is not a JSON object")
    limiting = document.get("rateLimitingSampling")
    probabilistic = document.get("probabilisticSampling")
    # A name in 1.51 and since 2.16, a number between them. Old versions omit the default.
    kind = document.get("strategyType", 0)
    if kind in ("RATE_LIMITING", 1):
        per_second: float | None = _number(limiting, "maxTracesPerSecond", "rateLimitingSampling")
        rate: float | None = None
    elif kind in ("PROBABILISTIC", 0, None):
        per_second = None
        rate = _share(probabilistic, "probabilisticSampling") if probabilistic is not None else None
    else:
        raise ValueError(f"its strategyType is {kind!r}")
    operations: dict[str, float] = {}
    lower_bound = 0.0
    by_operation = document.get("operationSampling")
    if isinstance(by_operation, Mapping):
        if per_second is None:
            rate = _number(by_operation, "defaultSamplingProbability", "operationSampling", default=rate or 0.0)
        lower_bound = _number(by_operation, "defaultLowerBoundTracesPerSecond", "operationSampling", default=0.0)
        strategies = by_operation.get("perOperationStrategies") or ()
        if not isinstance(strategies, Sequence) or isinstance(strategies, str):
            raise ValueError("its perOperationStrategies is not a list")
        for one in strategies[:_MAX_OPERATIONS]:
            if not isinstance(one, Mapping) or not isinstance(one.get("operation"), str):
                raise ValueError("one of its perOperationStrategies has no operation")
            operations[one["operation"]] = _share(one.get("probabilisticSampling"), "perOperationStrategies")
    if rate is None and per_second is None:
        raise ValueError("it has no strategy")
    if rate is not None and not 0.0 <= rate <= 1.0:
        raise ValueError(f"its probability is {rate}")
    return Strategy(rate, per_second, operations, lower_bound)


def _share(holder: Any, where: str) -> float:
    # Servers that write proto3's JSON omit 0.
    share = _number(holder, "samplingRate", where, default=0.0)
    if share > 1.0:
        raise ValueError(f"the samplingRate of its {where} is {share}")
    return share


def _number(holder: Any, name: str, where: str, default: float | None = None) -> float:
    if not isinstance(holder, Mapping):
        raise ValueError(f"its {where} is not an object")
    value = holder.get(name)
    if value is None and default is not None:
        return default
    # JSON has whole numbers of any length: more than a float can hold is none of them.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= sys.float_info.max:
        raise ValueError(f"the {name} of its {where} is {_shown(value)}")
    return float(value)


def _shown(value: Any) -> str:
    """Return what stands for ``value`` in a message. It may be of any length."""
    if isinstance(value, str):
        return repr(printable(value, 60))
    if isinstance(value, (int, float)) and abs(value) <= sys.float_info.max or value in (math.inf, -math.inf):
        return repr(value)
    return "too large" if isinstance(value, int) else f"a {type(value).__name__}"


class _Decider:
    """Decide by one strategy."""

    def __init__(self, strategy: Strategy) -> None:
        self.strategy = strategy
        self._bucket = None if strategy.per_second is None else TokenBucket(strategy.per_second)
        self._least: dict[str, TokenBucket] = {}

    def decide(self, name: str, trace_id: int) -> tuple[bool, dict[str, Any]]:
        strategy = self.strategy
        share = strategy.operations.get(name)
        if share is None:
            if self._bucket is not None:
                return self._bucket.take(), {TYPE: "ratelimiting", PARAM: strategy.per_second}
            share = strategy.rate or 0.0
        if trace_id & _BITS < round(share * (_BITS + 1)):
            return True, {TYPE: "probabilistic", PARAM: share}
        if strategy.lower_bound and self._bucket is None:
            # A name that a site makes may be of any length, and is kept here.
            name = name[:_LONGEST_NAME]
            least = self._least.get(name)
            if least is None:
                if len(self._least) >= _MAX_OPERATIONS:
                    return False, {}
                least = self._least.setdefault(name, TokenBucket(strategy.lower_bound))
            if least.take():
                return True, {TYPE: "lowerbound", PARAM: strategy.lower_bound}
        return False, {}


class JaegerRemoteSampler(Sampler):
    """Sample as the Jaeger at ``endpoint`` decides for ``service_name``. No decision waits for the network.

    ``endpoint`` is the address of the sampling server (``http://jaeger:5778/sampling``, or just
    ``http://jaeger:5778``). A thread asks it every ``refresh`` seconds and waits ``timeout`` seconds for an answer.
    ``initial`` is the share that is kept until the first answer. After that, the last valid answer is in force.
    """

    def __init__(
        self,
        service_name: str,
        endpoint: str = DEFAULT_ENDPOINT,
        *,
        refresh: float = 60.0,
        initial: float = 0.001,
        timeout: float = 2.0,
    ) -> None:
        address = _address(endpoint)
        self.service_name = service_name
        self.endpoint = endpoint
        #: The endpoint without possible secrets in its path and query.
        self.shown = shown_address(endpoint)
        query = f"{address.query}&" if address.query else ""
        self._address = address._replace(
            path=address.path.rstrip("/") or "/sampling",
            query=f"{query}service={quote(service_name, safe='')}",
        )
        self._refresh = refresh
        self._timeout = timeout
        self._decider = _Decider(Strategy(rate=initial))
        self._failing = Lasting()
        self._prepare()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._prepare)

    def _prepare(self) -> None:
        # In a forked child, the old locks may be held by a thread that only the parent has.
        self._decider = _Decider(self._decider.strategy)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def strategy(self) -> Strategy:
        """The strategy in force."""
        return self._decider.strategy

    def decide(self, name: str, trace_id: int) -> tuple[bool, dict[str, Any]]:
        """Return whether to keep a trace that starts with a span called ``name``, and attributes for that span."""
        if self._thread is None:
            self.start()
        return self._decider.decide(name, trace_id)

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        state = get_current_span(parent_context).get_span_context().trace_state
        kept, own = self.decide(name, trace_id)
        if not kept:
            return SamplingResult(Decision.DROP, None, state)
        return SamplingResult(Decision.RECORD_AND_SAMPLE, {**(attributes or {}), **own}, state)

    def get_description(self) -> str:
        return f"JaegerRemoteSampler{{{self.service_name}, {self.shown}}}"

    # ----- the thread

    def start(self) -> None:
        """Start the thread. The first decision does this by itself."""
        try:
            with self._lock:
                if self._thread is not None or self._stop.is_set():
                    return
                # Raises in an interpreter without daemon threads.
                thread = self._thread = threading.Thread(target=self._run, name="jaeger_remote_sampler", daemon=True)
            # Not with the lock: under gevent, starting a thread lets others run, which would wait for it forever.
            start_without_context(thread)
        except RuntimeError:  # no more threads, or the process is ending: the next decision tries again
            self._thread = None

    def close(self) -> None:
        """Stop the thread. The strategy in force stays."""
        self._stop.set()

    def _run(self) -> None:
        stop = self._stop
        while not stop.is_set():
            self.ask()
            # Random, so that not all processes ask at once.
            stop.wait(self._refresh * _random.uniform(0.9, 1.0))

    def ask(self) -> bool:
        """Ask once, now. Return whether there was a valid answer. Never raises."""
        try:
            body = self._get()
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            self._log_failure(explain_error(error, self._address.where).message.rstrip("."))
            return False
        except ValueError as error:
            self._log_failure(str(error))
            return False
        try:
            strategy = parse_strategy(json.loads(body))
        except ValueError as error:
            self._log_failure(str(error))
            return False
        except Exception as error:
            self._log_failure(type(error).__name__)
            return False
        # An unchanged strategy keeps its buckets.
        if strategy != self._decider.strategy:
            self._decider = _Decider(strategy)
        if self._failing.ends():
            _logger.info("The sampling strategy is read from %s again.", self.shown)
        return True

    def _get(self) -> bytes:
        connection = connect(self._address, self._timeout)
        try:
            connection.request("GET", self._address.target, headers={"Accept": "application/json"})
            answer = connection.getresponse()
            if answer.status != 200:
                raise ValueError(f"it answered {answer.status}")
            body, has_more = read_at_most(answer, _MAX_BYTES)
            if has_more:
                raise ValueError("its answer is too long")
            return body
        finally:
            connection.close()

    def _log_failure(self, failure: str) -> None:
        if self._failing.happens():
            again = self._failing.since_last_line()
            _logger.warning(
                "No sampling strategy from %s (%s): %s stays in force.%s",
                self.shown,
                printable(failure, _MAX_QUOTED),
                printable(str(self._decider.strategy), _MAX_QUOTED),
                f" It happened {again} more times since it was last logged." if again else "",
            )


def _address(endpoint: str) -> Address:
    """Parse the address of a sampling server. Raises ValueError without possible secrets of it."""
    with suppress(ValueError):
        address = parse_address(endpoint)
        if address.scheme in ("http", "https") and urlsplit(endpoint).hostname:
            return address
    raise ValueError(f'The endpoint is "{shown_address(endpoint)}": write it as "{DEFAULT_ENDPOINT}".')


def from_environment(argument: str | None = None) -> ParentBased:
    """Create the sampler for ``OTEL_TRACES_SAMPLER=jaeger_remote``. ``argument`` is ``OTEL_TRACES_SAMPLER_ARG``.

    Its format is ``endpoint=http://localhost:5778/sampling,pollingIntervalMs=5000,initialSamplingRate=0.25``; each
    part is optional (https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/). The service
    is ``OTEL_SERVICE_NAME``. Also for ``parentbased_jaeger_remote``: both follow a parent's decision.
    """
    given: dict[str, str] = {}
    for part in (argument or "").split(","):
        key, equals, value = part.partition("=")
        if part.strip() and not equals:
            # The entry is not shown: it may be a part of an address whose query has a comma.
            raise ValueError(
                "OTEL_TRACES_SAMPLER_ARG has an entry without '=': write endpoint=http://localhost:5778/sampling"
            )
        given[key.strip()] = value.strip()
    options: dict[str, float] = {}
    if "pollingIntervalMs" in given:
        options["refresh"] = max(float(given["pollingIntervalMs"]) / 1000, 0.1)
    if "initialSamplingRate" in given:
        options["initial"] = float(given["initialSamplingRate"])
    service = os.environ.get("OTEL_SERVICE_NAME", "").strip() or "unknown_service"
    return ParentBased(JaegerRemoteSampler(service, given.get("endpoint") or DEFAULT_ENDPOINT, **options))
