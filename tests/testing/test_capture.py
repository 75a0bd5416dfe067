"""What users' own tests get: their spans, whole, apart from each other's, and readable when something fails."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import (
    AsyncClient,
    Client,
    LiveServerTestCase,
    SimpleTestCase,
    TestCase,
    TransactionTestCase,
    override_settings,
)
from opentelemetry import propagate, trace

from django_tracing.api.spans import bind_trace_context, create_span
from django_tracing.testing import CapturedSpans, CaptureSpansMixin, capture_spans
from tests.e2e.processes import ROOT, environment
from tests.receivers import OTLPReceiver
from tests.test_provider import run

client = Client(raise_request_exception=False)


# ----- reading


@pytest.mark.django_db
def test_the_spans_of_a_request() -> None:
    with capture_spans() as spans:
        client.get("/query/")
    request, query = spans
    assert spans.names == ["GET /query/", "db.select"]
    assert (request.kind, query.kind) == ("server", "client")
    assert query.parent is request
    assert request.parent is None
    assert request.children == [query]
    assert query.children == []
    assert request.trace_id == query.trace_id
    assert re.fullmatch("[0-9a-f]{32}", request.trace_id)
    assert re.fullmatch("[0-9a-f]{16}", request.span_id)
    assert 0 < query.duration <= request.duration < 60
    assert (request.status, request.error) == ("unset", False)
    assert request.attributes["http.status_code"] == 200
    assert "literal" not in query.attributes["db.statement"]
    assert len(spans) == 2
    assert spans[-1] is query
    assert spans[:1] == [request]
    assert query in spans


def test_an_error_is_redacted_as_it_would_be_sent() -> None:
    with capture_spans() as spans:
        client.get("/boom/")
    (span,) = spans
    assert span.error
    assert span.status == "error"
    assert "RuntimeError" in span.status_message
    (event,) = span.events
    assert event.name == "exception"
    assert "hunter2" not in repr(event.attributes) + span.status_message + spans.tree()


def test_nothing_is_traced_twice_or_before_or_after() -> None:
    client.get("/empty/?before")
    with capture_spans() as spans:
        client.get("/async/")
    client.get("/empty/?after")
    assert spans.names == ["GET /async/"]


def test_spans_stand_in_the_order_they_started_in() -> None:
    with capture_spans() as spans, create_span("a"):
        with create_span("b"):
            pass
        late = create_span("c")
        with create_span("d"):
            pass
        late.end()
    assert spans.names == ["a", "b", "c", "d"]
    assert [child.name for child in spans[0].children] == ["b", "c", "d"]


def test_a_span_made_after_the_fact_stands_where_its_work_began() -> None:
    tracer = trace.get_tracer("tests")
    with capture_spans() as spans:
        tracer.start_span("second", start_time=2_000).end(3_000)
        tracer.start_span("first", start_time=1_000).end(4_000)
    assert spans.names == ["first", "second"]
    assert spans[0].duration == pytest.approx(3e-6)


def test_spans_of_other_tracers_are_captured() -> None:
    with capture_spans() as spans, trace.get_tracer("theirs").start_as_current_span("theirs") as span:
        span.set_attribute("password", "hunter2")
        client.get("/empty/")
    assert spans.names == ["theirs", "GET /empty/"]
    assert spans[1].parent is spans[0]
    assert spans[0].attributes["password"] == "[redacted]"


# ----- finding


def orders(spans: CapturedSpans) -> None:
    with create_span("order", {"order.items": 1, "order.tags": ["new", "vip"]}):
        pass
    with create_span("order", {"order.items": 2}):
        pass


def test_find_by_name_and_attributes() -> None:
    with capture_spans() as spans:
        orders(spans)
    first, second = spans
    assert spans.find("order", order__items=1) is first
    assert spans.find(name="order", **{"order.items": 2}) is second
    assert spans.find(order__tags=["new", "vip"]) is first
    assert spans.find("order", order__tags=None) is second
    assert spans.find_all("order") == [first, second]
    assert spans.find_all("order", order__items=3) == []


def test_a_failed_find_says_what_there_was() -> None:
    with capture_spans() as spans:
        orders(spans)
        client.get("/missing/")
    with pytest.raises(AssertionError) as none:
        spans.find("order", order__items=3)
    assert str(none.value) == textwrap.dedent(
        """\
        No span with the name 'order' and order.items = 3 among 3.
        There are:
          order with order.items = 1
          order with order.items = 2

        order
        order
        GET /missing/  http.status_code=404"""
    )
    with pytest.raises(AssertionError, match=r"^2 spans with the name 'order', not just one\.\n\norder\norder\n"):
        spans.find("order")
    with pytest.raises(AssertionError, match=r"^No span with the name 'nobody' among 3\."):
        spans.find("nobody")
    with capture_spans() as empty:
        pass
    with pytest.raises(AssertionError, match=r"\(no spans\)"):
        empty.find()
    assert not empty
    assert repr(empty) == "<no spans>"


def test_the_tree() -> None:
    with capture_spans() as spans:
        with create_span("root"):
            with create_span("left"), create_span("leaf"):
                pass
            with pytest.raises(ValueError, match="wrong"), create_span("right"):
                raise ValueError("it is\nwrong")
        create_span("other").end()
    assert spans.tree() == textwrap.dedent(
        """\
        root
        ├─ left
        │  └─ leaf
        └─ ✗ right
             ValueError: it is\\nwrong
        other"""
    )
    assert repr(spans) == "<5 spans: root [left [leaf], ✗ right], other>"


def test_a_deep_trace_has_a_tree() -> None:
    with capture_spans() as spans:
        opened = []
        for depth in range(1200):
            opened.append(create_span(f"level.{depth}").__enter__())
        for span in reversed(opened):
            span.__exit__(None, None, None)
    assert len(spans.tree().splitlines()) == 1200
    assert repr(spans).count("]") == 1199


def test_what_is_open_at_the_end_is_left_out_and_named() -> None:
    with capture_spans() as spans:
        late = create_span("late")
        with late, create_span("child"):
            pass
        still = create_span("still")
    still.end()
    assert spans.names == ["late", "child"]
    assert spans.tree() == "late\n└─ child\n(not ended in the block: still)"
    assert "not ended in the block: still" in repr(spans)


def test_a_span_that_was_open_before_is_nobodys_parent() -> None:
    with create_span("before"), capture_spans() as spans:
        client.get("/empty/")
    assert spans.names == ["GET /empty/"]
    assert spans[0].parent is None


# ----- blocks, threads, tasks


def test_the_outer_block_sees_the_inner_ones_spans() -> None:
    with capture_spans() as outer:
        client.get("/empty/")
        with capture_spans() as inner:
            client.get("/async/")
        client.get("/missing/")
    assert inner.names == ["GET /async/"]
    assert outer.names == ["GET /empty/", "GET /async/", "GET /missing/"]


def test_threads_that_a_block_starts_are_in_it() -> None:
    def work() -> None:
        with create_span("thread"):
            pass

    with capture_spans() as spans, create_span("main"), ThreadPoolExecutor(2) as pool:
        pool.submit(work).result()
        pool.submit(bind_trace_context(work)).result()
    assert sorted(spans.names) == ["main", "thread", "thread"]
    assert sorted(span.parent.name if span.parent else "" for span in spans) == ["", "", "main"]


def test_blocks_in_two_threads_do_not_mix() -> None:
    barrier = threading.Barrier(2, timeout=10)

    def work(name: str) -> list[str]:
        with capture_spans() as spans:
            barrier.wait()
            for _ in range(50):
                with create_span(name):
                    pass
            barrier.wait()
        return spans.names

    with ThreadPoolExecutor(2) as pool:
        a, b = pool.map(work, ["a", "b"])
    assert (a, b) == (["a"] * 50, ["b"] * 50)


async def test_blocks_in_two_tasks_do_not_mix() -> None:
    entered = [asyncio.Event(), asyncio.Event()]

    async def work(index: int, path: str) -> list[str]:
        async with capture_spans() as spans:
            entered[index].set()
            await entered[1 - index].wait()
            await AsyncClient().get(path)
        return spans.names

    assert await asyncio.gather(work(0, "/async/"), work(1, "/empty/")) == [["GET /async/"], ["GET /empty/"]]


async def test_what_a_former_block_left_running_is_not_in_the_next() -> None:
    go_on = asyncio.Event()

    async def left_running() -> None:
        with create_span("left"):
            await go_on.wait()
            with create_span("left.child"):
                pass

    async with capture_spans() as first:
        task = asyncio.create_task(left_running())
        await asyncio.sleep(0)
    async with capture_spans() as second:
        with create_span("own"):
            go_on.set()
            await task
    assert first.names == []
    assert "(not ended in the block: left)" in first.tree()
    assert second.names == ["own"]


async def test_a_server_started_in_a_former_block_is_seen_by_the_next() -> None:
    asked: asyncio.Queue[str] = asyncio.Queue()

    async def serve() -> None:
        while path := await asked.get():
            await AsyncClient().get(path)

    async with capture_spans():
        task = asyncio.create_task(serve())
        await asyncio.sleep(0)
    async with capture_spans() as spans:
        await asked.put("/async/")
        await asked.put("")
        await task
    assert spans.names == ["GET /async/"]


def test_a_thread_that_was_there_before_gives_its_spans_to_the_block_of_their_trace() -> None:
    headers: dict[str, str] = {}
    both = threading.Barrier(2, timeout=10)

    def other_test() -> list[str]:
        with capture_spans() as spans:
            both.wait()
            both.wait()
        return spans.names

    with ThreadPoolExecutor(1) as server, ThreadPoolExecutor(1) as other:
        server.submit(int).result()
        names = other.submit(other_test)
        with capture_spans() as spans:
            both.wait()
            with create_span("mine"):
                propagate.inject(headers)
                server.submit(client.get, "/empty/", headers=headers).result()
            both.wait()
        assert spans.names == ["mine", "GET /empty/"]
        assert spans[1].parent is spans[0]
        assert names.result() == []


def test_reading_waits_for_other_threads() -> None:
    started, read = threading.Event(), threading.Event()

    def work() -> None:
        with create_span("slow"):
            started.set()
            read.wait(10)

    with capture_spans() as spans:
        thread = threading.Thread(target=work)
        thread.start()
        started.wait(10)
        # Ends while find() waits.
        threading.Timer(0.05, read.set).start()
        assert spans.find("slow")
        thread.join()


def test_an_exception_leaves_the_block_as_it_is() -> None:
    with pytest.raises(KeyError), capture_spans() as spans:
        client.get("/empty/")
        raise KeyError
    assert len(spans) == 1


def test_a_block_is_entered_once() -> None:
    block = capture_spans()
    with block:
        pass
    with pytest.raises(RuntimeError, match=r"Call capture_spans\(\) for each block"), block:
        pass


# ----- settings


def test_an_unsampled_caller_is_followed_and_a_sampled_one_too() -> None:
    ids = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-"
    with capture_spans() as spans:
        client.get("/empty/", headers={"traceparent": ids + "00"})
        client.get("/async/", headers={"traceparent": ids + "01"})
    assert spans.names == ["GET /async/"]
    assert spans[0].trace_id == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert spans[0].parent is None


def test_ignored_paths_stay_ignored(settings: Any) -> None:
    settings.TRACING = {**settings.TRACING, "IGNORE_PATHS": ["/empty"]}
    with capture_spans() as spans:
        client.get("/empty/")
        client.get("/async/")
    assert spans.names == ["GET /async/"]


def test_tracing_switched_off_is_said(settings: Any) -> None:
    settings.TRACING = {"ENABLED": False}
    with pytest.raises(ImproperlyConfigured, match=r'ENABLED is False, set by TRACING\["ENABLED"\]'):
        capture_spans().__enter__()
    settings.TRACING = {"SAMPLE_RATE": 7}
    with pytest.raises(ImproperlyConfigured, match=r'tracing is off: TRACING\["SAMPLE_RATE"\] is 7'):
        capture_spans().__enter__()


MESSAGE = """
from django.core.exceptions import ImproperlyConfigured
from django_tracing.testing import capture_spans
try:
    capture_spans().__enter__()
