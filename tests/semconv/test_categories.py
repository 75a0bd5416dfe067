"""Test the category and the called service of spans, including those of services in other languages."""

from __future__ import annotations

from typing import Any

import pytest

from django_tracing.semconv.categories import KEYS, breaker_state, category_of, target_of

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
        # One server is one target, with whatever conventions.
        *(
            ("client", {"db.system": "redis", **attributes}, ("cache", "redis cache-1:6379"))
            for attributes in (
                {"net.peer.name": "cache-1", "net.peer.port": 6379},
                {"server.address": "cache-1", "server.port": "6379", "db.redis.database_index": 2},
                {
                    "operation.type": "cache",
                    "cache.system": "redis",
                    "cache.alias": "sessions",
                    "net.peer.name": "cache-1",
                    "net.peer.port": 6379,
                },
            )
        ),
        ("client", {"db.system": "redis", "net.peer.name": "cache-1"}, ("cache", "redis cache-1")),
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


class Asked(dict[str, Any]):
    """Attributes that keep which of them were asked for."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.asked: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self.asked.add(str(key))
        return super().__contains__(key)


@pytest.mark.parametrize("kind", ["client", "producer", "internal", "server"])
@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"operation.type": "circuit_breaker"},
        {"operation.type": "cache"},
        {"operation.type": "database"},
        {"db.system": "postgresql"},
        {"db.system.name": "redis"},
    ],
    ids=lambda attributes: "-".join(attributes.values()),
)
def test_the_keys_are_all_that_are_asked_for(kind: str, attributes: dict[str, Any]) -> None:
    asked = Asked(attributes)
    category_of(kind, asked, {})
    target_of(kind, asked)
    breaker_state(asked)
    assert asked.asked <= KEYS
    assert asked.asked >= {"operation.type", "db.system"}
