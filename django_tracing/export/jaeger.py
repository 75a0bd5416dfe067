"""Jaeger's thrift, over HTTP (14268) and UDP (6831), through the frozen opentelemetry-exporter-jaeger of 2023.

Its thrift half does not import on today's SDK, which dropped names that it reads; they are put back here. What it
leaves out is added: the resource as process tags, errors that say what went wrong, and quiet.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final
from urllib.parse import unquote, urlsplit, urlunsplit

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk import environment_variables
from opentelemetry.sdk.resources import SERVICE_NAME
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from django_tracing.export.errors import ExportError, MissingExtra, from_os_error, from_status

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
#: A UDP datagram's payload has to stay below 65,507 bytes; thrift's framing is taken off.
_DATAGRAM: Final = 65_000


def make_jaeger_exporter(endpoint: str, *, timeout: float = 10.0) -> SpanExporter:
    """An exporter for ``http(s)://host:14268/api/traces`` (thrift) or ``udp://host:6831`` (compact thrift).

    ``timeout`` is in seconds. Raises :class:`MissingExtra` when the extra ``jaeger`` is not installed.
    """
    return _JaegerExporter(endpoint, timeout)


def _load() -> tuple[Any, Any, Any]:
    """The frozen exporter's classes: its module, its thrift types, its translator."""
    for name in _DROPPED_NAMES:
        full = f"OTEL_EXPORTER_JAEGER_{name}"
        if not hasattr(environment_variables, full):
            setattr(environment_variables, full, full)
    try:
        with warnings.catch_warnings():
            # Deprecated it is; the user chose it knowingly, or has an old Jaeger and no choice.
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
        f'{problem}: pip install "django-tracing[jaeger]". Or send OTLP, which needs no extra and which Jaeger '
        "takes since 1.35: an endpoint like http://jaeger:4318."
    )


def _readable(value: Any) -> Any:
    """``value`` as the frozen translator takes it: what it does not know, it would leave out without a word."""
    if isinstance(value, (bool, str, float)):
        return value
    if isinstance(value, int):
        return value if -(1 << 63) <= value < 1 << 63 else str(value)
    if isinstance(value, bytes):
        return value.hex()
    return json.dumps(value, default=str)


class _JaegerExporter(SpanExporter):
    def __init__(self, endpoint: str, timeout: float) -> None:
        thrift, self._types, translate = _load()
        parts = urlsplit(endpoint)
        self._udp = parts.scheme == "udp"
        port = parts.port or (6831 if self._udp else 443 if parts.scheme == "https" else 80)
        self._where = f"{parts.hostname}:{port}"
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        bare = urlunsplit(parts._replace(netloc=f"{host}:{port}"))
        self._url = bare
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._frozen: Any = thrift.JaegerExporter(
                agent_host_name=parts.hostname,
                agent_port=port,
                collector_endpoint=None if self._udp else bare,
                username=unquote(parts.username) if parts.username else None,
                password=unquote(parts.password) if parts.password else None,
                udp_split_oversized_batches=True,
                timeout=timeout,
            )
        self._translate = translate.Translate
        self._translator = translate.ThriftTranslator(None)
        self._tags: tuple[Any, Any] = (None, None)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Sends ``spans``; raises :class:`ExportError`."""
        by_resource: dict[Any, list[ReadableSpan]] = {}
        for span in spans:
            by_resource.setdefault(span.resource, []).append(_plain(span))
        for resource, group in by_resource.items():
            try:
                translated = self._translate(group)._translate(self._translator)
            except Exception as error:
                raise ExportError(
                    f"Spans can't be put into Jaeger's thrift: {error}", reason="rejected", retryable=False
                ) from error
            batch = self._types.Batch(spans=translated, process=self._process(resource))
            if self._udp:
                self._emit(batch)
            else:
                self._submit(batch)
        return SpanExportResult.SUCCESS

    def _process(self, resource: Any) -> Any:
        kept, process = self._tags
        if kept is resource:
            return process
        types = self._types
        tags = [
            types.Tag(key=key, vType=types.TagType.STRING, vStr=str(value))
            for key, value in resource.attributes.items()
            if key != SERVICE_NAME
        ]
        process = types.Process(serviceName=str(resource.attributes.get(SERVICE_NAME, "unknown")), tags=tags)
        self._tags = (resource, process)
        return process

    def _submit(self, batch: Any) -> None:
        collector = self._frozen._collector_http_client
        transport = collector.http_transport
        try:
            batch.write(collector.protocol)
            transport.flush()
        except OSError as error:
            self._forget()
            raise from_os_error(error, self._where) from None
        except Exception as error:
            self._forget()
            raise ExportError(
                f"{self._where} does not speak HTTP ({type(error).__name__}).",
                reason="wrong_protocol",
                retryable=False,
            ) from None
        code = transport.code
        if not 200 <= code < 300:
            self._forget()
            raise from_status(code, self._url)

    def _forget(self) -> None:
        """A transport that failed keeps what was written to it: the next batch gets a new one."""
        collector, self._frozen._collector = self._frozen._collector, None
        if collector is not None:
            # It is thrown away, whatever state it is in.
            with suppress(Exception):
                collector.http_transport.close()

    def _emit(self, batch: Any) -> None:
        agent = self._frozen._agent_client
        try:
            for part in _datagrams(agent, self._types, batch):
                agent.emit(part)
        except OSError as error:
            raise from_os_error(error, self._where) from None

    def shutdown(self) -> None:
        self._forget()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return True


def _plain(span: ReadableSpan) -> ReadableSpan:
    """``span`` with attributes that the frozen translator understands, itself where it does already."""
    attributes = span.attributes or {}
    if all(value.__class__ in (str, bool, float, int) for value in attributes.values()) and not span.events:
        return span
    return ReadableSpan(
        name=span.name,
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=_readable_attributes(attributes),
        events=[
            Event(event.name, _readable_attributes(event.attributes or {}), event.timestamp) for event in span.events
        ],
        links=span.links,
        kind=span.kind,
        status=span.status,
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _readable_attributes(attributes: Mapping[str, Any]) -> BoundedAttributes:
    # The frozen translator asks for a count of dropped attributes, which a plain dict has not.
    return BoundedAttributes(attributes={key: _readable(value) for key, value in attributes.items()})


def _datagrams(agent: Any, types: Any, batch: Any) -> list[Any]:
    """``batch`` in parts that fit a datagram; a single span that does not fit loses its logs, then its tags."""
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
    return [batch]


def _length(agent: Any, batch: Any) -> int:
    agent.client._seqid = 0
    agent.buffer._buffer.truncate(0)
    agent.buffer._buffer.seek(0)
    agent.client.emitBatch(batch)
    return len(agent.buffer.getvalue())
