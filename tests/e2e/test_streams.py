"""Streams, and work that outlives the response, on real servers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.processes import Process
from tests.e2e.test_servers import GUNICORN, UVICORN
from tests.jaegers import wait_until
from tests.receivers import OTLPReceiver

GTHREAD = [*GUNICORN, "--worker-class", "gthread", "--threads", "2"]

servers = pytest.mark.parametrize("arguments", [GUNICORN, GTHREAD, UVICORN], ids=["gunicorn", "gthread", "uvicorn"])


@servers
def test_a_span_that_a_stream_opens_is_current_for_all_of_it(arguments: list[str]) -> None:
    with (
        OTLPReceiver() as receiver,
        Process(arguments, JAEGER_ENDPOINT=receiver.endpoint, TRACING_SETTINGS='{"EXPORT_INTERVAL": 0.05}') as server,
    ):
        path = "/opened-stream-async/" if arguments is UVICORN else "/opened-stream/"
        body = server.get(path)[1].decode()
        server.get("/empty/")
        spans = receiver.wait_for(lambda spans: [span for span in spans if span.name == "GET /empty/"])
        (request,) = [span for span in spans if span.name == f"GET {path}"]
        (export,) = [span for span in spans if span.name == "export"]
        (theirs,) = [span for span in spans if span.name == "theirs"]
        assert export.parent_id == request.span_id
        assert theirs.parent_id == export.span_id
        assert body == theirs.span_id * 3
        chunks = [span.parent_id for span in spans if span.name == "cache.get.chunk:*"]
        assert chunks == [theirs.span_id] * 3
        (following,) = [span for span in spans if span.name == "GET /empty/"]
        assert following.parent_id == "", "nothing of the stream is left in the worker"
        assert "Traceback" not in server.log()
        assert "detach" not in server.log()


@servers
def test_a_thread_that_outlives_the_response(arguments: list[str], tmp_path: Path) -> None:
    from django_tracing.traces.readers.sqlite.store import LocalStore

    path = tmp_path / "traces.sqlite3"
    settings = {"LOCAL_STORE": str(path), "EXPORT_INTERVAL": 0.05}
    with Process(arguments, TRACING_SETTINGS=json.dumps(settings)) as server:
        server.get("/leaves-a-thread/")
        store = LocalStore(path)
        wait_until(lambda: store.search(operation="GET /leaves-a-thread/"), "the request to be stored")
        server.get("/answered/")

        def stored() -> bool:
            (summary,) = store.search(operation="GET /leaves-a-thread/")
            return summary.span_count == 3

        wait_until(stored, "the thread's spans to be stored with it")
    (summary,) = store.search(operation="GET /leaves-a-thread/")
    assert (summary.name, summary.error_count) == ("GET /leaves-a-thread/", 0)
    trace = store.trace(summary.trace_id)
    assert trace is not None
    (root,) = trace.tree()
    assert [node.span.name for node in root.children] == ["late"]
    assert [node.span.name for node in root.children[0].children] == ["cache.get.chunk:*"]
    (late,) = root.children
    assert late.span.end > root.span.end
