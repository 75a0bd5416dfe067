"""Build the exporter that a setting names. What an exporter needs is imported only for that exporter.

This room knows no Django.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from opentelemetry.sdk.trace.export import SpanExporter

if TYPE_CHECKING:
    from django_tracing.conf.values import Settings
    from django_tracing.semconv.facts import EncodedSection

__all__ = ["build_exporter"]


def build_exporter(
    kind: str,
    *,
    endpoint: str | None = None,
    headers: Mapping[str, str] | None = None,
    compression: Literal["none", "gzip"] = "none",
    timeout: float = 10.0,
    tls_ca_file: Path | None = None,
    tls_client_key: Path | None = None,
    tls_client_certificate: Path | None = None,
    local_write: Callable[[Sequence[EncodedSection]], None] | None = None,
    local_work: Callable[[], bool] = bool,
    settings: Settings | None = None,
    endpoints: Sequence[str] = (),
    endpoint_order: Literal["in_order", "round_robin"] = "in_order",
) -> SpanExporter | None:
    """Build the exporter ``kind``: otlp, otlp-grpc, jaeger, local, console, none (returns None), or a dotted path.

    Several ``endpoints`` (of OTLP) are used instead of ``endpoint``, each batch for one of them.
    ``compression`` and the TLS files are for both kinds of OTLP. ``timeout`` is in seconds. A dotted path names a
    class or function that returns a SpanExporter; ``settings`` is passed to it if it takes an argument.

    Raise :class:`~django_tracing.exceptions.MissingExtra` if a package is missing, ImportError or TypeError if a
    dotted path is wrong, and ValueError if an endpoint or a writer is missing or a TLS file can't be used.
    """
    if kind == "none":
        return None
    if kind == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter()
    if kind == "local":
        if local_write is None:
            raise ValueError("The local exporter needs a store to write to.")
        from django_tracing.export.local import LocalExporter

        return LocalExporter(local_write, local_work)
    if kind in ("otlp", "otlp-grpc", "jaeger"):
        if endpoint is None:
            raise ValueError(f"The exporter {kind!r} needs an endpoint.")
        if kind == "jaeger":
            from django_tracing.export.jaeger import make_jaeger_exporter

            return make_jaeger_exporter(endpoint, headers=headers, timeout=timeout)
        options: dict[str, Any] = {
            "headers": headers,
            "compression": compression,
            "timeout": timeout,
            "tls_ca_file": tls_ca_file,
            "tls_client_key": tls_client_key,
            "tls_client_certificate": tls_client_certificate,
        }
        if len(endpoints) > 1:
            from django_tracing.export.failover import FailoverExporter
            from django_tracing.net import shown_address

            made: list[Any] = [build_exporter(kind, endpoint=each, **options) for each in endpoints]
            return FailoverExporter(list(zip(map(shown_address, endpoints), made, strict=True)), endpoint_order)
        if kind == "otlp":
            from django_tracing.export.otlp import OTLPHTTPExporter

            return OTLPHTTPExporter(endpoint, **options)
        from django_tracing.export.grpc import make_otlp_grpc_exporter

        return make_otlp_grpc_exporter(endpoint, **options)
    from django_tracing.export.custom import make_custom_exporter

    return make_custom_exporter(kind, settings)