except ImproperlyConfigured as error:
    print(json.dumps(str(error)))
"""


def test_why_there_is_nothing_to_capture() -> None:
    assert "environment variable OTEL_SDK_DISABLED" in run(MESSAGE, OTEL_SDK_DISABLED="true")
    assert "Call django.setup() first" in run("import django  # not django.setup()\n" + MESSAGE)
    no_app = "from django.conf import settings\nsettings.configure()\nimport django\ndjango.setup()\n"
    assert '"django_tracing" is not in INSTALLED_APPS' in run(no_app + MESSAGE)
    late = """
    from django.test import override_settings
    override_settings(TRACING={"ENABLED": True}).enable()
    """
    said = run(textwrap.dedent(late) + MESSAGE, TRACING_SETTINGS='{"ENABLED": false}')
    assert "tracing was off" in said and "too late" in said
    other = "from opentelemetry import trace\ntrace.set_tracer_provider(trace.NoOpTracerProvider())\nimport django\n"
    assert "NoOpTracerProvider" in run(other + "django.setup()\n" + MESSAGE)


CAPTURE = """
from django.test import Client
from opentelemetry import trace
from django_tracing.api.spans import create_span
from django_tracing.testing import capture_spans
Client().get("/empty/?before")
trace.get_tracer("theirs")
with capture_spans() as spans:
    Client().get("/empty/?in")
    with trace.get_tracer("theirs").start_as_current_span("theirs"), trace.get_tracer("new").start_as_current_span("n"):
        pass
    late = create_span("late")
