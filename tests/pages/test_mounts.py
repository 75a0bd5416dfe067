"""Test the pages outside the admin: their addresses, permissions and base template, and a site that has no admin."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from django.apps import apps
from django.conf.urls.i18n import i18n_patterns
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.core import checks
from django.http import HttpResponse
from django.test import Client, override_settings
from django.urls import include, path
from django.utils import timezone
from django.utils.functional import lazy
from django.utils.translation import get_language, override

from django_tracing.checks import PAGES_UNUSABLE
from django_tracing.context.trace_page import list_path, page_path
from django_tracing.models import SamplingRule
from django_tracing.traces.readers.sqlite.store import LocalStore
from tests.pages.helpers import ADDRESSES, BLUEPRINT, NESTED, PLAIN, RULES, STATUS, staff

pytestmark = pytest.mark.django_db

LABELS = ["Traces", "Routes", "Service map", "Sampling rules", "Status"]
SCRIPT = "<script>alert('x')</script>"


def urls(*patterns: Any) -> Any:
    """Return settings whose project has these URLs only."""
    module = ModuleType("urls_of_a_project")
    module.urlpatterns = list(patterns)  # type: ignore[attr-defined]
    return override_settings(ROOT_URLCONF=module)


def status_of(client: Client, *addresses: str) -> list[int]:
    return [client.get(address).status_code for address in addresses]


@pytest.mark.parametrize(
    ("rules", "change", "status"),
    [(RULES, "{pk}/change/", STATUS), (f"{PLAIN}rules/", "{pk}/", f"{PLAIN}status/")],
    ids=["admin", "plain"],
)
def test_permissions_are_the_same_with_and_without_the_admin(
    root: Client, rules: str, change: str, status: str
) -> None:
    rule = SamplingRule.objects.create(name="a")
    change = rules + change.format(pk=rule.pk)
    delete = f"{rules}{rule.pk}/delete/"
    seen = [rules, f"{rules}preview/", change]
    changed = [f"{rules}add/", delete]
    everything = [*seen, *changed, status]
    posted = {"name": "b", "rate": "5"}

    assert status_of(Client(), *everything) == [302] * 6, "to the login"
    assert Client().post(delete, {"post": "yes"}).status_code == 302
    assert status_of(root, *everything) == [200] * 6

    nobody = staff()
    assert status_of(nobody, *everything) == [403] * 6
    User.objects.filter(username="staff").delete()

    viewer = staff("view_samplingrule")
    assert status_of(viewer, *everything) == [200] * 3 + [403] * 3
    for address in (f"{rules}add/", change, delete, f"{rules}reorder/"):
        assert viewer.post(address, posted).status_code == 403, address
    assert SamplingRule.objects.get().name == "a"
    User.objects.filter(username="staff").delete()

    editor = staff("change_samplingrule")
    assert status_of(editor, *everything) == [200] * 3 + [403] * 3
    assert editor.post(change, posted).status_code == 302
    assert SamplingRule.objects.get().name == "b"
    User.objects.filter(username="staff").delete()

    other = staff("view_processstatus", "add_samplingrule", "view_samplingrule")
    assert status_of(other, *everything) == [200] * 4 + [403, 200]
    assert other.post(f"{rules}add/", posted | {"name": "c"}).status_code == 302
    assert SamplingRule.objects.count() == 2


def test_users_who_are_not_signed_in_go_to_the_login_of_the_site(settings: Any) -> None:
    settings.LOGIN_URL = "/members/login/"
    answer = Client().get(f"{PLAIN}{BLUEPRINT}/?color=kind")
    assert answer["Location"] == f"/members/login/?next={PLAIN}{BLUEPRINT}/%3Fcolor%3Dkind"


def test_without_users_there_is_no_permission(settings: Any) -> None:
    settings.MIDDLEWARE = []
    assert Client().get(PLAIN).status_code == 302


class Member:
    """A user of a project whose model has no permissions, as AbstractBaseUser."""

    is_authenticated = True
    pk = 1


class MemberMiddleware:
    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response

    def __call__(self, request: Any) -> Any:
        request.user = Member()
        return self.get_response(request)


def test_users_of_a_model_without_permissions_may_see_nothing(settings: Any) -> None:
    settings.MIDDLEWARE = [f"{__name__}.MemberMiddleware"]
    assert status_of(Client(), PLAIN, f"{PLAIN}rules/", f"{PLAIN}rules/add/", f"{PLAIN}status/") == [403] * 4


def test_without_auth_there_is_no_page(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    settings.MIDDLEWARE = []
    installed = apps.is_installed
    monkeypatch.setattr(apps, "is_installed", lambda name: name != "django.contrib.auth" and installed(name))
    assert Client().get(PLAIN).status_code == 403
    (message,) = warnings()
    assert "django.contrib.auth" in message.msg


def warnings() -> list[checks.CheckMessage]:
    return [message for message in checks.run_checks() if message.id == PAGES_UNUSABLE]


def test_pages_below_parameters_are_reported() -> None:
    pages = "django_tracing.pages.urls"
    assert not warnings()
    with urls(
        path("<slug:tenant>/", include([path("traces/", include(pages))])),
        path("plugins/", include(([path("<int:n>/", include(pages, namespace="n"))], "plugin"))),
        path("<int:other>/", lambda request, other: HttpResponse()),
    ):
        assert sorted(re.findall("namespace '([^']+)'", " ".join(message.msg for message in warnings()))) == [
            "django_tracing_pages",
            "plugin:n",
        ]


def test_forms_need_a_token(root: Client) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.get())
    assert client.post(f"{PLAIN}rules/add/", {"name": "a", "rate": "1"}).status_code == 403
    assert client.post(f"{PLAIN}status/").status_code == 403
    assert client.get(f"{PLAIN}rules/")["Cache-Control"].startswith("max-age=0, no-cache")


@pytest.mark.parametrize("mount", [PLAIN, NESTED])
def test_the_tabs_lead_to_the_pages_of_the_mount(root: Client, store: LocalStore, mount: str) -> None:
    rule = SamplingRule.objects.create(name="a")
    below = [
        *ADDRESSES[:7],
        ADDRESSES[-1],
        "status/",
        "rules/",
        "rules/add/",
        f"rules/{rule.pk}/",
        f"rules/{rule.pk}/delete/",
    ]
    for address in below:
        text = root.get(mount + address).content.decode()
        [tabs] = re.findall(r'<nav class="tracing-tabs".*?</nav>', text, re.DOTALL)
        found = re.findall(r'<a href="([^"]+)"(?: aria-current="(\w+)")?>([^<]+)</a>', tabs)
        assert [label for _url, _current, label in found] == LABELS
        assert len([current for _url, current, _label in found if current]) == 1, address
        assert all(url.startswith(mount) for url, _current, _label in found)
        # A strict Content Security Policy blocks inline code and styles.
        assert not re.search(r"\sstyle=|\son\w+=|<script(?! src=)|<style", text.split("<pre")[0]), address
        assert "admin/" not in text, address


def test_rules_are_edited_without_the_admin(root: Client) -> None:
    rules = f"{PLAIN}rules/"
    assert "There are no rules yet." in root.get(rules).content.decode()
    # What a link of the empty list fills in.
    text = root.get(rules).content.decode()
    starter = re.findall(rf'href="({rules}add/\?[^"]+)"', text)[0].replace("&amp;", "&")
    assert 'value="Keep errors"' in root.get(starter).content.decode()
    for name in ("first", "second"):
        root.post(f"{rules}add/", {"name": name, "enabled": "on", "rate": "5"})
    first, second = SamplingRule.objects.all()
    assert (first.name, second.name, first.order < second.order) == ("first", "second", True)
    root.post(f"{rules}reorder/", {"move": f"{second.pk}:up"})
    assert [rule.name for rule in SamplingRule.objects.all()] == ["second", "first"]
    changed = {"name": "first", "rate": "50", "valid_until": "2030-01-31T13:45", "path": "/x/*"}
    answer = root.post(f"{rules}{first.pk}/", changed, follow=True)
    assert "The rule “first” was saved." in answer.content.decode()
    first.refresh_from_db()
    assert (first.rate, first.enabled, first.path) == (50, False, "/x/*")
    assert f"{timezone.localtime(first.valid_until):%Y-%m-%dT%H:%M}" == "2030-01-31T13:45"
    text = root.get(f"{rules}{first.pk}/").content.decode()
    assert 'value="2030-01-31T13:45:00"' in text
    assert f"In the time zone {timezone.get_current_timezone_name()}." in text
    root.post(f"{rules}{second.pk}/delete/")
    assert [rule.name for rule in SamplingRule.objects.all()] == ["first"]
    # With an admin, its history has these changes.
    flags = list(LogEntry.objects.order_by("pk").values_list("action_flag", "object_repr"))
    assert flags == [(1, "first"), (1, "second"), (2, "second"), (2, "first"), (2, "first"), (3, "second")]
    assert json.loads(LogEntry.objects.order_by("-pk")[1].change_message) == [
        {"changed": {"fields": ["enabled", "valid_until", "path", "rate"]}}
    ]
    assert root.get(f"{rules}{second.pk}/").status_code == 404


@pytest.mark.parametrize("page", ["{pk}/", "{pk}/delete/"])
def test_a_change_is_saved_with_its_entry_in_the_history_or_not_at_all(
    root: Client, monkeypatch: pytest.MonkeyPatch, page: str
) -> None:
    until = timezone.make_aware(datetime(2030, 1, 31, 13, 45, 59))
    rule = SamplingRule.objects.create(name="a", rate=1, valid_until=until)
    address = f"{PLAIN}rules/{page.format(pk=rule.pk)}"
    form = root.get(f"{PLAIN}rules/{rule.pk}/").context["form"]
    posted = {"name": "a", "rate": "2", "enabled": "on", "valid_until": form["valid_until"].value()}
    root.raise_request_exception = False
    with monkeypatch.context() as patch:
        patch.setattr(LogEntry.objects, "log_actions", lambda *args, **kwargs: 1 / 0)
        assert root.post(address, posted).status_code == 500
    assert SamplingRule.objects.get().rate == 1
    assert root.post(address, posted).status_code == 302
    # What the user did not change is what it was.
    assert [rule.valid_until for rule in SamplingRule.objects.all()] == ([until] if page == "{pk}/" else [])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"path": "~(a"}, "missing ), unterminated subpattern at character 1"),
        ({"rate": "101"}, "less than or equal to 100"),
        ({"valid_until": "soon"}, "Enter a valid date/time."),
    ],
)
def test_errors_of_the_form_are_beside_their_field(root: Client, given: dict[str, str], message: str) -> None:
    text = root.post(f"{PLAIN}rules/add/", {"name": "x", "rate": "50", **given}).content.decode()
    assert message in re.split(rf'id="id_{next(iter(given))}"', text)[1].split("</div>")[0]
    assert not SamplingRule.objects.exists()


def test_everything_is_escaped(root: Client) -> None:
    fields = {
        name: SCRIPT[: SamplingRule._meta.get_field(name).max_length]
        for name in ("name", "path", "service", "user_id", "subscription", "header_name", "header_value")
    }
    rule = SamplingRule.objects.create(**fields)
    for address in ("rules/", f"rules/{rule.pk}/", f"rules/{rule.pk}/delete/", f"rules/add/?name={SCRIPT}"):
        text = root.get(PLAIN + address).content.decode()
        assert "<script>alert" not in text
        assert "&lt;script&gt;" in text


def test_pages_without_their_tables_explain_how_to_create_them(root: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("rule_list", "rule_form", "rule_delete", "preview"):
        root.get(f"{PLAIN}rules/preview/")
        monkeypatch.setattr(f"django_tracing.pages.{module}.table_exists", lambda: False)
    for address in ("rules/", "rules/add/", "rules/1/", "rules/1/delete/", "rules/preview/"):
        assert "python manage.py migrate django_tracing" in root.get(PLAIN + address).content.decode()


def test_a_site_may_replace_the_base_template(root: Client, store: LocalStore, settings: Any, tmp_path: Path) -> None:
    own = tmp_path / "templates" / "django_tracing"
    own.mkdir(parents=True)
    (own / "base.html").write_text(
        "<title>{{ title }}</title>{% block extrastyle %}{% endblock %}{% block extrahead %}{% endblock %}"
        "<h1>Operations</h1>{% block content %}{% endblock %}"
    )
    settings.TEMPLATES = [{**settings.TEMPLATES[0], "DIRS": [str(own.parent)]}]
    text = root.get(f"{PLAIN}{BLUEPRINT}/").content.decode()
    assert "<h1>Operations</h1>" in text
    assert "tracing-waterfall" in text
    assert "tracing.css" in text


# ----- Addresses for people who read them outside the site


@pytest.mark.parametrize("place", ["", "traces/", "<slug:tenant>/", "a/<slug:tenant>/"])
def test_the_page_of_a_trace_is_found_where_the_pages_are(place: str) -> None:
    pages = include("django_tracing.pages.urls")
    found = f"/{place}{'ab' * 16}/" if "<" not in place else ""
    with urls(path(place, pages)):
        assert (list_path(), page_path("ab" * 16)) == (f"/{place}" if found else "", found)
    with urls(path("outer/", include(([path(place, pages)], "outer"), namespace="o"))):
        assert page_path("ab" * 16) == (f"/outer{found}" if found else "")
    with urls(path("outer/", include([path(place, pages)]))):
        assert page_path("ab" * 16) == (f"/outer{found}" if found else "")


def test_the_first_mount_that_has_an_address_is_named() -> None:
    pages = "django_tracing.pages.urls"
    with urls(
        path("<int:n>/", include(pages, namespace="parameter")),
        path("first/", include(pages, namespace="first")),
        path("second/", include(pages, namespace="second")),
    ):
        assert list_path() == "/first/"
    assert list_path() == "/admin/django_tracing/trace/"
    with urls(path("x/", lambda request: None)):
        assert list_path() == ""


def test_pages_with_an_address_for_each_language_are_untraced_in_all(
    root: Client, spans: Any, settings: Any, store: LocalStore
) -> None:
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django.middleware.locale.LocaleMiddleware"]
    places = {"en": "traces/", "de": "spuren/"}
    translated = lazy(lambda: places[(get_language() or "en")[:2]], str)()
    with (
        # The middleware leaves the language of the last request active.
        override("en", deactivate=True),
        urls(*i18n_patterns(path(translated, include("django_tracing.pages.urls")))),
    ):
        for language, place in places.items():
            assert root.get(f"/{language}/{place}").status_code == 200
        assert spans.names == []
        root.get("/de/traces/")
        assert spans.names == ["GET (no route)"]


# ----- Without the admin

SITE = """
import sys
import django
from django.conf import settings
from django.urls import include, path
from django.utils import timezone
from django.utils.functional import lazy
from django.utils.translation import get_language

