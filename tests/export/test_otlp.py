"""Test that OTLP decodes to the same as the SDK's encoding, and that responses are classified."""

from __future__ import annotations

import base64
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans as encode_upstream
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.trace import SpanLimits
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)

from django_tracing.exceptions import ExportError
from django_tracing.export.answers import rejected_spans
from django_tracing.export.counters import Counters
from django_tracing.export.otlp import OTLPHTTPExporter
from django_tracing.export.wire import encode_spans
from example_project.servers import free_port
from tests.export.builders import Recorder, make_spans
from tests.jaegers import Jaeger
from tests.receivers import OTLPReceiver, decode

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | TEXT
    | st.binary(max_size=40)
    # These values are equal but must be encoded differently.
    | st.sampled_from([0, 1, True, False, 0.0, -0.0, 1.0, "", "1", b"1"])
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=8
)
ATTRIBUTES = st.dictionaries(TEXT.filter(bool), VALUES, max_size=6)
TIMES = st.integers(0, 2**63)
CONTEXTS = st.builds(
    SpanContext,
    trace_id=st.integers(1, 2**128 - 1),
    span_id=st.integers(1, 2**64 - 1),
    is_remote=st.booleans(),
    trace_flags=st.just(TraceFlags(1)),
    trace_state=st.sampled_from([TraceState(), TraceState([("a", "1"), ("b", "2")])]),
)
SPANS = st.fixed_dictionaries(
    {
        "name": TEXT,
        "kind": st.sampled_from(SpanKind),
        "attributes": ATTRIBUTES,
        "parent": st.none() | CONTEXTS,
        "links": st.lists(st.builds(Link, CONTEXTS, ATTRIBUTES), max_size=3),
        "events": st.lists(st.tuples(TEXT, ATTRIBUTES, TIMES), max_size=3),
        "status": st.sampled_from(
            [None, Status(StatusCode.OK), Status(StatusCode.ERROR, "no\N{LATIN SMALL LETTER O}")]
        ),
        "start": TIMES,
        "length": st.integers(0, 10**12),
        "scope": st.sampled_from(
            [("a", "1", None), ("a", "1", None), ("b", None, "https://example.org/b"), ("", "", "")]
        ),
    }
)


def record(recorder: Recorder, described: dict[str, Any]) -> None:
    name, version, schema = described["scope"]
    tracer = recorder.provider.get_tracer(
        name, version, schema_url=schema, attributes={"scope": 1} if version else None
    )
    parent = described["parent"]
    span = tracer.start_span(
        described["name"],
        context=trace.set_span_in_context(NonRecordingSpan(parent)) if parent else None,
        kind=described["kind"],
        attributes=described["attributes"],
        links=described["links"],
        start_time=described["start"],
    )
    for event, attributes, at in described["events"]:
        span.add_event(event, attributes, at)
    if described["status"]:
        span.set_status(described["status"])
    span.end(described["start"] + described["length"])


@pytest.mark.filterwarnings("ignore:You should use")
@settings(max_examples=60)
@given(
    st.lists(SPANS, min_size=1, max_size=4),
    ATTRIBUTES,
    st.sampled_from([None, SpanLimits(max_attributes=2, max_events=1, max_links=1, max_event_attributes=1)]),
)
@pytest.mark.skipif(not hasattr(TraceFlags, "RANDOM_TRACE_ID"), reason="the encoder of old SDKs doesn't support null")
def test_decodes_to_the_same_as_the_sdks_encoding(described, resource, limits) -> None:
    recorder = Recorder(resource, limits=limits)
    for one in described:
        record(recorder, one)
    spans = recorder.spans
    for _ in range(2):  # the second time, attributes come from the cache
        ours = ExportTraceServiceRequest.FromString(encode_spans(spans))
        assert ours.SerializeToString(deterministic=True) == encode_upstream(spans).SerializeToString(
            deterministic=True
        )


