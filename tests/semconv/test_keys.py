"""Test that statistics get all attributes that they look at."""

from __future__ import annotations

from typing import Any

import pytest

from django_tracing.semconv.categories import KEYS, breaker_state, category_of, target_of


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
