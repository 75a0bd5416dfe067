"""Check the way to the endpoint: its name, its port, TLS, and the protocol that it speaks."""

from __future__ import annotations

import http.client
import os
import socket
import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from opentelemetry import context as context_api

from django_tracing.conf.loading import load
from django_tracing.context.current import suppressed
from django_tracing.diagnosis.advice import (
    CERTIFICATE,
    PORTS,
    SPEECH,
    UNTRUSTED,
    UNTRUSTED_BY_FILE,
    UNTRUSTED_THRIFT,
    place,
)
from django_tracing.diagnosis.findings import Run, Step, Stop, shown
from django_tracing.diagnosis.probes import Speech, post, recognize
from django_tracing.exceptions import ExportError
from django_tracing.export.errors import from_network_error, from_status
from django_tracing.export.tls import TLSFiles
from django_tracing.net import host_and_port, parse_address
from django_tracing.provider import make_exporter

__all__ = ["check_endpoints", "check_name", "check_port", "check_protocol", "check_tls"]


def check_endpoints(run: Run) -> Iterator[Step]:
    """Send an empty message to each of several endpoints. One of them is enough."""
    failures: list[Step] = []
    for address in run.endpoints():
        try:
            run.bounded(lambda address=address: _probe(run, address))  # type: ignore[misc]
        except ExportError as error:
            if error.status != 400:  # some receivers take an empty message for a broken one
                failures.append(run.failure("endpoint", error.reason, str(error)))
                continue
        except TimeoutError:
            failures.append(run.failure("endpoint", "timeout", f"{shown(address)} did not answer in time."))
            continue
        yield Step("endpoint", "ok", f"{shown(address)} accepts spans")
    all_failed = len(failures) == len(run.endpoints())
    for step in failures:
        remedy = f"{step.remedy} For details: python manage.py check_tracing --endpoint URL".strip()
        yield replace(step, outcome="failed" if all_failed else "warning", remedy=remedy)
    if failures and all_failed:
        raise Stop


def _probe(run: Run, address: str) -> None:
    exporter: Any = make_exporter(run.settings._replace(endpoint=address, endpoints=()))
    context_api.attach(suppressed())
    try:
        exporter.probe()
    finally:
        exporter.shutdown()


