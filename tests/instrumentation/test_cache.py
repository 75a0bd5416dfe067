"""Test the spans of each kind of cache, and that traced caches behave as before."""

from __future__ import annotations

import asyncio
import copy
import pickle
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from django.core.cache import CacheHandler, caches
from django.core.cache.backends.base import BaseCache
from django.core.cache.backends.filebased import FileBasedCache
from django.core.cache.backends.locmem import LocMemCache
from django.core.management import call_command
from django.db import connection
from django.test import override_settings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from django_tracing import create_span
from django_tracing.instrumentation.cache import _trace_cache
from example_project.servers import free_port
from tests.conftest import Spans
from tests.e2e.processes import ROOT, environment

tracer = trace.get_tracer("tests")


class MemcachedHandler(socketserver.StreamRequestHandler):
    """Handle the part of memcached's text protocol that Django's backend uses."""

    def handle(self) -> None:
        store: dict[bytes, tuple[bytes, bytes]] = self.server.store  # type: ignore[attr-defined]
        while line := self.rfile.readline():
            command, *words = line.split()
            reply = b"ERROR\r\n"
            if command in (b"get", b"gets"):
                reply = b""
                for key in words:
                    if key in store:
                        flags, value = store[key]
                        reply += b"VALUE %s %s %d\r\n%s\r\n" % (key, flags, len(value), value)
                reply += b"END\r\n"
            elif command in (b"set", b"add"):
                key, flags, _, size = words[:4]
                value = self.rfile.read(int(size) + 2)[:-2]
                if command == b"add" and key in store:
                    reply = b"NOT_STORED\r\n"
                else:
                    store[key] = (flags, value)
                    reply = b"STORED\r\n"
            elif command == b"delete":
                reply = b"DELETED\r\n" if store.pop(words[0], None) else b"NOT_FOUND\r\n"
            elif command in (b"incr", b"decr"):
                if words[0] in store:
                    flags, value = store[words[0]]
                    number = int(value) + (1 if command == b"incr" else -1) * int(words[1])
                    store[words[0]] = (flags, str(number).encode())
                    reply = b"%d\r\n" % number
                else:
                    reply = b"NOT_FOUND\r\n"
            elif command == b"touch":
                reply = b"TOUCHED\r\n" if words[0] in store else b"NOT_FOUND\r\n"
            elif command == b"flush_all":
                store.clear()
                reply = b"OK\r\n"
            if b"noreply" not in words:
                self.wfile.write(reply)


@pytest.fixture(scope="module")
def memcached() -> Iterator[str]:
    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

    with Server(("127.0.0.1", 0), MemcachedHandler) as server:
        server.store = {}  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


BACKENDS = {
    "memory": "django.core.cache.backends.locmem.LocMemCache",
    "file": "django.core.cache.backends.filebased.FileBasedCache",
    "database": "django.core.cache.backends.db.DatabaseCache",
    "memcached": "django.core.cache.backends.memcached.PyMemcacheCache",
    "redis": "django.core.cache.backends.redis.RedisCache",
    "django-redis": "django_redis.cache.RedisCache",
    "dummy": "django.core.cache.backends.dummy.DummyCache",
}


@pytest.fixture(params=[kind for kind in BACKENDS if kind != "dummy"])
def cache(request: pytest.FixtureRequest, tmp_path: Any, db: None, memcached: str) -> Iterator[Any]:
    kind = request.param
    locations = {
        "file": str(tmp_path),
        "database": "cache_table",
        "memcached": memcached,
        "memory": "tests",
    }
    if kind.endswith("redis"):
        locations[kind] = request.getfixturevalue("redis_url")
    config = {"default": {"BACKEND": BACKENDS[kind], "LOCATION": locations[kind]}}
    with override_settings(CACHES=config):
        if kind == "database":
            call_command("createcachetable", verbosity=0)
        handler = CacheHandler(config)
        cache = handler["default"]
        cache.clear()
        yield cache
        handler.close_all()
        if kind == "django-redis":
            cache.client.get_client().connection_pool.disconnect()


