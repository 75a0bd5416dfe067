"""Jaeger's remote sampling for Python: a sampler that does as a Jaeger, or whoever speaks its protocol, says.

It knows neither Django nor this app: ``JaegerRemoteSampler("shop", "http://jaeger:5778/sampling")`` is one of
OpenTelemetry's samplers, and ``OTEL_TRACES_SAMPLER=jaeger_remote`` makes one. Put it into the SDK's ``ParentBased``:
it decides for every span that it is asked about.
Conventions: https://www.jaegertracing.io/docs/latest/sampling/#remote-sampling,
https://opentelemetry.io/docs/specs/otel/trace/sdk/#jaegerremotesampler
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import random
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlsplit

from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanKind, TraceState, get_current_span
from opentelemetry.util.types import Attributes

from django_tracing.addresses import shown_address
from django_tracing.net import TimedResponse
from django_tracing.redaction.printable import printable
from django_tracing.sampling.bucket import TokenBucket

__all__ = ["JaegerRemoteSampler", "Strategy", "from_environment", "parse_strategy"]

_logger = logging.getLogger(__name__)

#: As Jaeger's clients say how a trace was decided on.
TYPE: Final = "sampler.type"
PARAM: Final = "sampler.param"

DEFAULT_ENDPOINT: Final = "http://localhost:5778/sampling"
#: Its own: an application may have seeded Python's.
_chance: Final = random.Random()  # noqa: S311 - nothing here is a secret
_MOST_BYTES: Final = 1024 * 1024
_MOST_OPERATIONS: Final = 10_000
#: What a server answers is quoted with as many characters.
_MOST_SAID: Final = 200
_BITS: Final = (1 << 64) - 1


class Strategy(NamedTuple):
    """What a service is to do."""

    #: A share of the traces, 0 to 1; None where there is a number a second.
    rate: float | None = None
    #: Traces a second.
    per_second: float | None = None
    #: Shares of operations of their own, by the name of the span.
    operations: Mapping[str, float] = {}
    #: How many traces a second of each operation are kept at least.
    lower_bound: float = 0.0


def parse_strategy(document: Any) -> Strategy:
    """A SamplingStrategyResponse, of any Jaeger since 1.51, as JSON decodes it.

    Raises ValueError that says what is wrong with it.
    """
    if not isinstance(document, Mapping):
        raise ValueError("it is no JSON object")
    limiting = document.get("rateLimitingSampling")
    probabilistic = document.get("probabilisticSampling")
    # A name in 1.51 and from 2.16 on, a number between; old ones leave the default out.
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
            raise ValueError("its perOperationStrategies is no list")
        for one in strategies[:_MOST_OPERATIONS]:
            if not isinstance(one, Mapping) or not isinstance(one.get("operation"), str):
                raise ValueError("one of its perOperationStrategies names no operation")
            operations[one["operation"]] = _share(one.get("probabilisticSampling"), "perOperationStrategies")
    if rate is None and per_second is None:
        raise ValueError("it has no strategy")
    if rate is not None and not 0.0 <= rate <= 1.0:
        raise ValueError(f"its probability is {rate}")
    return Strategy(rate, per_second, operations, lower_bound)


def _share(holder: Any, where: str) -> float:
    # 0 is left out by those that write proto3's JSON.
    share = _number(holder, "samplingRate", where, default=0.0)
    if share > 1.0:
        raise ValueError(f"the samplingRate of its {where} is {share}")
    return share


def _number(holder: Any, name: str, where: str, default: float | None = None) -> float:
    if not isinstance(holder, Mapping):
        raise ValueError(f"its {where} is no object")
    value = holder.get(name)
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        raise ValueError(f"the {name} of its {where} is {value!r}")
    return float(value)


class _Decider:
    """A strategy at work."""

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
            least = self._least.get(name)
            if least is None:
                if len(self._least) >= _MOST_OPERATIONS:
                    return False, {}
                least = self._least.setdefault(name, TokenBucket(strategy.lower_bound))
            if least.take():
                return True, {TYPE: "lowerbound", PARAM: strategy.lower_bound}
        return False, {}


class JaegerRemoteSampler(Sampler):
    """Does as the Jaeger at ``endpoint`` says for ``service_name``; nothing of it ever waits for the network.

    ``endpoint`` is the address of its sampling server (``http://jaeger:5778/sampling``; a bare ``http://jaeger:5778``
    will do), asked every ``refresh`` seconds by a thread of its own, with ``timeout`` seconds for an answer.
    ``initial`` is the share kept until the first answer; after it, the last one that could be read stays in force.
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
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f'The endpoint is "{shown_address(endpoint)}": write it as "{DEFAULT_ENDPOINT}".')
        self.service_name = service_name
        self.endpoint = endpoint
        #: The endpoint for people: its path and query may hold a key.
        self.shown = shown_address(endpoint)
        self._connection: tuple[str, str, int | None] = parts.scheme, parts.hostname, parts.port
        query = f"{parts.query}&" if parts.query else ""
        self._path = f"{parts.path.rstrip('/') or '/sampling'}?{query}service={quote(service_name, safe='')}"
        self._refresh = refresh
        self._timeout = timeout
        self._decider = _Decider(Strategy(rate=initial))
        self._trouble: str | None = None
        self._prepare()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._prepare)

    def _prepare(self) -> None:
        # In a forked child, a lock of the old one's may be held by a thread that only the parent has.
        self._decider = _Decider(self._decider.strategy)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def strategy(self) -> Strategy:
        """What is in force."""
        return self._decider.strategy

    def decide(self, name: str, trace_id: int) -> tuple[bool, dict[str, Any]]:
        """Whether to keep a trace that begins with a span called ``name``, and how that was decided."""
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
        kept, said = self.decide(name, trace_id)
        if not kept:
            return SamplingResult(Decision.DROP, None, state)
        return SamplingResult(Decision.RECORD_AND_SAMPLE, {**(attributes or {}), **said}, state)

    def get_description(self) -> str:
        return f"JaegerRemoteSampler{{{self.service_name}, {self.shown}}}"

    # ----- the thread

    def start(self) -> None:
        """Starts asking; the first decision does it by itself."""
        with self._lock:
            if self._thread is not None or self._stop.is_set():
                return
            thread = self._thread = threading.Thread(target=self._run, name="jaeger_remote_sampler", daemon=True)
        # Not with the lock: under gevent, starting a thread lets others run, who would wait for it for good.
        try:
            thread.start()
        except RuntimeError:  # no more threads, or the process is ending: the next decision tries again
            self._thread = None

    def close(self) -> None:
        """Stops asking; what is in force stays."""
        self._stop.set()

    def _run(self) -> None:
        stop = self._stop
        while not stop.is_set():
            self.ask()
            # Not all processes of a fleet at once.
            stop.wait(self._refresh * _chance.uniform(0.9, 1.0))

    def ask(self) -> bool:
        """Asks once, now; False when there was no answer to go by. Never raises."""
        try:
            strategy = parse_strategy(json.loads(self._get()))
        except OSError as error:
            self._say(f"{type(error).__name__}: {error}")
            return False
        except http.client.HTTPException as error:
            # Its text may be the path, with what is secret of it.
            self._say(f"{type(error).__name__}: it does not speak HTTP")
            return False
        except ValueError as error:
            self._say(str(error))
            return False
        except Exception as error:
            self._say(type(error).__name__)
            return False
        # The same one keeps its buckets.
        if strategy != self._decider.strategy:
            self._decider = _Decider(strategy)
        if self._trouble is not None:
            self._trouble = None
            _logger.info("The sampling strategy is read from %s again.", self.shown)
        return True

    def _get(self) -> bytes:
        scheme, host, port = self._connection
        kind = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
        connection = kind(host, port, timeout=self._timeout)
        # One that drips is given up as well.
        connection.response_class = TimedResponse
        try:
            connection.request("GET", self._path, headers={"Accept": "application/json"})
            answer = connection.getresponse()
            if answer.status != 200:
                raise ValueError(f"it answered {answer.status}")
            body = answer.read(_MOST_BYTES + 1)
            if len(body) > _MOST_BYTES:
                raise ValueError("its answer is too long")
            return body
        finally:
            connection.close()

    def _say(self, trouble: str) -> None:
        if self._trouble is None:
            _logger.warning(
                "No sampling strategy from %s (%s): %s stays in force.",
                self.shown,
                printable(trouble, _MOST_SAID),
                printable(str(self._decider.strategy), _MOST_SAID),
            )
        self._trouble = trouble


