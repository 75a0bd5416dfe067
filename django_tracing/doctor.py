"""Whether traces arrive, and if not, why: findings as data, for ``check_tracing`` and the admin to print.

A diagnosis sends a real test trace through the very exporter that the settings give, and reads it back.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from django_tracing.conf import Settings
from django_tracing.export.errors import ExportError
from django_tracing.instrumentation import OURS, is_available, upstream
from django_tracing.provider import make_exporter, make_resource
from django_tracing.reading import get_reader
from django_tracing.spans import suppressed
from django_tracing.traces.jaeger import JaegerReader
from django_tracing.traces.model import ReadError

__all__ = ["Diagnosis", "Outcome", "Step"]

Outcome = Literal["ok", "warning", "failed", "skipped"]

_NETWORKED: Final = ("otlp", "otlp-grpc", "jaeger")

#: What a port is found to speak -> what to do about it.
_PROTOCOLS: Final = {
    "otlp": 'That port speaks OTLP over HTTP: write the endpoint as http://{host}:{port}, or set EXPORTER to "otlp".',
    "otlp-grpc": (
        'That port speaks gRPC: set EXPORTER to "otlp-grpc" (extra [otlp-grpc]), or send to the OTLP/HTTP port, '
        "by custom 4318."
    ),
    "jaeger": (
        "That port takes Jaeger's thrift: write the endpoint as http://{host}:{port}/api/traces (extra [jaeger]), or "
        "send to the OTLP/HTTP port, by custom 4318."
    ),
    "query": "That is Jaeger's UI and query API, for reading: send to the OTLP/HTTP port, by custom 4318.",
}
#: What listens on a port by custom, where asking it gives no answer.
_PORTS: Final = {
    14250: "14250 is Jaeger's old gRPC, which this app does not speak: send to port 4318.",
    6831: "6831 is Jaeger's thrift over UDP: write the endpoint as udp://{host}:6831 (extra [jaeger]).",
    9411: "9411 is Zipkin's port: send to port 4318.",
    5432: "5432 is PostgreSQL's port: send to the host and port of your Jaeger, e.g. http://jaeger:4318.",
    6379: "6379 is Redis' port: send to the host and port of your Jaeger, e.g. http://jaeger:4318.",
}

#: An ExportError's reason -> what it means, and what to do.
_EXPORT_ADVICE: Final[dict[str, tuple[str, str]]] = {
    "refused": (
        "The host is there, but no program listens on that port.",
        "Start Jaeger (or the collector), or correct the port.",
    ),
    "dns": ("No computer is known by that name from here.", "Correct the host name, or the network's name server."),
    "tls": (
        "No encrypted connection could be made.",
        "Use http:// if the port is not encrypted, or mend the certificate.",
    ),
    "timeout": (
        "The backend took the connection and did not answer, or a firewall drops what is sent.",
        "Look whether the backend is overloaded, and whether a firewall stands between.",
    ),
    "unreachable": ("The network does not lead there.", "Check the address, routes and firewalls."),
    "unauthorized": (
        "The backend wants other credentials.",
        'Set them in TRACING["HEADERS"] or OTEL_EXPORTER_OTLP_HEADERS, e.g. {"authorization": "Bearer ..."}.',
    ),
    "not_found": (
        "Something answers there, but it does not take spans at that path.",
        "Correct the endpoint's path or port.",
    ),
    "wrong_protocol": (
        "What listens on that port speaks another protocol than is spoken to it.",
        "Correct the endpoint's port, or set EXPORTER to what listens there.",
    ),
    "rejected": ("The backend understood the spans and did not want them.", "Look into the backend's log."),
    "unavailable": ("The backend is overloaded or not whole.", "Look into the backend's log, and try again later."),
    "failed": ("The exporter failed.", "Look into its documentation for the message."),
}


@dataclass(frozen=True)
class Step:
    """One finding: ``meaning`` and ``remedy`` say what a failure or warning means and what to do."""

    name: str
    outcome: Outcome
    detail: str
    meaning: str = ""
    remedy: str = ""
    #: How long the step took, in seconds.
    seconds: float = 0.0


class _Stop(Exception):
    """A step failed in such a way that the next ones have no sense."""


class Diagnosis:
    """Runs the steps; afterwards knows whether the trace arrived.

    ``timeout`` is in seconds, for all of it; ``query`` says whether the trace is to be read back.
    """

    def __init__(self, settings: Settings, *, timeout: float = 10.0, query: bool = True) -> None:
        self.settings = replace(settings, export_timeout=min(settings.export_timeout, max(timeout / 2, 0.1)))
        self.trace_id: str | None = None
        #: Where a person looks at the trace: an address, or a command.
        self.link: str | None = None
        #: 0 when the trace arrived, 1 when not, 2 for bad settings.
        self.exit_code = 1
        self._timeout = timeout
        self._query = query
        self._deadline = 0.0
        self._exporter: SpanExporter | None = None

    def steps(self) -> Iterator[Step]:
        """The findings, as they are made. Never raises."""
        self._deadline = time.monotonic() + self._timeout
        parts = (
            self._check_settings,
            self._check_instrumentations,
            self._check_exporter,
            self._check_name,
            self._check_port,
            self._check_tls,
            self._send,
            self._read_back,
        )
        try:
            for part in parts:
                started = time.monotonic()
                try:
                    for step in part():
                        yield replace(step, seconds=time.monotonic() - started)
                        started = time.monotonic()
                except _Stop:
                    return
                except Exception as error:
                    yield Step(
                        part.__name__.strip("_"),
                        "failed",
                        f"{type(error).__name__}: {error}",
                        "That is a fault of django_tracing.",
                        "Please report it.",
                        time.monotonic() - started,
                    )
                    return
        finally:
            if self._exporter is not None:
                with suppress(Exception):
                    self._exporter.shutdown()

    def _left(self) -> float:
        return max(0.05, self._deadline - time.monotonic())

    # ----- what is configured

    def _check_settings(self) -> Iterator[Step]:
        settings = self.settings
        if settings.problems:
            self.exit_code = 2
            for problem in settings.problems:
                yield Step("settings", "failed", f"{problem.source} {problem.message}", "", problem.hint)
            raise _Stop
        if not settings.enabled:
            yield Step(
                "settings",
                "failed",
                f"Tracing is switched off by {settings.source('ENABLED')}.",
                "No request is traced.",
                "Take that setting out, or set it to the contrary.",
            )
            raise _Stop
        where = f" to {_shown(settings.endpoint)}" if settings.exporter in _NETWORKED else ""
        if settings.exporter == "local":
            where = f" in {settings.local_store}"
        source = settings.source("EXPORTER")
        yield Step(
            "settings",
            "ok",
            f'service "{settings.service_name}", exporter {settings.exporter}{where} '
            f"({'the default' if source == 'default' else source})",
        )
        if settings.sample_rate < 1:
            yield Step(
                "sampling",
                "warning",
                f"{settings.sample_rate:g} of the traces are recorded ({settings.source('SAMPLE_RATE')}).",
                "Requests that are passed over do not show up."
                if settings.sample_rate
                else "No request is recorded, unless its caller's was.",
                "Set SAMPLE_RATE to 1 to see each request. The test trace is sent all the same.",
            )

    def _check_instrumentations(self) -> Iterator[Step]:
        settings = self.settings
        on = [name for name in settings.instrumentations if is_available(name)]
        yield Step("traced", "ok", ", ".join(on) or "nothing")
        explicit = settings.source("INSTRUMENTATIONS") != "default"
        for name in settings.instrumentations:
            if name in on or (name in OURS and not explicit):
                continue
            library = upstream.library_of(name)
            has_library = library is not None and library != "urllib.request" and find_spec(library) is not None
            if name not in OURS and not _packaged(name) and (explicit or has_library):
                package = f"opentelemetry-instrumentation-{name}"
                yield Step(
                    "traced",
                    "warning",
                    f"{name} is not traced: the package {package} is not installed.",
                    f"Calls made with {name} make no spans, and carry no trace to the services they reach.",
                    f"pip install {package}",
                )
            elif explicit:
                yield Step("traced", "warning", f"{name} is not traced: its library is not installed.")

    def _check_exporter(self) -> Iterator[Step]:
        settings = self.settings
        try:
            self._exporter = make_exporter(settings)
        except Exception as error:
            yield Step("exporter", "failed", f"The exporter {settings.exporter} can't be made.", str(error), "", 0.0)
            raise _Stop from None
        if self._exporter is None:
            yield Step(
                "exporter",
                "failed",
                f'EXPORTER is "none" ({settings.source("EXPORTER")}): no span is sent anywhere.',
                "Requests are traced, and the spans are thrown away.",
                'Set EXPORTER to "local", or ENDPOINT to the address of a Jaeger.',
            )
            raise _Stop

    # ----- the way there

    def _address(self) -> tuple[str, int, str] | None:
        """Host, port and scheme of the endpoint; None where nothing goes over a network."""
        if self.settings.exporter not in _NETWORKED or self.settings.endpoint is None:
            return None
        parts = urlsplit(self.settings.endpoint)
        port = parts.port or {"https": 443, "http": 80}.get(parts.scheme, 6831)
        return parts.hostname or "localhost", port, parts.scheme

    def _check_name(self) -> Iterator[Step]:
        address = self._address()
        if address is None:
            return
        host, port, _ = address
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError):
            yield Step("name", "failed", f"The host name {host} is unknown.", *_EXPORT_ADVICE["dns"])
            raise _Stop from None
        addresses = sorted({str(item[4][0]) for item in found})
        yield Step("name", "ok", host if addresses == [host] else f"{host} is {', '.join(addresses)}")

    def _check_port(self) -> Iterator[Step]:
        address = self._address()
        if address is None:
            return
        host, port, scheme = address
        if scheme == "udp":
            yield Step(
                "port", "skipped", "UDP is sent without an answer: only reading back tells whether it arrived."
            )
            return
        try:
            socket.create_connection((host, port), timeout=min(self._left(), self.settings.export_timeout)).close()
        except ConnectionRefusedError:
            yield Step("port", "failed", f"Nothing listens on {host}:{port}.", *_EXPORT_ADVICE["refused"])
            raise _Stop from None
        except TimeoutError:
            yield Step("port", "failed", f"{host}:{port} does not answer.", *_EXPORT_ADVICE["timeout"])
            raise _Stop from None
        except OSError as error:
            yield Step("port", "failed", f"{host}:{port} can't be reached: {error}.", *_EXPORT_ADVICE["unreachable"])
            raise _Stop from None
        yield Step("port", "ok", f"{host}:{port} takes connections")

    def _check_tls(self) -> Iterator[Step]:
        address = self._address()
        if address is None or address[2] != "https":
            return
        host, port, _ = address
        try:
            with (
                socket.create_connection(
                    (host, port), timeout=min(self._left(), self.settings.export_timeout)
                ) as raw,
                ssl.create_default_context().wrap_socket(raw, server_hostname=host) as connection,
            ):
                version = connection.version()
        except ssl.SSLCertVerificationError as error:
            yield Step(
                "tls",
                "failed",
                f"The certificate of {host}:{port} is not accepted: {error.verify_message}.",
                "Whoever answers there can't prove to be who they say they are, or the proof has expired.",
                "Mend the server's certificate, or have its authority trusted here (SSL_CERT_FILE names a file).",
            )
            raise _Stop from None
        except OSError as error:
            yield Step(
                "tls",
                "failed",
                f"{host}:{port} does not speak TLS ({getattr(error, 'reason', None) or error}).",
                "The port is not encrypted, or is of another protocol.",
                "Write the endpoint with http://, or correct the port.",
            )
            raise _Stop from None
        yield Step("tls", "ok", f"{version}, certificate accepted")

    # ----- the trace

    def _send(self) -> Iterator[Step]:
        exporter = self._exporter
        assert exporter is not None
        spans = _test_trace(self.settings)
        context = spans[0].context
        assert context is not None
        self.trace_id = f"{context.trace_id:032x}"
        token = context_api.attach(suppressed())
        try:
            result = exporter.export(spans)
        except ExportError as error:
            meaning, remedy = _EXPORT_ADVICE[error.reason]
            other = self._about_the_port(error)
            if other or error.reason == "unreachable":
                # The port took a connection a moment ago: it is not the network.
                meaning, remedy = _EXPORT_ADVICE["wrong_protocol"][0], other or _EXPORT_ADVICE["wrong_protocol"][1]
            yield Step("send", "failed", str(error), meaning, remedy)
            raise _Stop from None
        except Exception as error:
            yield Step(
                "send", "failed", f"The exporter raised {type(error).__name__}: {error}", *_EXPORT_ADVICE["failed"]
            )
            raise _Stop from None
        finally:
            context_api.detach(token)
        if result is not SpanExportResult.SUCCESS:
            yield Step("send", "failed", "The exporter says that it failed.", *_EXPORT_ADVICE["failed"])
            raise _Stop
        self.exit_code = 0
        yield Step("send", "ok", f"a test trace of {len(spans)} spans was {self._taken()}")

    def _taken(self) -> str:
        if self.settings.exporter == "local":
            return "written"
        address = self._address()
        return "sent" if address is None or address[2] == "udp" else "taken"

    def _about_the_port(self, error: ExportError) -> str:
        """What to do instead, once the port has been asked what it speaks."""
        address = self._address()
        if address is None or address[2] == "udp" or error.reason in ("unauthorized", "dns", "refused", "tls"):
            return ""
        host, port, scheme = address
        found = _speaks(host, port, scheme == "https", min(self._left(), 2.0))
        if found is not None and found != self.settings.exporter:
            return _PROTOCOLS[found].format(host=host, port=port)
        return _PORTS.get(port, "").format(host=host)

    def _read_back(self) -> Iterator[Step]:
        assert self.trace_id is not None
        settings = self.settings
        if not self._query:
            yield Step("read", "skipped", "Reading back was switched off.")
            return
        if settings.exporter not in ("local", *_NETWORKED) and settings.query_url is None:
            yield Step(
                "read", "skipped", f"What the exporter {settings.exporter} sends can't be read back from here."
            )
            return
        try:
            reader = get_reader(settings, timeout=min(self._left(), 5.0))
            while True:
                trace = reader.trace(self.trace_id)
                if trace is not None:
                    break
                if time.monotonic() >= self._deadline:
                    self.exit_code = 1
                    yield self._never_readable()
                    return
                time.sleep(0.1)
        except ReadError as error:
            address = self._address()
            if address is not None and address[2] == "udp":
                # Nobody confirmed anything.
                self.exit_code = 1
            local = settings.exporter == "local"
            if local:
                self.exit_code = 1
            yield Step(
                "read",
                "failed" if self.exit_code else "warning",
                str(error),
                "" if local else "The trace was sent; whether it can be read is not known.",
                ""
                if local
                else "Set QUERY_URL (or --query-url) to Jaeger's query API, or leave this step out: --no-query.",
            )
            return
        self.link = (
            f"python manage.py traces {self.trace_id}"
            if settings.exporter == "local"
            else getattr(reader, "trace_link", lambda trace_id: None)(self.trace_id)
        )
        where = str(settings.local_store) if settings.exporter == "local" else _shown(settings.query_url)
        yield Step("read", "ok", f"the trace was read back from {where}")

    def _never_readable(self) -> Step:
        if self.settings.exporter == "local":
            return Step(
                "read", "failed", "The trace was written and can't be found.", "", "Look at the file's folder."
            )
        address = self._address()
        if address is not None and address[2] == "udp":
            return Step(
                "read",
                "failed",
                f"The trace is not in the Jaeger at {_shown(self.settings.query_url)}.",
                "Nothing listens on that UDP port, or the datagrams are lost on the way.",
                "Check host and port, or send over TCP: http://HOST:4318.",
            )
        return Step(
            "read",
            "failed",
            f"The trace was taken, but is not in the Jaeger at {_shown(self.settings.query_url)} "
            f"after {self._timeout:g} s.",
            "The collector passes spans on to another Jaeger, drops them (its own sampling, a full storage), or is "
            "slow to store them (Kafka between).",
            "Check that QUERY_URL is of the same Jaeger, look into the collector's log, or wait: --timeout 60.",
        )


def _speaks(host: str, port: int, secure: bool, timeout: float) -> str | None:
    """What listens on a port: ``otlp``, ``jaeger`` (thrift), ``query``, ``otlp-grpc``, or None where it can't be told.

    Asks with empty messages, which store nothing.
    """
    if _post_is_answered(host, port, secure, timeout, "/v1/traces", "application/x-protobuf", (200,)):
        return "otlp"
    if _post_is_answered(host, port, secure, timeout, "/api/traces", "application/x-thrift", (202, 400)):
        return "jaeger"
    try:
        JaegerReader(f"{'https' if secure else 'http'}://{_bracketed(host)}:{port}", timeout=timeout).services()
        return "query"
    except ReadError:
        pass
    return "otlp-grpc" if not secure and _speaks_http2(host, port, timeout) else None


def _post_is_answered(
    host: str, port: int, secure: bool, timeout: float, path: str, kind: str, statuses: tuple[int, ...]
) -> bool:
    connection = (http.client.HTTPSConnection if secure else http.client.HTTPConnection)(host, port, timeout=timeout)
    try:
        connection.request("POST", path, b"", {"Content-Type": kind})
        answer = connection.getresponse()
        return answer.status in statuses and not answer.getheader("Content-Type", "").startswith("text/html")
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _speaks_http2(host: str, port: int, timeout: float) -> bool:
    """Whether a port answers HTTP/2's preface (RFC 9113, 3.4) with a SETTINGS frame, as gRPC servers do."""
    try:
        with socket.create_connection((host, port), timeout=timeout) as connection:
            connection.settimeout(timeout)
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
            answer = b""
            while len(answer) < 9:
                received = connection.recv(64)
                if not received:
                    return False
                answer += received
            return answer[3] == 4 and not answer.startswith(b"HTTP")
    except OSError:
        return False


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _packaged(name: str) -> bool:
    """Whether an instrumentation of OpenTelemetry's is installed by that entry-point name."""
    return bool(entry_points(group="opentelemetry_instrumentor", name=name))


def _shown(url: str | None) -> str:
    """A URL for people: without credentials."""
    if url is None:
        return "nowhere"
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _test_trace(settings: Settings) -> list[ReadableSpan]:
    """A root and a child, ended, from a provider of their own: the sampling in force must not swallow them."""
    ended: list[ReadableSpan] = []

    class Keep(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            ended.append(span)

    provider = TracerProvider(sampler=ALWAYS_ON, resource=make_resource(settings), shutdown_on_exit=False)
    provider.add_span_processor(Keep())
    tracer = provider.get_tracer("django_tracing")
    attributes: dict[str, Any] = {"operation.type": "check"}
    root = tracer.start_span("check_tracing", context_api.Context(), attributes=attributes)
    tracer.start_span("check_tracing.child", trace.set_span_in_context(root, context_api.Context())).end()
    root.end()
    return ended
