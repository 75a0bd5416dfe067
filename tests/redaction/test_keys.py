"""Test patterns of keys of caches and of Redis: only words that may be kept are kept."""

from __future__ import annotations

import base64
import itertools
import json
import random
import re
import string
from collections.abc import Iterator
from datetime import date
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from celery.backends.base import KeyValueStoreBackend
from django.contrib.sessions.backends import cache as cache_sessions
from django.contrib.sessions.backends import cached_db
from django.core.cache import caches
from django.core.cache.utils import make_template_fragment_key
from django.test import override_settings
from google.protobuf.json_format import MessageToDict
from hypothesis import assume, example, given
from hypothesis import strategies as st
from kombu.transport.redis import Channel
from opentelemetry import trace as trace_api
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from rest_framework.throttling import SimpleRateThrottle

from django_tracing import create_span
from django_tracing.conf.loading import get_settings
from django_tracing.export.wire import encode_spans
from django_tracing.instrumentation import site_words
from django_tracing.redaction import (
    SiteWords,
    Vocabulary,
    forget_site_words,
    key_pattern,
    redact_db_error,
    redact_stacktrace,
    use_vocabulary,
)
from django_tracing.redaction.key_words import LIBRARIES, STRUCTURAL
from tests.conftest import Spans
from tests.redaction.test_text import JWT

MD5 = "5d41402abc4b2a76b9719d911017c592"
SHA256 = f"{MD5}{MD5}"
UUID = "6fa459ea-ee8a-3ca4-894e-db77e160355e"
SESSION = "abcdefghijklmnopqrstuvwxyz012345"

DATA = Path(__file__).parents[1] / "data"
GIVEN_NAMES = (DATA / "given_names.txt").read_text().split()
SURNAMES = (DATA / "surnames.txt").read_text().split()
#: Names from other countries, nicknames, and search terms.
OTHERS = (DATA / "personal_words.txt").read_text(encoding="utf-8").splitlines()
#: Not a name, and in no list.
NEUTRAL = "zzqx"


@pytest.fixture(autouse=True)
def by_default() -> Iterator[None]:
    """Use a site without settings for keys."""
    forget_site_words()
    with override_settings(TRACING={"SERVICE_NAME": "tests", "EXPORTER": "none", "LAYERS": "off"}):
        yield


@pytest.fixture
def site(request: pytest.FixtureRequest) -> Iterator[None]:
    """Use a site with these words."""
    former = use_vocabulary(Vocabulary(read_site_words=lambda: request.param))
    yield
    use_vocabulary(former)


