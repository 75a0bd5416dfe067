"""Decide which traces are kept. What users may import from this room is imported on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from django_tracing.sampling.debug_header import make_debug_header
    from django_tracing.sampling.refresh import rules_changed
    from django_tracing.sampling.remote import JaegerRemoteSampler

__all__ = ["JaegerRemoteSampler", "make_debug_header", "rules_changed"]

#: Public name -> module. ``remote`` knows no Django, ``refresh`` needs its apps.
_MODULES = {
    "JaegerRemoteSampler": "django_tracing.sampling.remote",
    "make_debug_header": "django_tracing.sampling.debug_header",
    "rules_changed": "django_tracing.sampling.refresh",
}


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(module), name)
