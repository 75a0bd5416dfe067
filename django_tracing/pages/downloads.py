"""Send a trace as a file."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import suppress
from typing import Final

from asgiref.sync import sync_to_async
from django.contrib.admin import AdminSite
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils.text import slugify
from django.utils.translation import gettext

from django_tracing.pages.answers import _failed, _missing, _reader
from django_tracing.reading import stream_spans
from django_tracing.traces.formats import jaeger_json, otlp_json
from django_tracing.traces.model import ReadError

__all__ = ["PIECE", "download"]

_logger = logging.getLogger("django_tracing")


#: A piece of a download has about as many characters.
PIECE: Final = 64 * 1024


def download(request: HttpRequest, site: AdminSite, trace_id: str, kind: str) -> HttpResponseBase:
    """The trace as a file, with all its stored spans: they are read as they are sent."""
    try:
        found = stream_spans(_reader(), trace_id, grouped=kind == "otlp")
    except ReadError as error:
        return _failed(request, site, gettext("Trace"), error)
    if found is None:
        return _missing(request, site, trace_id)
    otlp = kind == "otlp"
    written = otlp_json(found.spans) if otlp else jaeger_json(found.trace_id, found.spans, found.unstored)
    pieces = _pieces(found.trace_id, written)
    answer = StreamingHttpResponse(
        # Django waits for all of a plain iterator before it sends the first of it under ASGI.
        _in_a_thread(pieces) if isinstance(request, ASGIRequest) else pieces,
        content_type="application/json",
    )
    name = slugify(found.name)[:60] or "trace"
    answer["Content-Disposition"] = f'attachment; filename="{name}-{found.trace_id[:8]}-{kind}.json"'
    return answer


def _pieces(trace_id: str, written: Iterator[str]) -> Generator[str, None, None]:
    """``written`` in pieces that are worth sending. What fails is told in the log, and ends the connection: a file
    that is not whole must not look as if it were."""
    parts: list[str] = []
    length = 0
    try:
        for part in written:
            parts.append(part)
            length += len(part)
            if length >= PIECE:
                yield "".join(parts)
                parts, length = [], 0
    except Exception as error:
        _logger.error("The download of trace %s ended before its end: %s", trace_id, error)
        raise
    yield "".join(parts)


async def _in_a_thread(pieces: Generator[str, None, None]) -> AsyncIterator[str]:
    take = sync_to_async(lambda: next(pieces, None), thread_sensitive=False)
    try:
        while (piece := await take()) is not None:
            yield piece
    finally:
        # Refused while its thread still reads, of somebody who has gone: then it ends with that.
        with suppress(ValueError):
            pieces.close()
