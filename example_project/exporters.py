"""Export to Jaeger and to the local store at once: the dotted path of a class in TRACING["EXPORTER"]."""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from django_tracing.conf.values import Settings
from django_tracing.provider import make_exporter

__all__ = ["JaegerAndLocalStore"]


class JaegerAndLocalStore(SpanExporter):
    """Send spans to Jaeger at ``ENDPOINT``, and keep the same spans in the local store."""

    def __init__(self, settings: Settings) -> None:
        endpoint = settings.endpoint or ""
        thrift = endpoint.endswith("/api/traces") or endpoint.startswith("udp:")
        kinds = ("jaeger" if thrift else "otlp", "local")
        exporters = [make_exporter(settings._replace(exporter=kind)) for kind in kinds]
        self._exporters = [exporter for exporter in exporters if exporter is not None]

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for exporter in self._exporters:
            if exporter.export(spans) is not SpanExportResult.SUCCESS:
                return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        for exporter in self._exporters:
            exporter.shutdown()
