"""The names of routes: readable, few, and one for each route of a site."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf.urls.i18n import i18n_patterns
from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from django.urls import Resolver404, get_resolver, include, path, re_path
from django.utils import translation
from hypothesis import example, given
from hypothesis import strategies as st

from django_tracing.context.description import find_route
from django_tracing.context.routes import inexact_routes, readable_route, route_name
from tests.work_counter import growth

PUBLISHED = Path(__file__).parent.parent / "data" / "routes.txt"


def view(request: HttpRequest, *args: Any, **arguments: Any) -> HttpResponse:
    return HttpResponse("ok")


class Site:
    """A URLconf."""

    def __init__(self, *patterns: Any) -> None:
        self.urlpatterns = list(patterns)

    def routes(self) -> list[str]:
        """Return all routes, as Django joins them."""

        def walk(resolver: Any, before: str) -> Iterator[str]:
            for found in resolver.url_patterns:
                joined = resolver._join_route(before, str(found.pattern))
                if hasattr(found, "url_patterns"):
                    yield from walk(found, joined)
                else:
                    yield joined

        return list(dict.fromkeys(walk(get_resolver(self), "")))  # type: ignore[arg-type]

    def names(self) -> dict[str, str]:
        return {route: route_name(route, self) for route in self.routes()}


@pytest.mark.parametrize(
    ("route", "readable"),
    [
        ("things/<int:pk>/", "/things/<int:pk>/"),
        (r"^people/(?P<pk>\d+)/$", "/people/<pk>/"),
        (r"^files/(.+)$", "/files/<var>"),
        (r"archive/^(?P<year>[0-9]{4})/$", "/archive/<year>/"),
        ("", "/"),
        # Joined from path() and re_path(), as the routes of a router are.
        ("api/things/$", "/api/things/"),
        ("v1.0/things/$", "/v1.0/things/"),
        (r"^documents/(\d+)/(.*)$", "/documents/<var>/<var>"),
        (r"^(\d+)/(\d+)-(\w+)/$", "/<var>/<var>-<var>/"),
        (r"^a\.b/$", "/a.b/"),
        (r"^a[.]b/$", "/a.b/"),
        (r"^sitemap.xml$", "/sitemap.xml"),
        (r"^x\x2fy\u00e4$", "/x/yä"),
        (r"^\d+$", "/<var>"),
        (r"^[a-z]\w*/$", "/<var>/"),
        (r"[0-9]{4}/\Z", "/<var>/"),
        (r"\Ax\b/\B\Z", "/x/"),
        (r"^(?:x|y)/$", "/(x|y)/"),
        (r"^(?:x|y-\d+|)/$", "/(x|y-<var>)/"),
        (r"^(?:x|x)/$", "/x/"),
        (r"^a/$|^b/$", "/a/|b/"),
        (r"^late/?$", "/late/"),
        (r"^(?:page-(?P<page>\d+)/)?$", "/page-<page>/"),
        # Django ignores unnamed groups beside named ones.
        (r"^((?P<slug>[\w-]+)/)?$", "/<slug>/"),
        (r"^(?P<whole>(?P<part>\d+)-(\d+))$", "/<whole>"),
        (r"(?i)^(?-i:x)(?#none of this)(?=a)(?!b)(?<=c)(?<!d)y$", "/xy"),
        (r"^(?P<a>\w)(?P=a)\1(b)?(?(2)c|d)$", "/<a><a><var><var>(c|d)"),
        (r"^x{2}y+?z*/$", "/xyz/"),
        (r"^a//b/$", "/a/b/"),
        # What re_path() refuses, path() takes.
        ("a(b/", "/a(b/"),
        ("a[b/", "/a[b/"),
        ("c++/", "/c++/"),
        ("\\", "/\\"),
    ],
)
def test_a_route_is_shown_without_its_regular_expression(route: str, readable: str) -> None:
    assert readable_route(route) == readable


def _published() -> Iterator[Any]:
    for section in PUBLISHED.read_text().split("\n\n")[1:]:
        project, *lines = section.splitlines()
        yield pytest.param([tuple(line.split("\t")) for line in lines], id=project.removeprefix("# "))


@pytest.mark.parametrize("routes", list(_published()))
def test_the_routes_of_published_projects(routes: list[tuple[str, str]]) -> None:
    assert {route: readable_route(route) for route, _ in routes} == dict(routes)
    assert len({shown for _, shown in routes}) == len(routes)
    for _, shown in routes:
        assert re.fullmatch(r"/(?:[\w./-]|<\w+(?::\w+)?>)*", shown), shown


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (
            [re_path(r"^a/(?P<x>\d+)/$", view), re_path(r"^a/(?P<x>[a-z]+)/$", view), re_path(r"^b/(\d+)/$", view)],
            {r"/a/<x:\d+>/", "/a/<x:[a-z]+>/", "/b/<var>/"},
        ),
        ([re_path(r"^a/(\d+)$", view), re_path(r"^a/(\w+)$", view)], {r"/a/<\d+>", r"/a/<\w+>"}),
        ([re_path(r"^late/?$", view), re_path(r"^late/$", view)], {"/late/?", "/late/"}),
        ([re_path(r"^(?:ab)?c$", view), re_path(r"^abc$", view)], {"/(ab)?c", "/abc"}),
        # Nothing but what is not shown tells them apart.
        ([path("things/", view), re_path(r"^things/$", view)], {"/things/", "/^things/$"}),
        ([path("x", view), path("/x", view), re_path("^/x$", view)], {"/x", "//x", "/^/x$"}),
        # It looks like the other's exact name.
        (
            [re_path(r"^late/?$", view), re_path(r"^late/$", view), re_path(r"^late/\?$", view)],
            {"/^late/?$", "/late/", "/late/?"},
        ),
        # A path() is shown as it is, whatever it looks like.
        ([path("c++/(a)/$/", view), path("a.*/", include([re_path("^b+$", view)]))], {"/c++/(a)/$/", "/a.*/b"}),
    ],
)
def test_routes_that_read_the_same_show_what_is_different(patterns: list[Any], names: set[str]) -> None:
    assert set(Site(*patterns).names().values()) == names


def test_the_names_belong_to_a_urlconf() -> None:
    one = Site(re_path(r"^a/(\d+)$", view), re_path(r"^a/(\w+)$", view))
    other = Site(re_path(r"^a/(\d+)$", view))
    assert route_name(r"^a/(\d+)$", one) == r"/a/<\d+>"
    assert route_name(r"^a/(\d+)$", other) == "/a/<var>"
    assert route_name(r"^elsewhere/(\d+)$", one) == "/elsewhere/<var>"


def test_a_urlconf_that_cannot_be_read() -> None:
    assert route_name(r"^a/(\d+)$", "no.such.module") == "/a/<var>"
    assert inexact_routes("no.such.module") is None


def test_a_urlconf_that_includes_itself() -> None:
    site = Site(re_path(r"^a/(\d+)$", view))
    site.urlpatterns.append(path("deeper/", include(site.urlpatterns)))
    assert route_name(r"deeper/a/(\d+)$", site) == "/deeper/a/<var>"
    assert inexact_routes(site) is None


class Translated:
    urlpatterns = i18n_patterns(re_path(r"^a/(?P<x>\d+)/$", view), re_path(r"^a/(?P<x>[a-z]+)/$", view))


@override_settings(ROOT_URLCONF=Translated, LANGUAGES=[("en", "English"), ("de", "German")], USE_I18N=True)
def test_routes_that_start_with_a_language() -> None:
    assert find_route("/en/a/7/") == r"/en/a/<x:\d+>/"
    assert find_route("/de/a/b/") == "/de/a/<x:[a-z]+>/"
    with translation.override("de"):
        assert route_name(r"de/a/(?P<x>\d+)/$") == r"/de/a/<x:\d+>/"
        # They differ from request to request, so any may be asked for.
        assert inexact_routes() is None


# ----- any URLconf

PARTS = [
    "a",
    "b/",
    "/",
    "things/",
    r"\.",
    ".",
    "-",
    r"\d+",
    r"[0-9]{4}",
    r"\w*",
    r"(\d+)",
    r"(.*)",
    "(?:x|y)",
    "/?",
    "(?:b/)?",
]
regexes = st.lists(st.sampled_from([*PARTS, "(?P<p>a+)", "(?P<p>b+)", "(?i:a)", "(?=a)", "|"]), max_size=5).map(
    "".join
)
routes = st.lists(st.sampled_from(["a", "b/", "/", "things/", ".", "<p>", "<int:n>", "(", "+"]), max_size=4).map(
    "".join
)


def _compiles(regex: str) -> bool:
    try:
        return bool(re.compile(regex))
    except re.error:
        return False


@st.composite
def patterns(draw: st.DrawFn, depth: int = 0) -> Any:
    below = draw(st.lists(patterns(depth + 1), max_size=3)) if depth < 2 and draw(st.booleans()) else None
    target: Any = view if below is None else include(below)
    if draw(st.booleans()):
        route = draw(routes.filter(lambda text: text.count("<p>") < 2 and text.count("<int:n>") < 2))
        return path(route, target)
    start, end = draw(st.sampled_from(["^", ""])), draw(st.sampled_from(["$", r"\Z", ""]))
    return re_path(start + draw(regexes.filter(_compiles)) + (end if below is None else ""), target)


sites = st.lists(patterns(), min_size=1, max_size=8).map(lambda found: Site(*found))


@given(sites)
def test_from_its_name_a_route_can_be_found(site: Site) -> None:
    names = site.names()
    assert len(set(names.values())) == len(names)
    assert all(name.startswith("/") for name in names.values())


@given(regexes.filter(_compiles), st.sampled_from(["^", ""]), st.sampled_from(["$", r"\Z", ""]))
@example(r"(a)|b", "^", "$")
def test_nothing_of_the_regular_expression_is_left(regex: str, start: str, end: str) -> None:
    shown = readable_route(start + regex + end)
    assert re.fullmatch(r"/(?:[\w./|()-]|<var>|<p>)*", shown), shown


@example(Site(re_path(r"\Z", view)), "a")
@example(Site(path("", view), re_path("", view)), "a")
@given(
    sites, st.lists(st.sampled_from(["a", "b/", "/", "things/", ".", "7", "x", "(", "+"]), max_size=4).map("".join)
)
def test_a_route_that_is_not_listed_as_inexact_is_the_path_of_its_requests(site: Site, found_path: str) -> None:
    try:
        match = get_resolver(site).resolve("/" + found_path)  # type: ignore[arg-type]
    except Resolver404:
        return
    inexact = inexact_routes(site)
    assert inexact is not None
    name = route_name(match.route, site)
    assert name in inexact or name == f"/{found_path}"


@given(st.text(alphabet="()[]\\?:<>P=|{}*+^$a1,", max_size=60))
def test_any_text_is_read(text: str) -> None:
    assert readable_route(text).startswith("/")


@pytest.mark.parametrize(
    "part", ["(", "(?:", "[", "[^", "\\", "(?(1)", "(?#", "a|", ")", "(?P<a>", "{1,", "(a)*[b]?"]
)
def test_the_time_to_read_a_route_is_linear(part: str) -> None:
    assert max(growth(readable_route, lambda size: "^" + part * size, 500, 1000, 2000)) < 2.5