def using(**words: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("site", [SiteWords(**words)], indirect=True)


SHOP = using(words=frozenset(["blueprint", "version", "versions", "page", "orderitem", "category", "categories"]))


# ----- Words that are kept


@pytest.mark.usefixtures("site")
@SHOP
@pytest.mark.parametrize(
    ("key", "pattern"),
    [
        ("blueprint:123", "blueprint:*"),
        ("blueprint:list", "blueprint:list"),
        ("blueprint:123:versions:7", "blueprint:*:versions:*"),
        ("Blueprint:1", "Blueprint:*"),
        ("order_item:5:all", "order_item:*:all"),
        ("order-item-5", "order-item-*"),
        ("OrderItem_5", "OrderItem_*"),
        ("orderitem5", "*"),
        ("order_items_5", "order_items_*"),
        ("user_42_profile", "user_*_profile"),
        ("user-42", "user-*"),
        ("User:42:isActive", "User:*:isActive"),
        ("ListView_page_2_anonymous", "ListView_page_*_anonymous"),
        ("v2:api:users", "v2:api:users"),
        (f"u:{UUID}:x", "u:*:x"),
        (f"sha_{MD5}", "*"),
        (f"list_{MD5}_all", "list_*_all"),
        ("report/2024-01-02/daily", "report/*/daily"),
        ("rate:10.0.0.1:GET", "rate:*:GET"),
        ("rate:10.0.0.1:8000", "rate:*:*"),
        ("user:ada@example.com:x", "user:*:x"),
        ("user:ada%40example.com", "user:*"),
        (f"token:{JWT}", "token:*"),
        ("login:Zx-abQ_9f1cDkk2LmN0pQ", "login:*"),
        ("deadbeef:x", "*:x"),
        ("naïve:x", "*:x"),
        ("a b:1", "*:*"),
        ("q=hello&page=2", "q=*&page=*"),
        # From its first unknown word on, a part may belong to a person.
        ("user_ada_profile", "user_*"),
        ("user_ada_profile:list", "user_*:list"),
        ("blueprint:list-of-all-users", "blueprint:list-*"),
        ("blueprint:ada_list", "blueprint:*"),
        # Initials occur beside names.
        ("user:j.doe", "user:*"),
        ("user:j_doe", "user:*"),
        ("user:j", "user:j"),
        # With any number of words.
        ("search:clinics, Bonn. Or: Berlin?", "search:*:*?"),
        ("path:/a-b/c-d/e-f/g-h/i-j", "*"),
        ("(1,2,3,4,5)", "(*)"),
        ("", ""),
        (":::", ":::"),
    ],
)  # fmt: skip
def test_patterns_of_keys(key: str, pattern: str) -> None:
    assert key_pattern(key) == pattern


def test_patterns_are_short_and_any_key_has_one() -> None:
    assert len(key_pattern("cache:" * 1000)) == 100
    for value in (None, 5, b"a:1", ("a", 1)):
        assert key_pattern(value) == "*"  # type: ignore[arg-type]


#: The same patterns as before words were compared with lists, except that an address is one star.
LIBRARY_KEYS = [
    # Django
    (f"{cache_sessions.KEY_PREFIX}{SESSION}", "django.contrib.sessions.cache*"),
    (f"{cached_db.KEY_PREFIX}{SESSION}", "django.contrib.sessions.cached_db*"),
    (f"views.decorators.cache.cache_page..GET.{MD5}.{MD5}", "views.decorators.cache.cache_page..GET.*.*"),
    (f"views.decorators.cache.cache_page..GET.{MD5}.{MD5}.en-us.UTC", "views.decorators.cache.cache_page..GET.*.*.en-us.UTC"),
    (f"views.decorators.cache.cache_page..HEAD.{MD5}.{MD5}.pt-br.UTC", "views.decorators.cache.cache_page..HEAD.*.*.pt-br.UTC"),
    (f"views.decorators.cache.cache_header..{MD5}.en-us.UTC", "views.decorators.cache.cache_header..*.en-us.UTC"),
    (make_template_fragment_key("sidebar", [1]), "template.cache.sidebar.*"),
    (make_template_fragment_key("product_card"), "template.cache.product_card.*"),
    # Django's and django-redis', as Redis has them: KEY_PREFIX and version before the key
    (f":1:{cache_sessions.KEY_PREFIX}{SESSION}", ":*:django.contrib.sessions.cache*"),
    (f":1:{make_template_fragment_key('sidebar')}", ":*:template.cache.sidebar.*"),
    (":1:user:42", ":*:user:*"),
    # cacheops
    (f"q:{MD5}", "q:*"),
    (f"c:{MD5}", "c:*"),
    (f"as:{MD5}", "as:*"),
    (f"asp:{MD5}", "asp:*"),
    ("conj:auth_user:", "conj:auth_user:"),
    ("conj:auth_user:id=42", "conj:auth_user:id=*"),
    ("conj:auth_user:first_name=42&is_staff=1", "conj:auth_user:first_name=*&is_staff=*"),
    ("conj:django_content_type:app_label=1", "conj:django_content_type:app_label=*"),
    ("conj:auth_user:last_name=password", "conj:auth_user:last_name=*"),
    ("schemes:auth_user", "schemes:auth_user"),
    # REST framework
    (SimpleRateThrottle.cache_format % {"scope": "user", "ident": 42}, "throttle_user_*"),
    (SimpleRateThrottle.cache_format % {"scope": "anon", "ident": "10.0.0.1"}, "throttle_anon_*"),
    (SimpleRateThrottle.cache_format % {"scope": "burst", "ident": 42}, "throttle_burst_*"),
    (SimpleRateThrottle.cache_format % {"scope": "contact_form", "ident": 42}, "throttle_contact_form_*"),
    # rq
    (f"rq:job:{UUID}", "rq:job:*"),
    (f"rq:job:{UUID}:dependents", "rq:job:*:dependents"),
    (f"rq:results:{UUID}", "rq:results:*"),
    (f"rq:worker:{MD5}", "rq:worker:*"),
    ("rq:queues", "rq:queues"),
    ("rq:workers", "rq:workers"),
    ("rq:workers:default", "rq:workers:default"),
    ("rq:queue:default", "rq:queue:default"),
    ("rq:queue:high", "rq:queue:high"),
    ("rq:finished:default", "rq:finished:default"),
    ("rq:failed:high", "rq:failed:high"),
    ("rq:wip:low", "rq:wip:low"),
    ("rq:deferred:default", "rq:deferred:default"),
    ("rq:scheduled:default", "rq:scheduled:default"),
    ("rq:canceled:default", "rq:canceled:default"),
    ("rq:clean_registries:default", "rq:clean_registries:default"),
    ("rq:scheduler-lock:default", "rq:scheduler-lock:default"),
    # Celery and kombu
    ("celery", "celery"),
    (f"{KeyValueStoreBackend.task_keyprefix}{UUID}", "celery-task-meta-*"),
    (f"{KeyValueStoreBackend.group_keyprefix}{UUID}", "celery-taskset-meta-*"),
    (f"{KeyValueStoreBackend.group_keyprefix}{UUID}.j", "celery-taskset-meta-*.j"),
    (f"{KeyValueStoreBackend.chord_keyprefix}{UUID}", "chord-unlock-*"),
    (Channel.keyprefix_queue % "celery", "_kombu.binding.celery"),
    (Channel.keyprefix_queue % "celery.pidbox", "_kombu.binding.celery.pidbox"),
    (Channel.keyprefix_queue % "reply.celery.pidbox", "_kombu.binding.reply.celery.pidbox"),
    (Channel.keyprefix_queue % "celeryev", "_kombu.binding.celeryev"),
    (Channel.keyprefix_queue % "default", "_kombu.binding.default"),
    (f"{UUID}.reply.celery.pidbox", "*.reply.celery.pidbox"),
    (f"celeryev.{UUID}", "celeryev.*"),
    ("unacked", "unacked"),
    ("unacked_index", "unacked_index"),
    ("unacked_mutex", "unacked_mutex"),
    # waffle
    (f"waffle:5.0.0{MD5}", "waffle:*.*.*"),
    ("flags:all", "flags:all"),
    ("switches:all", "switches:all"),
    ("samples:all", "samples:all"),
    # django-axes, django-ratelimit
    (f"axes-{SHA256}", "axes-*"),
    (f"rl:{MD5}", "rl:*"),
]  # fmt: skip

#: The site's settings for the keys above.
LIBRARY_SETTINGS = {
    "REST_FRAMEWORK": {"DEFAULT_THROTTLE_RATES": {"user": "9/s", "contact_form": "1/d"}},
    "RQ_QUEUES": {"default": {}, "high": {}, "low": {}},
}


@pytest.mark.parametrize(("key", "pattern"), LIBRARY_KEYS)
def test_keys_of_libraries_remain_readable(key: str, pattern: str) -> None:
    with override_settings(**LIBRARY_SETTINGS):
        assert key_pattern(key) == pattern


@pytest.mark.parametrize(("key", "pattern"), LIBRARY_KEYS)
def test_keys_of_libraries_remain_readable_after_the_sites_prefix(key: str, pattern: str) -> None:
    caches_of_site = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "KEY_PREFIX": "shop-2"}}
    with override_settings(**LIBRARY_SETTINGS, CACHES=caches_of_site):
        assert key_pattern(f"shop-2:1:{key}") == f"shop-2:*:{pattern}"


