"""Test the remote sampler with servers that behave and misbehave, and with real Jaegers."""

from __future__ import annotations

import json
import logging
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceState, set_span_in_context

from django_tracing.sampling.remote import JaegerRemoteSampler, Strategy, from_environment, parse_strategy
from django_tracing.sampling.rules import Rule, compile_rules
from django_tracing.sampling.sampler import RuleSampler
from django_tracing.sampling.strategies import serve
from example_project.servers import free_port
from tests.jaegers import Jaeger, Version, wait_until

HALF = {"strategyType": "PROBABILISTIC", "probabilisticSampling": {"samplingRate": 0.5}}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (HALF, Strategy(rate=0.5)),
        ({"probabilisticSampling": {"samplingRate": 1}}, Strategy(rate=1.0)),
        (
            {"strategyType": 0, "probabilisticSampling": {"samplingRate": 0.5}, "rateLimitingSampling": None},
            Strategy(rate=0.5),
        ),
        ({"strategyType": "PROBABILISTIC", "probabilisticSampling": {}}, Strategy(rate=0.0)),
        (
            {"strategyType": "RATE_LIMITING", "rateLimitingSampling": {"maxTracesPerSecond": 5}},
            Strategy(per_second=5.0),
        ),
        ({"strategyType": 1, "rateLimitingSampling": {"maxTracesPerSecond": 5}}, Strategy(per_second=5.0)),
        (
            {
                **HALF,
                "operationSampling": {
                    "defaultSamplingProbability": 0.25,
                    "defaultLowerBoundTracesPerSecond": 0.1,
                    "perOperationStrategies": [
                        {"operation": "GET orders/", "probabilisticSampling": {"samplingRate": 1}},
                        {"operation": "never", "probabilisticSampling": {}},
                    ],
                },
            },
            Strategy(rate=0.25, operations={"GET orders/": 1.0, "never": 0.0}, lower_bound=0.1),
        ),
        ({**HALF, "operationSampling": {"perOperationStrategies": None}}, Strategy(rate=0.5)),
        (
            {
                "strategyType": 1,
                "rateLimitingSampling": {"maxTracesPerSecond": 0},
                "operationSampling": {
                    "defaultSamplingProbability": 0.25,
                    "perOperationStrategies": [{"operation": "x", "probabilisticSampling": {"samplingRate": 1}}],
                },
            },
            Strategy(per_second=0.0, operations={"x": 1.0}),
        ),
    ],
)
def test_every_form_of_response(document: Any, expected: Strategy) -> None:
    assert parse_strategy(json.loads(json.dumps(document))) == expected


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "not a JSON object"),
        ({}, "no strategy"),
        ({"strategyType": "ADAPTIVE"}, "strategyType is 'ADAPTIVE'"),
        ({"strategyType": 1}, "rateLimitingSampling is not an object"),
        ({"probabilisticSampling": {"samplingRate": 2}}, "is 2.0"),
        ({"probabilisticSampling": {"samplingRate": "1"}}, "is '1'"),
        ({"strategyType": 1, "rateLimitingSampling": {"maxTracesPerSecond": -1}}, "is -1"),
        ({**HALF, "operationSampling": {"perOperationStrategies": [7]}}, "has no operation"),
        ({**HALF, "operationSampling": {"perOperationStrategies": "x"}}, "not a list"),
        ({**HALF, "operationSampling": {"perOperationStrategies": 7}}, "its perOperationStrategies is not a list"),
        ({**HALF, "operationSampling": {"perOperationStrategies": [{"operation": 1}]}}, "has no operation"),
        (
            {**HALF, "operationSampling": {"perOperationStrategies": [{"operation": "x"}]}},
            "its perOperationStrategies is not an object",
        ),
        ({**HALF, "operationSampling": {"defaultSamplingProbability": 1.5}}, "its probability is 1.5"),
        (
            {**HALF, "operationSampling": {"defaultLowerBoundTracesPerSecond": "x"}},
            "the defaultLowerBoundTracesPerSecond of its operationSampling is 'x'",
        ),
        ({"probabilisticSampling": {"samplingRate": True}}, "the samplingRate of its probabilisticSampling is True"),
        ({"probabilisticSampling": {"samplingRate": 1.01}}, "the samplingRate of its probabilisticSampling is 1.01"),
        (
            {"strategyType": 1, "rateLimitingSampling": {"maxTracesPerSecond": float("inf")}},
            "the maxTracesPerSecond of its rateLimitingSampling is inf",
        ),
        (
            {"probabilisticSampling": {"samplingRate": 10**5000}},
            "the samplingRate of its probabilisticSampling is too large",
        ),
        (
            {"probabilisticSampling": {"samplingRate": ["x"]}},
            "the samplingRate of its probabilisticSampling is a list",
        ),
    ],
)
def test_invalid_responses(document: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_strategy(document)


def test_a_response_without_end_is_bounded() -> None:
    many = [{"operation": f"o{number}", "probabilisticSampling": {"samplingRate": 1}} for number in range(10_001)]
    strategy = parse_strategy({**HALF, "operationSampling": {"perOperationStrategies": many}})
    assert len(strategy.operations) == 10_000


class Server:
    """A server that answers with ``document`` or misbehaves as set in ``mood``."""

    def __init__(self) -> None:
        self.document: Any = dict(HALF)
        self.mood = ""
        self.requested: list[str] = []
        self.released = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.requested.append(self.path)
                if server.mood == "hang":
                    server.released.wait(30)
                    return
                status = int(server.mood) if server.mood.isdigit() else 200
                body = {"garbage": b"<html>", "binary": b"\xff\xfe", "long": b" " * 2_000_000}.get(
                    server.mood, json.dumps(server.document).encode()
                )
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", "/elsewhere")
                self.end_headers()
                try:
                    if server.mood == "slow":
                        for byte in body:
                            self.wfile.write(bytes([byte]))
                            self.wfile.flush()
                            server.released.wait(0.05)
                    else:
                        self.wfile.write(body)
                except OSError:
                    pass

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/sampling"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


@pytest.fixture
def server() -> Iterator[Server]:
    started = Server()
    yield started
    started.close()


def test_it_applies_the_strategy(server: Server) -> None:
    sampler = JaegerRemoteSampler("my shop", server.url, refresh=0.05, initial=0.0)
    sampler.decide("GET", 1)
    wait_until(lambda: sampler.strategy == Strategy(rate=0.5), "the first answer")
    assert server.requested[0] == "/sampling?service=my%20shop"
    server.document = {"strategyType": "RATE_LIMITING", "rateLimitingSampling": {"maxTracesPerSecond": 3}}
    wait_until(lambda: sampler.strategy == Strategy(per_second=3.0), "the next answer")
    sampler.close()
    assert sum(sampler.decide("GET", number)[0] for number in range(20)) == 3
    assert sampler.decide("GET", 1) == (False, {"sampler.type": "ratelimiting", "sampler.param": 3.0})


@pytest.mark.parametrize(
    ("mood", "reason"),
    [
        ("garbage", "Expecting value"),
        ("binary", "Expecting value"),
        ("long", "its answer is too long"),
        ("404", "it answered 404"),
        ("500", "it answered 500"),
        ("302", "it answered 302"),
        ("hang", ""),
        ("slow", ""),
        ("gone", "Nothing listens on 127.0.0.1:"),
    ],
)
def test_the_last_response_remains_in_force_if_the_server_fails(
    server: Server, mood: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    sampler = JaegerRemoteSampler("shop", server.url, timeout=20)
    assert sampler.ask()
    caplog.set_level(logging.INFO)
    if mood == "gone":
        sampler._address = sampler._address._replace(port=free_port())
    server.mood = mood
    # Only the expected timeouts are short: a busy machine may need more time for the rest.
    sampler._timeout = 0.3 if mood in ("hang", "slow") else 20
    assert not sampler.ask()
    assert not sampler.ask()
    assert sampler.strategy == Strategy(rate=0.5)
    assert [record.levelname for record in caplog.records] == ["WARNING"], "it is logged once"
    line = caplog.records[0].getMessage()
    assert line.startswith(f"No sampling strategy from {sampler.shown} (")
    assert reason in line
    assert "): Strategy(rate=0.5, " in line and line.endswith(" stays in force.")
    server.mood = ""
    server.released.set()
    sampler._timeout = 20
    sampler._address = sampler._address._replace(port=int(server.url.split(":")[2].split("/")[0]))
    assert sampler.ask()
    assert caplog.records[-1].getMessage() == f"The sampling strategy is read from {sampler.shown} again."


def test_a_decision_never_waits(server: Server) -> None:
    server.mood = "hang"
    sampler = JaegerRemoteSampler("shop", server.url, initial=1.0, timeout=20)
    assert sampler.decide("GET", 1)[0]
    wait_until(lambda: server.requested, "a request to the server")
    assert all(sampler.decide("GET", number)[0] for number in range(100)), "while the server hangs"


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("", "/sampling?service=shop"),
        ("/", "/sampling?service=shop"),
        ("/TELEX/", "/TELEX?service=shop"),
        ("/own?key=1", "/own?key=1&service=shop"),
    ],
)
def test_the_path_of_the_endpoint(path: str, asked: str, server: Server) -> None:
    sampler = JaegerRemoteSampler("shop", server.url.replace("/sampling", path), timeout=20)
    assert sampler.ask()
    assert server.requested == [asked]


