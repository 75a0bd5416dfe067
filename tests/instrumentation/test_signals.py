"""Test the spans of receivers of signals, and that signals behave as before."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial, wraps
from typing import Any

import pytest
from django.db.models.signals import post_init, post_save
from django.dispatch import Signal
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from django_tracing import create_span
from django_tracing.conf.table import DEFAULT_INSTRUMENTATIONS
from django_tracing.instrumentation import signals
from tests.conftest import Spans

order_paid = Signal()
tracer = trace.get_tracer("tests")


@pytest.fixture
def installed() -> Iterator[None]:
    signals.install()
    yield
    signals.uninstall()
    order_paid.receivers.clear()
    order_paid.sender_receivers_cache.clear()


pytestmark = pytest.mark.usefixtures("installed")


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def parent_of(spans: Spans, name: str) -> str:
    span = spans.one(name)
    assert span.parent is not None
    return next(other.name for other in spans if other.context.span_id == span.parent.span_id)


def send_invoice(sender: Any, **kwargs: Any) -> str:
    with create_span("inside"):
        return "sent"


async def send_later(sender: Any, **kwargs: Any) -> str:
    await asyncio.sleep(0)
    return "later"


def fail(sender: Any, **kwargs: Any) -> None:
    raise RuntimeError("no luck")


class Shop:
    def on_paid(self, sender: Any, **kwargs: Any) -> str:
        return "method"

    def __call__(self, sender: Any, **kwargs: Any) -> str:
        return "object"


def test_it_is_off_by_default() -> None:
    assert "signals" not in DEFAULT_INSTRUMENTATIONS


@pytest.mark.parametrize("method", ["send", "send_robust", "asend", "asend_robust"])
def test_a_receiver_is_a_span_that_contains_its_calls(method: str, spans: Spans) -> None:
    order_paid.connect(send_invoice)
    with create_span("page"):
        responses = getattr(order_paid, method)(sender=None)
        if method.startswith("a"):

            async def wait() -> Any:
                return await responses

            responses = asyncio.run(wait())
    assert responses == [(send_invoice, "sent")], "the receiver itself"
    assert responses[0][0] is send_invoice
    span = spans.one("signal.order_paid.send_invoice")
    assert span.kind is SpanKind.INTERNAL
    attributes = attributes_of(span)
    assert attributes["operation.type"] == "signal"
    assert attributes["signal.name"] == "order_paid"
    assert (attributes["code.namespace"], attributes["code.function"]) == (__name__, "send_invoice")
    assert parent_of(spans, "inside") == "signal.order_paid.send_invoice"
    assert parent_of(spans, "signal.order_paid.send_invoice") == "page"


def test_async_receivers_are_beside_each_other(spans: Spans) -> None:
    async def send_also(sender: Any, **kwargs: Any) -> str:
        await asyncio.sleep(0)
        with create_span("inside"):
            return "also"

    order_paid.connect(send_later)
    order_paid.connect(send_also)

    async def page() -> Any:
        with create_span("page"):
            responses = await order_paid.asend(sender=None)
            with create_span("afterwards"):
                return responses

    assert asyncio.run(page()) == [(send_later, "later"), (send_also, "also")]
    for name in ("signal.order_paid.send_later", "signal.order_paid.send_also", "inside", "afterwards"):
        assert parent_of(spans, name) == "page"
    spans.clear()
    with create_span("page"):
        assert order_paid.send(sender=None) == [(send_later, "later"), (send_also, "also")]
    assert parent_of(spans, "signal.order_paid.send_later") == "page"


def test_names_of_receivers(spans: Spans) -> None:
    shop = Shop()
    receivers = [shop.on_paid, shop, partial(send_invoice, extra=1), lambda sender, **kwargs: "lambda"]
    for number, receiver in enumerate(receivers):
        order_paid.connect(receiver, weak=False, dispatch_uid=number)
    with create_span("page"):
        responses = order_paid.send(sender=None)
    assert [response for _, response in responses] == ["method", "object", "sent", "lambda"]
    assert [receiver for receiver, _ in responses] == receivers
    assert [name for name in spans.names if name.startswith("signal.")] == [
        "signal.order_paid.on_paid",
        "signal.order_paid.Shop",
        "signal.order_paid.send_invoice",
        "signal.order_paid.(lambda)",
    ]
    assert attributes_of(spans.one("signal.order_paid.on_paid"))["code.function"] == "Shop.on_paid"


def test_decorated_receivers_have_their_own_names(spans: Spans) -> None:
    def quietly(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def inner(*args: Any, **kwargs: Any) -> Any:
            with suppress(RuntimeError):
                return function(*args, **kwargs)

        return inner

    order_paid.connect(quietly(send_invoice), weak=False)
    order_paid.connect(quietly(fail), weak=False)
    with create_span("page"):
        order_paid.send(sender=None)
    assert {"signal.order_paid.send_invoice", "signal.order_paid.fail"} <= set(spans.names)


def test_a_receiver_is_not_kept_alive(spans: Spans) -> None:
    def receiver(sender: Any, **kwargs: Any) -> None:
        pass

    order_paid.connect(receiver)
    with create_span("page"):
        assert len(order_paid.send(sender=None)) == 1
        del receiver
        gc.collect()
        assert order_paid.send(sender=None) == []


def test_a_signal_of_django(spans: Spans) -> None:
    post_save.connect(send_invoice, sender=Shop)
    try:
        with create_span("page"):
            post_save.send(sender=Shop, instance=None)
    finally:
        assert post_save.disconnect(send_invoice, sender=Shop)
    assert "signal.post_save.send_invoice" in spans.names


def test_a_signal_without_a_name(spans: Spans) -> None:
    unknown = Signal()
    unknown.connect(send_invoice)
    with create_span("page"):
        unknown.send(sender=None)
    assert "signal.(unnamed).send_invoice" in spans.names


def test_signals_of_each_object_make_no_spans(spans: Spans) -> None:
    post_init.connect(send_invoice, sender=Shop)
    try:
        with create_span("page"):
            assert post_init.send(sender=Shop) == [(send_invoice, "sent")]
    finally:
        post_init.disconnect(send_invoice, sender=Shop)
    assert spans.names == ["inside", "page"]


def test_receivers_of_django_make_no_spans(spans: Spans) -> None:
    def update_last_login(sender: Any, **kwargs: Any) -> str:
        return "updated"

    update_last_login.__module__ = "django.contrib.auth.models"
    order_paid.connect(update_last_login)
    with create_span("page"):
        assert order_paid.send(sender=None) == [(update_last_login, "updated")]
    assert spans.names == ["page"]


def test_an_exception_is_recorded_and_raised(spans: Spans) -> None:
    order_paid.connect(fail)
    with create_span("page"), pytest.raises(RuntimeError, match="no luck"):
        order_paid.send(sender=None)
    assert spans.one("signal.order_paid.fail").status.status_code is StatusCode.ERROR


def test_an_exception_that_django_catches(spans: Spans, caplog: pytest.LogCaptureFixture) -> None:
    order_paid.connect(fail)
    with create_span("page"), caplog.at_level(logging.ERROR, "django.dispatch"):
        [(receiver, error)] = order_paid.send_robust(sender=None)
    assert receiver is fail and isinstance(error, RuntimeError)
    assert "Error calling fail in Signal.send_robust() (no luck)" in caplog.text
    assert spans.one("signal.order_paid.fail").status.status_code is StatusCode.ERROR


def test_outside_a_trace_there_is_no_span(spans: Spans) -> None:
    order_paid.connect(send_later)
    assert order_paid.send(sender=None) == [(send_later, "later")]
    assert spans.names == []


def test_without_receivers_nothing_changes(spans: Spans) -> None:
    with create_span("page"):
        assert order_paid.send(sender=None) == []
    assert spans.names == ["page"]


def test_a_subclass_that_sends_in_its_own_way_sees_its_receivers(spans: Spans) -> None:
    class Ordered(Signal):
        def send(self, sender: Any, **named: Any) -> list[tuple[Any, Any]]:
            receivers, _ = self._live_receivers(sender)  # type: ignore[attr-defined]
            return [(one, one(signal=self, sender=sender, **named)) for one in receivers]

    signal, own, outer = Signal(), Ordered(), []

    def inner(**kwargs: Any) -> int:
        return 1

    def sends(**kwargs: Any) -> None:
        outer.extend(own.send(None))

    own.connect(inner)
    signal.connect(sends)
    with create_span("page"):
        signal.send(None)
        outer.extend(own.send(None))
    assert outer == [(inner, 1), (inner, 1)]


def test_after_uninstall_there_is_no_span(spans: Spans) -> None:
    order_paid.connect(send_later)
    signals.uninstall()
    with create_span("page"):
        order_paid.send(sender=None)
    assert spans.names == ["page"]
    assert Signal.send.__module__ == "django.dispatch.dispatcher"
    assert Signal.send.__code__.co_filename.endswith("dispatcher.py")
