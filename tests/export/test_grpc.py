"""Test OTLP over gRPC, with a real Jaeger and with servers that don't speak gRPC."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)

from django_tracing.exceptions import ExportError
from django_tracing.export import build_exporter
from django_tracing.export.grpc import make_otlp_grpc_exporter
from example_project.servers import free_port
from tests.export.builders import Recorder, make_spans
from tests.jaegers import Jaeger
from tests.receivers import OTLPReceiver

ROOT = Path(__file__).parents[2]


class Service(TraceServiceServicer):
    """A service that stores requests; it answers with ``status`` if set, and reports ``rejected`` spans."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.metadata: dict[str, Any] = {}
        self.status: grpc.StatusCode | None = None
        self.rejected = 0
        #: Seconds of a RetryInfo, with the status.
        self.delay: int | None = None

    def Export(self, request: ExportTraceServiceRequest, context: Any) -> ExportTraceServiceResponse:
        self.metadata = {item.key: item.value for item in context.invocation_metadata()}
        if self.status is not None:
            if self.delay is not None:
                context.set_trailing_metadata([("grpc-status-details-bin", retry_info(self.delay))])
            context.abort(self.status, "because")
        self.names += [
            span.name for group in request.resource_spans for scope in group.scope_spans for span in scope.spans
        ]
        return ExportTraceServiceResponse(
            partial_success=ExportTracePartialSuccess(rejected_spans=self.rejected) if self.rejected else None
        )


def retry_info(seconds: int) -> bytes:
    """Return a google.rpc.Status with a RetryInfo, as a server sends it."""
    error_details = pytest.importorskip("google.rpc.error_details_pb2")
    status = pytest.importorskip("google.rpc.status_pb2").Status(code=8)
    info = error_details.RetryInfo()
    info.retry_delay.seconds = seconds
    status.details.add().Pack(info)
    return bytes(status.SerializeToString())


