"""The names of requests whose pages share a route, as a backend receives them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.cache import cache
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.template.response import TemplateResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import path, re_path
from django.views import View
from django.views.decorators.csrf import csrf_exempt
from opentelemetry import trace

from django_tracing import faults
from django_tracing.instrumentation.request import page_names
from tests.conftest import Spans

pytestmark = [pytest.mark.urls(__name__), pytest.mark.django_db]


def view(request: HttpRequest, *args: Any, **arguments: Any) -> HttpResponse:
    request.page = "Blog"  # type: ignore[attr-defined]
    return HttpResponse("ok")


def renamed(request: HttpRequest) -> HttpResponse:
    trace.get_current_span().update_name("checkout")
    return HttpResponse("ok")


class GraphQLView(View):
    """Reads what a client sends as the views of GraphQL's packages do."""

    def get(self, request: HttpRequest) -> HttpResponse:
        return JsonResponse({"data": request.GET.get("query")})

    def post(self, request: HttpRequest) -> HttpResponse:
        if request.content_type == "multipart/form-data":
            return JsonResponse({"data": request.POST.get("operations")})
        try:
            sent = request.body if request.content_type == "application/graphql" else json.loads(request.body)
            return JsonResponse({"data": repr(sent)})
        except (ValueError, RecursionError):
            return JsonResponse({"errors": []}, status=400)


class Orders(GraphQLView):
    """A site's own."""


def serve(request: HttpRequest, path: str) -> HttpResponse:
    request._wagtail_route_for_request = (  # type: ignore[attr-defined]
        None if "missing" in path else (SimpleNamespace(_meta=SimpleNamespace(label="blog.BlogPage")), [], {})
    )
    return HttpResponse("ok", status=404 if "missing" in path else 200)


serve.__module__ = "wagtail.views"


def details(request: HttpRequest, slug: str) -> HttpResponse:
    if slug == "redirected":
        return HttpResponse(status=302)
    return TemplateResponse(request, "article.html")


details.__module__ = "cms.views"


urlpatterns = [
    path("renamed/", renamed),
    path("graphql/", Orders.as_view()),
    re_path(r"^cms/(?P<slug>\w+)/$", details),
    re_path(r"^pages/((?:[\w\-]+/)*)$", serve),
    re_path(r"^(?P<slug>[\w/-]+)/$", view),
]


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    page_names._operations.clear()
    faults._faults.by_key.clear()
    yield
    page_names._operations.clear()


def named(function: Any, **tracing: Any) -> Any:
    return override_settings(
        TRACING={"SERVICE_NAME": "tests", "EXPORTER": "none", "LAYERS": "off", "ROUTE_NAME": function, **tracing}
    )


def by_page(request: HttpRequest) -> str | None:
    return getattr(request, "page", None)