def test_if_no_thread_can_start_a_later_decision_tries_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = JaegerRemoteSampler("shop", server.url, initial=1.0, timeout=20)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert sampler.decide("GET", 1)[0]
    assert sampler.decide("GET", 1)[0]
    wait_until(lambda: sampler.strategy == Strategy(rate=0.5), "the answer")
    sampler.close()


def test_shares_over_20_000_decisions(server: Server) -> None:
    server.document = {
        **HALF,
        "operationSampling": {
            "defaultSamplingProbability": 0.2,
            "perOperationStrategies": [{"operation": "GET /", "probabilisticSampling": {"samplingRate": 0.7}}],
        },
    }
    sampler = JaegerRemoteSampler("shop", server.url)
    assert sampler.ask()
    sampler.close()
    numbers = random.Random(3)
    for name, share in (("GET /", 0.7), ("other", 0.2)):
        kept = sum(sampler.decide(name, numbers.getrandbits(128))[0] for _ in range(20_000))
        assert kept / 20_000 == pytest.approx(share, abs=0.015)


def test_a_lower_bound_keeps_some_of_each_operation(server: Server) -> None:
    server.document = {
        **HALF,
        "operationSampling": {"defaultSamplingProbability": 0, "defaultLowerBoundTracesPerSecond": 1},
    }
    sampler = JaegerRemoteSampler("shop", server.url)
    assert sampler.ask()
    sampler.close()
    for name in ("a", "b"):
        kept = [sampler.decide(name, number) for number in range(10)]
        assert [one[0] for one in kept] == [True] + [False] * 9
        assert kept[0][1] == {"sampler.type": "lowerbound", "sampler.param": 1.0}


