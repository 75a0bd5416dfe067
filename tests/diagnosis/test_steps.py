"""What stands between a project and its trace backend, found on the real thing."""

from __future__ import annotations

import http.server
import json
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.conf import settings as django_settings
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from django_tracing.conf.loading import load
from django_tracing.diagnosis.steps import Diagnosis, Step
from django_tracing.models import SamplingRule
from django_tracing.traces.readers.sqlite.store import LocalStore
from example_project.servers import free_port
from tests.jaegers import Jaeger
from tests.receivers import OTLPReceiver

DATA = Path(__file__).parents[1] / "data"


class Result:
    """A diagnosis that was run to its end."""

    def __init__(self, tracing: dict[str, Any], environ: dict[str, str] | None = None, **options: Any) -> None:
        self.diagnosis = Diagnosis(load({"SERVICE_NAME": "shop", **tracing}, environ or {}), **options)
        self.steps = list(self.diagnosis.steps())
        self.exit_code = self.diagnosis.exit_code

    @property
    def names(self) -> list[str]:
        return [step.name for step in self.steps]

    def step(self, name: str) -> Step:
        found = [step for step in self.steps if step.name == name]
        assert found, f"{name} is not among {self.steps}"
        return found[-1]

    @property
    def last(self) -> Step:
        return self.steps[-1]

    @property
    def text(self) -> str:
        return "\n".join(
            f"{step.outcome} {step.name} {step.detail} {step.meaning} {step.remedy}" for step in self.steps
        )


def failed(result: Result, name: str, code: int = 1) -> Step:
    """The step that failed, which must be the last and must say what it means and what to do."""
    assert (result.last.name, result.last.outcome) == (name, "failed"), result.text
    assert result.exit_code == code
    assert result.last.meaning, result.last
    assert result.last.remedy, result.last
    assert result.diagnosis.link is None
    return result.last


# ----- Servers


class Web:
    """An HTTP server whose answers come from ``answer(method, path) -> (status, content type, body)``."""

    def __init__(
        self, answer: Callable[[str, str], tuple[int, str, bytes]], *, certificate: str | None = None
    ) -> None:
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        web = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except (OSError, ssl.SSLError):
                    self.close_connection = True  # a client that went away

            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                web.requests.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
                status, kind, body = answer(self.command, self.path)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET

            def log_message(self, *args: Any) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def get_request(self) -> Any:
                connection, address = super().get_request()
                if web._context is not None:
                    # Here and not on the listening socket: a failed handshake must cost its own connection only.
                    connection.settimeout(5)
                    connection = web._context.wrap_socket(connection, server_side=True)
                return connection, address

            def handle_error(self, *args: Any) -> None:
                pass

        self._context: ssl.SSLContext | None = None
        if certificate:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(DATA / certificate)
        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self.url = f"http{'s' if certificate else ''}://localhost:{self.port}"

    def __enter__(self) -> Web:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


def always(status: int, kind: str = "text/plain", body: bytes = b"") -> Callable[[str, str], tuple[int, str, bytes]]:
    return lambda method, path: (status, kind, body)


