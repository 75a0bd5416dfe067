"""Trace jobs where they are enqueued and where they run, and carry the trace from one to the other.

What all queues have in common. A library's module describes its jobs (:class:`Library`), and says where in a job's
own metadata the trace is carried, so that a worker without this app can run the job.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from itertools import islice
from typing import Any, Final, NamedTuple

from opentelemetry.context import Context
from opentelemetry.propagators.textmap import default_getter
from opentelemetry.trace import SpanKind

from django_tracing import spans
from django_tracing.conf.loading import get_settings
from django_tracing.context.extraction import extract, inject
from django_tracing.context.request import HEADER, RequestState, get_request_state, incoming_id, with_request_state
from django_tracing.context.user import carried_user, restore_user
from django_tracing.instrumentation.patching import Patches
from django_tracing.recording.span import SPAN_KEY, context_of
from django_tracing.redaction import cut, redact_text
from django_tracing.semconv.names import (
    MESSAGING_DESTINATION,
    MESSAGING_MESSAGE_ID,
    MESSAGING_OPERATION_TYPE,
    MESSAGING_SYSTEM,
    OPERATION_TYPE,
    TASK_ID,
    TASK_NAME,
    TASK_QUEUE,
    TASK_STATUS,
    Attributes,
)

__all__ = [
    "CARRIED_ELSEWHERE",
    "CARRIER",
    "Enqueuing",
    "Job",
    "Library",
    "Run",
    "begin_enqueuing",
    "begin_run",
    "carrier_of",
    "current_run",
    "in_trace_of",
    "start_run",
]

#: The name under which a job's metadata carries the trace: a mapping of text to text.
CARRIER: Final = "_django_tracing"
#: Further entries of a carrier are ignored, and longer names. Values are bounded where they are read.
_MOST_ENTRIES: Final = 64
_LONGEST_NAME: Final = 256
#: What a job carries that runs one of Django's tasks, whose instrumentation makes the spans.
CARRIED_ELSEWHERE: Final[Mapping[str, str]] = {}


class Job(NamedTuple):
    """What spans show of a job. Never its arguments."""

    #: The path of the function: ``shop.jobs.send_invoice``.
    path: str
    id: str
    queue: str
    #: Further attributes of its runs.
    more: Attributes = {}  # noqa: RUF012 - it is only read


class Library(NamedTuple):
    """A queue's library. Its functions may raise: that costs a span."""

    #: ``messaging.system``, which OpenTelemetry's conventions define for none of these.
    system: str
    patches: Patches
    describe: Callable[[Any], Job]
    #: Return the job with a carrier in its metadata.
    carry: Callable[[Any, Mapping[str, str]], Any]
    #: Return what :attr:`carry` has put there, or anything that others have.
    carried: Callable[[Any], object]


#: The system that is enqueuing in this context: what it calls to do so is no other enqueuing.
_enqueuing: Final[ContextVar[str | None]] = ContextVar("django_tracing.enqueuing", default=None)
_running: Final[ContextVar[Run | None]] = ContextVar("django_tracing.running", default=None)


# ----- enqueuing


class Enqueuing:
    """A block that enqueues a job, once: ``with begin_enqueuing(library, job) as carrying``. No method raises."""

    __slots__ = ("_inside", "_job", "_started", "_system", "_token")

    def __init__(self, job: Any, system: str | None = None, started: spans.StartedSpan | None = None) -> None:
        #: The job to enqueue, with what it carries.
        self._job = job
        #: None where there is nothing to do.
        self._system = system
        self._started = started
        self._inside: Token[str | None] | None = None
        self._token: Token[Context] | None = None

    def __enter__(self) -> Any:
        if self._system is not None:
            self._inside = _enqueuing.set(self._system)
            if self._started is not None:
                self._token = spans.attach(self._started.context)
        return self._job

    def set_id(self, job_id: str) -> None:
        """Set the id of the job, which its backend has chosen."""
        if self._started is not None:
            spans.set_attributes(self._started.span, {TASK_ID: job_id})

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        spans.detach(self._token)
        spans.detach(self._inside)
        if self._started is not None:
            self._started.end(error)


