"""Test the decorator @trace."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from opentelemetry.trace import StatusCode

from django_tracing import (
    create_span,
    current_trace_id,
    trace,
)
from tests.api.asserts import attributes, is_child
from tests.conftest import Spans


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


def test_a_call_with_wrong_arguments_raises_pythons_error(spans: Spans) -> None:
    with pytest.raises(TypeError, match="missing"):
        asyncio.run(Shop().fetch())  # type: ignore[call-arg]
    assert spans.one("Shop.fetch").status.status_code is StatusCode.ERROR


def test_an_unknown_parameter_to_capture_raises_an_error_when_decorating() -> None:
    with pytest.raises(TypeError, match=r'capture lists "order", which is not a parameter of pay\(order_id\)'):

        @trace("pay", capture=("order",))
        def pay(order_id):  # type: ignore[no-untyped-def]
            return order_id

    with pytest.raises(TypeError, match=re.escape('write capture=("order_id",)')):
        trace("pay", capture="order_id")
    with pytest.raises(TypeError, match="not int"):
        trace("pay")(7)


def test_the_span_of_a_generator_lasts_as_long_as_the_iteration(spans: Spans) -> None:
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


def test_send_throw_and_close_of_a_generator(spans: Spans) -> None:
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
