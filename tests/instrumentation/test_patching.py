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
import wrapt
from django.core.cache import CacheHandler
from django.core.handlers import base
from django.core.management.base import BaseCommand
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper
from django.utils.functional import SimpleLazyObject

from django_tracing.conf.loading import get_settings, load
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


# ----- with other tools, in every order


def replace_send(replacement: Any) -> None:
    setattr(Library, "send", replacement)  # noqa: B010 - what such tools do


class Tool:
    """Another tool: it takes what it finds, and puts it back when it is switched off, whatever stands there by then."""

    def __init__(self, mark: str) -> None:
        self.mark = mark
        self.found: Any = None

    def on(self) -> None:
        if self.found is None:
            self.found = vars(Library)["send"]
            replace_send(self.wrapper(self.found))

    def off(self) -> None:
        if self.found is not None:
            found, self.found = self.found, None
            replace_send(found)

    def wrapper(self, original: Any) -> Any:
        mark = self.mark

        def send(self: Any, text: str) -> Any:
            return original(self, text) + mark

        return send


class Wrapt(Tool):
    """As ddtrace and OpenTelemetry do."""

    def wrapper(self, original: Any) -> Any:
        def send(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
            return wrapped(*args, **kwargs) + self.mark

        return wrapt.FunctionWrapper(original, send)


_kept: dict[str, Any] = {}


class Registry(Tool):
    """It keeps what it wraps in a module's dict."""

    def wrapper(self, original: Any) -> Any:
        mark = self.mark
        _kept[mark] = original

        def send(self: Any, text: str) -> Any:
            return _kept[mark](self, text) + mark

        return send

    def off(self) -> None:
        super().off()
        _kept.pop(self.mark, None)


class Indirect(Tool):
    """Its wrapper keeps a method of an object with slots in a default argument."""

    def wrapper(self, original: Any) -> Any:
        method = functools.partial(_Sender(original, self.mark).send)

        def send(self: Any, text: str, call: Any = method) -> Any:
            return call(self, text)

        return send


class _Sender:
    __slots__ = ("mark", "original")

    def __init__(self, original: Any, mark: str) -> None:
        self.original = original
        self.mark = mark

    def send(self, instance: Any, text: str) -> Any:
        return self.original(instance, text) + self.mark


def orders(names: tuple[str, ...], length: int) -> Iterator[tuple[str, ...]]:
    """Every order of steps in which each tool is switched on and off in turns."""

    def following(steps: tuple[str, ...], on: frozenset[str]) -> Iterator[tuple[str, ...]]:
        if len(steps) == length:
            yield steps
            return
        for name in names:
            step = f"{name} {'off' if name in on else 'on'}"
            yield from following((*steps, step), on ^ {name})

    return following((), frozenset())


# Two tools of the kind with one dict would call each other forever, without ours too.
@pytest.mark.parametrize(
    ("kind", "names"),
    [*((kind, ("ours", "a", "b")) for kind in (Tool, Wrapt, Indirect)), (Registry, ("ours", "a"))],
)
def test_other_tools_in_every_order(kind: type[Tool], names: tuple[str, ...]) -> None:
    original = vars(Library)["send"]
    for steps in orders(names, 7):
        replace_send(original)
        patches, a, b = Patches(), kind("a"), kind("b")
        for number, step in enumerate(steps):
            before = Library().send("")
            if step == "ours on":
                patches.start()
                patches.wrap(Library, "send", loud(patches))
            elif step == "ours off":
                patches.stop()
            else:
                tool = a if step[0] == "a" else b
                (tool.on if step.endswith("on") else tool.off)()
            after = Library().send("")
            done = steps[: number + 1]
            if step == "ours on":
                assert after.count("!") == 1, done
            elif step == "ours off":
                assert "!" not in after, done
            assert after.count("!") <= 1, done
            if step.startswith("ours"):
                assert after.replace("!", "") == before.replace("!", ""), f"{done}: another tool's wrapper went"


def test_one_place_that_cannot_be_restored_leaves_the_others_restored(caplog: pytest.LogCaptureFixture) -> None:
    class Closing(type):
        closed = False

        def __setattr__(cls, name: str, value: Any) -> None:
            if cls.closed and name == "send":
                raise AttributeError("it can't be set")
            super().__setattr__(name, value)

    class Closed(metaclass=Closing):
        def send(self, text: str) -> str:
            return text

    original, version = vars(Library)["send"], vars(Library)["version"]
    patches = Patches()
    patches.start()
    patches.wrap(Library, "version", lambda found: staticmethod(lambda: "2"))
    patches.wrap(Closed, "send", loud(patches))
    patches.wrap(Library, "send", loud(patches))
    Closing.closed = True
    assert patches.stop() is True
    assert vars(Library)["send"] is original
    assert vars(Library)["version"] is version
    assert Closed().send("hello") == "hello", "what stays does nothing"
    assert "could not be removed" in caplog.text
    Closing.closed = False
    patches.start()
    patches.wrap(Closed, "send", loud(patches))
    assert Closed().send("hello") == "hello!"
    patches.stop()


def test_a_wrapper_whose_code_another_tool_has_changed_stays() -> None:
    """ddtrace replaces the code of the function that it finds."""
    patches = Patches()
    patches.start()
    patches.wrap(Library, "send", lambda original: lambda self, text: text + "!")
    ours = vars(Library)["send"]
    ours.__code__ = (lambda self, text: text + " theirs").__code__
    patches.stop()
    assert Library().send("hello") == "hello theirs"


def test_a_lazy_object_of_another_tool_is_not_evaluated() -> None:
    def evaluate() -> Any:
        raise AssertionError("evaluated")

    patches = Patches()
    patches.start()
    patches.wrap(Library, "send", loud(patches))
    patches.stop()
    lazy = SimpleLazyObject(evaluate)
    replace_send(lambda self, text: text if lazy is None else text)
    patches.start()
    patches.wrap(Library, "send", loud(patches))
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
    ("templates", ("django.template.base", "Template"), "render"),
    *(("templates", ("django.template.loader_tags", "ExtendsNode"), name) for name in ("get_parent", "render")),
    ("email", ("django.core.mail.backends.locmem", "EmailBackend"), "send_messages"),
    *(("files", ("django.core.files.storage", "Storage"), name) for name in ("save", "open", "delete", "exists")),
    *(("channels", ("channels.routing", router), "__call__") for router in ("ProtocolTypeRouter", "URLRouter")),
    ("channels", ("channels.consumer", "AsyncConsumer"), "__call__"),
    ("channels", ("channels.consumer", ""), "await_many_dispatch"),
    *(("channels", ("channels.layers", "InMemoryChannelLayer"), name) for name in ("send", "group_send", "receive")),
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
        log_records.install(get_settings())
