"""Test loading settings from TRACING and the environment, and the messages for wrong ones."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from django.test import override_settings

from django_tracing.conf import loading
from django_tracing.conf.loading import get_settings, load
from django_tracing.conf.table import SPECS
from django_tracing.conf.values import Settings


def from_env(**environ: str) -> Settings:
    return load(None, environ)


def the_problem(settings: Settings) -> str:
    assert len(settings.problems) == 1, settings.problems
    assert not settings.enabled, "a wrong setting must disable tracing"
    return str(settings.problems[0])


class TestPrecedence:
    def test_nothing_set_gives_the_local_store(self) -> None:
        settings = from_env()
        assert settings.enabled
        assert (settings.exporter, settings.endpoint, settings.query_url) == ("local", None, None)
        assert settings.local_store.parts[-2:] == (".tracing", "traces.sqlite3")
        assert settings.service_name == "tests"  # the project's package
        assert settings.export_interval == 0.5
        assert settings.problems == ()

    def test_tracing_takes_precedence_over_otel_and_otel_over_the_short_names(self) -> None:
        short = {"SERVICE_NAME": "short", "JAEGER_ENDPOINT": "http://short:4318"}
        otel = {"OTEL_SERVICE_NAME": "otel", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://otel:4318"}
        configured = {"SERVICE_NAME": "tracing", "ENDPOINT": "http://tracing:4318"}
        for environ, tracing, name in (
            (short, None, "short"),
            ({**short, **otel}, None, "otel"),
            ({**short, **otel}, configured, "tracing"),
        ):
            settings = load(tracing, environ)
            assert settings.service_name == name
            assert settings.endpoint == f"http://{name}:4318/v1/traces"
        assert load(configured, otel).source("SERVICE_NAME") == 'TRACING["SERVICE_NAME"]'
        assert load(None, otel).source("SERVICE_NAME") == "environment variable OTEL_SERVICE_NAME"

    def test_resource_attributes_take_precedence_over_the_short_service_name(self) -> None:
        attributes = "service.name=res,service.version=7,deployment.environment=prod,team=a%20b"
        settings = from_env(OTEL_RESOURCE_ATTRIBUTES=attributes, SERVICE_NAME="short", ENVIRONMENT="dev")
        assert (settings.service_name, settings.service_version, settings.environment) == ("res", "7", "prod")
        assert settings.resource_attributes == {"team": "a b"}
        assert from_env(OTEL_RESOURCE_ATTRIBUTES=attributes, OTEL_SERVICE_NAME="mine").service_name == "mine"
        assert load({"SERVICE_NAME": "t"}, {"OTEL_RESOURCE_ATTRIBUTES": attributes}).service_name == "t"

    def test_empty_variables_are_unset(self) -> None:
        assert from_env(OTEL_SERVICE_NAME="", SERVICE_NAME="short", JAEGER_ENDPOINT=" ").service_name == "short"

    @pytest.mark.parametrize(("value", "enabled"), [("true", False), ("TRUE", False), ("false", True), ("1", True)])
    def test_otel_sdk_disabled(self, value: str, enabled: bool) -> None:
        assert from_env(OTEL_SDK_DISABLED=value).enabled is enabled
        assert load({"ENABLED": True}, {"OTEL_SDK_DISABLED": value}).enabled is True

    def test_the_other_otel_names(self) -> None:
        settings = from_env(
            OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer%20x,team=a",
            OTEL_PROPAGATORS="b3,jaeger",
            OTEL_TRACES_SAMPLER_ARG="0.25",
            OTEL_SEMCONV_STABILITY_OPT_IN="http/dup,gen_ai_latest_experimental",
        )
        assert settings.headers == {"authorization": "Bearer x", "team": "a"}
        assert settings.propagators == ("b3", "jaeger")
        assert settings.sample_rate == 0.25
        assert settings.semconv_stability_opt_in == {"http/dup"}
        assert from_env(OTEL_PROPAGATORS="none").propagators == ()

    @pytest.mark.parametrize("value", ["gzip", "GZIP", " gzip ", "none"])
    def test_compression(self, value: str) -> None:
        wanted = value.strip().lower()
        assert from_env(OTEL_EXPORTER_OTLP_COMPRESSION=value).compression == wanted
        assert load({"COMPRESSION": value}, {}).compression == wanted

    def test_compression_of_traces_takes_precedence_over_that_of_all_signals_and_tracing_over_both(self) -> None:
        general = {"OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"}
        traces = {**general, "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": "none"}
        for tracing, environ, value, source in (
            (None, {}, "none", "default"),
            (None, general, "gzip", "environment variable OTEL_EXPORTER_OTLP_COMPRESSION"),
            (None, traces, "none", "environment variable OTEL_EXPORTER_OTLP_TRACES_COMPRESSION"),
            ({"COMPRESSION": "gzip"}, traces, "gzip", 'TRACING["COMPRESSION"]'),
        ):
            settings = load(tracing, environ)
            assert (settings.compression, settings.source("COMPRESSION")) == (value, source)

    def test_the_argument_of_another_sampler_is_not_a_rate(self) -> None:
        settings = from_env(OTEL_TRACES_SAMPLER="always_on", OTEL_TRACES_SAMPLER_ARG="endpoint=http://x")
        assert settings.sample_rate == 1.0
        assert settings.problems == settings.warnings == ()

    def test_a_change_while_another_thread_reads_the_settings_is_followed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reading, changed = threading.Event(), threading.Event()

        def slow_load(configured: Any, environ: Any) -> Settings:
            settings = load(configured, environ)
            reading.set()
            assert changed.wait(20)
            return settings

        get_settings.cache_clear()
        monkeypatch.setattr(loading, "load", slow_load)
        # As in a live server's thread.
        thread = threading.Thread(target=get_settings)
        thread.start()
        assert reading.wait(20)
        with override_settings(TRACING={"SERVICE_NAME": "other"}):
            changed.set()
            thread.join()
            assert get_settings().service_name == "other"

    def test_setting_changed_reloads_the_settings(self) -> None:
        with override_settings(TRACING={"SERVICE_NAME": "other"}):
            assert get_settings().service_name == "other"
        assert get_settings().service_name == "tests"


class TestEndpointDecidesTheProtocol:
    @pytest.mark.parametrize(
        ("endpoint", "exporter", "sent_to", "query"),
        [
            ("http://j:14268/api/traces", "jaeger", "http://j:14268/api/traces", "http://j:16686"),
            ("https://j/api/traces/", "jaeger", "https://j/api/traces/", "http://j:16686"),
            ("udp://j:6831", "jaeger", "udp://j:6831", "http://j:16686"),
            ("http://j:4317", "otlp-grpc", "http://j:4317", "http://j:16686"),
            ("http://j:4318", "otlp", "http://j:4318/v1/traces", "http://j:16686"),
            ("http://j:4318/", "otlp", "http://j:4318/v1/traces", "http://j:16686"),
            ("https://j/otlp/v1/traces", "otlp", "https://j/otlp/v1/traces", "http://j:16686"),
            ("http://[::1]:4318", "otlp", "http://[::1]:4318/v1/traces", "http://[::1]:16686"),
        ],
    )
    def test_jaeger_endpoint(self, endpoint: str, exporter: str, sent_to: str, query: str) -> None:
        settings = from_env(JAEGER_ENDPOINT=endpoint)
        assert (settings.exporter, settings.endpoint, settings.query_url) == (exporter, sent_to, query)

    @pytest.mark.parametrize(
        ("exporter", "sent_to"),
        [
            ("otlp", "http://localhost:4318/v1/traces"),
            ("otlp-grpc", "http://localhost:4317"),
            ("jaeger", "http://localhost:14268/api/traces"),
            ("local", None),
            ("console", None),
            ("none", None),
            ("my.package.Exporter", None),
        ],
    )
    def test_exporter_overrides(self, exporter: str, sent_to: str | None) -> None:
        settings = load({"EXPORTER": exporter}, {})
        assert (settings.exporter, settings.endpoint) == (exporter, sent_to)

    def test_exporter_takes_precedence_over_the_endpoint(self) -> None:
        settings = load({"EXPORTER": "otlp"}, {"JAEGER_ENDPOINT": "http://j:4317"})
        assert (settings.exporter, settings.endpoint) == ("otlp", "http://j:4317/v1/traces")
        assert load({"EXPORTER": "jaeger", "ENDPOINT": "http://j:14268"}, {}).endpoint == "http://j:14268/api/traces"

    def test_the_otlp_variables_are_a_base_and_an_exact_address(self) -> None:
        assert from_env(OTEL_EXPORTER_OTLP_ENDPOINT="http://c/otlp").endpoint == "http://c/otlp/v1/traces"
        assert from_env(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="http://c/exact").endpoint == "http://c/exact"
        grpc = from_env(OTEL_EXPORTER_OTLP_ENDPOINT="c:9999", OTEL_EXPORTER_OTLP_PROTOCOL="grpc")
        assert (grpc.exporter, grpc.endpoint) == ("otlp-grpc", "http://c:9999")

    def test_the_protocol_variable_does_not_affect_other_backends(self) -> None:
        assert from_env(OTEL_EXPORTER_OTLP_PROTOCOL="grpc").exporter == "local"
        jaeger = from_env(OTEL_EXPORTER_OTLP_PROTOCOL="grpc", JAEGER_ENDPOINT="http://j:14268/api/traces")
        assert jaeger.exporter == "jaeger"


WRONG = [
    ({"SAMPLING_RATE": 1}, "SAMPLING_RATE", 'Did you mean "SAMPLE_RATE"?'),
    ({"JAEGER_ENDPOINT": "http://x"}, "JAEGER_ENDPOINT", 'Did you mean "ENDPOINT"?'),
    ({"NAME": "shop"}, "NAME", 'Did you mean "SERVICE_NAME"?'),
    ({"RATE": 0.1}, "RATE", 'Did you mean "SAMPLE_RATE"?'),
    ({"WHATEVER_ELSE_123": 1}, "WHATEVER_ELSE_123", "Remove it"),
    # Every pair of words has some letters in common.
    ({"SECRET": 1}, "SECRET", "Remove it"),
    ({"SAMPLE_RATE": 1.5}, "SAMPLE_RATE", "Set it to a number from 0 to 1"),
    ({"SAMPLE_RATE": -0.1}, "SAMPLE_RATE", "Set it to a number from 0 to 1"),
    ({"SAMPLE_RATE": float("nan")}, "SAMPLE_RATE", "Set it to a number from 0 to 1"),
    ({"SAMPLE_RATE": "0.5"}, "SAMPLE_RATE", "Set it to a number from 0 to 1"),
    ({"SAMPLE_RATE": True}, "SAMPLE_RATE", "Set it to a number from 0 to 1"),
    ({"BATCH_SIZE": 1.5}, "BATCH_SIZE", "a whole number of at least 1 spans"),
    ({"SPOOL": "/var/spool"}, "SPOOL", 'Write it as {"PATH": '),
    ({"SPOOL": {"MAX_BYTES": 5_000_000}}, "SPOOL", "has no PATH"),
    ({"SPOOL": {"PATH": "/a", "SIZE": 1}}, "SPOOL", "has the unknown key"),
    ({"SPOOL": {"PATH": 7}}, "SPOOL", "has a wrong PATH: it must be the path of a file"),
    (
        {"SPOOL": {"PATH": "/a", "MAX_BYTES": 1000}},
        "SPOOL",
        "has a wrong MAX_BYTES: it is 1000, which is out of range.",
    ),
    ({"SPOOL": {"PATH": "/a", "MAX_BYTES": 1000}}, "SPOOL", "of at least 4194304 bytes"),
    ({"SPOOL": {"PATH": "/a", "MAX_BYTES": "1"}}, "SPOOL", "must be a whole number"),
    ({"RETRY_FOR": -1}, "RETRY_FOR", "Set it to a number from 0 to 86400 seconds."),
    ({"QUEUE_BYTES": 10}, "QUEUE_BYTES", "of at least 65536 bytes"),
    ({"EXPORT_INTERVAL": "soon"}, "EXPORT_INTERVAL", "seconds"),
    ({"ENABLED": "yes"}, "ENABLED", "Set it to True or False."),
    ({"ENDPOINT": "localhost:4318"}, "ENDPOINT", 'Write it with its scheme: "http://localhost:4318".'),
    ({"ENDPOINTS": "http://a:4318"}, "ENDPOINTS", 'Write it as ["http://collector-a:4318"'),
    ({"ENDPOINTS": []}, "ENDPOINTS", "must be a list of 1 to 16 URLs"),
    ({"ENDPOINTS": ["http://a", "http://a"]}, "ENDPOINTS", "Remove one of them."),
    ({"ENDPOINTS": ["udp://a:6831"]}, "ENDPOINTS", "Use http:// or https://."),
    ({"ENDPOINTS": ["http://a", "http://b"], "EXPORTER": "jaeger"}, "ENDPOINTS", 'Set EXPORTER to "otlp".'),
    ({"ENDPOINTS": ["http://a"], "ENDPOINT": "http://b"}, "ENDPOINTS", "Remove one of them."),
    ({"ENDPOINT_ORDER": "random"}, "ENDPOINT_ORDER", 'Choose one of "in_order", "round_robin".'),
    ({"ENDPOINT": "ftp://h/x"}, "ENDPOINT", "Use http:// or https:// or udp://."),
    ({"ENDPOINT": "http://h:99999"}, "ENDPOINT", 'Write it as "http://localhost:4318".'),
    ({"ENDPOINT": "http://"}, "ENDPOINT", 'Write it as "http://localhost:4318".'),
    ({"ENDPOINT": "udp://h"}, "ENDPOINT", 'Write "udp://h:6831".'),
    ({"ENDPOINT": "udp://h:6831", "EXPORTER": "otlp"}, "ENDPOINT", 'Set EXPORTER to "jaeger"'),
    ({"ENDPOINT": 4318}, "ENDPOINT", 'Write it as "http://localhost:4318".'),
    ({"EXPORTER": "otpl"}, "EXPORTER", 'did you mean "otlp"?'),
    ({"LAYERS": "some"}, "LAYERS", 'Choose one of "all", "slow", "off".'),
    ({"USER_EMAIL": "hidden"}, "USER_EMAIL", 'Choose one of "masked", "full", "off".'),
    ({"IGNORE_PATHS": "/health"}, "IGNORE_PATHS", 'Write it as ["/health", "/metrics"].'),
    ({"IGNORE_PATHS": ["health"]}, "IGNORE_PATHS", 'Write "/health".'),
    ({"PROPAGATORS": ["b4"]}, "PROPAGATORS", 'did you mean "b3"?'),
    ({"TRUSTED_PROXIES": ["10.0.0.300"]}, "TRUSTED_PROXIES", "10.0.0.0/8"),
    ({"HEADERS": {"a": "b\r\nc: d"}}, "HEADERS", "Remove the line break."),
    ({"HEADERS": "a=b"}, "HEADERS", "Write it as"),
    ({"COMPRESSION": "deflate"}, "COMPRESSION", 'Choose one of "none", "gzip".'),
    ({"COMPRESSION": True}, "COMPRESSION", 'Choose one of "none", "gzip".'),
    ({"COMPRESION": "gzip"}, "COMPRESION", 'Did you mean "COMPRESSION"?'),
    ({"PEER_SERVICES": {"http://h": "x"}}, "PEER_SERVICES", "without a scheme"),
    ({"SUBSCRIPTION": 7}, "SUBSCRIPTION", "subscription.tier"),
    ({"SERVICE_NAME": ""}, "SERVICE_NAME", "leave the setting out"),
    ({"SEMCONV_STABILITY_OPT_IN": ["htpp"]}, "SEMCONV_STABILITY_OPT_IN", 'did you mean "http'),
    ({"LOCAL_STORE": 5}, "LOCAL_STORE", "traces.sqlite3"),
    ({"CACHE_KEY_PREFIXES": ["report:", "tariff:*"]}, "CACHE_KEY_PREFIXES", 'without a star: "tariff:".'),
    ({"CACHE_KEY_PREFIXES": ["*"]}, "CACHE_KEY_PREFIXES", 'without a star: "tariff:".'),
]


class TestErrors:
    @pytest.mark.parametrize(
        ("tracing", "name", "fix"), WRONG, ids=[f"{name}-{i}" for i, (_, name, _) in enumerate(WRONG)]
    )
    def test_names_the_setting_the_source_and_the_fix(self, tracing: dict[str, object], name: str, fix: str) -> None:
        problem = the_problem(load(tracing, {}))
        assert f'TRACING["{name}"]' in problem
        assert fix in problem

    def test_tracing_that_is_not_a_dict(self) -> None:
        assert "settings.TRACING must be a dict, not list." in the_problem(load(["x"], {}))

    @pytest.mark.parametrize(
        ("variable", "value", "fix"),
        [
            ("JAEGER_ENDPOINT", "jaeger:4318", 'Write it with its scheme: "http://jaeger:4318".'),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://c", "Use http:// or https://."),
            ("OTEL_EXPORTER_OTLP_HEADERS", "team", "key1=value1"),
        ],
    )
    def test_a_variable_is_named(self, variable: str, value: str, fix: str) -> None:
        problem = the_problem(from_env(**{variable: value}))
        assert f"environment variable {variable}" in problem
        assert fix in problem

    @pytest.mark.parametrize(
        ("variable", "value", "fix"),
        [
            ("OTEL_TRACES_SAMPLER_ARG", "2", "Set it to a number from 0 to 1"),
            ("OTEL_TRACES_SAMPLER_ARG", "all", "Set it to a number from 0 to 1"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "deflate", 'Choose one of "none", "gzip".'),
            ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "zstd", 'Choose one of "none", "gzip".'),
            ("OTEL_RESOURCE_ATTRIBUTES", "team", "key1=value1"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", 'Set it to "http/protobuf" or "grpc".'),
        ],
    )
    def test_another_variable_of_opentelemetry_counts_as_unset(self, variable: str, value: str, fix: str) -> None:
        endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}
        settings = load(None, {**endpoint, variable: value})
        (warning,) = settings.warnings
        assert f"environment variable {variable}" in str(warning)
        assert fix in str(warning)
        assert settings._replace(warnings=()) == load(None, endpoint)

    def test_a_problem_is_a_sentence(self) -> None:
        assert the_problem(from_env(JAEGER_ENDPOINT="jaeger:4318")).startswith(
            "environment variable JAEGER_ENDPOINT is 'jaeger:4318', which is not a URL"
        )

    def test_the_source_of_enabled_is_the_wrong_setting(self) -> None:
        settings = load({"ENABLED": True}, {"JAEGER_ENDPOINT": "jaeger:4318"})
        assert not settings.enabled
        assert settings.source("ENABLED") == "environment variable JAEGER_ENDPOINT, which is wrong"

    def test_every_problem_is_reported_at_once(self) -> None:
        settings = load({"SAMPLE_RATE": 3, "LAYERS": 1, "X_Y_Z": 1, "PROPAGATORS": ["q"]}, {})
        assert sorted(problem.setting for problem in settings.problems) == [
            "LAYERS",
            "PROPAGATORS",
            "SAMPLE_RATE",
            "X_Y_Z",
        ]

    @pytest.mark.parametrize("endpoint", ["http://me:hunter2@h:99999", "ftp://me:hunter2@h", "me:hunter2@h:4318"])
    def test_no_message_contains_credentials(self, endpoint: str) -> None:
        assert "hunter2" not in the_problem(load({"ENDPOINT": endpoint}, {}))
        assert "hunter2" not in the_problem(from_env(OTEL_EXPORTER_OTLP_HEADERS="hunter2", JAEGER_ENDPOINT=""))


def test_values_are_typed() -> None:
    settings = load(
        {
            "TRUSTED_PROXIES": ["10.0.0.0/8", "::1"],
            "LOCAL_STORE": "/tmp/t.sqlite3",
            "PEER_SERVICES": {"Users.Internal:8080": "user-service"},
            "LAYERS": "ALL",
        },
        {},
    )
    assert settings.trusted_proxies == (ip_network("10.0.0.0/8"), ip_network("::1"))
    assert settings.local_store == Path("/tmp/t.sqlite3")
    assert settings.peer_services == {"users.internal:8080": "user-service"}
    assert settings.layers == "all"


def test_the_documentation_has_exactly_the_settings() -> None:
    page = (Path(__file__).parents[2] / "docs" / "settings.md").read_text()
    documented = set(re.findall(r"^\| `(?!OTEL_)([A-Z_]+)` \|", page, re.MULTILINE))
    assert documented == {spec.name for spec in SPECS}


# ----- Unusual values


@pytest.mark.parametrize("base", [None, 5, object(), b"/srv/shop", "/srv/shop", Path("/srv/shop")])
def test_base_dir_of_any_type(settings: Any, base: Any) -> None:
    settings.BASE_DIR = base
    loaded = load({}, {})
    assert loaded.enabled
    known = isinstance(base, (str, bytes, Path))
    assert loaded.local_store == (Path("/srv/shop") if known else Path.cwd()) / ".tracing" / "traces.sqlite3"


def test_commands_and_requests_work_in_a_deleted_folder(tmp_path: Path) -> None:
    """``check`` and ``migrate`` used to end with a FileNotFoundError."""
    gone = tmp_path / "release-1"
    gone.mkdir()
    program = """
