"""Build spans for the tests of readers, in the form in which the exporter passes them to the store."""

from __future__ import annotations

import random
from typing import Any

#: 2026-11-23 12:00:00 UTC, in nanoseconds.
NOON = 1_795_435_200_000_000_000
MS = 1_000_000


def row(
    trace: int = 1,
    span: int = 1,
    parent: int = 0,
    name: str = "GET /x",
    *,
    start: int = 0,
    took: float = 1.0,
    base: int = NOON,
    **changes: Any,
) -> dict[str, Any]:
    """Return one span; ``start`` and ``took`` are in milliseconds after ``base``."""
    service = changes.pop("service", "shop")
    began = base + int(start * MS)
    return {
        "trace_id": f"{trace:032x}",
        "span_id": f"{span:016x}",
        "parent_id": f"{parent:016x}" if parent else "",
        "name": name,
        "kind": "internal",
        "service": service,
        "resource": {"service.name": service, "host.name": "here"},
        "scope": "django_tracing",
        "start": began,
        "end": began + int(took * MS),
        "status": "unset",
        "status_message": "",
        "attributes": {},
        "events": [],
        "links": [],
        "trace_state": "",
        **changes,
    }


def noise(length: int) -> str:
    """Return a text that no compression makes much shorter."""
    return "".join(random.choices("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-", k=length))


def exception(kind: str = "ValueError", message: str = "boom", at: int = NOON) -> dict[str, Any]:
    return {"name": "exception", "time": at, "attributes": {"exception.type": kind, "exception.message": message}}


def blueprint_trace() -> list[dict[str, Any]]:
    """Return the trace of a request to a gateway that calls another service, which fails, and uses a fallback."""
    return [
        row(1, 1, 0, "GET /api/blueprints/<int:pk>", took=124.4, kind="server", service="api-gateway",
            attributes={"http.status_code": 200, "http.method": "GET"}),
        row(1, 2, 1, "middleware.auth", start=1, took=3.14159, service="api-gateway"),
        row(1, 3, 2, "db.select.users", start=2, took=1.2, kind="client", service="api-gateway",
            attributes={"db.rows": 1, "db.statement": "SELECT 1"}),
        row(1, 4, 1, "cache.get.blueprint:*", start=5, took=0.0456, service="api-gateway",
            attributes={"cache.hit": False}),
        row(1, 5, 1, "circuit_breaker.blueprint-service", start=6, took=100, status="error",
            service="api-gateway", attributes={"circuit_breaker.state": "closed", "circuit_breaker.outcome": "failure"},
            events=[exception("requests.exceptions.ReadTimeout", "read timed out")]),
        row(1, 6, 5, "http.post.blueprint-service", start=7, took=99, kind="client", service="api-gateway",
            attributes={"peer.service": "blueprint-service"}),
        row(1, 7, 6, "POST /validate", start=8, took=97, kind="server", service="blueprint-service", status="error",
            status_message="500", attributes={"http.response.status_code": 500}),
        row(1, 8, 0x99, "rate_limit.check", start=110, took=12345.678, service="api-gateway",
            attributes={"rate_limit.allowed": True}),
    ]  # fmt: skip
