"""Try every URL of this app as every kind of user, with every method, from this site and from another one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.db.models import Model
from django.http import HttpResponse
from django.test import Client
from django.urls import URLResolver, get_resolver, include, path
from django.utils import timezone

from django_tracing.models import ProcessStatus, SamplingRule
from django_tracing.traces.readers.sqlite.store import LocalStore
from tests.traces.builders import blueprint_trace

pytestmark = pytest.mark.django_db

urlpatterns = [
    path("admin/", admin.site.urls),
    path("pages/", include("django_tracing.pages.urls")),
    path("tracing/", include("django_tracing.urls")),
    # None of ours.
    path("own/", lambda request: HttpResponse(), name="own"),
]

TRACE = "0" * 31 + "1"
SPAN = f"{2:016x}"
#: A whole row of the users below, in their order.
USERS = ("anonymous", "member", "staff", "viewer", "editor", "root")
_RULES = ("admin:django_tracing_samplingrule", "pages:samplingrule")
_STATUS = ("admin:django_tracing_processstatus", "pages:processstatus")
#: The models of the permissions that the viewer and the editor have.
_MODELS = ("trace", "samplingrule", "processstatus")
_RULE = {"name": "changed", "rate": "5", "enabled": "on"}


class Row(NamedTuple):
    """What the users get, by their place in ``USERS``: the statuses of GET, and of POST with a token."""

    address: str
    get: str
    post: str
    #: What is posted, and what other methods try to change with.
    data: dict[str, str] = {}  # noqa: RUF012 - never changed


# The admin and Django's login ask for a login (302); a user without the permission gets 403; what a page does not do is 405.
_ADMIN_TRACES = partial(Row, get="302 302 403 200 200 200", post="302 302 403 405 405 405")
_TRACES = partial(Row, get="302 403 403 200 200 200", post="302 403 403 405 405 405")
_ANYBODY = partial(Row, get="200 200 200 200 200 200", post="405 405 405 405 405 405")
#: ``{rule}`` is the id of a rule.
ROWS = {
    "admin:django_tracing_trace_changelist": _ADMIN_TRACES("/admin/django_tracing/trace/"),
    "admin:django_tracing_trace_routes": _ADMIN_TRACES("/admin/django_tracing/trace/routes/"),
    "admin:django_tracing_trace_map": _ADMIN_TRACES("/admin/django_tracing/trace/map/"),
    "admin:django_tracing_trace_calls": _ADMIN_TRACES("/admin/django_tracing/trace/map/calls/?caller=a&callee=b"),
    "admin:django_tracing_trace_trace": _ADMIN_TRACES(f"/admin/django_tracing/trace/{TRACE}/"),
    "admin:django_tracing_trace_sql": _ADMIN_TRACES(f"/admin/django_tracing/trace/{TRACE}/sql/"),
    "admin:django_tracing_trace_span": _ADMIN_TRACES(f"/admin/django_tracing/trace/{TRACE}/spans/{SPAN}/"),
    "admin:django_tracing_trace_compare": _ADMIN_TRACES(f"/admin/django_tracing/trace/{TRACE}/compare/?with={TRACE}"),
    "admin:django_tracing_trace_download": _ADMIN_TRACES(f"/admin/django_tracing/trace/{TRACE}/otlp.json"),
    "admin:django_tracing_processstatus_changelist": Row(
        "/admin/django_tracing/processstatus/", "302 302 403 200 200 200", "302 302 403 403 200 200"
    ),
    "admin:django_tracing_samplingrule_preview": _ADMIN_TRACES("/admin/django_tracing/samplingrule/preview/?path=/"),
    "admin:django_tracing_samplingrule_reorder": Row(
        "/admin/django_tracing/samplingrule/reorder/",
        "302 302 403 403 405 405",
        "302 302 403 403 302 302",
        {"ids": "{rule}"},
    ),
    # The views of Django's admin.
    "admin:django_tracing_samplingrule_changelist": Row(
        "/admin/django_tracing/samplingrule/",
        "302 302 403 200 200 200",
        "302 302 403 200 200 302",
        {"action": "delete_selected", "_selected_action": "{rule}", "post": "yes"},
    ),
    "admin:django_tracing_samplingrule_add": Row(
        "/admin/django_tracing/samplingrule/add/", "302 302 403 403 403 200", "302 302 403 403 403 302", _RULE
    ),
    "admin:django_tracing_samplingrule_change": Row(
        "/admin/django_tracing/samplingrule/{rule}/change/",
        "302 302 403 200 200 200",
        "302 302 403 403 302 302",
        _RULE,
    ),
    "admin:django_tracing_samplingrule_delete": Row(
        "/admin/django_tracing/samplingrule/{rule}/delete/",
        "302 302 403 403 403 200",
        "302 302 403 403 403 302",
        {"post": "yes"},
    ),
    "admin:django_tracing_samplingrule_history": Row(
        "/admin/django_tracing/samplingrule/{rule}/history/", "302 302 403 200 200 200", "302 302 403 200 200 200"
    ),
    "pages:trace_changelist": _TRACES("/pages/"),
    "pages:trace_routes": _TRACES("/pages/routes/"),
    "pages:trace_map": _TRACES("/pages/map/"),
    "pages:trace_calls": _TRACES("/pages/map/calls/?caller=a&callee=b"),
    "pages:trace_trace": _TRACES(f"/pages/{TRACE}/"),
    "pages:trace_sql": _TRACES(f"/pages/{TRACE}/sql/"),
    "pages:trace_span": _TRACES(f"/pages/{TRACE}/spans/{SPAN}/"),
    "pages:trace_compare": _TRACES(f"/pages/{TRACE}/compare/?with={TRACE}"),
    "pages:trace_download": _TRACES(f"/pages/{TRACE}/jaeger.json"),
    "pages:processstatus_changelist": Row("/pages/status/", "302 403 403 200 200 200", "302 403 403 403 200 200"),
    "pages:samplingrule_preview": _TRACES("/pages/rules/preview/?path=/"),
    "pages:samplingrule_reorder": Row(
        "/pages/rules/reorder/", "302 403 403 403 405 405", "302 403 403 403 302 302", {"ids": "{rule}"}
    ),
    "pages:samplingrule_changelist": _TRACES("/pages/rules/"),
    "pages:samplingrule_add": Row("/pages/rules/add/", "302 403 403 403 403 200", "302 403 403 403 403 302", _RULE),
    "pages:samplingrule_change": Row(
        "/pages/rules/{rule}/", "302 403 403 200 200 200", "302 403 403 403 302 302", _RULE
    ),
    "pages:samplingrule_delete": Row(
        "/pages/rules/{rule}/delete/", "302 403 403 403 403 200", "302 403 403 403 403 302", {"post": "yes"}
    ),
    # Probes and other services have no account. The client is 127.0.0.1, which SAMPLING_CLIENTS has.
    "django_tracing:health": _ANYBODY("/tracing/health"),
    "django_tracing:sampling": _ANYBODY("/tracing/sampling?service=node"),
}
#: Those of the admin for all its apps, and the redirect from an object's address to its page.
_OF_THE_ADMIN = ("admin:None", "admin:app_list")


def own_urls(patterns: Any, namespace: str = "", address: str = "") -> Iterator[tuple[str, str]]:
    """Yield name and address of each URL of this app, from Django's resolver."""
    for pattern in patterns:
        below = address + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            name = {"django_tracing_pages": "pages"}.get(str(pattern.namespace), pattern.namespace)
            yield from own_urls(pattern.url_patterns, f"{name}:" if name else namespace, below)
        elif "django_tracing" in f"{namespace}{below}{pattern.name}" or namespace == "pages:":
            yield f"{namespace}{pattern.name}", below


