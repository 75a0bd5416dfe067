"""Trace the client library acme, as ``acme.send``."""

from __future__ import annotations

from functools import wraps
from importlib.util import find_spec

from django_tracing.instrumenting import Patches, child_span, when_imported

_patches = Patches()


def is_available():
    return find_spec("acme") is not None


def install():
    if _patches.start():
        when_imported("acme", _patch)


def uninstall():
    _patches.stop()


def _patch():
    import acme

    _patches.wrap(acme.Client, "send", _traced_send)


def _traced_send(original):
    @wraps(original)
    def send(self, queue, message):
        if not _patches.active:
            return original(self, queue, message)
        with child_span("acme.send", {"acme.queue": queue}) as span:
            length = original(self, queue, message)
            span.set_attribute("acme.length", length)
            return length

    return send
