"""Test that no request turns the addresses that this app asks, and that what it asks with is shown nowhere."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.contrib.auth.models import User
from django.core import checks
from django.core.management import CommandError, call_command
from django.test import Client

from django_tracing.conf.loading import get_settings
from tests.traces.readers.jaeger.helpers import Server, v3

pytestmark = pytest.mark.django_db

SECRET = "kD3vXsecret9"
TRACE = "ab" * 16
#: What a query or an address of Jaeger consists of. Names of services and the like are in the query, encoded.
_ASKED = re.compile(
    rf"/jaeger/api/(?:v3/)?(?:services|operations|trace-summaries|dependencies|traces(?:/(?:{TRACE}|[0-9a-f]{{32}}))?)"
)
PARAMETERS = (
    "service",
    "operation",
    "attributes",
    "trace",
    "with",
    "caller",
    "callee",
    "kind",
    "before",
    "user",
    "start",
)


@pytest.fixture
def elsewhere() -> Iterator[Server]:
    with Server(lambda path: (200, {"services": ["x"], "data": ["x"]})) as server:
        yield server


@pytest.fixture
def root(settings: Any) -> Client:
    settings.ROOT_URLCONF = "tests.test_access"
    settings.ALLOWED_HOSTS = ["*"]
    client = Client(raise_request_exception=False)
    client.force_login(User.objects.create(username="root", is_staff=True, is_superuser=True))
    return client


def use(settings: Any, server: Server) -> None:
    host = urlsplit(server.url).netloc
    settings.TRACING = {
        "ENDPOINT": f"http://user:{SECRET}@127.0.0.1:1/{SECRET}/v1/traces?key={SECRET}",
        "HEADERS": {"authorization": f"Bearer {SECRET}"},
        "SAMPLING_TOKEN": SECRET,
        "QUERY_URL": f"http://user:{SECRET}@{host}/jaeger",
        "SERVICE_NAME": "shop",
    }


def pages(root: Client, value: str, headers: dict[str, str]) -> Iterator[Any]:
    sent = dict.fromkeys(PARAMETERS, value)
    for address in (
        "",
        "routes/",
        "map/",
        "map/calls/",
        f"{TRACE}/",
        f"{TRACE}/compare/",
        "rules/preview/",
        "status/",
    ):
        yield root.get(f"/pages/{address}", sent, headers=headers)
    for kind in ("otlp", "jaeger"):
        yield root.get(f"/pages/{TRACE}/{kind}.json", sent, headers=headers)


def hostile(server: Server) -> list[str]:
    host = urlsplit(server.url).netloc
    host = urlsplit(server.url).netloc
    return [
        server.url,
        f"@{host}/..;/{TRACE}/../../x",
        f"../../../{host}?a=b&c#\\",
        f"x\r\nHost: {host}\r\n\r\nGET /\x00",
    ]


def test_no_request_chooses_what_is_asked(root: Client, settings: Any, elsewhere: Server) -> None:
    with Server(v3) as server:
        use(settings, server)
        for value in hostile(elsewhere):
            host = urlsplit(elsewhere.url).netloc
            headers = {"host": host, "x-forwarded-host": host, "referer": elsewhere.url}
            for answer in pages(root, value, headers):
                assert answer.status_code in (200, 302, 404)
                if answer.status_code == 302:
                    assert re.fullmatch(r"/pages/[0-9a-f]{6,32}/", answer["Location"])
                elif not answer.streaming:
                    assert SECRET not in answer.content.decode()
        assert elsewhere.asked == []
        assert server.asked
        strange = [path for path in server.asked if not _ASKED.fullmatch(urlsplit(path).path)]
        assert strange == []
        assert all(headers["Host"] == urlsplit(server.url).netloc for headers in server.received_headers)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_answer_of_a_jaeger_is_followed_elsewhere(
    root: Client, settings: Any, elsewhere: Server, status: int
) -> None:
    with Server(lambda path: (status, ""), {"Location": f"{elsewhere.url}/api/services"}) as server:
        use(settings, server)
        for answer in pages(root, "shop", {}):
            assert SECRET not in answer.content.decode()
        assert server.asked
    assert elsewhere.asked == []


def test_what_this_app_asks_with_is_shown_nowhere(
    root: Client, settings: Any, elsewhere: Server, caplog: pytest.LogCaptureFixture, tmp_path: Any
) -> None:
    caplog.set_level(logging.DEBUG, "django_tracing")
    with Server(v3) as server:
        use(settings, server)
        settings.TRACING = {**settings.TRACING, "SPOOL": {"PATH": str(tmp_path / "spool")}}
        shown = [repr(get_settings()), str(get_settings()), repr(get_settings()._replace(sample_rate=0.5))]
        shown += [answer.content.decode() for answer in pages(root, "shop", {}) if not answer.streaming]
        shown += [root.post("/pages/status/").content.decode(), root.get("/tracing/health").content.decode()]
        shown += [str(message) for message in checks.run_checks(include_deployment_checks=True)]
        for command in (
            *(("check_tracing", "--timeout", "2"), ("tracing_status",), ("tracing_status", "--json")),
            *(("traces_spool",), ("traces",), ("traces", TRACE), ("trace_dependencies",)),
        ):
            out, err = io.StringIO(), io.StringIO()
            try:
                call_command(*command, stdout=out, stderr=err)
            except (CommandError, SystemExit) as error:
                shown.append(str(error))
            shown += [out.getvalue(), err.getvalue()]
    shown += [record.getMessage() for record in caplog.records]
    assert [text for text in shown if SECRET in text] == []
    assert len(shown) > 20
