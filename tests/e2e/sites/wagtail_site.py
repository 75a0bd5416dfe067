"""Build a blog with Wagtail."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

#: The paths, what else each request has, and the name of its span; None if it makes none.
PAGES: list[tuple[str, Any, str | None]] = [
    ("/", {}, "GET wagtailcore.Page"),
    ("/a-post/", {}, "GET blog.BlogPage"),
    ("/a-post", {}, "GET (no route)"),
    ("/nowhere/", {}, "GET /<var>"),
    ("/static/x.css", {}, None),
    ("/media/x/", {}, None),
    ("/documents/7/x.pdf", {}, "GET /documents/<var>/<var>"),
    ("/admin/", {}, "GET /admin/"),
    ("/admin/", "login", "GET /admin/"),
    ("/admin/pages/", {}, "GET /admin/pages/"),
    ("/admin/pages/2/", {}, "GET /admin/pages/<int:parent_page_id>/"),
    ("/admin/nowhere/", {}, "GET /admin/<var>/"),
    ("/django-admin/auth/user/", {}, "GET /django-admin/auth/user/"),
    ("/django-admin/nowhere/", {}, "GET /django-admin/<url>"),
]
REQUESTS = [page[:2] for page in PAGES]


def settings(folder: str) -> dict[str, Any]:
    templates = Path(folder) / "templates" / "blog"
    templates.mkdir(parents=True)
    (templates / "blog_page.html").write_text("{{ page.title }}")
    blog = types.ModuleType("blog")
    blog.__path__ = [folder]
    blog.__file__ = f"{folder}/__init__.py"
    sys.modules["blog"] = blog
    return {
        "INSTALLED_APPS": [
            "blog",
            "wagtail.contrib.redirects",
            "wagtail.sites",
            "wagtail.users",
            "wagtail.documents",
            "wagtail.images",
            "wagtail.search",
            "wagtail.admin",
            "wagtail",
            "modelcluster",
            "taggit",
            "django.contrib.admin",
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.sessions",
            "django.contrib.messages",
            "django.contrib.staticfiles",
        ],
        "WAGTAIL_SITE_NAME": "Blog",
        "WAGTAILADMIN_BASE_URL": "http://localhost",
        "TEMPLATES": [
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "APP_DIRS": True,
                "DIRS": [f"{folder}/templates"],
                "OPTIONS": {
                    "context_processors": [
                        "django.template.context_processors.request",
                        "django.contrib.auth.context_processors.auth",
                        "django.contrib.messages.context_processors.messages",
                    ]
                },
            }
        ],
        "MIDDLEWARE": [
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.common.CommonMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.contrib.messages.middleware.MessageMiddleware",
            "wagtail.contrib.redirects.middleware.RedirectMiddleware",
        ],
    }


def urls() -> list[Any]:
    from django.contrib import admin
    from django.urls import include, path

    return [
        path("django-admin/", admin.site.urls),
        path("admin/", include("wagtail.admin.urls")),
        path("documents/", include("wagtail.documents.urls")),
        path("", include("wagtail.urls")),
    ]


def fill() -> Any:
    from django.contrib.auth.models import User
    from django.db import connection
    from wagtail.models import Page  # type: ignore[import-not-found]

    # Not before: an app without migrations cannot inherit from one that has them.
    kind: Any = type("BlogPage", (Page,), {"__module__": "blog", "Meta": type("Meta", (), {"app_label": "blog"})})
    with connection.schema_editor() as editor:
        editor.create_model(kind)
    Page.objects.get(depth=2).add_child(instance=kind(title="A post", slug="a-post"))
    return User.objects.create_superuser("ada", "ada@example.com", "x")