# ----- The site's own words


def test_apps_models_and_caches_keep_their_names_without_a_query() -> None:
    # No fixture opens the database here: a query would fail.
    assert key_pattern("log_entry:5") == "log_entry:*"
    assert key_pattern("LogEntries:all") == "LogEntries:all"
    assert key_pattern("contenttypes:5") == "contenttypes:*"
    assert key_pattern("content_type:5") == "content_type:*"
    assert key_pattern("tracing:5") == "*:*"
    # This app's words are not the site's.
    assert key_pattern("trace:5") == "*:*"
    other = {"warehouse": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "KEY_PREFIX": "tour-7"}}
    assert key_pattern("warehouse:5:tour") == "*:*:*"
    with override_settings(CACHES={**other, "default": other["warehouse"]}):
        assert key_pattern("warehouse:5:tour") == "warehouse:*:tour"
    assert key_pattern("warehouse:5:tour") == "*:*:*"


def test_an_app_with_the_name_of_an_account_adds_no_word() -> None:
    assert key_pattern("profile:admin") == "profile:*"
    assert key_pattern("admin:profile") == "*:profile"


def test_only_the_sites_time_zone_is_kept() -> None:
    page = f"views.decorators.cache.cache_page..GET.{MD5}.{MD5}.de"
    with override_settings(TIME_ZONE="Europe/Berlin"):
        assert key_pattern(f"{page}.Europe/Berlin").endswith(".de.Europe/Berlin")
        assert key_pattern(f"{page}.America/New_York").endswith(".de.*/*")
    # Languages and time zones are words only in these keys.
    assert key_pattern("user:de:Europe/Berlin") == "user:*:*/*"


