"""Test the current trace in templates."""

from __future__ import annotations

from django.http import HttpRequest
from django.template import Context, RequestContext
from django.template.backends.django import DjangoTemplates
from django.test import override_settings

from django_tracing import create_span, current_trace_id, get_correlation_id

SETTINGS = {"EXPORTER": "none", "QUERY_URL": "https://jaeger.example.com/"}


def engine(*processors: str) -> DjangoTemplates:
    return DjangoTemplates(
        {"NAME": "test", "DIRS": [], "APP_DIRS": False, "OPTIONS": {"context_processors": list(processors)}}
    )


@override_settings(TRACING=SETTINGS)
def test_tags() -> None:
    template = engine().engine.from_string("{% load tracing %}{% trace_id %} {% trace_url as url %}[{{ url }}]")
    assert template.render(Context()) == " []"
    with create_span("request"):
        trace_id = current_trace_id()
        assert template.render(Context()) == f"{trace_id} [https://jaeger.example.com/trace/{trace_id}]"


@override_settings(TRACING=SETTINGS)
def test_context_processor() -> None:
    django = engine("django_tracing.context_processors.tracing").engine
    template = django.from_string("{% if trace_id %}{{ trace_id }} {{ correlation_id }} {{ trace_url }}{% endif %}")
    assert template.render(RequestContext(HttpRequest())) == ""
    with create_span("request"):
        text = template.render(RequestContext(HttpRequest()))
        assert text == (
            f"{current_trace_id()} {get_correlation_id()} https://jaeger.example.com/trace/{current_trace_id()}"
        )
