"""Test TLS with custom authorities and client certificates, over HTTP and gRPC, with real receivers."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import add_TraceServiceServicer_to_server

from django_tracing.exceptions import ExportError
from django_tracing.export import build_exporter
from tests.export.builders import make_spans
from tests.export.test_grpc import Service
from tests.receivers import OTLPReceiver


class Files(NamedTuple):
    """An authority and the certificates it signed: the receiver's, a client's, and a client's with its key in one file."""

    authority: trustme.CA
    folder: Path

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    @property
    def server(self) -> Path:
        return self.folder / "server.pem"

    @property
    def key(self) -> Path:
        return self.folder / "client.key"

    @property
    def certificate(self) -> Path:
        return self.folder / "client.crt"

    @property
    def both(self) -> Path:
        return self.folder / "both.pem"

    def issue(self) -> None:
        """Write a new client certificate and its key."""
        client = self.authority.issue_cert("shop@example.org")
        client.private_key_pem.write_to_path(self.key)
        client.cert_chain_pems[0].write_to_path(self.certificate)
        client.private_key_and_cert_chain_pem.write_to_path(self.both)


def make_files(folder: Path) -> Files:
    authority = trustme.CA()
    files = Files(authority, folder)
    authority.cert_pem.write_to_path(files.ca)
    authority.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(files.server)
    files.issue()
    return files


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return make_files(tmp_path_factory.mktemp("tls"))


class Receiver(NamedTuple):
    """An endpoint, and the names of the spans that arrived."""

    kind: str
    endpoint: str
    names: Callable[[], list[str]]


Receive = Callable[..., Receiver]


@pytest.fixture(params=["otlp", "otlp-grpc"])
def receive(request: pytest.FixtureRequest, files: Files) -> Iterator[Receive]:
    """Return a function that starts a receiver with TLS, which requires a client certificate if ``mutual``."""
    stop: list[Callable[[], Any]] = []

    def over_http(mutual: bool) -> Receiver:
        receiver = OTLPReceiver().__enter__()
        stop.append(lambda: receiver.__exit__(None, None, None))
        receiver.use_tls(files.server, clients=files.ca if mutual else None)
        endpoint = receiver.endpoint.replace("http:", "https:")
        return Receiver("otlp", endpoint, lambda: [span.name for span in receiver.spans])

    def over_grpc(mutual: bool) -> Receiver:
        pool = ThreadPoolExecutor(2)
        server = grpc.server(pool)
        service = Service()
        add_TraceServiceServicer_to_server(service, server)
        pem = files.server.read_bytes()
        credentials = grpc.ssl_server_credentials(
            [(pem, pem)], files.ca.read_bytes() if mutual else None, require_client_auth=mutual
        )
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        stop.append(lambda: (server.stop(0).wait(), pool.shutdown()))
        return Receiver("otlp-grpc", f"https://127.0.0.1:{port}", lambda: service.names)

    def receive(*, mutual: bool = False) -> Receiver:
        return (over_http if request.param == "otlp" else over_grpc)(mutual)

    yield receive
    for each in stop:
        each()


@pytest.fixture
def connect() -> Iterator[Callable[..., Any]]:
    made: list[Any] = []

    def connect(receiver: Receiver, **options: Any) -> Any:
        made.append(build_exporter(receiver.kind, endpoint=receiver.endpoint, **options))
        return made[-1]

    yield connect
    for exporter in made:
        exporter.shutdown()


def test_a_receiver_with_a_certificate_of_a_custom_authority(receive: Receive, connect: Any, files: Files) -> None:
    receiver = receive()
    connect(receiver, tls_ca_file=files.ca).export(make_spans(2))
    assert receiver.names() == ["span-0", "span-1"]


def test_without_the_authority_nothing_is_sent(receive: Receive, connect: Any, files: Files) -> None:
    receiver = receive()
    for options in ({}, {"tls_client_key": files.key, "tls_client_certificate": files.certificate}):
        with pytest.raises(ExportError) as caught:
            connect(receiver, **options).export(make_spans())
        assert caught.value.reason == "tls"
    assert receiver.names() == []