def test_the_names_of_spans_do_not_use_more_and_more_memory(server: Server) -> None:
    server.document = {
        **HALF,
        "operationSampling": {"defaultSamplingProbability": 0, "defaultLowerBoundTracesPerSecond": 1},
    }
    sampler = JaegerRemoteSampler("shop", server.url)
    assert sampler.ask()
    sampler.close()
    assert sum(sampler.decide(f"name {number}", 0)[0] for number in range(10_010)) == 10_000


def test_an_unchanged_strategy_is_not_begun_anew(server: Server) -> None:
    server.document = {"strategyType": "RATE_LIMITING", "rateLimitingSampling": {"maxTracesPerSecond": 0.001}}
    sampler = JaegerRemoteSampler("shop", server.url)
    assert sampler.ask()
    sampler.close()
    assert sampler.decide("GET", 1)[0]
    assert sampler.ask()
    assert not sampler.decide("GET", 1)[0]


def test_shares_of_none_and_of_all() -> None:
    for rate, expected in ((0.0, False), (1.0, True)):
        sampler = JaegerRemoteSampler("shop", initial=rate)
        sampler.close()
        for trace_id in (0, 1 << 64, (1 << 128) - 1, (1 << 64) - 1):
            assert sampler.decide("GET", trace_id)[0] is expected


def test_as_a_sampler_of_the_sdk() -> None:
    sampler = JaegerRemoteSampler("shop", "http://us:pw@jaeger:5778/sampling?token=s3cret", initial=1.0)
    sampler.close()
    assert sampler.get_description() == "JaegerRemoteSampler{shop, http://jaeger:5778/sampling?…}", "no secrets"
    state = TraceState([("a", "1")])
    parent = NonRecordingSpan(SpanContext(1, 2, is_remote=True, trace_state=state))
    context = set_span_in_context(parent)
    result = sampler.should_sample(context, 3, "GET", attributes={"own": 1})
    assert result.decision is Decision.RECORD_AND_SAMPLE
    assert result.attributes == {"own": 1, "sampler.type": "probabilistic", "sampler.param": 1.0}
    assert result.trace_state == state
    nothing = JaegerRemoteSampler("shop", initial=0.0)
    nothing.close()
    result = nothing.should_sample(context, 3, "GET", attributes={"own": 1})
    assert (result.decision, dict(result.attributes), result.trace_state) == (Decision.DROP, {}, state)


