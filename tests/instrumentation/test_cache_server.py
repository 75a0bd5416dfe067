"""Test the address of a cache's server."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.cache import caches

from django_tracing.instrumentation.cache_server import server_of


@pytest.mark.parametrize(
    ("system", "location", "host", "port"),
    [
        ("redis", "redis://cache-1:6380/1", "cache-1", 6380),
        ("redis", "rediss://user:hunter2@cache-1/1?ssl_cert_reqs=none", "cache-1", 6379),
        ("redis", ["redis://primary:6379", "redis://replica:6379"], "primary", 6379),
        ("redis", "redis://primary:1;redis://replica:2", "primary", 1),
        ("redis", "redis://[::1]:6379/0", "::1", 6379),
        ("memcached", "127.0.0.1:11212", "127.0.0.1", 11212),
        ("memcached", "cache-1", "cache-1", 11211),
        ("memcached", ["a:11211", "b:11211"], None, None),
        ("memcached", "a:11211;b:11211", None, None),
        ("memcached", "unix:/tmp/memcached.sock", None, None),
        ("redis", "unix:///tmp/redis.sock?db=1", None, None),
        ("redis", "redis://cache-1:port", None, None),
        ("redis", "redis://[", None, None),
        ("redis", "", None, None),
        ("redis", None, None, None),
        ("memory", "unique-snowflake", None, None),
    ],
)
def test_the_server_of_a_cache(settings: Any, system: str, location: Any, host: str | None, port: int | None) -> None:
    settings.CACHES = {"c": {"BACKEND": "x", "LOCATION": location}}
    expected = {} if host is None else {"net.peer.name": host, "net.peer.port": port}
    assert server_of("c", system) == expected
    assert server_of("other", system) == {}


def test_spans_of_a_cache_in_redis_have_its_server(spans: Any, redis_url: str, settings: Any) -> None:
    from django_tracing.api.spans import create_span

    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": redis_url}}
    with create_span("work"):
        caches["default"].get("k")
    attributes = spans.one("cache.get.k").attributes
    assert f"redis://{attributes['net.peer.name']}:{attributes['net.peer.port']}" == redis_url.rpartition("/")[0]