urlpatterns = [path("traces/", include("django_tracing.pages.urls"))]
settings.configure(
    SECRET_KEY="x",
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["testserver"],
    INSTALLED_APPS=["django_tracing", "django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}],
    STATIC_URL="/static/",
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    TRACING={"EXPORTER": "local", "LOCAL_STORE": sys.argv[1], "SERVICE_NAME": "shop"},
)
django.setup()

from django.core.management import call_command
from django.test import Client

call_command("check", fail_level="WARNING")
call_command("migrate", verbosity=0)

from django.contrib.auth.models import User

root = Client()
root.force_login(User.objects.create(username="root", is_superuser=True))
for address in sys.argv[2:]:
    answer = root.get("/traces/" + address)
    if not answer.streaming:
        assert ("tracing-tabs" in answer.content.decode()) == (answer.status_code == 200), address
    print(answer.status_code, address)
answer = root.post("/traces/rules/add/", {"name": "mine", "rate": "5"}, follow=True)
print(answer.status_code, "mine" in answer.content.decode())
print(root.post("/traces/rules/1/delete/").status_code)
print(root.post("/traces/status/").status_code)
print([name for name in sys.modules if name.startswith("django.contrib.admin")])
"""


def test_a_site_without_the_admin_starts_migrates_and_shows_each_page(store: LocalStore, tmp_path: Path) -> None:
    rules = ["rules/", "rules/add/", "rules/preview/?path=/x", "status/"]
    site = tmp_path / "site_without_admin.py"
    site.write_text(SITE)
    done = subprocess.run(
        [sys.executable, str(site), str(store.path), *ADDRESSES, *rules, "rules/9/"],
        env={name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    shown = [f"200 {address}" for address in (*ADDRESSES, *rules)]
    assert done.stdout.splitlines() == [
        "System check identified no issues (0 silenced).",
        *shown,
        "404 rules/9/",
        "200 True",
        "302",
        "200",
        "[]",
    ], done.stderr
