"""What a user's own code calls."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from asgiref.sync import sync_to_async
from django.test import override_settings
from opentelemetry import trace as trace_api
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode

import django_tracing
from django_tracing import (
    add_span_event,
    bind_trace_context,
    create_span,
    current_trace_id,
    get_baggage,
    get_correlation_id,
    get_trace_context,
    record_span_error,
    set_baggage,
    set_span_attributes,
    trace,
    trace_cache_operation,
    trace_database_operation,
    trace_external_call,
    trace_function,
    trace_rate_limit_check,
    trace_url,
    use_trace_context,
)
from django_tracing.spans import runtime
from tests.callees import Callee
from tests.conftest import Spans


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return {key: value for key, value in (span.attributes or {}).items() if key != "correlation.id"}


def is_child(child: ReadableSpan, parent: ReadableSpan) -> bool:
    return child.parent is not None and child.parent.span_id == parent.get_span_context().span_id


@pytest.fixture
def unsampled() -> Iterator[None]:
    """Inside a trace that is not sampled."""
    parent = NonRecordingSpan(SpanContext(1, 2, is_remote=False))
    with trace_api.use_span(parent):
        yield


# ----- trace_function


def test_a_function_runs_in_a_span_and_gives_its_result(spans: Spans) -> None:
    with create_span("request"):
        assert trace_function("orders.total", lambda: 42, {"orderCount": 3}) == 42
    assert attributes(spans.one("orders.total")) == {"order_count": 3}
    assert is_child(spans.one("orders.total"), spans.one("request"))


def test_an_error_is_recorded_and_goes_on_as_it_is(spans: Spans) -> None:
    error = ValueError("password=hunter2")

    def fail() -> None:
        raise error

    with pytest.raises(ValueError) as caught:  # noqa: PT011 - it is the very object that counts
        trace_function("orders.total", fail)
    assert caught.value is error
    span = spans.one("orders.total")
    assert span.status.status_code is StatusCode.ERROR
    assert [event.name for event in span.events] == ["exception"]
    assert "hunter2" not in span.to_json()


async def test_an_awaitable_is_awaited_in_the_span(spans: Spans) -> None:
    async def fetch() -> str:
        await asyncio.sleep(0)
        with create_span("inner"):
            return "fetched"

    with create_span("request"):
        assert await trace_function("fetch", fetch) == "fetched"
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        waited = trace_function("future", lambda: future)
        future.set_result("done")
        assert waited is future
        assert await waited == "done"
        await asyncio.sleep(0)  # the loop calls back
    assert is_child(spans.one("inner"), spans.one("fetch"))
    assert is_child(spans.one("future"), spans.one("request"))


async def test_a_cancelled_call_is_no_error(spans: Spans) -> None:
    started = asyncio.Event()

    async def wait() -> None:
        started.set()
        await asyncio.Event().wait()

    async def call() -> None:
        await trace_function("wait", wait)

    task = asyncio.create_task(call())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert spans.one("wait").status.status_code is StatusCode.UNSET


# ----- create_span


def test_a_span_is_current_inside_its_block_only(spans: Spans) -> None:
    span = create_span("invoice.render", {"pages": 2})
    with create_span("beside"):
        pass
    with span as entered:
        assert entered is span
        assert current_trace_id() == f"{span.span.get_span_context().trace_id:032x}"
        entered.set_attributes({"customer.tier": "pro"})
        entered.add_event("printed", {"printer": "a@b.example"})
        with create_span("inside"):
            pass
    assert current_trace_id() is None
    assert attributes(spans.one("invoice.render")) == {"pages": 2, "customer.tier": "pro"}
    assert [(event.name, dict(event.attributes or {})) for event in spans.one("invoice.render").events] == [
        ("printed", {"printer": "a***@b.example"})
    ]
    assert is_child(spans.one("inside"), spans.one("invoice.render"))
    assert spans.one("beside").parent is None


def test_a_span_ends_once_and_says_nothing_after(spans: Spans, caplog: pytest.LogCaptureFixture) -> None:
    span = create_span("by hand")
    assert span.is_recording
    span.end()
    span.end()
    span.set_attributes({"late": True})
    span.add_event("late")
    span.record_error(ValueError())
    assert not span.is_recording
    assert attributes(spans.one("by hand")) == {}
    assert caplog.records == []


async def test_async_blocks(spans: Spans) -> None:
    with pytest.raises(KeyError):
        async with create_span("outer"):
            async with create_span("inner", kind=SpanKind.CONSUMER):
                await asyncio.sleep(0)
            raise KeyError("x")
    assert is_child(spans.one("inner"), spans.one("outer"))
    assert spans.one("inner").kind is SpanKind.CONSUMER
    assert spans.one("outer").status.status_code is StatusCode.ERROR


def test_a_span_without_a_parent_begins_a_trace_with_a_correlation_id(spans: Spans) -> None:
    with create_span("nightly.sync"):
        correlation_id = get_correlation_id()
        with create_span("step"):
            pass
    assert correlation_id is not None
    for name in ("nightly.sync", "step"):
        assert (spans.one(name).attributes or {})["correlation.id"] == correlation_id
    assert get_correlation_id() is None


# ----- not sampled, off


def every_helper() -> list[Any]:
    """What each of them gives back, called once."""

    def generate() -> Iterator[int]:
        yield from (1, 2)

    with create_span("block", {"a": 1}) as span:
        span.set_attributes({"b": 2})
        span.add_event("event")
        span.record_error(ValueError("x"))
    with trace_rate_limit_check("orders") as check:
        check.allowed, check.limit, check.remaining = False, 10, 0
    set_span_attributes({"a": 1})
    add_span_event("event", {"a": 1})
    record_span_error(ValueError("x"))
    return [
        trace_function("f", lambda: 1),
        trace("named")(lambda: 2)(),
        list(trace(generate)()),
        trace_cache_operation("get", "blueprint:1", lambda: 3, system="redis"),
        trace_database_operation("select", "people", lambda: 4, statement="SELECT 1"),
        trace_external_call("user-service", "get", "http://user-service/", lambda: 5),
        trace_external_call("user-service", "get", "http://user-service/", lambda headers: sorted(headers)[:0]),
    ]


@pytest.mark.usefixtures("unsampled")
def test_in_a_trace_that_is_not_sampled_everything_is_called_and_nothing_made(spans: Spans) -> None:
    assert every_helper() == [1, 2, [1, 2], 3, 4, 5, []]
    assert spans.names == []
    assert trace_url() is None
    assert current_trace_id() == "0" * 31 + "1"
    with pytest.raises(ZeroDivisionError):
        trace_function("f", lambda: 1 / 0)


def test_when_tracing_is_off_everything_is_called_and_nothing_made(
    spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "current", runtime.Runtime())
    assert every_helper() == [1, 2, [1, 2], 3, 4, 5, []]
    assert spans.names == []
    assert current_trace_id() is None
    with pytest.raises(ZeroDivisionError):
        trace_function("f", lambda: 1 / 0)


# ----- @trace


class Shop:
    @trace
    def buy(self, order_id: int) -> str:
        """Buys."""
        return f"bought {order_id}"

    @trace("Shop.fetch", attributes={"layer": "service"}, capture=("order_id", "email"))
    async def fetch(self, order_id: int, email: str = "ada@example.com") -> int:
        return order_id

    @classmethod
    @trace
    def make(cls) -> str:
        return cls.__name__

    @trace
    @classmethod
    def make_too(cls) -> str:
        return cls.__name__

    @trace
    @staticmethod
    def check() -> bool:
        return True


def test_methods_of_every_kind(spans: Spans) -> None:
    shop = Shop()
    assert shop.buy(4711) == "bought 4711"
    assert asyncio.run(shop.fetch(4711)) == 4711
    assert (Shop.make(), Shop.make_too(), Shop.check(), shop.check()) == ("Shop", "Shop", True, True)
    assert spans.names == ["Shop.buy", "Shop.fetch", "Shop.make", "Shop.make_too", "Shop.check", "Shop.check"]
    assert attributes(spans.one("Shop.fetch")) == {
        "layer": "service",
        "order_id": 4711,
        "email": "a***@example.com",
    }


def test_a_decorated_function_looks_as_before() -> None:
    assert Shop.buy.__name__ == "buy"
    assert Shop.buy.__doc__ == "Buys."
    assert list(inspect.signature(Shop.buy).parameters) == ["self", "order_id"]
    assert inspect.iscoroutinefunction(Shop.fetch)


def test_a_wrong_call_is_python_s_to_refuse(spans: Spans) -> None:
    with pytest.raises(TypeError, match="missing"):
        asyncio.run(Shop().fetch())  # type: ignore[call-arg]
    assert spans.one("Shop.fetch").status.status_code is StatusCode.ERROR


def test_what_cannot_be_captured_is_said_when_decorating() -> None:
    with pytest.raises(TypeError, match=r'capture names "order", which is no parameter of pay\(order_id\)'):

        @trace("pay", capture=("order",))
        def pay(order_id):  # type: ignore[no-untyped-def]
            return order_id

    with pytest.raises(TypeError, match=re.escape('write capture=("order_id",)')):
        trace("pay", capture="order_id")
    with pytest.raises(TypeError, match="not for int"):
        trace("pay")(7)


def test_a_generator_s_span_lasts_as_long_as_the_iteration(spans: Spans) -> None:
    @trace("rows")
    def rows() -> Iterator[int]:
        for number in range(2):
            with create_span(f"row {number}"):
                pass
            yield number

    with create_span("request"):
        iterator = rows()
        assert spans.names == []
        assert next(iterator) == 0
        with create_span("between"):
            pass
        assert list(iterator) == [1]
    assert spans.names == ["row 0", "between", "row 1", "rows", "request"]
    assert is_child(spans.one("row 1"), spans.one("rows"))
    assert is_child(spans.one("between"), spans.one("request"))


def test_a_generator_can_be_sent_to_thrown_into_and_closed(spans: Spans) -> None:
    closed: list[str] = []

    @trace("talk")
    def talk() -> Any:
        try:
            heard = yield "hello"
            try:
                yield f"heard {heard}"
            except ValueError:
                yield "thrown"
            return "done"
        finally:
            closed.append(current_trace_id() or "")

    talking = talk()
    assert next(talking) == "hello"
    assert talking.send("you") == "heard you"
    assert talking.throw(ValueError()) == "thrown"
    with pytest.raises(StopIteration) as stop:
        next(talking)
    assert stop.value.value == "done"
    left = talk()
    next(left)
    left.close()
    assert [span.status.status_code for span in spans.named("talk")] == [StatusCode.UNSET] * 2
    assert all(closed), "it is closed with its span current"


async def test_an_async_generator(spans: Spans) -> None:
    @trace("rows")
    async def rows() -> AsyncIterator[int]:
        for number in range(3):
            await asyncio.sleep(0)
            with create_span(f"row {number}"):
                yield number

    assert [number async for number in rows()] == [0, 1, 2]
    assert is_child(spans.one("row 2"), spans.one("rows"))
    generator: Any = rows()
    assert await generator.asend(None) == 0
    with pytest.raises(LookupError):
        await generator.athrow(LookupError("no more"))
    left: Any = rows()
    await left.__anext__()
    await left.aclose()
    assert [span.status.status_code for span in spans.named("rows")] == [
        StatusCode.UNSET,
        StatusCode.ERROR,
        StatusCode.UNSET,
    ]


def test_on_a_class_it_traces_public_methods(spans: Spans) -> None:
    @trace(capture=("number",))
    class Counter:
        limit = 3

        def add(self, number: int) -> int:
            return self._more(number)

        def _more(self, number: int) -> int:
            return number + 1

        @staticmethod
        def zero() -> int:
            return 0

        @property
        def size(self) -> int:
            return 1

        class Inner:
            pass

    counter = Counter()
    assert (counter.add(1), counter.zero(), counter.size, counter.limit) == (2, 0, 1, 3)
    assert spans.names == ["Counter.add", "Counter.zero"]
    assert attributes(spans.one("Counter.add")) == {"number": 1}


# ----- operations with a shape of their own


def test_a_cache_that_django_does_not_know(spans: Spans) -> None:
    store: dict[str, int] = {}
    assert trace_cache_operation("get", "blueprint:4711", lambda: store.get("x"), system="memcached") is None
    assert trace_cache_operation("set", "blueprint:4711", lambda: True, system="memcached")
    assert attributes(spans.one("cache.get.blueprint:*")) == {
        "operation.type": "cache",
        "cache.operation": "get",
        "cache.system": "memcached",
        "cache.key": "blueprint:*",
        "cache.hit": False,
    }
    assert spans.one("cache.set.blueprint:*").kind is SpanKind.CLIENT


async def test_a_database_that_django_does_not_know(spans: Spans) -> None:
    async def run() -> list[int]:
        return [1]

    found = await trace_database_operation(
        "select", "people", run, statement="SELECT * FROM people WHERE name = 'Ada'", system="clickhouse"
    )
    assert found == [1]
    assert attributes(spans.one("db.select.people")) == {
        "operation.type": "database",
        "db.operation": "select",
        "db.sql.table": "people",
        "db.system": "clickhouse",
        "db.statement": "SELECT * FROM people WHERE name = ?",
    }


def test_a_call_by_a_library_that_nobody_traces(spans: Spans) -> None:
    sent: dict[str, str] = {}

    def call(headers: dict[str, str]) -> SimpleNamespace:
        sent.update(headers)
        return SimpleNamespace(status_code=503)

    trace_external_call("user-service", "POST", "https://u:p@user-service/users?token=hunter2", call)
    span = spans.one("http.post.user-service")
    assert attributes(span) == {
        "operation.type": "external",
        "http.method": "POST",
        "http.url": "https://user-service/users?token=[redacted]",
        "http.status_code": 503,
        "peer.service": "user-service",
    }
    assert span.kind is SpanKind.CLIENT
    assert span.status.status_code is StatusCode.ERROR
    assert sent["traceparent"].split("-")[2] == f"{span.get_span_context().span_id:016x}"
    assert sent["X-Correlation-ID"] == (span.attributes or {})["correlation.id"]


def test_a_call_by_a_traced_library_is_one_client_span(spans: Spans) -> None:
    with Callee() as callee, create_span("request"):
        answer = trace_external_call(
            "user-service", "GET", callee.url, lambda headers: requests.get(callee.url, headers=headers, timeout=5)
        )
        assert answer.status_code == 200
    ours, theirs = spans.one("external.user-service"), spans.one("http.get.user-service")
    assert is_child(theirs, ours)
    assert is_child(ours, spans.one("request"))
    assert (ours.kind, theirs.kind) == (SpanKind.INTERNAL, SpanKind.CLIENT)
    assert (theirs.attributes or {})["peer.service"] == "user-service"
    assert (ours.attributes or {})["http.status_code"] == 200
    parent_of_callee = callee.received[-1]["traceparent"].split("-")[2]
    assert parent_of_callee == f"{theirs.get_span_context().span_id:016x}"


def test_a_rate_limit_of_ones_own(spans: Spans) -> None:
    with create_span("request"):
        with trace_rate_limit_check("orders.create", user=SimpleNamespace(pk=42), subscription="pro") as check:
            check.allowed, check.limit, check.remaining, check.reset = False, 100, 0, 30
        with pytest.raises(ConnectionError), trace_rate_limit_check("orders.create"):
            raise ConnectionError
    blocked, failed = spans.named("rate_limit.check")
    assert attributes(blocked) == {
        "operation.type": "rate_limit",
        "rate_limit.operation": "orders.create",
        "rate_limit.allowed": False,
        "rate_limit.limit": 100,
        "rate_limit.remaining": 0,
        "rate_limit.reset": 30,
        "user.id": "42",
        "user.subscription": "pro",
    }
    assert blocked.status.status_code is StatusCode.UNSET
    assert failed.status.status_code is StatusCode.ERROR
    assert (spans.one("request").attributes or {})["rate_limit.blocked"] is True


# ----- the current span


def test_the_current_span(spans: Spans) -> None:
    with create_span("request"):
        set_span_attributes({"Cart Items": 3, "session_key": "hunter2", "empty": None})
        add_span_event("cart.checked", {"ok": True})
        record_span_error(RuntimeError("it broke"))
    span = spans.one("request")
    assert attributes(span) == {"cart_items": 3, "session_key": "[redacted]", "error.type": "RuntimeError"}
    assert [event.name for event in span.events] == ["cart.checked", "exception"]
    assert span.status.status_code is StatusCode.ERROR


def test_the_address_of_a_trace() -> None:
    assert trace_url() is None
    with create_span("request"):
        with override_settings(TRACING={"QUERY_URL": "https://jaeger.example.com/"}):
            assert trace_url() == f"https://jaeger.example.com/trace/{current_trace_id()}"
            assert trace_url("ab" * 16) == f"https://jaeger.example.com/trace/{'ab' * 16}"
        with override_settings(TRACING={"EXPORTER": "local"}):
            assert trace_url() is None, "there is no admin"
            with override_settings(ROOT_URLCONF="tests.e2e.test_admin"):
                assert trace_url() == f"/admin/django_tracing/trace/{current_trace_id()}/"
        with override_settings(TRACING={"EXPORTER": "console"}, ROOT_URLCONF="tests.e2e.test_admin"):
            assert trace_url() is None, "nothing is kept"


# ----- context in and out


@pytest.mark.parametrize("kind", [dict, lambda headers: [(k, v.encode()) for k, v in headers.items()]])
def test_a_consumer_continues_the_trace(spans: Spans, kind: Callable[[dict[str, str]], Any]) -> None:
    with create_span("publish"):
        set_baggage("tenant", "café & co")
        headers = get_trace_context()
    assert get_baggage("tenant") is None, "it ends with the block"
    assert {"traceparent", "baggage", "X-Correlation-ID"} <= headers.keys()
    with use_trace_context(kind(headers)), create_span("consume"):
        assert get_baggage("tenant") == "café & co"
        assert get_correlation_id() == headers["X-Correlation-ID"]
    assert is_child(spans.one("consume"), spans.one("publish"))
    assert get_correlation_id() is None


async def test_a_consumer_of_nothing_and_of_nonsense_begins_a_trace(spans: Spans) -> None:
    for headers in ({}, {"traceparent": "nonsense", "X-Correlation-ID": "a b"}, [("traceparent", 7)], 7):
        async with use_trace_context(headers), create_span("consume"):  # type: ignore[arg-type]
            assert get_correlation_id()
    assert [span.parent for span in spans.named("consume")] == [None] * 4


def test_a_consumer_respects_that_the_caller_did_not_sample(spans: Spans) -> None:
    with use_trace_context({"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-00"}), create_span("consume"):
        assert current_trace_id() == "ab" * 16
        assert get_trace_context()["traceparent"].startswith(f"00-{'ab' * 16}-")
        with create_span("step"):
            pass
    assert spans.names == []


# ----- across threads and tasks


def work() -> str | None:
    with create_span("work"):
        return current_trace_id()


def test_a_thread_pool(spans: Spans) -> None:
    with create_span("request"), concurrent.futures.ThreadPoolExecutor(4) as pool:
        own = current_trace_id()
        assert pool.submit(bind_trace_context(work)).result() == own
        assert list(pool.map(bind_trace_context(lambda _: work()), range(8))) == [own] * 8
        assert pool.submit(work).result() != own, "by itself a thread begins anew"


def test_a_thread(spans: Spans) -> None:
    with create_span("request"):
        thread = threading.Thread(target=bind_trace_context(work))
        thread.start()
        thread.join()
    assert is_child(spans.one("work"), spans.one("request"))


async def test_asyncio_and_asgiref(spans: Spans) -> None:
    async def work_async() -> str | None:
        return work()

    with create_span("request"):
        own = current_trace_id()
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(None, bind_trace_context(work)) == own
        assert await asyncio.create_task(work_async()) == own
        assert await asyncio.to_thread(work) == own
        assert await sync_to_async(work)() == own
        bound = bind_trace_context(work_async)
    assert await bound() == own
    assert all(is_child(span, spans.one("request")) for span in spans.named("work"))


def test_public_names_are_all_there() -> None:
    for name in django_tracing.__all__:
        assert getattr(django_tracing, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'trase'"):
        _ = django_tracing.trase
