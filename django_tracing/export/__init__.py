"""Sending spans. Knows no Django; imports what an exporter needs only when that exporter is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Literal

from opentelemetry.sdk.trace.export import SpanExporter

__all__ = ["build_exporter"]


def build_exporter(
    kind: str,
    *,
    endpoint: str | None = None,
    headers: Mapping[str, str] | None = None,
    compression: Literal["none", "gzip"] = "none",
    timeout: float = 10.0,
    local_write: Callable[[list[dict[str, object]]], None] | None = None,
) -> SpanExporter | None:
    """The exporter called ``kind``: otlp, otlp-grpc, jaeger, local, console, none (None), or a dotted path.

    A dotted path names a class or function that gives a SpanExporter when called without arguments. ``compression``
    is for both kinds of OTLP; ``timeout`` is in seconds. Raises :class:`~django_tracing.exceptions.MissingExtra`
    when a package is missing, ImportError or TypeError when a dotted path gives none, ValueError when an endpoint or
    a writer is missing.
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

        return LocalExporter(local_write)
    if kind in ("otlp", "otlp-grpc", "jaeger"):
        if endpoint is None:
            raise ValueError(f"The exporter {kind!r} needs an endpoint.")
        if kind == "otlp":
            from django_tracing.export.otlp import OTLPHTTPExporter

            return OTLPHTTPExporter(endpoint, headers=headers, compression=compression, timeout=timeout)
        if kind == "otlp-grpc":
            from django_tracing.export.grpc import make_otlp_grpc_exporter

            return make_otlp_grpc_exporter(endpoint, headers=headers, compression=compression, timeout=timeout)
        from django_tracing.export.jaeger import make_jaeger_exporter

        return make_jaeger_exporter(endpoint, headers=headers, timeout=timeout)
    return _from_path(kind)


def _from_path(path: str) -> SpanExporter:
    module, _, name = path.rpartition(".")
    if not module:
        raise ImportError(f"{path!r} is no dotted path of an exporter.")
    try:
        factory = getattr(import_module(module), name)
    except AttributeError:
        raise ImportError(f"The module {module} has no {name}.") from None
    try:
        exporter = factory()
    except TypeError as error:
        raise TypeError(f"{path} can't be called without arguments: {error}") from error
    if not callable(getattr(exporter, "export", None)):
        raise TypeError(f"{path} gives {type(exporter).__name__}, which has no export(): it is no SpanExporter.")
    return exporter  # type: ignore[no-any-return]