def test_the_numbers_of_what_was_dropped_are_encoded() -> None:
    limits = SpanLimits(
        max_span_attributes=2, max_events=1, max_links=1, max_event_attributes=1, max_link_attributes=1
    )
    recorder = Recorder(limits=limits)
    many = {f"key{number}": number for number in range(5)}
    linked = [Link(SpanContext(number, 2, is_remote=True), many) for number in (1, 2, 3)]
    span = recorder.tracer.start_span("span", attributes=many, links=linked)
    for _ in range(4):
        span.add_event("event", many)
    span.end()
    ours, theirs = encode_spans(recorder.spans), encode_upstream(recorder.spans)
    decoded = ExportTraceServiceRequest.FromString(ours)
    assert decoded == theirs
    # Nothing else is in it: what is unknown to a receiver compares as equal.
    assert len(ours) == theirs.ByteSize()
    (sent,) = decoded.resource_spans[0].scope_spans[0].spans
    dropped = (sent.dropped_attributes_count, sent.dropped_events_count, sent.dropped_links_count)
    assert dropped == (3, 3, 2)
    assert [part.dropped_attributes_count for part in (*sent.events, *sent.links)] == [4, 4]


def test_many_different_attributes_use_bounded_memory() -> None:
    from django_tracing.export import wire

    for start in range(0, 10_000, 1000):
        recorder = Recorder()
        for number in range(start, start + 1000):
            recorder.tracer.start_span("s", attributes={"id": f"value-{number}", "long": "x" * 5000}).end()
        encode_spans(recorder.spans)
    assert len(wire._attributes) <= 4096
    assert sum(map(len, wire._attributes.values())) < 2 * 1024 * 1024


def test_a_value_that_otlp_cannot_represent_loses_only_itself() -> None:
    recorder = Recorder()
    recorder.tracer.start_span("caf\udce9", attributes={"bad\udcff": "\udcff", "huge": 2**80, "good": "yes"}).end()
    before = Counters().snapshot()["dropped_attributes"].get("unencodable", 0)
    message = encode_spans(recorder.spans)
    (span,) = decode(message)
    assert span.name == "caf?"
    assert span.attributes == {"bad?": "?", "good": "yes"}
    request = ExportTraceServiceRequest.FromString(message)
    assert request.resource_spans[0].scope_spans[0].spans[0].dropped_attributes_count == 1
    assert Counters().snapshot()["dropped_attributes"]["unencodable"] == before + 1, "the status page shows it"


@pytest.fixture
def receiver() -> Iterator[OTLPReceiver]:
    with OTLPReceiver() as receiver:
        yield receiver


