"""Redact the resource: the attributes of the process, set by operators and sent with every span."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from django_tracing.redaction.names import SensitiveKeys
from django_tracing.redaction.patterns import REDACTED
from django_tracing.redaction.text import redact_text, redact_words
from django_tracing.redaction.urls import sanitise_url

__all__ = ["numbers_machines", "redact_resource"]

#: What the semantic conventions number machines and versions by: hashes and the like, which say where spans are from.
_OF_MACHINES: Final = ("container.", "host.", "k8s.", "cloud.", "aws.", "azure.", "gcp.", "faas.", "vcs.", "device.")
_NUMBERS: Final = frozenset(
    [
        *("service.instance.id", "service.version", "deployment.id", "os.build_id"),
        # What this app sets, and other tracers copy, for a request, a task or a user.
        *("correlation.id", "task.id", "user.id", "user.subscription", "messaging.message.id"),
        # Names of hosts, where spans say whom they called.
        *(
            "net.peer.name",
            "net.host.name",
            "server.address",
            "client.address",
            "network.peer.address",
            "peer.service",
        ),
    ]
)


def numbers_machines(key: str) -> bool:
    """Return whether values of ``key`` identify machines, versions or requests: random, but not secret."""
    return key in _NUMBERS or key.startswith(_OF_MACHINES)


def redact_resource(attributes: Mapping[str, Any], sensitive: SensitiveKeys) -> dict[str, Any]:
    """Return ``attributes`` without the values of sensitive names, and without the secrets in the others."""
    return {
        key: REDACTED if sensitive.matches(key) else _redacted(key, value, sensitive)
        for key, value in attributes.items()
    }


def _redacted(key: str, value: Any, sensitive: SensitiveKeys) -> Any:
    random = not numbers_machines(key)
    if isinstance(value, str):
        return redact_text(sanitise_url(value, sensitive) if "://" in value else value, random=random)
    if isinstance(value, (list, tuple)):
        return [
            redact_text(item, random=random) if isinstance(item, str) else _plain(item)
            for item in redact_words(value)
        ]
    return _plain(value)


def _plain(value: Any) -> Any:
    """Return a number as it is. Nothing has redacted a map, or the text of another object."""
    return value if value is None or isinstance(value, (bool, int, float)) else REDACTED