class World(NamedTuple):
    clients: dict[str, Client]
    rule: SamplingRule
    store: LocalStore

    def contents(self) -> Any:
        """Return everything that a request could change."""
        summaries = [(found.trace_id, found.span_count) for found in self.store.search(limit=100)]
        tables: list[type[Model]] = [SamplingRule, ProcessStatus, LogEntry, User]
        rows = [list(model._default_manager.order_by("pk").values()) for model in tables]
        return rows, summaries

    def reset(self) -> None:
        """Bring back what a request has changed, except for test traces."""
        SamplingRule.objects.all().delete()
        self.rule.save(force_insert=True)
        LogEntry.objects.all().delete()

    def ask(self, who: str, row: Row, method: str, *, data: bool = False, token: bool = False, **more: Any) -> Any:
        client = self.clients[who]
        address = row.address.format(rule=self.rule.pk)
        headers = more.pop("headers", {})
        if token:
            # What a form of this site sends as a field.
            client.cookies["csrftoken"] = headers["x-csrftoken"] = "a" * 32
        sent = {key: value.format(rule=self.rule.pk) for key, value in row.data.items()} if data else None
        return getattr(client, method)(address, sent, headers=headers, **more)


@pytest.fixture
def world(settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    settings.ROOT_URLCONF = __name__
    settings.LOGIN_URL = "/login/"
    store = LocalStore(tmp_path / "traces.sqlite3")
    store.write(blueprint_trace())
    settings.TRACING = {"EXPORTER": "local", "LOCAL_STORE": str(store.path), "SERVICE_NAME": "shop"}
    # Each refusal is a line with a traceback.
    for name in ("django.request", "django.security.csrf"):
        monkeypatch.setattr(logging.getLogger(name), "disabled", True)
    now = timezone.now()
    ProcessStatus.objects.create(process="p", service="s", host="h", pid=1, started=now, updated=now)
    rule = SamplingRule.objects.create(name="rule", rate=1, order=7)
    clients = {}
    for who in USERS:
        # As strict as a browser makes it: cookies, and no token but the one that a form of this site has.
        clients[who] = client = Client(enforce_csrf_checks=True)
        if who == "anonymous":
            continue
        user = User.objects.create(username=who, is_staff=who != "member", is_superuser=who == "root")
        actions = {"viewer": ("view",), "editor": ("view", "change")}.get(who, ())
        wanted = [f"{action}_{model}" for action in actions for model in _MODELS]
        user.user_permissions.set(Permission.objects.filter(codename__in=wanted))
        client.force_login(user)
    yield World(clients, rule, store)
    store.close()


def test_every_url_has_a_row() -> None:
    """A new URL needs a row, which says who may use it."""
    found = {name for name, _address in own_urls(get_resolver(__name__).url_patterns)}
    assert found - set(_OF_THE_ADMIN) == set(ROWS)


def test_who_gets_what_and_only_post_changes_anything(world: World) -> None:
    before = world.contents()
    wrong = []
    for name, row in ROWS.items():
        for who, expected in zip(USERS, row.get.split(), strict=True):
            status = world.ask(who, row, "get").status_code
            if status != int(expected):
                wrong.append((name, who, "get", status))
        expected = row.get.split()[-1]
        if world.ask("root", row, "head").status_code != int(expected):
            wrong.append((name, "head"))
        for method in ("options", "put"):
            status = world.ask("root", row, method, token=True).status_code
            # Refused, or answered as GET is, by some views of Django's admin.
            if status not in (405, int(expected)):
                wrong.append((name, method, status))
        # A link can send to this site what a form would.
        world.ask("root", row, "get", data=True)
        assert world.contents() == before, name
    assert wrong == []


def test_only_a_form_of_this_site_changes_anything(world: World) -> None:
    """From another site, a browser sends the cookies. It does not know the token, and says where it comes from."""
    before = world.contents()
    wrong = []
    changed = set()
    for name, row in ROWS.items():
        for who, expected in zip(USERS, row.post.split(), strict=True):
            foreign = {"headers": {"origin": "https://elsewhere.example"}, "secure": True}
            for more in ({}, {"token": True, **foreign}):
                answer = world.ask(who, row, "post", data=True, **more)
                if answer.status_code not in (403, 405) and "/login/" not in answer.get("Location", ""):
                    wrong.append((name, who, more, answer.status_code))
            assert world.contents() == before, (name, who)
            status = world.ask(who, row, "post", data=True, token=True).status_code
            if status != int(expected):
                wrong.append((name, who, "post", status))
            if world.contents() != before:
                changed.add((name, who))
                world.reset()
                before = world.contents()
    assert wrong == []
    everywhere = {("editor", "change"), ("root", "change"), ("root", "add"), ("root", "delete")}
    assert changed == {
        *((f"{mount}_{page}", who) for mount in _RULES for who, page in everywhere),
        *((f"{mount}_reorder", who) for mount in _RULES for who in ("editor", "root")),
        # In the admin's list, rules are deleted with the permission to delete.
        ("admin:django_tracing_samplingrule_changelist", "root"),
        # The test trace is in the store.
        *((f"{mount}_changelist", who) for mount in _STATUS for who in ("editor", "root")),
    }


def test_pages_cannot_be_framed_sniffed_or_cached(world: World) -> None:
    """Also on a site without Django's middleware for it."""
    for name, row in ROWS.items():
        answer = world.ask("root", row, "get")
        if name.startswith("django_tracing:"):
            assert answer["X-Content-Type-Options"] == "nosniff", name
        elif answer.status_code == 200 and not name.startswith("admin:django_tracing_samplingrule"):
            found = [
                answer.get(header) for header in ("X-Content-Type-Options", "X-Frame-Options", "Referrer-Policy")
            ]
            assert found == ["nosniff", "DENY", "same-origin"], name
        if answer.status_code == 200:
            assert "no-store" in answer["Cache-Control"], name


def test_a_site_decides_about_frames(world: World, settings: Any) -> None:
    settings.X_FRAME_OPTIONS = "SAMEORIGIN"
    assert world.ask("root", ROWS["pages:trace_map"], "get")["X-Frame-Options"] == "SAMEORIGIN"


def test_a_refusal_tells_nothing(world: World) -> None:
    """What is there cannot be told from what is not, and no refusal repeats anything that is stored."""
    stored = {"rule", "shop", "blueprint"}
    for who in ("anonymous", "member", "staff"):
        for address in (f"/pages/{TRACE}/", "/pages/rules/{rule}/", f"/admin/django_tracing/trace/{TRACE}/otlp.json"):
            here = world.ask(who, Row(address, "", ""), "get")
            there = world.ask(who, Row(address.replace(TRACE, "f" * 32).replace("{rule}", "99"), "", ""), "get")
            assert here.status_code == there.status_code in (302, 403)
            assert here.content == there.content
            text = here.content.decode().lower()
            assert not any(word in text for word in stored), address
