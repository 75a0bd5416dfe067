"""List the flows of the demo: requests to the gateway, and the spans that their traces must have."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["FLOWS", "TOKEN", "Flow"]

#: The API token of the demo's customer.
TOKEN = "demo-token-of-grace"


@dataclass(frozen=True)
class Flow:
    """One request to the gateway, and the spans that its trace must have.

    ``expected`` maps a span's name to the name of its parent ("" if any is right); ``attributes`` maps a name to
    attributes that one span of that name must have; ``absent`` names spans that must not exist.
    """

    title: str
    method: str
    path: str
    status: int
    expected: dict[str, str]
    attributes: dict[str, dict[str, Any]] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    services: tuple[str, ...] = ("api-gateway",)


FLOWS = (
    Flow(
        "a list: authentication, rate limit, SQL",
        "GET",
        "/api/blueprints",
        200,
        {
            "GET /api/blueprints": "",
            "middleware.auth": "GET /api/blueprints",
            "db.select.customers": "middleware.auth",
            "middleware.rate_limit": "GET /api/blueprints",
            "cache.incr.rate:*:*": "middleware.rate_limit",
            "view.blueprint_list": "GET /api/blueprints",
            "db.select.blueprints": "view.blueprint_list",
        },
        {
            "GET /api/blueprints": {
                "user.subscription": "pro",
                "user.email": "g***@example.com",
                "http.status_code": 200,
            }
        },
    ),
    Flow(
        "an N+1: a query for a list, one more for each of its rows, and the line that makes them",
        "GET",
        "/api/blueprints/owners",
        200,
        {"db.select.blueprints": "view.blueprint_owners", "db.select.customers": "view.blueprint_owners"},
    ),
    Flow(
        "one blueprint: cache miss, SQL, cache set",
        "GET",
        "/api/blueprints/123",
        200,
        {
            "GET /api/blueprints/<int:blueprint_id>": "",
            "cache.get.blueprint:*": "view.blueprint_detail",
            "db.select.blueprints": "view.blueprint_detail",
            "cache.set.blueprint:*": "view.blueprint_detail",
        },
        {"cache.get.blueprint:*": {"cache.hit": False}},
    ),
    Flow(
        "the same again: a cache hit",
        "GET",
        "/api/blueprints/123",
        200,
        {"cache.get.blueprint:*": "view.blueprint_detail"},
        {"cache.get.blueprint:*": {"cache.hit": True}},
        absent=("db.select.blueprints",),
    ),
    Flow(
        "a validation: through a breaker to the other service, one trace",
        "POST",
        "/api/blueprints/123/validate",
        200,
        {
            "POST /api/blueprints/<int:blueprint_id>/validate": "",
            "circuit_breaker.blueprint-service": "view.blueprint_validate",
            "http.post.blueprint-service": "circuit_breaker.blueprint-service",
            "POST /internal/validate": "http.post.blueprint-service",
            "db.select.blueprints": "view.internal_validate",
        },
        {"circuit_breaker.blueprint-service": {"circuit_breaker.outcome": "success"}},
        services=("api-gateway", "blueprint-service"),
    ),
    Flow(
        "a slow generator: a time-out in a breaker, a fallback",
        "POST",
        "/api/iac/generate",
        200,
        {
            "circuit_breaker.iac-generator": "view.iac_generate",
            "http.post.iac-generator": "circuit_breaker.iac-generator",
            "fallback.cached_template": "circuit_breaker.iac-generator",
        },
        {
            "circuit_breaker.iac-generator": {
                "circuit_breaker.state": "closed",
                "circuit_breaker.outcome": "failure",
                "circuit_breaker.fallback": "cached_template",
            }
        },
    ),
    Flow(
        "and once more: the breaker opens",
        "POST",
        "/api/iac/generate",
        200,
        {"circuit_breaker.iac-generator": "", "http.post.iac-generator": "", "fallback.cached_template": ""},
        {
            "circuit_breaker.iac-generator": {
                "circuit_breaker.outcome": "failure",
                "circuit_breaker.state_after": "open",
            }
        },
    ),
    Flow(
        "and again: rejected by the open breaker, the fallback answers",
        "POST",
        "/api/iac/generate",
        200,
        {"circuit_breaker.iac-generator": "", "fallback.cached_template": "circuit_breaker.iac-generator"},
        {"circuit_breaker.iac-generator": {"circuit_breaker.outcome": "rejected"}},
        absent=("http.post.iac-generator",),
    ),
    Flow(
        "an error page",
        "GET",
        "/api/boom",
        500,
        {"GET /api/boom": "", "view.boom": "GET /api/boom"},
        {"GET /api/boom": {"http.status_code": 500, "error.type": "RuntimeError"}},
    ),
    Flow(
        "a streaming response: the span lasts as long as the body",
        "GET",
        "/api/blueprints/export",
        200,
        {"GET /api/blueprints/export": "", "db.select.blueprints": "GET /api/blueprints/export"},
    ),
    Flow(
        "an async view: async cache, async SQL, httpx",
        "GET",
        "/api/reports",
        200,
        {
            "GET /api/reports": "",
            "cache.get.report:seen": "view.report",
            "db.select.blueprints": "",
            "http.get.blueprint-service": "view.report",
            "GET /internal/statistics": "http.get.blueprint-service",
        },
        services=("api-gateway", "blueprint-service"),
    ),
)
