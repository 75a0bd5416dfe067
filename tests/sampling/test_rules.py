"""Test which rule matches a request, a command or a task."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from django_tracing.conf import patterns as module
from django_tracing.conf.patterns import _longest, _most_steps
from django_tracing.sampling.rules import (
    Match,
    Rule,
    TraceStart,
    _Compiled,
    _glob,
    compile_rules,
    pattern_problem,
)
from tests.linear import steps

NOW = 1_000.0


def decide(rules: list[Rule], now: float = NOW, **start: Any) -> str | None:
    found = compile_rules(rules, "shop").match(TraceStart(**{"method": "GET", "user_id": "", **start}), now)
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


def test_expired_rules_and_those_of_other_services_are_ignored() -> None:
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


def test_the_match_is_open_while_the_user_is_unknown() -> None:
    rules = compile_rules([Rule(1, "ada", path="/api/*", user_id="42"), Rule(2, "all")], "shop")
    assert rules.uses_users
    assert rules.match(TraceStart(path="/api/x"), NOW) == Match(rules.compiled[1].rule, True)
    assert rules.match(TraceStart(path="/x"), NOW) == Match(rules.compiled[1].rule, False), (
        "the user can't change the result"
    )
    before = compile_rules([Rule(2, "all"), Rule(1, "ada", user_id="42")], "shop")
    assert not before.match(TraceStart(path="/x"), NOW).open, "an earlier rule decides"


def test_invalid_rules_are_left_out_and_reported() -> None:
    rules = compile_rules([Rule(1, "broken", path="~(a"), Rule(2, "all")], "shop")
    assert [rule.rule.name for rule in rules.compiled] == ["all"]
    [(left_out, why)] = rules.left_out
    assert (left_out.name, why) == (
        "broken",
        "This regular expression can't be read: missing ), unterminated subpattern at character 1.",
    )
    assert pattern_problem("/a*[") == ""


def test_explained() -> None:
    rules = [Rule(1, "posts", method="POST"), Rule(2, "ada", user_id="42"), Rule(3, "all"), Rule(4, "never compared")]
    reasons = compile_rules(rules, "shop").explain(TraceStart(method="GET", user_id="7"), NOW)
    assert [(reason.rule.name, reason.matches, reason.failed) for reason in reasons] == [
        ("posts", False, "method"),
        ("ada", False, "user_id"),
        ("all", True, ""),
    ]


# ----- The index has the same result as comparing each rule

_PATHS = st.sampled_from(["/", "/api/", "/api/v1/orders/7", "/api/v2", "/static/a.js", "/static/ajs", "/x"])
_RULES = st.builds(
    Rule,
    id=st.just(1),
    name=st.just("it"),
    service=st.just(""),
    operation=st.sampled_from(["", "", "request", "task"]),
    method=st.sampled_from(["", "", "GET", "POST"]),
    path=st.sampled_from(
        [
            *("", "/api/*", "/api/v?/*", "*.js", "/x", "~^/api/v[12]", "~orders", "~^/ap?i", "/a*i/*"),
            *(r"~^/static/a\.js", r"~^/static/a\.?js", "~^/static/a[.]*", "~^/x|^/static", "~^/api/v{0,1}[12]"),
        ]
    ),
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
        TraceStart,
        operation=st.sampled_from(["request", "task"]),
        method=st.sampled_from(["GET", "POST"]),
        path=_PATHS,
        headers=st.sampled_from([{}, {"HTTP_X_A": "1"}, {"HTTP_X_A": "2"}]),
        user_id=st.sampled_from(["", "1", "2"]),
        subscription=st.sampled_from(["", "pro"]),
    ),
)
def test_the_index_finds_the_first(rules: list[Rule], start: TraceStart) -> None:
    expected = None
    for position, rule in enumerate(rules):
        one = _Compiled(position, rule)
        if not one.failed(start, NOW) and not one.user_failed(start):
            expected = rule
            break
    assert compile_rules(rules, "shop").match(start, NOW).rule == expected


# ----- Matching a path takes bounded time: a bound on the steps limits how much of the path is read

_ATOMS = st.sampled_from(["a", "b", "/", r"\w", ".", "[^/]", "[^b]", "[ab]", r"\d", "1", r"[^\d]"])
_COUNTS = st.sampled_from(["*", "+", "?", "*?", "+?", "{2,4}", "{0,3}?", "{1,300}", "{2,}"])


def _larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.lists(inner, min_size=2, max_size=4).map("".join),
        st.tuples(inner, _COUNTS).map(lambda pair: f"(?:{pair[0]}){pair[1]}"),
        st.tuples(_ATOMS, _COUNTS).map("".join),
        st.tuples(inner, inner).map(lambda pair: f"(?:{pair[0]}|{pair[1]})"),
        st.tuples(st.sampled_from(["(?=", "(?!", "("]), inner).map(lambda pair: f"{pair[0]}{pair[1]})"),
    )


_PATTERNS = st.tuples(
    st.sampled_from(["", "^", "(?m)^"]),
    st.recursive(_ATOMS, _larger, max_leaves=10),
    st.sampled_from(["", "(?P<x>a.*)(?P=x)", "(?P<x>.*)b*(?P=x)"]),
    st.sampled_from(["", "!", "$", "/!"]),
).map("".join)
_TEXTS = st.builds(
    lambda begin, word, end, length: (begin + word * length)[: length - len(end)] + end,
    st.text("ab/", max_size=1),
    st.text("ab/1", min_size=1, max_size=4),
    st.text("!/b", max_size=1),
    st.sampled_from([12, 24, 40]),
)


@settings(max_examples=300, derandomize=True)
@given(_PATTERNS, _TEXTS)
@example("^(.*?)[^/]*?/", "a" * 40)
@example("^.*[^/]*/[^-]*-[^;]*;", "/-a" * 13)
@example("(?m)^a.*b", "a\n" * 20)
@example(r"^(.*)b*\1!", "a" * 40)
@example(r"(?:\b){0,9999}!", "a" * 40)
def test_no_search_takes_more_steps_than_the_bound(pattern: str, text: str) -> None:
    read = import_module(module._PARSER).parse(pattern)
    bound = _most_steps(read, len(text))
    assume(bound < 50_000)
    # A step of the bound is up to four steps of the counter: a choice, the start of a round, a character, a jump.
    assert steps(pattern, 0, "search", text) <= 4 * bound + 4 * len(text)


@pytest.mark.parametrize(
    ("pattern", "length"),
    [
        # One loop after another with different ends: as many ways as positions, each as long as the text.
        ("^(.*?)[^/]*?/", 1024),
        ("^(.*?)(.*?)[^/]*?/", 200),
        (r"^.*[^/]*/[^-]*-[^;]*;", 1024),
        # A match may start on each line of a path.
        ("(?m)^a[^b]*b", 1024),
        (r"^(.*)b*\1!", 200),
        # Each of these ends where the next one starts, in only one way.
        (r"^/\w+/\w+/\w+/\w+/$", 8192),
        (r"^/(?P<shop>[^/]+)/(\d+)/[\w-]+/.*\.json$", 8192),
        ("^/a.*b.*c.*d$", 200),
        ("^/a.*b.*c.*d.*e$", 0),
    ],
)
def test_how_much_of_a_path_is_read(pattern: str, length: int) -> None:
    assert _longest(pattern) == length


def test_only_the_start_of_a_longer_path_is_read() -> None:
    pattern = "^(.*?)[^/]*?/x"
    assert decide([Rule(1, "it", path=f"~{pattern}")], path="a" * 1000 + "/x") == "it"
    assert decide([Rule(1, "it", path=f"~{pattern}")], path="a" * 2000 + "/x") is None
    assert decide([Rule(1, "it", path="/a*b")], path="/a" + "x" * 8000 + "b") == "it"
    assert decide([Rule(1, "it", path="/a*b")], path="/a" + "x" * 9000 + "b") is None


def test_many_expressions_share_the_bound() -> None:
    """A hundred expressions together take no more time for a path than the limit of one."""
    pattern = "^(.*?)[^/]*?/x"
    for count, length in ((1, 1024), (4, 512), (20, 200), (500, 200)):
        rules = [Rule(number, f"r{number}", path=f"~{pattern}{number}") for number in range(count - 1)]
        rules.append(Rule(500, "it", path=f"~{pattern}"))
        inside, outside = "a" * (length - 2) + "/x", "a" * (length - 1) + "/x"
        assert decide(rules, path=inside) == "it"
        assert decide(rules, path=outside) is None
    plain = [Rule(number, "it", path=rf"~^/\w+/r{number}/$") for number in range(100)]
    assert decide(plain, path="/" + "a" * 8000 + "/r7/") == "it", "linear expressions read the whole path"


def test_without_pythons_parser_every_repetition_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PARSER", "re._nowhere")
    _longest.cache_clear()
    try:
        assert "may take too long" in pattern_problem("~^/a?a?a?aaa$")
        assert pattern_problem("~^/api/") == ""
    finally:
        _longest.cache_clear()


@settings(max_examples=150, derandomize=True)
@given(st.text("ab*?", min_size=1, max_size=12), st.text("ab", min_size=1, max_size=3), st.text("ab!", max_size=2))
@example("*a*a*a*a*a*b", "a", "")
@example("*ab*ab*ab", "ab", "!")
def test_wildcards_take_linear_time(pattern: str, word: str, end: str) -> None:
    source = _glob(pattern).pattern
    few = steps(source, re.DOTALL, "fullmatch", word * 40 + end)
    many = steps(source, re.DOTALL, "fullmatch", word * 160 + end)
    assert many <= 5 * few + 200