def system(cache: Any) -> str:
    return {"django_redis.cache": "redis"}.get(type(cache).__module__) or next(
        kind for kind, path in BACKENDS.items() if path.startswith(type(cache).__module__)
    )


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def cached(spans: Spans) -> list[str]:
    return [span.name for span in spans if span.name.startswith("cache.")]


class AsyncOnly(BaseCache):
    """A backend with an async client: it defines no sync methods."""

    def __init__(self, params: Any) -> None:
        super().__init__(params)
        self.values: dict[str, Any] = {}

    async def aget(self, key: str, default: Any = None, version: int | None = None) -> Any:
        return self.values.get(self.make_key(key, version), default)

    async def aset(self, key: str, value: Any, timeout: Any = None, version: int | None = None) -> None:
        self.values[self.make_key(key, version)] = value

    async def aadd(self, key: str, value: Any, timeout: Any = None, version: int | None = None) -> bool:
        return self.values.setdefault(self.make_key(key, version), value) is value

    async def adelete(self, key: str, version: int | None = None) -> bool:
        return self.values.pop(self.make_key(key, version), None) is not None


class TestEveryBackend:
    def test_get_set_hit_and_miss(self, cache: Any, within: Spans) -> None:
        assert cache.get("blueprint:123") is None
        cache.set("blueprint:123", "x")
        assert cache.get("blueprint:123") == "x"
        miss, hit = within.named("cache.get.blueprint:*")
        got = attributes(miss)
        assert got["operation.type"] == "cache"
        assert got["cache.operation"] == "get"
        assert got["cache.alias"] == "default"
        assert got["cache.key"] == "blueprint:*"
        assert got["cache.system"] == system(cache)
        assert (got["cache.hit"], attributes(hit)["cache.hit"]) == (False, True)
        assert miss.kind is (SpanKind.CLIENT if system(cache) in ("redis", "memcached") else SpanKind.INTERNAL)
        assert "cache.hit" not in attributes(within.one("cache.set.blueprint:*"))

    @pytest.mark.parametrize("value", [0, "", False, [], {}])
    def test_falsy_values_are_hits(self, cache: Any, within: Spans, value: Any) -> None:
        cache.set("k", value)
        assert cache.get("k", "default") == value
        assert attributes(within.one("cache.get.k"))["cache.hit"] is True

    def test_the_callers_default(self, cache: Any, within: Spans) -> None:
        marker = object()
        assert cache.get("k", marker) is marker
        assert cache.get("k", default=marker) is marker
        assert cache.get("k", marker, 2) is marker
        assert cache.get("k", version=2) is None
        assert [attributes(span)["cache.hit"] for span in within.named("cache.get.k")] == [False] * 4

    def test_the_other_operations(self, cache: Any, within: Spans) -> None:
        assert cache.add("n", 1) is True
        assert cache.add("n", 1) is False
        assert cache.incr("n") == 2
        assert cache.decr("n", 2) == 0
        assert cache.has_key("n")
        assert "n" in cache
        assert cache.touch("n", 60)
        assert cache.delete("n")
        assert not cache.delete("n")
        with pytest.raises(ValueError):
            cache.incr("n")
        cache.clear()
        names = cached(within)
        assert names == [
            "cache.add.n",
            "cache.add.n",
            "cache.incr.n",
            "cache.decr.n",
            "cache.has_key.n",
            "cache.has_key.n",
            "cache.touch.n",
            "cache.delete.n",
            "cache.delete.n",
            "cache.incr.n",
            "cache.clear",
        ], "each call is one span, whatever the backend calls"
        deletes = within.named("cache.delete.n")
        assert [attributes(span)["cache.hit"] for span in deletes] == [True, False]
        missing = within.named("cache.incr.n")[1]
        assert attributes(missing)["cache.hit"] is False
        assert missing.status.status_code is StatusCode.UNSET, "a missing key is not an error"

    def test_many(self, cache: Any, within: Spans) -> None:
        assert not cache.set_many({"a:1": 1, "a:2": 2})
        assert cache.get_many(iter(["a:1", "a:2", "a:3"])) == {"a:1": 1, "a:2": 2}
        cache.delete_many(key for key in ("a:1", "a:2"))
        assert cache.get_many(["a:1"]) == {}
        assert cached(within) == [
            "cache.set_many.a:*",
            "cache.get_many.a:*",
            "cache.delete_many.a:*",
            "cache.get_many.a:*",
        ]
        got = attributes(within.named("cache.get_many.a:*")[0])
        assert (got["cache.keys"], got["cache.hits"], got["cache.hit"]) == (3, 2, False)
        assert attributes(within.one("cache.delete_many.a:*"))["cache.keys"] == 2

    def test_get_or_set_contains_the_spans_of_the_default(self, cache: Any, within: Spans) -> None:
        def default() -> str:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1 FROM auth_group")
            caches["default"].get("inner")
            return "made"

        assert cache.get_or_set("k", default) == "made"
        assert cache.get_or_set("k", default) == "made"
        outer = within.named("cache.get_or_set.k")
        assert len(outer) == 2
        (sql,) = [span for span in within if "auth_group" in span.name]
        assert sql.parent.span_id == outer[0].context.span_id  # type: ignore[union-attr]
        (inner,) = within.named("cache.get.inner")
        assert inner.parent.span_id == outer[0].context.span_id  # type: ignore[union-attr]

    def test_get_or_set_records_hits(self, cache: Any, within: Spans) -> None:
        assert cache.get_or_set("k", 0) == 0
        assert cache.get_or_set("k", 5) == 0
        assert cache.get_or_set("k", default=lambda: 5) == 0
        assert cache.get_or_set("l", lambda: 5) == 5
        assert [attributes(span)["cache.hit"] for span in within.named("cache.get_or_set.k")] == [False, True, True]
        assert attributes(within.one("cache.get_or_set.l"))["cache.hit"] is False

    def test_a_stored_none_is_a_hit(self, cache: Any, within: Spans) -> None:
        cache.set("k", None)
        stored = cache.get("k", 5)
        assert attributes(within.one("cache.get.k"))["cache.hit"] is (stored is None)

    def test_changing_a_version_is_one_span(self, cache: Any, within: Spans) -> None:
        cache.set("k", "x")
        assert cache.incr_version("k") == 2
        assert cache.get("k", version=2) == "x"
        assert cached(within) == ["cache.set.k", "cache.incr_version.k", "cache.get.k"]

    def test_an_exception_of_an_iterator_of_keys_propagates(self, cache: Any, within: Spans) -> None:
        def keys() -> Iterator[str]:
            yield "k"
            raise RuntimeError("the user's own")

        with pytest.raises(RuntimeError, match="the user's own"):
            cache.get_many(keys())

    def test_the_redis_instrumentation_makes_no_second_span(self, cache: Any, within: Spans) -> None:
        cache.set("k", 1)
        cache.get("k")
        scopes = {span.instrumentation_scope.name for span in within}  # type: ignore[union-attr]
        assert scopes == {"django_tracing"}
        if hasattr(cache, "client"):
            cache.client.get_client().ping()
            last = list(within)[-1].instrumentation_scope
            assert "redis" in last.name, "outside of Django's caches, OpenTelemetry's instrumentation makes the span"  # type: ignore[union-attr]

    def test_async(self, cache: Any, within: Spans) -> None:
        async def work() -> None:
            await cache.aset("a:1", 0)
            assert await cache.aget("a:1", 5) == 0
            assert await cache.aget("a:2", 5) == 5
            assert await cache.aget_many(["a:1", "a:2"]) == {"a:1": 0}
            assert await cache.aget_or_set("a:3", lambda: 3) == 3
            assert await cache.ahas_key("a:3")
            await cache.adelete_many(["a:1", "a:3"])
            if system(cache) == "database":
                from asgiref.sync import sync_to_async
                from django.db import connections

                await sync_to_async(connections.close_all)()

        if system(cache) == "database":
            pytest.skip("the test's transaction is not seen by the thread of async code")
        asyncio.run(work())
        assert cached(within) == [
            "cache.set.a:*",
            "cache.get.a:*",
            "cache.get.a:*",
            "cache.get_many.a:*",
            "cache.get_or_set.a:*",
            "cache.has_key.a:*",
            "cache.delete_many.a:*",
        ]
        assert [attributes(span)["cache.hit"] for span in within.named("cache.get.a:*")] == [True, False]

    def test_outside_a_trace_no_span_and_the_same_results(self, cache: Any, spans: Spans) -> None:
        cache.set("k", 0)
        assert cache.get("k", 1) == 0
        assert cache.get("x", 1) == 1
        assert spans.names == []


