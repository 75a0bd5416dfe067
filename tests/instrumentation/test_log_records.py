"""Test the trace fields of log records, and errors in logs as events."""

from __future__ import annotations

import copy
import io
import json
import logging
import logging.config
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import path
from django.utils.functional import SimpleLazyObject
from opentelemetry.trace import INVALID_SPAN_CONTEXT, NonRecordingSpan, SpanContext, StatusCode, use_span

from django_tracing import create_span, current_trace_id, get_correlation_id, use_trace_context
from django_tracing.conf.loading import get_settings
from django_tracing.instrumentation import log_records as logs
from tests.conftest import Spans
from tests.e2e.processes import ROOT, Process, environment
from tests.jaegers import wait_until

PAGE = Path(__file__).parents[2] / "docs" / "logs.md"
EXAMPLES = re.findall(r"```python\n(LOGGING = .*?)```", PAGE.read_text(), re.DOTALL)
COMMON = "django.middleware.common.CommonMiddleware"
logger = logging.getLogger("shop")


def view(request: HttpRequest) -> HttpResponse:
    logger.warning("in a view")
    return HttpResponse(current_trace_id())


async def async_view(request: HttpRequest) -> HttpResponse:
    logger.warning("in a view")
    return HttpResponse(current_trace_id())


def failing(request: HttpRequest) -> HttpResponse:
    raise ValueError("password=hunter2")


def logs_and_fails(request: HttpRequest) -> HttpResponse:
    try:
        raise ValueError("password=hunter2")
    except ValueError:
        logger.exception("could not")
        raise


def logs_only(request: HttpRequest) -> HttpResponse:
    for number in range(3):
        try:
            raise ValueError(f"password=hunter{number}")
        except ValueError:
            logger.exception("could not")
    logger.error("without one")
    logger.warning("not an error", exc_info=ValueError("x"))
    return HttpResponse()


urlpatterns = [
    path("view/", view),
    path("async/", async_view),
    path("failing/", failing),
    path("logs-and-fails/", logs_and_fails),
    path("logs-only/", logs_only),
]


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def kept() -> Iterator[Kept]:
    handler = Kept()
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


@pytest.fixture
def log_errors() -> Iterator[None]:
    with override_settings(ROOT_URLCONF=__name__, TRACING={"EXPORTER": "none", "LAYERS": "off", "LOG_ERRORS": True}):
        logs.install(get_settings())
        yield
    logs.install(get_settings())


def fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: record.__dict__[name] for name in logs.FIELDS}


def test_every_record_has_the_fields_of_its_trace(kept: Kept, spans: Spans) -> None:
    with create_span("outer"):
        with create_span("inner"):
            logger.warning("inside")
        own = get_correlation_id()
    inner = spans.one("inner").get_span_context()
    assert fields(kept.records[0]) == {
        "trace_id": f"{inner.trace_id:032x}",
        "span_id": f"{inner.span_id:016x}",
        "correlation_id": own,
        "service": "tests",
    }


def test_outside_a_trace_the_fields_exist(kept: Kept) -> None:
    logger.warning("outside")
    assert fields(kept.records[0]) == {"trace_id": "-", "span_id": "-", "correlation_id": "-", "service": "tests"}
    assert logging.Formatter("%(trace_id)s %(message)s").format(kept.records[0]) == "- outside"


def test_an_unsampled_trace(kept: Kept) -> None:
    with use_trace_context({"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-00"}), create_span("consume"):
        logger.warning("inside")
    assert kept.records[0].__dict__["trace_id"] == "ab" * 16


async def test_sync_and_async_views(kept: Kept) -> None:
    with override_settings(ROOT_URLCONF=__name__):
        answered = [
            (await AsyncClient().get("/async/")).content.decode(),
            (await AsyncClient().get("/view/")).content.decode(),
        ]
    assert [record.__dict__["trace_id"] for record in kept.records] == answered


def test_a_new_thread_has_no_trace(kept: Kept) -> None:
    with create_span("outer"):
        thread = threading.Thread(target=logger.warning, args=("elsewhere",))
        thread.start()
        thread.join()
    assert kept.records[0].__dict__["trace_id"] == "-"


# ----- Custom loggers and factories


