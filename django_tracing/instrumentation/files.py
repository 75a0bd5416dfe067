"""Trace the calls of Django's storages, as ``file.save``, ``file.open``, ``file.delete`` and ``file.exists``.

One call of yours is one span, however many calls the storage makes of itself: ``save`` looks for a free name, with
``exists``. Storages of static files are left out: each ``{% static %}`` may ask them. ``url`` is left out, too: it
computes an address, and asks nobody.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial, wraps
from typing import Any, Final

from opentelemetry.trace import Span, SpanKind

from django_tracing import spans
from django_tracing.context.marks import make_mark
from django_tracing.instrumentation.imports import when_imported
from django_tracing.instrumentation.patching import Patches
from django_tracing.instrumentation.subclasses import wrap_methods
from django_tracing.recording.shared import SharedAttributes
from django_tracing.redaction import cut, key_pattern, redact_text
from django_tracing.semconv.names import (
    FILE_BUCKET,
    FILE_LOCATION,
    FILE_OPERATION,
    FILE_PATTERN,
    FILE_SIZE,
    FILE_STORAGE,
    OPERATION_TYPE,
    Attributes,
)

__all__ = ["install", "is_available", "uninstall"]

_OPERATIONS: Final = ("save", "open", "delete", "exists")
#: Storages of this machine, by the name of a class anywhere among their bases.
_LOCAL: Final = frozenset({"FileSystemStorage", "InMemoryStorage"})
_STATIC_FILES: Final = "django.contrib.staticfiles."
#: Where storages of django-storages keep their bucket's name: S3 and Google, Azure, libcloud.
_BUCKETS: Final = ("bucket_name", "azure_container", "bucket")
_NAME_LENGTH: Final = 500
#: Folders that programs name so, beside the known words of keys.
_FOLDER_WORDS: Final = (
    "attachments audio avatars backups cache covers csv docs documents downloads export exports files gallery "
    "images img import imports invoices logos media original originals pdf photos pictures previews private "
    "products profiles public reports resized static temp thumbnails thumbs tmp upload uploads users videos"
)
_FOLDERS: Final = frozenset(_FOLDER_WORDS.split())
_ENDING_WORDS: Final = (
    ".avi .avif .bin .bmp .bz2 .css .csv .db .doc .docx .eml .gif .gz .heic .htm .html .ico .ics .jpeg .jpg .js "
    ".json .log .m4a .md .mkv .mov .mp3 .mp4 .odt .ogg .parquet .pdf .pickle .png .ppt .pptx .ps .rar .rtf .sql "
    ".sqlite3 .svg .tar .tgz .tif .tiff .tsv .txt .wav .webm .webp .woff .woff2 .xls .xlsx .xml .yaml .yml .zip"
)
_ENDINGS: Final = frozenset(_ENDING_WORDS.split())

_patches: Final = Patches()
#: The storage whose call has a span already.
_working: Final[ContextVar[Any]] = make_mark("files", None)


def is_available() -> bool:
    return True


def install() -> None:
    """Trace every storage, existing and future. Does not import Django's files."""
    if _patches.start():
        when_imported("django.core.files.storage.base", _patch)


def uninstall() -> None:
    """Stop tracing storages."""
    _patches.stop()


def _patch() -> None:
    from django.core.files.storage.base import Storage

    wrap_methods(_patches, Storage, {name: partial(_traced_method, name) for name in _OPERATIONS})


class _Kind:
    """The facts about the storages of a class."""

    __slots__ = ("is_local", "kind", "path", "shared")

    def __init__(self, storage: type) -> None:
        self.path = cut(f"{storage.__module__}.{storage.__qualname__}", 100)
        self.is_local = not _LOCAL.isdisjoint(base.__name__ for base in storage.__mro__)
        self.kind = SpanKind.INTERNAL if self.is_local else SpanKind.CLIENT
        # These have the same names in every convention.
        self.shared = {
            name: SharedAttributes({OPERATION_TYPE: "file", FILE_OPERATION: name, FILE_STORAGE: self.path})
            for name in _OPERATIONS
        }


#: By class. None for storages of static files.
_kinds: Final[spans.Cache[type, _Kind | None]] = spans.Cache(256)


