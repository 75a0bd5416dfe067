"""Print where traces are seen when runserver has started.

The line follows Django's own with the address of the server, in the process that serves: the autoreloader's parent
prints none.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import Any, Final

from django_tracing.conf.loading import get_settings
from django_tracing.conf.values import Settings
from django_tracing.context.trace_page import list_path, pages_read_traces
from django_tracing.instrumentation.imports import when_imported
from django_tracing.instrumentation.patching import Patches
from django_tracing.net import link_base

__all__ = ["install"]

_patches: Final = Patches()
#: Addresses at which a server listens, but which are not one to open.
_ANY: Final = {"0": "localhost", "0.0.0.0": "localhost", "::": "localhost"}  # noqa: S104 - it is only compared


def install() -> None:
    """Print the line when a server of Django's runserver listens. Call it only in a process of this command."""
    if _patches.start():
        when_imported("django.core.management.commands.runserver", _patch)


def _patch() -> None:
    from django.core.management.commands.runserver import Command

    def printing(original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def on_bind(self: Any, server_port: int) -> Any:
            result = original(self, server_port)
            with suppress(Exception):
                place = _place(get_settings(), self, server_port)
                if place:
                    self.stdout.write(f"Traces: {place}")
            return result

        return on_bind

    _patches.wrap(Command, "on_bind", printing)


def _place(settings: Settings, command: Any, port: int) -> str:
    """Return an absolute address, or the command that prints traces; "" if nothing here can show them."""
    if not pages_read_traces(settings):
        return ""
    path = list_path()
    if path:
        host = _ANY.get(command.addr, command.addr)
        host = f"[{host}]" if ":" in host else host
        return f"{command.protocol}://{host}:{port}{path}"
    jaeger = settings.query_url and link_base(settings.query_url)
    return jaeger or "python manage.py traces"
