"""Test the spans of storages: Django's, django-storages' S3 by its public attributes, and storages of one's own."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import SuspiciousFileOperation
from django.core.files import File
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage, InMemoryStorage, Storage, default_storage, storages
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from django_tracing import create_span
from django_tracing.instrumentation import files
from tests.conftest import Spans

#: Stacks have lines of source, in which these are names.
CONTRACT = "contract-lovelace.pdf"
OUTSIDE = "../lovelace.pdf"
STATIC = "django.contrib.staticfiles.storage.StaticFilesStorage"


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def media(folder: Path, **more: Any) -> Any:
    default = {"BACKEND": "django.core.files.storage.FileSystemStorage", "OPTIONS": {"location": str(folder)}}
    return override_settings(STORAGES={"default": default, "staticfiles": {"BACKEND": STATIC}, **more})


class Bucket(Storage):
    """Keep files in memory, with the attributes of django-storages' S3Storage."""

    def __init__(self, bucket_name: str = "acme-media", location: str = "media/eu") -> None:
        self.bucket_name = bucket_name
        self.location = location
        self.stored: dict[str, bytes] = {}

    @property
    def bucket(self) -> Any:
        raise AssertionError("this connects to S3")

    def _open(self, name: str, mode: str = "rb") -> File[bytes]:
        return File(io.BytesIO(self.stored[name]), name)

    def _save(self, name: str, content: Any) -> str:
        self.stored[name] = content.read()
        return name

    def delete(self, name: str) -> None:
        del self.stored[name]

    def exists(self, name: str) -> bool:
        return name in self.stored

    def url(self, name: str | None) -> str:
        return f"https://acme-media.example.com/{name}"


class Compressing(Bucket):
    def save(self, name: Any, content: Any, max_length: Any = None) -> str:
        return super().save(name, content, max_length)

    def open(self, name: str, mode: str = "rb") -> Any:
        return super().open(name, mode)


def test_the_calls_of_a_file_system_storage(spans: Spans, tmp_path: Path) -> None:
    storage = FileSystemStorage(location=tmp_path / "media")
    with create_span("page"):
        name = storage.save("avatars/ada.png", ContentFile(b"12345"))
        with storage.open(name) as file:
            assert file.read() == b"12345"
        assert storage.exists(name)
        storage.delete(name)
        assert not storage.exists(name)
    operations = ["save", "open", "exists", "delete", "exists"]
    assert spans.names == [*(f"file.{operation}" for operation in operations), "page"]
    for span, operation in zip(spans, operations, strict=False):
        attributes = attributes_of(span)
        assert span.kind is SpanKind.INTERNAL
        assert attributes["operation.type"] == "file"
        assert attributes["file.operation"] == operation
        assert attributes["file.storage"] == "django.core.files.storage.filesystem.FileSystemStorage"
        assert attributes["file.location"] == "media", "not where it is on this machine"
        assert attributes["file.pattern"] == "avatars/*.png"
        assert attributes.get("file.size") == (5 if operation == "save" else None)


def test_the_default_storage(spans: Spans, tmp_path: Path) -> None:
    with media(tmp_path), create_span("page"):
        assert default_storage.save("a.txt", ContentFile("text")) == "a.txt"
        assert storages["default"].exists("a.txt")
    assert spans.names == ["file.save", "file.exists", "page"]


def test_a_storage_with_a_bucket(spans: Spans) -> None:
    storage = Bucket()
    with create_span("page"):
        storage.save("reports/ada.pdf", SimpleUploadedFile("ada.pdf", b"123"))
        storage.open("reports/ada.pdf").close()
        storage.delete("reports/ada.pdf")
        assert storage.url("reports/ada.pdf")
    assert spans.names == ["file.save", "file.open", "file.delete", "page"], "exists is part of save, url is no call"
    attributes = attributes_of(spans.one("file.save"))
    assert spans.one("file.save").kind is SpanKind.CLIENT
    assert attributes["file.storage"] == f"{__name__}.Bucket"
    assert (attributes["file.bucket"], attributes["file.location"]) == ("acme-media", "media/eu")
    assert attributes["file.size"] == 3


def test_a_subclass_that_calls_its_parent_makes_one_span(spans: Spans) -> None:
    with create_span("page"):
        storage = Compressing()
        storage.save("a.txt", ContentFile(b"1"))
        storage.open("a.txt").close()
    assert spans.names == ["file.save", "file.open", "page"]


def test_a_storage_that_uses_another_one_has_both_spans(spans: Spans) -> None:
    class Mirror(Bucket):
        def _save(self, name: str, content: Any) -> str:
            return Bucket().save(name, content)

    with create_span("page"):
        Mirror().save("a.txt", ContentFile(b"1"))
    inner, outer = spans.named("file.save")
    assert inner.parent is not None and inner.parent.span_id == outer.context.span_id
    assert attributes_of(outer)["file.storage"].endswith(".Mirror")


