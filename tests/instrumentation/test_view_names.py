"""The spans of views have the names of the user's own functions and classes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import pytest
from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import include, path
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_safe
from rest_framework.decorators import action, api_view
from rest_framework.generics import GenericAPIView
from rest_framework.response import Response
from rest_framework.routers import DefaultRouter
from rest_framework.viewsets import ViewSet

from tests.conftest import Spans

pytestmark = [pytest.mark.urls(__name__)]


def order_list(request: HttpRequest, **arguments: Any) -> HttpResponse:
    return HttpResponse("ok")


async def order_stream(request: HttpRequest, **arguments: Any) -> HttpResponse:
    return HttpResponse("ok")


def wrapping(view: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(view)
    def inner(*args: Any, **kwargs: Any) -> Any:
        return view(*args, **kwargs)

    return inner


class Decorator:
    def __init__(self, view: Callable[..., Any]) -> None:
        self.view = view
        self.calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return self.view(*args, **kwargs)


class WrappingDecorator(Decorator):
    def __init__(self, view: Callable[..., Any]) -> None:
        super().__init__(view)
        wraps(view)(self)


class Endpoint:
    def __call__(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("ok")

    def method(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("ok")


@method_decorator(require_safe, name="dispatch")
class OrderView(View):
    @method_decorator(wrapping)
    def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse("ok")


class Orders(GenericAPIView[Any]):
    authentication_classes = permission_classes = ()

    def get(self, request: HttpRequest) -> Response:
        return Response()


@api_view(["GET"])
def total(request: HttpRequest) -> Response:
    return Response()


class OrderViewSet(ViewSet):
    authentication_classes = permission_classes = ()

    def list(self, request: HttpRequest, **arguments: Any) -> Response:
        return Response()

    def create(self, request: HttpRequest) -> Response:
        return Response()

    @action(detail=True, methods=["post"])
    def cancel(self, request: HttpRequest, pk: str) -> Response:
        return Response()


router = DefaultRouter()
router.register("set", OrderViewSet, basename="order")

urlpatterns = [
    path("function/", order_list),
    path("async/", order_stream),
    path("partial/", partial(order_list, a=1)),
    path("partials/", partial(partial(csrf_exempt(order_list), a=1), b=2)),
    path("decorated/", wrapping(require_safe(csrf_exempt(order_list)))),
    path("decorated-partial/", require_safe(partial(wrapping(order_list), a=1))),
    path("decorated-async/", csrf_exempt(order_stream)),
    path("decorator/", Decorator(order_list)),
    path("decorators/", Decorator(wrapping(Decorator(order_list)))),
    path("wrapping-decorator/", WrappingDecorator(order_list)),
    path("callable/", Endpoint()),
    path("method/", Endpoint().method),
    path("class/", OrderView.as_view()),
    path("decorated-class/", csrf_exempt(wrapping(OrderView.as_view()))),
    path("partial-class/", partial(OrderView.as_view())),
    path("rest/", Orders.as_view()),
    path("rest-function/", total),
    path("", include(router.urls)),
    path("admin/", admin.site.urls),
]

FUNCTION = ("view.order_list", __name__, "order_list")
CLASS = ("view.order", __name__, "OrderView")


def view_span(spans: Spans) -> tuple[Any, ...]:
    [span] = [span for span in spans if span.name.startswith("view.")]
    attributes = span.attributes or {}
    return span.name, attributes["code.namespace"], attributes["code.function"]


@pytest.fixture(autouse=True)
def every_view() -> Any:
    with override_settings(
        TRACING={"SERVICE_NAME": "tests", "EXPORTER": "none", "LAYERS": "all"},
        MIDDLEWARE=["django_tracing.middleware.TracingMiddleware"],
    ):
        yield


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("/function/", FUNCTION),
        ("/partial/", FUNCTION),
        ("/partials/", FUNCTION),
        ("/decorated/", FUNCTION),
        ("/decorated-partial/", FUNCTION),
        ("/decorator/", FUNCTION),
        ("/decorators/", FUNCTION),
        ("/wrapping-decorator/", FUNCTION),
        ("/callable/", ("view.endpoint", __name__, "Endpoint")),
        ("/method/", ("view.method", __name__, "method")),
        ("/class/", CLASS),
        ("/decorated-class/", CLASS),
        ("/partial-class/", CLASS),
        ("/rest/", ("view.orders", __name__, "Orders")),
        ("/rest-function/", ("view.total", __name__, "total")),
        ("/set/", ("view.order.list", __name__, "OrderViewSet.list")),
        ("/admin/jsi18n/", ("view.i18n_javascript", "django.contrib.admin.sites", "i18n_javascript")),
    ],
)
def test_a_view_has_the_name_of_the_user_s_function(spans: Spans, url: str, expected: tuple[str, str, str]) -> None:
    Client(raise_request_exception=False).get(url)
    assert view_span(spans) == expected


@pytest.mark.parametrize("url", ["/async/", "/decorated-async/"])
def test_an_async_view(spans: Spans, url: str) -> None:
    asyncio.run(AsyncClient().get(url))
    assert view_span(spans) == ("view.order_stream", __name__, "order_stream")


@pytest.mark.parametrize(
    ("method", "url", "status", "name"),
    [
        ("POST", "/set/", 200, "view.order.create"),
        ("HEAD", "/set/", 200, "view.order.list"),
        ("POST", "/set/7/cancel/", 200, "view.order.cancel"),
        ("OPTIONS", "/set/", 200, "view.order"),
        ("DELETE", "/set/", 405, "view.order"),
        ("BREW", "/set/", 405, "view.order"),
    ],
)
def test_a_view_set_has_an_action_for_each_method(
    spans: Spans, method: str, url: str, status: int, name: str
) -> None:
    assert Client().generic(method, url).status_code == status
    assert view_span(spans)[0] == name


def test_a_path_of_ninja_has_a_function_for_each_method(spans: Spans) -> None:
    ninja = pytest.importorskip("ninja")
    api = ninja.NinjaAPI(urls_namespace="test_view_names")

    @api.get("/orders/{pk}")
    def get_order(request: HttpRequest, pk: int) -> dict[str, int]:
        return {"pk": pk}

    @api.put("/orders/{pk}")
    @wrapping
    def change_order(request: HttpRequest, pk: int) -> dict[str, int]:
        return {"pk": pk}

    @api.get("/stream")
    async def stream_orders(request: HttpRequest) -> dict[str, int]:
        return {}

    class Urls:
        urlpatterns = [path("api/", api.urls)]

    with override_settings(ROOT_URLCONF=Urls):
        for method, url in (("GET", "orders/7"), ("PUT", "orders/7"), ("GET", "stream"), ("DELETE", "orders/7")):
            Client().generic(method, f"/api/{url}")
    names = [name for name in spans.names if name.startswith("view.")]
    assert names == ["view.get_order", "view.change_order", "view.stream_orders", "view.get_order"]
