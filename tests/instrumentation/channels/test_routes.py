"""Test how the routes of Channels' routers are found."""

from __future__ import annotations

from typing import Any

import pytest
from channels.routing import ProtocolTypeRouter, URLRouter
from django.urls import path, re_path

from django_tracing.context.description import find_route
from django_tracing.context.routes import route_name
from django_tracing.instrumentation.channels.routes import matched_route, urlconf_of_app


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Do nothing."""


class Middleware:
    def __init__(self, inner: Any) -> None:
        self.inner = inner


inner = URLRouter([path("<int:pk>/", app), re_path(r"^(?P<slug>[a-z]+)/$", app)])
router = URLRouter([path("rooms/", inner), path("<int:pk>", app), re_path(r"^(?P<pk>\d+)$", app)])


@pytest.mark.parametrize(
    "outer",
    [
        router,
        ProtocolTypeRouter({"websocket": router}),
        ProtocolTypeRouter({"websocket": Middleware(Middleware(router))}),
    ],
)
def test_routes_are_found_before_they_are_taken(outer: Any) -> None:
    urlconf = urlconf_of_app(outer, "websocket")
    assert find_route("/rooms/12/", urlconf) == "/rooms/<int:pk>/"
    assert find_route("/rooms/lobby/", urlconf) == "/rooms/<slug>/"
    assert find_route("/other/", urlconf) == ""
    assert urlconf_of_app(outer, "websocket") is urlconf


@pytest.mark.parametrize("outer", [app, ProtocolTypeRouter({}), Middleware(None), object(), lambda scope: None])
def test_an_application_without_a_router(outer: Any) -> None:
    urlconf = urlconf_of_app(outer, "websocket")
    assert urlconf.urlpatterns == []
    assert find_route("/rooms/12/", urlconf) == ""
    assert route_name("^rooms/(?P<pk>[0-9]+)/$", urlconf) == "/rooms/<pk>/"


def test_two_routes_that_read_alike_have_two_names() -> None:
    alike = URLRouter([re_path(r"^(?P<pk>[0-9]+)/$", app), re_path(r"^(?P<pk>[a-z]+)/$", app)])
    urlconf = urlconf_of_app(alike, "websocket")
    assert {find_route(path, urlconf) for path in ("/12/", "/ab/")} == {"/<pk:[0-9]+>/", "/<pk:[a-z]+>/"}


def test_an_application_that_wraps_itself_is_left() -> None:
    endless = Middleware(None)
    endless.inner = endless
    assert urlconf_of_app(endless, "websocket").urlpatterns == []


@pytest.mark.parametrize(
    ("scope", "route"),
    [
        ({"path": "/rooms/12/"}, "rooms/"),
        ({"path": "/12"}, "<int:pk>"),
        ({"path": "/site/12", "root_path": "/site"}, "<int:pk>"),
        ({"path": "/anything/", "path_remaining": "12"}, "<int:pk>"),
        ({"path": "/none/"}, None),
        ({}, None),
    ],
)
def test_the_route_of_one_router(scope: dict[str, str], route: str | None) -> None:
    assert matched_route(router, scope) == route
