"""Send spans by Jaeger's thrift, over HTTP (14268) and UDP (6831).

It uses opentelemetry-exporter-jaeger, whose last version is of 2023. Its thrift half does not import with today's
SDK, which removed names that it reads, so they are set here. Added are the resource as process tags, and errors with
their cause; its own log lines and warnings are silenced.
"""

from __future__ import annotations

import errno
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk import environment_variables
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace.status import Status

from django_tracing.exceptions import ExportError, MissingExtra
from django_tracing.export.errors import checked_headers, from_network_error, from_status
from django_tracing.net import parse_address, timed_response
from django_tracing.recording.sdk import plain_attributes

__all__ = ["make_jaeger_exporter"]

_DROPPED_NAMES: Final = (
    "AGENT_HOST",
    "AGENT_PORT",
    "AGENT_SPLIT_OVERSIZED_BATCHES",
    "CERTIFICATE",
    "ENDPOINT",
    "INSECURE",
    "PASSWORD",
    "TIMEOUT",
    "USER",
)
#: The maximum payload of a UDP datagram is 65,507 bytes, of which thrift's framing needs a part.
_DATAGRAM: Final = 65_000


def make_jaeger_exporter(
    endpoint: str, *, headers: Mapping[str, str] | None = None, timeout: float = 10.0
) -> SpanExporter:
    """Return an exporter for ``http(s)://host:14268/api/traces`` (thrift) or ``udp://host:6831`` (compact thrift).

    ``timeout`` is in seconds. ``headers`` are sent with each request over HTTP. Raise :class:`MissingExtra` if the
    extra ``jaeger`` is not installed.
    """
    return _JaegerExporter(endpoint, checked_headers(headers), timeout)


def _load() -> tuple[Any, Any, Any]:
    """Return the module of the old exporter, its thrift types and its translator."""
    for name in _DROPPED_NAMES:
        full = f"OTEL_EXPORTER_JAEGER_{name}"
        if not hasattr(environment_variables, full):
            setattr(environment_variables, full, full)
    try:
        with warnings.catch_warnings():
            # It is deprecated. Users choose it for an old Jaeger.
            warnings.simplefilter("ignore")
            from opentelemetry.exporter.jaeger import thrift
            from opentelemetry.exporter.jaeger.thrift import translate
            from opentelemetry.exporter.jaeger.thrift.gen.jaeger import Collector
    except ImportError as error:
        raise MissingExtra(_missing(error)) from error
    return thrift, Collector, translate


def _missing(error: ImportError) -> str:
    try:
        version("opentelemetry-exporter-jaeger-thrift")
        problem = f"Jaeger's thrift exporter can't be imported ({error})"
    except PackageNotFoundError:
        problem = "Jaeger's thrift exporter is not installed"
    return (
        f'{problem}: pip install "django-tracing-otel[jaeger]". Or send OTLP, which needs no extra and which Jaeger '
        "takes since 1.35: an endpoint like http://jaeger:4318."
    )


def _readable(value: Any) -> Any:
    """Convert ``value`` for the old translator, which silently drops types that it does not know."""
    if isinstance(value, str):
        return _clean(value)
    if isinstance(value, (bool, float)):
        return value
    if isinstance(value, int):
        return value if -(1 << 63) <= value < 1 << 63 else str(value)
    if isinstance(value, bytes):
        return value.hex()
    return json.dumps(value, default=str)


def _clean(text: str) -> str:
    # A lone surrogate (an undecodable byte of a path) would stop thrift in the middle of a batch.
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


@cache
def _timed(transport: Any) -> Any:
    """Return a subclass of a Thrift transport whose timeout applies to the whole response."""
    if transport.__name__ == "_TimedTransport":
        return transport

    class _TimedTransport(transport):  # type: ignore[misc]
        def open(self) -> None:
            super().open()
            self._THttpClient__http.response_class = timed_response()

    return _TimedTransport


