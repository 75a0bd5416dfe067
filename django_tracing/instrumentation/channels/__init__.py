"""Trace Django Channels: connections, the messages that consumers handle, and those that channel layers carry.

A connection has one short span, of its handshake. Each message after it is a trace of its own, linked to it. What was
sent through a channel layer is handled in the trace of its sender.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Final

from django_tracing.instrumentation.imports import when_imported
from django_tracing.instrumentation.patching import Patches

__all__ = ["install", "is_available", "uninstall"]

_patches: Final = Patches()
#: Module -> the function of a module here that patches it.
_PATCHES: Final = {
    "channels.consumer": ("consumers", "patch_consumers"),
    "channels.routing": ("consumers", "patch_routers"),
    "channels.layers": ("layers", "patch_layers"),
    "channels_redis.pubsub": ("layers", "patch_pubsub"),
}


def is_available() -> bool:
    return find_spec("channels") is not None


def install() -> None:
    """Trace consumers, routers and channel layers, once they are imported."""
    if _patches.start():
        for module in _PATCHES:
            when_imported(module, _patch, module)


def uninstall() -> None:
    """Stop tracing Channels."""
    _patches.stop()


def _patch(module: str) -> None:
    ours, name = _PATCHES[module]
    getattr(import_module(f"{__name__}.{ours}"), name)(_patches)
