"""Test that secret parts of addresses and resources are not in logs, on pages or in the output of commands."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.resources import Resource

from django_tracing import provider
from django_tracing.api import spans as manual
from django_tracing.conf.loading import get_settings, load
from django_tracing.exceptions import JaegerError
from django_tracing.export.errors import from_status
from django_tracing.models import ProcessStatus
from django_tracing.net import link_base, shown_address
from django_tracing.redaction import REDACTED, SensitiveKeys, redact_resource
from django_tracing.sampling.remote import JaegerRemoteSampler, from_environment
from django_tracing.traces.readers.jaeger.reader import JaegerReader
from django_tracing.traces.readers.sqlite.store import LocalStore
from example_project.servers import free_port
from tests.traces.builders import blueprint_trace
from tests.traces.readers.jaeger.helpers import Server

SECRET = "kD3vX9qLm2ZtR8wYb5Nc"
#: An address with a secret in each part except the host.
PLANTED = [
    "http://{secret}:x@{host}/v1/traces",
    "http://user:{secret}@{host}/v1/traces",
    "http://user:pa/{secret}@{host}",
    "http://{host}/ingest/{secret}/v1/traces",
    "http://{host}/{secret}",
    "http://{host}/v1/traces?api_key={secret}",
    "http://{host}/v1/traces?{secret}",
    "http://{host}/?a=1&b={secret}#x",
    "http://{host}/v1/traces#{secret}",
]
#: The valid addresses among them.
VALID = [planted for planted in PLANTED if "pa/" not in planted]

words = st.text(
    st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="@/?#\\:%"), min_size=1, max_size=9
)


@given(
    scheme=st.sampled_from(["http", "https", "udp", "grpc"]),
    host=st.sampled_from(["collector", "c.example.com", "10.0.0.7", "[::1]"]),
    port=st.sampled_from(["", ":4318"]),
    before=st.lists(st.sampled_from(["v1", "api", "otlp"]), max_size=3),
    user=words,
    where=st.sampled_from(["user", "password", "segment", "key", "value", "fragment"]),
)
def test_a_secret_in_any_part_is_not_shown_and_the_host_is(
    scheme: str, host: str, port: str, before: list[str], user: str, where: str
) -> None:
    userinfo = {"user": f"{SECRET}@", "password": f"{user}:{SECRET}@"}.get(where, "")
    path = "".join(f"/{each}" for each in [*before, *([SECRET] if where == "segment" else []), "traces"])
    query = {"key": f"?{SECRET}=1", "value": f"?key={SECRET}"}.get(where, "")
    fragment = f"#{SECRET}" if where == "fragment" else ""
    shown = shown_address(f"{scheme}://{userinfo}{host}{port}{path}{query}{fragment}")
    assert SECRET not in shown
    assert shown.startswith(f"{scheme}://{host}{port}/{''.join(f'{each}/' for each in before)}")
    assert shown.removesuffix("?…").endswith("/traces")


@given(st.text() | st.text("htp:/@?#[]\\%. a1…", max_size=40))
def test_any_text_is_shown_on_one_line_or_not_at_all(text: str) -> None:
    shown = shown_address(text)
    assert shown.isprintable()
    assert len(shown) < 1000
    assert "@" not in shown


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://localhost:4318", "http://localhost:4318"),
        ("jaeger:4318", "jaeger:4318"),
        ("udp://jaeger:6831", "udp://jaeger:6831"),
        ("https://example.com/jaeger/api/traces", "https://example.com/jaeger/api/traces"),
        ("https://us:pw@c.example.com/ingest/4711/v1/traces?key=1", "https://c.example.com/ingest/…/v1/traces?…"),
        ("http://us:p/w@host", "http://…"),
        ("http://us:pw", "http://us:…"),
    ],
)
def test_what_an_operator_needs_is_shown(address: str, shown: str) -> None:
    assert shown_address(address) == shown


def test_links_contain_no_credentials_and_no_secrets() -> None:
    assert (
        link_base("https://us:pw@example.com/monitoring/shop-jaeger/?x=1")
        == "https://example.com/monitoring/shop-jaeger"
    )
    assert link_base("http://[::1]:16686") == "http://[::1]:16686"
    assert link_base(f"https://example.com/{SECRET}/jaeger") is None


# ----- Places of an address


@pytest.fixture
def admin(settings: Any, client: Client, db: None) -> Callable[..., str]:
    """Return a function that gets pages of the admin as a superuser."""
    settings.ROOT_URLCONF = "tests.pages.urls"
    client.force_login(User.objects.create(username="root", is_staff=True, is_superuser=True))

    def get(page: str) -> str:
        answer = client.get(f"/admin/django_tracing/{page}")
        assert answer.status_code == 200
        return answer.content.decode()

    return get


@pytest.fixture
def all_logs(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], str]]:
    caplog.set_level(logging.DEBUG)
    yield lambda: "\n".join(f"{record.getMessage()} {record.args} {record.exc_text}" for record in caplog.records)


def planted(pattern: str, host: str = "127.0.0.1:1") -> str:
    return pattern.format(secret=SECRET, host=host)


@pytest.mark.parametrize("pattern", VALID)
def test_the_sampling_server_in_the_log(pattern: str, all_logs: Callable[[], str]) -> None:
    with Server(lambda path: (200, {"strategyType": SECRET * 100})) as server:
        host = server.url.removeprefix("http://")
        for address in (
            planted(pattern),
            planted(pattern, host),
            planted(pattern, "a..b"),
            planted(pattern + "%0a x"),
        ):
            sampler = JaegerRemoteSampler("shop", address)
            assert not sampler.ask()
            assert SECRET not in sampler.get_description()
    logged = all_logs()
    assert logged.count("No sampling strategy from http://") == 4
    assert "127.0.0.1:1" in logged
    # The server's response is not a secret of this site; its length is bounded.
    assert SECRET not in logged.replace(SECRET * 2, "").replace(f"'{SECRET}", "")
    assert all(len(line) < 3000 for line in logged.splitlines())


@pytest.mark.parametrize("pattern", PLANTED)
def test_a_sampling_address_that_is_refused(pattern: str) -> None:
    address = planted(pattern).replace("http://", "ftp://")
    with pytest.raises(ValueError) as caught:
        JaegerRemoteSampler("shop", address)
    assert SECRET not in str(caught.value)
    with pytest.raises(ValueError) as caught:
        from_environment(f"endpoint=http://localhost,{address.replace('=', '')}")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("name", ["ENDPOINT", "QUERY_URL", "REMOTE_SAMPLING_URL"])
@pytest.mark.parametrize("pattern", PLANTED)
def test_a_setting_that_is_refused(name: str, pattern: str) -> None:
    for address in (
        planted(pattern).replace("http://", "ftp://"),
        planted(pattern).replace("http://", ""),
        planted(pattern, "ho st"),
        planted(pattern, "host:0"),
        planted(pattern, "host:99999"),
        planted(pattern, ""),
    ):
        settings = load({name: address}, {})
        for problem in settings.problems:
            assert SECRET not in f"{problem} {problem!r}"


@pytest.mark.parametrize("pattern", VALID)
def test_the_name_of_a_backend_that_fails(pattern: str, all_logs: Callable[[], str]) -> None:
    for status in (401, 404, 405, 415, 400, 429, 500, 302, 418):
        assert SECRET not in str(from_status(status, planted(pattern)))
    with Server(lambda path: (500, {"errors": [{"msg": "no storage"}]})) as server:
        for host in ("127.0.0.1:1", "a..b", server.url.removeprefix("http://")):
            reader = JaegerReader(planted(pattern, host), timeout=1)
            assert SECRET not in f"{reader.describe()} {reader!r} {reader.trace_link('a' * 32)}"
            with pytest.raises(JaegerError) as caught:
                reader.services()
            assert SECRET not in str(caught.value)
    assert SECRET not in all_logs()


@pytest.mark.parametrize("pattern", VALID)
def test_pages_and_commands(
    pattern: str, settings: Any, all_logs: Callable[[], str], admin: Callable[..., str]
) -> None:
    port = free_port()
    address = planted(pattern, f"127.0.0.1:{port}")
    settings.TRACING = {
        "ENDPOINT": address,
        "QUERY_URL": address,
        "REMOTE_SAMPLING_URL": address,
        "EXPORTER": "otlp",
        "RESOURCE_ATTRIBUTES": {"api.key": SECRET, "team": "shop"},
    }
    assert get_settings().problems == ()
    shown = [json.dumps(provider._report())]
    assert f"127.0.0.1:{port}" in shown[0]
    # A process of this version, and one of an older version, which stored more.
    now = timezone.now()
    for number, report in enumerate((provider._report(), {"exporter": "otlp", "endpoint": address})):
        ProcessStatus.objects.create(
            process=str(number), service="shop", host="here", pid=7, started=now, updated=now, report=report
        )
    for page in ("trace/", "trace/map/", "trace/routes/", f"trace/{'a' * 32}/", "processstatus/", "samplingrule/"):
        shown.append(admin(page))
    assert f"127.0.0.1:{port}" in shown[1]
    assert shown[5].count(f"otlp http://127.0.0.1:{port}") == 2
    for command in (
        ["traces"],
        ["traces", "a" * 32],
        ["trace_dependencies"],
        ["check_tracing"],
        ["check_tracing", "--json"],
    ):
        out = io.StringIO()
        try:
            call_command(*command, stdout=out, stderr=out)
        except (CommandError, SystemExit) as error:
            out.write(str(error))
        shown.append(out.getvalue())
    shown.append(str(manual.trace_url("a" * 32)))
    assert not [text for text in shown if SECRET in text]
    assert SECRET not in all_logs()


# ----- Resources

RESOURCE = {
    "api.key": SECRET,
    "lightstep.access_token": SECRET,
    "my.secret": SECRET,
    "note": f"password={SECRET}",
    "collector.address": f"https://us:{SECRET}@c.example.com/x",
    "team": "checkout",
    "k8s.pod.name": "api-6d4cf56db6-x7k2p",
    "container.id": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "service.instance.id": "550e8400-e29b-41d4-a716-446655440000",
}
HARMLESS = ("team", "k8s.pod.name", "container.id", "service.instance.id")


def test_secrets_of_the_resource_are_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither those of the setting nor those that the SDK reads from the environment."""
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", f"db.password={SECRET},region=eu")
    resource = provider.make_resource(load({"RESOURCE_ATTRIBUTES": RESOURCE, "SERVICE_NAME": "shop"}, {}))
    assert SECRET not in resource.to_json()
    assert resource.attributes["api.key"] == resource.attributes["db.password"] == REDACTED
    assert resource.attributes["region"] == "eu"
    assert resource.attributes["service.name"] == "shop"
    assert {key: resource.attributes[key] for key in HARMLESS} == {key: RESOURCE[key] for key in HARMLESS}
    assert isinstance(resource, Resource)