@contextmanager
def deaf() -> Iterator[int]:
    """A port that takes connections and never says anything."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield listener.getsockname()[1]


def empty_jaeger(method: str, path: str) -> tuple[int, str, bytes]:
    """A query API of today that knows no trace."""
    if path.startswith("/api/v3/trace-summaries"):
        return 400, "application/json", b'{"error":{"httpCode":400,"message":"startTime is required"}}'
    return 404, "application/json", b'{"error":{"httpCode":404,"message":"trace not found"}}'


@pytest.fixture
def receiver() -> Iterator[OTLPReceiver]:
    with OTLPReceiver() as receiver:
        yield receiver


# ----- Settings


def test_wrong_settings_are_all_named_and_nothing_is_tried() -> None:
    result = Result({"SAMPLING_RATE": 1, "BATCH_SIZE": 0}, {"JAEGER_ENDPOINT": "jaeger:4318"})
    assert result.exit_code == 2
    assert result.names == ["settings"] * 3
    assert {step.outcome for step in result.steps} == {"failed"}
    assert 'TRACING["SAMPLING_RATE"]' in result.text
    assert 'Did you mean "SAMPLE_RATE"?' in result.text
    assert "environment variable JAEGER_ENDPOINT" in result.text
    assert "http://jaeger:4318" in result.text
    assert result.diagnosis.trace_id is None


@pytest.mark.parametrize(
    ("tracing", "environ", "source"),
    [
        ({"ENABLED": False}, {}, 'TRACING["ENABLED"]'),
        ({}, {"OTEL_SDK_DISABLED": "true"}, "environment variable OTEL_SDK_DISABLED"),
    ],
)
def test_switched_off(tracing: dict[str, Any], environ: dict[str, str], source: str) -> None:
    assert source in failed(Result(tracing, environ), "settings").detail


def test_tracing_wins_over_a_switched_off_sdk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    result = Result({"ENABLED": True, "LOCAL_STORE": tmp_path / "t.sqlite3"}, dict(os.environ))
    assert result.exit_code == 0


def test_exporting_nowhere() -> None:
    step = failed(Result({"EXPORTER": "none"}), "exporter")
    assert 'TRACING["EXPORTER"]' in step.detail
    assert "local" in step.remedy


@pytest.mark.parametrize(
    "path", ["nowhere.Exporter", "tests.diagnosis.test_steps.Result", "tests.diagnosis.test_steps.NoExporter"]
)
def test_a_dotted_path_that_gives_no_exporter(path: str) -> None:
    step = failed(Result({"EXPORTER": path}), "exporter", code=2)
    assert path in step.detail


def test_a_missing_extra_names_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "grpc", None)
    step = failed(Result({"ENDPOINT": "http://localhost:4317"}), "exporter", code=2)
    assert "django-tracing-otel[otlp-grpc]" in step.meaning + step.remedy


@pytest.mark.parametrize("rate", [0.0, 0.25])
def test_a_sampled_service_is_told_so(receiver: OTLPReceiver, rate: float) -> None:
    result = Result({"ENDPOINT": receiver.endpoint, "SAMPLE_RATE": rate}, query=False)
    step = result.step("sampling")
    assert step.outcome == "warning"
    assert step.detail.startswith(f"{rate * 100:g} % of the traces are recorded (")
    assert step.meaning.endswith("only when its caller was.")
    assert 'TRACING["SAMPLE_RATE"]' in step.detail
    assert result.exit_code == 0
    assert len(receiver.spans) == 2


def test_instrumentations_that_are_not_there(receiver: OTLPReceiver) -> None:
    result = Result({"ENDPOINT": receiver.endpoint, "INSTRUMENTATIONS": ["request", "pika"]}, query=False)
    on, missing = (step for step in result.steps if step.name == "traced")
    assert (on.outcome, on.detail) == ("ok", "request")
    assert missing.outcome == "warning"
    assert "pip install opentelemetry-instrumentation-pika" in missing.remedy
    assert result.exit_code == 0


@pytest.mark.django_db(transaction=True)
def test_a_rate_says_only_what_rules_leave_to_it(receiver: OTLPReceiver) -> None:
    SamplingRule.objects.create(name="Orders", rate=50)
    kept = {"KEEP_ERRORS": True, "KEEP_SLOWER_THAN": 1.5}
    result = Result({"ENDPOINT": receiver.endpoint, "SAMPLE_RATE": 0.0, **kept}, query=False)
    rules, rate = (step for step in result.steps if step.name == "sampling")
    assert rules.detail == "by the rules of the admin: Orders 50 %; else 0 %"
    assert rate.detail == '0 % of the traces that no rule decides are recorded (TRACING["SAMPLE_RATE"]).'
    assert "it fails (KEEP_ERRORS) or it takes longer than 1.5 s (KEEP_SLOWER_THAN)" in rate.meaning


@pytest.mark.django_db(transaction=True)
def test_the_sampling_in_force(receiver: OTLPReceiver) -> None:
    for order, name in enumerate("abcdefg"):
        SamplingRule.objects.create(name=name, order=order, rate=order)
    result = Result({"ENDPOINT": receiver.endpoint, "SAMPLE_RATE": 1.0}, query=False)
    detail = result.step("sampling").detail
    assert detail == "by the rules of the admin: a 0 %, b 1 %, c 2 %, d 3 %, e 4 % and 2 more; else 100 %"
    assert result.exit_code == 0


def test_a_jaeger_s_strategy() -> None:
    with Jaeger("jaeger", {"default_strategy": {"type": "probabilistic", "param": 0.25}}) as jaeger:
        tracing = {"ENDPOINT": jaeger.otlp_http, "REMOTE_SAMPLING_URL": jaeger.sampling, "SAMPLE_RATE": 0.1}
        result = Result(tracing, query=False)
    # What it decides SAMPLE_RATE does not.
    assert result.step("sampling").detail == f"by {jaeger.sampling}: 25 %"


def test_a_jaeger_that_gives_no_strategy(receiver: OTLPReceiver) -> None:
    url = f"http://127.0.0.1:{free_port()}/sampling"
    result = Result({"ENDPOINT": receiver.endpoint, "REMOTE_SAMPLING_URL": url}, query=False)
    step = result.step("sampling")
    assert step.outcome == "warning"
    assert 'TRACING["REMOTE_SAMPLING_URL"]' in step.remedy
    assert result.exit_code == 0


# ----- The way there


def test_an_unknown_name() -> None:
    step = failed(Result({"ENDPOINT": "http://nowhere.invalid:4318"}), "name")
    assert "nowhere.invalid" in step.detail
    assert 'TRACING["ENDPOINT"]' in step.remedy


def test_a_name_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: answer.wait(30) and [])
    try:
        step = failed(Result({"ENDPOINT": "http://jaeger:4318"}, timeout=0.3), "name")
    finally:
        answer.set()
    assert "0.3 s" in step.detail


@pytest.mark.parametrize(
    ("endpoint", "source"),
    [
        ("http://127.0.0.1:{port}", "otlp"),
        ("http://127.0.0.1:{port}/api/traces", "jaeger"),
    ],
)
def test_a_closed_port(endpoint: str, source: str) -> None:
    port = free_port()
    result = Result({}, {"JAEGER_ENDPOINT": endpoint.format(port=port)})
    step = failed(result, "port")
    assert f"127.0.0.1:{port}" in step.detail
    assert "JAEGER_ENDPOINT" in step.remedy
    assert f"exporter {source}" in result.step("settings").detail


def test_a_second_address_that_answers_is_enough(receiver: OTLPReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, port, *args, **kwargs: [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, int(port)))
            for address in ("127.0.0.7", "127.0.0.1")
        ],
    )
    result = Result({"ENDPOINT": f"http://two:{receiver.port}"}, query=False)
    assert result.exit_code == 0
    assert "127.0.0.7" in result.step("name").detail


@pytest.mark.parametrize("extra", [{}, {"EXPORTER": "otlp-grpc"}, {"EXPORTER": "jaeger"}])
def test_a_port_that_never_answers_ends_in_time(extra: dict[str, str]) -> None:
    with deaf() as port:
        result = Result({"ENDPOINT": f"http://127.0.0.1:{port}", **extra}, timeout=1.0)
    assert result.last.outcome == "failed"
    assert result.last.name in ("protocol", "send")
    assert "answer" in result.last.detail
    assert result.exit_code == 1


# ----- TLS


@pytest.mark.parametrize(
    ("certificate", "trusted", "reason"),
    [
        ("localhost.pem", None, "self-signed"),
        ("expired.pem", "expired.pem", "expired"),
        ("other.pem", "other.pem", "localhost"),
    ],
)
def test_certificates_that_prove_nothing(
    certificate: str, trusted: str | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(DATA / trusted))
    with Web(always(200), certificate=certificate) as web:
        step = failed(Result({"ENDPOINT": web.url}), "tls")
    assert reason in step.detail.replace("self signed", "self-signed")


def test_a_trusted_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(DATA / "localhost.pem"))
    with Web(always(200, "application/x-protobuf"), certificate="localhost.pem") as web:
        result = Result({"ENDPOINT": web.url}, query=False)
    assert result.step("tls").outcome == "ok"
    assert result.exit_code == 0, result.text


def test_https_spoken_to_a_plain_port(receiver: OTLPReceiver) -> None:
    step = failed(Result({"ENDPOINT": f"https://localhost:{receiver.port}"}), "tls")
    assert f"http://localhost:{receiver.port}" in step.remedy


@pytest.mark.parametrize("extra", [{}, {"EXPORTER": "otlp-grpc"}, {"EXPORTER": "jaeger"}])
def test_http_spoken_to_a_tls_port(extra: dict[str, str]) -> None:
    with Web(always(200), certificate="localhost.pem") as web:
        step = failed(Result({"ENDPOINT": f"http://localhost:{web.port}", **extra}, timeout=5), "protocol")
    assert f"https://localhost:{web.port}" in step.remedy


def test_a_tls_port_that_says_so_in_http() -> None:
    with Web(always(400, "text/plain", b"Client sent an HTTP request to an HTTPS server.\n")) as web:
        step = failed(Result({"ENDPOINT": web.url}), "protocol")
    assert f"https://localhost:{web.port}" in step.remedy


def test_grpc_over_tls_brings_authorities_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    with Web(always(200), certificate="localhost.pem") as web:
        result = Result({"ENDPOINT": web.url, "EXPORTER": "otlp-grpc"}, timeout=5)
        assert result.step("tls").outcome == "warning"
        assert "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH" in result.step("tls").remedy
        assert result.last.outcome == "failed"
        monkeypatch.setenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", str(DATA / "localhost.pem"))
        assert Result({"ENDPOINT": web.url, "EXPORTER": "otlp-grpc"}, timeout=5).step("tls").outcome == "ok"


# ----- The protocol


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("path", ["", "/api/traces"])
def test_credentials(status: int, path: str) -> None:
    with Web(always(status)) as web:
        result = Result({"ENDPOINT": web.url + path, "HEADERS": {"authorization": "Bearer abcdefghijkl"}})
    step = failed(result, "protocol")
    assert str(status) in step.detail
    # Thrift takes no headers, only what stands in the URL.
    assert ("user:password@" in step.remedy) if path else ("HEADERS" in step.remedy)
    assert "abcdefghijkl" not in result.text


@pytest.mark.parametrize(
    ("tracing", "environ", "place"),
    [
        ({"COMPRESSION": "gzip"}, {}, 'TRACING["COMPRESSION"]'),
        ({}, {"OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"}, "the environment variable OTEL_EXPORTER_OTLP_COMPRESSION"),
    ],
)
def test_a_backend_that_takes_no_gzip(
    receiver: OTLPReceiver, tracing: dict[str, Any], environ: dict[str, str], place: str
) -> None:
    receiver.mode = 415
    step = failed(Result({"ENDPOINT": receiver.endpoint, **tracing}, environ), "protocol")
    assert "gzip (415)" in step.detail
    assert step.remedy == f'Set {place} to "none".'


def test_the_test_trace_is_sent_as_spans_are(receiver: OTLPReceiver) -> None:
    result = Result({"ENDPOINT": receiver.endpoint, "COMPRESSION": "gzip"}, query=False)
    assert result.exit_code == 0
    assert {headers["content-encoding"] for headers in receiver.headers} == {"gzip"}
    assert sorted(span.name for span in receiver.spans) == ["check_tracing", "check_tracing.child"]
    assert "exporter" not in result.names


def test_a_compression_that_the_exporter_does_not_do(tmp_path: Path) -> None:
    result = Result({"LOCAL_STORE": tmp_path / "traces.sqlite3", "COMPRESSION": "gzip"})
    step = result.step("exporter")
    assert step.outcome == "warning"
    assert step.detail == 'The exporter local compresses nothing (TRACING["COMPRESSION"]).'
    assert "otlp" in step.remedy
    assert result.exit_code == 0


@pytest.mark.parametrize(("status", "word"), [(500, "500"), (503, "503"), (429, "429")])
def test_a_backend_in_trouble(receiver: OTLPReceiver, status: int, word: str) -> None:
    receiver.mode = status
    assert word in failed(Result({"ENDPOINT": receiver.endpoint}), "send").detail


def test_a_path_that_takes_no_spans(receiver: OTLPReceiver) -> None:
    receiver.mode = 404
    step = failed(Result({"ENDPOINT": f"{receiver.endpoint}/tracing"}), "protocol")
    assert f"{receiver.endpoint}/tracing" in step.detail
    assert "404" in step.detail
    assert 'TRACING["ENDPOINT"]' in step.remedy


def test_a_path_of_another_s_otlp(any_jaeger: Jaeger) -> None:
    step = failed(Result({}, {"JAEGER_ENDPOINT": f"{any_jaeger.otlp_http}/otlp"}), "protocol")
    assert "at another path" in step.meaning
    assert step.remedy == f'Set the environment variable JAEGER_ENDPOINT to "{any_jaeger.otlp_http}".'


def test_a_login_page() -> None:
    with Web(always(302)) as web:
        assert "302" in failed(Result({"ENDPOINT": web.url}), "protocol").detail


@pytest.mark.parametrize("path", ["", "/api/traces"])
def test_a_web_page_takes_no_spans_though_it_says_200(path: str) -> None:
    with Web(always(200, "text/html; charset=utf-8", b"<!DOCTYPE html><title>Shop</title>")) as web:
        step = failed(Result({"ENDPOINT": web.url + path}, query=False), "protocol")
    assert "web page" in step.detail


def test_ports_of_old_jaegers(any_jaeger: Jaeger, monkeypatch: pytest.MonkeyPatch) -> None:
    # Jaeger's own gRPC is gRPC, and takes no OTLP.
    from django_tracing.diagnosis import steps as doctor

    netloc = urlsplit(any_jaeger.otlp_grpc).netloc
    monkeypatch.setitem(doctor._PORTS, urlsplit(any_jaeger.otlp_grpc).port, "That is by custom Jaeger's old gRPC.")
    step = failed(Result({"ENDPOINT": f"http://{netloc}"}), "protocol")
    assert "old gRPC" in step.meaning
    assert "otlp-grpc" not in step.remedy
    assert "udp://" in failed(Result({"ENDPOINT": "http://127.0.0.1:6831"}), "port").meaning


@pytest.mark.parametrize("mode", ["drop", "garbage"])
def test_what_speaks_no_http(receiver: OTLPReceiver, mode: str) -> None:
    receiver.mode = mode
    step = failed(Result({"ENDPOINT": receiver.endpoint}, timeout=5), "protocol")
    assert "4318" in step.remedy


@pytest.mark.parametrize("extra", [{}, {"EXPORTER": "otlp-grpc"}, {"EXPORTER": "jaeger"}])
@pytest.mark.usefixtures("postgres_url")
def test_a_database_instead_of_a_jaeger(extra: dict[str, str]) -> None:
    with postgres_port() as port:
        step = failed(Result({"ENDPOINT": f"http://127.0.0.1:{port}", **extra}, timeout=8), "protocol")
    assert "PostgreSQL" in step.detail + step.meaning + step.remedy
    assert 'TRACING["ENDPOINT"]' in step.remedy


@contextmanager
def postgres_port() -> Iterator[int]:
    """A TCP port of the tests' PostgreSQL, which may listen on a socket in a folder only."""
    database = django_settings.DATABASES["default"]
    if not str(database["HOST"]).startswith("/"):
        yield int(database["PORT"] or 5432)
        return
    path = f"{database['HOST']}/.s.PGSQL.{database['PORT'] or 5432}"
    with forwarded(path) as port:
        yield port


