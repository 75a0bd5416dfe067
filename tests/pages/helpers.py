"""Helpers for the tests of the pages: users, addresses, stored traces, and the content of a page."""

from __future__ import annotations

import re
import time
from html.parser import HTMLParser
from typing import Any

from django.contrib.auth.models import Permission, User
from django.test import Client

from django_tracing.traces.readers.sqlite.store import LocalStore
from tests.traces.builders import row

TRACES = "/admin/django_tracing/trace/"
#: Without the admin, see ``urls.py``: the pages, and the pages below another namespace.
PLAIN, NESTED = "/tracing/", "/plugins/traces/"
BLUEPRINT = "0" * 31 + "1"
SCRIPT = '<script>alert("x")</script>\'&'
ADDRESSES = [
    *(
        "",
        "routes/",
        "map/",
        "map/calls/?caller=a&callee=b&kind=service",
        f"{BLUEPRINT}/",
        f"{BLUEPRINT}/sql/",
        f"{BLUEPRINT}/spans/{2:016x}/",
    ),
    *(f"{BLUEPRINT}/otlp.json", f"{BLUEPRINT}/jaeger.json", f"{BLUEPRINT}/compare/?with={BLUEPRINT}"),
]
RULES = "/admin/django_tracing/samplingrule/"
STATUS = "/admin/django_tracing/processstatus/"


def staff(*permissions: str) -> Client:
    user = User.objects.create(username="staff", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


def content(client: Client, address: str = "", status: int = 200, **query: str) -> str:
    """Return the part of a page that this app renders."""
    answer = client.get(f"{TRACES}{address}", query)
    assert answer.status_code == status, answer.content.decode()[:2000]
    text = answer.content.decode()
    ours = text.split('<div id="content-main"')[-1].split("<footer")[0]
    # A strict Content Security Policy blocks inline code and styles.
    assert not re.search(r"\sstyle=|\son\w+=|<script|<style", ours.split("<pre")[0])
    # The templates have one element a line.
    return re.sub(r"\n+(?=[<>])|(?<=>)\n+", "", ours)


class Words(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_data(self, data: str) -> None:
        self.found.append(data)


def words(text: str) -> str:
    parser = Words()
    parser.feed(text)
    return " ".join(" ".join(parser.found).split())


def listed(text: str) -> list[str]:
    """Return the ids of the listed traces, in order."""
    return re.findall(rf'<th scope="row">\s*<a href="{TRACES}([0-9a-f]+)/"', text)


def fill(store: LocalStore, count: int = 60) -> None:
    now = time.time_ns()
    store.write(
        [
            row(
                100 + number,
                1,
                base=now - number * 10**9,
                took=number,
                kind="server",
                name="GET /items" if number % 2 else "POST /orders",
                status="error" if number == 7 else "unset",
                attributes={
                    "user.id": str(number % 3),
                    "http.status_code": 500 if number == 7 else 200,
                    "correlation.id": f"c-{number}",
                    "operation.type": "circuit_breaker" if number == 9 else "http",
                    "db.name": "my db" if number == 11 else "x",
                },
            )
            for number in range(count)
        ]
    )


def repeated(count: int, **attributes: Any) -> list[dict[str, Any]]:
    attributes = {
        "operation.type": "database",
        "db.system": "postgresql",
        "db.operation": "select",
        "db.statement": "SELECT blueprints.id, blueprints.name, blueprints.owner_id FROM blueprints WHERE id = %s",
        **attributes,
    }
    return [
        row(5, 1, 0, "GET /list", kind="server", took=100),
        row(5, 2, 1, "db.select.owners", kind="client", start=1, attributes={"db.system": "postgresql"}),
        *(
            row(5, 10 + number, 1, "db.select.blueprints", kind="client", start=2 + number * 3, attributes=attributes)
            for number in range(count)
        ),
        row(5, 3, 1, "cache.get.x", start=90, attributes={"operation.type": "cache"}),
    ]


def page(client: Client, url: str) -> str:
    answer = client.get(url)
    assert answer.status_code == 200
    text = answer.content.decode()
    # This app has no inline code or styles, which a strict policy blocks. (The admin has some inline scripts.)
    ours = text.split('<div id="content-main"')[-1].split("<footer")[0]
    assert " style=" not in ours
    assert " onclick=" not in ours
    return text
