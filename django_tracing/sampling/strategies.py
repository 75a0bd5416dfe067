"""Convert rules into a strategy of Jaeger's remote sampling protocol. Knows no Django.

The protocol has a service, names of operations, a rate and a number of traces a second. Rules with other conditions
(users, headers, patterns) can't be expressed in it. They are left out, with the reason.
Convention: https://www.jaegertracing.io/docs/latest/sampling/#remote-sampling
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from django_tracing.sampling.rules import Rule, compile_rules

__all__ = ["Served", "inexpressible", "serve"]


class Served(NamedTuple):
    """The strategy for a service."""

    #: A SamplingStrategyResponse, as JSON.
    document: dict[str, Any]
    #: Rules of that service that it does not include, and the reason.
    left_out: list[tuple[Rule, str]]


def inexpressible(rule: Rule) -> str:
    """Return why the protocol can't express ``rule``, as text for the admin; empty if it can."""
    if rule.operation in ("command", "task"):
        return "it is for commands or tasks"
    for name, what in (
        ("user_id", "a user"),
        ("subscription", "a subscription"),
        ("header_name", "a header"),
        ("valid_until", "an end"),
    ):
        if getattr(rule, name):
            return f"it has {what}"
    if rule.path.startswith("~") or "*" in rule.path or "?" in rule.path:
        return "its path is a pattern"
    if rule.path and not rule.method:
        return "it has a path without a method: operations are called by both"
    if rule.method and not rule.path:
        return "it has a method without a path: operations are called by both"
    if rule.max_per_second is not None and (rule.path or rule.rate < 1.0):
        return "it has both a rate and a number a second, or a number for one operation"
    return ""


def serve(rules: Iterable[Rule], service: str, rate: float) -> Served:
    """Return the strategy for ``service`` by ``rules``, in their order. ``rate`` is for what no rule decides.

    ``rules`` must not include rules that have ended.
    """
    operations: dict[str, float] = {}
    left_out: list[tuple[Rule, str]] = []
    per_second: float | None = None
    compiled = compile_rules(rules, service)
    for one in compiled.compiled:
        rule = one.rule
        why = inexpressible(rule)
        if why:
            left_out.append((rule, why))
        elif rule.path:
            operations.setdefault(f"{rule.method.upper()} {rule.path}", rule.rate)
        else:
            # It is for the whole service: no later rule decides.
            if rule.max_per_second is None:
                rate = rule.rate
            elif rule.max_per_second == 0:
                rate = 0.0
            else:
                per_second = rule.max_per_second
            break
    document: dict[str, Any]
    if per_second is not None:
        # The protocol's clients read a whole number.
        document = {
            "strategyType": "RATE_LIMITING",
            "rateLimitingSampling": {"maxTracesPerSecond": max(round(per_second), 1)},
        }
        rate = 1.0
    else:
        document = {"strategyType": "PROBABILISTIC", "probabilisticSampling": {"samplingRate": rate}}
    if operations:
        document["operationSampling"] = {
            "defaultSamplingProbability": rate,
            "defaultLowerBoundTracesPerSecond": 0,
            "perOperationStrategies": [
                {"operation": operation, "probabilisticSampling": {"samplingRate": share}}
                for operation, share in operations.items()
            ],
        }
    return Served(document, [*left_out, *compiled.left_out])