class TestBehavior:
    """A traced cache behaves as before."""

    def test_class_and_pickle(self) -> None:
        handler = CacheHandler({"default": {"BACKEND": BACKENDS["memory"]}})
        cache = handler["default"]
        assert isinstance(cache, LocMemCache)
        assert isinstance(cache, BaseCache)
        assert type(cache).__name__ == "LocMemCache"

    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_it_can_be_pickled_if_the_backend_can(self, tmp_path: Any, protocol: int, within: Spans) -> None:
        config = {"default": {"BACKEND": BACKENDS["file"], "LOCATION": str(tmp_path), "KEY_PREFIX": "p"}}
        cache = CacheHandler(config)["default"]
        cache.set("k", 1)
        other = pickle.loads(pickle.dumps(cache, protocol))
        assert type(other) is FileBasedCache
        assert other.get("k") == copy.copy(cache).get("k") == 1

    def test_dummy(self, within: Spans) -> None:
        cache = CacheHandler({"default": {"BACKEND": BACKENDS["dummy"]}})["default"]
        cache.set("k", 1)
        assert cache.get("k", 5) == 5
        assert cache.get_or_set("k", lambda: 6) == 6
        got = attributes(within.one("cache.get.k"))
        assert (got["cache.system"], got["cache.hit"]) == ("dummy", False)

    def test_a_cache_in_the_database_has_spans_of_its_statements(self, db: None, within: Spans) -> None:
        with override_settings(CACHES={"default": {"BACKEND": BACKENDS["database"], "LOCATION": "cache_table"}}):
            call_command("createcachetable", verbosity=0)
            within.clear()
            enabled: list[bool] = []

            def record(execute: Any, *args: Any) -> Any:
                enabled.append(is_instrumentation_enabled())
                return execute(*args)

            with connection.execute_wrapper(record):
                caches["default"].get("k")
        assert enabled and all(enabled), (
            "OpenTelemetry's psycopg instrumentation also shows them when it replaces this app's"
        )
        get = within.one("cache.get.k")
        statements = [span for span in within if span.name.startswith("db.")]
        assert statements
        assert {span.parent.span_id for span in statements} == {get.context.span_id}  # type: ignore[union-attr]

    def test_a_result_that_cannot_be_counted_is_returned(self, within: Spans) -> None:
        class Uncounted(dict[str, int]):
            def __len__(self) -> int:
                raise RuntimeError("not read yet")

        class Lazy(LocMemCache):
            def get_many(self, keys: Any, version: Any = None) -> Any:
                return Uncounted(k=1)

        cache: Any = Lazy("lazy", {})
        _trace_cache(cache, "default")
        assert cache.get_many(["k"])["k"] == 1
        assert within.one("cache.get_many.k").end_time

    def test_an_unreachable_redis_behaves_as_configured(self, within: Spans) -> None:
        def cache(ignore: bool) -> Any:
            options = {"IGNORE_EXCEPTIONS": ignore}
            url = f"redis://127.0.0.1:{free_port()}"
            return CacheHandler(
                {"default": {"BACKEND": BACKENDS["django-redis"], "LOCATION": url, "OPTIONS": options}}
            )["default"]

        forgiving = cache(True)
        assert forgiving.get("k") is None
        assert forgiving.get("k", 5) == 5
        assert forgiving.get_many(["k"]) == {}
        assert [attributes(span)["cache.hit"] for span in within.named("cache.get.k")] == [False, False]
        within.clear()
        strict = cache(False)
        with pytest.raises(redis.exceptions.ConnectionError):
            strict.get("k")
        assert within.one("cache.get.k").status.status_code is StatusCode.ERROR

    def test_concurrent_calls(self, within: Spans) -> None:
        cache = CacheHandler({"default": {"BACKEND": BACKENDS["memory"], "LOCATION": "many"}})["default"]

        async def work() -> None:
            await asyncio.gather(*(cache.aset(f"a:{number}", number) for number in range(20)))
            assert sum(await asyncio.gather(*(cache.aget(f"a:{number}") for number in range(20)))) == 190

        asyncio.run(work())
        assert cached(within) == ["cache.set.a:*"] * 20 + ["cache.get.a:*"] * 20

    @pytest.mark.parametrize("traced", [True, False])
    def test_a_backend_with_only_async_methods_is_not_called_in_a_thread(self, spans: Spans, traced: bool) -> None:
        cache: Any = AsyncOnly({})
        _trace_cache(cache, "async")

        async def work() -> None:
            thread = threading.get_ident()
            await cache.aset_many({"a:1": 1, "a:2": 2})
            assert await cache.aget_many(["a:1", "a:2"]) == {"a:1": 1, "a:2": 2}
            assert await cache.aget_or_set("a:3", threading.get_ident) == thread
            assert await cache.ahas_key("a:3")
            assert await cache.aincr("a:1") == 2
            assert await cache.aincr_version("a:1") == 2
            await cache.adelete_many(["a:1"])

        if traced:
            with tracer.start_as_current_span("root"):
                asyncio.run(work())
        else:
            asyncio.run(work())
        operations = ["set_many", "get_many", "get_or_set", "has_key", "incr", "incr_version", "delete_many"]
        assert cached(spans) == ([f"cache.{operation}.a:*" for operation in operations] if traced else [])

    def test_a_backend_that_uses_its_default_receives_the_callers(self, within: Spans) -> None:
        class Looking(LocMemCache):
            def get(self, key: str, default: Any = None, version: int | None = None) -> Any:
                return super().get(key, version=version) or default or {}

        cache = Looking("looking", {})
        _trace_cache(cache, "looking")
        assert cache.get("k") == {}
        assert cache.get("k", 5) == 5
        assert cache.get("k", default=None) == {}
        cache.set("k", 7)
        assert cache.get("k") == 7

        class Plain(LocMemCache):
            def get(self, key: str, default: Any = None, version: int | None = None) -> Any:
                return super().get(key, default, version)

        within.clear()
        plain = Plain("plain", {})
        _trace_cache(plain, "plain")
        plain.set("k", 0)
        plain.get("k")
        plain.get("k", 0)
        plain.get("x")
        plain.get("x", object())
        hits = [attributes(span).get("cache.hit") for span in within if span.name.startswith("cache.get")]
        assert hits == [True, None, False, False], "what is unknown is left out"

    def test_a_subclass_of_its_class(self, within: Spans) -> None:
        traced: Any = type(CacheHandler({"default": {"BACKEND": BACKENDS["memory"]}})["default"])

        class Mine(traced):  # type: ignore[misc]
            def get(self, *args: Any, **kwargs: Any) -> Any:
                return super().get(*args, **kwargs)

        cache = Mine("mine", {})
        _trace_cache(cache, "mine")
        assert cache.get("k", 5) == 5
        assert isinstance(cache, Mine)
        assert within.names == ["cache.get.k"]

    def test_django_redis_keeps_its_own_methods(self, within: Spans, redis_url: str) -> None:
        cache: Any = CacheHandler({"default": {"BACKEND": BACKENDS["django-redis"], "LOCATION": redis_url}})[
            "default"
        ]
        cache.clear()
        cache.set("a:1", 1, timeout=60)
        cache.set("a:2", 2)
        assert 0 < cache.ttl("a:1") <= 60
        assert sorted(cache.keys("a:*")) == ["a:1", "a:2"]
        assert sorted(cache.iter_keys("a:*")) == ["a:1", "a:2"]
        assert cached(within)[-2:] == ["cache.ttl.a:*", "cache.keys.a:*"]
        with cache.lock("lock", timeout=5):
            pass
        assert cache.client.get_client().ping()
        within.clear()
        assert cache.delete_pattern("a:*") == 2
        assert within.names == ["cache.delete_pattern.a:*"]
        assert cache.set("n", 1, nx=True) is True
        cache.client.get_client().connection_pool.disconnect()

    def test_a_backend_with_unusual_signatures_is_called_as_before(self, within: Spans) -> None:
        class Odd(LocMemCache):
            ttl = 5

            def get(self, key: str) -> Any:  # type: ignore[override]
                return f"odd {key}"

        cache = Odd("odd", {})
        _trace_cache(cache, "odd")
        assert cache.get("k") == "odd k"
        assert attributes(within.one("cache.get.k"))["cache.alias"] == "odd"

    def test_errors_propagate_and_are_recorded(self, within: Spans) -> None:
        class Broken(LocMemCache):
            def get(self, *args: Any, **kwargs: Any) -> Any:
                raise OSError("the cache is down")

        cache = Broken("broken", {})
        _trace_cache(cache, "broken")
        with pytest.raises(OSError, match="the cache is down"):
            cache.get("k")
        assert within.one("cache.get.k").status.status_code is StatusCode.ERROR

    def test_an_error_of_this_app_loses_only_a_span(self, within: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*args: Any) -> Any:
            raise RuntimeError("a bug in this app")

        monkeypatch.setattr("django_tracing.instrumentation.cache.key_pattern", broken)
        cache = CacheHandler({"default": {"BACKEND": BACKENDS["memory"]}})["default"]
        cache.set("k", 1)
        assert cache.get("k", 5) == 1
        assert cache.get("missing", 5) == 5
        assert cache.get("missing") is None
        assert cache.get_many(["k"]) == {"k": 1}

    def test_uninstall_and_install_again(self, within: Spans) -> None:
        from django_tracing.instrumentation import cache as module

        caches["default"].get("k")
        assert within.names == ["cache.get.k"]
        module.uninstall()
        try:
            assert type(caches["default"]) is LocMemCache
            caches["default"].get("k")
            assert within.names == ["cache.get.k"]
        finally:
            module.install()
            module.install()
        caches["default"].get("k")
        assert within.names == ["cache.get.k"] * 2

    def test_a_wrapper_around_this_apps_patch_is_kept(self, within: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
        from django_tracing.instrumentation import cache as module

        ours = CacheHandler.create_connection
        made = []

        def others(self: CacheHandler, alias: str) -> Any:
            made.append(alias)
            return ours(self, alias)

        def fresh() -> Any:
            return CacheHandler({"default": {"BACKEND": BACKENDS["memory"]}})["default"]

        monkeypatch.setattr(CacheHandler, "create_connection", others)
        module.uninstall()
        try:
            assert type(fresh()) is LocMemCache
        finally:
            module.install()
        fresh().get("k")
        assert made == ["default"] * 2
        assert within.names == ["cache.get.k"]


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    secret=st.one_of(
        st.integers(1000, 10**18).map(str),
        st.uuids().map(str),
        st.emails(domains=st.just("example.com")),
        st.binary(min_size=10, max_size=40).map(bytes.hex),
        st.from_regex(r"eyJ[A-Za-z0-9]{12}\.[A-Za-z0-9]{12}\.[A-Za-z0-9_-]{12}", fullmatch=True),
    ),
    value=st.text(min_size=8),
)
def test_no_value_and_no_private_part_of_a_key_is_in_a_span(within: Spans, secret: str, value: str) -> None:
    within.clear()
    cache = CacheHandler({"default": {"BACKEND": BACKENDS["memory"]}})["default"]
    marked = f"zq{value}qz"
    cache.set(f"user:{secret}:profile", marked)
    cache.get(f"user:{secret}:profile")
    cache.get_many([f"{secret}", f"x-{secret}"])
    exported = "".join(f"{span.name} {attributes(span)}" for span in within)
    assert secret not in exported
    assert marked not in exported


