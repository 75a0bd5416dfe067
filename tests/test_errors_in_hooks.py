"""Raise exceptions inside every hook of this app, and compare what the host does with what it does untraced.

A hook is what this app has other code call: the wrappers of patched functions, middleware, receivers of signals, span
processors, the sampler, the functions that close responses. Each scenario is run once under a profiler, which finds
all places where a hook leaves this app's code: a call into C, or into another package. Then it is run again for each
place, which raises instead. Calls that the host makes without this app too are its own, and are left alone.

- An Exception, also MemoryError and RecursionError, changes no answer.
- KeyboardInterrupt and SystemExit come from outside, at any time. They are passed on, and leave no context, mark or
  lock behind. They are raised at the start of each function of this app, too.

By default, the exceptions take turns, at about fifty places in a scenario. ``HOOK_FAULTS=all`` raises each one at
each place.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from itertools import cycle, product
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final, NamedTuple

import pybreaker
import pytest
from django.core import mail
from django.core.cache import cache
from django.core.files.base import ContentFile
from django.core.files.storage import InMemoryStorage
from django.core.mail.backends.dummy import EmailBackend
from django.core.management import BaseCommand, call_command
from django.db import connection, transaction
from django.dispatch import Signal
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.template import Context, Template
from django.test import Client, RequestFactory
from django.urls import path
from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind

import django_tracing
from django_tracing import create_span, instrumentation, trace_function
from django_tracing.conf.loading import get_settings
from django_tracing.context import marks
from django_tracing.context.current import attach
from django_tracing.export.queue import QueueProcessor
from django_tracing.faults import fault_counts
from django_tracing.instrumentation.request.middleware import TracingMiddleware
from django_tracing.recording.undecided import undecided_traces
from tests.conftest import Spans
from tests.e2e.processes import environment

APP: Final = str(Path(django_tracing.__file__).parent)
#: The optional ones are installed for these tests.
OPTIONAL: Final = ("signals", "templates", "files", "email")
ERRORS: Final = (RuntimeError, MemoryError, RecursionError)
#: The signal whose handler raises it.
SIGNALS: Final = {KeyboardInterrupt: signal.SIGINT, SystemExit: signal.SIGUSR1}
INTERRUPTIONS: Final = tuple(SIGNALS)
NOT_REACHED: Final = object()
#: In a scenario, by default.
MOST_PLACES: Final = 50
#: The headers that this app adds.
OUR_HEADERS: Final = {"X-Correlation-ID", "Server-Timing"}
#: Calls that raise nothing, whatever their arguments: they read or set a variable, or the time.
SAFE: Final = frozenset(
    {
        "ContextVar.get",
        "ContextVar.set",
        "ContextVar.reset",
        "time_ns",
    }
)
#: What C does as a block is left is not interrupted before it is done.
NOT_INTERRUPTED: Final = frozenset({"RLock.__exit__", "lock.__exit__"})
#: The next part of a response is the host's.
HOST: Final = frozenset({"next", "anext"})


# ----- The host

paid = Signal()
breaker = pybreaker.CircuitBreaker(name="payments", fail_max=10**9)


def receive(**kwargs: Any) -> str:
    return "received"


def work() -> list[Any]:
    """Do one thing of each kind."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        row = cursor.fetchone()
    cache.set("blueprint:1", "one")
    storage = InMemoryStorage()
    logging.getLogger("shop").info("paid")
    with create_span("price"):
        price = trace_function("total", lambda: 7)
    with trace.get_tracer("shop").start_as_current_span("theirs") as span:
        span.set_attribute("note", "ada@example.com")
    url = {"http.method": "GET", "http.url": "http://users/?token=1"}
    with trace.get_tracer("opentelemetry.instrumentation.requests").start_as_current_span(
        "GET", kind=SpanKind.CLIENT, attributes=url
    ):
        pass
    return [
        row,
        cache.get("blueprint:1"),
        cache.get_many(["blueprint:1", "blueprint:2"]),
        cache.get_or_set("blueprint:1", lambda: "two"),
        breaker.call(lambda: "charged"),
        Template("{{ total }}").render(Context({"total": price})),
        storage.save("invoice.pdf", ContentFile(b"invoice")),
        EmailBackend().send_messages([mail.EmailMessage("Invoice", "", "a@example.com", ["b@example.com"])]),
        [answer for _, answer in paid.send(None)],
    ]