@contextmanager
def forwarded(path: str) -> Iterator[int]:
    """A TCP port whose connections are handed on to a socket in the file system."""

    def pump(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(4096):
                target.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, target):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(path)
            opened.extend((connection, server))
            threading.Thread(target=pump, args=(connection, server), daemon=True).start()
            threading.Thread(target=pump, args=(server, connection), daemon=True).start()

    opened: list[socket.socket] = []
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)
    for end in opened:
        end.close()


@pytest.mark.parametrize("extra", [{}, {"EXPORTER": "otlp-grpc"}, {"EXPORTER": "jaeger"}])
def test_a_redis_instead_of_a_jaeger(extra: dict[str, str], redis_url: str) -> None:
    port = urlsplit(redis_url).port
    step = failed(Result({"ENDPOINT": f"http://127.0.0.1:{port}", **extra}, timeout=8), "protocol")
    assert "Redis" in step.detail + step.meaning + step.remedy


# ----- Real Jaegers, and ports mixed up


@pytest.fixture(params=["jaeger", "jaeger_151"])
def any_jaeger(request: pytest.FixtureRequest) -> Jaeger:
    jaeger: Jaeger = request.getfixturevalue(request.param)
    return jaeger


@pytest.mark.parametrize("address", ["otlp_http", "otlp_grpc", "thrift_http", "thrift_udp"])
def test_a_jaeger_that_takes_and_shows_the_trace(any_jaeger: Jaeger, address: str) -> None:
    tracing = {"ENDPOINT": getattr(any_jaeger, address), "QUERY_URL": any_jaeger.query}
    if address == "otlp_grpc":
        tracing["EXPORTER"] = "otlp-grpc"  # its port is none that is known by custom
    result = Result(tracing, {"SERVICE_VERSION": "7"})
    assert {step.outcome for step in result.steps} <= {"ok", "skipped"}, result.text
    assert result.exit_code == 0
    assert result.diagnosis.link == f"{any_jaeger.query}/trace/{result.diagnosis.trace_id}"
    assert all(step.seconds >= 0 for step in result.steps)
    assert result.diagnosis.trace_id is not None
    trace = any_jaeger.wait_trace(result.diagnosis.trace_id, spans=2)
    assert {span["operationName"] for span in trace["spans"]} == {"check_tracing", "check_tracing.child"}
    (process,) = trace["processes"].values()
    assert process["serviceName"] == "shop"
    assert {"service.version": "7"}.items() <= {tag["key"]: tag["value"] for tag in process["tags"]}.items()


