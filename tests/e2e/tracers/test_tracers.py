"""Run a site beside another tracer: the same answers, and the traces of both sides, each operation once on each side."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.callees import Callee
from tests.e2e.processes import Process
from tests.e2e.tracers.receiver import OtherReceiver, TheirSpan, read_audit_log
from tests.receivers import OTLPReceiver, ReceivedSpan

GUNICORN: Final = ["gunicorn", "tests.e2e.wsgi", "--bind", "127.0.0.1:{port}", "--log-level", "warning"]
PAGES: Final = ("/flow/7/", "/boom/", "/stream/")


class Tracer(NamedTuple):
    """Another tracer: its package, its launcher, and the variables that configure it."""

    package: str
    launcher: tuple[str, ...] = ()
    variables: dict[str, str] = {}


TRACERS: Final = {
    "ddtrace": Tracer(
        "ddtrace",
        ("ddtrace-run",),
        {
            "DD_TRACE_AGENT_URL": "{receiver}",
            "DD_SERVICE": "theirs",
            "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
            "DD_REMOTE_CONFIGURATION_ENABLED": "false",
            "DD_CRASHTRACKING_ENABLED": "false",
        },
    ),
    "sentry": Tracer("sentry_sdk"),
    "sentry_otel": Tracer("sentry_sdk"),
    "sentry_otlp": Tracer("sentry_sdk"),
    "elastic": Tracer("elasticapm"),
    "newrelic": Tracer(
        "newrelic", ("newrelic-admin", "run-program"), {"NEW_RELIC_CONFIG_FILE": "{folder}/newrelic.ini"}
    ),
    "logfire": Tracer("logfire"),
}
#: In its developer mode, the agent writes what it would send into a file.
NEW_RELIC: Final = """
[newrelic]
license_key = 0000000000000000000000000000000000000000
app_name = theirs
developer_mode = true
audit_log_file = {folder}/audit.log
log_file = stderr
startup_timeout = 10
shutdown_timeout = 10
browser_monitoring.auto_instrument = false
"""
#: The headers that this app adds.
OUR_HEADERS: Final = {"x-correlation-id"}
#: What the other tracer's spans of this app are called: of its middleware, and of the statements of its own thread,
#: which looks for the table of sampling rules. Some are of the thread's connection.
OF_THIS_APP: Final = (
    "django_tracing",
    "c.relname",
    "pg_catalog",
    "connect",
    "Postgres/select",
    "SELECT FROM",
    "set_config",
)


class Run(NamedTuple):
    """What a site did: its answers, our spans, the other tracer's, its log, and its exit status."""

    answers: list[tuple[int, bytes, list[str]]]
    ours: list[ReceivedSpan]
    theirs: list[TheirSpan]
    log: str
    status: int


Sites = Callable[..., Run]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    """Run a site, once with the same arguments."""
    with Callee() as callee:
        yield cache(lambda *arguments: run(tmp_path_factory.mktemp("site"), callee, *arguments))


def run(folder: Path, callee: Callee, name: str, start: str, traced: bool) -> Run:
    """Run a site with the tracer ``name``, started by its app (``first``, ``last``) or by its launcher."""
    tracer = TRACERS.get(name, Tracer(""))
    with OTLPReceiver() as receiver, OtherReceiver() as other:
        (folder / "newrelic.ini").write_text(NEW_RELIC.format(folder=folder))
        variables = {key: value.format(receiver=other.url, folder=folder) for key, value in tracer.variables.items()}
        arguments = GUNICORN
        if start == "launcher":
            arguments = [*tracer.launcher, str(Path(sys.executable).parent / GUNICORN[0]), *GUNICORN[1:]]
        tracing = {"EXPORT_INTERVAL": 0.1, "ENDPOINT": receiver.endpoint, "PEER_SERVICES": {callee.host: "users"}}
        with Process(
            arguments,
            DJANGO_SETTINGS_MODULE="tests.e2e.tracers.settings",
            TRACED="yes" if traced else "no",
            OTHER_TRACER=name,
            OTHER_APP="" if start == "launcher" else start,
            OTHER_RECEIVER=other.url,
            CALLEE=callee.url,
            TRACING_SETTINGS=json.dumps({**tracing, "IGNORE_PATHS": ["/health/"]}),
            **variables,
        ) as server:
            answers: list[tuple[int, bytes, list[str]]] = []
            for page in PAGES:
                status, body, headers = server.get(page)
                answers.append((status, body, sorted(set(headers) - OUR_HEADERS)))
            # Fails if the server does not stop in time.
            ended = server.stop()
            log = server.log()
        theirs = read_audit_log(folder / "audit.log") if name == "newrelic" else list(other.spans)
        return Run(answers, list(receiver.spans), theirs, log, ended)