def begin_enqueuing(library: Library, job: Any) -> Enqueuing:
    """Start the span ``task.enqueue.NAME``, which needs a parent, and let ``job`` carry it. Never raises.

    Outside a trace, a job keeps what it carries: a worker puts a job back that is to run once more.
    """
    started: spans.StartedSpan | None = None
    try:
        if not library.patches.active:
            return Enqueuing(job)
        outer = _enqueuing.get()
        if outer is not None:
            return Enqueuing(job if outer == library.system else library.carry(job, CARRIED_ELSEWHERE))
        parent = spans.recording_span()
        if parent is None and not spans.span_context().is_valid:
            return Enqueuing(job)
        running = _running.get()
        if parent is not None or running is not None:
            described = library.describe(job)
            if running is not None and running.is_of(library, described):
                # It fails, and is to run once more.
                return Enqueuing(job)
            if parent is not None:
                name, attributes = _span_of(library, described, "enqueue", "send")
                started = spans.start_operation(name, attributes, SpanKind.PRODUCER)
        carrier = carrier_of(None if started is None else started.context)
        return Enqueuing(library.carry(job, carrier) if carrier else job, library.system, started)
    except Exception:
        spans.log_once(f"{library.system}-enqueue", "The enqueuing of a job could not be traced.")
        return Enqueuing(job, library.system, started)


def carrier_of(context: Context | None = None) -> dict[str, str]:
    """Return what a job carries of the trace in ``context`` (default: the current one); empty where there is none.

    The headers of the trace, sampled or not, with its correlation id; and the id and the subscription of the user.
    """
    carrier: dict[str, str] = {}
    if spans.span_context(context).is_valid:
        inject(carrier, context)
        state = get_request_state(context)
        if state is not None and carrier:
            carrier.update(carried_user(state))
    return carrier


def _span_of(library: Library, job: Job, operation: str, operation_type: str) -> tuple[str, Attributes]:
    # The id may be the user's choice, and contain anything. One that is random is no secret.
    job_id = cut(redact_text(job.id, random=False), 100)
    queue = cut(redact_text(job.queue, random=False), 100)
    return f"task.{operation}.{cut(job.path.rpartition('.')[2] or 'unknown', 80)}", {
        OPERATION_TYPE: "task",
        TASK_NAME: cut(job.path, 100),
        TASK_QUEUE: queue,
        TASK_ID: job_id,
        MESSAGING_SYSTEM: library.system,
        MESSAGING_DESTINATION: queue,
        MESSAGING_MESSAGE_ID: job_id,
        MESSAGING_OPERATION_TYPE: operation_type,
    }


# ----- running


class Run:
    """A block that runs a job, once. No method raises."""

    __slots__ = ("_job", "_outcome", "_started", "_tokens")

    def __init__(self, started: spans.StartedSpan | None = None, job: tuple[str, str] | None = None) -> None:
        self._started = started
        #: Its system and its id.
        self._job = job
        self._outcome: tuple[str | None, BaseException | None] = (None, None)
        self._tokens: list[Token[Any]] = []

    def __enter__(self) -> None:
        # What the job enqueues is not part of what enqueued it, though it may run at once, in there.
        self._tokens += (_enqueuing.set(None), _running.set(self))
        if self._started is not None:
            self._tokens.append(spans.attach(self._started.context))

    def is_of(self, library: Library, job: Job) -> bool:
        """Return whether it is a run of ``job``."""
        return self._job == (library.system, job.id)

    def set_outcome(self, status: str | None, error: BaseException | None = None) -> None:
        """Set how it has ended, where the library catches its exception. The first call counts."""
        if self._outcome == (None, None):
            self._outcome = (status, error)

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        while self._tokens:
            spans.detach(self._tokens.pop())
        if self._started is None:
            return
        status, caught = self._outcome
        error = error or caught
        if status is None:
            status = "successful" if error is None else "cancelled" if isinstance(error, CancelledError) else "failed"
        spans.set_attributes(self._started.span, {TASK_STATUS: status})
        self._started.end(error)