def _kind_of(storage: Any) -> _Kind | None:
    kind = type(storage)
    if kind in _kinds:
        return _kinds[kind]
    is_static = any(base.__module__.startswith(_STATIC_FILES) for base in kind.__mro__)
    return _kinds.keep(kind, None if is_static else _Kind(kind))


def _traced_method(operation: str, original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        parent = spans.recording_span()
        if parent is None or not _patches.active or _working.get() is self:
            return original(self, *args, **kwargs)
        call = _start(parent, self, operation, args, kwargs)
        if call is None:
            return original(self, *args, **kwargs)
        try:
            result = original(self, *args, **kwargs)
        except BaseException as error:
            call.end(error)
            raise
        call.end()
        return result

    return method


def _start(parent: Span, storage: Any, operation: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Call | None:
    """Start the span of a call. Return None if the storage is not traced. Never raises."""
    try:
        kind = _kind_of(storage)
        if kind is None:
            return None
        name = args[0] if args else kwargs.get("name")
        content = None
        if operation == "save":
            content = args[1] if len(args) > 1 else kwargs.get("content")
        return _Call(parent, storage, kind, operation, name, content)
    except Exception:
        spans.log_once("files", "The call of a storage could not be traced.")
        return None


class _Call:
    """One call of a storage."""

    __slots__ = ("_inside", "_kind", "_span", "_storage", "_token")

    def __init__(self, parent: Span, storage: Any, kind: _Kind, operation: str, name: Any, content: Any) -> None:
        self._kind = kind
        self._storage = storage
        self._span, self._token = spans.start_current_child(
            parent, f"file.{operation}", kind.kind, (kind.shared[operation],), _describe(name, content)
        )
        self._inside = _working.set(storage)

    def end(self, error: BaseException | None = None) -> None:
        """End the span. Never raises."""
        spans.detach(self._inside)
        spans.detach(self._token)
        try:
            # A storage may know its place only once it has been used.
            place = _place_of(self._storage, self._kind)
            if place:
                spans.set_attributes(self._span, place)
        except Exception:
            spans.log_once("files-place", "The place of a storage could not be read.")
        if error is not None:
            spans.record_error(self._span, error)
        spans.end_span(self._span)


def _describe(name: Any, content: Any) -> Attributes:
    # Only what the objects hold. A property of a storage or a file may ask a server, or move in the file.
    held = getattr(content, "__dict__", None) or {}
    if name is None:
        name = held.get("name")
    attributes: Attributes = {}
    if isinstance(name, os.PathLike):
        name = os.fspath(name)
    if isinstance(name, str):
        attributes[FILE_PATTERN] = _pattern_of(name)
    size = held.get("size")
    if type(size) is int:
        attributes[FILE_SIZE] = size
    return attributes


def _pattern_of(name: str) -> str:
    """Return the pattern of a file's name: ``uploads/2026/ada.pdf`` becomes ``uploads/*.pdf``."""
    name = name[:_NAME_LENGTH].replace("\\", "/")
    stem, ending = os.path.splitext(name)
    if ending.lower() not in _ENDINGS:
        stem, ending = name, ""
    shown = ""
    folder, slash, rest = stem.partition("/")
    while slash and folder.lower() in _FOLDERS:
        shown += f"{folder}/"
        stem = rest
        folder, slash, rest = stem.partition("/")
    return cut(f"{shown}{key_pattern(stem)}{ending}", 100)


def _place_of(storage: Any, kind: _Kind) -> Attributes:
    own = vars(storage)
    place: Attributes = {}
    for name in _BUCKETS:
        bucket = own.get(name, getattr(type(storage), name, None))
        if isinstance(bucket, str) and bucket:
            place[FILE_BUCKET] = cut(redact_text(bucket), 100)
            break
    location = own.get("location", getattr(type(storage), "location", None))
    if isinstance(location, str) and location.strip("/\\"):
        if kind.is_local:
            # Its last folder. The others are this machine's, and may have the name of a person.
            location = os.path.basename(location.rstrip("/\\"))
        place[FILE_LOCATION] = cut(redact_text(location), 100)
    return place
