"""Test the rules as Jaeger's clients receive them."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.urls import include, path
from django.utils import timezone

from django_tracing import faults
from django_tracing.models import SamplingRule
from django_tracing.sampling.rules import Rule
from django_tracing.sampling.strategies import inexpressible, serve

urlpatterns = [path("tracing/", include("django_tracing.urls"))]


def probabilistic(rate: float) -> dict[str, Any]:
    return {"strategyType": "PROBABILISTIC", "probabilisticSampling": {"samplingRate": rate}}


def test_without_rules_it_is_the_rate() -> None:
    assert serve([], "node", 0.25).document == probabilistic(0.25)


def test_a_rule_for_the_service() -> None:
    rules = [Rule(1, "theirs", service="other"), Rule(2, "it", service="no*", rate=0.5), Rule(3, "late", rate=0.1)]
    assert serve(rules, "node", 1.0).document == probabilistic(0.5)
    limited = serve([Rule(1, "ten", max_per_second=9.6)], "node", 1.0).document
    assert limited == {"strategyType": "RATE_LIMITING", "rateLimitingSampling": {"maxTracesPerSecond": 10}}


def test_rules_for_operations() -> None:
    rules = [
        Rule(1, "a", method="get", path="/orders/", rate=0.1),
        Rule(2, "again", method="GET", path="/orders/", rate=0.9),
        Rule(3, "all", rate=0.5),
        Rule(4, "after all", method="POST", path="/x/"),
    ]
    document = serve(rules, "node", 1.0).document
    assert document["operationSampling"] == {
        "defaultSamplingProbability": 0.5,
        "defaultLowerBoundTracesPerSecond": 0,
        "perOperationStrategies": [{"operation": "GET /orders/", "probabilisticSampling": {"samplingRate": 0.1}}],
    }


@pytest.mark.parametrize(
    ("condition", "why"),
    [
        ({"user_id": "1"}, "a user"),
        ({"subscription": "pro"}, "a subscription"),
        ({"header_name": "X"}, "a header"),
        ({"valid_until": 1.0}, "an end"),
        ({"operation": "task"}, "commands or tasks"),
        ({"path": "/a/*", "method": "GET"}, "a pattern"),
        ({"path": "~a", "method": "GET"}, "a pattern"),
        ({"path": "/a/"}, "without a method"),
        ({"method": "GET"}, "without a path"),
        ({"max_per_second": 1.0, "rate": 0.5}, "a number a second"),
    ],
)
def test_rules_that_the_protocol_cannot_express_are_left_out(condition: dict[str, Any], why: str) -> None:
    rule = Rule(1, "it", **{"rate": 0.0, **condition})
    assert why in inexpressible(rule)
    served = serve([rule], "node", 1.0)
    assert served.document == probabilistic(1.0)
    assert [left_out.name for left_out, _ in served.left_out] == ["it"]


@pytest.fixture
def client(settings: Any, transactional_db: None) -> Client:
    settings.ROOT_URLCONF = __name__
    settings.TRACING = {"EXPORTER": "none", "SAMPLE_RATE": 0.5, "SAMPLING_TOKEN": "s3"}
    return Client()


def test_it_answers_like_jaeger(client: Client) -> None:
    assert client.get("/tracing/sampling?service=node").json() == probabilistic(0.5)
    SamplingRule.objects.create(name="node", service="node", rate=10)
    SamplingRule.objects.create(name="ended", order=0, valid_until=timezone.now(), rate=0)
    answer = client.get("/tracing/sampling?service=node")
    assert answer.json() == probabilistic(0.1)
    assert "no-store" in answer["Cache-Control"]
    for wrong in ("", "?service=", "?service=a&service=b"):
        assert client.get(f"/tracing/sampling{wrong}").status_code == 400
    assert client.post("/tracing/sampling?service=node").status_code == 405


def test_permissions(client: Client) -> None:
    for address in ("203.0.113.7", "", "nonsense"):
        elsewhere = Client(REMOTE_ADDR=address)
        refused = elsewhere.get("/tracing/sampling?service=node")
        assert refused.status_code == 403
        assert b"SAMPLING_CLIENTS" in refused.content
        for header, status in (("Bearer s3", 200), ("Bearer s4", 403), ("s3", 403), ("Bearer ", 403)):
            asked = elsewhere.get("/tracing/sampling?service=node", headers={"authorization": header})
            assert asked.status_code == status


def test_rules_that_cannot_be_read(
    client: Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "_faults", faults._Faults())
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE django_tracing_samplingrule RENAME TO away")
        try:
            assert client.get("/tracing/sampling?service=node").status_code == 503
        finally:
            cursor.execute("ALTER TABLE away RENAME TO django_tracing_samplingrule")
    (line,) = [record.getMessage() for record in caplog.records if record.name == "django_tracing"]
    assert line.startswith("The sampling rules can't be served: ")
