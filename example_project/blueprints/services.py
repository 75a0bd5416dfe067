"""Call other services, each through its circuit breaker."""

from __future__ import annotations

from typing import Any

import pybreaker
import requests
from django.conf import settings

from django_tracing import trace_circuit_breaker_call

#: How long to wait for the other service, in seconds. On a slow machine, httpx's default (5 s) would fail the demo.
CALL_TIMEOUT = 60.0
#: How long to wait for the generator, which never answers, in seconds.
GENERATOR_TIMEOUT = 0.5


def _breaker(name: str) -> pybreaker.CircuitBreaker:
    storage: Any = None
    if settings.REDIS_URL:
        import redis

        # All workers of all hosts see the same state.
        client = redis.Redis.from_url(settings.REDIS_URL)
        storage = pybreaker.CircuitRedisStorage(pybreaker.STATE_CLOSED, client, namespace=name)
    return pybreaker.CircuitBreaker(fail_max=2, reset_timeout=30, name=name, state_storage=storage)


blueprint_breaker = _breaker("blueprint-service")
generator_breaker = _breaker("iac-generator")


def validate(blueprint_id: int) -> dict[str, Any]:
    def call() -> dict[str, Any]:
        response = requests.post(
            f"{settings.BLUEPRINT_SERVICE_URL}/internal/validate", json={"id": blueprint_id}, timeout=CALL_TIMEOUT
        )
        response.raise_for_status()
        result: dict[str, Any] = response.json()
        return result

    result: dict[str, Any] = trace_circuit_breaker_call(blueprint_breaker, call, service="blueprint-service")
    return result


def generate(blueprint_id: int) -> dict[str, Any]:
    def call() -> dict[str, Any]:
        response = requests.post(
            f"{settings.IAC_GENERATOR_URL}/generate", json={"id": blueprint_id}, timeout=GENERATOR_TIMEOUT
        )
        result: dict[str, Any] = response.json()
        return result

    def cached_template() -> dict[str, Any]:
        return {"source": "cached template", "template": f"# blueprint {blueprint_id}"}

    result: dict[str, Any] = trace_circuit_breaker_call(
        generator_breaker, call, service="iac-generator", fallback=cached_template
    )
    return result