def current_run() -> Run | None:
    """Return the run in progress in this context."""
    return _running.get()


def begin_run(library: Library, job: Any) -> Run:
    """Start the span ``task.run.NAME`` of ``job``, in the trace that it carries, or in a new one. Never raises."""
    try:
        if not library.patches.active:
            return Run()
        carrier = library.carried(job)
        if isinstance(carrier, Mapping) and not carrier:
            return Run()
        described = library.describe(job)
        name, attributes = _span_of(library, described, "run", "process")
        return Run(start_run(name, {**attributes, **described.more}, carrier), (library.system, described.id))
    except Exception:
        spans.log_once(f"{library.system}-run", "A job could not be traced; it runs without a span.")
        return Run()


def start_run(name: str, attributes: Attributes, carrier: object) -> spans.StartedSpan | None:
    """Start the span of a run: in the trace of ``carrier``, or linked to it, as ``TRACING["TASKS"]`` has it.

    ``carrier`` comes from outside: whatever is malformed in it is ignored, and without any a new trace is started.
    """
    if not isinstance(carrier, Mapping):
        return spans.start_operation(name, attributes, SpanKind.CONSUMER)
    here = spans.current_context()
    linked = get_settings().tasks == "link"
    context = _context_of(carrier, here, get_request_state(here) if linked else None)
    caller = spans.span_context(context)
    current = here.get(SPAN_KEY)
    if not linked and context_of(current).trace_id == caller.trace_id and spans.recording_span() is current:
        # It runs at once, where it was enqueued: the current span is its parent, and its user is known.
        return spans.start_operation(name, attributes, SpanKind.CONSUMER)
    if not linked:
        return spans.start_operation(name, attributes, SpanKind.CONSUMER, context=context)
    # A trace of its own: neither the current span nor the enqueuing one is its parent.
    bare = Context({key: value for key, value in context.items() if key != SPAN_KEY})
    started = spans.start_operation(name, attributes, SpanKind.CONSUMER, context=bare)
    if started is not None and caller.trace_flags.sampled and started.span.is_recording():
        started.span.add_link(caller)
    return started


def _context_of(carrier: Mapping[Any, Any], here: Context, outer: RequestState | None = None) -> Context:
    """Return ``here`` with the trace, the correlation id (default: that of ``outer``) and the user of ``carrier``."""
    headers = {
        key: value
        for key, value in islice(carrier.items(), _MOST_ENTRIES)
        if isinstance(key, str) and isinstance(value, str) and len(key) <= _LONGEST_NAME
    }
    context = extract(headers, here, default_getter)
    correlation_id = headers.get(HEADER) or (None if outer is None else outer.correlation_id)
    state = RequestState(incoming_id({"HTTP_X_CORRELATION_ID": correlation_id}))
    restore_user(state, headers, get_settings())
    return with_request_state(state, context)


class in_trace_of:  # noqa: N801 - it is used as a function
    """A block that enqueues what follows ``job``, in the trace that it carries. Never raises."""

    __slots__ = ("_token",)

    def __init__(self, library: Library, job: Any) -> None:
        self._token: Token[Context] | None = None
        try:
            carrier = library.carried(job)
            if isinstance(carrier, Mapping) and carrier:
                self._token = spans.attach(_context_of(carrier, spans.current_context()))
        except Exception:
            spans.log_once(f"{library.system}-follow", "What follows a job could not be enqueued in its trace.")

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc_info: object) -> None:
        spans.detach(self._token)
