"""Send spans by OTLP over gRPC: our own encoding over a plain channel of ``grpc``.

OpenTelemetry's exporter builds protobuf messages, retries by itself and reports errors only in its log.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from django_tracing.exceptions import ExportError, ExportReason, MissingExtra
from django_tracing.export.answers import quoted, rejected_spans, retry_delay
from django_tracing.export.errors import checked_headers
from django_tracing.export.wire import EncodedBatch, encode_spans
from django_tracing.net import parse_address

if TYPE_CHECKING:
    from django_tracing.export.tls import TLSFiles

__all__ = ["make_otlp_grpc_exporter"]

#: No proxies, as over HTTP: a collector is close. No connections shared with other channels: a forked child would
#: use its parent's.
_OPTIONS: Final = (("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))
_METHOD: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"

#: Status codes of temporary errors: https://opentelemetry.io/docs/specs/otlp/#failures
_RETRYABLE: Final = frozenset(
    ("CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS")
)
#: Seconds. A receiver that needs longer for an empty message is tried with batches, after longer pauses.
_PROBE_TIMEOUT: Final = 1.0
#: Parts of grpc's details for a failed connection, all of which have the status UNAVAILABLE, and what they mean.
_UNAVAILABLE: Final[tuple[tuple[str, ExportReason, str, bool], ...]] = (
    ("connection refused", "refused", "Nothing listens on {where}.", True),
    ("lookup", "dns", "The host name of {where} is unknown.", True),
    ("dns resolution", "dns", "The host name of {where} is unknown.", True),
    ("wrong_version_number", "tls", "{where} does not speak TLS.", False),
    ("certificate", "tls", "TLS with {where} failed: its certificate could not be verified.", True),
    ("handshake", "tls", "TLS with {where} failed.", True),
    ("http/2", "wrong_protocol", "{where} does not speak gRPC.", False),
    ("settings frame", "wrong_protocol", "{where} does not speak gRPC.", False),
)


def make_otlp_grpc_exporter(
    endpoint: str,
    *,
    headers: Mapping[str, str] | None = None,
    compression: Literal["none", "gzip"] = "none",
    timeout: float = 10.0,
    tls_ca_file: Path | None = None,
    tls_client_key: Path | None = None,
    tls_client_certificate: Path | None = None,
) -> SpanExporter:
    """Return an exporter for ``http://host:4317`` (plain) or ``https://host:4317`` (TLS). ``timeout`` is in seconds.

    ``compression`` is grpc's own, which does not compress messages that would not become smaller. The TLS files are
    those of :class:`~django_tracing.export.tls.TLSFiles`. Without a CA file, TLS trusts grpc's own list of
    authorities, or that of the environment variable GRPC_DEFAULT_SSL_ROOTS_FILE_PATH.

    Raise :class:`MissingExtra` if the extra ``otlp-grpc`` is not installed, and ValueError for a wrong header or a
    TLS file that can't be used.
    """
    try:
        import grpc
    except ImportError as error:
        raise MissingExtra(
            f'OTLP over gRPC is not installed ({error}): pip install "django-tracing-otel[otlp-grpc]". Or send OTLP '
            "over HTTP, which needs no extra: the same host with port 4318."
        ) from error
    tls = None
    if parse_address(endpoint).secure:
        from django_tracing.export.tls import TLSFiles

        tls = TLSFiles(tls_ca_file, tls_client_key, tls_client_certificate)
    return _GRPCExporter(grpc, endpoint, checked_headers(headers), compression, timeout, tls)


class _GRPCExporter(SpanExporter):
    def __init__(
        self,
        grpc: Any,
        endpoint: str,
        headers: dict[str, str],
        compression: Literal["none", "gzip"],
        timeout: float,
        tls: TLSFiles | None,
    ) -> None:
        address = parse_address(endpoint, port=4317)
        self._grpc = grpc
        #: None without TLS.
        self._tls = tls
        self._where = address.where
        # gRPC's metadata keys are lower case.
        self._metadata = tuple((name.lower(), value) for name, value in headers.items())
        self._compression = grpc.Compression.Gzip if compression == "gzip" else None
        self.timeout = timeout
        self._channel: Any = None
        self._call: Any = None
        self._owner = 0
        self._inherited: list[Any] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send ``spans``. Raise :class:`ExportError`."""
        return self._send(encode_spans(spans))

    #: ``QueueProcessor`` gathers ended spans in it.
    new_batch = EncodedBatch

    def export_batch(self, batch: EncodedBatch) -> SpanExportResult:
        """Send spans that are encoded already. Raise :class:`ExportError`."""
        return self._send(b"".join(batch.message()))

    def probe(self) -> None:
        """Send a message without spans, in little time. Raise :class:`ExportError` if it is not accepted."""
        self._send(b"", min(self.timeout, _PROBE_TIMEOUT))

    def _send(self, message: bytes, timeout: float | None = None) -> SpanExportResult:
        self._connect()
        timeout = self.timeout if timeout is None else timeout
        try:
            answer = self._call(message, timeout=timeout, metadata=self._metadata, compression=self._compression)
        except self._grpc.RpcError as error:
            # A failed channel waits up to two minutes before it connects again. A new channel does not.
            self._close()
            compressed = self._compression is not None
            raise _failure(
                error.code().name,
                error.details() or "",
                self._where,
                compressed=compressed,
                retry_after=_retry_delay(error),
            ) from None
        rejected, why = rejected_spans(answer)
        if rejected:
            raise ExportError(
                f"{self._where} rejected {rejected} spans of a batch{f': {why}' if why else '.'}",
                reason="rejected",
                retryable=False,
                rejected=rejected,
            )
        return SpanExportResult.SUCCESS

    def _connect(self) -> None:
        if self._channel is not None and self._owner == os.getpid():
            return
        if self._channel is not None:
            # It is the parent's. Closing it in a forked child may wait for threads that only the parent has.
            self._inherited.append(self._channel)
        self._owner = os.getpid()
        if self._tls is not None:
            credentials = self._grpc.ssl_channel_credentials(*self._tls.contents())
            self._channel = self._grpc.secure_channel(self._where, credentials, _OPTIONS)
        else:
            self._channel = self._grpc.insecure_channel(self._where, _OPTIONS)
        self._call = self._channel.unary_unary(_METHOD)

    def _close(self) -> None:
        channel, self._channel, self._call = self._channel, None, None
        if channel is None:
            return
        if self._owner == os.getpid():
            channel.close()
        else:
            self._inherited.append(channel)

    def shutdown(self) -> None:
        self._close()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return True


