"""Test the admin of the models; tests/pages/ tests its pages."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import django
import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client
from django.utils import timezone

from django_tracing import provider
from django_tracing.models import SamplingCount, SamplingRule
from django_tracing.spans import runtime
from tests.pages.helpers import RULES, STATUS, page, staff

pytestmark = pytest.mark.django_db

SCRIPT = "<script>alert('x')</script>"


@pytest.fixture(autouse=True)
def site(settings: Any) -> None:
    settings.ROOT_URLCONF = "tests.pages.urls"
    if django.VERSION >= (6, 0):
        settings.MIDDLEWARE = ["django.middleware.csp.ContentSecurityPolicyMiddleware", *settings.MIDDLEWARE]
        settings.SECURE_CSP = {"default-src": ["'self'"]}


@pytest.fixture
def root() -> Client:
    client = Client()
    client.force_login(User.objects.create(username="root", is_staff=True, is_superuser=True))
    return client


def test_the_list_shows_the_counts_of_each_rule(root: Client) -> None:
    rule = SamplingRule.objects.create(name="orders", path="/orders/*", header_name="X-A", header_value="1")
    SamplingRule.objects.create(name="ended", valid_until=timezone.now(), path="/x", method="GET")
    SamplingCount.objects.create(rule=rule, process="p", minute=timezone.now(), kept=3, passed_over=4)
    SamplingCount.objects.create(rule=rule, process="q", minute=timezone.now(), kept=10, passed_over=0)
    SamplingCount.objects.create(rule=rule, process="q", minute=timezone.now() - timedelta(hours=3), kept=100)
    text = page(root, RULES)
    assert "path /orders/*, header X-A=1" in text
    assert '<td class="field-kept">13</td>' in text
    assert '<td class="field-passed_over">4</td>' in text
    assert "not served: it has a header" in text
    assert text.count("icon-no.svg") >= 1, "an expired rule is not in force"


@pytest.mark.parametrize(
    ("given", "field", "message"),
    [
        ({"path": "~(a"}, "path", "missing ), unterminated subpattern at character 1"),
        ({"header_value": "x"}, "header_name", "Enter the name of the header"),
        ({"rate": "101"}, "rate", "less than or equal to 100"),
        ({"operation": "task", "method": "GET"}, "method", "for requests only"),
    ],
)
def test_errors_of_the_form(root: Client, given: dict[str, str], field: str, message: str) -> None:
    answer = root.post(f"{RULES}add/", {"name": "x", "order": 1, "rate": "50", **given})
    assert message in answer.context["adminform"].form.errors[field][0]
    assert not SamplingRule.objects.exists()


def test_permissions_are_those_of_django() -> None:
    SamplingRule.objects.create(name="a")
    nobody = staff()
    assert [nobody.get(url).status_code for url in (RULES, f"{RULES}preview/", STATUS)] == [403] * 3
    User.objects.all().delete()
    viewer = staff("view_samplingrule")
    assert "tracing-reorder" not in page(viewer, RULES)
    assert viewer.post(f"{RULES}reorder/", {"ids": "1"}).status_code == 403
    assert viewer.get(f"{RULES}preview/").status_code == 200
    assert viewer.get(STATUS).status_code == 403
    User.objects.all().delete()
    assert staff("view_processstatus").get(STATUS).status_code == 200


@pytest.fixture
def unmigrated(transactional_db: None) -> Iterator[None]:
    """Remove the tables, as in a project that has not migrated this app: traces need none."""
    call_command("migrate", "django_tracing", "zero", verbosity=0)
    yield
    call_command("migrate", "django_tracing", verbosity=0)


def test_pages_without_their_tables_explain_how_to_create_them(unmigrated: None, root: Client) -> None:
    for address in (RULES, f"{RULES}add/", f"{RULES}1/change/", f"{RULES}preview/?path=/"):
        assert "python manage.py migrate django_tracing" in page(root, address)
    text = page(root, STATUS)
    assert "python manage.py migrate django_tracing" in text
    assert "SAMPLE_RATE" in text


def test_everything_is_escaped(root: Client) -> None:
    fields = {
        name: SCRIPT[: SamplingRule._meta.get_field(name).max_length]
        for name in ("name", "path", "service", "user_id", "subscription", "header_name", "header_value")
    }
    rule = SamplingRule.objects.create(**fields)
    SamplingRule.objects.create(name=f"2{SCRIPT}")
    for url in (
        RULES,
        f"{RULES}{rule.pk}/change/",
        f"{RULES}preview/?operation=request&path={SCRIPT}&service={SCRIPT}",
    ):
        assert SCRIPT not in page(root, url)


@pytest.fixture
def fresh_runtime() -> Iterator[None]:
    former = runtime.use(runtime.Runtime())
    yield
    runtime.use(former)


@pytest.mark.parametrize("url", [RULES, STATUS, "/admin/django_tracing/trace/"])
def test_pages_show_at_the_top_why_nothing_is_traced(
    url: str, root: Client, fresh_runtime: None, settings: Any, tmp_path: Any
) -> None:
    settings.TRACING = {"LOCAL_STORE": str(tmp_path / "traces.sqlite3")}
    assert "errornote" not in page(root, url)
    settings.TRACING = {"SAMPLE_RATE": SCRIPT}
    provider.start()
    text = page(root, url)
    assert "Tracing is off: TRACING[&quot;SAMPLE_RATE&quot;]" in text
    assert SCRIPT not in text
    capture = io.StringIO()
    call_command("traces", stdout=io.StringIO(), stderr=capture)
    assert capture.getvalue().startswith("Tracing is off: TRACING")
