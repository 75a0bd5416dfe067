"""Keep trace headers from being sent to other hosts when requests or urllib follows a redirect.

The libraries send the first call's headers again, and OpenTelemetry's instrumentations see the first call only. If
``TRACING["PROPAGATE_TO"]`` names hosts, each request is checked again where the library sends it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from importlib import import_module
from typing import Any, Final

from django_tracing.context.outgoing import withhold
from django_tracing.instrumentation.patching import Patches

__all__ = ["install", "uninstall"]

#: Entry point -> the module, class and method that send a request, and the request's position in its arguments.
_SENDERS: Final = {
    "requests": ("requests.adapters", "HTTPAdapter", "send", 0),
    "urllib": ("urllib.request", "AbstractHTTPHandler", "do_open", 1),
}
_patches: Final[dict[str, Patches]] = {name: Patches() for name in _SENDERS}


def install(name: str) -> None:
    """Check what the library of that entry point sends. Does nothing for libraries that need no check."""
    patches = _patches.get(name)
    if patches is None or not patches.start():
        return
    module, kind, method, position = _SENDERS[name]
    patches.wrap(getattr(import_module(module), kind), method, partial(_checked, patches, position))


def _checked(patches: Patches, position: int, original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def send(self: Any, *args: Any, **kwargs: Any) -> Any:
        if patches.active:
            withhold(args[position] if len(args) > position else kwargs.get("request", kwargs.get("req")))
        return original(self, *args, **kwargs)

    return send


def uninstall(name: str) -> None:
    """Stop checking what the library sends."""
    if name in _patches:
        _patches[name].stop()