def check_name(run: Run) -> Iterator[Step]:
    """Resolve the host name."""
    address = run.address()
    if address is None:
        return
    host, port, _ = address
    try:
        found = run.bounded(lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    except (socket.gaierror, UnicodeError):
        yield run.failure("name", "dns", f"The host name {host} is unknown.")
        raise Stop from None
    addresses = sorted({str(item[4][0]) for item in found})
    yield Step("name", "ok", host if addresses == [host] else f"{host} is {', '.join(addresses)}")


def check_port(run: Run) -> Iterator[Step]:
    """Connect to the port."""
    address = run.address()
    if address is None:
        return
    host, port, scheme = address
    if scheme == "udp":
        yield Step("port", "skipped", "UDP has no answers: only reading the trace back shows whether it arrived.")
        return
    timeout = min(run.remaining(), run.settings.export_timeout)
    try:
        run.bounded(lambda: socket.create_connection((host, port), timeout=timeout).close())
    except OSError as error:
        explained = from_network_error(error, host_and_port(host, port))
        yield run.failure("port", explained.reason, str(explained))
        raise Stop from None
    yield Step("port", "ok", f"{host_and_port(host, port)} accepts connections")


def check_tls(run: Run) -> Iterator[Step]:
    """Verify the certificate."""
    address = run.address()
    if address is None or address[2] != "https":
        return
    host, port, _ = address
    where = host_and_port(host, port)
    ca_file = run.settings.tls_ca_file if _has_tls_files(run) else None
    # grpc has its own list of authorities, unless it gets a file.
    grpc = run.settings.exporter == "otlp-grpc" and ca_file is None
    variable = "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH" if grpc else "SSL_CERT_FILE"
    authorities = os.environ.get(variable) if grpc else None
    try:
        version = run.bounded(lambda: _handshake(run, host, port, authorities))
    except ssl.SSLCertVerificationError as error:
        untrusted = UNTRUSTED if _has_tls_files(run) else UNTRUSTED_THRIFT
        if ca_file is not None:
            untrusted = UNTRUSTED_BY_FILE
        meaning, remedy = CERTIFICATE.get(error.verify_code, untrusted)
        yield Step(
            "tls",
            # The next step shows whether grpc accepts the certificate.
            "warning" if grpc else "failed",
            f"The certificate of {where} is not accepted: {error.verify_message.rstrip('.')}.",
            meaning.format(file=ca_file),
            remedy.format(
                at=run.endpoint_place, variable=variable, setting=place(run.settings.source("TLS_CA_FILE"))
            ),
        )
        if grpc:
            return
        raise Stop from None
    except OSError as error:
        explained = from_network_error(error, where)
        step = run.failure("tls", "tls", str(explained))
        if "does not speak TLS" in str(explained):
            plain = shown(run.settings.endpoint).replace("https://", "http://", 1)
            remedy = run.advise_setting("ENDPOINT", plain)
            step = replace(step, meaning="The port is not encrypted.", remedy=remedy)
        yield step
        raise Stop from None
    yield Step("tls", "ok", f"{version}, certificate accepted")


def _has_tls_files(run: Run) -> bool:
    """Return whether the exporter uses the files of the TLS settings."""
    return run.settings.exporter in ("otlp", "otlp-grpc")


def _tls_context(run: Run, authorities: str | None) -> ssl.SSLContext:
    """Return the context by which the exporter accepts the server's certificate."""
    settings = run.settings
    if not _has_tls_files(run) or (settings.tls_ca_file is None and settings.tls_client_certificate is None):
        return ssl.create_default_context(cafile=authorities)
    ca_file = settings.tls_ca_file or (Path(authorities) if authorities else None)
    return TLSFiles(ca_file, settings.tls_client_key, settings.tls_client_certificate).context()


def _handshake(run: Run, host: str, port: int, authorities: str | None) -> str | None:
    timeout = min(run.remaining(), run.settings.export_timeout)
    context = _tls_context(run, authorities)
    if run.settings.exporter == "otlp-grpc":
        # Without it, some gRPC servers close the connection.
        context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((host, port), timeout=timeout) as raw,
        context.wrap_socket(raw, server_hostname=host) as connection,
    ):
        return connection.version()


def check_protocol(run: Run) -> Iterator[Step]:
    """Send an empty message. It stores nothing, and only a receiver of spans accepts it."""
    address = run.address()
    if address is None or address[2] == "udp":
        return
    try:
        run.bounded(lambda: _send_nothing(run))
    except ExportError as error:
        yield from _explain(run, error)
        return
    yield Step("protocol", "ok", SPEECH[_speech(run)])


def _speech(run: Run) -> Speech:
    """Return the protocol that the exporter speaks."""
    return run.settings.exporter  # type: ignore[return-value]


def _send_nothing(run: Run) -> None:
    """Send an empty message, and raise ExportError if it is not accepted."""
    exporter, endpoint = run.exporter, run.settings.endpoint
    assert exporter is not None and endpoint is not None
    if run.settings.exporter != "jaeger":
        context_api.attach(suppressed())
        exporter.export(())
        return
    # OpenTelemetry's discontinued exporter sends nothing without spans, and takes a web page for success.
    address = parse_address(endpoint)
    headers = {"Content-Type": "application/x-thrift"}
    try:
        status, kind, body = post(address, headers, run.settings.export_timeout)
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        raise from_network_error(error, address.where) from None
    if status == 400 and b"jaeger.Batch" in body:
        return
    if status >= 300:
        raise from_status(status, shown(endpoint))
    if kind.startswith("text/html"):
        raise ExportError(
            f"{shown(endpoint)} answers with a web page: it does not accept spans.",
            reason="wrong_protocol",
            retryable=False,
        )


