"""The user and the subscription of a request, read only when something else already resolved them.

Nothing here causes a query, touches the session or makes a response vary on the cookie: a lazy ``request.user``
that nobody evaluated stays unevaluated, and while ``TRACING["SUBSCRIPTION"]`` is read, queries are refused.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from django.db import connections
from django.db.models.query_utils import DeferredAttribute
from django.utils.functional import LazyObject, empty

from django_tracing.attributes import USER_EMAIL, USER_ID, USER_SUBSCRIPTION, Attributes
from django_tracing.conf import Settings
from django_tracing.correlation import Scope
from django_tracing.recording import Prepared
from django_tracing.redaction import cut, mask_email, redact_text
from django_tracing.untraced import Untraced

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


#: What spans say of a user, by all that it is made of.
_parts: Final[dict[tuple[Any, ...], Prepared]] = {}
_KEPT_PARTS: Final = 2048


def identify(scope: Scope, settings: Settings, *, again: bool = False) -> bool:
    """Makes ``scope`` say who the user is when that has become known; True when it is.

    Never raises. Called before each span of a request until the user is known, so it is cheap while it is not. With
    ``again`` it looks for another user than the one known.
    """
    request = scope.request
    if request is None or (scope.user_known and not again):
        return scope.user_known
    try:
        user = resolved_user(request)
        if user is None or user is scope.user:
            return scope.user_known
        # Set first: SUBSCRIPTION may itself use a traced cache, and come back here.
        scope.user_known = True
        scope.user = user
        key = getattr(user, "pk", None)
        email = _loaded(user, _email_field(user)) if settings.user_email != "off" else None
        subscription = _subscription(user, settings) if settings.subscription is not None else None
        known = (
            None if key is None else str(key),
            email if isinstance(email, str) and email else None,
            subscription,
            settings.user_email,
            settings.max_attribute_length,
        )
        scope.know(_parts.get(known) or _prepare(known))
        # A rule for this user, or this subscription, may keep the trace.
        pending = getattr(scope.span, "pending", None)
        if pending is not None:
            pending.reconsider()
    except Exception as error:
        _warn_once("user", "The user could not be read for a trace: %s: %s", type(error).__name__, error)
    return scope.user_known


def _prepare(known: tuple[Any, ...]) -> Prepared:
    key, email, subscription, mode, limit = known
    attributes: Attributes = {}
    if key is not None:
        # Where people sign in by e-mail, the key may be one.
        shown = mask_email(key, mode if mode != "off" else "masked") if "@" in key else key
        attributes[USER_ID] = cut(shown or "", limit)
    if email is not None:
        masked = mask_email(email, mode)
        if masked:
            attributes[USER_EMAIL] = cut(masked, limit)
    if subscription is not None:
        # What it is called by may be random, as Stripe's are.
        attributes[USER_SUBSCRIPTION] = cut(redact_text(subscription, random=False), limit)
    if len(_parts) >= _KEPT_PARTS:
        _parts.clear()
    part = _parts[known] = Prepared(attributes)
    return part


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
    source = settings.source("SUBSCRIPTION")
    try:
        with _without_databases(), Untraced():
            if callable(settings.subscription):
                value = settings.subscription(user)
            else:
                value = user
                for part in str(settings.subscription).split("."):
                    value = _loaded(value, part)
                    if value is None:
                        return None
            value = getattr(value, "value", value)  # an enum's own value
    except _QueryRefused:
        _warn_once(
            "subscription-query",
            '%s needs a database query, which tracing never causes: spans go without "user.subscription". '
            "Load it with the user (select_related) or let it return what is already loaded.",
            source,
        )
        return None
    # SystemExit and GeneratorExit too: what the user's code raises for itself costs the attribute, not the response.
    except (Exception, SystemExit, GeneratorExit) as error:
        _warn_once("subscription", "%s raised %s: %s", source, type(error).__name__, error)
        return None
    if inspect.iscoroutine(value):
        value.close()
        _warn_once("subscription-async", "%s is a coroutine function, which nobody can wait for here.", source)
        return None
    return str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else None


@contextmanager
def _without_databases() -> Iterator[None]:
    """A block in which this thread finds no database connection: each is a stand-in that refuses everything.

    The connections themselves are not touched. Other threads may share them, tests put guards on them, and a
    transaction in which a query fails is a broken one.
    """
    local: Any = connections._connections  # type: ignore[attr-defined]  # asgiref's Local: this thread's own
    found = {alias: getattr(local, alias) for alias in connections if hasattr(local, alias)}
    try:
        for alias in connections:
            setattr(local, alias, _NO_CONNECTION)
        yield
    finally:
        for alias in connections:
            if alias in found:
                setattr(local, alias, found[alias])
            elif hasattr(local, alias):
                delattr(local, alias)


class _NoConnection:
    """What stands in for a connection while the subscription is read: whatever is asked of it is refused."""

    def __getattr__(self, name: str) -> Any:
        raise _QueryRefused

    def __setattr__(self, name: str, value: Any) -> None:
        raise _QueryRefused


_NO_CONNECTION: Final = _NoConnection()


def _warn_once(key: str, message: str, *args: object) -> None:
    if key not in _warned:
        _warned.add(key)
        _logger.warning(message, *args)