@pytest.mark.parametrize("name", logs.FIELDS)
def test_extra_may_use_the_names_of_the_fields(kept: Kept, name: str) -> None:
    with create_span("outer"):
        logger.warning("x", extra={name: "mine", "other": 1})
    record = kept.records[0]
    assert getattr(record, name) == record.__dict__[name] == "mine"
    assert logging.Formatter(f"%({name})s %(other)s").format(record) == "mine 1"
    with pytest.raises(KeyError, match="overwrite"):
        logger.warning("x", extra={"lineno": 1})


def test_a_logger_that_overrides_make_record(kept: Kept) -> None:
    class Careful(logging.Logger):
        def makeRecord(self, *args: Any, **kwargs: Any) -> logging.LogRecord:  # noqa: N802
            extra = args[8]
            record = super().makeRecord(*args[:8], None, *args[9:], **kwargs)
            for name, value in (extra or {}).items():
                if name in record.__dict__:
                    raise KeyError(name)
                record.__dict__[name] = value
            return record

    careful = Careful("careful")
    careful.addHandler(kept)
    careful.warning("x", extra={"service": "mine"})
    assert kept.records[0].__dict__["service"] == "mine"


def merged(record: logging.LogRecord, extra: Any) -> logging.LogRecord:
    for name, value in (extra or {}).items():
        if name in record.__dict__:
            raise KeyError(name)
        record.__dict__[name] = value
    return record


class InAFunction(logging.Logger):
    def makeRecord(self, *args: Any, **kwargs: Any) -> logging.LogRecord:  # noqa: N802
        return merged(super().makeRecord(*args[:8], None, *args[9:], **kwargs), args[8])


class InAMethod(logging.Logger):
    def _merge(self, record: logging.LogRecord, extra: Any) -> logging.LogRecord:
        return merged(record, extra)

    def makeRecord(self, *args: Any, **kwargs: Any) -> logging.LogRecord:  # noqa: N802
        return self._merge(super().makeRecord(*args[:8], None, *args[9:], **kwargs), args[8])


class WithoutMakeRecord(logging.Logger):
    """Some JSON loggers do so: they create and handle records in ``_log`` itself."""

    def _log(self, level: int, msg: Any, args: Any, exc_info: Any = None, extra: Any = None, **kwargs: Any) -> None:  # type: ignore[override]
        record = logging.getLogRecordFactory()(self.name, level, __file__, 1, msg, args, exc_info)
        self.handle(merged(record, extra))


@pytest.mark.parametrize("kind", [InAFunction, InAMethod, WithoutMakeRecord])
def test_a_logger_that_handles_extra_itself(kept: Kept, kind: type[logging.Logger]) -> None:
    own = kind("own")
    own.addHandler(kept)
    own.addFilter(lambda record: all(name in record.__dict__ for name in logs.FIELDS))
    with create_span("outer"):
        own.warning("x", extra={"service": "mine", "correlation_id": "theirs"})
        trace_id = current_trace_id()
    [record] = kept.records
    assert record.__dict__["service"] == "mine"
    assert record.__dict__["correlation_id"] == "theirs"
    assert record.__dict__["trace_id"] == trace_id
    with pytest.raises(KeyError):
        own.warning("x", extra={"lineno": 1})


def test_hasattr_and_getattr_agree_on_the_fields(kept: Kept) -> None:
    with create_span("outer"):
        logger.warning("x")
        trace_id = current_trace_id()
    record = kept.records[0]
    assert all(name in record.__dict__ for name in logs.FIELDS)
    # structlog's conversion of records to events reads them like this.
    event = structlog.stdlib.ExtraAdder(allow=["trace_id"])(None, "info", {"_record": record})
    assert event["trace_id"] == trace_id


def test_a_lazy_object_is_not_evaluated(kept: Kept) -> None:
    logger.warning("x")
    found: list[str] = []
    unbound = SimpleLazyObject(lambda: found.append("evaluated") or 1 / 0)

    def contains(self: object) -> bool:
        return "service" in kept.records[0].__dict__

    assert contains(unbound)
    assert not found


