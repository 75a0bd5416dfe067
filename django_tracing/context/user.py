"""Read the user and the subscription of a request, only when other code already resolved them.

Nothing here causes a query, touches the session or makes a response vary on the cookie: a lazy ``request.user`` that
no other code evaluated stays unevaluated, and while ``TRACING["SUBSCRIPTION"]`` is read, queries are refused.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Final

from django.db.models.query_utils import DeferredAttribute
from django.utils.functional import LazyObject, empty

from django_tracing.caches import make_room
from django_tracing.conf.values import Settings
from django_tracing.context.databases import QueryRefused, without_databases
from django_tracing.context.request import RequestState
from django_tracing.faults import CONTAINED, log_hourly
from django_tracing.recording.shared import SharedAttributes
from django_tracing.redaction import cut, mask_email, redact_text
from django_tracing.semconv.names import USER_EMAIL, USER_ID, USER_SUBSCRIPTION, Attributes
from django_tracing.untraced import Untraced

__all__ = ["carried_user", "identify", "resolved_user", "restore_user"]

_MISSING: Final = object()


def resolved_user(request: Any) -> Any | None:
    """Return the request's user if other code already evaluated it, else None. An anonymous user is None."""
    attributes = getattr(request, "__dict__", {})
    user = attributes.get("user")
    if isinstance(user, LazyObject):
        # Evaluating it would read the session and query. If other code did, the user is in ``_wrapped``.
        user = user.__dict__.get("_wrapped", empty)
    if user is None or user is empty:
        # request.auser() and auth.get_user() cache the user here.
        user = attributes.get("_acached_user") or attributes.get("_cached_user")
    if user is None or getattr(user, "is_anonymous", False):
        return None
    return user


#: The attributes that users give to spans, by all that they are made of.
_shared: Final[dict[tuple[Any, ...], SharedAttributes]] = {}
_MOST_SHARED: Final = 2048
_KEPT_LENGTH: Final = 512


def identify(state: RequestState, settings: Settings, *, again: bool = False) -> bool:
    """Set the user of ``state`` if it has become known. Return whether the user is known. Never raises.

    It is called before each span of a request until the user is known, so it is cheap while the user is not. With
    ``again`` it looks for a user other than the one that is set.
    """
    request = state.request
    if request is None or (state.user_known and not again):
        return state.user_known
    try:
        user = resolved_user(request)
        if user is None or user is state.user:
            return state.user_known
        # Set first: SUBSCRIPTION may use a traced cache, whose span calls this function.
        state.user_known = True
        state.user = user
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
        state.set_user(_shared.get(known) or _share(known))
    except Exception as error:
        log_hourly("user", "The user could not be read for a trace: %s: %s", type(error).__name__, error)
    return state.user_known


def _share(known: tuple[Any, ...]) -> SharedAttributes:
    key, email, subscription, mode, limit = known
    attributes: Attributes = {}
    if key is not None:
        # On sites where people sign in by e-mail address, the primary key may be one.
        shown = mask_email(key, mode if mode != "off" else "masked") if "@" in key else key
        attributes[USER_ID] = cut(shown or "", limit)
    if email is not None:
        masked = mask_email(email, mode)
        if masked:
            attributes[USER_EMAIL] = cut(masked, limit)
    if subscription is not None:
        # Its name may be random, as Stripe's are.
        attributes[USER_SUBSCRIPTION] = cut(redact_text(subscription, random=False), limit)
    shared = SharedAttributes(attributes)
    # Longer ones are not kept, which bounds the memory. A site may put anything into the subscription.
    if all(len(part or "") <= _KEPT_LENGTH for part in (key, email, subscription)):
        make_room(_shared, _MOST_SHARED)
        _shared[known] = shared
    return shared


#: What a job carries of the user that enqueued it. Not the e-mail address: it would be stored in the queue.
_CARRIED: Final = (USER_ID, USER_SUBSCRIPTION)
#: A longer value in a carrier is ignored.
_LONGEST_CARRIED: Final = 4096


def carried_user(state: RequestState) -> dict[str, str]:
    """Return what a job carries of the user of ``state``; empty while the user is not known."""
    known = state.user_attributes
    if known is None:
        return {}
    return {name: value for name in _CARRIED if isinstance(value := known.attributes.get(name), str)}


def restore_user(state: RequestState, carrier: Mapping[str, str], settings: Settings) -> None:
    """Set the user of ``state`` to the one that a job carries. What it carries may be anything."""
    known: Attributes = {
        name: cut(redact_text(value, random=False), settings.max_attribute_length)
        for name in _CARRIED
        if (value := carrier.get(name)) and len(value) <= _LONGEST_CARRIED
    }
    if known:
        state.user_known = True
        state.set_user(SharedAttributes(known))


def _email_field(user: Any) -> str:
    named = getattr(type(user), "get_email_field_name", None)
    return str(named()) if named is not None else "email"


def _loaded(instance: Any, name: str) -> Any:
    """Return ``instance.name``, or None where Django would query for it."""
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
        with without_databases(), Untraced():
            if callable(settings.subscription):
                value = settings.subscription(user)
            else:
                value = user
                for part in str(settings.subscription).split("."):
                    value = _loaded(value, part)
                    if value is None:
                        return None
            value = getattr(value, "value", value)  # an enum's own value
    except QueryRefused:
        log_hourly(
            "subscription-query",
            '%s needs a database query, which tracing never causes: spans go without "user.subscription". '
            "Load it with the user (select_related) or let it return what is already loaded.",
            source,
        )
        return None
    # SystemExit and GeneratorExit too: what the user's code raises costs the attribute, not the response.
    except CONTAINED as error:
        log_hourly("subscription", "%s raised %s: %s", source, type(error).__name__, error)
        return None
    if inspect.iscoroutine(value):
        value.close()
        log_hourly("subscription-async", "%s is a coroutine function, which cannot be awaited here.", source)
        return None
    return str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else None
