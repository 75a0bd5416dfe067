"""Decide whether a trace is kept: by rules, by a rate, or as its caller decided."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from random import getrandbits
from threading import RLock
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceState, get_current_span
from opentelemetry.util.types import Attributes as OTelAttributes

from django_tracing.conf.loading import get_settings
from django_tracing.conf.values import Settings
from django_tracing.context.clients import is_trusted
from django_tracing.context.description import NO_ROUTE, find_route, resolved_route, urlconf_of
from django_tracing.context.request import get_request_state
from django_tracing.context.routes import inexact_routes, route_name
from django_tracing.context.user import identify
from django_tracing.recording.shared import SharedAttributes
from django_tracing.recording.span import RecordingSpan, context_of
from django_tracing.recording.undecided import SamplingDecision, UndecidedTrace, undecided_traces
from django_tracing.sampling.bucket import TokenBucket
from django_tracing.sampling.debug_header import is_valid_debug_header
from django_tracing.sampling.rules import Rule, RuleSet, TraceStart, compile_rules, header_key, start_of_work
from django_tracing.sampling.trace_state import (
    RANDOM_BITS,
    RANDOM_MASK,
    jaeger_randomness,
    randomness,
    threshold,
    with_own_randomness,
    with_threshold,
)
from django_tracing.semconv.names import SAMPLING_RATE, SAMPLING_RULE, USER_ID, USER_SUBSCRIPTION, Attributes

if TYPE_CHECKING:
    from django_tracing.sampling.remote import JaegerRemoteSampler

__all__ = ["BY_DEBUG_HEADER", "BY_REMOTE", "BY_SETTINGS", "RuleSampler"]

_logger = logging.getLogger("django_tracing")

#: The values of ``sampling.rule`` if no rule decided.
BY_SETTINGS: Final = "settings"
BY_DEBUG_HEADER: Final = "debug header"
BY_REMOTE: Final = "remote"

#: How many traces a second a process keeps because of a debug header.
_DEBUGGED_PER_SECOND: Final = 10.0

_FOLLOWED: Final = SamplingDecision(True)
_PASSED_OVER: Final = SamplingDecision(False)


class RuleSampler(Sampler):
    """Decide by an operator's rules, or else by ``TRACING["SAMPLE_RATE"]``. A caller's decision is followed.

    It is a normal sampler of the SDK. This app's own spans use :meth:`keep` and :meth:`decide` instead, which cost
    less. :meth:`use` sets the rules, at any time.
    """

    def __init__(self, rate: float, settings: Settings | None = None) -> None:
        self.rate = rate
        self._threshold = threshold(rate)
        #: Attributes of the first span of a trace that the rate kept; None if it keeps all traces.
        self.shared = None if rate >= 1.0 else _decided_by(BY_SETTINGS, rate)
        self._settings = settings
        bound = None if settings is None else settings.forced_per_second
        #: How many traces callers may force; None for any number.
        self._forced = None if bound is None else TokenBucket(bound)
        self._debugged = TokenBucket(_DEBUGGED_PER_SECOND)
        #: Whether a rule has its own setting for requests that fail or are slow.
        self._rules_keep = False
        #: Decides instead of the rate if no rule does.
        self.remote: JaegerRemoteSampler | None = None
        if settings is not None and settings.remote_sampling_url is not None:
            # It imports an HTTP client, which is not needed otherwise.
            from django_tracing.sampling.remote import JaegerRemoteSampler

            self.remote = JaegerRemoteSampler(
                settings.service_name,
                settings.remote_sampling_url,
                initial=rate,
                refresh=settings.remote_sampling_interval,
            )
        self.rules: RuleSet = compile_rules((), "")
        self._buckets: dict[int, TokenBucket] = {}
        self._counts: dict[int | None, list[int]] = defaultdict(lambda: [0, 0])
        self._lock = RLock()

    # ----- rules

    def use(self, rules: RuleSet, processes: int = 1) -> None:
        """Decide by ``rules`` from now on. ``processes`` processes share the number a second of a rule."""
        buckets: dict[int, TokenBucket] = {}
        for compiled in rules.compiled:
            rule = compiled.rule
            if rule.max_per_second is None:
                continue
            rate = rule.max_per_second / max(processes, 1)
            bucket = self._buckets.get(rule.id)
            if bucket is None:
                bucket = TokenBucket(rate)
            else:
                bucket.rate = rate
            buckets[rule.id] = bucket
        self._buckets = buckets
        self._rules_keep = any(
            compiled.rule.keep_errors is not None or compiled.rule.keep_slower_than is not None
            for compiled in rules.compiled
        )
        self.rules = rules

    @property
    def is_simple(self) -> bool:
        """Return True if :meth:`keep` alone can decide."""
        settings = self._settings
        if self.rules.compiled or self.remote is not None:
            return False
        return settings is None or (
            not settings.keep_errors
            and settings.keep_slower_than is None
            and not settings.debug_header
            and not settings.sample_by_trace_id
        )

    def describe(self) -> dict[str, Any]:
        """Return the sampling in force, for the status page."""
        settings = self._settings
        return {
            "rate": self.rate,
            "remote": None if self.remote is None else self.remote.strategy._asdict(),
            "rules": [compiled.rule.name for compiled in self.rules.compiled[:100]],
            "keep_errors": settings is not None and settings.keep_errors,
            "keep_slower_than": None if settings is None else settings.keep_slower_than,
            "trust_parent": "always"
            if settings is None
            else settings.trust_parent
            if isinstance(settings.trust_parent, str)
            else [str(network) for network in settings.trust_parent],
        }

    def drain(self) -> dict[int | None, tuple[int, int]]:
        """Return how many traces each rule (None: the settings) kept and passed over since the last call."""
        with self._lock:
            counts, self._counts = self._counts, defaultdict(lambda: [0, 0])
        return {rule: (kept, passed_over) for rule, (kept, passed_over) in counts.items()}

    def reset_after_fork(self) -> None:
        """Reset counts and locks in a forked child. The parent stores its own counts, and its threads held locks."""
        self._lock = RLock()
        self._counts = defaultdict(lambda: [0, 0])
        for bucket in self._buckets.values():
            bucket.reset_lock()
        self._debugged.reset_lock()
        if self._forced is not None:
            self._forced.reset_lock()

    # ----- deciding

    def keep(self, parent: SpanContext | None, trace_id: int) -> bool:
        """Return whether to keep a span below ``parent`` (None: it starts the trace), by the rate alone."""
        if parent is None:
            return trace_id & RANDOM_MASK >= self._threshold
        if not parent.trace_flags.sampled:
            return False
        # Not by the trace's id, which the caller chose.
        return not parent.is_remote or self._may_force() or getrandbits(RANDOM_BITS) >= self._threshold

    def _may_force(self) -> bool:
        """Return whether to follow a caller that kept a trace. All callers share a number of traces a second."""
        keeps_all = not self._threshold and not self.rules.compiled and self.remote is None
        return self._forced is None or keeps_all or self._forced.take()

    def _decides_by_id(self, parent: SpanContext, trace_id: int) -> bool:
        """Return whether a caller's trace is sampled by its id, so that services of one rate keep the same traces.

        What callers can force by the choice of an id is bounded as what they force by their decision.
        """
        if self._settings is None or not self._settings.sample_by_trace_id:
            return False
        return randomness(trace_id, parent.trace_state) < self._threshold or self._may_force()

    def decide(
        self, state: Any, name: str, kind: SpanKind, parent: SpanContext | None, trace_id: int
    ) -> SamplingDecision:
        """Decide on a trace that starts with a span called ``name``, or continues ``parent``."""
        request = None if state is None else state.request
        meta = {} if request is None else request.META
        if request is not None and self._is_debugged(request):
            return SamplingDecision(True, None, _decided_by(BY_DEBUG_HEADER, 1.0))
        trace_state = None
        # Also if another instrumentation started the request's span, without our request state.
        asked_for = request is not None or kind is SpanKind.SERVER
        if parent is not None:
            if not self._is_followed(meta, asked_for):
                trace_state = parent.trace_state
            elif not parent.trace_flags.sampled:
                return self._left_out(state, request, name, meta, trace_id)
            elif not asked_for or self._may_force():
                return _FOLLOWED
            if asked_for and not self._decides_by_id(parent, trace_id):
                # The caller chose the trace's id and tracestate, and could choose the decision with them.
                trace_state = with_own_randomness(parent.trace_state)
        return self._decide_here(state, request, name, meta, trace_id, trace_state)

    def decide_failed(self, state: Any, name: str, parent: SpanContext) -> SamplingDecision:
        """Decide on a failed request whose caller, ``parent``, does not keep the trace.

        A caller may drop any trace, but it can't hide an error that this site would have kept by itself.
        """
        request = None if state is None else state.request
        meta = {} if request is None else request.META
        if not self._is_followed(meta):
            return _PASSED_OVER
        decision = self._decide_here(state, request, name, meta, 0, with_own_randomness(None))
        undecided = decision.undecided
        if undecided is not None and not decision.kept and undecided.decide is not None:
            decision = undecided.decide(True) or _PASSED_OVER
            undecided = decision.undecided
        return decision._replace(
            kept=decision.kept or (undecided is not None and undecided.keep_errors), undecided=None, trace_state=None
        )

    def _decide_here(
        self, state: Any, request: Any, name: str, meta: Any, trace_id: int, trace_state: TraceState | None
    ) -> SamplingDecision:
        """Return this site's own decision."""
        start = self._trace_start(request, name, meta)
        if request is not None and self.remote is not None and self.remote.strategy.operations:
            # The span's name at its end.
            name = f"{name} {start.route or _route_of(request) or NO_ROUTE}"
        found = self.rules.match(start, time.time())
        if found.open:

            def again(last: bool) -> SamplingDecision | None:
                known = self._with_user(start, state, last=last)
                if known is None:
                    return None
                return self._decide(self.rules.match(known, time.time()).rule, name, trace_id, trace_state)

            return SamplingDecision(False, UndecidedTrace(trace_id, again))
        return self._decide(found.rule, name, trace_id, trace_state)

    def _decide(
        self, rule: Rule | None, name: str, trace_id: int, trace_state: TraceState | None
    ) -> SamplingDecision:
        if rule is None and self.remote is not None:
            kept, own = self.remote.decide(name, jaeger_randomness(trace_id, trace_state))
            with self._lock:
                self._counts[None][0 if kept else 1] += 1
            if not kept:
                return self._passed_over(None, trace_id)
            attributes: Attributes = {SAMPLING_RULE: BY_REMOTE, **own}
            if own["sampler.type"] == "probabilistic":
                attributes[SAMPLING_RATE] = own["sampler.param"]
            return SamplingDecision(True, None, SharedAttributes(attributes), trace_state)
        rejected = self._threshold if rule is None else threshold(rule.rate)
        kept = randomness(trace_id, trace_state) >= rejected
        if kept and rule is not None:
            bucket = self._buckets.get(rule.id)
            kept = bucket is None or bucket.take()
        with self._lock:
            self._counts[None if rule is None else rule.id][0 if kept else 1] += 1
        if not kept:
            return self._passed_over(rule, trace_id)
        part = _decided_by(BY_SETTINGS, self.rate) if rule is None else _decided_by(rule.name, rule.rate)
        return SamplingDecision(
            True, None, part, with_threshold(trace_state, rejected) if rejected or trace_state is not None else None
        )

    def _left_out(self, state: Any, request: Any, name: str, meta: Any, trace_id: int) -> SamplingDecision:
        """Do not keep it, as its caller decided, unless it fails or is slow and a rule or the settings keep that."""
        if not self._rules_keep:
            return self._passed_over(None, trace_id)
        start = self._trace_start(request, name, meta)
        found = self.rules.match(start, time.time())
        if not found.open:
            return self._passed_over(found.rule, trace_id)

        def again(last: bool) -> SamplingDecision | None:
            known = self._with_user(start, state, last=last)
            return None if known is None else self._passed_over(self.rules.match(known, time.time()).rule, trace_id)

        return SamplingDecision(False, UndecidedTrace(trace_id, again))

    def _passed_over(self, rule: Rule | None, trace_id: int) -> SamplingDecision:
        """Do not keep it, unless it fails or is slow and ``rule`` or the settings keep that."""
        settings = self._settings
        keep_errors = settings is not None and settings.keep_errors
        slower_than = None if settings is None else settings.keep_slower_than
        if rule is not None:
            keep_errors = keep_errors if rule.keep_errors is None else rule.keep_errors
            slower_than = slower_than if rule.keep_slower_than is None else rule.keep_slower_than
        if not keep_errors and slower_than is None:
            return _PASSED_OVER
        part = None if rule is None else _decided_by(rule.name, rule.rate)
        return SamplingDecision(
            False, UndecidedTrace(trace_id, None, keep_errors=keep_errors, slower_than=slower_than), part
        )

    def _trace_start(self, request: Any, name: str, meta: Any) -> TraceStart:
        if request is None:
            return start_of_work(name)
        path = request.path
        rules = self.rules
        # Below a prefix (SCRIPT_NAME), no route is its path.
        asks = rules.has_paths and (
            path != request.path_info or rules.uses_routes(inexact_routes(urlconf_of(request)))
        )
        route = _route_of(request) if asks else ""
        return TraceStart("request", request.method or "", path, route, meta)

    def _with_user(self, start: TraceStart, state: Any, *, last: bool) -> TraceStart | None:
        if state is not None and state.user_known and state.user_attributes is not None:
            known = state.user_attributes.attributes
            return start._replace(
                user_id=str(known.get(USER_ID, "")), subscription=str(known.get(USER_SUBSCRIPTION, ""))
            )
        return start._replace(user_id="", subscription="") if last else None

    def _is_followed(self, meta: Any, asked_for: bool = True) -> bool:
        """Return whether a caller's decision is followed. What is not a request is this site's own, such as a task.

        The context of a caller that is not trusted does not come here, except from other instrumentations.
        """
        settings = self._settings
        if settings is None:
            return True
        if settings.sample_by_trace_id:
            return False
        return not asked_for or is_trusted(meta, settings.trust_parent, settings.trusted_proxies)

    def _is_debugged(self, request: Any) -> bool:
        settings = self._settings
        if settings is None or not settings.debug_header:
            return False
        value = request.META.get(header_key(settings.debug_header))
        # Whoever has a value may send it again, so that its traces are bounded, too.
        return bool(value) and is_valid_debug_header(str(value), request.path) and self._debugged.take()

    # ----- the SDK's own spans

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: OTelAttributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        current: Any = get_current_span(parent_context)
        if current.__class__ is RecordingSpan and current.undecided is not None:
            # The user may be known by now.
            state = get_request_state(parent_context)
            if state is not None and not state.user_known:
                identify(state, get_settings())
        known = context_of(current)
        parent = known if known.is_valid else None
        trace_state = None if parent is None else parent.trace_state
        if parent is not None and not parent.is_remote:
            if parent.trace_flags.sampled:
                return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes, trace_state)
            waiting = parent.trace_id in undecided_traces
            return SamplingResult(Decision.RECORD_ONLY if waiting else Decision.DROP, attributes, trace_state)
        # Of a request that another instrumentation has started, the caller may not be trusted.
        is_asked_for = parent is not None and kind is SpanKind.SERVER
        if self.is_simple and not is_asked_for:
            kept = Decision.RECORD_AND_SAMPLE if self.keep(parent, trace_id) else Decision.DROP
            return SamplingResult(kept, attributes, trace_state)
        # The SDK's own spans can't wait for a decision.
        try:
            decision = self.decide(
                get_request_state(parent_context), name, kind or SpanKind.INTERNAL, parent, trace_id
            )
        except Exception:
            # An exception would reach the code that starts the span.
            _logger.debug("The rules could not decide on a span; the rate decides.", exc_info=True)
            decision = SamplingDecision(self.keep(parent, trace_id))
        if not decision.kept:
            return SamplingResult(Decision.DROP, None, trace_state)
        every = {**(attributes or {}), **({} if decision.shared is None else decision.shared.attributes)}
        return SamplingResult(Decision.RECORD_AND_SAMPLE, every, decision.trace_state or trace_state)

    def get_description(self) -> str:
        return f"RuleSampler{{{self.rate}, {len(self.rules)} rules}}"


@lru_cache(maxsize=1024)
def _decided_by(rule: str, rate: float) -> SharedAttributes:
    return SharedAttributes({SAMPLING_RULE: rule, SAMPLING_RATE: rate})


def _route_of(request: Any) -> str:
    """Return the route of a request as its span will show it, also before it is resolved; empty if none."""
    resolved = resolved_route(request)
    if resolved is not None:
        # A message of a WebSocket, whose handshake was resolved long ago.
        return route_name(resolved, urlconf_of(request))
    return find_route(request.path_info, urlconf_of(request))


def __getattr__(name: str) -> Any:
    from django_tracing.deprecation import resolve_former_name

    former = {"make_debug_header": ("django_tracing.sampling.make_debug_header", "0.3")}
    return resolve_former_name(__name__, name, former)
