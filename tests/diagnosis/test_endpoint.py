"""Test the checks of the way to the endpoint, on real servers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.conf import settings as django_settings

from django_tracing.diagnosis.advice import PORTS
from example_project.servers import free_port
from tests.diagnosis.helpers import DATA, Result, Web, always, deaf, failed
from tests.jaegers import Jaeger
from tests.receivers import OTLPReceiver


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
def test_a_port_that_never_answers_times_out(extra: dict[str, str]) -> None:
    with deaf() as port:
        result = Result({"ENDPOINT": f"http://127.0.0.1:{port}", **extra}, timeout=1.0)
    assert result.last.outcome == "failed"
    assert result.last.name in ("protocol", "send")
    assert "answer" in result.last.detail
    assert result.exit_code == 1


@pytest.mark.parametrize(
    ("certificate", "trusted", "reason"),
    [
        ("localhost.pem", None, "self-signed"),
        ("expired.pem", "expired.pem", "expired"),
        ("other.pem", "other.pem", "localhost"),
    ],
)
def test_certificates_that_are_not_trusted(
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


@pytest.mark.parametrize("variable", [False, True], ids=["setting", "variable"])
def test_a_certificate_that_the_ca_file_has_signed(variable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    file = str(DATA / "localhost.pem")
    with Web(always(200, "application/x-protobuf"), certificate="localhost.pem") as web:
        if variable:
            result = Result({"ENDPOINT": web.url}, {"OTEL_EXPORTER_OTLP_CERTIFICATE": file}, query=False)
        else:
            result = Result({"ENDPOINT": web.url, "TLS_CA_FILE": file}, query=False)
    assert result.step("tls").outcome == "ok"
    assert result.exit_code == 0, result.text


@pytest.mark.parametrize("kind", ["otlp", "otlp-grpc"])
def test_a_certificate_that_the_ca_file_has_not_signed(kind: str) -> None:
    tracing = {"EXPORTER": kind, "TLS_CA_FILE": str(DATA / "other.pem")}
    with Web(always(200), certificate="localhost.pem") as web:
        step = failed(Result({"ENDPOINT": web.url, **tracing}, timeout=5), "tls")
    assert step.meaning == f"No authority in {DATA / 'other.pem'} has signed it."
    assert step.remedy.startswith('Correct TRACING["TLS_CA_FILE"]: ')


def test_the_remedy_without_a_ca_file_names_the_setting_where_it_has_an_effect() -> None:
    with Web(always(200), certificate="localhost.pem") as web:
        assert 'TRACING["TLS_CA_FILE"]' in failed(Result({"ENDPOINT": web.url}), "tls").remedy
        thrift = failed(Result({"ENDPOINT": f"{web.url}/api/traces"}), "tls").remedy
    assert thrift == "Trust its authority: set SSL_CERT_FILE=/path/to/ca.pem in the environment."


def test_https_to_a_port_without_tls(receiver: OTLPReceiver) -> None:
    step = failed(Result({"ENDPOINT": f"https://localhost:{receiver.port}"}), "tls")
    assert f"http://localhost:{receiver.port}" in step.remedy


@pytest.mark.parametrize("extra", [{}, {"EXPORTER": "otlp-grpc"}, {"EXPORTER": "jaeger"}])
def test_http_to_a_port_with_tls(extra: dict[str, str]) -> None:
    with Web(always(200), certificate="localhost.pem") as web:
        step = failed(Result({"ENDPOINT": f"http://localhost:{web.port}", **extra}, timeout=5), "protocol")
    assert f"https://localhost:{web.port}" in step.remedy


def test_a_port_with_tls_that_answers_in_http() -> None:
    with Web(always(400, "text/plain", b"Client sent an HTTP request to an HTTPS server.\n")) as web:
        step = failed(Result({"ENDPOINT": web.url}), "protocol")
    assert f"https://localhost:{web.port}" in step.remedy


def test_grpc_over_tls_uses_its_own_authorities(monkeypatch: pytest.MonkeyPatch) -> None:
    with Web(always(200), certificate="localhost.pem") as web:
        result = Result({"ENDPOINT": web.url, "EXPORTER": "otlp-grpc"}, timeout=5)
        assert result.step("tls").outcome == "warning"
        assert "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH" in result.step("tls").remedy
        assert result.last.outcome == "failed"
        monkeypatch.setenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", str(DATA / "localhost.pem"))
        assert Result({"ENDPOINT": web.url, "EXPORTER": "otlp-grpc"}, timeout=5).step("tls").outcome == "ok"


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("path", ["", "/api/traces"])
def test_credentials(status: int, path: str) -> None:
    with Web(always(status)) as web:
        result = Result({"ENDPOINT": web.url + path, "HEADERS": {"authorization": "Bearer abcdefghijkl"}})
    step = failed(result, "protocol")
    assert str(status) in step.detail
    # Thrift uses the credentials of the URL, and no headers.
    assert ("user:password@" in step.remedy) if path else ("HEADERS" in step.remedy)
    assert "abcdefghijkl" not in result.text


@pytest.mark.parametrize(
    ("tracing", "environ", "place"),
    [
        ({"COMPRESSION": "gzip"}, {}, 'TRACING["COMPRESSION"]'),
        ({}, {"OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"}, "the environment variable OTEL_EXPORTER_OTLP_COMPRESSION"),
    ],
)
def test_a_backend_that_does_not_support_gzip(
    receiver: OTLPReceiver, tracing: dict[str, Any], environ: dict[str, str], place: str
) -> None:
    receiver.mode = 415
    step = failed(Result({"ENDPOINT": receiver.endpoint, **tracing}, environ), "protocol")
    assert "gzip (415)" in step.detail
    assert step.remedy == f'Set {place} to "none".'


@pytest.mark.parametrize(("status", "word"), [(500, "500"), (503, "503"), (429, "429")])
def test_a_backend_that_is_overloaded(receiver: OTLPReceiver, status: int, word: str) -> None:
    receiver.mode = status
    assert word in failed(Result({"ENDPOINT": receiver.endpoint}), "send").detail


def test_a_path_that_does_not_accept_spans(receiver: OTLPReceiver) -> None:
    receiver.mode = 404
    step = failed(Result({"ENDPOINT": f"{receiver.endpoint}/tracing"}), "protocol")
    assert f"{receiver.endpoint}/tracing" in step.detail
    assert "404" in step.detail
    assert 'TRACING["ENDPOINT"]' in step.remedy


def test_a_path_of_another_otlp_backend(any_jaeger: Jaeger) -> None:
    step = failed(Result({}, {"JAEGER_ENDPOINT": f"{any_jaeger.otlp_http}/otlp"}), "protocol")
    assert "at another path" in step.meaning
    assert step.remedy == f'Set the environment variable JAEGER_ENDPOINT to "{any_jaeger.otlp_http}".'


def test_a_login_page() -> None:
    with Web(always(302)) as web:
        assert "302" in failed(Result({"ENDPOINT": web.url}), "protocol").detail


@pytest.mark.parametrize("path", ["", "/api/traces"])
def test_a_web_page_with_status_200_is_not_a_success(path: str) -> None:
    with Web(always(200, "text/html; charset=utf-8", b"<!DOCTYPE html><title>Shop</title>")) as web:
        step = failed(Result({"ENDPOINT": web.url + path}, query=False), "protocol")
    assert "web page" in step.detail


def test_ports_of_old_jaeger_versions(any_jaeger: Jaeger, monkeypatch: pytest.MonkeyPatch) -> None:
    # Jaeger's old protocol is gRPC, too, but does not accept OTLP.

    netloc = urlsplit(any_jaeger.otlp_grpc).netloc
    monkeypatch.setitem(PORTS, urlsplit(any_jaeger.otlp_grpc).port, "That is usually Jaeger's old gRPC.")
    step = failed(Result({"ENDPOINT": f"http://{netloc}"}), "protocol")
    assert "old gRPC" in step.meaning
    assert "otlp-grpc" not in step.remedy
    assert "udp://" in failed(Result({"ENDPOINT": "http://127.0.0.1:6831"}), "port").meaning


@pytest.mark.parametrize("mode", ["drop", "garbage"])
def test_a_server_that_does_not_speak_http(receiver: OTLPReceiver, mode: str) -> None:
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
    """Return a TCP port of the tests' PostgreSQL, which may listen only on a socket in the file system."""
    database = django_settings.DATABASES["default"]
    if not str(database["HOST"]).startswith("/"):
        yield int(database["PORT"] or 5432)
        return
    path = f"{database['HOST']}/.s.PGSQL.{database['PORT'] or 5432}"
    with forwarded(path) as port:
        yield port