def _explain(run: Run, error: ExportError) -> Iterator[Step]:
    """Explain why the empty message was not accepted. What only a real trace can show is left to the next step."""
    if error.reason == "unauthorized":
        yield replace(run.failure("protocol", "unauthorized", str(error)), remedy=run.advise_credentials())
        raise Stop
    if error.reason == "compression":
        yield run.failure("protocol", "compression", str(error))
        raise Stop
    if error.status is not None and 300 <= error.status < 400:
        yield Step(
            "protocol",
            "failed",
            str(error),
            "The server redirects to another address, as login pages do. Redirects are not followed.",
            f"Set {run.endpoint_place} to an address that accepts spans without a redirect.",
        )
        raise Stop
    suspicious = error.reason in ("not_found", "wrong_protocol", "unreachable", "tls")
    # grpc reports UNAVAILABLE for everything that it can't connect to.
    unclear = error.reason in ("unavailable", "timeout") and run.settings.exporter == "otlp-grpc"
    found = _found_speech(run) if suspicious or unclear else None
    if found is not None:
        meaning = f"That port speaks {SPEECH[found]}, but the exporter speaks {SPEECH[_speech(run)]}."
        if found == "query":
            meaning = "That port is Jaeger's UI and query API, which reads traces. Spans go to another port."
        elif found == _speech(run):
            meaning = f"That port speaks {SPEECH[found]}, but at another path."
        yield Step("protocol", "failed", str(error), meaning, _advise_speech(run, found))
        raise Stop
    # Some receivers take an empty message for a broken one.
    if (suspicious and error.status != 400) or error.reason == "timeout":
        # The port accepted a connection a moment ago, so the network is not the reason.
        reason = "wrong_protocol" if error.reason == "unreachable" else error.reason
        yield run.failure("protocol", reason, str(error))
        raise Stop
    yield Step(
        "protocol", "warning", str(error), "The backend rejected an empty message. It may still accept a trace."
    )


def _found_speech(run: Run) -> Speech | None:
    """Return what the port speaks; None if it is what the exporter speaks, or if it is unknown."""
    address = run.address()
    assert address is not None
    host, port, scheme = address
    try:
        found = run.bounded(lambda: recognize(host, port, secure=scheme == "https", timeout=1.0))
    except TimeoutError:
        return None
    if found == "otlp-grpc" and port in PORTS:
        return None  # gRPC, but not OTLP
    # OTLP at another path than the configured one is a finding, too.
    path = urlsplit(run.settings.endpoint or "").path
    return None if found == run.settings.exporter and path in ("", "/", "/v1/traces", "/api/traces") else found


def _advise_speech(run: Run, found: Speech) -> str:
    """Tell which settings fit what the port speaks."""
    address = run.address()
    assert address is not None
    host, port, scheme = address
    base = f"{scheme}://{host_and_port(host, port)}"
    if found == "tls":
        return run.advise_setting("ENDPOINT", shown(run.settings.endpoint).replace("http://", "https://", 1))
    if found == "query":
        otlp = run.advise_setting("ENDPOINT", f"http://{host_and_port(host, 4318)}")
        return f'{otlp} To read traces from this port, set QUERY_URL to "{base}".'
    if found in ("postgresql", "redis"):
        return run.advise_setting("ENDPOINT", "http://jaeger:4318", "the address of your Jaeger, for example ")
    endpoint = f"{base}/api/traces" if found == "jaeger" else base
    sentences = []
    if (shown(run.settings.endpoint).removesuffix("/v1/traces"), found) != (endpoint, "otlp-grpc"):
        sentences.append(run.advise_setting("ENDPOINT", endpoint))
    chosen = run.sources[1] not in ("default", run.sources[0])
    if chosen or load({"ENDPOINT": endpoint}, {}).exporter != found:
        by_protocol = chosen and run.sources[1].endswith("_PROTOCOL") and found != "jaeger"
        protocol = "grpc" if found == "otlp-grpc" else "http/protobuf"
        sentences.append(
            f'Set {place(run.sources[1])} to "{protocol}".' if by_protocol else f'Set EXPORTER to "{found}".'
        )
    if found != "otlp":
        sentences.append(f"This exporter needs the extra [{found}].")
    return " ".join(sentences)