class TestRouteName:
    @pytest.mark.parametrize(
        ("function", "name"),
        [
            (by_page, "GET Blog"),
            (f"{__name__}.by_page", "GET Blog"),
            (lambda request, response: f"{request.page} {response.status_code}", "GET Blog 200"),
            (lambda request, response=None: f"{response.status_code}", "GET 200"),
            (lambda request: None, "GET /<slug>/"),
            (lambda request: "", "GET /<slug>/"),
            (lambda request: " a\n b ", "GET a b"),
            (lambda request: f"page of {request.page} ada@example.com", "GET page of Blog a***@example.com"),
        ],
    )
    def test_names_the_request(self, spans: Spans, function: Any, name: str) -> None:
        with named(function):
            Client().get("/any/page/")
        span = spans.one(name)
        assert (span.attributes or {})["http.route"] == "/<slug>/"

    def test_names_an_async_request(self, spans: Spans) -> None:
        with named(by_page):
            asyncio.run(AsyncClient().get("/any/page/"))
        spans.one("GET Blog")

    def test_is_bounded(self, spans: Spans) -> None:
        with named(lambda request: "x y " * 1_000_000):
            Client().get("/any/page/")
        [span] = spans
        assert len(span.name) <= len("GET ") + 100

    def test_names_what_matches_no_route(self, spans: Spans) -> None:
        with named(lambda request, response: f"{request.resolver_match} {response.status_code}"):
            Client().get("/")
        spans.one("GET None 404")

    def test_a_name_that_the_view_gave_stays(self, spans: Spans) -> None:
        with named(lambda request: "of the function"):
            Client().get("/renamed/")
        spans.one("checkout")

    def test_makes_no_spans_and_no_queries(self, spans: Spans, caplog: Any) -> None:
        def asks(request: HttpRequest) -> str:
            cache.get("a")
            return str(User.objects.count())

        with named(asks):
            Client().get("/any/page/")
            Client().get("/any/page/")
        assert spans.names == ["GET /<slug>/"] * 2
        assert [record.getMessage() for record in caplog.records if "ROUTE_NAME" in record.getMessage()] == [
            'TRACING["ROUTE_NAME"] needs a database query, which tracing never causes: the request\'s span is named by '
            "its route. Use what the view has already loaded."
        ]
        assert User.objects.count() == 0

    @pytest.mark.parametrize(
        "error", [ValueError("ada@example.com"), SystemExit(3), GeneratorExit(), RecursionError()]
    )
    def test_may_raise(self, spans: Spans, caplog: Any, error: BaseException) -> None:
        def raises(request: HttpRequest) -> str:
            raise error

        with named(raises):
            assert Client().get("/any/page/").status_code == 200
            Client().get("/any/page/")
        assert spans.names == ["GET /<slug>/"] * 2
        assert caplog.text.count("ROUTE_NAME") == 1
        assert "ada" not in caplog.text

    @pytest.mark.parametrize("name", [7, b"blog", ["blog"], object()])
    def test_may_return_anything(self, spans: Spans, caplog: Any, name: object) -> None:
        with named(lambda request: name):
            assert Client().get("/any/page/").status_code == 200
        assert spans.names == ["GET /<slug>/"]
        assert f"returned {type(name).__name__}, not a str" in caplog.text

    def test_may_be_a_coroutine_function(self, spans: Spans, caplog: Any) -> None:
        async def later(request: HttpRequest) -> str:
            return "never"

        with named(later):
            assert Client().get("/any/page/").status_code == 200
        assert spans.names == ["GET /<slug>/"]
        assert "is a coroutine function" in caplog.text

    def test_may_not_be_there(self, spans: Spans, caplog: Any) -> None:
        with named("no.such.function"):
            assert Client().get("/any/page/").status_code == 200
        assert spans.names == ["GET /<slug>/"]
        assert "can't be imported" in caplog.text


class TestPackages:
    def test_a_page_of_wagtail_is_named_by_its_type(self, spans: Spans) -> None:
        Client().get("/pages/any/page/")
        Client().get("/pages/missing/")
        assert spans.names == ["GET blog.BlogPage", "GET /pages/<var>"]

    def test_a_page_of_django_cms_is_named_by_its_template(self, spans: Spans) -> None:
        loader = ("django.template.loaders.locmem.Loader", {"article.html": "ok"})
        engine = {"BACKEND": "django.template.backends.django.DjangoTemplates", "OPTIONS": {"loaders": [loader]}}
        with override_settings(TEMPLATES=[engine]):
            Client().get("/cms/any/")
        Client().get("/cms/redirected/")
        assert spans.names == ["GET cms:article.html", "GET /cms/<slug>/"]

    def test_route_name_comes_first(self, spans: Spans) -> None:
        with named(lambda request: "mine"):
            Client().get("/pages/any/page/")
        spans.one("GET mine")

    def test_another_route_of_the_site_is_not_a_page(self, spans: Spans) -> None:
        """A context processor asks Wagtail for a page on every route."""

        def middleware(get_response: Any) -> Any:
            def look(request: HttpRequest) -> Any:
                serve(request, "any/")
                return get_response(request)

            return look

        globals()["look"] = middleware
        with override_settings(MIDDLEWARE=["django_tracing.middleware.TracingMiddleware", f"{__name__}.look"]):
            Client().get("/any/page/")
        spans.one("GET /<slug>/")


def post(data: Any, **more: Any) -> None:
    Client().post("/graphql/", data, **{"content_type": "application/json", **more})


