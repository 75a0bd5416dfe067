"""Attributes of the process that sends spans: an operator's, and on every span."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django_tracing.redaction.names import SensitiveKeys
from django_tracing.redaction.patterns import REDACTED
from django_tracing.redaction.text import redact_text
from django_tracing.redaction.urls import sanitise_url

__all__ = ["redact_resource"]


def redact_resource(attributes: Mapping[str, Any], sensitive: SensitiveKeys) -> dict[str, Any]:
    """``attributes`` without values whose names are sensitive, and without what is secret in the others."""
    return {
        key: REDACTED if sensitive.matches(key) else _redacted(value, sensitive) for key, value in attributes.items()
    }


def _redacted(value: Any, sensitive: SensitiveKeys) -> Any:
    if isinstance(value, str):
        return redact_text(sanitise_url(value, sensitive) if "://" in value else value)
    if isinstance(value, (list, tuple)):
        return [redact_text(item) if isinstance(item, str) else item for item in value]
    return value