class _JaegerExporter(SpanExporter):
    def __init__(self, endpoint: str, headers: dict[str, str], timeout: float) -> None:
        thrift, self._types, translate = _load()
        parts = urlsplit(endpoint)
        self._udp = parts.scheme == "udp"
        address = parse_address(endpoint, port=6831 if self._udp else None)
        self._where = address.where
        self._url = urlunsplit(parts._replace(netloc=address.where))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._frozen: Any = thrift.JaegerExporter(
                agent_host_name=address.host,
                agent_port=address.port,
                collector_endpoint=None if self._udp else self._url,
                udp_split_oversized_batches=True,
                timeout=timeout,
            )
        if address.authorization is not None:
            headers["Authorization"] = address.authorization
        self._headers = headers
        self._owner = os.getpid()
        self._translate = translate.Translate
        self._translator = translate.ThriftTranslator(None)
        self._tags: tuple[Any, Any] = (None, None)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send ``spans``. Raise :class:`ExportError`."""
        by_resource: dict[int, tuple[Resource, list[Any]]] = {}
        lost = 0
        for span in spans:
            try:
                [translated] = self._translate([_plain(span)])._translate(self._translator)
            except Exception:
                # Only this span is lost, not the batch.
                lost += 1
                continue
            by_resource.setdefault(id(span.resource), (span.resource, []))[1].append(translated)
        for resource, group in by_resource.values():
            batch = self._types.Batch(spans=group, process=self._process(resource))
            if self._udp:
                self._send_by_udp(batch)
            else:
                self._send_by_http(batch)
        if lost:
            raise ExportError(
                f"{lost} spans can't be encoded in thrift.",
                reason="rejected",
                retryable=False,
                rejected=lost,
            )
        return SpanExportResult.SUCCESS

    def probe(self) -> None:
        """Send a batch without spans. Raise :class:`ExportError` if it is not accepted. UDP has no answers."""
        if not self._udp:
            self._send_by_http(self._types.Batch(spans=[], process=self._process(_NO_RESOURCE)))

    def _process(self, resource: Any) -> Any:
        kept, process = self._tags
        if kept is resource:
            return process
        types = self._types
        tags = [
            types.Tag(key=key, vType=types.TagType.STRING, vStr=_clean(str(value)))
            for key, value in resource.attributes.items()
            if key != SERVICE_NAME
        ]
        process = types.Process(serviceName=_clean(str(resource.attributes.get(SERVICE_NAME, "unknown"))), tags=tags)
        self._tags = (resource, process)
        return process

    def _send_by_http(self, batch: Any) -> None:
        if self._owner != os.getpid():
            # The buffer has what the parent wrote before the fork, which the parent sends.
            self._owner = os.getpid()
            self._discard_transport()
        collector = self._frozen._collector_http_client
        transport = collector.http_transport
        kind: Any = type(transport)
        transport.__class__ = _timed(kind)
        transport.setCustomHeaders(self._headers)
        try:
            batch.write(collector.protocol)
            transport.flush()
        except OSError as error:
            self._discard_transport()
            raise from_network_error(error, self._where) from None
        except Exception as error:
            self._discard_transport()
            raise ExportError(
                f"{self._where} does not speak HTTP ({type(error).__name__}).",
                reason="wrong_protocol",
                retryable=False,
            ) from None
        code = transport.code
        retry_after = transport.headers.get("Retry-After")
        if not 200 <= code < 300:
            self._discard_transport()
            raise from_status(code, self._url, retry_after)

    def _discard_transport(self) -> None:
        """Drop the transport. After a failure it keeps what was written to it, so the next batch needs a new one."""
        collector, self._frozen._collector = self._frozen._collector, None
        if collector is not None:
            # It is discarded, whatever its state is.
            with suppress(Exception):
                collector.http_transport.close()

    def _send_by_udp(self, batch: Any) -> None:
        agent = self._frozen._agent_client
        lost = 0
        try:
            for part in _datagrams(agent, self._types, batch):
                if part is None:
                    lost += 1
                else:
                    agent.emit(part)
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                raise ExportError(
                    f"This system can't send datagrams of {_DATAGRAM} bytes: lower BATCH_SIZE, or send over HTTP.",
                    reason="rejected",
                    retryable=False,
                ) from None
            raise from_network_error(error, self._where) from None
        if lost:
            raise ExportError(
                f"{lost} spans are too large for a datagram.", reason="rejected", retryable=False, rejected=lost
            )

    def shutdown(self) -> None:
        self._discard_transport()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return True


#: The old translator repeats the resource's attributes on each span, but the process has them already.
_NO_RESOURCE: Final = Resource({})


def _plain(span: ReadableSpan) -> ReadableSpan:
    """Return ``span`` with attributes that the old translator supports."""
    status = span.status
    if status.description and not status.description.isascii():
        status = Status(status.status_code, _clean(status.description))
    return ReadableSpan(
        name=_clean(span.name),
        context=span.context,
        parent=span.parent,
        resource=_NO_RESOURCE,
        attributes=_readable_attributes(span),
        events=[
            Event(_clean(event.name), _readable_attributes(event), _moment(event.timestamp)) for event in span.events
        ],
        links=span.links,
        kind=span.kind,
        status=status,
        start_time=_moment(span.start_time),
        end_time=_moment(span.end_time),
        instrumentation_scope=span.instrumentation_scope,
    )


def _moment(time: int | None) -> int:
    """Return nanoseconds for thrift. Raise OverflowError: a user may set a time in another unit."""
    moment = int(time or 0)
    if not -(1 << 63) <= moment < 1 << 63:
        raise OverflowError("a time of more than 64 bits")
    return moment


def _readable_attributes(holder: Any) -> BoundedAttributes:
    # The old translator reads the number of dropped attributes, which a plain dict does not have.
    attributes = BoundedAttributes(
        attributes={_clean(key): _readable(value) for key, value in plain_attributes(holder).items()}
    )
    attributes.dropped = holder.dropped_attributes
    return attributes


def _datagrams(agent: Any, types: Any, batch: Any) -> list[Any]:
    """Split ``batch`` into parts that fit into a datagram. A single span that does not fit loses its logs, then tags.

    None stands for a span that does not fit even then.
    """
    if _length(agent, batch) <= _DATAGRAM:
        return [batch]
    if len(batch.spans) > 1:
        middle = len(batch.spans) // 2
        return [
            part
            for half in (batch.spans[:middle], batch.spans[middle:])
            for part in _datagrams(agent, types, types.Batch(spans=half, process=batch.process))
        ]
    span = batch.spans[0]
    span.logs = []
    if _length(agent, batch) > _DATAGRAM:
        span.tags = []
        if _length(agent, batch) > _DATAGRAM:
            return [None]
    return [batch]


def _length(agent: Any, batch: Any) -> int:
    agent.client._seqid = 0
    agent.buffer._buffer.truncate(0)
    agent.buffer._buffer.seek(0)
    agent.client.emitBatch(batch)
    return len(agent.buffer.getvalue())