def names(spans: Iterable[ReceivedSpan | TheirSpan]) -> Counter[str]:
    # The port of the called service is another one in each run of the tests, and is the same within one.
    return Counter(span.name for span in spans)


def starts(name: str) -> list[str]:
    return ["first", "last", *(["launcher"] if TRACERS[name].launcher else [])]


CASES: Final = [
    pytest.param(
        name, start, marks=pytest.mark.skipif(find_spec(tracer.package) is None, reason="it is not installed")
    )
    for name, tracer in TRACERS.items()
    for start in starts(name)
]


@pytest.mark.parametrize(("name", "start"), CASES)
def test_both_tracers_see_everything_once_and_answers_are_those_of_the_other_alone(
    name: str, start: str, site: Sites
) -> None:
    alone = site(name, start, False)
    both = site(name, start, True)
    assert both.answers == alone.answers
    assert both.status == alone.status == 0
    for line in ("Traceback", "could not be", "Exception ignored"):
        if name == "elastic" and line != "could not be":
            # Its buffers are closed by the garbage collector in any order, which Python reports now and then.
            continue
        assert both.log.count(line) <= alone.log.count(line), both.log
    for span_ids in ([span.span_id for span in both.ours], [span.id for span in both.theirs]):
        assert [span_id for span_id, count in Counter(span_ids).items() if count > 1] == []
    lost = names(alone.theirs) - names(both.theirs)
    added = names(both.theirs) - names(alone.theirs)
    ours = names(site("", "", True).ours)
    if name == "logfire":
        return
    assert lost == Counter()
    assert names(both.ours) == ours
    if name.startswith("sentry_ot"):
        # It gets this app's spans, too, with names or descriptions of its own.
        return
    assert [span for span in added if not any(word in span for word in OF_THIS_APP)] == []


@pytest.mark.skipif(find_spec("logfire") is None, reason="it is not installed")
def test_logfire_started_first_shares_its_provider(site: Sites) -> None:
    """Its span of a request is the request's span on both sides."""
    both = site("logfire", "first", True)
    servers = Counter(span.name for span in both.ours if span.kind == "server")
    assert servers == Counter({f"GET {path}": 1 for path in ("flow/<int:number>/", "boom/", "stream/", "health/")})
    [flow] = [span for span in both.ours if span.name == "GET flow/<int:number>/"]
    assert flow.attributes["correlation.id"]
    ours = {span.span_id for span in both.ours}
    assert ours == {span.id for span in both.theirs}
    in_flow = Counter(span.name for span in both.ours if span.trace_id == flow.trace_id)
    assert in_flow == names(
        span for span in site("", "", True).ours if "chunk" not in span.name and span.kind != "server"
    ) + Counter([flow.name])


@pytest.mark.skipif(find_spec("logfire") is None, reason="it is not installed")
def test_logfire_started_last_has_a_provider_of_its_own(site: Sites) -> None:
    """Each side has a span of each request; the libraries that both instrument are this app's."""
    both = site("logfire", "last", True)
    assert names(both.ours) == names(site("", "", True).ours)
    assert names(both.theirs) == Counter(
        {f"GET {path}": 1 for path in ("flow/<int:number>/", "boom/", "stream/", "health/")}
    )
