"""The admin's pages, as a client gets them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import django
import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.core.management import call_command
from django.http import HttpResponse
from django.test import Client
from django.urls import path, re_path
from django.utils import timezone

from django_tracing import provider
from django_tracing.models import ProcessStatus, SamplingCount, SamplingRule
from django_tracing.spans import runtime
from tests.receivers import OTLPReceiver

urlpatterns = [
    path("admin/", admin.site.urls),
    re_path(r"^people/(?P<pk>\d+)/$", lambda request, pk: HttpResponse()),
]
pytestmark = pytest.mark.django_db

RULES = "/admin/django_tracing/samplingrule/"
STATUS = "/admin/django_tracing/processstatus/"
SCRIPT = "<script>alert('x')</script>"


@pytest.fixture(autouse=True)
def site(settings: Any) -> None:
    settings.ROOT_URLCONF = __name__
    if django.VERSION >= (6, 0):
        settings.MIDDLEWARE = ["django.middleware.csp.ContentSecurityPolicyMiddleware", *settings.MIDDLEWARE]
        settings.SECURE_CSP = {"default-src": ["'self'"]}


@pytest.fixture
def root() -> Client:
    client = Client()
    client.force_login(User.objects.create(username="root", is_staff=True, is_superuser=True))
    return client


def staff(*permissions: str) -> Client:
    user = User.objects.create(username="staff", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


def page(client: Client, url: str) -> str:
    answer = client.get(url)
    assert answer.status_code == 200
    text = answer.content.decode()
    # Nothing of ours is inline: a strict policy stops it. (The admin itself has an inline script or two.)
    ours = text.split('<div id="content-main"')[-1].split("<footer")[0]
    assert " style=" not in ours
    assert " onclick=" not in ours
    return text


# ----- rules


def test_the_list_says_what_each_rule_did(root: Client) -> None:
    rule = SamplingRule.objects.create(name="orders", path="/orders/*", header_name="X-A", header_value="1")
    SamplingRule.objects.create(name="ended", valid_until=timezone.now(), path="/x", method="GET")
    SamplingCount.objects.create(rule=rule, process="p", minute=timezone.now(), kept=3, passed_over=4)
    SamplingCount.objects.create(rule=rule, process="q", minute=timezone.now(), kept=10, passed_over=0)
    SamplingCount.objects.create(rule=rule, process="q", minute=timezone.now() - timedelta(hours=3), kept=100)
    text = page(root, RULES)
    assert "path /orders/*, header X-A=1" in text
    assert '<td class="field-kept">13</td>' in text
    assert '<td class="field-passed_over">4</td>' in text
    assert "left out: it has a header" in text
    assert text.count("icon-no.svg") >= 1, "what has ended is not in force"


@pytest.mark.parametrize(
    ("given", "field", "message"),
    [
        ({"path": "~(a"}, "path", "missing ), unterminated subpattern at character 1"),
        ({"header_value": "x"}, "header_name", "Say which header"),
        ({"rate": "101"}, "rate", "less than or equal to 100"),
        ({"operation": "task", "method": "GET"}, "method", "Only requests"),
    ],
)
def test_what_is_wrong_is_said(root: Client, given: dict[str, str], field: str, message: str) -> None:
    answer = root.post(f"{RULES}add/", {"name": "x", "order": 1, "rate": "50", **given})
    assert message in answer.context["adminform"].form.errors[field][0]
    assert not SamplingRule.objects.exists()


def test_ordering_is_saved_at_once_and_in_the_history(root: Client) -> None:
    rules = [
        SamplingRule.objects.create(name=name, order=order) for name, order in zip("abcd", (0, 0, 5, 9), strict=True)
    ]
    a, b, c, d = (str(rule.pk) for rule in rules)
    answer = root.post(f"{RULES}reorder/", {"ids": ",".join([d, a, "999", "x", c])})
    assert answer.status_code == 302
    # b was not on the page: it keeps its place.
    assert list(SamplingRule.objects.values_list("name", "order")) == [("d", 10), ("b", 20), ("a", 30), ("c", 40)]
    assert LogEntry.objects.filter(object_repr="d").count() == 1
    assert root.get(f"{RULES}reorder/").status_code == 403


def test_permissions_are_django_s() -> None:
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


# ----- preview


def preview(client: Client, **asked: str) -> tuple[str, list[str]]:
    answer = client.get(f"{RULES}preview/", {"operation": "request", **asked})
    return answer.context["verdict"], [reason["outcome"] for reason in answer.context["reasons"]]


def test_a_preview_finds_a_rule_by_the_route_that_spans_show(root: Client) -> None:
    SamplingRule.objects.create(name="people", path="/people/<pk>/", rate=50)
    assert preview(root, path="/people/7/") == ("The rule “people” decides: 50 % are kept.", ["decides"])


def test_a_preview_says_which_rule_decides_and_why(root: Client) -> None:
    SamplingRule.objects.create(name="posts", order=1, method="POST")
    SamplingRule.objects.create(name="ada", order=2, user_id="42", rate=50)
    SamplingRule.objects.create(name="tenant", order=3, header_name="X-Tenant", header_value="acme")
    SamplingRule.objects.create(name="off", order=4, enabled=False)
    assert preview(root, method="get", path="/x", user_id="42") == (
        "The rule “ada” decides: 50 % are kept.",
        ["does not match: another method", "decides"],
    )
    verdict, outcomes = preview(root, method="GET", path="/x", headers="X-Tenant: acme\nnonsense")
    assert verdict == "The rule “tenant” decides: 100 % are kept."
    assert outcomes[1] == "does not match: another user"
    verdict, outcomes = preview(root, method="GET", path="/x", service="billing")
    assert verdict == "No rule decides: SAMPLE_RATE does, 100 %."
    assert outcomes[-1] == "does not match: the header"
    assert "No rule decides" in page(root, f"{RULES}preview/?operation=request&path=/x")


# ----- status


def test_the_status_of_every_live_process(root: Client) -> None:
    now = timezone.now()
    report = {
        "exporter": "otlp",
        "endpoint": "http://jaeger:4318",
        "queued": 7,
        "exported": 12345,
        "dropped": {"queue_full_spans": 2},
        "last_error": SCRIPT,
        "last_success_time": now.timestamp(),
        "sampling": {"rate": 0.5, "rules": ["ada"]},
    }
    for process, age in (("live", 1), ("gone", 600)):
        ProcessStatus.objects.create(
            process=process,
            service=f"{process}-shop",
            host="h",
            pid=1,
            started=now,
            updated=now - timedelta(seconds=age),
            report=report,
        )
    text = page(root, STATUS)
    assert "live-shop" in text
    assert "gone-shop" not in text
    assert "12345" in text
    assert "queue_full_spans 2" in text
    assert "SAMPLE_RATE 0.5, ada" in text
    assert SCRIPT not in text


@pytest.fixture
def unmigrated(transactional_db: None) -> Iterator[None]:
    """As on a laptop where nobody has migrated this app: its pages of traces need no table."""
    call_command("migrate", "django_tracing", "zero", verbosity=0)
    yield
    call_command("migrate", "django_tracing", verbosity=0)


def test_pages_without_their_tables_say_how_to_make_them(unmigrated: None, root: Client) -> None:
    for address in (RULES, f"{RULES}add/", f"{RULES}1/change/", f"{RULES}preview/?path=/"):
        assert "python manage.py migrate django_tracing" in page(root, address)
    text = page(root, STATUS)
    assert "python manage.py migrate django_tracing" in text
    assert "SAMPLE_RATE" in text


def test_settings_with_their_sources_and_without_secrets(root: Client, settings: Any) -> None:
    settings.TRACING = {
        "EXPORTER": "none",
        "ENDPOINT": "https://user:hunter2@jaeger.example.com:4318",
        "HEADERS": {"authorization": "Bearer hunter2"},
        "SAMPLING_TOKEN": "hunter2",
        "REDACT": "tests.redaction.test_attributes.redact",
        "SUBSCRIPTION": lambda user: "pro",
    }
    text = page(root, STATUS)
    assert "hunter2" not in text
    assert "authorization: …" in text
    assert "jaeger.example.com:4318" in text
    assert "tests.redaction.test_attributes.redact" in text
    assert "TRACING[&quot;ENDPOINT&quot;]" in text


@pytest.mark.parametrize("arrives", [True, False])
def test_a_button_checks_whether_traces_arrive(root: Client, settings: Any, arrives: bool) -> None:
    with OTLPReceiver() as receiver:
        if not arrives:
            receiver.mode = 500
        settings.TRACING = {"ENDPOINT": receiver.endpoint, "QUERY_URL": None}
        answer = root.post(STATUS)
    steps = {step.name: step.outcome for step in answer.context["steps"]}
    assert steps["port"] == "ok"
    assert steps["send"] == ("ok" if arrives else "failed")
    assert answer.context["outcome"] == ("The trace was sent." if arrives else "The trace did not arrive.")


# ----- what attackers may plant


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


@pytest.mark.parametrize("url", [RULES, STATUS, "/admin/django_tracing/trace/"])
def test_pages_say_at_the_top_why_nothing_is_traced(
    url: str, root: Client, monkeypatch: pytest.MonkeyPatch, settings: Any, tmp_path: Any
) -> None:
    settings.TRACING = {"LOCAL_STORE": str(tmp_path / "traces.sqlite3")}
    assert "errornote" not in page(root, url)
    monkeypatch.setattr(runtime, "current", runtime.Runtime())
    settings.TRACING = {"SAMPLE_RATE": SCRIPT}
    provider.start()
    text = page(root, url)
    assert "Tracing is off: TRACING[&quot;SAMPLE_RATE&quot;]" in text
    assert SCRIPT not in text
    capture = io.StringIO()
    call_command("traces", stdout=io.StringIO(), stderr=capture)
    assert capture.getvalue().startswith("Tracing is off: TRACING")
