"""Test the spans of templates: what is rendered, included and extended, and what the names of spans show."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import django
import pytest
from django.http import Http404
from django.template import Context, Engine, Template, engines
from django.template.loader import get_template, render_to_string
from django.test import override_settings
from opentelemetry.trace import StatusCode

from django_tracing import create_span
from django_tracing.instrumentation import templates
from tests.conftest import Spans

SOURCES = {
    "shop/base.html": "<main>{% block main %}{% endblock %}</main>",
    "shop/middle.html": "{% extends 'shop/base.html' %}{% block main %}{% block inner %}{% endblock %}{% endblock %}",
    "shop/list.html": (
        "{% extends 'shop/middle.html' %}"
        "{% block inner %}{% for n in numbers %}{% include 'shop/row.html' %}{% endfor %}{% endblock %}"
    ),
    "shop/row.html": "[{{ n }}]",
    "shop/include_variable.html": "{% include row %}",
    "shop/broken.html": "{% include 'shop/raises.html' %}",
    "shop/raises.html": "{{ fail }}",
}


def fail() -> None:
    raise RuntimeError("no luck")


def missing() -> None:
    raise Http404


def slow() -> str:
    # The tests need a template that takes some time itself.
    deadline = time.perf_counter() + 0.06
    while time.perf_counter() < deadline:
        pass
    return "slow"


def layers(mode: str, sources: Mapping[str, str] = SOURCES, **settings: Any) -> Any:
    return override_settings(
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "OPTIONS": {"loaders": [("django.template.loaders.locmem.Loader", dict(sources))]},
            },
        ],
        TRACING={"SERVICE_NAME": "tests", "EXPORTER": "none", "LAYERS": mode, **settings},
    )


@pytest.fixture
def every_template() -> Iterator[None]:
    with layers("all"):
        yield


def tree(spans: Spans) -> dict[str, list[str]]:
    """Return the names of the children of each span, in the order of their start."""
    by_id = {span.context.span_id: span for span in spans}
    found: dict[str, list[str]] = {}
    for span in sorted(spans, key=lambda span: span.start_time or 0):
        if span.parent is not None:
            found.setdefault(by_id[span.parent.span_id].name, []).append(span.name)
    return found


@pytest.mark.usefixtures("every_template")
class TestAll:
    def test_what_a_template_extends_and_includes_is_below_it(self, spans: Spans) -> None:
        with create_span("page"):
            text = render_to_string("shop/list.html", {"numbers": [1, 2]})
        assert text == "<main>[1][2]</main>"
        assert tree(spans) == {
            "page": ["template.render.shop/list.html"],
            "template.render.shop/list.html": ["template.render.shop/middle.html"],
            "template.render.shop/middle.html": ["template.render.shop/base.html"],
            "template.render.shop/base.html": ["template.render.shop/row.html"] * 2,
        }

    def test_a_span_has_the_name_and_the_engine(self, spans: Spans) -> None:
        with create_span("page"):
            get_template("shop/row.html").render({"n": 3})
        span = spans.one("template.render.shop/row.html")
        attributes = dict(span.attributes or {})
        assert attributes["operation.type"] == "template"
        assert attributes["template.name"] == "shop/row.html"
        assert attributes["template.engine"] == "django"

    def test_a_template_made_from_a_string_has_no_name_of_its_own(self, spans: Spans) -> None:
        with create_span("page"):
            assert Template("{{ a }}").render(Context({"a": 1})) == "1"
            assert engines["django"].from_string("{{ a }}").render({"a": 2}) == "2"
            assert Engine().from_string("{% if a %}3{% endif %}").render(Context({"a": 1})) == "3"
        assert len(spans.named("template.render.(inline)")) == 3

    def test_an_included_template_object_is_a_span(self, spans: Spans) -> None:
        with create_span("page"):
            context = {"row": get_template("shop/row.html"), "n": 7}
            assert render_to_string("shop/include_variable.html", context) == "[7]"
        assert tree(spans)["template.render.shop/include_variable.html"] == ["template.render.shop/row.html"]

    def test_outside_a_trace_there_is_no_span(self, spans: Spans) -> None:
        assert render_to_string("shop/list.html", {"numbers": [1]}) == "<main>[1]</main>"
        assert spans.names == []

    def test_an_exception_is_raised_and_marks_the_spans(self, spans: Spans) -> None:
        with create_span("page"), pytest.raises(RuntimeError, match="no luck"):
            render_to_string("shop/broken.html", {"fail": fail})
        for name in ("shop/raises.html", "shop/broken.html"):
            span = spans.one(f"template.render.{name}")
            assert span.status.status_code is StatusCode.ERROR
            assert (span.attributes or {})["error.type"] == "RuntimeError"

    def test_an_exception_that_is_an_answer_is_not_an_error(self, spans: Spans) -> None:
        with create_span("page"), pytest.raises(Http404):
            render_to_string("shop/raises.html", {"fail": missing})
        assert spans.one("template.render.shop/raises.html").status.status_code is StatusCode.UNSET

    def test_an_exception_in_the_parent_template_ends_all_spans(self, spans: Spans) -> None:
        with create_span("page"), pytest.raises(RuntimeError):
            render_to_string("shop/list.html", {"numbers": fail})
        assert {"template.render.shop/base.html", "template.render.shop/list.html"} <= set(spans.names)
        spans.clear()
        with create_span("page"):
            render_to_string("shop/row.html")
        assert tree(spans) == {"page": ["template.render.shop/row.html"]}

    def test_after_uninstall_there_is_no_span(self, spans: Spans) -> None:
        render = Template.render
        templates.uninstall()
        try:
            assert Template.render is not render
            with create_span("page"):
                render_to_string("shop/list.html", {"numbers": [1]})
            assert spans.names == ["page"]
        finally:
            templates.install()
        with create_span("page"):
            render_to_string("shop/row.html")
        assert "template.render.shop/row.html" in spans.names

    @pytest.mark.skipif(django.VERSION < (6, 0), reason="Django 6.0 adds partials")
    def test_partials(self, spans: Spans) -> None:
        sources = {"shop/cart.html": "{% partialdef row %}({{ n }}){% endpartialdef %}{% partial row %}"}
        with layers("all", sources), create_span("page"):
            assert render_to_string("shop/cart.html", {"n": 1}) == "(1)"
            assert render_to_string("shop/cart.html#row", {"n": 2}) == "(2)"
        assert tree(spans) == {
            "page": ["template.render.shop/cart.html", "template.render.shop/cart.html#row"],
            "template.render.shop/cart.html": ["template.render.shop/cart.html#row"],
        }


class TestNames:
    @pytest.mark.parametrize(
        ("name", "shown"),
        [
            ("404.html", "404.html"),
            ("v2/list.html", "v2/list.html"),
            ("reports/2026/annual.html", "reports/*/annual.html"),
            ("tenants/7c9e6679-7425-40de-944b-e07fc1f90ae7/index.html", "tenants/*/index.html"),
            ("mail_d41d8cd98f00b204e9800998ecf8427e.txt", "mail_*.txt"),
            ("/srv/sites/ada/index.html", "index.html"),
            ("shop//srv/ada/index.html", "index.html"),
            (r"C:\Users\Ada\index.html", "index.html"),
        ],
    )
    def test_values_are_no_part_of_a_name(self, name: str, shown: str, spans: Spans) -> None:
        with layers("all"), create_span("page"):
            Template("", name=name).render(Context())
        assert f"template.render.{shown}" in spans.names

    def test_addresses_and_secrets_are_no_part_of_a_name(self, spans: Spans) -> None:
        with layers("all"), create_span("page"):
            Template("", name="pages/ada@example.com.html").render(Context())
            Template("", name="x" * 100_000).render(Context())
        names = [span.name for span in spans if span.name.startswith("template.render.")]
        assert len(names) == 2 and not any("ada" in name for name in names)
        assert all(len(name) <= 120 for name in names)

    def test_the_number_of_names_is_bounded(self, spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(templates, "_names", set())
        monkeypatch.setattr(templates, "_MOST_NAMES", 3)
        with layers("all"), create_span("page"):
            for number in range(10):
                Template("", name=f"many/{'abcdefghij'[number]}.html").render(Context())
        shown = [name for name in spans.names if name.startswith("template.render.")]
        assert len(shown) == 10 and len(set(shown)) == 4
        assert shown.count("template.render.(other)") == 7

    def test_names_that_are_no_text(self, spans: Spans) -> None:
        with layers("all"), create_span("page"):
            Template("", name=["unhashable"]).render(Context())  # type: ignore[arg-type]
        assert "template.render.(inline)" in spans.names


class TestSlow:
    def test_a_slow_template_is_a_span_and_a_quick_one_is_not(self, spans: Spans) -> None:
        with layers("slow", SLOW_LAYER_MS=50), create_span("page"):
            render_to_string("shop/list.html", {"numbers": [1]})
            render_to_string("shop/list.html", {"numbers": [slow]})
        # The templates around the slow one took its time, too.
        names = ["shop/row.html", "shop/base.html", "shop/middle.html", "shop/list.html"]
        assert spans.names == [*(f"template.render.{name}" for name in names), "page"]

    def test_the_spans_are_read_back_as_a_tree(self, spans: Spans) -> None:
        from django_tracing.traces.model import Span
        from django_tracing.traces.tree import Node, build_tree

        with layers("slow", SLOW_LAYER_MS=0), create_span("page"):
            render_to_string("shop/list.html", {"numbers": [slow]})

        def read(span: Any) -> Span:
            parent = f"{span.parent.span_id:016x}" if span.parent else ""
            own = f"{span.context.span_id:016x}"
            times = {"start": span.start_time, "end": span.end_time}
            return Span("a" * 32, own, parent_id=parent, name=span.name, kind="internal", service="tests", **times)

        def shape(node: Node) -> list[Any]:
            return [node.span.name.removeprefix("template.render."), *map(shape, node.children)]

        [root] = build_tree([read(span) for span in spans])
        assert shape(root) == [
            "page",
            ["shop/list.html", ["shop/middle.html", ["shop/base.html", ["shop/row.html"]]]],
        ]

    def test_a_failed_slow_template(self, spans: Spans) -> None:
        with layers("slow", SLOW_LAYER_MS=0), create_span("page"), pytest.raises(RuntimeError):
            render_to_string("shop/raises.html", {"fail": fail})
        assert spans.one("template.render.shop/raises.html").status.status_code is StatusCode.ERROR


def test_off_makes_no_spans(spans: Spans) -> None:
    with layers("off"), create_span("page"):
        render_to_string("shop/list.html", {"numbers": [1]})
    assert spans.names == ["page"]


def test_jinja2(spans: Spans, tmp_path: Any) -> None:
    pytest.importorskip("jinja2")
    (tmp_path / "hello.html").write_text("{% include 'name.html' %}")
    (tmp_path / "name.html").write_text("{{ name }}")
    backend = {"BACKEND": "django.template.backends.jinja2.Jinja2", "DIRS": [tmp_path]}
    tracing = {"SERVICE_NAME": "tests", "EXPORTER": "none", "LAYERS": "all"}
    with override_settings(TEMPLATES=[backend], TRACING=tracing), create_span("page"):
        assert render_to_string("hello.html", {"name": "Ada"}) == "Ada"
        assert engines["jinja2"].from_string("{{ name }}").render({"name": "Bo"}) == "Bo"
    assert spans.names == ["template.render.hello.html", "template.render.(inline)", "page"]
    attributes = spans.one("template.render.hello.html").attributes or {}
    assert attributes["template.engine"] == "jinja2"
