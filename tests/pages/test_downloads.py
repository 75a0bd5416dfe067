"""Test the downloads of traces."""

from __future__ import annotations

import json

import pytest
from asgiref.sync import async_to_sync
from django.test import AsyncClient, Client

from django_tracing.exceptions import ReadError
from django_tracing.traces.readers.sqlite.store import LocalStore
from tests.pages.helpers import BLUEPRINT, TRACES
from tests.traces.builders import row

pytestmark = pytest.mark.django_db


def test_downloads(root: Client, store: LocalStore) -> None:
    answer = root.get(f"{TRACES}{BLUEPRINT}/otlp.json")
    assert answer["Content-Type"] == "application/json"
    assert answer["Content-Disposition"] == 'attachment; filename="get-apiblueprintsintpk-00000000-otlp.json"'
    spans = [
        span
        for resource in json.loads(answer.getvalue())["resourceSpans"]
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    ]
    assert len(spans) == 8
    (trace,) = json.loads(root.get(f"{TRACES}{BLUEPRINT}/jaeger.json").getvalue())["data"]
    assert (trace["traceID"], len(trace["spans"])) == (BLUEPRINT, 8)
    assert {process["serviceName"] for process in trace["processes"].values()} == {"api-gateway", "blueprint-service"}


def long_trace(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> str:
    """Store a trace that is read and sent in several parts."""
    monkeypatch.setattr("django_tracing.traces.readers.sqlite.store.SLICE", 20)
    monkeypatch.setattr("django_tracing.pages.downloads.PIECE", 2000)
    store.write([row(77, number, number // 2) for number in range(1, 101)])
    return f"{TRACES}{77:032x}/jaeger.json"


def test_a_download_is_sent_as_it_is_read(root: Client, store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    address = long_trace(store, monkeypatch)
    answer = root.get(address)
    assert answer.streaming
    assert not answer.is_async
    pieces = list(answer)
    assert len(pieces) > 10
    (trace,) = json.loads(b"".join(pieces))["data"]
    assert len(trace["spans"]) == 100


def test_a_download_is_sent_as_it_is_read_under_asgi(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, async_root: AsyncClient
) -> None:
    """Django would read a plain iterator to its end first, with a warning, which is an error in tests."""
    address = long_trace(store, monkeypatch)

    async def take() -> list[bytes]:
        answer = await async_root.get(address)
        assert answer.streaming
        assert answer.is_async
        return [piece async for piece in answer]

    pieces = async_to_sync(take)()
    assert len(pieces) > 10
    (trace,) = json.loads(b"".join(pieces))["data"]
    assert len(trace["spans"]) == 100


@pytest.mark.parametrize("way", ["wsgi", "asgi"])
def test_a_download_that_breaks_off_is_visible_and_logged(
    way: str,
    root: Client,
    async_root: AsyncClient,
    store: LocalStore,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    address = long_trace(store, monkeypatch)
    read = []

    def take() -> None:
        """Read as a server does, which closes the connection after an exception."""
        for piece in root.get(address):
            read.append(piece)
            store.path.unlink(missing_ok=True)

    async def take_async() -> None:
        async for piece in await async_root.get(address):
            read.append(piece)
            store.path.unlink(missing_ok=True)

    with pytest.raises(ReadError, match="left the local store"):
        async_to_sync(take_async)() if way == "asgi" else take()
    assert read
    with pytest.raises(ValueError):
        json.loads(b"".join(read))
    messages = [record.getMessage() for record in caplog.records if record.name == "django_tracing"]
    assert len(messages) == 1
    assert messages[0].startswith(f"The download of trace {77:032x} broke off: ")
