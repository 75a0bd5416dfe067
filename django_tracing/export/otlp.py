"""Send spans by OTLP over HTTP, over one kept-alive connection."""

from __future__ import annotations

import http.client
import os
import ssl
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from django_tracing.exceptions import ExportError
from django_tracing.export.answers import rejected_spans
from django_tracing.export.errors import checked_headers, from_network_error, from_status
from django_tracing.export.wire import EncodedBatch, encode_spans
from django_tracing.net import connect, open_socket, parse_address, read_at_most, send_until, shown_address

if TYPE_CHECKING:
    from django_tracing.export.tls import TLSFiles

__all__ = ["OTLPHTTPExporter"]

#: UnicodeError: the rules of internationalized domain names do not allow the host name.
_TRANSPORT_ERRORS: Final = (OSError, http.client.HTTPException, UnicodeError)
#: The errors of a kept-alive connection that the receiver has closed.
_STALE: Final = (ConnectionError, http.client.CannotSendRequest, ssl.SSLEOFError, ssl.SSLZeroReturnError)
#: zlib's level. Level 6 makes a batch a tenth smaller, in more than twice the time (4.6 us a span instead of 2.0).
_LEVEL: Final = 1
#: Seconds. A receiver that needs longer for an empty message is tried with batches, after longer pauses.
_PROBE_TIMEOUT: Final = 1.0


class OTLPHTTPExporter(SpanExporter):
    """Send spans to an OTLP/HTTP receiver. Raise :class:`ExportError` for spans that were not accepted.

    ``endpoint`` is the whole URL (``/v1/traces`` is added if its path is empty); credentials in it become Basic
    authentication. The sending thread compresses. ``timeout`` is in seconds, for a whole export: to connect, to send
    and to read the response. The TLS files are those of :class:`~django_tracing.export.tls.TLSFiles`, for ``https``.
    Proxies of the environment are not used: a collector is close. Not thread-safe, as exporters need not be. Creating
    one raises ValueError for a header that HTTP does not allow, without its value, which may be secret, and for a TLS
    file that can't be used.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        headers: Mapping[str, str] | None = None,
        compression: Literal["none", "gzip"] = "none",
        timeout: float = 10.0,
        tls_ca_file: Path | None = None,
        tls_client_key: Path | None = None,
        tls_client_certificate: Path | None = None,
    ) -> None:
        address = parse_address(endpoint)
        self._address = address if address.path not in ("", "/") else address._replace(path="/v1/traces")
        self.timeout = timeout
        #: The address for people.
        self._shown = shown_address(f"{address.scheme}://{address.where}{self._address.path}")
        self._headers = {
            "Content-Type": "application/x-protobuf",
            "User-Agent": "django-tracing-otel",
            **checked_headers(headers),
        }
        if address.authorization is not None:
            self._headers["Authorization"] = address.authorization
        self._compressed = compression == "gzip"
        if self._compressed:
            self._headers["Content-Encoding"] = "gzip"
        self._tls: TLSFiles | None = None
        if address.secure:
            from django_tracing.export.tls import TLSFiles

            self._tls = TLSFiles(tls_ca_file, tls_client_key, tls_client_certificate)
        self._connection: http.client.HTTPConnection | None = None
        self._owner = 0
        self._shut_down = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send ``spans``. Raise :class:`ExportError`."""
        if self._shut_down:
            return SpanExportResult.FAILURE
        self._send([encode_spans(spans)])
        return SpanExportResult.SUCCESS

    #: ``QueueProcessor`` gathers ended spans in it.
    new_batch = EncodedBatch

    def export_batch(self, batch: EncodedBatch) -> SpanExportResult:
        """Send spans that are encoded already. Raise :class:`ExportError`."""
        if self._shut_down:
            return SpanExportResult.FAILURE
        self._send(batch.message())
        return SpanExportResult.SUCCESS

    def probe(self) -> None:
        """Send a message without spans, in little time. Raise :class:`ExportError` if it is not accepted."""
        timeout, self.timeout = self.timeout, min(self.timeout, _PROBE_TIMEOUT)
        try:
            self._send([])
        finally:
            self.timeout = timeout

    def _send(self, body: list[bytes | bytearray]) -> None:
        if self._compressed:
            body = [_gzipped(body)]
        deadline = time.monotonic() + self.timeout
        fresh = not self._is_connected()
        try:
            status, kind, retry_after, answer = self._post(body, deadline)
        except _TRANSPORT_ERRORS as error:
            if fresh or not isinstance(error, _STALE):
                raise self._failure(error) from None
            # The receiver closed an idle connection. A new one may work.
            self._close()
            try:
                status, kind, retry_after, answer = self._post(body, deadline)
            except _TRANSPORT_ERRORS as second:
                raise self._failure(second) from None
        if not 200 <= status < 300:
            raise from_status(status, self._shown, retry_after, compressed=self._compressed)
        if kind.startswith("text/html"):
            # Jaeger's UI and many proxies answer any request with a page and status 200.
            raise ExportError(
                f"{self._shown} answers with a web page: it does not accept spans.",
                reason="wrong_protocol",
                retryable=False,
                status=status,
            )
        rejected, why = rejected_spans(answer)
        if rejected:
            raise ExportError(
                f"{self._shown} rejected {rejected} spans of a batch{f': {why}' if why else '.'}",
                reason="rejected",
                retryable=False,
                status=status,
                rejected=rejected,
            )

    def _failure(self, error: Exception) -> ExportError:
        self._close()
        return from_network_error(error, self._address.where)

    def _is_connected(self) -> bool:
        return self._connection is not None and self._owner == os.getpid()

    def _connect(self, deadline: float) -> http.client.HTTPConnection:
        """Return the connection: a new one, unless there is one."""
        if self._connection is None or not self._is_connected():
            # A forked child must not use its parent's connection. Closing its copy does not close the parent's.
            self._close()
            self._owner = os.getpid()
            tls = None if self._tls is None else self._tls.context()
            connection = connect(self._address, self.timeout, tls)
            connection.sock = open_socket(self._address, deadline, tls)
            self._connection = connection
        return self._connection

    def _post(self, body: list[bytes | bytearray], deadline: float) -> tuple[int, str, str | None, bytes]:
        connection = self._connect(deadline)
        # Not joined: a copy of so many bytes costs more than a second call of send().
        headers = {**self._headers, "Content-Length": str(sum(map(len, body)))}
        try:
            connection.request("POST", self._address.target, send_until(connection.sock, body, deadline), headers)
        except (BrokenPipeError, ConnectionResetError) as error:
            # The receiver may have answered before it read everything: usually that the message is too large.
            response = _early_response(connection, error)
        else:
            connection.sock.settimeout(max(deadline - time.monotonic(), 0.001))
            response = connection.getresponse()
        answer, has_more = read_at_most(response, 65536)
        if has_more or response.will_close or response.status < 200:
            self._close()
        return response.status, response.getheader("Content-Type", ""), response.getheader("Retry-After"), answer

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def shutdown(self) -> None:
        self._shut_down = True
        self._close()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return True


def _early_response(connection: http.client.HTTPConnection, error: OSError) -> http.client.HTTPResponse:
    try:
        response = connection.getresponse()
    except _TRANSPORT_ERRORS:
        raise error from None
    response.will_close = True
    return response


def _gzipped(pieces: Iterable[bytes | bytearray]) -> bytes:
    # 16 asks for gzip's frame, 15 for the whole window. zlib leaves the interpreter to others while it works.
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, 16 + 15)
    return b"".join([*map(compressor.compress, pieces), compressor.flush()])
