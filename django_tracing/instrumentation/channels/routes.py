"""Find the routes of Channels' routers, which tell nobody what they matched."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from django.urls import URLResolver

__all__ = ["Urlconf", "joined", "matched_route", "urlconf_of_app"]

#: How many applications are looked through on the way to a router, and how deep routers are nested.
_MOST_LEVELS: Final = 20
#: Where middleware keeps the application that it calls: Channels', its validators', and that of other packages.
_INNER: Final = ("inner", "application", "app")


class Urlconf:
    """The routes of a router, in all that Django asks of a URLconf."""

    __slots__ = ("urlpatterns",)

    def __init__(self, urlpatterns: list[Any]) -> None:
        self.urlpatterns = urlpatterns


@lru_cache(maxsize=64)
def urlconf_of_app(app: Any, protocol: str) -> Urlconf:
    """Return the routes of the first router that ``app`` calls for ``protocol``; no routes if none is found."""
    router = _find_router(app, protocol)
    return Urlconf([] if router is None else _patterns(router, 0))


def _find_router(app: Any, protocol: str) -> Any:
    for _ in range(_MOST_LEVELS):
        if _is_router(app):
            return app
        # Only what it holds: an attribute may be computed.
        held: Mapping[str, Any] = getattr(app, "__dict__", {})
        mapping = held.get("application_mapping")
        if isinstance(mapping, Mapping):
            app = mapping.get(protocol)
        else:
            app = next((held[name] for name in _INNER if name in held), None)
    return None


def _is_router(app: Any) -> bool:
    return getattr(type(app), "_path_routing", False) is True and "routes" in getattr(app, "__dict__", {})


def _patterns(router: Any, level: int) -> list[Any]:
    return [
        URLResolver(route.pattern, _patterns(route.callback, level + 1))
        if _is_router(getattr(route, "callback", None)) and level < _MOST_LEVELS
        else route
        for route in router.routes
    ]


def matched_route(router: Any, scope: Mapping[str, Any]) -> str | None:
    """Return the route, without those of the routers around it, that ``router`` finds for ``scope``."""
    path = scope.get("path_remaining")
    if path is None:
        path = str(scope.get("path", "")).removeprefix(scope.get("root_path") or "")
    path = path.lstrip("/")
    for route in router.routes:
        if route.pattern.match(path):
            return str(route.pattern)
    return None


def joined(before: str | None, route: str) -> str:
    """Join two routes as Django joins those of its own resolvers."""
    return before + route.removeprefix("^") if before else route
