"""Test the documentation and the effect of OpenTelemetry's variables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core import checks as django_checks
from django.test import override_settings

from django_tracing import checks
from django_tracing.conf.loading import DISABLING, load
from django_tracing.conf.table import DEFAULT_INSTRUMENTATIONS, OUR_INSTRUMENTATIONS
from django_tracing.conf.variables import BY_A_PACKAGE, HONORED, NOT_HONORED, not_honored
from tests.conf.forks import APP, Forks, plant_package
from tests.receivers import OTLPReceiver, ReceivedSpan

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"

#: Name -> (value, field of the settings, its value).
FIELDS: dict[str, tuple[str, str, Any]] = {
    "OTEL_SDK_DISABLED": ("true", "enabled", False),
    "OTEL_SERVICE_NAME": ("shop", "service_name", "shop"),
    "OTEL_RESOURCE_ATTRIBUTES": ("team=a%2Cb,caf%C3%A9=1", "resource_attributes", {"team": "a,b", "café": "1"}),
    "OTEL_PROPAGATORS": ("b3,baggage,b3", "propagators", ("b3", "baggage")),
    "OTEL_TRACES_SAMPLER": ("always_off", "sample_rate", 0.0),
    "OTEL_TRACES_SAMPLER_ARG": ("0.25", "sample_rate", 0.25),
    "OTEL_TRACES_EXPORTER": ("otlp", "endpoint", "http://localhost:4318/v1/traces"),
    "OTEL_BSP_SCHEDULE_DELAY": ("250", "export_interval", 0.25),
    "OTEL_BSP_EXPORT_TIMEOUT": ("2500", "export_timeout", 2.5),
    "OTEL_BSP_MAX_QUEUE_SIZE": ("4096", "queue_size", 4096),
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": ("64", "batch_size", 64),
    "OTEL_SEMCONV_STABILITY_OPT_IN": ("http,other", "semconv_stability_opt_in", {"http"}),
    "OTEL_PYTHON_ID_GENERATOR": ("xray", "id_generator", "xray"),
    "OTEL_PYTHON_EXCLUDED_URLS": ("a,b", "excluded_urls", ("a", "b")),
    "OTEL_PYTHON_DJANGO_EXCLUDED_URLS": ("c", "excluded_urls", ("c",)),
}
for _option, _case in {
    "ENDPOINT": ("http://c:4318/v1/traces", "endpoint", "http://c:4318/v1/traces"),
    "HEADERS": ("authorization=Bearer%20x", "headers", {"authorization": "Bearer x"}),
    "TIMEOUT": ("2500", "export_timeout", 2.5),
    "COMPRESSION": ("gzip", "compression", "gzip"),
    "CERTIFICATE": ("/etc/ca.pem", "tls_ca_file", Path("/etc/ca.pem")),
    "CLIENT_KEY": ("/etc/key.pem", "tls_client_key", Path("/etc/key.pem")),
    "CLIENT_CERTIFICATE": ("/etc/client.pem", "tls_client_certificate", Path("/etc/client.pem")),
}.items():
    FIELDS |= {f"OTEL_EXPORTER_OTLP_{_option}": _case, f"OTEL_EXPORTER_OTLP_TRACES_{_option}": _case}

#: Variables with a test of their own below, or in test_environment.py or test_loading.py.
SHOWN_ELSEWHERE = {
    "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS",
    "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS",
    "OTEL_PYTHON_CONTEXT",
    "OTEL_PYTHON_TRACER_PROVIDER",
    "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED",
    *(name for name in HONORED if name.endswith(("_LIMIT", "_PROTOCOL", "_INSECURE"))),
}


def run_checks(**environ: str) -> list[django_checks.CheckMessage]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environ.items():
            patch.setenv(name, value)
        with override_settings(TRACING={"EXPORTER": "none"}):
            found = django_checks.run_checks()
    return [message for message in found if str(message.id).startswith("django_tracing.")]


def test_the_documentation_lists_every_variable() -> None:
    documented = dict(re.findall(r"^\| `(OTEL_\w+)` \| ([a-z ]+) \| \S", PAGE.read_text(), re.MULTILINE))
    assert documented == {
        **dict.fromkeys(HONORED, "yes"),
        **dict.fromkeys(BY_A_PACKAGE, "by a package"),
        **dict.fromkeys(NOT_HONORED, "no"),
    }


def test_the_sdk_has_no_other_variable() -> None:
    import opentelemetry.environment_variables
    import opentelemetry.sdk.environment_variables

    for module in (opentelemetry.environment_variables, opentelemetry.sdk.environment_variables):
        # The variables for Jaeger are added by its old exporter, if a test imported it before.
        names = {value for name, value in vars(module).items() if re.fullmatch("_?OTEL_(?!.*JAEGER)[A-Z_]+", name)}
        assert names <= HONORED | BY_A_PACKAGE | NOT_HONORED.keys(), names


def test_every_honored_variable_has_a_test() -> None:
    assert FIELDS.keys() | SHOWN_ELSEWHERE == HONORED


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_an_honored_variable_sets_its_field(name: str) -> None:
    value, field, expected = FIELDS[name]
    settings = load({}, {name: value})
    assert getattr(settings, field) == expected
    assert settings.warnings == settings.problems == ()
    assert getattr(load({}, {name: " "}), field) == getattr(load({}, {}), field), "an empty variable counts as unset"


@pytest.mark.parametrize("name", sorted(set(FIELDS) - {"OTEL_SDK_DISABLED", "OTEL_PYTHON_ID_GENERATOR"}))
def test_tracing_takes_precedence(name: str) -> None:
    tracing = {
        "ENDPOINT": "http://mine:4318/v1/traces",
        "HEADERS": {},
        "EXPORT_TIMEOUT": 7.0,
        "COMPRESSION": "none",
        "TLS_CA_FILE": None,
        "TLS_CLIENT_KEY": None,
        "TLS_CLIENT_CERTIFICATE": None,
        "SERVICE_NAME": "mine",
        "RESOURCE_ATTRIBUTES": {},
        "PROPAGATORS": ["baggage"],
        "SAMPLE_RATE": 0.5,
        "BATCH_SIZE": 7,
        "QUEUE_SIZE": 70,
        "EXPORT_INTERVAL": 7.0,
        "SEMCONV_STABILITY_OPT_IN": [],
    }
    value, field, _ = FIELDS[name]
    if field == "excluded_urls":
        return  # it adds to IGNORE_PATHS
    settings = load(tracing, {name: value})
    assert getattr(settings, field) == getattr(load(tracing, {}), field)


@pytest.mark.parametrize("name", sorted(NOT_HONORED))
def test_a_variable_without_an_effect_is_a_warning_that_names_it(name: str) -> None:
    (message,) = run_checks(**{name: "1"})
    assert (message.id, message.level) == (checks.VARIABLE_NOT_HONORED, django_checks.WARNING)
    assert f"environment variable {name} is set" in message.msg
    assert run_checks(**{name: " "}) == []


@pytest.mark.parametrize("name", ["OTEL_METRICS_EXPORTER", "OTEL_LOGS_EXPORTER"])
def test_disabling_metrics_and_logs_is_no_warning(name: str) -> None:
    assert not_honored({name: "None"}) == []


@pytest.mark.parametrize("name", sorted(HONORED - {"OTEL_SERVICE_NAME", "OTEL_PROPAGATORS"}))
@pytest.mark.parametrize("value", ["wrong value;%,b3x", "-1", "\N{SNOWMAN}"], ids=["wrong", "negative", "snowman"])
def test_a_wrong_value_is_reported_or_used_unchanged(name: str, value: str) -> None:
    settings = load({}, {name: value})
    for problem in (*settings.problems, *settings.warnings):
        assert name in problem.source
    assert not settings.problems or name in DISABLING
    if name.startswith("OTEL_BSP_") or name.endswith(("TIMEOUT", "COMPRESSION", "SAMPLER", "TRACES_EXPORTER")):
        assert {problem.variable for problem in settings.warnings} == {name}
        assert settings._replace(warnings=()) == load({}, {})


# ----- Spans at a receiver

REQUEST = (
    APP
    + """
