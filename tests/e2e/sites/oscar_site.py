"""Build a shop with Oscar."""

from __future__ import annotations

from typing import Any

PAGES: list[tuple[str, Any, str | None]] = [
    ("/", {}, "GET /"),
    ("/catalogue/", {}, "GET /catalogue/"),
    ("/catalogue/a-book_1/", {}, "GET /catalogue/<product_slug>_<pk>/"),
    ("/catalogue/wrong_1/", {}, "GET /catalogue/<product_slug>_<pk>/"),
    ("/catalogue/a-book_9/", {}, "GET /catalogue/<product_slug>_<pk>/"),
    ("/catalogue/category/books_1/", {}, "GET /catalogue/category/<category_slug>_<pk>/"),
    ("/basket/", {}, "GET /basket/"),
    ("/accounts/login/", {}, "GET /accounts/login/"),
    ("/static/x.css", {}, None),
    ("/media/x.jpg", {}, None),
    ("/nowhere/", {}, "GET (no route)"),
    ("/dashboard/", "login", "GET /dashboard/"),
    ("/dashboard/users/1/", {}, "GET /dashboard/users/<pk>/"),
    ("/dashboard/catalogue/", {}, "GET /dashboard/catalogue/"),
]
REQUESTS = [page[:2] for page in PAGES]


def settings(folder: str) -> dict[str, Any]:
    import oscar  # type: ignore[import-not-found]
    from oscar import defaults

    return {
        **{name: value for name, value in vars(defaults).items() if name.startswith("OSCAR_")},
        "INSTALLED_APPS": oscar.INSTALLED_APPS,
        "SITE_ID": 1,
        "HAYSTACK_CONNECTIONS": {"default": {"ENGINE": "haystack.backends.simple_backend.SimpleEngine"}},
        "THUMBNAIL_DUMMY": True,
        "AUTHENTICATION_BACKENDS": ["django.contrib.auth.backends.ModelBackend"],
        "TEMPLATES": [
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "APP_DIRS": True,
                "OPTIONS": {
                    "context_processors": [
                        "django.template.context_processors.debug",
                        "django.template.context_processors.request",
                        "django.template.context_processors.i18n",
                        "django.contrib.auth.context_processors.auth",
                        "django.contrib.messages.context_processors.messages",
                        "oscar.apps.search.context_processors.search_form",
                        "oscar.apps.checkout.context_processors.checkout",
                        "oscar.apps.communication.notifications.context_processors.notifications",
                        "oscar.core.context_processors.metadata",
                    ]
                },
            }
        ],
        "MIDDLEWARE": [
            "django.middleware.security.SecurityMiddleware",
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.common.CommonMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.contrib.messages.middleware.MessageMiddleware",
            "oscar.apps.basket.middleware.BasketMiddleware",
            "django.contrib.flatpages.middleware.FlatpageFallbackMiddleware",
        ],
    }


def urls() -> list[Any]:
    from django.apps import apps
    from django.contrib import admin
    from django.urls import include, path

    return [
        path("i18n/", include("django.conf.urls.i18n")),
        path("admin/", admin.site.urls),
        path("", include(apps.get_app_config("oscar").urls[0])),
    ]


def fill() -> Any:
    from django.contrib.auth.models import User
    from oscar.apps.catalogue.categories import create_from_breadcrumbs  # type: ignore[import-not-found]
    from oscar.test.factories import create_product  # type: ignore[import-not-found]

    user = User.objects.create_superuser("ada", "ada@example.com", "x")
    product = create_product(title="A book")
    product.categories.add(create_from_breadcrumbs("Books"))
    return user