@pytest.fixture
def service() -> Iterator[tuple[str, Service]]:
    """Yield an address and the service that receives what is sent there."""
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        kept = Service()
        add_TraceServiceServicer_to_server(kept, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"http://127.0.0.1:{port}", kept
        server.stop(0).wait()


Connect = Callable[..., Any]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Return a function that makes exporters, and shut them down after the test."""
    made: list[Any] = []

    def connect(endpoint: str, **options: Any) -> Any:
        made.append(make_otlp_grpc_exporter(endpoint, **options))
        return made[-1]

    yield connect
    for exporter in made:
        exporter.shutdown()


def failure(exporter: Any) -> ExportError:
    with pytest.raises(ExportError) as caught:
        exporter.export(make_spans())
    return caught.value


@pytest.mark.parametrize("name", ["jaeger", "jaeger_151"])
def test_arrives_in_a_real_jaeger(request: pytest.FixtureRequest, connect: Connect, name: str) -> None:
    jaeger: Jaeger = request.getfixturevalue(name)
    recorder = Recorder()
    recorder.tracer.start_span("over grpc", attributes={"a": 1}).end()
    connect(jaeger.otlp_grpc).export(recorder.spans)
    context = recorder.spans[0].context
    assert context is not None
    trace = jaeger.wait_trace(f"{context.trace_id:032x}")
    assert trace["spans"][0]["operationName"] == "over grpc"


def test_headers_become_metadata(connect: Connect, service: tuple[str, Service]) -> None:
    endpoint, kept = service
    connect(endpoint, headers={"Authorization": "Bearer s3cret"}).export(make_spans(3))
    assert kept.names == ["span-0", "span-1", "span-2"]
    assert kept.metadata["authorization"] == "Bearer s3cret"


def test_a_wrong_header_is_named_without_its_value() -> None:
    with pytest.raises(ValueError, match="authorization") as caught:
        make_otlp_grpc_exporter("http://127.0.0.1:9", headers={"authorization": "s3cret\n"})
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "reason", "retryable"),
    [
        ("UNAUTHENTICATED", "unauthorized", False),
        ("PERMISSION_DENIED", "unauthorized", False),
        ("UNIMPLEMENTED", "not_found", False),
        ("INVALID_ARGUMENT", "rejected", False),
        ("INTERNAL", "rejected", False),
        ("RESOURCE_EXHAUSTED", "too_large", False),
        ("UNAVAILABLE", "unavailable", True),
        ("DEADLINE_EXCEEDED", "timeout", True),
    ],
)
def test_responses_are_classified(
    connect: Connect, service: tuple[str, Service], status: str, reason: str, retryable: bool
) -> None:
    endpoint, kept = service
    kept.status = grpc.StatusCode[status]
    exporter = connect(endpoint)
    error = failure(exporter)
    assert (error.reason, error.retryable) == (reason, retryable)
    # The next export works.
    kept.status = None
    exporter.export(make_spans())
    assert kept.names == ["span-0"]


@pytest.mark.parametrize("name", ["jaeger", "jaeger_151"])
def test_a_real_jaeger_accepts_gzip(request: pytest.FixtureRequest, connect: Connect, name: str) -> None:
    jaeger: Jaeger = request.getfixturevalue(name)
    # grpc doesn't compress a message that wouldn't become smaller.
    spans = make_spans(1, name="zipped", note="again " * 1000)
    connect(jaeger.otlp_grpc, compression="gzip").export(spans)
    assert spans[0].context is not None
    found = jaeger.wait_trace(f"{spans[0].context.trace_id:032x}")
    assert found["spans"][0]["operationName"] == "zipped-0"


def relay(server: str, sent: list[bytes]) -> socket.socket:
    """Return a listening socket that forwards its first connection to ``server`` and records the data in ``sent``."""
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, sink: socket.socket, kept: list[bytes] | None) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if kept is not None:
                    kept.append(data)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def serve() -> None:
        client, _ = listener.accept()
        parts = urlsplit(server)
        with client, socket.create_connection((parts.hostname or "", parts.port or 0)) as upstream:
            back = threading.Thread(target=pump, args=(upstream, client, None))
            back.start()
            pump(client, upstream, sent)
            back.join()

    threading.Thread(target=serve, daemon=True).start()
    return listener


def test_gzip_is_smaller_on_the_wire_and_the_service_reads_the_same(
    connect: Connect, service: tuple[str, Service]
) -> None:
    endpoint, kept = service
    lengths = {}
    for compression in ("none", "gzip"):
        sent: list[bytes] = []
        with relay(endpoint, sent) as listener:
            exporter = connect(f"http://127.0.0.1:{listener.getsockname()[1]}", compression=compression)
            exporter.export(make_spans(100, note="the same again and again " * 9))
            exporter.shutdown()
        lengths[compression] = sum(map(len, sent))
    assert kept.names == [f"span-{number}" for number in range(100)] * 2
    assert lengths["gzip"] < lengths["none"] / 3


def test_a_service_that_does_not_support_gzip(connect: Connect) -> None:
    # Only bit 0: no compression.
    options = (("grpc.compression_enabled_algorithms_bitset", 1),)
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool, options=options)
        kept = Service()
        add_TraceServiceServicer_to_server(kept, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        endpoint = f"http://127.0.0.1:{port}"
        error = failure(connect(endpoint, compression="gzip"))
        assert str(error) == f"127.0.0.1:{port} does not support gzip (UNIMPLEMENTED)."
        assert (error.reason, error.retryable) == ("compression", False)
        connect(endpoint).export(make_spans())
        assert kept.names == ["span-0"]
        server.stop(0).wait()


def test_a_service_that_rejects_spans_is_not_reported_as_one_without_gzip(
    connect: Connect, service: tuple[str, Service]
) -> None:
    endpoint, kept = service
    kept.status = grpc.StatusCode.UNIMPLEMENTED
    assert failure(connect(endpoint, compression="gzip")).reason == "not_found"


def test_a_partial_success_has_the_number_of_rejected_spans(connect: Connect, service: tuple[str, Service]) -> None:
    endpoint, kept = service
    kept.rejected = 2
    assert failure(connect(endpoint)).rejected == 2


@pytest.mark.parametrize("status", ["RESOURCE_EXHAUSTED", "UNAVAILABLE"])
def test_a_retry_info_is_the_delay_before_the_next_attempt(
    connect: Connect, service: tuple[str, Service], status: str
) -> None:
    endpoint, kept = service
    kept.status, kept.delay = grpc.StatusCode[status], 7
    error = failure(connect(endpoint))
    assert (error.reason, error.retryable, error.retry_after) == ("unavailable", True, 7)


def test_a_probe_sends_no_span(connect: Connect, service: tuple[str, Service]) -> None:
    endpoint, kept = service
    connect(endpoint).probe()
    assert kept.names == []
    kept.status = grpc.StatusCode.UNAVAILABLE
    with pytest.raises(ExportError):
        connect(endpoint).probe()


def test_a_server_that_does_not_speak_grpc(connect: Connect) -> None:
    with OTLPReceiver() as receiver:
        assert failure(connect(receiver.endpoint)).reason == "wrong_protocol"
        assert failure(connect(receiver.endpoint.replace("http:", "https:"))).reason == "tls"


def test_connections(connect: Connect) -> None:
    error = failure(connect("http://127.0.0.1:9"))
    assert (error.reason, error.retryable) == ("refused", True)
    assert str(error) == "Nothing listens on 127.0.0.1:9."
    assert failure(connect("http://no-such-host.invalid:4317")).reason == "dns"


def test_a_hanging_service(connect: Connect) -> None:
    # Its backlog accepts the connection, but nothing answers.
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        error = failure(connect(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.3))
    assert (error.reason, error.retryable) == ("timeout", True)


def test_sends_again_immediately_after_an_outage(connect: Connect) -> None:
    with ThreadPoolExecutor(2) as pool:
        first = grpc.server(pool)
        # A port that isn't used for outgoing connections while the server is down.
        port = free_port()
        first.add_insecure_port(f"127.0.0.1:{port}")
        first.start()
        first.stop(0).wait()
        exporter = connect(f"http://127.0.0.1:{port}")
        for _ in range(4):
            assert failure(exporter).retryable
        second = grpc.server(pool)
        kept = Service()
        add_TraceServiceServicer_to_server(kept, second)
        second.add_insecure_port(f"127.0.0.1:{port}")
        second.start()
        exporter.export(make_spans())
        assert kept.names == ["span-0"]
        second.stop(0).wait()


_PROGRAM = """
import os, sys
from opentelemetry.sdk.trace import TracerProvider
from django_tracing.export import build_exporter
from django_tracing.export.queue import QueueProcessor
processor = QueueProcessor(build_exporter("otlp-grpc", endpoint=sys.argv[1]), export_interval=600, shutdown_timeout=3)
provider = TracerProvider()
provider.add_span_processor(processor)
tracer = provider.get_tracer("t")
"""


def _program(code: str, endpoint: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore:.*fork:DeprecationWarning", "-c", _PROGRAM + code, endpoint],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        check=False,
    )


def test_waiting_spans_are_sent_when_the_interpreter_ends(service: tuple[str, Service]) -> None:
    endpoint, kept = service
    run = _program('tracer.start_span("a").end()', endpoint)
    assert (run.returncode, run.stderr) == (0, "")
    assert kept.names == ["a"]


def test_the_interpreter_ends_even_if_nothing_listens() -> None:
    run = _program('tracer.start_span("a").end()', "http://127.0.0.1:9")
    assert run.returncode == 0
    assert "1 spans could not be sent" in run.stderr
    assert len(run.stderr.splitlines()) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("used", [False, True])
def test_a_forked_child_sends_its_own_spans(service: tuple[str, Service], used: bool) -> None:
    endpoint, kept = service
    run = _program(
        f"""
if {used}:
    tracer.start_span("parent").end()
    assert processor.force_flush()
child = os.fork()
if child == 0:
    tracer.start_span("child").end()
    os._exit(0 if processor.force_flush(20_000) else 1)
status = os.waitpid(child, 0)[1]
tracer.start_span("after").end()
sys.exit(1 if status else 0)
""",
        endpoint,
    )
    assert run.returncode == 0, run.stderr
    assert kept.names == (["parent"] if used else []) + ["child", "after"]


def test_the_error_for_a_missing_package_names_the_fix() -> None:
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; sys.modules['grpc'] = None\n"
            "from django_tracing.export import build_exporter\n"
            "from django_tracing.exceptions import MissingExtra\n"
            "try:\n    build_exporter('otlp-grpc', endpoint='http://127.0.0.1:9')\n"
            "except MissingExtra as error:\n    print(error)",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        check=True,
    )
    assert 'pip install "django-tracing-otel[otlp-grpc]"' in run.stdout
    assert "port 4318" in run.stdout


def test_build_exporter_passes_all_options(service: tuple[str, Service]) -> None:
    endpoint, kept = service
    exporter = build_exporter("otlp-grpc", endpoint=endpoint, headers={"X-Tenant": "blue"}, timeout=5)
    assert exporter is not None
    exporter.export(make_spans())
    assert kept.metadata["x-tenant"] == "blue"
    exporter.shutdown()