def test_64_threads_spend_one_budget(server: Server) -> None:
    server.document = {"strategyType": "RATE_LIMITING", "rateLimitingSampling": {"maxTracesPerSecond": 0.001}}
    sampler = JaegerRemoteSampler("shop", server.url)
    assert sampler.ask()
    sampler.close()
    kept: list[bool] = []
    barrier = threading.Barrier(64)

    def work() -> None:
        barrier.wait()
        kept.extend(sampler.decide("GET", number)[0] for number in range(50))

    threads = [threading.Thread(target=work) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(kept) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_sends_its_own_requests(server: Server) -> None:
    program = (
        "import os, time\n"
        "from django_tracing.sampling.remote import JaegerRemoteSampler\n"
        f"sampler = JaegerRemoteSampler('shop', {server.url!r}, initial=0.0, refresh=60)\n"
        "sampler.decide('x', 1)\n"
        "while sampler.strategy.rate != 0.5: time.sleep(0.01)\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    sampler._decider.strategy = None\n"
        "    sampler.start()\n"
        "    while sampler.strategy is None: time.sleep(0.01)\n"
        "    os._exit(7)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7\n"
    )
    finished = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], timeout=120, capture_output=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    assert len(server.requested) == 2


# ----- Configuration


def test_by_the_name_in_the_environment(server: Server, tmp_path: Path) -> None:
    program = (
        "import time\n"
        "from opentelemetry import trace\n"
        "provider = trace.get_tracer_provider()\n"
        "sampler = provider.sampler._root\n"
        "print(provider.get_tracer('x').start_span('x').is_recording(), flush=True)\n"
        "while sampler.strategy.rate != 1.0: time.sleep(0.01)\n"
        "print(dict(provider.get_tracer('x').start_span('x').attributes))\n"
    )
    server.document = {"probabilisticSampling": {"samplingRate": 1}}
    # The server answers only after the program's first decision.
    server.mood = "503"
    with subprocess.Popen(
        [str(Path(sys.executable).parent / "opentelemetry-instrument"), sys.executable, "-c", program],
        env={
            **os.environ,
            "OTEL_TRACES_SAMPLER": "jaeger_remote",
            "OTEL_TRACES_SAMPLER_ARG": f"endpoint={server.url},pollingIntervalMs=100,initialSamplingRate=0",
            "OTEL_SERVICE_NAME": "shop",
            **{f"OTEL_{signal}_EXPORTER": "none" for signal in ("TRACES", "METRICS", "LOGS")},
        },
        # The egg-info of the checkout may be older than the installed version.
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        killer = threading.Timer(30, process.kill)
        killer.start()
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            server.mood = ""
            then, errors = process.communicate()
        finally:
            killer.cancel()
    assert (first, then) == ("False\n", "{'sampler.type': 'probabilistic', 'sampler.param': 1.0}\n"), errors
    assert "service=shop" in server.requested[0]


def test_it_is_imported_without_django() -> None:
    program = "import sys, django_tracing.sampling.remote; assert 'django' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_wrong_arguments_raise_errors() -> None:
    with pytest.raises(ValueError, match="write endpoint="):
        from_environment("http://jaeger:5778")
    with pytest.raises(ValueError, match="write it as"):
        JaegerRemoteSampler("shop", "jaeger:5778")
    assert JaegerRemoteSampler("shop", "http://jaeger:5778")._address.target == "/sampling?service=shop"


def test_the_argument_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", " shop ")
    given = "endpoint = http://jaeger:5778/own?a=b=c, pollingIntervalMs=5000 ,initialSamplingRate=0.25,"
    sampler: Any = from_environment(given)._root  # type: ignore[attr-defined]
    assert sampler.get_description() == "JaegerRemoteSampler{shop, http://jaeger:5778/…?…}"
    assert sampler._address.target == "/own?a=b=c&service=shop"
    assert (sampler.strategy, sampler._refresh) == (Strategy(rate=0.25), 5.0)
    quick: Any = from_environment("pollingIntervalMs=1")._root  # type: ignore[attr-defined]
    assert quick._refresh == 0.1, "no server is asked without a pause"
    monkeypatch.delenv("OTEL_SERVICE_NAME")
    default: Any = from_environment()._root  # type: ignore[attr-defined]
    assert default.get_description() == "JaegerRemoteSampler{unknown_service, http://localhost:5778/sampling}"
    assert (default.strategy, default._refresh) == (Strategy(rate=0.001), 60.0)


def test_it_decides_if_no_rule_matches(server: Server) -> None:
    from django_tracing.conf.loading import load

    server.document = {"probabilisticSampling": {"samplingRate": 1}}
    sampler = RuleSampler(0.0, load({"EXPORTER": "none", "REMOTE_SAMPLING_URL": server.url}, {}))
    assert not sampler.is_simple
    assert sampler.remote is not None
    assert sampler.remote.ask()
    sampler.remote.close()
    sampler.use(compile_rules([Rule(1, "none", path="GET /none", rate=0.0)], "shop"))
    provider = TracerProvider(sampler=sampler)
    assert not provider.get_tracer("x").start_span("GET /none").is_recording()
    span: Any = provider.get_tracer("x").start_span("GET /")
    assert span.attributes["sampling.rule"] == "remote"
    assert span.attributes["sampling.rate"] == 1.0
    provider.shutdown()


def test_the_operation_of_a_request_is_the_name_of_its_span(server: Server) -> None:
    from django.test import RequestFactory, override_settings

    from django_tracing.conf.loading import load
    from django_tracing.context.request import RequestState

    server.document["operationSampling"] = {
        "defaultSamplingProbability": 0,
        "perOperationStrategies": [
            {"operation": "GET /things/<int:pk>/", "probabilisticSampling": {"samplingRate": 1}},
            {"operation": "GET /people/<pk>/", "probabilisticSampling": {"samplingRate": 1}},
        ],
    }
    sampler = RuleSampler(0.0, load({"EXPORTER": "none", "REMOTE_SAMPLING_URL": server.url}, {}))
    assert sampler.remote is not None
    assert sampler.remote.ask()
    sampler.remote.close()
    with override_settings(ROOT_URLCONF="tests.sampling.test_deciding"):
        for path, kept in (("/things/7/", True), ("/people/7/", True), ("/plain/", False), ("/nowhere/", False)):
            scope = RequestState("1", RequestFactory().get(path))
            assert sampler.decide(scope, "GET", SpanKind.SERVER, None, 1).kept is kept


# ----- Real Jaegers

STRATEGIES = {
    "service_strategies": [
        {
            "service": "shop",
            "type": "probabilistic",
            "param": 0.8,
            "operation_strategies": [{"operation": "GET orders/", "type": "probabilistic", "param": 1}],
        },
        {"service": "limited", "type": "ratelimiting", "param": 5},
    ],
    "default_strategy": {"type": "probabilistic", "param": 0.25},
}


@pytest.mark.parametrize("version", ["jaeger", "jaeger-1.51"])
def test_the_strategies_of_a_real_jaeger(version: Version) -> None:
    with Jaeger(version, STRATEGIES) as jaeger:
        found = {}
        for service in ("shop", "limited", "anybody"):
            sampler = JaegerRemoteSampler(service, jaeger.sampling)
            wait_until(sampler.ask, "the strategy")
            sampler.close()
            found[service] = sampler.strategy
    assert found["shop"].rate == 0.8
    assert found["shop"].operations["GET orders/"] == 1.0
    assert found["limited"].per_second == 5.0
    assert found["anybody"].rate == 0.25


def test_the_sampler_reads_responses_of_this_app() -> None:
    rules = [Rule(1, "a", method="GET", path="/orders/", rate=0.1), Rule(2, "all", rate=0.5)]
    strategy = parse_strategy(json.loads(json.dumps(serve(rules, "shop", 1.0).document)))
    assert strategy == Strategy(rate=0.5, operations={"GET /orders/": 0.1})
    limited = parse_strategy(serve([Rule(1, "ten", max_per_second=10)], "shop", 1.0).document)
    assert limited == Strategy(per_second=10.0)