SENTRY = """
import sys
import django
import sentry_sdk
from sentry_sdk.integrations.django import DjangoIntegration
from django.conf import settings

def start_sentry():
    sentry_sdk.init(
        dsn="http://key@127.0.0.1:1/1", traces_sample_rate=1.0, transport=lambda event: None, default_integrations=False,
        integrations=[DjangoIntegration(cache_spans=True)],
    )

if "first" in sys.argv:
    start_sentry()
settings.configure(INSTALLED_APPS=["django_tracing"], TRACING={"EXPORTER": "none"}, SECRET_KEY="x")
django.setup()
if "first" not in sys.argv:
    start_sentry()

import asyncio
from django.core.cache import cache, caches
from django_tracing import create_span
from django_tracing.testing import capture_spans

with capture_spans() as spans, sentry_sdk.start_transaction(name="theirs") as theirs:
    with create_span("work"):
        cache.set("blueprint:1", 0)
        assert cache.get("blueprint:1") == 0
        assert cache.get("blueprint:2", "default") == "default"
        cache.set_many({"blueprint:3": 3})
        assert cache.get_many(["blueprint:3", "blueprint:4"]) == {"blueprint:3": 3}
        assert cache.get_or_set("blueprint:5", lambda: 5) == 5
        assert asyncio.run(cache.aget("blueprint:5")) == 5
    ops = {span.op for span in theirs._span_recorder.spans}
print(" ".join(name.split(".")[1] for name in spans.names if name.startswith("cache.")))
print([span.attributes.get("cache.hit") for span in spans if span.attributes.get("cache.operation") == "get"])
print(*ops)
"""