@pytest.mark.parametrize(
    ("port", "exporter", "words"),
    [
        ("thrift_http", "otlp", ["thrift", "{netloc}/api/traces"]),
        ("thrift_http", "otlp-grpc", ["thrift", "{netloc}/api/traces"]),
        ("otlp_http", "jaeger", ["OTLP over HTTP", "http://{netloc}"]),
        ("otlp_http", "otlp-grpc", ["OTLP over HTTP", "http://{netloc}"]),
        ("otlp_grpc", "otlp", ["gRPC", "otlp-grpc"]),
        ("otlp_grpc", "jaeger", ["gRPC", "otlp-grpc"]),
        ("query", "otlp", ["query", "4318", "QUERY_URL"]),
        ("query", "otlp-grpc", ["query", "4318", "QUERY_URL"]),
        ("query", "jaeger", ["query", "4318", "QUERY_URL"]),
    ],
)
def test_a_jaeger_spoken_to_wrongly(any_jaeger: Jaeger, port: str, exporter: str, words: Sequence[str]) -> None:
    netloc = urlsplit(getattr(any_jaeger, port)).netloc
    # Without reading back too: a page that answers 200 to everything must not count as taken.
    result = Result({"ENDPOINT": f"http://{netloc}", "EXPORTER": exporter}, query=False)
    step = failed(result, "protocol")
    for word in words:
        assert word.format(netloc=netloc) in step.meaning + step.remedy


