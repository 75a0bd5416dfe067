"""The correlation id, and what all spans of one request carry.

A :class:`Scope` stands in the OpenTelemetry context, so it goes wherever the current span goes: into threads,
tasks and callbacks that carry the context.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from random import getrandbits
from typing import Any, Final

from opentelemetry import context as context_api
from opentelemetry.context import Context

from django_tracing.attributes import CORRELATION_ID, Attributes
from django_tracing.recording import Prepared

__all__ = ["HEADER", "Scope", "get_correlation_id", "get_scope", "incoming_id", "well_formed", "with_scope"]

#: The header a correlation id travels in, to us, back to the client and on to called services.
HEADER: Final = "X-Correlation-ID"
_SOURCES: Final = ("HTTP_X_CORRELATION_ID", "HTTP_X_REQUEST_ID")
_WELL_FORMED: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_SCOPE_KEY: Final = context_api.create_key("django_tracing.scope")


class Scope:
    """One request (or command, or task) that is being traced.

    ``parts`` are attributes that every span started in it gets; there are more when the user becomes known.
    """

    __slots__ = (
        *("collected", "correlation", "correlation_id", "exception", "parts", "request", "span"),
        *("told", "user", "user_known", "user_part"),
    )

    def __init__(self, correlation_id: str, request: Any = None) -> None:
        self.correlation_id = correlation_id
        self.correlation = Prepared({CORRELATION_ID: correlation_id})
        self.parts: tuple[Prepared, ...] = (self.correlation,)
        self.request = request
        #: The span of the whole, until it ends (then None: they would hold each other).
        self.span: Any = None
        #: The user that is known, and what spans say of it.
        self.user: Any = None
        self.user_part: Prepared | None = None
        self.user_known = False
        #: The exception that became a 5xx response, until the request's span has recorded it.
        self.exception: BaseException | None = None
        #: The span that was told of an exception last, and the exception, until the request has ended.
        self.told: tuple[int, BaseException] | None = None
        #: The spans that ended in it, where somebody asked for them, until the response is there.
        self.collected: list[Any] | None = None

    @property
    def common(self) -> Attributes:
        """All that every span gets."""
        return {key: value for part in self.parts for key, value in part.attributes.items()}

    def know(self, user: Prepared) -> None:
        """Makes ``user`` what every span says of the user from now on."""
        self.user_part = user
        self.parts = (self.correlation, user)


def well_formed(value: str) -> bool:
    """Whether ``value`` may be a correlation id."""
    return _WELL_FORMED.fullmatch(value) is not None


def incoming_id(meta: Mapping[str, Any]) -> str:
    """The request's correlation id: from ``X-Correlation-ID`` or ``X-Request-ID`` when well-formed, else a new one.

    ``meta`` is ``request.META``. Well-formed is 1 to 128 characters of ``[A-Za-z0-9._:-]``.
    """
    for name in _SOURCES:
        value = meta.get(name)
        if value and well_formed(value):
            return str(value)
    # As random as a uuid4 in hexadecimal, at a third of its price; Python seeds it anew in a forked child.
    return f"{getrandbits(128):032x}"


def with_scope(scope: Scope, context: Context | None = None) -> Context:
    """``context`` (default: the current one) with ``scope`` in it."""
    return Context({**(context_api.get_current() if context is None else context), _SCOPE_KEY: scope})


def get_scope(context: Context | None = None) -> Scope | None:
    """The scope of ``context`` (default: the current one), or None outside a traced request."""
    scope = (context_api.get_current() if context is None else context).get(_SCOPE_KEY)
    return scope if scope.__class__ is Scope else None


def get_correlation_id() -> str | None:
    """The current request's correlation id, or None outside a traced request."""
    scope = get_scope()
    return None if scope is None else scope.correlation_id
