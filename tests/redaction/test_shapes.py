"""Test the forms in which programs write a name and its value: nested, encoded, as words of a command, as XML."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_tracing.redaction import (
    REDACTED,
    SensitiveKeys,
    redact_db_error,
    redact_query,
    redact_resource,
    redact_text,
    redact_tracestate,
    sanitise_url,
)
from django_tracing.redaction.attributes import AttributeSanitizer

KEYS = SensitiveKeys()
GUIDELINES = AttributeSanitizer(max_length=1000)
VALUES = st.from_regex(r"[a-z]{4,6}[2-9]{1,2}", fullmatch=True)

NAMES = ["code[]", "oauth[code]", "oauth[state][0]", "amp;code", " code", "code ", "b?code", "maps[key]", "app.key"]


@pytest.mark.parametrize("name", [*NAMES, "appkey", "appKey", "user[api_key]", "licensekey"])
@given(value=VALUES)
def test_a_nested_parameter_is_redacted(name: str, value: str) -> None:
    for written in (name, quote(name)):
        assert value not in sanitise_url(f"https://h/a?x=1&{written}={value}", KEYS)
        assert value not in str(redact_query(f"x=1&{written}={value}", KEYS))
        assert value not in str(GUIDELINES.attributes({"url.query": f"{written}={value}"}))


@pytest.mark.parametrize("name", ["monkey", "turkey", "code_list", "keys", "filter[status_code]", "state.name"])
def test_a_parameter_with_a_similar_name_is_kept(name: str) -> None:
    assert sanitise_url(f"https://h/a?{name}=AT", KEYS) == f"https://h/a?{name}=AT"


@pytest.mark.parametrize("url", ["/cb?code={}", "https://h/cb?state={}", "/a?x=1&maps_key={}", "/?password={}"])
@pytest.mark.parametrize("times", [1, 2, 3])
@given(value=VALUES)
def test_a_url_in_a_url_in_text(url: str, times: int, value: str) -> None:
    inner = url.format(value)
    for _ in range(times):
        inner = quote(inner, safe="")
    for text in (
        f"404 for url: https://h/login?next={inner}",
        f"Max retries exceeded with url: /login?a=1&next={inner} (Caused by x)",
        f"sent to {inner}",
        f"/login/{inner}/",
    ):
        assert value not in redact_text(text)
    assert value not in sanitise_url(f"https://h/login?next={inner}", KEYS)


@pytest.mark.parametrize(
    "text", ["50% off, 100%25 sure", "%(name)s %20s", "caf%C3%A9", "https://h/caf%C3%A9?q=a+b%21"]
)
def test_harmless_encoded_text_is_unchanged(text: str) -> None:
    assert redact_text(text) == text


COMMANDS = [
    ["manage.py", "login", "--password", "{}"],
    ["./deploy", "--api-key", "{}", "--verbose"],
    ["mysql", "-u", "ada", "-p", "{}"],
    ["mysql", "-p{}", "shop"],
    ["docker", "login", "-u", "ada", "-p", "{}"],
    ["curl", "-u", "ada:{}", "https://h"],
    ["redis-cli", "-a", "{}"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@given(value=VALUES)
def test_words_of_a_command(command: list[str], value: str) -> None:
    words = [word.format(value) for word in command]
    for kept in (
        GUIDELINES.attributes({"argv": words})["argv"],
        GUIDELINES.attributes({"argv": tuple(words)})["argv"],
        redact_resource({"process.command_args": words}, KEYS)["process.command_args"],
    ):
        assert value not in " ".join(kept)
        assert kept[0] == command[0]
        assert len(kept) == len(command)


@pytest.mark.parametrize(
    "words", [["ssh", "-p", "2222", "host"], ["--token-free", "--password"], ["make", "-p"], ["curl", "-u", "ada"]]
)
def test_other_words_of_a_command_are_kept(words: list[str]) -> None:
    assert GUIDELINES.attributes({"argv": words})["argv"] == words


@pytest.mark.parametrize(
    "text",
    [
        "<wsse:Password Type='PasswordText'>{}</wsse:Password>",
        '<soap:Body><m:sessionId xmlns="x">{}</m:sessionId></soap:Body>',
        "curl --user ada:{} https://h",
        "Incorrect API key provided: {}",
        "password\uff1a{}",
        "password\uff1d{}",
        "user.set_password('{}')",
        'check_token("{}")',
        "AccountKey={};EndpointSuffix=core.windows.net",
        "passphrase: correct horse {} staple",
        "mnemonic=abandon ability {} about",
    ],
)
@given(value=VALUES)
def test_a_value_in_text(text: str, value: str) -> None:
    assert value not in redact_text(text.format(value))


def test_counts_and_booleans_are_not_secret() -> None:
    said = {"gen_ai.usage.input_tokens": 1200, "session_count": 3, "has_password": False, "token_expired": True}
    assert GUIDELINES.attributes(said) == said
    assert set(GUIDELINES.attributes({"pin": 1234, "session": 12, "token_count": "1234"}).values()) == {REDACTED}


def test_names_listed_by_the_site_are_always_secret() -> None:
    own = AttributeSanitizer(["hiv_positive", "salary"])
    assert own.attributes({"hiv_positive": True, "salary_total": 12}) == {
        "hiv_positive": REDACTED,
        "salary_total": REDACTED,
    }


@pytest.mark.parametrize(
    "text",
    [
        "celery@worker1",
        "celery@web-1",
        "celery@web-1.shop.internal: OK",
        "gen42@host-7 is offline",
        "git@github.com:org/repo",
        "clone git@git.example.com:team/shop.git failed",
        "git+ssh://git.example.com/shop.git",
    ],
)
def test_names_of_programs_are_not_email_addresses(text: str) -> None:
    assert redact_text(text) == text
    assert redact_text(f"ada@example.com {text}") == f"a***@example.com {text}"


@pytest.mark.parametrize(
    "text", ["digit@example.com", "git.jane@example.com", "celerys@web-1", "jane@github.com:org"]
)
def test_email_addresses_of_people_are_masked(text: str) -> None:
    assert "***@" in redact_text(text)


def test_names_of_static_files_with_djangos_hash_are_kept() -> None:
    for path in ("/static/css/base.1a2b3c4d5e6f.css", "/static/admin/js/core.cf103cd04ebf.js"):
        assert sanitise_url(f"https://h{path}", KEYS) == f"https://h{path}"
        assert redact_text(f"GET {path}") == f"GET {path}"


@pytest.mark.parametrize("state", ["ot=th:8;rv:6e6d1a75832a2f", "ot=rv:6e6d1a75832a2f,dd=s:1;o:rum"])
def test_a_tracestate_of_tracers_is_kept(state: str) -> None:
    assert redact_tracestate(state) == state


@pytest.mark.parametrize(
    "state", ["v=ada@example.com", "token={}", "ot=th:8;password:{}", "v=eyJhbGciOiJIUzI1NiJ9.e30.{}"]
)
@given(value=VALUES)
def test_other_values_in_a_tracestate_are_redacted(state: str, value: str) -> None:
    redacted = redact_tracestate(state.format(value))
    assert value not in redacted
    assert "ada@" not in redacted


@pytest.mark.parametrize("route", ["/reset/<uidb64>/<token>/", "/cart/<session_key>", "/a/<str:token>/b/<int:pin>/"])
def test_parameters_of_a_route_are_kept(route: str) -> None:
    assert GUIDELINES.attributes({"http.route": route}) == {"http.route": route}
    assert GUIDELINES.name("GET /reset/<uidb64>/<token>/") == "GET /reset/<uidb64>/<token>/"
    assert "hunter2" not in redact_text("<token>/hunter2</token>")
    assert "hunter2" not in str(GUIDELINES.attributes({"http.route": "/a/token=hunter2/<pk>"}))


@pytest.mark.parametrize("system", ["redis", "valkey", "memcached"])
def test_commands_in_spans_of_the_user_have_no_keys(system: str) -> None:
    for names in (("db.system", "db.statement"), ("db.system.name", "db.query.text")):
        said = dict(zip(names, (system, "SET user:janedoe hunter2"), strict=True))
        assert GUIDELINES.attributes(said)[names[1]] == "SET ? ?"
    assert GUIDELINES.attributes({"cache.key": "session:janedoe"}) == {"cache.key": "session:*"}
    assert GUIDELINES.attributes({"cache.key": "session:list"}) == {"cache.key": "session:list"}


@pytest.mark.parametrize(
    "text",
    [
        "Token is blacklisted",
        "Session was deleted",
        "The session is going to end",
        '(1045, "Access denied for user root (using password: YES)")',
        "password=None, token=null",
        "'password': None}",
        "{'has_token': True}",
    ],
)
def test_sentences_without_a_value_are_kept(text: str) -> None:
    assert redact_text(text) == text


def test_input_values_of_pydantic_without_quotes_are_redacted() -> None:
    message = "1 validation error for Order\npin\n  Input should be a string [type=string_type, input_value={}, input_type=int]"
    for value in ("482913", "Money(482913, 'EUR')", "['482913', 482913]"):
        redacted = redact_db_error(message.format(value))
        assert "482913" not in redacted
        assert "input_type=int" in redacted


@pytest.mark.parametrize("name", ["code", "state", "password", "maps_key"])
@given(value=VALUES)
def test_an_unencoded_url_in_a_url(name: str, value: str) -> None:
    for url in (
        f"/login?next=/cb?{name}={value}",
        f"/login?a=1&next=https://h/cb?a=1?{name}={value}?x",
        f"/login?next=/a?next=%2Fcb%3F{name}%3D{value}",
        f"/login?q=my+{name}%3D{value}" if name == "password" else "",
        f"/login?q=--password+{value}",
    ):
        assert value not in redact_text(f"404 for url: https://h{url}")
        assert value not in sanitise_url(f"https://h{url}", KEYS)
        assert value not in str(redact_query(url.partition("?")[2], KEYS))


@pytest.mark.parametrize("before", ["(", "\n", "\t", "`", "x=", "[", "\u503c", "|", "<a>"])
@given(value=VALUES)
def test_an_option_after_other_text(before: str, value: str) -> None:
    assert value not in redact_text(f"run{before}--password {value}")


def test_a_home_folder_after_a_letter_of_another_alphabet() -> None:
    assert redact_text("\u9519\u8bef/home/jane/shop") == "\u9519\u8bef~/shop"
