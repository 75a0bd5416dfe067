"""List the faults of receivers of OTLP over gRPC."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from typing import Any

import grpc

from example_project.servers import free_port
from tests.e2e.faults.process_rows import at_the_end, stop
from tests.e2e.faults.receiver_rows import comes_back
from tests.e2e.faults.rows import GUNICORN, Row, Stage
from tests.export.grpc_servers import GRPCFault, GRPCReceiver, hang, partial, status, too_large
from tests.export.socket_servers import SocketServer
from tests.export.socket_servers import hang as never_connect

__all__ = ["GRPC_ROWS"]


def _receiver(stage: Stage) -> GRPCReceiver:
    return next(each for each in stage.receivers if isinstance(each, GRPCReceiver))


def _with(fault: GRPCFault | None) -> Callable[[Stage], Mapping[str, Any]]:
    """A receiver with ``fault``."""

    def prepare(stage: Stage) -> Mapping[str, Any]:
        receiver = GRPCReceiver()
        # No other row gets it while this receiver is down.
        receiver.port = free_port()
        stage.stack.enter_context(receiver)
        receiver.fault = fault
        stage.receivers.append(receiver)
        return {"EXPORTER": "otlp-grpc", "ENDPOINT": receiver.endpoint}

    return prepare


def _works(stage: Stage) -> None:
    _receiver(stage).fault = None


def _fault(name: str, fault: GRPCFault) -> Row:
    return Row(f"gRPC: {name}", _with(fault), lift=_works)


def _absent(stage: Stage) -> Mapping[str, Any]:
    tracing = _with(None)(stage)
    _receiver(stage).down()
    return tracing


def _up(stage: Stage) -> None:
    _receiver(stage).up()


def _speak_http(server: SocketServer, connection: socket.socket) -> None:
    """Answer as a server of HTTP/1.1 does."""
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


def _other(fault: Any) -> Callable[[Stage], Mapping[str, Any]]:
    """A port that does not speak gRPC."""

    def prepare(stage: Stage) -> Mapping[str, Any]:
        stage.receiver.fault = fault
        return {"EXPORTER": "otlp-grpc", "ENDPOINT": stage.receiver.endpoint}

    return prepare


def _replaced(stage: Stage) -> None:
    """Let a receiver take the place of what did not speak gRPC."""
    stage.receiver.down()
    receiver = GRPCReceiver()
    receiver.port = stage.receiver.port
    stage.receivers.append(stage.stack.enter_context(receiver))


def _outage(stage: Stage) -> None:
    comes_back(stage, _receiver(stage) if stage.services.traced else stage.receiver, 60, 0.05)


def _ending(stage: Stage) -> Mapping[str, Any]:
    return {**at_the_end(stage), **_with(None)(stage)}


GRPC_ROWS = [
    Row("gRPC: no fault", _with(None)),
    Row("gRPC: nothing listens", _absent, lift=_up),
    Row("gRPC: down for some seconds and back", _with(None), _outage),
    Row("gRPC: accepts connections and never answers", _other(never_connect), lift=_replaced),
    _fault("reads a batch and never answers", hang),
    Row("gRPC: does not speak gRPC", _other(_speak_http)),
    _fault("UNAVAILABLE", status(grpc.StatusCode.UNAVAILABLE)),
    _fault("RESOURCE_EXHAUSTED with RetryInfo", status(grpc.StatusCode.RESOURCE_EXHAUSTED, 1)),
    _fault("RESOURCE_EXHAUSTED without RetryInfo", status(grpc.StatusCode.RESOURCE_EXHAUSTED)),
    _fault("RESOURCE_EXHAUSTED for what is large", too_large(20_000)),
    _fault("UNAUTHENTICATED", status(grpc.StatusCode.UNAUTHENTICATED)),
    _fault("UNIMPLEMENTED", status(grpc.StatusCode.UNIMPLEMENTED)),
    _fault("INTERNAL", status(grpc.StatusCode.INTERNAL)),
    _fault("partial success", partial),
    Row("gRPC: SIGTERM (gunicorn)", _ending, stop),
    Row("gRPC: --preload", _ending, stop, server=[*GUNICORN, "--preload"]),
]