@pytest.mark.parametrize(
    "broken",
    [
        {"CACHES": None},
        {"CACHES": {"default": None, 5: {"KEY_PREFIX": object()}}},
        {"LANGUAGES": 5, "TIME_ZONE": None},
        {"LANGUAGES": [None, (), ("de",), (5, 5)]},
        {"REST_FRAMEWORK": [], "RQ_QUEUES": 5},
        {"REST_FRAMEWORK": {"DEFAULT_THROTTLE_RATES": None}},
    ],
)
def test_invalid_settings_lose_only_their_words(broken: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_words, "django_settings", SimpleNamespace(**broken))
    forget_site_words()
    assert key_pattern("user:42:jane:log_entry") == "user:*:*:log_entry"


def test_an_invalid_list_of_prefixes_is_empty() -> None:
    for wrong in (5, "carte:", [""], [None]):
        with override_settings(TRACING={"CACHE_KEY_PREFIXES": wrong}):
            assert get_settings().problems
            assert key_pattern("carte:main") == "*:*"


def test_if_words_cannot_be_read_only_common_words_are_kept() -> None:
    asked = []

    def broken() -> SiteWords:
        asked.append(1)
        raise RuntimeError

    former = use_vocabulary(Vocabulary(read_site_words=broken))
    try:
        assert key_pattern("user:42") == "user:*"
        assert key_pattern("log_entry:42") == "*:*"
    finally:
        use_vocabulary(former)
    assert asked == [1]
    assert key_pattern("log_entry:42") == "log_entry:*"


# ----- Prefixes whose words are kept


@pytest.mark.parametrize(
    ("key", "pattern"),
    [
        ("carte:main:footer", "carte:main:footer"),
        (f"carte:{UUID}:main", "carte:*:main"),
        ("carte:6fa459ea-face-cafe-babe-db77e160355e:main", "carte:*:main"),
        ("carte:2001:db8::face:main", "carte:*:main"),
        ("carte:ada@example.com:main", "carte:*:main"),
        (":1:carte:main", ":*:carte:main"),
        ("menus:main", "*:*"),
        ("my:carte:main", "*:*:*"),
        ("tariff_2024_north", "tariff_*_north"),
        ("tariff", "tariff"),
        ("tariffs_north", "*"),
    ],
)
def test_words_after_a_listed_prefix_are_kept(key: str, pattern: str) -> None:
    with override_settings(TRACING={"CACHE_KEY_PREFIXES": ["carte:", "tariff"]}):
        assert key_pattern(key) == pattern
    assert "main" not in key_pattern(key)
    assert "north" not in key_pattern(key)


