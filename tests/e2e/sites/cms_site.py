"""Build a site with django CMS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PAGES: list[tuple[str, Any, str | None]] = [
    ("/", {}, "GET cms:article.html"),
    ("/about/", {}, "GET cms:article.html"),
    ("/sub/", {}, "GET cms:article.html"),
    ("/nowhere/", {}, "GET /<slug>/"),
    ("/static/x.css", {}, None),
    ("/admin/", {}, "GET /admin/"),
    ("/about/", "login", "GET cms:article.html"),
    ("/admin/cms/pagecontent/", {}, "GET /admin/cms/pagecontent/"),
    ("/admin/cms/page/1/advanced-settings/", {}, "GET /admin/cms/page/<object_id>/advanced-settings/"),
]
REQUESTS = [page[:2] for page in PAGES]


def settings(folder: str) -> dict[str, Any]:
    templates = Path(folder) / "templates"
    templates.mkdir()
    (templates / "article.html").write_text(
        "{% load cms_tags sekizai_tags %}{% render_block 'css' %}article{% render_block 'js' %}"
    )
    return {
        "INSTALLED_APPS": [
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.sessions",
            "django.contrib.messages",
            "django.contrib.sites",
            "django.contrib.admin",
            "django.contrib.staticfiles",
            "menus",
            "treebeard",
            "sekizai",
            "cms",
        ],
        "SITE_ID": 1,
        "LANGUAGES": [("en", "English")],
        "LANGUAGE_CODE": "en",
        "CMS_CONFIRM_VERSION4": True,
        "CMS_TEMPLATES": [("article.html", "Article")],
        "X_FRAME_OPTIONS": "SAMEORIGIN",
        "TEMPLATES": [
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "APP_DIRS": True,
                "DIRS": [str(templates)],
                "OPTIONS": {
                    "context_processors": [
                        "django.template.context_processors.request",
                        "django.contrib.auth.context_processors.auth",
                        "django.contrib.messages.context_processors.messages",
                        "sekizai.context_processors.sekizai",
                        "cms.context_processors.cms_settings",
                    ]
                },
            }
        ],
        "MIDDLEWARE": [
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.common.CommonMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.middleware.locale.LocaleMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.contrib.messages.middleware.MessageMiddleware",
            "cms.middleware.user.CurrentUserMiddleware",
            "cms.middleware.page.CurrentPageMiddleware",
            "cms.middleware.toolbar.ToolbarMiddleware",
        ],
    }


def urls() -> list[Any]:
    from django.contrib import admin
    from django.urls import include, path

    return [path("admin/", admin.site.urls), path("", include("cms.urls"))]


def fill() -> Any:
    from cms.api import create_page  # type: ignore[import-not-found]
    from django.contrib.auth.models import User
    from django.db import transaction

    user = User.objects.create_superuser("ada", "ada@example.com", "x")
    home = create_page("Home", "article.html", "en", created_by=user)
    with transaction.atomic():
        home.set_as_homepage()
    create_page("About", "article.html", "en", created_by=user, slug="about")
    create_page("Sub", "INHERIT", "en", created_by=user, slug="sub", parent=home)
    return user