from django.test import Client
from opentelemetry import trace
from django_tracing import create_span
Client().get("/empty/", headers=HEADERS)
with create_span("work"):
    link = trace.Link(trace.get_current_span().get_span_context(), {"a": 1, "b": 2, "c": 3})
    for number in range(3):
        trace.get_current_span().add_event("event", {"first": "one", "second": "two", "third": "three"})
        trace.get_current_span().add_link(link.context, {"a": 1, "b": 2})
        trace.get_current_span().set_attribute(f"number.{number}", "a long word")
    links = getattr(trace.get_current_span(), "links", ())
print(len(links), [len(link.attributes) for link in links])
getattr(trace.get_tracer_provider(), "force_flush", int)()
"""
)
UNSAMPLED = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"}
SAMPLED = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
#: Ids that a ratio of one half keeps and drops.
HIGH = {"traceparent": "00-4bf92f3577b34da6a3fffffffffffff0-00f067aa0ba902b7-00"}
LOW = {"traceparent": "00-4bf92f3577b34da6a300000000000001-00f067aa0ba902b7-01"}

PLANTED = """
from opentelemetry.propagators.textmap import TextMapPropagator, default_setter
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
class Exporter(SpanExporter):
    def export(self, spans):
        print("planted", [span.name for span in spans], flush=True)
        return SpanExportResult.SUCCESS