def from_environment(argument: str | None = None) -> ParentBased:
    """The sampler for ``OTEL_TRACES_SAMPLER=jaeger_remote``; ``argument`` is ``OTEL_TRACES_SAMPLER_ARG``.

    ``endpoint=http://localhost:5778/sampling,pollingIntervalMs=5000,initialSamplingRate=0.25``, each of them
    optional, as https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/ says. The service
    is ``OTEL_SERVICE_NAME``. Also for ``parentbased_jaeger_remote``: a parent's decision is followed by both.
    """
    given: dict[str, str] = {}
    for part in (argument or "").split(","):
        key, equals, value = part.partition("=")
        if part.strip() and not equals:
            raise ValueError(
                f'OTEL_TRACES_SAMPLER_ARG has "{shown_address(part)}": write endpoint=http://localhost:5778/sampling'
            )
        given[key.strip()] = value.strip()
    options: dict[str, float] = {}
    if "pollingIntervalMs" in given:
        options["refresh"] = max(float(given["pollingIntervalMs"]) / 1000, 0.1)
    if "initialSamplingRate" in given:
        options["initial"] = float(given["initialSamplingRate"])
    service = os.environ.get("OTEL_SERVICE_NAME", "").strip() or "unknown_service"
    return ParentBased(JaegerRemoteSampler(service, given.get("endpoint") or DEFAULT_ENDPOINT, **options))