with late, create_span("late.child"):
    pass
with capture_spans(export=True) as sent:
    Client().get("/async/")
    with capture_spans() as kept:
        Client().get("/empty/?kept")
Client().get("/empty/?after")
print(json.dumps([spans.names, sent.names, kept.names]))
"""
NAMES = [["GET /empty/", "theirs", "n"], ["GET /async/", "GET /empty/"], ["GET /empty/"]]


@pytest.mark.parametrize(("rate", "tracing"), [("0", "{}"), ("1", "{}"), ("0", '{"KEEP_ERRORS": true}')])
def test_nothing_of_a_block_is_sent_unless_asked_for(rate: str, tracing: str) -> None:
    with OTLPReceiver() as receiver:
        variables = {"OTEL_TRACES_SAMPLER_ARG": rate, "TRACING_SETTINGS": tracing}
        names = run(CAPTURE, JAEGER_ENDPOINT=receiver.endpoint, **variables)
        received = receiver.wait_for(1 if rate == "0" else 3)
        assert names == NAMES
        sent = ["GET /async/"] if rate == "0" else ["GET /empty/", "GET /async/", "GET /empty/"]
        assert [span.name for span in received] == sent
        assert not [span for span in received if span.attributes.get("http.url", "").endswith(("?in", "?kept"))]


def test_the_local_store_gets_nothing(tmp_path: Path) -> None:
    store = tmp_path / "traces.sqlite3"
    stored = run(
        CAPTURE.replace("print", "names = ")
        + """