Connect = Callable[..., OTLPHTTPExporter]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Return a function that makes exporters, and shut them down after the test."""
    made: list[OTLPHTTPExporter] = []

    def connect(endpoint: str, **options: Any) -> OTLPHTTPExporter:
        made.append(OTLPHTTPExporter(endpoint, **options))
        return made[-1]

    yield connect
    for exporter in made:
        exporter.shutdown()


def failure(exporter: OTLPHTTPExporter) -> ExportError:
    with pytest.raises(ExportError) as caught:
        exporter.export(make_spans())
    return caught.value


class TestExporter:
    def test_sends_to_v1_traces_over_one_connection(self, connect: Connect, receiver: OTLPReceiver) -> None:
        exporter = connect(receiver.endpoint, headers={"X-Tenant": "blue"})
        exporter.export(make_spans(3))
        exporter.export(make_spans(2))
        assert [span.name for span in receiver.spans] == ["span-0", "span-1", "span-2", "span-0", "span-1"]
        assert receiver.spans[0].service == "shop"
        headers = receiver.headers[0]
        assert headers["content-type"] == "application/x-protobuf"
        assert headers["x-tenant"] == "blue"
        assert receiver.paths == ["/v1/traces", "/v1/traces"]
        assert receiver.connections == 1

    def test_after_its_end_it_sends_nothing(self, connect: Connect, receiver: OTLPReceiver) -> None:
        exporter = connect(receiver.endpoint)
        batch = exporter.new_batch()
        for span in make_spans(1):
            batch.add(span, *batch.pack(span))
        assert exporter.export(make_spans(1)) is SpanExportResult.SUCCESS
        assert exporter.force_flush()
        exporter.shutdown()
        assert exporter.export(make_spans(1)) is SpanExportResult.FAILURE
        assert exporter.export_batch(batch) is SpanExportResult.FAILURE
        assert len(receiver.spans) == 1

    def test_gzip_and_the_receiver_reads_the_same(self, connect: Connect, receiver: OTLPReceiver) -> None:
        spans = make_spans(100, note="the same again and again " * 9)
        connect(receiver.endpoint).export(spans)
        zipped = connect(receiver.endpoint, compression="gzip", headers={"X-Tenant": "blue"})
        zipped.export(spans)
        plain, smaller = receiver.headers
        assert "content-encoding" not in plain
        assert (smaller["content-encoding"], smaller["x-tenant"]) == ("gzip", "blue")
        assert int(smaller["content-length"]) < int(plain["content-length"]) / 5
        assert receiver.bodies[0] == receiver.bodies[1]
        zipped.export(())
        assert receiver.bodies[2] == b""

    def test_gzip_of_cached_encodings_and_over_a_new_connection(
        self, connect: Connect, receiver: OTLPReceiver
    ) -> None:
        exporter = connect(receiver.endpoint, compression="gzip")
        batch = exporter.new_batch()
        for span in make_spans(3):
            batch.add(span, *batch.pack(span))
        exporter.export_batch(batch)
        receiver.close_connections()
        exporter.export_batch(batch)
        assert [span.name for span in receiver.spans] == ["span-0", "span-1", "span-2"] * 2
        assert receiver.connections == 2

    @pytest.mark.parametrize(
        ("status", "compression", "reason", "message"),
        [
            (415, "gzip", "compression", "rejected the format of the request, probably because of gzip (415)."),
            (
                400,
                "gzip",
                "wrong_protocol",
                'can\'t read the request (400). It may not support gzip: try COMPRESSION "none".',
            ),
            (415, "none", "wrong_protocol", "can't read the request (415)."),
            (400, "none", "wrong_protocol", "can't read the request (400)."),
        ],
    )
    def test_a_receiver_that_does_not_support_gzip(
        self,
        connect: Connect,
        receiver: OTLPReceiver,
        status: int,
        compression: str,
        reason: str,
        message: str,
    ) -> None:
        receiver.mode = status
        error = failure(connect(receiver.endpoint, compression=compression))
        assert str(error) == f"{receiver.endpoint}/v1/traces {message}"
        assert (error.reason, error.retryable, error.status) == (reason, False, status)

    @pytest.mark.parametrize("name", ["jaeger", "jaeger_151"])
    def test_a_real_jaeger_accepts_gzip(self, request: pytest.FixtureRequest, connect: Connect, name: str) -> None:
        jaeger: Jaeger = request.getfixturevalue(name)
        recorder = Recorder()
        for number in range(50):
            context = trace.set_span_in_context(NonRecordingSpan(recorder.spans[0].context)) if number else None
            recorder.tracer.start_span(f"zipped {number}", context=context, attributes={"number": number}).end()
        connect(jaeger.otlp_http, compression="gzip").export(recorder.spans)
        root = recorder.spans[0].context
        found = jaeger.wait_trace(f"{root.trace_id:032x}", spans=50)
        assert {span["operationName"] for span in found["spans"]} == {f"zipped {number}" for number in range(50)}

    @pytest.mark.parametrize(
        ("given", "path"),
        [("", "/v1/traces"), ("/", "/v1/traces"), ("/otlp/v1/traces", "/otlp/v1/traces"), ("/a?b=c d", "/a?b=c%20d")],
    )
    def test_path(self, connect: Connect, receiver: OTLPReceiver, given: str, path: str) -> None:
        connect(receiver.endpoint + given).export(make_spans())
        assert receiver.paths == [path]

    def test_credentials_of_the_url_become_a_header_and_are_not_in_errors(
        self, connect: Connect, receiver: OTLPReceiver
    ) -> None:
        endpoint = receiver.endpoint.replace("//", "//user:s%40cret@")
        exporter = connect(endpoint)
        exporter.export(make_spans())
        assert receiver.headers[0]["authorization"] == "Basic " + base64.b64encode(b"user:s@cret").decode()
        for mode in (401, 404, 503, 413, "drop", "garbage"):
            receiver.mode = mode
            message = str(failure(exporter))
            assert "cret" not in message
            assert "user" not in message
            assert f"127.0.0.1:{receiver.port}" in message

    def test_a_wrong_header_is_named_without_its_value(self, connect: Connect) -> None:
        for name, value in (
            ("authorization", "Bearer s3cret\n"),
            ("authorization", "Bearer s3cret\N{EURO SIGN}"),
            ("a b", "s3cret"),
        ):
            with pytest.raises(ValueError, match=name) as caught:
                connect("http://localhost", headers={name: value})
            assert "s3cret" not in str(caught.value)

    @pytest.mark.parametrize(
        ("mode", "reason", "retryable"),
        [
            (101, "wrong_protocol", False),
            (400, "wrong_protocol", False),
            (401, "unauthorized", False),
            (403, "unauthorized", False),
            (404, "not_found", False),
            (413, "too_large", False),
            (415, "wrong_protocol", False),
            (302, "rejected", False),
            (429, "unavailable", True),
            (500, "unavailable", False),
            (503, "unavailable", True),
            ("garbage", "wrong_protocol", False),
            ("drop", "wrong_protocol", True),
        ],
    )
    def test_responses_are_classified(
        self, connect: Connect, receiver: OTLPReceiver, mode: str | int, reason: str, retryable: bool
    ) -> None:
        receiver.mode = mode
        exporter = connect(receiver.endpoint)
        error = failure(exporter)
        assert (error.reason, error.retryable) == (reason, retryable)
        assert error.status == (mode if isinstance(mode, int) else None)
        # The next export works.
        receiver.mode = "ok"
        exporter.export(make_spans())
        assert len(receiver.spans) == 1

    def test_interim_responses_are_no_answer(self, connect: Connect, receiver: OTLPReceiver) -> None:
        receiver.interim = (102, 103, 100, 103)
        exporter = connect(receiver.endpoint)
        receiver.mode = 503
        assert [failure(exporter).status for _ in range(3)] == [503] * 3
        receiver.mode = "ok"
        exporter.export(make_spans())
        assert len(receiver.spans) == 1

    def test_retry_after(self, connect: Connect, receiver: OTLPReceiver) -> None:
        receiver.mode = 503
        receiver.answer_headers = {"Retry-After": "7"}
        assert failure(connect(receiver.endpoint)).retry_after == 7

    def test_a_web_page_is_not_a_success(self, connect: Connect, receiver: OTLPReceiver) -> None:
        receiver.answer_headers = {"Content-Type": "text/html; charset=utf-8"}
        error = failure(connect(receiver.endpoint))
        assert (error.reason, error.retryable, error.status) == ("wrong_protocol", False, 200)

    def test_timeout(self, connect: Connect, receiver: OTLPReceiver) -> None:
        receiver.mode = "hang"
        error = failure(connect(receiver.endpoint, timeout=0.2))
        assert (error.reason, error.retryable) == ("timeout", True)

    def test_refused(self, connect: Connect, unused_port: int) -> None:
        error = failure(connect(f"http://127.0.0.1:{unused_port}"))
        assert (error.reason, error.retryable) == ("refused", True)
        assert str(error) == f"Nothing listens on 127.0.0.1:{unused_port}."

    @pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 70 + ".invalid"])
    def test_unknown_name(self, connect: Connect, host: str) -> None:
        assert failure(connect(f"http://{host}:4318")).reason == "dns"

    def test_tls_to_a_plain_port(self, connect: Connect, receiver: OTLPReceiver) -> None:
        error = failure(connect(receiver.endpoint.replace("http:", "https:")))
        assert (error.reason, error.retryable) == ("tls", False)
        assert "does not speak TLS" in str(error)

    def test_tls_with_an_unknown_authority(self, connect: Connect, receiver: OTLPReceiver, certificate: Path) -> None:
        receiver.use_tls(certificate)
        error = failure(connect(receiver.endpoint.replace("http:", "https:")))
        assert error.reason == "tls"
        assert "self-signed certificate" in str(error).replace("self signed", "self-signed")

    def test_tls(
        self, connect: Connect, receiver: OTLPReceiver, certificate: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        receiver.use_tls(certificate)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        exporter = connect(receiver.endpoint.replace("http:", "https:"))
        exporter.export(make_spans(2))
        assert len(receiver.spans) == 2

    def test_proxies_of_the_environment_are_not_used(
        self, connect: Connect, receiver: OTLPReceiver, unused_port: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{unused_port}")
        connect(receiver.endpoint).export(make_spans())
        assert len(receiver.spans) == 1

    def test_an_idle_connection_that_was_closed_is_replaced(self, connect: Connect, receiver: OTLPReceiver) -> None:
        exporter = connect(receiver.endpoint)
        exporter.export(make_spans())
        receiver.close_connections()
        exporter.export(make_spans())
        assert len(receiver.spans) == 2
        assert receiver.connections == 2

    def test_a_partial_success_has_the_number_of_rejected_spans(
        self, connect: Connect, receiver: OTLPReceiver
    ) -> None:
        for count in (1, 200, 3_000_000):
            words = "too old " * (30 if count < 1000 else 50_000)
            answer = ExportTraceServiceResponse(
                partial_success=ExportTracePartialSuccess(rejected_spans=count, error_message=words)
            )
            assert rejected_spans(answer.SerializeToString())[0] == count
            receiver.answer_body = answer.SerializeToString()
            error = failure(connect(receiver.endpoint))
            assert (error.reason, error.retryable, error.rejected) == ("rejected", False, count)
            assert error.status == 200
            assert f"rejected {count} spans of a batch: too old too old" in str(error)
            assert len(str(error)) < 300

    @pytest.mark.parametrize(
        "answer", [b"", b"{}", b"\x0a", b"\x0a\x00", b"\x0a\x02\x08", b"\x0a\xff\xff", b"\xff" * 40]
    )
    def test_a_success_with_any_body_is_a_success(
        self, connect: Connect, receiver: OTLPReceiver, answer: bytes
    ) -> None:
        receiver.answer_body = answer
        connect(receiver.endpoint).export(make_spans())

    def test_a_warning_without_rejected_spans_is_a_success(self) -> None:
        answer = ExportTraceServiceResponse(partial_success=ExportTracePartialSuccess(error_message="old protocol"))
        assert rejected_spans(answer.SerializeToString()) == (0, "old protocol")

    def test_an_endless_response_is_not_read_completely(self, connect: Connect, receiver: OTLPReceiver) -> None:
        receiver.answer_body = b"x" * 1_000_000
        exporter = connect(receiver.endpoint)
        exporter.export(make_spans())
        exporter.export(make_spans())
        assert receiver.connections == 2

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_a_child_does_not_use_its_parents_connection(self, connect: Connect, receiver: OTLPReceiver) -> None:
        exporter = connect(receiver.endpoint)
        exporter.export(make_spans(name="parent"))
        child = os.fork()
        if child == 0:
            try:
                exporter.export(make_spans(name="child"))
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        exporter.export(make_spans(name="parent"))
        assert [span.name for span in receiver.spans] == ["parent-0", "child-0", "parent-0"]
        assert receiver.connections == 2

    def test_ipv6(self, connect: Connect) -> None:
        exporter = connect("http://[::1]:1/x")
        assert str(failure(exporter)).startswith(("Nothing listens on [::1]:1", "[::1]:1 can't be reached"))


@pytest.fixture
def unused_port() -> int:
    return free_port()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a self-signed certificate for 127.0.0.1, with its key."""
    folder = tmp_path_factory.mktemp("tls")
    key, cert, both = folder / "key.pem", folder / "cert.pem", folder / "both.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    try:
        subprocess.run([*command, *names], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the program openssl")
    both.write_bytes(key.read_bytes() + cert.read_bytes())
    return both
