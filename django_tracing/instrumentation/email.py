"""Trace the sending of e-mail through Django's backends, as ``email.send``: how many, never to whom or about what.

All of Django's functions end in the backend's ``send_messages``, and so does your code with a backend of its own.
Each subclass of ``BaseEmailBackend`` has its own, so each is wrapped: when it is made or, if it exists already, at
once. A class that calls ``super().send_messages()`` makes one span.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar, Token
from functools import wraps
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind

from django_tracing import spans
from django_tracing.context.marks import make_mark
from django_tracing.instrumentation.imports import when_imported
from django_tracing.instrumentation.patching import Patches
from django_tracing.instrumentation.subclasses import wrap_methods
from django_tracing.redaction import cut, redact_text
from django_tracing.semconv.names import (
    EMAIL_ALIAS,
    EMAIL_BACKEND,
    EMAIL_MESSAGES,
    EMAIL_RECIPIENTS,
    EMAIL_SENT,
    NET_PEER_NAME,
    NET_PEER_PORT,
    OPERATION_TYPE,
    Attributes,
)

__all__ = ["install", "is_available", "uninstall"]

NAME: Final = "email.send"
#: Django's backends that send nothing over a network.
_LOCAL: Final = tuple(f"django.core.mail.backends.{name}" for name in ("console", "dummy", "filebased", "locmem"))

_patches: Final = Patches()
#: The backend whose call has a span already.
_sending: Final[ContextVar[Any]] = make_mark("email", None)


def is_available() -> bool:
    return True


def install() -> None:
    """Trace every backend, existing and future. Does not import Django's mail."""
    if _patches.start():
        when_imported("django.core.mail.backends.base", _patch)


def uninstall() -> None:
    """Stop tracing e-mail."""
    _patches.stop()


def _patch() -> None:
    from django.core.mail.backends.base import BaseEmailBackend

    wrap_methods(_patches, BaseEmailBackend, {"send_messages": _traced_send_messages})


def _traced_send_messages(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def send_messages(self: Any, *args: Any, **kwargs: Any) -> Any:
        parent = spans.recording_span()
        if parent is None or not _patches.active or _sending.get() is self:
            return original(self, *args, **kwargs)
        sending = _Sending(parent, self, args, kwargs)
        try:
            sent = original(self, *args, **kwargs)
        except BaseException as error:
            sending.end(error, None)
            raise
        sending.end(None, sent)
        return sent

    return send_messages


class _Sending:
    """One call of a backend. No method raises."""

    __slots__ = ("_inside", "_span", "_token")

    def __init__(self, parent: Span, backend: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._span: Span = INVALID_SPAN
        self._token: Token[Context] | None = None
        self._inside = _sending.set(backend)
        try:
            # Backends call their parameter what they like: Django's own have two names for it.
            path = f"{type(backend).__module__}.{type(backend).__qualname__}"
            kind = SpanKind.INTERNAL if path.startswith(_LOCAL) else SpanKind.CLIENT
            described = _describe(backend, path, next(iter((*args, *kwargs.values())), None))
            self._span, self._token = spans.start_current_child(parent, NAME, kind, (), described)
        except Exception:
            spans.log_once("email", "The sending of an e-mail could not be described.")

    def end(self, error: BaseException | None, sent: Any) -> None:
        spans.detach(self._token)
        spans.detach(self._inside)
        if error is not None:
            spans.record_error(self._span, error)
        elif type(sent) is int:
            spans.set_attributes(self._span, {EMAIL_SENT: sent})
        spans.end_span(self._span)


def _describe(backend: Any, path: str, messages: Any) -> Attributes:
    attributes: Attributes = {OPERATION_TYPE: "email", EMAIL_BACKEND: cut(path, 100)}
    alias = getattr(backend, "alias", None)
    if isinstance(alias, str):
        # The name in MAILERS, of Django 6.1.
        attributes[EMAIL_ALIAS] = cut(redact_text(alias), 100)
    host, port = getattr(backend, "host", None), getattr(backend, "port", None)
    if isinstance(host, str) and host:
        attributes[NET_PEER_NAME] = cut(redact_text(host, random=False), 255)
        if type(port) is int:
            attributes[NET_PEER_PORT] = port
    if isinstance(messages, (list, tuple)):
        # An iterator is the backend's to read.
        attributes[EMAIL_MESSAGES] = len(messages)
        attributes[EMAIL_RECIPIENTS] = sum(map(_recipients, messages))
    return attributes


def _recipients(message: Any) -> int:
    lists = [getattr(message, name, None) for name in ("to", "cc", "bcc")]
    return sum(len(addresses) for addresses in lists if isinstance(addresses, (list, tuple)))
