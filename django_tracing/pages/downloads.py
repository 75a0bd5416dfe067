"""Send a trace as a file."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import suppress
from typing import Final

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils.text import slugify
from django.utils.translation import gettext

from django_tracing.exceptions import ReadError
from django_tracing.pages.mounts import Mount
from django_tracing.pages.source import open_reader, respond_missing, respond_unreadable
from django_tracing.traces.formats import jaeger_json, otlp_json
from django_tracing.traces.readers.choosing import stream_spans

__all__ = ["page"]

_logger = logging.getLogger("django_tracing")

#: The approximate length of a piece of a download, in characters.
PIECE: Final = 64 * 1024


def page(request: HttpRequest, mount: Mount, trace_id: str, kind: str) -> HttpResponseBase:
    """Send a trace as a file with all its stored spans, which are read while they are sent."""
    try:
        found = stream_spans(open_reader(), trace_id, grouped=kind == "otlp")
    except ReadError as error:
        return respond_unreadable(request, mount, gettext("Trace"), error)
    if found is None:
        return respond_missing(request, mount, trace_id)
    otlp = kind == "otlp"
    parts_of_file = otlp_json(found.spans) if otlp else jaeger_json(found.trace_id, found.spans, found.unstored)
    pieces = _pieces(found.trace_id, parts_of_file)
    response = StreamingHttpResponse(
        # Under ASGI, Django reads a plain iterator to its end before it sends anything.
        _read_in_thread(pieces) if isinstance(request, ASGIRequest) else pieces,
        content_type="application/json",
    )
    name = slugify(found.name)[:60] or "trace"
    response["Content-Disposition"] = f'attachment; filename="{name}-{found.trace_id[:8]}-{kind}.json"'
    return response


def _pieces(trace_id: str, parts_of_file: Iterator[str]) -> Generator[str, None, None]:
    """Join small parts into pieces worth sending.

    An error is logged and ends the connection: an incomplete file must not look complete.
    """
    parts: list[str] = []
    length = 0
    try:
        for part in parts_of_file:
            parts.append(part)
            length += len(part)
            if length >= PIECE:
                yield "".join(parts)
                parts, length = [], 0
    except Exception as error:
        _logger.error("The download of trace %s broke off: %s", trace_id, error)
        raise
    yield "".join(parts)


async def _read_in_thread(pieces: Generator[str, None, None]) -> AsyncIterator[str]:
    take = sync_to_async(lambda: next(pieces, None), thread_sensitive=False)
    try:
        while (piece := await take()) is not None:
            yield piece
    finally:
        # ValueError: the client has disconnected while the thread still reads. The generator ends with that read.
        with suppress(ValueError):
            pieces.close()