def test_a_protocol_set_by_opentelemetry_s_variable(any_jaeger: Jaeger) -> None:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": any_jaeger.otlp_grpc, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
    remedy = failed(Result({}, environ), "protocol").remedy
    variable = "the environment variable OTEL_EXPORTER_OTLP_PROTOCOL"
    assert remedy == f'Set {variable} to "grpc". It needs the extra [otlp-grpc].'


def test_udp_into_the_void(any_jaeger: Jaeger) -> None:
    result = Result({"ENDPOINT": f"udp://127.0.0.1:{free_port()}", "QUERY_URL": any_jaeger.query}, timeout=1.5)
    assert "UDP" in failed(result, "read").meaning


@pytest.mark.parametrize("query", [True, False])
def test_udp_that_nobody_confirms(query: bool) -> None:
    endpoint = f"udp://127.0.0.1:{free_port()}"
    result = Result({"ENDPOINT": endpoint, "QUERY_URL": f"http://127.0.0.1:{free_port()}"}, timeout=2, query=query)
    assert result.exit_code == 1
    assert result.last.outcome == "warning"
    assert "not known" in result.last.meaning


# ----- Reading back


def test_taken_and_not_read_back(receiver: OTLPReceiver) -> None:
    result = Result({"ENDPOINT": receiver.endpoint}, query=False)
    assert result.exit_code == 0
    assert result.last.outcome == "skipped"
    root, child = sorted(receiver.spans, key=lambda span: span.parent_id)
    assert (root.name, root.parent_id, root.service) == ("check_tracing", "", "shop")
    assert (child.name, child.parent_id) == ("check_tracing.child", root.span_id)
    assert root.trace_id == result.diagnosis.trace_id


