"""The user and the subscription of a request, read only when something else already resolved them.

Nothing here causes a query, touches the session or makes a response vary on the cookie: a lazy ``request.user``
that nobody evaluated stays unevaluated, and while ``TRACING["SUBSCRIPTION"]`` is read, queries are refused.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

from django.db import connections
from django.db.models.query_utils import DeferredAttribute
from django.utils.functional import LazyObject, empty

from django_tracing.attributes import USER_EMAIL, USER_ID, USER_SUBSCRIPTION, Attributes
from django_tracing.conf import Settings
from django_tracing.correlation import Scope
from django_tracing.redaction import cut, mask_email

__all__ = ["identify", "resolved_user"]

_logger = logging.getLogger("django_tracing")
_warned: set[str] = set()
_MISSING: Final = object()


class _QueryRefused(Exception):
    """Reading the subscription wanted a query; tracing never causes one."""


def resolved_user(request: Any) -> Any | None:
    """The request's user when something already evaluated it, else None; an anonymous user is None."""
    attributes = getattr(request, "__dict__", {})
    user = attributes.get("user")
    if isinstance(user, LazyObject):
        # Evaluating it would read the session and query; what others evaluated stands in ``_wrapped``.
        user = user.__dict__.get("_wrapped", empty)
    if user is None or user is empty:
        # request.auser() and auth.get_user() keep theirs here.
        user = attributes.get("_acached_user") or attributes.get("_cached_user")
    if user is None or getattr(user, "is_anonymous", False):
        return None
    return user


def identify(scope: Scope, settings: Settings) -> bool:
    """Adds the user's attributes to ``scope.common`` when the user has become known; True when they are there.

    Never raises. Called before each span of a request until the user is known, so it is cheap while it is not.
    """
    if scope.user_known:
        return True
    request = scope.request
    if request is None:
        return False
    try:
        user = resolved_user(request)
        if user is None:
            return False
        # Set first: SUBSCRIPTION may itself use a traced cache, and come back here.
        scope.user_known = True
        scope.user = user
        known: Attributes = {}
        key = getattr(user, "pk", None)
        if key is not None:
            known[USER_ID] = cut(str(key), settings.max_attribute_length)
        if settings.user_email != "off":
            email = _loaded(user, _email_field(user))
            if isinstance(email, str) and email:
                masked = mask_email(email, settings.user_email)
                if masked:
                    known[USER_EMAIL] = cut(masked, settings.max_attribute_length)
        if settings.subscription is not None:
            subscription = _subscription(user, settings)
            if subscription is not None:
                known[USER_SUBSCRIPTION] = cut(subscription, settings.max_attribute_length)
        scope.know(known)
    except Exception as error:
        _warn_once("user", "The user could not be read for a trace: %s: %s", type(error).__name__, error)
    return scope.user_known


def _email_field(user: Any) -> str:
    named = getattr(type(user), "get_email_field_name", None)
    return str(named()) if named is not None else "email"


def _loaded(instance: Any, name: str) -> Any:
    """``instance.name``, or None where Django would query for it."""
    descriptor = getattr(type(instance), name, _MISSING)
    if isinstance(descriptor, DeferredAttribute) and name not in instance.__dict__:
        return None
    is_cached = getattr(descriptor, "is_cached", None)  # the descriptors of foreign keys and one-to-ones
    if is_cached is not None and not is_cached(instance):
        return None
    return getattr(instance, name, None)


def _subscription(user: Any, settings: Settings) -> str | None:
    try:
        with _queries_refused():
            if callable(settings.subscription):
                value = settings.subscription(user)
            else:
                value = user
                for part in str(settings.subscription).split("."):
                    value = _loaded(value, part)
                    if value is None:
                        return None
    except _QueryRefused:
        _warn_once(
            "subscription-query",
            '%s needs a database query, which tracing never causes: spans go without "user.subscription". '
            "Load it with the user (select_related) or let it return what is already loaded.",
            settings.source("SUBSCRIPTION"),
        )
        return None
    except Exception as error:
        _warn_once("subscription", "%s raised %s: %s", settings.source("SUBSCRIPTION"), type(error).__name__, error)
        return None
    value = getattr(value, "value", value)  # an enum's own value
    return str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else None


@contextmanager
def _queries_refused() -> Iterator[None]:
    with ExitStack() as stack:
        for connection in connections.all():
            # Outermost, so that a refused statement is not even traced.
            connection.execute_wrappers.insert(0, _refuse)
            stack.callback(connection.execute_wrappers.remove, _refuse)
            if connection.connection is None:
                # Even connecting would block; an instance attribute shadows the method for this thread only.
                connection.__dict__["connect"] = _refuse
                stack.callback(connection.__dict__.pop, "connect", None)
        yield


def _refuse(*args: Any, **kwargs: Any) -> Any:
    raise _QueryRefused


def _warn_once(key: str, message: str, *args: object) -> None:
    if key not in _warned:
        _warned.add(key)
        _logger.warning(message, *args)