@pytest.mark.parametrize("order", ["first", "last"])
def test_beside_sentry_s_cache_spans(order: str) -> None:
    """Sentry sets methods on the cache object itself, before or after this app does."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SENTRY, order],
        env=environment(DJANGO_SETTINGS_MODULE=""),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    calls, hits, theirs = done.stdout.splitlines()
    assert calls == "set get get set_many get_many get_or_set get"
    # A method set by another tool may have returned its default, so whether it was a hit is unknown.
    assert hits == ("[True, None, True]" if order == "first" else "[True, False, True]")
    assert "cache.get" in theirs and "cache.put" in theirs


class TestMethodsOfAnObject:
    """A method set on a cache object is called and traced."""

    @pytest.fixture
    def cache(self) -> Any:
        handler = CacheHandler({"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}})
        # All objects without a location share what earlier tests stored.
        handler["default"].clear()
        return handler["default"]

    def test_set_later(self, cache: Any, spans: Spans) -> None:
        received = []
        before = cache.get

        def counted(*args: Any, **kwargs: Any) -> Any:
            received.append(args)
            return before(*args, **kwargs)

        cache.get = counted
        with create_span("work"):
            assert cache.get("blueprint:1", 7) == 7
        assert spans.names == ["cache.get.blueprint:*", "work"]
        assert received == [("blueprint:1", 7)], "the method must not receive a default of this app"

    def test_set_by_its_own_class(self, spans: Spans) -> None:
        location = f"{__name__}.OwnMethods"
        cache = CacheHandler({"default": {"BACKEND": location, "LOCATION": ""}})["default"]
        with create_span("work"):
            assert cache.get("blueprint:1", "d") == ("blueprint:1", "d")
            assert asyncio.run(cache.aget("blueprint:1")) == "awaited"
            with pytest.raises(LookupError):
                cache.touch("blueprint:1")
        assert spans.names == [*["cache.get.blueprint:*"] * 2, "cache.touch.blueprint:*", "work"]


class OwnMethods(LocMemCache):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)

        async def aget(key: str) -> str:
            return "awaited"

        def touch(key: str) -> bool:
            raise LookupError(key)

        self.get = lambda key, default=None: (key, default)  # type: ignore[method-assign]
        self.aget = aget  # type: ignore[method-assign]
        self.touch = touch  # type: ignore[method-assign]
