"""Test the category and the called service of spans, including those of services in other languages."""

from __future__ import annotations

from typing import Any

import pytest

from django_tracing.semconv.categories import category_of, target_of

PYTHON = {"telemetry.sdk.language": "python"}


@pytest.mark.parametrize(
    ("kind", "attributes", "resource", "expected"),
    [
        ("client", {"operation.type": "database"}, PYTHON, "sql"),
        ("internal", {"operation.type": "cache"}, PYTHON, "cache"),
        ("internal", {"operation.type": "external"}, PYTHON, "http"),
        ("server", {"operation.type": "http"}, PYTHON, "python"),
        ("internal", {"operation.type": "circuit_breaker"}, {}, "python"),
        ("client", {"db.system": "postgresql"}, {"telemetry.sdk.language": "go"}, "sql"),
        ("client", {"db.system.name": "redis"}, {"telemetry.sdk.language": "nodejs"}, "cache"),
        ("client", {"http.request.method": "GET"}, {"telemetry.sdk.language": "go"}, "http"),
        ("client", {"rpc.system": "grpc"}, {"telemetry.sdk.language": "go"}, "other"),
        ("server", {"http.method": "GET"}, {"telemetry.sdk.language": "go"}, "other"),
        ("producer", {}, PYTHON, "other"),
        ("internal", {"operation.type": ["not", "hashable"]}, {}, "python"),
    ],
)
def test_the_category_of_a_span(
    kind: str, attributes: dict[str, Any], resource: dict[str, Any], expected: str
) -> None:
    assert category_of(kind, attributes, resource) == expected


@pytest.mark.parametrize(
    ("kind", "attributes", "expected"),
    [
        ("client", {"db.system": "postgresql", "db.name": "shop"}, ("database", "postgresql shop")),
        ("client", {"db.system.name": "mysql", "db.namespace": "x"}, ("database", "mysql x")),
        ("client", {"operation.type": "cache", "cache.system": "redis", "cache.alias": "s"}, ("cache", "redis s")),
        ("client", {"db.system": "redis"}, ("cache", "redis")),
        ("internal", {"operation.type": "circuit_breaker", "circuit_breaker.name": "mail"}, ("breaker", "mail")),
        ("internal", {"operation.type": "circuit_breaker"}, None),
        ("client", {"peer.service": "billing", "http.url": "http://10.0.0.1/"}, ("external", "billing")),
        ("client", {"url.full": "https://api.example:8443/x"}, ("external", "api.example")),
        ("client", {"http.url": "http://[broken"}, None),
        ("client", {"http.url": 7}, None),
        ("server", {"http.url": "http://us/"}, None),
    ],
)
def test_the_called_service(kind: str, attributes: dict[str, Any], expected: tuple[str, str] | None) -> None:
    assert target_of(kind, attributes) == expected
