"""Which rule a request, a command or a task meets."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_tracing.sampling.rules import Asked, Match, Rule, _Compiled, compile_rules, pattern_problem

NOW = 1_000.0


def decide(rules: list[Rule], now: float = NOW, **asked: Any) -> str | None:
    found = compile_rules(rules, "shop").match(Asked(**{"method": "GET", "user_id": "", **asked}), now)
    assert not found.open
    return None if found.rule is None else found.rule.name


@pytest.mark.parametrize(
    ("condition", "met", "not_met"),
    [
        ({"method": "post"}, {"method": "POST"}, {"method": "GET"}),
        ({"operation": "task"}, {"operation": "task"}, {"operation": "request"}),
        ({"path": "/orders/"}, {"path": "/orders/"}, {"path": "/orders/7/"}),
        ({"path": "/api/*/orders/"}, {"path": "/api/v1/orders/"}, {"path": "/api/v1/orders"}),
        ({"path": "/v?/"}, {"path": "/v1/"}, {"path": "/v10/"}),
        ({"path": "/[a]"}, {"path": "/[a]"}, {"path": "/a"}),
        ({"path": "*.json"}, {"path": "/a/b.json"}, {"path": "/a.jsonp"}),
        ({"path": "~^/api/v[12]/"}, {"path": "/api/v2/x"}, {"path": "/api/v3/x"}),
        ({"path": "~orders$"}, {"path": "/my/orders"}, {"path": "/orders/7"}),
        (
            {"path": "/blueprints/<int:pk>/"},
            {"path": "/blueprints/7/", "route": "/blueprints/<int:pk>/"},
            {"path": "/x"},
        ),
        ({"user_id": "42"}, {"user_id": "42"}, {"user_id": "43"}),
        ({"subscription": "pro"}, {"user_id": "1", "subscription": "pro"}, {"user_id": "1", "subscription": "free"}),
        ({"header_name": "X-Debug"}, {"headers": {"HTTP_X_DEBUG": ""}}, {"headers": {"HTTP_X_OTHER": "1"}}),
        (
            {"header_name": "x-tenant", "header_value": "acme"},
            {"headers": {"HTTP_X_TENANT": "acme"}},
            {"headers": {"HTTP_X_TENANT": "other"}},
        ),
        ({"service": "sh*"}, {}, None),
        ({"valid_until": NOW + 1}, {}, None),
    ],
)
def test_each_condition(condition: dict[str, Any], met: dict[str, Any], not_met: dict[str, Any] | None) -> None:
    rule = Rule(1, "it", **condition)
    assert decide([rule], **met) == "it"
    if not_met is not None:
        assert decide([rule], **not_met) is None


def test_another_service_s_and_an_ended_rule_are_none() -> None:
    assert decide([Rule(1, "theirs", service="billing")]) is None
    assert decide([Rule(1, "ended", valid_until=NOW)]) is None


def test_the_first_that_matches_decides() -> None:
    rules = [
        Rule(1, "posts", method="POST"),
        Rule(2, "api", path="/api/*"),
        Rule(3, "ada", user_id="42"),
        Rule(4, "all"),
    ]
    assert decide(rules, method="POST", path="/api/x") == "posts"
    assert decide(rules, path="/api/x", user_id="42") == "api"
    assert decide(rules, path="/x", user_id="42") == "ada"
    assert decide(rules, path="/x") == "all"


def test_while_nobody_knows_the_user_it_stays_open() -> None:
    rules = compile_rules([Rule(1, "ada", path="/api/*", user_id="42"), Rule(2, "all")], "shop")
    assert rules.asks_for_users
    assert rules.match(Asked(path="/api/x"), NOW) == Match(rules.compiled[1].rule, True)
    assert rules.match(Asked(path="/x"), NOW) == Match(rules.compiled[1].rule, False), "she could not change it"
    before = compile_rules([Rule(2, "all"), Rule(1, "ada", user_id="42")], "shop")
    assert not before.match(Asked(path="/x"), NOW).open, "another decides before"


def test_what_cannot_be_used_is_left_out_and_said() -> None:
    rules = compile_rules([Rule(1, "broken", path="~(a"), Rule(2, "all")], "shop")
    assert [rule.rule.name for rule in rules.compiled] == ["all"]
    [(left_out, why)] = rules.left_out
    assert (left_out.name, why) == (
        "broken",
        "This regular expression can't be read: missing ), unterminated subpattern at character 1.",
    )
    assert pattern_problem("/a*[") == ""


def test_explained() -> None:
    rules = [Rule(1, "posts", method="POST"), Rule(2, "ada", user_id="42"), Rule(3, "all"), Rule(4, "never asked")]
    reasons = compile_rules(rules, "shop").explain(Asked(method="GET", user_id="7"), NOW)
    assert [(reason.rule.name, reason.matches, reason.failed) for reason in reasons] == [
        ("posts", False, "method"),
        ("ada", False, "user_id"),
        ("all", True, ""),
    ]


# ----- the index finds what looking at each of them finds

_PATHS = st.sampled_from(["/", "/api/", "/api/v1/orders/7", "/api/v2", "/static/a.js", "/x"])
_RULES = st.builds(
    Rule,
    id=st.just(1),
    name=st.just("it"),
    service=st.just(""),
    operation=st.sampled_from(["", "", "request", "task"]),
    method=st.sampled_from(["", "", "GET", "POST"]),
    path=st.sampled_from(["", "/api/*", "/api/v?/*", "*.js", "/x", "~^/api/v[12]", "~orders", "~^/ap?i", "/a*i/*"]),
    user_id=st.sampled_from(["", "", "1", "2"]),
    subscription=st.sampled_from(["", "", "pro"]),
    header_name=st.sampled_from(["", "", "X-A"]),
    header_value=st.sampled_from(["", "1"]),
    valid_until=st.sampled_from([None, None, NOW - 1, NOW + 1]),
)


@given(
    st.lists(_RULES, max_size=12).map(
        lambda rules: [rule._replace(id=n, name=str(n)) for n, rule in enumerate(rules)]
    ),
    st.builds(
        Asked,
        operation=st.sampled_from(["request", "task"]),
        method=st.sampled_from(["GET", "POST"]),
        path=_PATHS,
        headers=st.sampled_from([{}, {"HTTP_X_A": "1"}, {"HTTP_X_A": "2"}]),
        user_id=st.sampled_from(["", "1", "2"]),
        subscription=st.sampled_from(["", "pro"]),
    ),
)
def test_the_index_finds_the_first(rules: list[Rule], asked: Asked) -> None:
    expected = None
    for position, rule in enumerate(rules):
        one = _Compiled(position, rule)
        if not one.failed(asked, NOW) and not one.user_failed(asked):
            expected = rule
            break
    assert compile_rules(rules, "shop").match(asked, NOW).rule == expected