class Ids(RandomIdGenerator):
    def generate_trace_id(self):
        return 0xabc
class OnlyWork(Sampler):
    def __init__(self, argument):
        self.argument = argument
    def should_sample(self, parent_context, trace_id, name, kind=None, attributes=None, links=None, trace_state=None):
        if self.argument == "raise":
            raise ValueError("secret")
        return SamplingResult(Decision.RECORD_AND_SAMPLE if name == self.argument else Decision.DROP)
    def get_description(self):
        return "planted"
class Propagator(TextMapPropagator):
    def extract(self, carrier, context=None, getter=None):
        return context
    def inject(self, carrier, context=None, setter=default_setter):
        setter.set(carrier, "x-planted", "1")
    fields = {"x-planted"}
"""


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks() as forks:
        yield forks


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plant_package(
        tmp_path_factory.mktemp("planted"),
        PLANTED,
        opentelemetry_traces_exporter="planted = planted:Exporter",
        opentelemetry_id_generator="planted = planted:Ids",
        opentelemetry_traces_sampler="planted = planted:OnlyWork\nbroken = planted:Missing",
        opentelemetry_propagator="planted = planted:Propagator",
    )


class Sent:
    """The spans and the output of a project."""

    def __init__(self, receiver: OTLPReceiver, out: str, err: str) -> None:
        self.receiver = receiver
        self.names = sorted(span.name for span in receiver.spans)
        self.out = out
        self.err = err

    def one(self, name: str) -> ReceivedSpan:
        (span,) = [span for span in self.receiver.spans if span.name == name]
        return span


class Run:
    def __init__(self, forks: Forks, planted: Path) -> None:
        self._forks = forks
        self._planted = planted

    def __call__(
        self, headers: dict[str, str] | None = None, tracing: dict[str, Any] | None = None, **variables: str
    ) -> Sent:
        code = REQUEST.replace("HEADERS", repr(headers or {})).replace(
            "TRACING=TRACING", f"TRACING={ {'LAYERS': 'off', **(tracing or {})} }"
        )
        with OTLPReceiver() as receiver:
            done = self._forks.run(
                code, {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, **variables}, (self._planted,)
            )
            assert done.code == 0, done.err
            return Sent(receiver, done.out, done.err)


@pytest.fixture
def run(forks: Forks, planted: Path) -> Run:
    return Run(forks, planted)


def test_without_a_variable_everything_is_sent(run: Run) -> None:
    assert run().names == ["GET /empty/", "work"]


@pytest.mark.parametrize(
    ("sampler", "argument", "headers", "kept"),
    [
        ("always_on", "", UNSAMPLED, True),
        ("always_off", "", SAMPLED, False),
        ("traceidratio", "0.5", HIGH, True),
        ("traceidratio", "0.5", LOW, False),
        ("traceidratio", "", UNSAMPLED, True),
        ("parentbased_always_on", "", UNSAMPLED, False),
        ("parentbased_always_on", "", {}, True),
        ("parentbased_always_off", "", SAMPLED, True),
        ("parentbased_always_off", "", {}, False),
        ("parentbased_traceidratio", "0.5", LOW, True),
        ("PARENTBASED_TRACEIDRATIO", "0", {}, False),
        # A sampler of another package, which takes a span's name as its argument.
        ("planted", "work", SAMPLED, False),
    ],
)
def test_samplers(run: Run, sampler: str, argument: str, headers: dict[str, str], kept: bool) -> None:
    sent = run(headers, OTEL_TRACES_SAMPLER=sampler, OTEL_TRACES_SAMPLER_ARG=argument)
    assert ("GET /empty/" in sent.names) is kept
    if sampler == "planted":
        assert sent.names == ["work"]
    assert "OTEL_TRACES_SAMPLER" not in sent.err


@pytest.mark.parametrize(("sampler", "argument"), [("planted", "raise"), ("broken", ""), ("nowhere", "")])
def test_a_sampler_that_fails_is_logged(run: Run, sampler: str, argument: str) -> None:
    sent = run(OTEL_TRACES_SAMPLER=sampler, OTEL_TRACES_SAMPLER_ARG=argument)
    assert sent.names == ["GET /empty/", "work"]
    assert len(re.findall("^.*OTEL_TRACES_SAMPLER.*$", sent.err, re.MULTILINE)) == 1


def test_tracing_replaces_a_sampler(run: Run) -> None:
    assert run(tracing={"SAMPLE_RATE": 1.0}, OTEL_TRACES_SAMPLER="always_off").names == ["GET /empty/", "work"]


def test_exporters(run: Run) -> None:
    assert run(OTEL_TRACES_EXPORTER="otlp").names == ["GET /empty/", "work"]
    assert run(OTEL_TRACES_EXPORTER="none").names == []
    console = run(OTEL_TRACES_EXPORTER="console")
    assert console.names == []
    assert '"name": "GET /empty/"' in console.out
    planted = run(OTEL_TRACES_EXPORTER="planted")
    assert planted.names == []
    assert "planted ['GET /empty/', 'work']" in planted.out
    both = run(OTEL_TRACES_EXPORTER="planted, otlp ,nowhere")
    assert both.names == ["GET /empty/", "work"]
    assert "planted ['GET /empty/', 'work']" in both.out
    assert "names 'nowhere', which no installed package provides" in both.err


def test_the_resource(run: Run) -> None:
    resource = (
        run(
            OTEL_SERVICE_NAME="shop",
            OTEL_RESOURCE_ATTRIBUTES="team=a%2Cb,deployment.environment=prod",
            OTEL_EXPERIMENTAL_RESOURCE_DETECTORS="nowhere,os",
        )
        .one("work")
        .resource
    )
    assert (resource["service.name"], resource["team"], resource["deployment.environment"]) == ("shop", "a,b", "prod")
    assert resource["os.type"] == "linux"


def test_wrong_resource_attributes_are_discarded(run: Run) -> None:
    sent = run(OTEL_RESOURCE_ATTRIBUTES="team=checkout,tempo")
    assert "team" not in sent.one("work").resource
    assert len(sent.err.splitlines()) == 1


def test_requests_of_the_exporter(run: Run) -> None:
    receiver = run(
        OTEL_EXPORTER_OTLP_HEADERS="x-key=a%20b",
        OTEL_EXPORTER_OTLP_TRACES_COMPRESSION="gzip",
        OTEL_BSP_MAX_EXPORT_BATCH_SIZE="1",
    ).receiver
    assert len(receiver.bodies) == 2
    headers = {name.lower(): value for name, value in receiver.headers[0].items()}
    assert (headers["x-key"], headers["content-encoding"]) == ("a b", "gzip")


@pytest.mark.parametrize("signal", ["", "TRACES_"])
def test_tls_files(forks: Forks, tmp_path: Path, signal: str) -> None:
    # Import trustme here: no other test of this module needs it.
    from tests.export.test_tls import make_files

    files = make_files(tmp_path)
    code = REQUEST.replace("HEADERS", "{}").replace("TRACING=TRACING", "TRACING={'LAYERS': 'off'}")
    with OTLPReceiver() as receiver:
        receiver.use_tls(files.server, clients=files.ca)
        options = {
            "ENDPOINT": receiver.endpoint.replace("http:", "https:"),
            "CERTIFICATE": str(files.ca),
            "CLIENT_KEY": str(files.key),
            "CLIENT_CERTIFICATE": str(files.certificate),
        }
        done = forks.run(code, {f"OTEL_EXPORTER_OTLP_{signal}{name}": value for name, value in options.items()})
        assert done.code == 0, done.err
        assert receiver.paths == ["/v1/traces"]
        assert sorted(span.name for span in receiver.spans) == ["GET /empty/", "work"]


def test_a_wrong_tls_file_of_the_environment_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/ca.pem")
    with override_settings(TRACING={"ENDPOINT": "https://c:4318", "EXPORTER": "otlp"}):
        (message,) = django_checks.run_checks()
    assert (message.id, message.level) == (checks.EXPORTER_NOT_INSTALLED, django_checks.WARNING)
    assert "/nowhere/ca.pem" in str(message.hint)


def test_limits(run: Run) -> None:
    sent = run(OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT="6")
    assert sent.one("work").attributes["number.0"] == "a long"
    assert all(len(text) <= 6 for text in sent.one("GET /empty/").attributes.values() if isinstance(text, str))
    sent = run(OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT="6", OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT="3")
    assert sent.one("work").attributes["number.0"] == "a l"
    for name in ("OTEL_ATTRIBUTE_COUNT_LIMIT", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT"):
        sent = run(**{name: "2"})
        assert {len(span.attributes) for span in sent.receiver.spans} == {2}
    sent = run(
        OTEL_SPAN_EVENT_COUNT_LIMIT="2",
        OTEL_SPAN_LINK_COUNT_LIMIT="1",
        OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT="1",
        OTEL_LINK_ATTRIBUTE_COUNT_LIMIT="1",
    )
    assert [len(attributes) for _, attributes in sent.one("work").events] == [1, 1]
    assert sent.out == "1 [1]\n"


def test_names_ids_and_disabling(run: Run) -> None:
    sent = run(OTEL_SEMCONV_STABILITY_OPT_IN="http", OTEL_PYTHON_ID_GENERATOR="planted")
    assert sent.one("GET /empty/").attributes["http.request.method"] == "GET"
    assert {span.trace_id for span in sent.receiver.spans} == {f"{0xABC:032x}"}
    assert run(OTEL_SDK_DISABLED="True").names == []
    assert run(OTEL_SDK_DISABLED="yes").names == ["GET /empty/", "work"]


@pytest.mark.parametrize("tracing", [{}, {"PROPAGATORS": ["tracecontext", "planted"]}])
def test_a_propagator_of_a_package(forks: Forks, planted: Path, tracing: dict[str, Any]) -> None:
    code = APP.replace("TRACING=TRACING", f"TRACING={ {**tracing, 'EXPORTER': 'none'} }") + (
        "from opentelemetry.propagate import inject\n"
        "from django_tracing import create_span\n"
        "headers = {}\n"
        "with create_span('work'):\n"
        "    inject(headers)\n"
        "print(sorted(headers))\n"
    )
    variables = {} if tracing else {"OTEL_PROPAGATORS": "tracecontext,planted,planted"}
    done = forks.run(code, variables, (planted,))
    assert done.out == "['X-Correlation-ID', 'traceparent', 'x-planted']\n", done
    assert done.err == ""


def test_disabled_instrumentations() -> None:
    variable = "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"
    settings = load({}, {variable: "redis , requests,django,request"})
    assert {"redis", "requests"}.isdisjoint(settings.instrumentations)
    assert {"request", "httpx", "celery"} <= set(settings.instrumentations)
    assert settings.source("INSTRUMENTATIONS") == f"environment variable {variable}"
    ours = tuple(name for name in OUR_INSTRUMENTATIONS if name in DEFAULT_INSTRUMENTATIONS)
    assert load({}, {variable: "*"}).instrumentations == ours
    listed = {"INSTRUMENTATIONS": ["request", "redis"]}
    assert load(listed, {variable: "redis"}).instrumentations == ("request", "redis")


# ----- Rules of the specification


@pytest.mark.parametrize(
    ("environ", "exporter", "endpoint"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "c:4317"}, "otlp-grpc", "http://c:4317"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "c:4317", "OTEL_EXPORTER_OTLP_INSECURE": "true"},
            "otlp-grpc",
            "http://c:4317",
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "c:4317", "OTEL_EXPORTER_OTLP_INSECURE": "FALSE"},
            "otlp-grpc",
            "https://c:4317",
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", "OTEL_EXPORTER_OTLP_TRACES_INSECURE": "false"},
            "otlp-grpc",
            "http://c:4317",
        ),
        (
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"},
            "local",
            None,
        ),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:9",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
            },
            "otlp",
            "http://c:9/v1/traces",
        ),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "otlp-grpc",
            "http://localhost:4317",
        ),
        ({"OTEL_TRACES_EXPORTER": "otlp_proto_grpc"}, "otlp-grpc", "http://localhost:4317"),
        # The distribution of opentelemetry-instrument sets both.
        (
            {
                "OTEL_TRACES_EXPORTER": "otlp",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
                "JAEGER_ENDPOINT": "http://j:14268/api/traces",
            },
            "jaeger",
            "http://j:14268/api/traces",
        ),
    ],
)
def test_exporter_and_endpoint(environ: dict[str, str], exporter: str, endpoint: str | None) -> None:
    settings = load({}, environ)
    assert (settings.exporter, settings.endpoint) == (exporter, endpoint)
    assert settings.warnings == settings.problems == ()


def test_timeouts_are_milliseconds_and_the_shorter_one_applies() -> None:
    settings = load({}, {"OTEL_EXPORTER_OTLP_TIMEOUT": "10"})
    (warning,) = settings.warnings
    assert "write 10000 for ten seconds" in str(warning)
    assert settings.export_timeout == 10.0
    assert load({}, {"OTEL_EXPORTER_OTLP_TIMEOUT": "0"}).export_timeout == 600.0
    both = {"OTEL_EXPORTER_OTLP_TIMEOUT": "5000", "OTEL_BSP_EXPORT_TIMEOUT": "2000"}
    assert load({}, both).export_timeout == 2.0
    assert load({}, {**both, "OTEL_BSP_EXPORT_TIMEOUT": "9000"}).export_timeout == 5.0
    # A wrong variable for traces counts as unset, so the general one applies.
    wrong = {"OTEL_EXPORTER_OTLP_TIMEOUT": "5000", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "soon"}
    assert load({}, wrong).export_timeout == 5.0


def test_a_batch_is_no_larger_than_the_queue() -> None:
    settings = load({}, {"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "200", "OTEL_BSP_MAX_QUEUE_SIZE": "100"})
    assert (settings.batch_size, settings.queue_size) == (100, 100)
    assert [problem.variable for problem in settings.warnings] == ["OTEL_BSP_MAX_EXPORT_BATCH_SIZE"]


def test_jaeger_remote() -> None:
    argument = "endpoint=http://jaeger:5778/sampling,pollingIntervalMs=5000,initialSamplingRate=0.25"
    environ = {"OTEL_TRACES_SAMPLER": "jaeger_remote", "OTEL_TRACES_SAMPLER_ARG": argument}
    settings = load({}, environ)
    assert settings.remote_sampling_url == "http://jaeger:5778/sampling"
    assert (settings.remote_sampling_interval, settings.sample_rate) == (5.0, 0.25)
    # By itself, it does not look at the parent.
    assert settings.sample_by_trace_id
    assert not load({}, {**environ, "OTEL_TRACES_SAMPLER": "parentbased_jaeger_remote"}).sample_by_trace_id
    settings = load({}, {"OTEL_TRACES_SAMPLER": "jaeger_remote"})
    assert (settings.remote_sampling_url, settings.sample_rate) == ("http://localhost:5778/sampling", 0.001)
    for wrong in ("endpoint=http://j:14250", "endpoint=ftp://me:hunter2@j", "initialSamplingRate=2", "x"):
        settings = load({}, {**environ, "OTEL_TRACES_SAMPLER_ARG": wrong})
        (warning,) = settings.warnings
        assert warning.variable == "OTEL_TRACES_SAMPLER_ARG"
        assert "hunter2" not in str(warning)
        assert settings.enabled


def test_a_sampler_of_a_package_is_a_warning(planted: Path, forks: Forks) -> None:
    code = (
        APP.replace("TRACING=TRACING", "TRACING={'EXPORTER': 'none'}")
        + "from django.core.checks import run_checks\nprint([m.id for m in run_checks()])\n"
    )
    done = forks.run(code, {"OTEL_TRACES_SAMPLER": "planted"}, (planted,))
    assert done.out == "['django_tracing.W009']\n", done
    done = forks.run(code, {"OTEL_TRACES_SAMPLER": "broken"}, (planted,))
    assert done.out == "['django_tracing.W003']\n", done
