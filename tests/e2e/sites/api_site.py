"""Build an API with Django REST framework, Django Ninja and Strawberry."""

from __future__ import annotations

import json
from typing import Any


def _graphql(**sent: Any) -> dict[str, Any]:
    return {"method": "POST", "data": json.dumps(sent), "content_type": "application/json"}


PAGES: list[tuple[str, Any, str | None]] = [
    ("/rest/", {}, "GET /rest/"),
    ("/rest/users/", {}, "GET /rest/users/"),
    ("/rest/users.json", {}, "GET /rest/users.<format>/"),
    ("/rest/users/1/", {}, "GET /rest/users/<pk>/"),
    ("/rest/users/1/", {"method": "DELETE"}, "DELETE /rest/users/<pk>/"),
    ("/rest/users/9/", {}, "GET /rest/users/<pk>/"),
    ("/ninja/users/7", {}, "GET /ninja/users/<pk>"),
    ("/ninja/users/x", {}, "GET /ninja/users/<pk>"),
    ("/ninja/openapi.json", {}, "GET /ninja/openapi.json"),
    ("/graphql/", _graphql(query="query ListUsers { users }"), "POST graphql:ListUsers"),
    ("/graphql/", _graphql(query="{ users }"), "POST /graphql/"),
    ("/graphql/", {}, "GET /graphql/"),
    ("/nowhere/", {}, "GET (no route)"),
]
REQUESTS = [page[:2] for page in PAGES]


def settings(folder: str) -> dict[str, Any]:
    return {
        "INSTALLED_APPS": ["django.contrib.auth", "django.contrib.contenttypes", "rest_framework"],
        "REST_FRAMEWORK": {"DEFAULT_AUTHENTICATION_CLASSES": [], "UNAUTHENTICATED_USER": None},
        "TEMPLATES": [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}],
        "MIDDLEWARE": ["django.middleware.common.CommonMiddleware"],
    }


def urls() -> list[Any]:
    import strawberry  # type: ignore[import-not-found]
    from django.contrib.auth.models import User
    from django.urls import include, path
    from ninja import NinjaAPI  # type: ignore[import-not-found]
    from rest_framework.renderers import JSONRenderer
    from rest_framework.routers import DefaultRouter
    from rest_framework.serializers import ModelSerializer
    from rest_framework.viewsets import ModelViewSet
    from strawberry.django.views import GraphQLView  # type: ignore[import-not-found]

    meta = type("Meta", (), {"model": User, "fields": ["id", "username"]})
    serializer: Any = type("UserSerializer", (ModelSerializer,), {"Meta": meta})

    class UserViewSet(ModelViewSet[Any]):
        queryset = User.objects.order_by("pk")
        serializer_class = serializer
        renderer_classes = (JSONRenderer,)

    router = DefaultRouter()
    router.register("users", UserViewSet)

    api = NinjaAPI()

    @api.get("/users/{pk}")
    def get_user(request: Any, pk: int) -> dict[str, int]:
        return {"pk": pk}

    get_user.__annotations__["pk"] = int

    def users() -> list[str]:
        return list(User.objects.values_list("username", flat=True))

    users.__annotations__["return"] = list[str]
    query = strawberry.type(type("Query", (), {"users": strawberry.field(resolver=users)}))
    view = GraphQLView.as_view(schema=strawberry.Schema(query=query))
    return [path("rest/", include(router.urls)), path("ninja/", api.urls), path("graphql/", view)]


def fill() -> Any:
    from django.contrib.auth.models import User

    User.objects.create_user("grace")
    return User.objects.create_user("ada")
