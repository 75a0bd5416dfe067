"""Test the spans of pybreaker's breakers, and that traced breakers behave as before."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterator
from typing import Any

import pybreaker
import pytest
import redis
from django.core.cache import caches
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

from django_tracing import trace_circuit_breaker_call
from tests.conftest import Spans

tracer = trace.get_tracer("tests")


@pytest.fixture
def breaker() -> pybreaker.CircuitBreaker:
    return pybreaker.CircuitBreaker(name="payment-service", fail_max=2, reset_timeout=60)


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return {key.removeprefix("circuit_breaker."): value for key, value in (span.attributes or {}).items()}


def changes(span: ReadableSpan) -> list[tuple[Any, Any]]:
    return [
        ((event.attributes or {})["circuit_breaker.from"], (event.attributes or {})["circuit_breaker.to"])
        for event in span.events
        if event.name == "circuit_breaker.state_change"
    ]


def works(value: int = 7) -> int:
    with tracer.start_as_current_span("inside"):
        return value


def fails() -> int:
    raise ConnectionError("no route to ada@example.com")


async def works_async(value: int = 7) -> int:
    await asyncio.sleep(0)
    with tracer.start_as_current_span("inside"):
        return value


async def fails_async() -> int:
    await asyncio.sleep(0)
    raise ConnectionError("away")


def cached_template() -> str:
    with tracer.start_as_current_span("in the fallback"):
        return "from the cache"


NAME = "circuit_breaker.payment-service"


class TestUse:
    def test_call(self, breaker: pybreaker.CircuitBreaker, within: Spans) -> None:
        assert breaker.call(works, 8) == 8
        span = within.one(NAME)
        got = attributes(span)
        assert got["operation.type"] == "circuit_breaker"
        assert (got["name"], got["service"]) == ("payment-service", "payment-service")
        assert (got["state"], got["state_after"], got["outcome"], got["failures"]) == (
            "closed",
            "closed",
            "success",
            0,
        )
        inside = within.one("inside")
        assert inside.parent.span_id == span.context.span_id  # type: ignore[union-attr]

    def test_decorator(self, breaker: pybreaker.CircuitBreaker, within: Spans) -> None:
        @breaker
        def guarded() -> int:
            return works()

        assert guarded() == 7
        assert within.names == ["inside", NAME]

    def test_calling(self, breaker: pybreaker.CircuitBreaker, within: Spans) -> None:
        with breaker.calling():
            works()
        assert within.names == ["inside", NAME]
        with pytest.raises(ConnectionError), breaker.calling():
            fails()
        assert attributes(within.named(NAME)[1])["outcome"] == "failure"
        assert breaker.fail_counter == 1

    def test_the_span_of_an_async_function_ends_when_it_was_awaited(
        self, breaker: pybreaker.CircuitBreaker, within: Spans
    ) -> None:
        assert asyncio.run(breaker(works_async)(9)) == 9
        assert within.names == ["inside", NAME]
        with pytest.raises(ConnectionError):
            asyncio.run(breaker(fails_async)())
        assert attributes(within.named(NAME)[1])["outcome"] == "failure"

    def test_the_span_of_a_generator_ends_with_it(self, breaker: pybreaker.CircuitBreaker, within: Spans) -> None:
        @breaker
        def pages(last: int) -> Iterator[int]:
            yield from range(3)
            if last:
                raise ConnectionError("away")

        made = pages(0)
        assert next(made) == 0
        assert within.names == []
        assert list(made) == [1, 2]
        assert attributes(within.one(NAME))["outcome"] == "success"
        within.clear()
        with pytest.raises(ConnectionError):
            list(pages(1))
        got = attributes(within.one(NAME))
        assert (got["outcome"], got["failures"]) == ("failure", 1)

    def test_tornado(self, breaker: pybreaker.CircuitBreaker, within: Spans) -> None:
        pytest.importorskip("tornado")

        async def work() -> None:
            assert await breaker.call_async(works_async, 9) == 9
            with pytest.raises(ConnectionError):
                await breaker(fails_async, __pybreaker_call_async=True)()

        asyncio.run(work())
        assert within.names == ["inside", NAME, NAME]
        assert [attributes(span)["outcome"] for span in within.named(NAME)] == ["success", "failure"]

    def test_concurrent_calls_do_not_mix(self, breaker: pybreaker.CircuitBreaker, within: Spans) -> None:
        async def one(number: int) -> int:
            with breaker.calling():
                return await works_async(number)

        async def work() -> list[int]:
            helped = (trace_circuit_breaker_call(breaker, works_async, number) for number in range(10))
            return await asyncio.gather(*helped, *(one(number) for number in range(10)))

        assert asyncio.run(work()) == [*range(10), *range(10)]
        parents = {span.parent.span_id for span in within.named("inside") if span.parent}
        assert parents == {span.context.span_id for span in within.named(NAME) if span.context}
        assert len(parents) == 20

    def test_a_cancelled_call_ends_its_span(self, breaker: pybreaker.CircuitBreaker, within: Spans) -> None:
        async def work() -> None:
            started = asyncio.Event()

            async def hangs() -> None:
                started.set()
                await asyncio.Event().wait()

            task = asyncio.ensure_future(trace_circuit_breaker_call(breaker, hangs, fallback=cached_template))
            await started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(work())
        assert within.names == [NAME], "a cancellation must not call the fallback"

    def test_nested_calls_of_a_breaker_have_a_span_each(
        self, breaker: pybreaker.CircuitBreaker, within: Spans
    ) -> None:
        assert breaker.call(lambda: breaker.call(works)) == 7
        assert within.names == ["inside", NAME, NAME]

    def test_two_breakers(self, breaker: pybreaker.CircuitBreaker, within: Spans) -> None:
        other = pybreaker.CircuitBreaker(name="other")
        assert breaker.call(other.call, works) == 7
        assert within.names == ["inside", "circuit_breaker.other", NAME]


class TestOutcome:
    def test_a_failure(self, breaker: pybreaker.CircuitBreaker, within: Spans) -> None:
        with pytest.raises(ConnectionError, match="ada@example.com"):
            breaker.call(fails)
        span = within.one(NAME)
        assert span.status.status_code is StatusCode.ERROR
        got = attributes(span)
        assert (got["outcome"], got["failures"], got["state_after"]) == ("failure", 1, "closed")
        assert "ada@" not in span.to_json()

    def test_tripping_rejecting_and_recovering(self, within: Spans) -> None:
        breaker = pybreaker.CircuitBreaker(name="payment-service", fail_max=1, reset_timeout=3600)
        with pytest.raises(pybreaker.CircuitBreakerError):
            breaker.call(fails)
        tripped = within.one(NAME)
        assert (attributes(tripped)["outcome"], attributes(tripped)["state_after"]) == ("failure", "open")
        assert changes(tripped) == [("closed", "open")]

        within.clear()
        with pytest.raises(pybreaker.CircuitBreakerError):
            breaker.call(works)
        rejected = within.one(NAME)
        assert within.names == [NAME], "the function did not run"
        assert (attributes(rejected)["outcome"], attributes(rejected)["state"]) == ("rejected", "open")
        assert rejected.status.status_code is StatusCode.ERROR

        within.clear()
        breaker.reset_timeout = 0
        assert breaker.call(works) == 7
        recovered = within.one(NAME)
        assert changes(recovered) == [("open", "half-open"), ("half-open", "closed")]
        assert (attributes(recovered)["outcome"], attributes(recovered)["state_after"]) == ("success", "closed")

    def test_an_excluded_exception_is_not_a_failure(self, within: Spans) -> None:
        breaker = pybreaker.CircuitBreaker(name="payment-service", exclude=[KeyError])
        with pytest.raises(KeyError):
            breaker.call({}.__getitem__, "x")
        span = within.one(NAME)
        assert attributes(span)["outcome"] == "success"
        assert span.status.status_code is StatusCode.UNSET
        assert span.events[0].name == "exception"

    def test_a_predicate_that_fails(self, within: Spans) -> None:
        def predicate(error: Exception) -> bool:
            raise TypeError("the user's own")

        breaker = pybreaker.CircuitBreaker(name="payment-service", exclude=[predicate])
        with pytest.raises(TypeError, match="the user's own"):
            breaker.call(fails)
        assert attributes(within.one(NAME))["outcome"] == "failure"

    def test_an_id_is_not_in_the_span_name(self, within: Spans) -> None:
        for number in (1234, 5678):
            pybreaker.CircuitBreaker(name=f"s3-tenant-{number}").call(works)
        assert within.names.count("circuit_breaker.s3-tenant-*") == 2
        names = [attributes(span)["name"] for span in within.named("circuit_breaker.s3-tenant-*")]
        assert names == ["s3-tenant-1234", "s3-tenant-5678"]

    def test_without_a_name(self, within: Spans) -> None:
        pybreaker.CircuitBreaker().call(works)
        assert within.one("circuit_breaker.unnamed")

    def test_state_in_redis_is_not_read_more_often_than_without_tracing(self, within: Spans, redis_url: str) -> None:
        client = redis.Redis.from_url(redis_url)
        storage = pybreaker.CircuitRedisStorage(pybreaker.STATE_CLOSED, client, namespace="tests")
        breaker = pybreaker.CircuitBreaker(name="payment-service", state_storage=storage, fail_max=2)

        def commands() -> int:
            return int(client.info("commandstats").get("cmdstat_get", {}).get("calls", 0))

        from django_tracing.instrumentation import circuit_breaker as module

        before = commands()
        breaker.call(works)
        traced = commands() - before
        module.uninstall()
        try:
            before = commands()
            breaker.call(works)
            assert traced == commands() - before
        finally:
            module.install()
        client.close()

    def test_reading_the_failures_from_a_storage_makes_no_span(self, within: Spans) -> None:
        reads = 0

        class Storage(pybreaker.CircuitMemoryStorage):
            @property
            def counter(self) -> int:
                nonlocal reads
                reads += 1
                caches["default"].get("failures")
                return int(super().counter)

        breaker = pybreaker.CircuitBreaker(name="payment-service", state_storage=Storage("closed"))
        with pytest.raises(ConnectionError):
            breaker.call(fails)
        assert reads == 2, "once by pybreaker and once by this app"
        assert within.names == ["cache.get.failures", NAME]
        assert attributes(within.one(NAME))["failures"] == 1


class TestHelper:
    def test_a_result(self, breaker: pybreaker.CircuitBreaker, within: Spans) -> None:
        assert trace_circuit_breaker_call(breaker, works, value=9, service="payments") == 9
        assert within.names == ["inside", NAME]
        assert attributes(within.one(NAME))["service"] == "payments"

    def test_a_fallback_has_its_span_inside(self, breaker: pybreaker.CircuitBreaker, within: Spans) -> None:
        assert trace_circuit_breaker_call(breaker, fails, fallback=cached_template) == "from the cache"
        assert within.names == ["in the fallback", "fallback.cached_template", NAME]
        span, fallback = within.one(NAME), within.one("fallback.cached_template")
        assert fallback.parent.span_id == span.context.span_id  # type: ignore[union-attr]
        assert (attributes(span)["outcome"], attributes(span)["fallback"]) == ("failure", "cached_template")

    def test_a_rejected_call_uses_the_fallback(self, breaker: pybreaker.CircuitBreaker, within: Spans) -> None:
        breaker.open()
        assert trace_circuit_breaker_call(breaker, works, fallback=cached_template) == "from the cache"
        assert attributes(within.one(NAME))["outcome"] == "rejected"

    def test_without_a_fallback_the_exception_propagates(
        self, breaker: pybreaker.CircuitBreaker, within: Spans
    ) -> None:
        with pytest.raises(ConnectionError):
            trace_circuit_breaker_call(breaker, fails)

    def test_a_fallback_that_fails(self, breaker: pybreaker.CircuitBreaker, within: Spans) -> None:
        with pytest.raises(ConnectionError):
            trace_circuit_breaker_call(breaker, fails, fallback=fails)
        assert within.one("fallback.fails").status.status_code is StatusCode.ERROR

    @pytest.mark.parametrize("func", [works_async, functools.partial(works_async, 7)])
    def test_async(self, breaker: pybreaker.CircuitBreaker, within: Spans, func: Any) -> None:
        assert asyncio.run(trace_circuit_breaker_call(breaker, func)) == 7
        assert within.names == ["inside", NAME]
        assert attributes(within.one(NAME))["outcome"] == "success"

    def test_async_failures_are_counted_by_the_breaker(
        self, breaker: pybreaker.CircuitBreaker, within: Spans
    ) -> None:
        async def fallback() -> str:
            return cached_template()

        async def work() -> None:
            for _ in range(3):
                assert await trace_circuit_breaker_call(breaker, fails_async, fallback=fallback) == "from the cache"

        asyncio.run(work())
        outcomes = [attributes(span)["outcome"] for span in within.named(NAME)]
        assert outcomes == ["failure", "failure", "rejected"]
        assert breaker.current_state == "open"
        assert len(within.named("fallback.fallback")) == 3

    @pytest.mark.parametrize("traced", [True, False])
    def test_a_function_that_returns_an_awaitable_is_guarded(
        self, breaker: pybreaker.CircuitBreaker, spans: Spans, traced: bool
    ) -> None:
        async def fallback() -> str:
            return cached_template()

        async def work() -> None:
            assert await trace_circuit_breaker_call(breaker, lambda: works_async(9)) == 9
            with pytest.raises(ConnectionError):
                await trace_circuit_breaker_call(breaker, lambda: fails_async())
            assert breaker.fail_counter == 1
            help_async = trace_circuit_breaker_call
            assert await help_async(breaker, lambda: fails_async(), fallback=cached_template) == "from the cache"
            assert breaker.current_state == "open"
            assert await help_async(breaker, works, fallback=fallback) == "from the cache"
            breaker.close()
            assert await help_async(breaker, works, fallback=fallback) == 7

        if not traced:
            asyncio.run(work())
            assert not [name for name in spans.names if name.startswith(("circuit", "fallback"))]
            return
        with tracer.start_as_current_span("root"):
            asyncio.run(work())
        outcomes = [attributes(span)["outcome"] for span in spans.named(NAME)]
        assert outcomes == ["success", "failure", "failure", "rejected", "success"]
        assert len(spans.named("fallback.cached_template")) == 1
        inside = spans.named("inside")[0]
        assert inside.parent.span_id == spans.named(NAME)[0].context.span_id  # type: ignore[union-attr]
        assert changes(spans.named(NAME)[2]) == [("closed", "open")]

    def test_a_generator(self, breaker: pybreaker.CircuitBreaker, within: Spans) -> None:
        def pages() -> Iterator[int]:
            yield 1

        assert list(trace_circuit_breaker_call(breaker, pages)) == [1]
        assert within.names == [NAME]

    def test_unsampled_calls_return_and_raise_the_same(self, breaker: pybreaker.CircuitBreaker, spans: Spans) -> None:
        assert trace_circuit_breaker_call(breaker, works) == 7
        assert trace_circuit_breaker_call(breaker, fails, fallback=cached_template) == "from the cache"
        with pytest.raises(pybreaker.CircuitBreakerError):
            trace_circuit_breaker_call(breaker, fails)
        assert asyncio.run(trace_circuit_breaker_call(pybreaker.CircuitBreaker(), works_async)) == 7
        assert not [name for name in spans.names if name.startswith(("circuit", "fallback"))]

    def test_an_error_of_this_app_loses_only_a_span(
        self, breaker: pybreaker.CircuitBreaker, within: Spans, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*args: Any) -> Any:
            raise RuntimeError("a bug in this app")

        monkeypatch.setattr("django_tracing.instrumentation.circuit_breaker._state", broken)
        assert breaker.call(works) == 7
        assert trace_circuit_breaker_call(breaker, fails, fallback=cached_template) == "from the cache"
        with breaker.calling():
            pass


def test_uninstall_restores_pybreaker(within: Spans) -> None:
    from django_tracing.instrumentation import circuit_breaker as module

    module.uninstall()
    try:
        assert pybreaker.CircuitBreaker.call.__module__ == "pybreaker"
        pybreaker.CircuitBreaker(name="payment-service").call(works)
        assert within.names == ["inside"]
    finally:
        module.install()
        module.install()


def test_a_wrapper_around_this_apps_patch_is_kept(within: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    from django_tracing.instrumentation import circuit_breaker as module

    ours = pybreaker.CircuitBreaker.call
    seen = []

    def others(self: pybreaker.CircuitBreaker, func: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(func)
        return ours(self, func, *args, **kwargs)

    monkeypatch.setattr(pybreaker.CircuitBreaker, "call", others)
    module.uninstall()
    try:
        assert pybreaker.CircuitBreaker(name="payment-service").call(works) == 7
        assert within.names == ["inside"]
    finally:
        module.install()
    assert pybreaker.CircuitBreaker(name="payment-service").call(works) == 7
    assert within.names == ["inside", "inside", NAME]
    assert seen == [works, works]


def test_is_skipped_without_pybreaker(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import util

    from django_tracing.instrumentation import circuit_breaker as module

    real = util.find_spec
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "pybreaker" else real(name))
    assert not module.is_available()
