"""Test that wrappers are added once and removed without removing those of other tools."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest
from django.core.cache import CacheHandler
from django.core.handlers import base
from django.core.management.base import BaseCommand
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper

from django_tracing.conf.loading import load
from django_tracing.instrumentation import log_records
from django_tracing.instrumentation.patching import Patches


class Library:
    """A class of another package."""

    def send(self, text: str) -> str:
        return text

    @staticmethod
    def version() -> str:
        return "1"

    @property
    def state(self) -> str:
        return "closed"


class Special(Library):
    pass


def loud(patches: Patches) -> Callable[[Any], Any]:
    def make(original: Any) -> Any:
        @functools.wraps(original)
        def send(self: Any, text: str) -> Any:
            return original(self, text) + "!" if patches.active else original(self, text)

        return send

    return make


def around(owner: Any, name: str) -> Any:
    """Return a wrapper of another tool."""
    original = vars(owner)[name]

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs)

    setattr(owner, name, wrapper)
    return wrapper


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    before = dict(vars(Library))
    yield
    for name in ("send", "version", "state"):
        setattr(Library, name, before[name])


def test_it_wraps_once_and_restores() -> None:
    patches = Patches()
    original = vars(Library)["send"]
    assert patches.start() is True
    assert patches.start() is False
    patches.wrap(Library, "send", loud(patches))
    patches.wrap(Library, "send", loud(patches))
    assert Library().send("hello") == "hello!"
    assert patches.stop() is True
    assert patches.stop() is False
    assert vars(Library)["send"] is original


def test_nothing_is_wrapped_after_removal() -> None:
    """The import that was waited for happens after the instrumentation was disabled."""
    patches = Patches()
    original = vars(Library)["send"]
    patches.wrap(Library, "send", loud(patches))
    patches.start()
    patches.stop()
    patches.wrap(Library, "send", loud(patches))
    assert vars(Library)["send"] is original


def test_a_wrapper_of_another_tool_is_kept_and_ours_below_it_is_inactive() -> None:
    patches = Patches()
    patches.start()
    patches.wrap(Library, "send", loud(patches))
    theirs = around(Library, "send")
    patches.stop()
    assert vars(Library)["send"] is theirs
    assert Library().send("hello") == "hello"
    patches.start()
    patches.wrap(Library, "send", loud(patches))
    assert Library().send("hello") == "hello!", "our wrapper is active again, once"


def test_a_tool_that_restores_the_original_function() -> None:
    patches = Patches()
    original = vars(Library)["send"]
    patches.start()
    patches.wrap(Library, "send", loud(patches))
    setattr(Library, "send", original)  # noqa: B010 - what such tools do
    patches.stop()
    patches.start()
    patches.wrap(Library, "send", loud(patches))
    assert Library().send("hello") == "hello!"
    patches.stop()
    assert vars(Library)["send"] is original


def test_an_inherited_method_is_inherited_again() -> None:
    patches = Patches()
    patches.start()
    patches.wrap(Special, "send", loud(patches))
    assert Special().send("hello") == "hello!"
    assert Library().send("hello") == "hello"
    patches.stop()
    assert "send" not in vars(Special)


def test_properties_and_static_methods_keep_their_kind() -> None:
    patches = Patches()
    patches.start()
    patches.wrap(Library, "version", lambda original: staticmethod(lambda: f"{original.__func__()}.0"))
    patches.wrap(Library, "state", lambda original: property(lambda self: original.fget(self).upper()))
    assert Library.version() == "1.0"
    assert Library().state == "CLOSED"
    patches.stop()
    assert isinstance(vars(Library)["version"], staticmethod)
    assert Library().state == "closed"


def test_a_function_of_a_module() -> None:
    module: Any = ModuleType("library")
    module.connect = lambda: "connected"
    original = module.connect
    patches = Patches()
    patches.start()
    patches.wrap(module, "connect", lambda theirs: lambda: f"{theirs()}, traced")
    assert module.connect() == "connected, traced"
    patches.stop()
    assert module.connect is original


def test_many_threads_wrap_once() -> None:
    patches = Patches()
    patches.start()
    barrier = threading.Barrier(8)

    def wrap() -> None:
        barrier.wait()
        patches.wrap(Library, "send", loud(patches))

    threads = [threading.Thread(target=wrap) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Library().send("hello") == "hello!"


#: Each attribute that the instrumentations replace, and the module that replaces it.
PATCHED: list[tuple[str, Any, str]] = [
    ("layers", base, "import_string"),
    ("layers", base.BaseHandler, "make_view_atomic"),
    ("commands", BaseCommand, "execute"),
    ("cache", CacheHandler, "create_connection"),
    ("database", BaseDatabaseWrapper, "connect"),
    ("database", BaseDatabaseWrapper, "commit"),
    ("database", BaseDatabaseWrapper, "rollback"),
    ("database", CursorWrapper, "callproc"),
    *(("circuit_breaker", ("pybreaker", "CircuitBreaker"), name) for name in ("call", "calling", "call_async")),
    ("rate_limit", ("rest_framework.views", "APIView"), "check_throttles"),
    ("rate_limit", ("django_ratelimit.core", ""), "get_usage"),
    *(("tasks", ("django.tasks.base", "Task"), name) for name in ("enqueue", "aenqueue", "call", "acall")),
    ("tasks", ("django.tasks.base", "TaskResult"), "__post_init__"),
]


@pytest.mark.parametrize(("instrumentation", "owner", "name"), PATCHED)
def test_the_instrumentations_keep_a_wrapper_of_another_tool(
    instrumentation: str, owner: Any, name: str, settings: Any
) -> None:
    if isinstance(owner, tuple):
        module = pytest.importorskip(owner[0])
        owner = getattr(module, owner[1]) if owner[1] else module
    settings.TRACING = {**settings.TRACING, "COMMANDS": True}
    module = import_module(f"django_tracing.instrumentation.{instrumentation}")
    module.uninstall()
    original = vars(owner)[name]
    try:
        module.install()
        assert vars(owner)[name] is not original
        theirs = around(owner, name)
        module.uninstall()
        assert vars(owner)[name] is theirs
        module.install()
        assert vars(owner)[name] is theirs, "our wrapper is already below it"
        module.uninstall()
    finally:
        # As another tool does when it is disabled; here, to restore the state before the test.
        setattr(owner, name, original)
        module.install()
        assert vars(owner)[name] is not original


def test_the_log_record_factory_of_another_tool_is_kept() -> None:
    log_records.uninstall()
    original = logging.getLogRecordFactory()
    settings = load({"EXPORTER": "none", "SERVICE_NAME": "shop"}, {})
    try:
        log_records.install(settings)
        ours = logging.getLogRecordFactory()
        assert ours is not original

        def theirs(*args: Any, **kwargs: Any) -> logging.LogRecord:
            return ours(*args, **kwargs)

        logging.setLogRecordFactory(theirs)
        log_records.uninstall()
        assert logging.getLogRecordFactory() is theirs
        assert not hasattr(theirs("a", 20, "", 1, "", (), None), "trace_id")
    finally:
        logging.setLogRecordFactory(original)
        log_records.install(settings)