def test_a_custom_authority_replaces_those_of_the_system(
    receive: Receive, connect: Any, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stolen certificate of a public authority does not help to impersonate the receiver."""
    receiver = receive()
    monkeypatch.setenv("SSL_CERT_FILE", str(files.ca))
    monkeypatch.setenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", str(files.ca))
    with pytest.raises(ExportError) as caught:
        connect(receiver, tls_ca_file=make_files(tmp_path).ca).export(make_spans())
    assert caught.value.reason == "tls"


def test_mutual_tls(receive: Receive, connect: Any, files: Files) -> None:
    receiver = receive(mutual=True)
    options = {"tls_client_key": files.key, "tls_client_certificate": files.certificate}
    connect(receiver, tls_ca_file=files.ca, **options).export(make_spans())
    # The key may be in the certificate's file.
    connect(receiver, tls_ca_file=files.ca, tls_client_certificate=files.both).export(make_spans(1, name="both"))
    assert receiver.names() == ["span-0", "both-0"]


def test_a_receiver_that_requires_a_client_certificate_rejects_other_clients(
    receive: Receive, connect: Any, files: Files, tmp_path: Path
) -> None:
    receiver = receive(mutual=True)
    stranger = make_files(tmp_path)
    for options in ({}, {"tls_client_key": stranger.key, "tls_client_certificate": stranger.certificate}):
        with pytest.raises(ExportError):
            connect(receiver, tls_ca_file=files.ca, **options).export(make_spans())
    assert receiver.names() == []


def test_renewed_files_are_used_by_the_next_connection(
    receive: Receive, connect: Any, tmp_path: Path, files: Files
) -> None:
    receiver = receive(mutual=True)
    own = Files(files.authority, tmp_path)
    stranger = make_files(tmp_path)
    exporter = connect(receiver, tls_ca_file=files.ca, tls_client_key=own.key, tls_client_certificate=own.certificate)
    with pytest.raises(ExportError):
        exporter.export(make_spans())
    assert stranger.key.exists()
    # Half renewed: the former pair stays in use, and no error other than the receiver's is raised.
    own.certificate.write_text("")
    with pytest.raises(ExportError):
        exporter.export(make_spans())
    own.issue()
    exporter.export(make_spans(1, name="renewed"))
    assert receiver.names() == ["renewed-0"]


def test_files_are_not_used_without_tls(tmp_path: Path, connect: Any) -> None:
    with OTLPReceiver() as receiver:
        plain = Receiver("otlp", receiver.endpoint, lambda: [span.name for span in receiver.spans])
        connect(plain, tls_ca_file=tmp_path / "missing.pem").export(make_spans())
        assert plain.names() == ["span-0"]


# ----- Wrong files


def encrypted(files: Files, folder: Path) -> Path:
    key: Any = load_pem_private_key(files.key.read_bytes(), None)
    path = folder / "encrypted.key"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    return path


def wrong_files(files: Files, folder: Path) -> Iterator[tuple[dict[str, Path], str]]:
    missing, junk, other = folder / "missing.pem", folder / "junk.pem", make_files(folder)
    junk.write_bytes(b"\xff\xfe no PEM")
    empty = folder / "empty.pem"
    empty.write_text("")
    large = folder / "large.pem"
    with open(large, "wb") as file:
        file.truncate(5 * 1024 * 1024)
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    yield {"tls_ca_file": missing}, f"No TLS CA file {missing}."
    yield {"tls_ca_file": folder}, f"The TLS CA file {folder} is not a file."
    yield {"tls_ca_file": pipe}, f"The TLS CA file {pipe} is not a file."
    yield {"tls_ca_file": Path("/dev/zero")}, "The TLS CA file /dev/zero is not a file."
    yield {"tls_ca_file": large}, f"The TLS CA file {large} is too large."
    yield {"tls_ca_file": junk}, f"The TLS CA file {junk} has no certificate in PEM format."
    yield {"tls_ca_file": empty}, f"The TLS CA file {empty} has no certificate in PEM format."
    yield {"tls_ca_file": files.key}, f"The TLS CA file {files.key} has no certificate in PEM format."
    yield {"tls_client_key": files.key}, f"The TLS client key {files.key} needs a client certificate."
    yield {"tls_client_certificate": missing}, f"No TLS client certificate {missing}."
    client = {"tls_client_certificate": files.certificate}
    yield (
        client,
        f"The TLS client key {files.certificate} and the client certificate {files.certificate} can't be read",
    )
    yield {**client, "tls_client_key": missing}, f"No TLS client key {missing}."
    yield {**client, "tls_client_key": junk}, f"The TLS client key {junk} and the client certificate"
    yield {**client, "tls_client_key": other.key}, f"The TLS client key {other.key} does not belong to"
    secret = encrypted(files, folder)
    yield {**client, "tls_client_key": secret}, f"The TLS client key {secret} is encrypted."


@pytest.mark.parametrize("kind", ["otlp", "otlp-grpc"])
def test_a_wrong_file_is_named_when_the_exporter_is_built(kind: str, files: Files, tmp_path: Path) -> None:
    for options, message in wrong_files(files, tmp_path):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared
            build_exporter(kind, endpoint="https://c:4318", **options)  # type: ignore[arg-type]
        assert str(caught.value).startswith(message)
        # The setting whose file it is: the key may be in the file of the certificate.
        named = re.search(r"TLS (CA file|client key|client certificate) (\S+)", message)
        assert named is not None
        owners = {str(path): option.upper() for option, path in options.items()}
        assert caught.value.setting == owners[named[2].rstrip(".")]  # type: ignore[attr-defined]
        assert "secret" not in str(caught.value)


@pytest.mark.skipif(getattr(os, "geteuid", int)() == 0, reason="root may read every file")
def test_a_file_without_read_permission(files: Files, tmp_path: Path) -> None:
    key = tmp_path / "client.key"
    key.write_bytes(files.key.read_bytes())
    key.chmod(0)
    with pytest.raises(ValueError, match=r"client key .* can't be read: Permission denied"):
        build_exporter(
            "otlp", endpoint="https://c:4318", tls_client_certificate=files.certificate, tls_client_key=key
        )


def test_nothing_is_loaded_at_start_without_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading the system's authorities takes longer than the rest of the start."""
    loaded: list[Any] = []
    original = ssl.create_default_context
    monkeypatch.setattr(
        ssl, "create_default_context", lambda **options: loaded.append(options) or original(**options)
    )
    for kind in ("otlp", "otlp-grpc"):
        build_exporter(kind, endpoint="https://c:4318")
    assert loaded == []