def test_a_listed_prefix_is_used_in_spans_immediately(spans: Spans) -> None:
    cache = caches["default"]
    tracer = trace_api.get_tracer("tests")
    with tracer.start_as_current_span("request"):
        cache.get("carte:main")
        with override_settings(TRACING={"EXPORTER": "none", "CACHE_KEY_PREFIXES": ["carte:"]}):
            cache.get("carte:main")
        cache.get("carte:main")
    assert spans.names == ["cache.get.*:*", "cache.get.carte:main", "cache.get.*:*", "request"]


# ----- No personal data


def test_no_word_of_programs_is_a_name() -> None:
    names = {*GIVEN_NAMES, *SURNAMES, *(word.lower() for word in OTHERS)}
    assert len(names) > 8000
    assert set() == names & STRUCTURAL
    for literal, words in LIBRARIES.items():
        assert set() == names & words, literal


SHAPES = [
    *(
        "{}",
        "profile:{}",
        "{}:profile",
        "user:{}:profile",
        "user_{}_profile",
        "{}_profile",
        "user-{}",
        "users/{}/list",
    ),
    *("search:{}", "search:{}:count", "search={}", "a:1|b:{}", "search?q={}&x=1", "list.{}.x", "v2:{}", ":1:{}:5"),
    *("{}:{}", "[{}]", "user:42:{}", "isActive{}", "throttle_user_{}", "throttle_{}", "rq:worker:{}", "rq:job:{}:x"),
    *("celery-task-meta-{}", "_kombu.binding.{}", "{}.reply.celery.pidbox", "waffle:{}", "axes-{}", "celery:{}"),
    *("conj:auth_user:username={}&id=1", "conj:{}:id=1", "schemes:{}", "django.contrib.sessions.cache{}", "rl:{}"),
    f"views.decorators.cache.cache_page.{{}}.GET.{MD5}.{MD5}.en-us.UTC",
    f"views.decorators.cache.cache_header..{MD5}.en-us.{{}}",
]
_LETTERS = re.compile(r"[^\W\d_]{2,}")
_WRITINGS = [str.lower, str.upper, str.title, str]


def words_in(text: str) -> set[str]:
    return {word.lower() for word in _LETTERS.findall(text)}


@pytest.mark.parametrize("shape", SHAPES)
def test_no_word_of_a_person_is_kept_in_any_form(shape: str) -> None:
    neutral = key_pattern(shape.format(NEUTRAL, NEUTRAL))
    assert NEUTRAL not in neutral
    generator = random.Random(shape)
    for value in [*GIVEN_NAMES, *SURNAMES, *OTHERS]:
        value = generator.choice(_WRITINGS)(value)
        pattern = key_pattern(shape.format(value, value))
        if value.isalnum():
            # The pattern is the same for every person.
            assert pattern == neutral, value
        leaked = words_in(value) & words_in(pattern) - words_in(neutral)
        assert not leaked, (value, pattern)


def exported_words(spans: Spans) -> set[str]:
    """Return every word of all exported text, decoded as by a receiver."""
    request = ExportTraceServiceRequest.FromString(encode_spans(list(spans)))
    assert request.resource_spans
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                # Numbers of the trace, whose digits could form words.
                span.trace_id = span.span_id = span.parent_span_id = b""
    return words_in(json.dumps(MessageToDict(request), ensure_ascii=False))


def read(key: str, client: Any) -> None:
    caches["default"].get(key)
    caches["default"].set(key, 1, 1)


def read_many(key: str, client: Any) -> None:
    caches["redis"].get_many([key, f"{key}:5"])
    caches["redis"].keys(f"*{key}*")  # type: ignore[attr-defined]


def count(key: str, client: Any) -> None:
    """The error of the cache contains the missing key."""
    for cache in (caches["default"], caches["redis"]):
        with pytest.raises(ValueError), create_span("work"):
            cache.incr(key, version=7)


def command(key: str, client: Any) -> None:
    client.get(key)
    client.hget(f"absent:{key}", key)
    with client.pipeline() as pipeline:
        pipeline.get(key).mget([key, f"{key}:5"]).hget(f"absent:{key}", key).execute()