def test_the_very_exporter_sends_it(receiver: OTLPReceiver) -> None:
    endpoint = f"http://us%40er:pass-word-1@127.0.0.1:{receiver.port}/in?key=query-secret"
    result = Result({"ENDPOINT": endpoint, "HEADERS": {"x-api-key": "header-secret"}}, query=False)
    assert result.exit_code == 0, result.text
    assert receiver.headers[-1]["x-api-key"] == "header-secret"
    assert receiver.headers[-1]["authorization"].startswith("Basic ")
    for secret in ("pass-word-1", "header-secret", "query-secret", "us%40er"):
        assert secret not in result.text


def test_taken_and_never_shown(receiver: OTLPReceiver) -> None:
    with Web(empty_jaeger) as web:
        result = Result({"ENDPOINT": receiver.endpoint, "QUERY_URL": web.url}, timeout=1.0)
    step = failed(result, "read")
    assert web.url in step.detail
    assert "QUERY_URL" in step.remedy
    assert "--timeout" in step.remedy


def test_a_query_api_that_is_not_there_is_a_warning(receiver: OTLPReceiver) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    result = Result({"ENDPOINT": receiver.endpoint, "QUERY_URL": url})
    assert result.exit_code == 0
    assert (result.last.name, result.last.outcome) == ("read", "warning")
    assert urlsplit(url).netloc in result.last.detail
    assert "QUERY_URL" in result.last.remedy


