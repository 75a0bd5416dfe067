"""Run an OTLP/gRPC receiver whose faults can be chosen, and that keeps what arrives."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)

from tests.receivers import ReceivedSpan, decode

__all__ = ["GRPCFault", "GRPCReceiver", "hang", "partial", "status", "too_large"]

#: Answers a request, or aborts it.
GRPCFault = Callable[["GRPCReceiver", ExportTraceServiceRequest, Any], ExportTraceServiceResponse]


class GRPCReceiver(TraceServiceServicer):
    """``with GRPCReceiver() as receiver``: ``receiver.fault`` answers each request; None is a receiver that works.

    ``down()`` closes the port and all connections, and ``up()`` listens on the same port again.
    """

    def __init__(self) -> None:
        self.fault: GRPCFault | None = None
        self.port = 0
        self.spans: list[ReceivedSpan] = []
        self.ids: list[str] = []
        self._lock = threading.Lock()
        self._server: grpc.Server | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def Export(self, request: ExportTraceServiceRequest, context: Any) -> ExportTraceServiceResponse:
        return (self.fault or accept)(self, request, context)

    def keep(self, request: ExportTraceServiceRequest) -> None:
        """Keep the spans of a request."""
        spans = decode(request.SerializeToString())
        with self._lock:
            self.spans += spans
            self.ids += [span.span_id for span in spans]

    def up(self) -> None:
        options = (("grpc.so_reuseport", 0),)
        self._server = grpc.server(ThreadPoolExecutor(16), options=options)
        add_TraceServiceServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        self._server.start()

    def down(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.stop(0).wait()

    def __enter__(self) -> GRPCReceiver:
        self.up()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.down()


def accept(receiver: GRPCReceiver, request: ExportTraceServiceRequest, context: Any) -> ExportTraceServiceResponse:
    """Keep all spans."""
    receiver.keep(request)
    return ExportTraceServiceResponse()


def status(code: grpc.StatusCode, retry_delay: int | None = None) -> GRPCFault:
    """Answer with a status; ``retry_delay`` is the seconds of a RetryInfo."""

    def fault(receiver: GRPCReceiver, request: ExportTraceServiceRequest, context: Any) -> ExportTraceServiceResponse:
        if retry_delay is not None:
            context.set_trailing_metadata([("grpc-status-details-bin", retry_info(code, retry_delay))])
        context.abort(code, "because")
        raise AssertionError

    return fault


def retry_info(code: grpc.StatusCode, seconds: int) -> bytes:
    """Return a google.rpc.Status with a RetryInfo, as a server sends it."""
    from google.rpc import error_details_pb2, status_pb2

    answer = status_pb2.Status(code=code.value[0])
    info = error_details_pb2.RetryInfo()
    info.retry_delay.seconds = seconds
    answer.details.add().Pack(info)
    return bytes(answer.SerializeToString())


def too_large(most_bytes: int) -> GRPCFault:
    """Refuse what is larger, and keep everything else."""

    def fault(receiver: GRPCReceiver, request: ExportTraceServiceRequest, context: Any) -> ExportTraceServiceResponse:
        if request.ByteSize() > most_bytes:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "larger than max")
        return accept(receiver, request, context)

    return fault


def partial(receiver: GRPCReceiver, request: ExportTraceServiceRequest, context: Any) -> ExportTraceServiceResponse:
    """Reject the last span of each batch, by a partial success."""
    if request.resource_spans:
        del request.resource_spans[-1].scope_spans[-1].spans[-1]
        receiver.keep(request)
    rejected = ExportTracePartialSuccess(rejected_spans=1, error_message="one is enough")
    return ExportTraceServiceResponse(partial_success=rejected)


def hang(receiver: GRPCReceiver, request: ExportTraceServiceRequest, context: Any) -> ExportTraceServiceResponse:
    """Never answer."""
    gone = threading.Event()
    if context.add_callback(gone.set):
        gone.wait()
    return ExportTraceServiceResponse()