def test_another_factory_around_this_apps(kept: Kept) -> None:
    ours = logging.getLogRecordFactory()

    def around(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = ours(*args, **kwargs)
        record.tenant = "t1"
        return record

    logging.setLogRecordFactory(around)
    try:
        logs.uninstall()
        logger.warning("off")
        logs.install(get_settings())
        assert logging.getLogRecordFactory() is around, "it still wraps this app's factory, which is not added again"
        with create_span("outer"):
            logger.warning("on")
            trace_id = current_trace_id()
    finally:
        logging.setLogRecordFactory(ours)
    off, on = (record.__dict__ for record in kept.records)
    assert ("trace_id" in off, off["tenant"]) == (False, "t1")
    assert (on["trace_id"], on["tenant"]) == (trace_id, "t1")


def test_a_failing_span_loses_no_record_and_no_event(kept: Kept) -> None:
    class Broken(NonRecordingSpan):
        def get_span_context(self) -> SpanContext:
            raise RuntimeError("no ids here")

    with use_span(Broken(INVALID_SPAN_CONTEXT)):
        logger.warning("x")
        event = logs.structlog_processor(None, "info", {"event": "y"})
    assert fields(kept.records[0]) == {"trace_id": "-", "span_id": "-", "correlation_id": "-", "service": "tests"}
    assert event == {"event": "y", "service": "tests"}


def test_records_are_copied_and_pickled_as_before(kept: Kept) -> None:
    with create_span("outer"):
        logger.warning("x %s", 1)
    record = kept.records[0]
    for twin in (copy.copy(record), pickle.loads(pickle.dumps(record))):  # noqa: S301
        assert fields(twin) == fields(record)
        assert twin.getMessage() == "x 1"
    assert b"django_tracing" not in pickle.dumps(record.__dict__)


def test_a_custom_factory_is_kept(kept: Kept) -> None:
    logs.uninstall()
    plain = logging.getLogRecordFactory()
    assert plain is logging.LogRecord

    def own(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = plain(*args, **kwargs)
        record.trace_id = "own"
        record.tenant = "t1"
        return record

    logging.setLogRecordFactory(own)
    try:
        logs.install(get_settings())
        logs.install(get_settings())
        with create_span("outer"):
            logger.warning("x")
        record = kept.records[0].__dict__
        assert (record["trace_id"], record["tenant"], record["service"]) == ("own", "t1", "tests")
        logs.uninstall()
        assert logging.getLogRecordFactory() is own
    finally:
        logging.setLogRecordFactory(plain)
        logs.install(get_settings())


def test_when_disabled_there_are_no_fields(kept: Kept) -> None:
    logs.uninstall()
    try:
        with override_settings(TRACING={"EXPORTER": "none", "LOG_CORRELATION": False}):
            logs.install(get_settings())
            logger.warning("x")
        assert not hasattr(kept.records[0], "trace_id")
        assert logging.getLogRecordFactory() is logging.LogRecord
    finally:
        logs.install(get_settings())


# ----- Examples of the documentation


def configured(example: str) -> tuple[dict[str, Any], io.StringIO]:
    names: dict[str, Any] = {}
    exec(example, names)  # noqa: S102
    stream = io.StringIO()
    names["LOGGING"]["handlers"]["console"]["stream"] = stream
    # The root logger has pytest's handlers.
    names["LOGGING"]["loggers"] = {"shop": names["LOGGING"].pop("root")}
    return names["LOGGING"], stream


@pytest.fixture
def restored() -> Iterator[None]:
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.level, logger.propagate = before


@pytest.mark.usefixtures("restored")
def test_the_plain_example() -> None:
    config, stream = configured(EXAMPLES[0])
    logging.config.dictConfig(config)
    with create_span("outer"):
        logger.info("hello")
        expected = f"INFO shop hello trace={current_trace_id()} correlation={get_correlation_id()}\n"
    assert stream.getvalue() == expected


@pytest.mark.usefixtures("restored")
def test_the_json_example() -> None:
    pytest.importorskip("pythonjsonlogger.json")
    config, stream = configured(EXAMPLES[1])
    logging.config.dictConfig(config)
    with create_span("outer"):
        logger.info("hello")
        trace_id = current_trace_id()
    line = json.loads(stream.getvalue())
    assert (line["trace_id"], line["service"], line["message"]) == (trace_id, "tests", "hello")


@pytest.mark.usefixtures("restored")
def test_the_example_for_records_from_elsewhere() -> None:
    config, stream = configured(EXAMPLES[2])
    logging.config.dictConfig(config)
    logger.handle(logging.LogRecord("shop", logging.INFO, __file__, 1, "from a queue", (), None))
    assert stream.getvalue() == "from a queue trace=-\n"


def test_structlog() -> None:
    stream = io.StringIO()
    log = structlog.wrap_logger(
        structlog.PrintLogger(stream), processors=[logs.structlog_processor, structlog.processors.JSONRenderer()]
    )
    log.info("outside")
    with create_span("outer"):
        log.info("inside", service="mine")
        trace_id = current_trace_id()
    outside, inside = (json.loads(line) for line in stream.getvalue().splitlines())
    assert outside == {"event": "outside", "service": "tests"}
    assert (inside["trace_id"], inside["service"]) == (trace_id, "mine")


# ----- Errors as events


@pytest.mark.usefixtures("log_errors")
def test_an_error_that_is_logged_becomes_an_event(spans: Spans, client: Client) -> None:
    client.get("/logs-only/")
    span = spans.one("GET /logs-only/")
    assert [event.name for event in span.events] == ["exception"] * 3, "each exception, but no warning"
    assert span.status.status_code is StatusCode.UNSET
    assert "hunter" not in span.to_json()


@pytest.mark.usefixtures("log_errors")
@pytest.mark.parametrize("page", ["failing", "logs-and-fails"])
def test_an_exception_is_recorded_once(spans: Spans, page: str) -> None:
    Client(raise_request_exception=False).get(f"/{page}/")
    span = spans.one(f"GET /{page}/")
    assert [event.name for event in span.events] == ["exception"]
    assert span.status.status_code is StatusCode.ERROR


@pytest.mark.usefixtures("log_errors")
def test_a_disallowed_host_is_recorded_once(spans: Spans, client: Client) -> None:
    with override_settings(ALLOWED_HOSTS=["only"], MIDDLEWARE=[*settings.MIDDLEWARE, COMMON]):
        assert client.get("/view/").status_code == 400
    [span] = spans
    assert [(event.attributes or {})["exception.type"] for event in span.events] == [
        "django.core.exceptions.DisallowedHost"
    ]


def test_by_default_a_logged_error_is_not_an_event(spans: Spans) -> None:
    with create_span("outer"):
        logger.error("x", exc_info=ValueError("y"))
    assert spans.one("outer").events == ()


# ----- runserver


@pytest.mark.usefixtures("postgres_url")
@pytest.mark.parametrize("options", [[], ["--noreload", "--nothreading"]], ids=["threads", "one-thread"])
def test_runserver_prints_the_trace_id(options: list[str]) -> None:
    server = Process(
        [sys.executable, "-m", "django", "runserver", *options, "127.0.0.1:{port}"],
        TRACING_SETTINGS=json.dumps({"EXPORTER": "none"}),
    )
    unsampled = f"00-{'ab' * 16}-{'cd' * 8}-00"
    with server as started:
        for path_of_the_test in ("/empty/", "/async/", "/stream/", "/no-such-page/", "/health/"):
            started.get(path_of_the_test)
        started.get("/empty/?unsampled", traceparent=unsampled)

        def lines() -> list[str]:
            return [line for line in started.log().splitlines() if '"GET ' in line]

        # The line is printed after the answer has been sent.
        wait_until(lambda: any("?unsampled" in line for line in lines()), "the last request's line")
        found = lines()
    named = re.compile(r'"GET (\S+) HTTP/1.1" (\d+) \d+ trace=([0-9a-f]{32})')
    traces = {match[1]: match[3] for match in map(named.search, found) if match}
    assert list(traces) == ["/empty/", "/async/", "/stream/", "/no-such-page/"]
    assert len(set(traces.values())) == 4


@pytest.mark.parametrize("tracing", [{"ENABLED": False}, {"SAMPLE_RATE": "nonsense"}])
def test_a_format_with_the_fields_works_when_tracing_is_disabled(tracing: dict[str, Any]) -> None:
    program = (
        "import django, logging; django.setup()\n"
        "logging.basicConfig(format='%(message)s trace=%(trace_id)s', force=True)\n"
        "logging.getLogger('shop').warning('hello')"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(TRACING_SETTINGS=json.dumps(tracing)),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "hello trace=-" in finished.stderr
    assert "Logging error" not in finished.stderr