def wrong_command(key: str, client: Any) -> None:
    """The errors of Redis and redis-py contain the command and its arguments."""
    client.set(key, key, 1)
    with pytest.raises(redis.ResponseError), create_span("work"), client.pipeline() as pipeline:
        pipeline.get(key).hget(key, key).execute()
    with pytest.raises(redis.ResponseError), create_span("work"):
        client.execute_command("NO.SUCH.COMMAND", key, key)


DEEDS = [read, read_many, count, command, wrong_command]


@pytest.mark.filterwarnings("ignore::django.core.cache.CacheKeyWarning")
def test_no_byte_of_a_thousand_names_nicknames_and_search_terms_is_exported(spans: Spans, redis_url: str) -> None:
    generator = random.Random(12)
    values = [*generator.sample(GIVEN_NAMES, 350), *generator.sample(SURNAMES, 350), *OTHERS]
    assert len(values) >= 1000
    tracer = trace_api.get_tracer("tests")
    with redis.Redis.from_url(redis_url) as client:
        with tracer.start_as_current_span("request"):
            for value, deed in zip(values, itertools.cycle(DEEDS)):
                shape = generator.choice(SHAPES)
                deed(shape.format(value, value), client)
        personal = exported_words(spans)
        spans.clear()
        with tracer.start_as_current_span("request"):
            for shape in SHAPES:
                for deed in DEEDS:
                    value = NEUTRAL
                    # The same line of code as above: it is part of a stack.
                    deed(shape.format(value, value), client)
        # Words that all spans have: "cache", "redis", "django.contrib.sessions".
        assert personal - exported_words(spans) == set()


@pytest.mark.parametrize(
    ("message", "redacted"),
    [
        ("Key 'profile:jane' not found", "Key '?' not found"),
        ("Key '':1:profile:jane'' not found", "Key '?' not found"),
        ("Key 'search:o'brien' or 'jane' not found' not found", "Key '?' not found"),
        (
            "Command # 3 (HGET profile:jane name) of pipeline caused error: WRONGTYPE Operation",
            "Command # 3 (HGET ?) of pipeline caused error: WRONGTYPE Operation",
        ),
        (
            "Command # 1 (SET a) of pipeline b jane) of pipeline caused error: READONLY",
            "Command # 1 (SET ?) of pipeline caused error: READONLY",
        ),
        ("Command # 1 (SET jane", "Command # 1 (SET ?"),
        (
            "unknown command `FT.X`, with args beginning with: `profile:jane`, `jane`, ",
            "unknown command `FT.X`, with args beginning with: ?",
        ),
    ],
)
def test_errors_of_caches_and_redis_contain_no_key(message: str, redacted: str) -> None:
    assert redact_db_error(message) == redacted
    assert "jane" not in redact_stacktrace(f"Traceback (most recent call last):\nValueError: {message}", 8000)


# ----- Values


def letters_only(uuid: Any) -> str:
    """Return a uuid without a digit in any group: 4.7 % of groups of four have none."""
    return str(uuid).translate(str.maketrans(string.digits, "abcdefabcd"))


#: Values that become one star, with any number of parts. "::" alone isn't an address.
ONE_STAR = st.one_of(
    st.uuids().map(str),
    st.uuids().map(letters_only),
    st.uuids().map(lambda uuid: letters_only(uuid).upper()),
    st.uuids().map(lambda uuid: letters_only(uuid).replace("-", "_")),
    st.ip_addresses(v=4).map(str),
    st.integers(1, 2**128 - 1).map(lambda number: str(IPv6Address(number))),
    st.integers(1, 2**128 - 1).map(lambda number: IPv6Address(number).exploded.upper()),
    st.integers(0, 2**32 - 1).map(lambda number: f"::ffff:{IPv4Address(number)}"),
    st.integers(1, 2**16 - 1).map(lambda number: f"fe80::{number:x}"),
    st.integers(0, 2**48 - 1).map(lambda number: ":".join(re.findall("..", f"{number:012x}"))),
    st.integers(0, 2**48 - 1).map(lambda number: "-".join(re.findall("..", f"{number:012X}"))),
    st.integers(0, 2**48 - 1).map(lambda number: ".".join(re.findall("....", f"{number:012x}"))),
)