class TestGraphQL:
    @pytest.mark.parametrize(
        ("sent", "name"),
        [
            ({"operationName": "ListOrders", "query": "query A { a } query ListOrders { b }"}, "graphql:ListOrders"),
            ({"query": "query ListOrders($n: Int) { orders }"}, "graphql:ListOrders"),
            ({"query": "fragment F on O { id }\nmutation Buy { buy }"}, "graphql:Buy"),
            ({"query": "fragment F on O { id } subscription Buy { buy }"}, "graphql:Buy"),
            ({"query": "# a comment\n  query ListOrders { orders }"}, "graphql:ListOrders"),
            ({"query": "{ orders }"}, "/graphql/"),
            ({"query": "query { orders }"}, "/graphql/"),
            ({"operationName": None, "query": None}, "/graphql/"),
            ([{"query": "query A { a }"}, {"query": "query B { b }"}], "GraphQL (batch)"),
            ({"operationName": "no identifier", "query": ""}, "GraphQL (other)"),
            ({"operationName": "A" * 65, "query": ""}, "GraphQL (other)"),
            ({"operationName": ["A"], "query": ""}, "GraphQL (other)"),
            ({"operationName": "sk_live_4eC39HqLyjWDarjtT1zdp7dc", "query": ""}, "GraphQL (other)"),
            ({"query": "query A { a }", "variables": {"a": "x" * 70_000}}, "/graphql/"),
            ("query A { a }", "/graphql/"),
            (7, "/graphql/"),
        ],
    )
    def test_an_operation_is_named(self, spans: Spans, sent: Any, name: str) -> None:
        post(sent)
        span = spans.one(f"POST {name}")
        assert (span.attributes or {})["http.route"] == "/graphql/"

    def test_an_operation_in_the_query_string(self, spans: Spans) -> None:
        Client().get("/graphql/", {"query": "query ListOrders { orders }"})
        spans.one("GET graphql:ListOrders")

    def test_an_operation_with_files(self, spans: Spans) -> None:
        Client().post("/graphql/", {"operations": json.dumps({"query": "mutation Upload { id }"}), "map": "{}"})
        spans.one("POST graphql:Upload")

    def test_a_document_as_the_body(self, spans: Spans) -> None:
        Client().post("/graphql/", "query ListOrders { a }", content_type="application/graphql")
        spans.one("POST graphql:ListOrders")

    @pytest.mark.parametrize("body", [b"", b"\xff", b"[" * 60_000, b'{"operationName":', b"1" * 5000])
    def test_any_body(self, spans: Spans, body: bytes) -> None:
        Client().post("/graphql/", body, content_type="application/json")
        assert spans.names == ["POST /graphql/"]

    def test_clients_choose_so_many_names(self, spans: Spans) -> None:
        for number in range(page_names._MOST_OPERATIONS + 50):
            post({"query": f"query Q{number} {{ a }}"})
        post({"query": "query Q1 { a }"})
        assert len(set(spans.names)) == page_names._MOST_OPERATIONS + 1
        assert spans.names[-2:] == ["POST GraphQL (other)", "POST graphql:Q1"]


class _RealSite:
    """The same schema behind the views of a package."""

    def __init__(self, *patterns: Any) -> None:
        self.urlpatterns = list(patterns)


def _strawberry() -> _RealSite:
    strawberry = pytest.importorskip("strawberry")
    views = pytest.importorskip("strawberry.django.views")

    def orders(n: int = 1) -> list[str]:
        return ["a"] * n

    # Strawberry reads the types.
    orders.__annotations__ = {"n": int, "return": list[str]}
    query = strawberry.type(type("Query", (), {"orders": strawberry.field(resolver=orders)}))
    schema = strawberry.Schema(query=query)
    return _RealSite(
        path("graphql/", csrf_exempt(views.GraphQLView.as_view(schema=schema))),
        path("async/", views.AsyncGraphQLView.as_view(schema=schema)),
    )


def _graphene() -> _RealSite:
    graphene = pytest.importorskip("graphene", exc_type=ImportError)
    views = pytest.importorskip("graphene_django.views", exc_type=ImportError)
    orders = graphene.List(graphene.String, n=graphene.Int(), resolver=lambda root, info, n=1: ["a"] * n)
    schema = graphene.Schema(query=type("Query", (graphene.ObjectType,), {"orders": orders}))
    return _RealSite(path("graphql/", csrf_exempt(views.GraphQLView.as_view(schema=schema))))


@pytest.mark.parametrize("make", [_strawberry, _graphene])
def test_the_views_of_a_package(spans: Spans, make: Callable[[], _RealSite]) -> None:
    with override_settings(ROOT_URLCONF=make()):
        for sent in (
            {"query": "query ListOrders { orders }"},
            {"query": "query A { orders } query B { orders }", "operationName": "B"},
            {"query": "{ orders }"},
        ):
            assert Client().post("/graphql/", sent, content_type="application/json").json() == {
                "data": {"orders": ["a"]}
            }
    assert spans.names == ["POST graphql:ListOrders", "POST graphql:B", "POST /graphql/"]


def test_an_async_view_of_strawberry(spans: Spans) -> None:
    with override_settings(ROOT_URLCONF=_strawberry()):
        sent = {"query": "query ListOrders { orders }"}
        asyncio.run(AsyncClient().post("/async/", sent, content_type="application/json"))
    assert spans.names == ["POST graphql:ListOrders"]
