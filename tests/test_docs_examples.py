"""Run the examples of the documentation."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from django.test import override_settings

from django_tracing import create_span
from django_tracing.redaction import key_pattern
from tests.conftest import Spans

ROOT = Path(__file__).parent.parent


def examples(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def run(*sources: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for source in sources:
        exec(source, names)  # noqa: S102 - the page is ours
    return names


def test_helpers(spans: Spans) -> None:
    functions, single, blocks, by_hand, current, operations, context, threads, people = examples("docs/helpers.md")
    names = run(functions)
    assert names["total"]([1, 2]) == 3
    assert asyncio.run(names["ship"](7)) == "shipped 7"
    assert names["Invoices"].latest().render(7) == "invoice 7"
    assert list(names["rows"]()) == [1, 2, 3]
    assert spans.names == ["total", "Orders.ship", "Invoices.latest", "Invoices.render", "export.rows"]
    assert (spans.one("Orders.ship").attributes or {})["order_id"] == 7
    spans.clear()
    assert run(single)["size"] == 8
    run(blocks)
    run(by_hand)
    assert spans.names == ["report.size", "invoice.render", "upload"]
    spans.clear()
    with create_span("request"):
        run(current)
    assert [event.name for event in spans.one("request").events] == ["coupon.refused", "exception"]
    spans.clear()
    names = run(operations)
    assert "traceparent" in names["answer"].sent
    assert spans.names == [
        "cache.get.blueprint:*",
        "db.select.people",
        "http.get.user-service",
        "rate_limit.check",
    ]
    assert run(context)["tenant"] == "t1"
    assert run(threads)["future"].result() == "in the trace"
    assert run(people)["reference"]["trace"] is None


def test_redaction(spans: Spans) -> None:
    signup, keys, redact = examples("docs/redaction.md")
    run(signup)
    attributes = dict(spans.one("signup").attributes or {})
    del attributes["correlation.id"]
    page = (ROOT / "docs/redaction.md").read_text()
    shown = re.search(r"^This sets `user_email` `(.*?)`, `api_key` `(.*?)`, `note` `(.*?)`\.$", page, re.MULTILINE)
    assert shown is not None
    assert attributes == dict(zip(("user_email", "api_key", "note"), shown.groups(), strict=True))
    with override_settings(TRACING=run(keys)["TRACING"]):
        keys_of_page = re.findall(r"`([^`\n]+)`\s(?:is|are)\s`([^`]*\*[^`]*)`", page)
        assert len(keys_of_page) >= 4
        for key, pattern in keys_of_page:
            assert key_pattern(key) == pattern
    tracing = run(redact)["TRACING"]
    assert tracing["REDACT"]("db.statement", "SELECT * FROM salaries") is None
    assert tracing["REDACT"]("db.statement", "SELECT 1") == "SELECT 1"


def test_rate_limits(spans: Spans) -> None:
    [own] = examples("docs/instrumentations/rate_limit.md")
    run(own)
    assert (spans.one("rate_limit.check").attributes or {})["rate_limit.allowed"] is False


def test_commands() -> None:
    from django_tracing.conf.loading import get_settings

    [names] = examples("docs/instrumentations/commands.md")
    with override_settings(TRACING=run(names)["TRACING"]):
        assert get_settings().problems == ()
        assert get_settings().commands == ("send_invoices", "clearsessions")


@pytest.mark.parametrize("page", ["README.md"])
def test_readme(page: str, spans: Spans) -> None:
    [by_hand] = [source for source in examples(page) if "def ship" in source]
    assert run(by_hand)["ship"](7) == 42
    assert spans.names == ["label.print", "invoice.total", "Orders.ship"]