@given(
    st.sampled_from(
        ["{}", "user:{}", "user:{}:profile", "list_{}_all", "users/{}", "cache.{}.list", "[{}]", "id={}&x=y"]
    ),
    ONE_STAR,
)
@example("user:{}:profile", "deadbeef-face-cafe-babe-deadbeefcafe")
@example("user:{}:profile", "aa:bb:cc:dd:ee:ff")
@example("user:{}:profile", "fe80::face")
@example("user:{}:profile", "::face")
def test_uuids_and_addresses_are_one_star(shape: str, value: str) -> None:
    assert key_pattern(shape.format(value)) == shape.format("*")


@pytest.mark.usefixtures("site")
@using(words=frozenset(["face", "cafe", "dead"]), prefixes=("carte:",))
@given(ONE_STAR)
@example("deadbeef-face-cafe-babe-deadbeefcafe")
def test_uuids_and_addresses_with_groups_that_are_words_are_one_star(value: str) -> None:
    # After a hyphen: ":cafe" could be the end of an address.
    assert key_pattern(f"user:{value}:list-cafe") == "user:*:list-cafe"
    assert key_pattern(f"carte:{value}:main") == "carte:*:main"


@given(
    st.sampled_from(
        ["{}", "user:{}", "user:{}:profile", "a_{}_b", "a/{}", "cache.{}.x", "session-{}", "x={}&y=1", "[{}]"]
    ),
    st.one_of(
        st.integers(min_value=0).map(str),
        st.uuids().map(str),
        st.uuids().map(lambda uuid: uuid.hex),
        st.binary(min_size=8, max_size=32).map(bytes.hex),
        st.dates(min_value=date(1000, 1, 1)).map(str),
        st.emails(),
        st.binary(min_size=12, max_size=40).map(lambda data: base64.b64encode(data).decode()),
        st.ip_addresses(v=4).map(str),
        st.builds(
            lambda claims: (
                ".".join(
                    base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
                    for part in ({"alg": "x"}, claims)
                )
                + ".sig"
            ),
            st.dictionaries(st.text(max_size=5), st.text(max_size=5)),
        ),
    ),
    st.sampled_from([(), ("user:", "a", "cache", "session", "x=", "[")]),
)
def test_no_value_survives_in_a_key(shape: str, value: str, prefixes: tuple[str, ...]) -> None:
    # Base64 without a digit (AAAA...) can't be distinguished from a word.
    assume(any(character.isdigit() or character == "@" for character in value))
    former = use_vocabulary(Vocabulary(read_site_words=lambda: SiteWords(prefixes=prefixes)))
    try:
        pattern = key_pattern(shape.format(value))
    finally:
        use_vocabulary(former)
    assert value not in pattern
    assert not any(character.isdigit() for character in pattern)


URLSAFE = string.ascii_letters + string.digits + "-_"


@pytest.mark.parametrize("prefixes", [(), ("token:",)])
@pytest.mark.parametrize("alphabet", [URLSAFE, string.ascii_letters + string.digits, "0123456789abcdef"])
def test_no_eight_letters_of_a_random_token_survive_in_a_key(alphabet: str, prefixes: tuple[str, ...]) -> None:
    generator = random.Random(alphabet)
    former = use_vocabulary(Vocabulary(read_site_words=lambda: SiteWords(prefixes=prefixes)))
    try:
        for _ in range(300):
            token = "".join(generator.choices(alphabet, k=32))
            pattern = key_pattern(f"token:{token}:x")
            assert not any(token[start : start + 8] in pattern for start in range(len(token) - 7)), token
    finally:
        use_vocabulary(former)


def test_the_cache_of_patterns_is_bounded() -> None:
    from django_tracing.redaction.keys import _key_pattern_cached

    forget_site_words()
    for number in range(5000):
        key_pattern(f"user:{number}")
        key_pattern("x" * 251 + str(number))
    assert _key_pattern_cached.cache_info().currsize == _key_pattern_cached.cache_info().maxsize == 2048