def page(request: HttpRequest) -> HttpResponse:
    return HttpResponse(repr(work()))


def transfer(request: HttpRequest) -> HttpResponse:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT 2")
        return HttpResponse(str(cursor.fetchone()))


def fails(request: HttpRequest) -> HttpResponse:
    cache.get("blueprint:1")
    raise LookupError("no such invoice")


def stream(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(str(cache.get("blueprint:1")) for _ in range(2))


async def async_page(request: HttpRequest) -> HttpResponse:
    await cache.aset("blueprint:1", "one")
    with create_span("price"):
        return HttpResponse(await cache.aget("blueprint:1"))


urlpatterns = [path("page/", page), path("transfer/", transfer), path("fails/", fails), path("stream/", stream)]


class Command(BaseCommand):
    def handle(self, *args: Any, **options: Any) -> str:
        return str(cache.get("blueprint:1"))


class Exporter(SpanExporter):
    def __init__(self) -> None:
        self.names: list[str] = []

    def export(self, spans: Any) -> SpanExportResult:
        self.names += [span.name for span in spans]
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        pass


# ----- Scenarios: each returns what its user sees.


def ask(url: str) -> Callable[[], Any]:
    client = Client(raise_request_exception=False)

    def run() -> Any:
        response: Any = client.get(url, {"page": "1"})
        try:
            body = b"".join(response.streaming_content) if response.streaming else response.content
        finally:
            response.close()
        return response.status_code, body, sorted(set(response.headers) - OUR_HEADERS)

    return run


@contextmanager
def request() -> Iterator[Callable[[], Any]]:
    yield ask("/page/")


@contextmanager
def transaction_request() -> Iterator[Callable[[], Any]]:
    yield ask("/transfer/")


@contextmanager
def failed_request() -> Iterator[Callable[[], Any]]:
    yield ask("/fails/")


@contextmanager
def streamed_request() -> Iterator[Callable[[], Any]]:
    yield ask("/stream/")


@contextmanager
def async_request() -> Iterator[Callable[[], Any]]:
    middleware: Any = TracingMiddleware(async_page)
    with closing(asyncio.new_event_loop()) as loop:

        def run() -> Any:
            response = loop.run_until_complete(middleware(RequestFactory().get("/async/")))
            return response.status_code, response.content

        yield run


@contextmanager
def command() -> Iterator[Callable[[], Any]]:
    yield lambda: call_command(Command())


SCENARIOS: Final[dict[str, Callable[[], AbstractContextManager[Callable[[], Any]]]]] = {
    "request": request,
    "failed request": failed_request,
    "streamed request": streamed_request,
    "async request": async_request,
    "command": command,
}


# ----- Finding the places


class Place(NamedTuple):
    """A call that a hook makes: from where, and of what."""

    code: CodeType
    line: int
    called: str

    def __str__(self) -> str:
        return f"{self.code.co_filename[len(APP) + 1 :]}:{self.line}, {self.called}"


def is_ours(code: CodeType) -> bool:
    return code.co_filename.startswith(APP)


def name_of(code: CodeType) -> str:
    return str(getattr(code, "co_qualname", code.co_name))


class Profile:
    """A profiler that finds places, or raises at one of them."""

    def __init__(self, hosts: set[CodeType], *, entries: bool) -> None:
        self._hosts = hosts
        self._entries = entries
        self.places: dict[Place, None] = {}
        self.entered: set[CodeType] = set()

    def place(self, frame: FrameType, event: str, called: Any) -> Place | None:
        code = frame.f_code
        if event == "c_call":
            if is_ours(code):
                name = str(getattr(called, "__qualname__", called))
                return None if name in HOST else Place(code, frame.f_lineno, name)
        elif event == "call":
            caller = frame.f_back
            if is_ours(code):
                return Place(code, code.co_firstlineno, "start") if self._entries else None
            # suppress() and nullcontext() raise nothing of their own.
            is_safe = code in self._hosts or code.co_filename == contextlib.__file__
            if caller is not None and is_ours(caller.f_code) and not is_safe:
                return Place(caller.f_code, caller.f_lineno, name_of(code))
        return None

    def find(self, run: Callable[[], Any]) -> list[Place]:
        def see(frame: FrameType, event: str, called: Any) -> None:
            if event == "call" and is_ours(frame.f_code):
                self.entered.add(frame.f_code)
            place = self.place(frame, event, called)
            if place is not None and place.called not in (NOT_INTERRUPTED if self._entries else SAFE):
                self.places[place] = None

        profiled(see, run)
        return list(self.places)

    def raise_at(self, wanted: Place, error: type[BaseException], run: Callable[[], Any]) -> Any:
        """Run until ``wanted``, and raise there: an interruption as a signal does. Return NOT_REACHED if it is not."""
        code = wanted.code
        reached = False

        def see(frame: FrameType, event: str, called: Any) -> None:
            nonlocal reached
            # Most calls are others.
            is_near = frame.f_code is code or (
                event == "call" and frame.f_back is not None and frame.f_back.f_code is code
            )
            if is_near and self.place(frame, event, called) == wanted:
                sys.setprofile(None)
                reached = True
                if error in INTERRUPTIONS:
                    signal.raise_signal(SIGNALS[error])
                raise error("injected")

        answer = profiled(see, run)
        return answer if reached else NOT_REACHED


def profiled(see: Callable[..., None], run: Callable[[], Any]) -> Any:
    sys.setprofile(see)
    try:
        return run()
    finally:
        sys.setprofile(None)


def codes_of_the_host(run: Callable[[], Any]) -> set[CodeType]:
    """Return what the host calls where nothing is traced."""
    found: set[CodeType] = set()

    def see(frame: FrameType, event: str, called: Any) -> None:
        if event == "call" and not is_ours(frame.f_code):
            found.add(frame.f_code)

    profiled(see, run)
    return found


@pytest.fixture(autouse=True)
def _ending_signal() -> Iterator[None]:
    """Let a signal end the process as those of servers do."""

    def end(number: int, frame: object) -> None:
        sys.exit(1)

    before = signal.signal(signal.SIGUSR1, end)
    yield
    signal.signal(signal.SIGUSR1, before)


@pytest.fixture
def host(settings: Any) -> Iterator[None]:
    settings.ROOT_URLCONF = __name__
    settings.TRACING = {**settings.TRACING, "LAYERS": "all", "COMMANDS": True, "RESPONSE_HEADERS": ["server-timing"]}
    settings.LOGGING_CONFIG = None
    paid.connect(receive)
    before = instrumentation.installed()
    # Writing what is logged takes most of the time.
    loggers = [logging.getLogger(name) for name in ("django_tracing", "django.request")]
    for logger in loggers:
        logger.disabled = True
    yield
    for logger in loggers:
        logger.disabled = False
    instrumentation.uninstall()
    settings.TRACING = {**settings.TRACING, "ENABLED": True, "COMMANDS": False}
    instrumentation.install(before)
    paid.disconnect(receive)


def switch(settings: Any, on: bool) -> None:
    settings.TRACING = {**settings.TRACING, "ENABLED": on}
    # One that an exception has kept from being traced is not used again.
    connection.close()
    instrumentation.uninstall()
    if on:
        instrumentation.install((*instrumentation.wanted(get_settings()), *OPTIONAL, "commands"))


def left_behind() -> list[str]:
    """Return what a hook has left, and remove it."""
    found = []
    if context_api.get_current():
        found.append("the context")
        attach(context_api.Context())
    found += [mark.name for mark, default in marks._marks if mark.get() is not default]
    marks.forget_marks()
    if undecided_traces:
        found.append("an undecided trace")
        undecided_traces.clear()
    return found


def names_of(spans: Spans) -> list[str]:
    """Return the names of all spans, without those of the database: an interruption may have closed its connection."""
    return [name for name in spans.names if not name.startswith("db.")]


def raised_in(error: Any) -> Iterator[type[BaseException]]:
    """Yield the types of ``error`` and of what was being handled as it was raised."""
    while isinstance(error, BaseException):
        yield type(error)
        error = error.__context__


def faults(
    places: list[Place], kinds: tuple[type[BaseException], ...]
) -> Iterator[tuple[Place, type[BaseException]]]:
    """Yield what to raise where: everything everywhere, or what takes a second."""
    if os.environ.get("HOOK_FAULTS") == "all":
        yield from product(places, kinds)
    else:
        step = len(places) // MOST_PLACES + 1
        yield from zip(places[::step], cycle(kinds))


#: What interrupts Django's atomic() just before its commit is lost, also untraced: Django itself then fails.
UNINTERRUPTED: Final = {"transaction": transaction_request}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("scenario", [*SCENARIOS, *UNINTERRUPTED])
def test_an_exception_in_a_hook_changes_no_answer(scenario: str, host: None, settings: Any, spans: Spans) -> None:
    switch(settings, on=False)
    open_scenario = (SCENARIOS | UNINTERRUPTED)[scenario]
    with open_scenario() as run:
        untraced = run()
        hosts = codes_of_the_host(run)
    switch(settings, on=True)
    failed = []
    with open_scenario() as run:
        for _ in range(2):
            assert run() == untraced
        spans.clear()
        run()
        names = names_of(spans)
        assert names
        profile = Profile(hosts, entries=False)
        places = profile.find(run)
        assert len(places) > 20
        for place, error in faults(places, ERRORS):
            try:
                answer = profile.raise_at(place, error, run)
            except Exception as raised:
                answer = raised
            left = left_behind()
            if (answer is not NOT_REACHED and answer != untraced) or left:
                failed.append(f"{place}: {error.__name__} -> {answer!r}, {left}")
        assert failed == [], "\n".join(failed)
        spans.clear()
        assert run() == untraced
        assert names_of(spans) == names


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_an_interruption_in_a_hook_is_passed_on_and_leaves_nothing_behind(
    scenario: str, host: None, settings: Any, spans: Spans
) -> None:
    switch(settings, on=True)
    failed = []
    with SCENARIOS[scenario]() as run:
        for _ in range(2):
            answer = run()
        spans.clear()
        run()
        names = names_of(spans)
        profile = Profile(set(), entries=True)
        for place, error in faults(profile.find(run), INTERRUPTIONS):
            try:
                raised = profile.raise_at(place, error, run)
            except BaseException as caught:
                raised = caught
            left = left_behind()
            if (raised is not NOT_REACHED and error not in raised_in(raised)) or left:
                failed.append(f"{place}: {error.__name__} -> {raised!r}, {left}")
        assert failed == [], "\n".join(failed)
        spans.clear()
        assert run() == answer
        assert names_of(spans) == names


# ----- The queue of ended spans

#: It holds what an exporter is given, which is no host's work.
MADE: Final = 24


@contextmanager
def queue_of_spans() -> Iterator[tuple[QueueProcessor, Exporter, Callable[[], Any]]]:
    exporter = Exporter()
    # Whole batches, and parts of them.
    queue = QueueProcessor(exporter, batch_size=5, export_interval=3600.0)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(queue)
    tracer = provider.get_tracer("shop")

    def run() -> int:
        for _ in range(MADE):
            tracer.start_span("checkout").end()
        return MADE

    yield queue, exporter, run
    provider.shutdown()


def places_in(run: Callable[[], Any]) -> list[Place]:
    return Profile(set(), entries=False).find(run)


def test_an_exception_in_the_queue_reaches_no_span_and_loses_none_uncounted() -> None:
    with queue_of_spans() as (_, _, run):
        run()
        places = places_in(run)
    assert {place.called for place in places} > {"deque.append", "deque.popleft"}
    for place, error in faults(places, ERRORS):
        with queue_of_spans() as (queue, exporter, run):
            run()
            lost = sum(fault_counts().values())
            answer = Profile(set(), entries=False).raise_at(place, error, run)
            assert answer in (MADE, NOT_REACHED), place
            assert run() == MADE, "it goes on"
            queue.force_flush(10_000)
            gone = 3 * MADE - len(exporter.names) - sum(queue.counters.dropped.values())
            assert gone <= sum(fault_counts().values()) - lost, place


def test_an_interruption_in_the_queue_is_passed_on_and_leaves_it_usable() -> None:
    with queue_of_spans() as (_, _, run):
        run()
        places = Profile(set(), entries=True).find(run)
    assert len(places) > 20
    for place, error in faults(places, INTERRUPTIONS):
        with queue_of_spans() as (queue, exporter, run):
            run()
            try:
                answer = Profile(set(), entries=True).raise_at(place, error, run)
            except BaseException as raised:
                assert error in raised_in(raised), place
            else:
                assert answer is NOT_REACHED, place
            run()
            # Another thread gets its lock.
            with ThreadPoolExecutor(1) as pool:
                pool.submit(queue.force_flush, 10_000).result(20)
            assert len(exporter.names) + sum(queue.counters.dropped.values()) >= 2 * MADE - 5, place


# ----- Forks, and the end of the process

FORKS = """
import os, signal, sys
raising = None
registered = []
register = os.register_at_fork

def register_raising(**functions):
    for when, function in functions.items():
        if not str(getattr(function, "__module__", "")).startswith("django_tracing"):
            register(**{when: function})
            continue
        number = len(registered)
        registered.append(function)
        def call(function=function, number=number):
            if number == raising:
                raise MemoryError("injected")
            function()
        register(**{when: call})

os.register_at_fork = register_raising
import django
django.setup()
from django.test import Client
from opentelemetry import trace
client = Client()
assert client.get("/empty/").status_code == 200
sys.unraisablehook = lambda unraisable: None
for raising in range(len(registered)):
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        status = client.get("/empty/").status_code
        trace.get_tracer_provider().force_flush(1)
        os._exit(0 if status == 200 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, registered[raising]
    assert client.get("/empty/").status_code == 200
print(len(registered))
"""


def run_program(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *arguments],
        env=environment(JAEGER_ENDPOINT="http://127.0.0.1:9", TRACING_SETTINGS='{"SHUTDOWN_TIMEOUT": 0.1}'),
        cwd=Path(APP).parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_answers_though_a_function_of_this_app_fails_as_it_is_forked() -> None:
    done = run_program(FORKS)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 5


ENDS = """
import sys
import django
django.setup()
from django.test import Client
from django_tracing.export.queue import QueueProcessor
from django_tracing.faults import fault_counts
assert Client().get("/empty/").status_code == 200

def fail(*args):
    raise {"MemoryError": MemoryError, "KeyboardInterrupt": KeyboardInterrupt}[sys.argv[1]]("injected")

for name in ("_begin_shutdown", "_finish_shutdown"):
    setattr(QueueProcessor, name, fail)
print("the last line")
"""


def test_a_process_ends_as_it_would_though_the_queue_can_t_be_shut_down() -> None:
    done = run_program(ENDS, "MemoryError")
    assert (done.returncode, done.stdout) == (0, "the last line\n")
    assert "The spans that waited could not be sent." in done.stderr
    assert "Exception ignored" not in done.stderr