def _retry_delay(error: Any) -> float | None:
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            return retry_delay(value)
    return None


def _failure(
    code: str, details: str, where: str, *, compressed: bool, retry_after: float | None = None
) -> ExportError:
    """Return the :class:`ExportError` of a gRPC status (https://grpc.io/docs/guides/status-codes/).

    ``retry_after`` is the delay of the receiver's RetryInfo, in seconds.
    """
    if code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
        return ExportError(f"{where} rejected the credentials ({code}).", reason="unauthorized", retryable=False)
    if code == "UNIMPLEMENTED":
        # It has two causes (https://github.com/grpc/grpc/blob/master/doc/compression.md), with different details.
        if compressed and "compress" in details.lower():
            return ExportError(f"{where} does not support gzip ({code}).", reason="compression", retryable=False)
        return ExportError(f"{where} does not accept spans ({code}).", reason="not_found", retryable=False)
    if code == "DEADLINE_EXCEEDED":
        return ExportError(f"{where} did not answer in time.", reason="timeout", retryable=True)
    if code == "UNAVAILABLE":
        lowered = details.lower()
        for part, reason, message, retryable in _UNAVAILABLE:
            if part in lowered:
                return ExportError(message.format(where=where), reason=reason, retryable=retryable)
    # The details may repeat the metadata of the request.
    shown = f"{code}: {quoted(details)}" if details else code
    if code in _RETRYABLE or (code == "RESOURCE_EXHAUSTED" and retry_after is not None):
        return ExportError(
            f"{where} is overloaded or unavailable ({shown}).",
            reason="unavailable",
            retryable=True,
            retry_after=retry_after,
        )
    if code == "RESOURCE_EXHAUSTED":
        # Without a delay, it is not temporary: usually the message is larger than the receiver accepts.
        return ExportError(f"{where} accepts no message of that size ({shown}).", reason="too_large", retryable=False)
    return ExportError(f"{where} rejected the spans ({shown}).", reason="rejected", retryable=False)
