"""Redirects that requests and urllib follow by themselves, with the headers of the first call.

OpenTelemetry's instrumentations see the first call only. Where ``TRACING["PROPAGATE_TO"]`` names hosts, each request
that goes out is looked at once more, at the place where the library sends it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import Any, Final

from django_tracing.context.outgoing import withhold

__all__ = ["install", "uninstall"]

#: Entry point -> the module, the class and the method that sends a request, and where the request stands in it.
_SENDERS: Final = {
    "requests": ("requests.adapters", "HTTPAdapter", "send", 0),
    "urllib": ("urllib.request", "AbstractHTTPHandler", "do_open", 1),
}
#: By entry point: the class, the method's name, what was there before, and ours.
_patched: Final[dict[str, tuple[Any, str, Callable[..., Any], Callable[..., Any]]]] = {}


def install(name: str) -> None:
    """Watches what the library of that entry point sends; nothing for any other."""
    if name not in _SENDERS or name in _patched:
        return
    module, kind, method, position = _SENDERS[name]
    owner = getattr(import_module(module), kind)
    original = getattr(owner, method)

    @wraps(original)
    def send(self: Any, *args: Any, **kwargs: Any) -> Any:
        request = args[position] if len(args) > position else kwargs.get("request", kwargs.get("req"))
        withhold(request)
        return original(self, *args, **kwargs)

    setattr(owner, method, send)
    _patched[name] = owner, method, original, send


def uninstall(name: str) -> None:
    """Takes back what :func:`install` did; what somebody else has put around it stays, and ours in it."""
    owner, method, original, ours = _patched.get(name, (None, "", None, None))
    if owner is not None and getattr(owner, method) is ours:
        setattr(owner, method, original)
        del _patched[name]