import os, sys
from django.conf import settings
os.rmdir(os.getcwd())
settings.configure(
    SECRET_KEY="tests-only",
    INSTALLED_APPS=["django.contrib.contenttypes", "django_tracing"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": sys.argv[1]}},
    ROOT_URLCONF="tests.urls",
    ALLOWED_HOSTS=["testserver"],
    TRACING={"CODE_LOCATIONS": True, "EXPORT_INTERVAL": 60},
    USE_TZ=True,
)
import django
django.setup()
from django.core.cache import cache
from django.core.management import call_command
from django.test import RequestFactory
from django.core.handlers.wsgi import WSGIHandler
from django_tracing import create_span
call_command("check")
call_command("migrate", verbosity=0)
with create_span("shop") as span:
    cache.get("k")
    assert span.is_recording
print(WSGIHandler().get_response(RequestFactory().get("/")).status_code)
"""
    # A file, because "python -c" fails in a deleted working folder on Python 3.13.
    (tmp_path / "run.py").write_text(program)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "run.py"), str(tmp_path / "shop.sqlite3")],
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "", "PYTHONPATH": str(Path(__file__).parents[2])},
        cwd=gone,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "could not be traced" not in done.stderr
    assert "Spans can't be sent" in done.stderr or "could not be sent" in done.stderr


class Unreadable(dict[str, Any]):
    def __contains__(self, key: object) -> bool:
        raise RuntimeError("not now")


@pytest.mark.parametrize(
    ("tracing", "environ", "in_environment"),
    [(Unreadable(x=1), {}, False), ({}, Unreadable(), True), (Unreadable(x=1), Unreadable(), False)],
)
def test_a_value_that_raises_when_it_is_read_is_a_problem(tracing: Any, environ: Any, in_environment: bool) -> None:
    loaded = load(tracing, environ)
    assert not loaded.enabled
    [problem] = loaded.problems
    assert problem.in_environment is in_environment
    assert "RuntimeError" in str(problem)
