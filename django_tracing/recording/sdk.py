"""Reading the SDK's spans as cheaply as they can be read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["plain_attributes"]


def plain_attributes(holder: Any) -> Mapping[str, Any]:
    """The attributes of a span, an event, a link, a resource or a scope; empty where it has none.

    The SDK keeps them in a mapping of its own, behind a proxy, whose every look-up runs Python code: reading the
    dict within costs a tenth. What is no such mapping is read as it is.
    """
    kept = getattr(holder, "_attributes", None)
    inner = getattr(kept, "_dict", None)
    if inner.__class__ is dict:
        return inner
    return getattr(holder, "attributes", None) or {}