@contextmanager
def forwarded(path: str) -> Iterator[int]:
    """Open a TCP port that forwards connections to a socket in the file system."""

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


@pytest.mark.parametrize(
    ("port", "exporter", "words"),
    [
        ("thrift_http", "otlp", ["Thrift", "{netloc}/api/traces"]),
        ("thrift_http", "otlp-grpc", ["Thrift", "{netloc}/api/traces"]),
        ("otlp_http", "jaeger", ["OTLP over HTTP", "http://{netloc}"]),
        ("otlp_http", "otlp-grpc", ["OTLP over HTTP", "http://{netloc}"]),
        ("otlp_grpc", "otlp", ["gRPC", "otlp-grpc"]),
        ("otlp_grpc", "jaeger", ["gRPC", "otlp-grpc"]),
        ("query", "otlp", ["query", "4318", "QUERY_URL"]),
        ("query", "otlp-grpc", ["query", "4318", "QUERY_URL"]),
        ("query", "jaeger", ["query", "4318", "QUERY_URL"]),
    ],
)
def test_the_wrong_protocol_for_a_port_of_jaeger(
    any_jaeger: Jaeger, port: str, exporter: str, words: Sequence[str]
) -> None:
    netloc = urlsplit(getattr(any_jaeger, port)).netloc
    # Also without reading back: a server that answers 200 to everything has not accepted the trace.
    result = Result({"ENDPOINT": f"http://{netloc}", "EXPORTER": exporter}, query=False)
    step = failed(result, "protocol")
    for word in words:
        assert word.format(netloc=netloc) in step.meaning + step.remedy


def test_a_protocol_set_by_opentelemetry_s_variable(any_jaeger: Jaeger) -> None:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": any_jaeger.otlp_grpc, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
    remedy = failed(Result({}, environ), "protocol").remedy
    variable = "the environment variable OTEL_EXPORTER_OTLP_PROTOCOL"
    assert remedy == f'Set {variable} to "grpc". This exporter needs the extra [otlp-grpc].'