@pytest.mark.parametrize("status", [401, 404, 500])
def test_a_query_api_that_refuses_is_a_warning(receiver: OTLPReceiver, status: int) -> None:
    with Web(always(status)) as web:
        result = Result(
            {"ENDPOINT": receiver.endpoint, "QUERY_URL": web.url.replace("//", "//user:query-pass@")}, timeout=2
        )
    assert (result.exit_code, result.last.outcome) == (0, "warning")
    assert str(status) in result.last.detail
    assert "query-pass" not in result.text


def test_a_query_api_that_stumbles_is_asked_again(receiver: OTLPReceiver) -> None:
    asked: list[str] = []

    def stumbling(method: str, path: str) -> tuple[int, str, bytes]:
        if path.startswith("/api/v3/traces/"):
            asked.append(path)
            if len(asked) == 1:
                return 503, "text/plain", b"warming up"
            spans = [{"traceId": span.trace_id, "spanId": span.span_id, "name": span.name} for span in receiver.spans]
            answer = {"result": {"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}}
            return 200, "application/json", json.dumps(answer).encode()
        return empty_jaeger(method, path)

    with Web(stumbling) as web:
        result = Result({"ENDPOINT": receiver.endpoint, "QUERY_URL": web.url})
    assert (result.exit_code, result.last.outcome) == (0, "ok"), result.text
    assert len(asked) == 2


def test_a_query_api_that_never_answers_ends_in_time(receiver: OTLPReceiver) -> None:
    with deaf() as port:
        result = Result({"ENDPOINT": receiver.endpoint, "QUERY_URL": f"http://127.0.0.1:{port}"}, timeout=1.0)
    assert (result.exit_code, result.last.outcome) == (0, "warning")


# ----- The local store


def test_the_local_store(tmp_path: Path) -> None:
    path = tmp_path / "new" / "traces.sqlite3"
    result = Result({"LOCAL_STORE": path})
    assert {step.outcome for step in result.steps} == {"ok"}, result.text
    assert result.names == ["settings", "traced", "send", "read"]
    assert str(path) in result.step("settings").detail
    assert result.diagnosis.link == f"python manage.py traces {result.diagnosis.trace_id}"
    trace = LocalStore(path).trace(str(result.diagnosis.trace_id))
    assert trace is not None
    assert {span.name for span in trace.spans} == {"check_tracing", "check_tracing.child"}


def test_a_folder_that_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    step = failed(Result({"LOCAL_STORE": tmp_path / "file" / "traces.sqlite3"}), "send")
    assert str(tmp_path / "file") in step.detail
    assert "LOCAL_STORE" in step.remedy
    assert "documentation" not in step.remedy


def test_another_program_s_database(tmp_path: Path) -> None:
    import sqlite3

    path = tmp_path / "db.sqlite3"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE shop (id)")
    connection.commit()
    connection.close()
    step = failed(Result({"LOCAL_STORE": path}), "send")
    assert "another program's database" in step.detail
    assert "LOCAL_STORE" in step.remedy


# ----- Exporters of others


class Exporter(SpanExporter):
    """Behaves as ``mode`` says."""

    mode: Any = SpanExportResult.SUCCESS
    spans: list[ReadableSpan] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if isinstance(self.mode, BaseException):
            raise self.mode
        if isinstance(self.mode, threading.Event):
            self.mode.wait(30)
            return SpanExportResult.FAILURE
        type(self).spans = list(spans)
        result: SpanExportResult = self.mode
        return result


def NoExporter() -> None:
    return None


@pytest.fixture
def custom(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(Exporter, "mode", SpanExportResult.SUCCESS)
    return {"EXPORTER": "tests.diagnosis.test_steps.Exporter"}


def test_an_exporter_of_one_s_own(custom: dict[str, Any]) -> None:
    result = Result(custom)
    assert result.exit_code == 0
    assert [span.name for span in Exporter.spans] == ["check_tracing.child", "check_tracing"]
    assert result.last.outcome == "skipped"
    assert "name" not in result.names


def test_an_exporter_of_one_s_own_that_fails(custom: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Exporter, "mode", SpanExportResult.FAILURE)
    failed(Result(custom), "send")


def test_an_exporter_of_one_s_own_that_raises(custom: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Exporter, "mode", RuntimeError("no route for header-secret-1"))
    result = Result({**custom, "HEADERS": {"authorization": "Bearer header-secret-1"}})
    assert "RuntimeError: no route" in failed(result, "send").detail
    assert "header-secret-1" not in result.text


def test_an_exporter_of_one_s_own_that_hangs(custom: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    ends = threading.Event()
    monkeypatch.setattr(Exporter, "mode", ends)
    try:
        step = failed(Result(custom, timeout=0.3), "send")
    finally:
        ends.set()
    assert "0.3 s" in step.detail


def test_a_console_is_not_read_back(capfd: pytest.CaptureFixture[str]) -> None:
    result = Result({"EXPORTER": "console"})
    assert result.exit_code == 0
    assert result.last.outcome == "skipped"
    out, err = capfd.readouterr()
    # What is printed by the exporter must not stand among what the command prints for programs.
    assert '"name": "check_tracing"' in err
    assert out == ""