def test_configured_sensitive_names_apply_to_resources() -> None:
    settings = load({"RESOURCE_ATTRIBUTES": {"honeycomb.team": SECRET}, "SENSITIVE_KEYS": ["honeycomb"]}, {})
    assert provider.make_resource(settings).attributes["honeycomb.team"] == REDACTED
    assert redact_resource({"list": [f"token={SECRET}", 7]}, SensitiveKeys()) == {"list": ["token=[redacted]", 7]}
    # A detector may set a map.
    assert redact_resource({"map": {"password": SECRET}, "n": 1}, SensitiveKeys()) == {"map": REDACTED, "n": 1}


def test_secrets_in_a_stored_resource_are_on_no_page(
    settings: Any, tmp_path: Path, admin: Callable[..., str]
) -> None:
    """The resource was stored by an older version or by another service."""
    path = tmp_path / "traces.sqlite3"
    settings.TRACING = {"EXPORTER": "local", "LOCAL_STORE": str(path)}
    store = LocalStore(path)
    store.write([{**span, "resource": {**span["resource"], **RESOURCE}} for span in blueprint_trace()])
    store.close()
    trace = f"trace/{1:032x}/"
    for page in (f"{trace}spans/{1:016x}/", f"{trace}spans/{1:016x}/?part=1", trace):
        assert SECRET not in admin(page)
    assert "api-6d4cf56db6-x7k2p" in admin(f"{trace}spans/{1:016x}/")