#: Not literals in the code, whose lines are part of a stack.
PRIVATE = "contract-lovelace.pdf"
OUTSIDE = "../lovelace.pdf"


def test_an_exception_is_recorded_without_the_name(spans: Spans, tmp_path: Path) -> None:
    storage = FileSystemStorage(location=tmp_path)
    with create_span("page"), pytest.raises(FileNotFoundError):
        storage.open(CONTRACT)
    with create_span("page"), pytest.raises(SuspiciousFileOperation):
        storage.save(OUTSIDE, ContentFile(b""))
    for name, error in (("file.open", "FileNotFoundError"), ("file.save", "SuspiciousFileOperation")):
        span = spans.one(name)
        assert span.status.status_code is StatusCode.ERROR
        assert attributes_of(span)["error.type"].endswith(error)
        assert "lovelace" not in span.to_json()


def test_the_file_is_not_touched_for_its_size(spans: Spans) -> None:
    class Reader(io.BytesIO):
        def seek(self, *args: Any) -> int:
            raise AssertionError("sought")

        @property
        def size(self) -> int:
            raise AssertionError("measured")

    class Dropping(Bucket):
        def _save(self, name: str, content: Any) -> str:
            return name

    with create_span("page"):
        assert Dropping().save(None, File(Reader(b"abc"), "images/ada.gif")) == "images/ada.gif"
    attributes = attributes_of(spans.one("file.save"))
    assert "file.size" not in attributes
    assert attributes["file.pattern"] == "images/*.gif"


def test_static_files_make_no_spans(spans: Spans, tmp_path: Path) -> None:
    from django.contrib.staticfiles.storage import ManifestStaticFilesStorage, StaticFilesStorage

    class Lax(ManifestStaticFilesStorage):
        manifest_strict = False

    with override_settings(DEBUG=False), create_span("page"):
        (tmp_path / "a.css").write_text("a {}")
        assert Lax(location=tmp_path, base_url="/static/").url("a.css") != "/static/a.css"
        assert StaticFilesStorage(location=tmp_path, base_url="/static/").url("a.css") == "/static/a.css"
    assert spans.names == ["page"]


def test_outside_a_trace_there_is_no_span(spans: Spans) -> None:
    InMemoryStorage().save("a.txt", ContentFile(b"1"))
    assert spans.names == []


def test_strange_arguments_are_the_storage_s(spans: Spans, tmp_path: Path) -> None:
    storage = Bucket()
    with create_span("page"):
        storage.save(name="a.txt", content=ContentFile(b"1"))
        assert not storage.exists(Path("b.txt"))  # type: ignore[arg-type]
        assert not storage.exists(b"c.txt")  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            storage.exists()  # type: ignore[call-arg]
        with pytest.raises(TypeError):
            storage.save()  # type: ignore[call-arg]
    assert spans.names.count("file.exists") == 3


def test_after_uninstall_the_classes_are_as_before(spans: Spans) -> None:
    save = vars(Storage)["save"]
    files.uninstall()
    try:
        assert vars(Storage)["save"] is not save
        with create_span("page"):
            Bucket().save("a.txt", ContentFile(b"1"))
        assert spans.names == ["page"]
    finally:
        files.install()
    with create_span("page"):
        Bucket().exists("a.txt")
    assert "file.exists" in spans.names


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("uploads/2026/11/26/ada.JPG", "uploads/*.JPG"),
        ("media/images/7c9e6679-7425-40de-944b-e07fc1f90ae7.webp", "media/images/*.webp"),
        ("ada.lovelace", "*"),
        ("documents/ada@example.com.pdf", "documents/*.pdf"),
        ("uploads\\ada.pdf", "uploads/*.pdf"),
        ("", ""),
    ],
)
def test_patterns(name: str, pattern: str, spans: Spans) -> None:
    with create_span("page"):
        Bucket().exists(name)
    assert attributes_of(spans.one("file.exists"))["file.pattern"] == pattern


@given(folder=st.sampled_from(["uploads", "users", ""]), word=st.text(max_size=60), ending=st.text(max_size=6))
def test_no_word_of_a_name_is_shown(folder: str, word: str, ending: str) -> None:
    secret = f"Qz{word}Lovelace"
    shown = files._pattern_of("/".join(filter(None, (folder, f"{secret}.{ending}"))))
    assert "Lovelace" not in shown and len(shown) <= 100


class Mixin:
    def delete(self, name: str) -> None:
        calls.append("mixin")


class Remote(Mixin, Storage):
    pass


class Audit(Mixin):
    def delete(self, name: str) -> None:
        calls.append("audit")
        super().delete(name)


class Audited(Remote, Audit):
    pass


calls: list[str] = []


def test_each_class_calls_the_method_that_follows_it_in_the_bases_of_the_object(spans: Spans) -> None:
    calls.clear()
    with create_span("page"):
        Audited().delete("a.pdf")
    assert calls == ["audit", "mixin"]
    assert len(spans.named("file.delete")) == 1