from django_tracing.spans import runtime
from django_tracing.traces.readers.sqlite.store import LocalStore
from django.conf import settings
assert runtime.current.queue.force_flush()
store = LocalStore(settings.TRACING["LOCAL_STORE"], max_traces=10)
print(json.dumps([names, sorted(summary.name for summary in store.search())]))
""".replace("names = (json.dumps", "names = (").replace("[names,", "[json.loads(names),"),
        TRACING_SETTINGS=f'{{"EXPORTER": "local", "LOCAL_STORE": "{store}"}}',
    )
    assert stored == [NAMES, ["GET /async/", "GET /empty/", "GET /empty/"]]


OWN = """
import django
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
ended = []

class Own(SpanProcessor):
    def on_end(self, span):
        ended.append(span.name)

own = TracerProvider(sampler=ALWAYS_OFF)
own.add_span_processor(Own())
trace.set_tracer_provider(own)
django.setup()
"""


def test_a_provider_of_ones_own_whose_sampler_keeps_nothing() -> None:
    names, ended = run(
        OWN + CAPTURE.replace("[spans.names", "[[spans.names").replace("kept.names]", "kept.names], ended]")
    )
    assert names == NAMES
    assert ended == ["GET /async/"]


# ----- unittest


class SimpleTests(CaptureSpansMixin, SimpleTestCase):
    def test_sync(self) -> None:
        self.client.get("/empty/")
        self.assertEqual(self.spans.names, ["GET /empty/"])

    async def test_async(self) -> None:
        await self.async_client.get("/async/")
        self.assertEqual(self.spans.names, ["GET /async/"])

    async def test_a_block_within(self) -> None:
        async with capture_spans() as inner:
            await self.async_client.get("/async/")
        self.assertEqual(inner.names, ["GET /async/"])
        self.assertEqual(self.spans.names, ["GET /async/"])


class DatabaseTests(CaptureSpansMixin, TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.client.get("/empty/")

    def test_sync(self) -> None:
        self.client.get("/query/")
        self.assertEqual(self.spans.names, ["GET /empty/", "GET /query/", "db.select"])

    async def test_async(self) -> None:
        await self.async_client.get("/query/")
        self.assertEqual(self.spans.find("db.select").parent, self.spans.find("GET /query/"))


class TransactionTests(CaptureSpansMixin, TransactionTestCase):
    def test_sync(self) -> None:
        self.client.get("/query/")
        self.assertEqual(self.spans.names, ["GET /query/", "db.select"])


@override_settings(STATIC_URL="static/")  # the live server asks for it
class LiveTests(CaptureSpansMixin, LiveServerTestCase):
    def get(self, path: str, **headers: str) -> bytes:
        with urlopen(Request(self.live_server_url + path, headers=headers), timeout=10) as response:
            return bytes(response.read())

    def test_a_request(self) -> None:
        self.get("/query/")
        self.assertEqual(self.spans.names, ["GET /query/", "db.select"])

    def test_a_stream_whose_span_ends_after_its_last_byte(self) -> None:
        for _ in range(20):
            with capture_spans() as spans:
                self.get("/stream/")
                self.assertEqual(spans.find("GET /stream/").children, spans.find_all("cache.get.chunk:*"))

    def test_one_trace_from_the_test_into_the_server(self) -> None:
        with create_span("test"):
            self.get("/empty/")
        server = self.spans.find("GET /empty/")
        self.assertEqual([span.name for span in ancestors(server)][-1], "test")


def ancestors(span: Any) -> Iterator[Any]:
    while span := span.parent:
        yield span


# ----- pytest


def run_pytest(folder: Path, *arguments: str, **files: str) -> str:
    """What pytest says of test modules in a project of their own, with warnings as errors."""
    (folder / "pytest.ini").write_text(
        "[pytest]\nDJANGO_SETTINGS_MODULE = project_settings\nasyncio_mode = auto\n"
        "asyncio_default_fixture_loop_scope = function\nfilterwarnings = error\n"
    )
    (folder / "project_settings.py").write_text('from tests.settings import *\nSTATIC_URL = "static/"\n')
    for name, text in files.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(text))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        env=environment(DJANGO_SETTINGS_MODULE="project_settings", TEST_POSTGRES_URL="sqlite:///:memory:"),
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stdout + done.stderr


PLUGIN = 'pytest_plugins = ["django_tracing.testing"]\n'
TESTS = """
import pytest
from django.test import Client

