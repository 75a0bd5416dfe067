"""An exporter of one's own, by its dotted path in TRACING["EXPORTER"]: to a Jaeger and to the local store at once."""

from __future__ import annotations

import os
from collections.abc import Sequence

from django.conf import settings
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from django_tracing.conf.loading import load
from django_tracing.provider import make_exporter

__all__ = ["JaegerAndLocalStore"]


class JaegerAndLocalStore(SpanExporter):
    """Sends to what JAEGER_ENDPOINT names, and keeps the same spans here."""

    def __init__(self) -> None:
        ours = {key: value for key, value in settings.TRACING.items() if key != "EXPORTER"}
        jaeger = load(ours, os.environ)
        local = load({**ours, "EXPORTER": "local"}, {})
        self._exporters = [exporter for exporter in (make_exporter(jaeger), make_exporter(local)) if exporter]

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for exporter in self._exporters:
            if exporter.export(spans) is not SpanExportResult.SUCCESS:
                return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        for exporter in self._exporters:
            exporter.shutdown()