@pytest.mark.parametrize("path", ["/empty/", "/async/"] * 4)
def test_apart(spans, path):
    Client().get(path)
    assert spans.names == ["GET " + path]

def test_nothing(spans):
    assert not spans

async def test_async(spans):
    from django_tracing.testing import capture_spans
    from django.test import AsyncClient
    async with capture_spans() as inner:
        await AsyncClient().get("/async/")
    assert inner.names == spans.names == ["GET /async/"]

@pytest.mark.django_db
def test_live(live_server, spans):
    from urllib.request import urlopen
    urlopen(live_server.url + "/empty/").close()
    assert "GET /empty/" in spans.names
"""


IMPORT = "from django_tracing.testing import spans\n"


@pytest.mark.parametrize("conftest", [PLUGIN, IMPORT, IMPORT + PLUGIN], ids=["plugin", "import", "both"])
def test_the_fixture(tmp_path: Path, conftest: str) -> None:
    assert "11 passed" in run_pytest(tmp_path, conftest=conftest, test_it=TESTS)


def test_the_fixture_under_xdist(tmp_path: Path) -> None:
    assert "11 passed" in run_pytest(tmp_path, "-n", "2", conftest=PLUGIN, test_it=TESTS)


def test_a_failing_test_shows_the_tree(tmp_path: Path) -> None:
    said = run_pytest(
        tmp_path,
        conftest=PLUGIN,
        test_it="""
        from django.test import Client
        from django_tracing import __version__
        from django_tracing.api.spans import create_span

        def test_count(spans):
            with create_span("checkout"):
                Client().get("/empty/")
            assert len(spans) == 3

        def test_find(spans):
            with create_span("checkout"):
                spans.find("chekout")
        """,
    )
    assert "2 failed" in said
    assert "where 2 = len(<2 spans: checkout [GET /empty/]>)" in said
    assert re.search(r"-- Captured spans teardown -+\ncheckout\n└─ GET /empty/  http\.status_code=200\n", said)
    assert "No span with the name 'chekout' among 0." in said
    assert "testing.py" not in said, "only the test's own lines are shown"


def test_a_failing_unittest_shows_its_own_lines_only(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import unittest, django\ndjango.setup()\n"
        "from django.test import SimpleTestCase\nfrom django_tracing.testing import CaptureSpansMixin\n"
        "class Tests(CaptureSpansMixin, SimpleTestCase):\n"
        "    def test_it(self):\n        self.client.get('/empty/')\n        self.spans.find('other')\n"
    )
    code = (
        "import sys, unittest\nfrom unittest import main\nmain(module='test_it')\nassert 'pytest' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment(DJANGO_SETTINGS_MODULE="tests.settings"),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "FAILED (failures=1)" in done.stderr
    assert (
        "AssertionError: No span with the name 'other' among 1.\n\nGET /empty/  http.status_code=200\n" in done.stderr
    )
    assert "testing.py" not in done.stderr


def test_pytest_is_not_needed() -> None:
    assert run(
        "import sys\nimport django_tracing.testing as t\nprint(json.dumps(['pytest' in sys.modules, hasattr(t, 'spans')]))"
    ) == [
        False,
        False,
    ]


def test_the_examples_of_the_page(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "testing.md").read_text()
    files = dict(re.findall(r"```python\n# (\w+)\.py\n(.*?)```", page, re.DOTALL))
    assert len(files) == page.count("```python")
    said = run_pytest(tmp_path, **files)
    assert "8 passed" in said, said
