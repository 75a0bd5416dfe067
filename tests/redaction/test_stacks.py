"""Test exceptions in groups, in chains and with notes: their stacks contain no value of a message."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from concurrent.futures.process import _ExceptionWithTraceback  # type: ignore[attr-defined]
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.db import DatabaseError, IntegrityError, connection, transaction
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from django_tracing import create_span
from django_tracing.redaction import REDACTED, redact_stacktrace, redacted_stack
from django_tracing.redaction.attributes import MESSAGE_LENGTH, STACKTRACE_LENGTH
from django_tracing.redaction.text import TEXT_INPUT
from django_tracing.spans.errors import record_error
from tests.conftest import Spans
from tests.work_counter import work

SECRET = "zqsecret"
GROUPS = sys.version_info >= (3, 11)
needs_groups = pytest.mark.skipif(not GROUPS, reason="exception groups came with Python 3.11")
ExceptionGroup: Any = getattr(sys.modules["builtins"], "ExceptionGroup", None)
EXAMPLES = int(os.environ.get("STACK_EXAMPLES", "150"))

#: Messages of databases with SECRET as values, and the parts that are kept.
MESSAGES = [
    (
        'duplicate key value violates unique constraint "auth_user_username_key"\n'
        f"DETAIL:  Key (username, email)=({SECRET}, {SECRET}) already exists.",
        'duplicate key value violates unique constraint "auth_user_username_key"',
    ),
    (
        'null value in column "name" of relation "t" violates not-null constraint\n'
        f"DETAIL:  Failing row contains (1, {SECRET}\n\n  | {SECRET}, ''{SECRET}).\nHINT:  {SECRET}",
        'null value in column "name" of relation "t" violates not-null constraint',
    ),
    (f"relation does not exist\nLINE 1: SELECT '{SECRET}'\n        ^\nCONTEXT:  COPY t, line 1: \"{SECRET}\"", "relation does not exist"),
    (f"clé dupliquée\nDÉTAIL :  La clé (a)=({SECRET}) existe", "clé dupliquée"),
    (f"failed: no. DETAIL:  Key (a)=({SECRET})", "failed: no."),
    (f"bad value: '{SECRET}\n\n  and\n\t{SECRET}'", "bad value: '?'"),
    (f"(1062, \"Duplicate entry '{SECRET}' for key 'users.name'\")", "Duplicate entry '?' for key 'users.name'"),
    (f"(sqlite3.IntegrityError) UNIQUE\n[SQL: INSERT INTO t VALUES ({SECRET})]\n[parameters: ({SECRET}, 1)]", "(sqlite3.IntegrityError) UNIQUE"),
    (f"(sqlite3.IntegrityError) UNIQUE\n[parameters: ({SECRET}, 1)]", "(sqlite3.IntegrityError) UNIQUE"),
    ("nothing to hide", "nothing to hide"),
]  # fmt: skip
_messages = st.sampled_from(MESSAGES)


class _Mean(Exception):
    def __str__(self) -> str:
        raise RuntimeError(SECRET)


def _thrown(error: BaseException, depth: int) -> BaseException:
    """Return ``error`` with a traceback of that many frames."""
    try:
        if depth:
            _thrown(error, depth - 1)
        raise error
    except BaseException as raised:
        return raised


@st.composite
def _plain(draw: st.DrawFn) -> BaseException:
    kind = draw(st.sampled_from([ValueError, KeyError, IntegrityError, _Mean]))
    # A key that is an identifier stays: test_errors.py.
    return kind(draw(_messages)[0]) if kind is not KeyError else KeyError(f"user:{SECRET}")


@st.composite
def _related(
    draw: st.DrawFn, inner: st.SearchStrategy[BaseException], texts: st.SearchStrategy[str]
) -> BaseException:
    """Generate an exception with notes, causes and contexts; in a group, or a group itself."""
    members = draw(st.lists(inner, min_size=1, max_size=3))
    error: BaseException = ValueError(draw(texts))
    if GROUPS and draw(st.booleans()):
        error = ExceptionGroup(draw(texts), members)
    error.__cause__ = draw(st.none() | inner)
    error.__context__ = draw(st.none() | inner | st.just(members[0]))
    error.__suppress_context__ = draw(st.booleans())
    if GROUPS and draw(st.booleans()):
        for text in draw(st.lists(texts, max_size=2)):
            error.add_note(text)  # type: ignore[attr-defined]
    depth = draw(st.integers(-1, 3))
    return error if depth < 0 else _thrown(error, depth)


ERRORS = st.recursive(_plain(), lambda inner: _related(inner, st.sampled_from([text for text, _ in MESSAGES])))
HARMLESS = st.sampled_from(["one", "two\nlines", "a\n\nb", ""])
HARMLESS_ERRORS = st.recursive(st.builds(ValueError, HARMLESS), lambda inner: _related(inner, HARMLESS), max_leaves=5)


def _recorded(error: BaseException) -> dict[str, str]:
    span = TracerProvider().get_tracer("x").start_span("x")
    record_error(span, error)
    (event,) = span.events  # type: ignore[attr-defined]
    return {**event.attributes, "status": span.status.description}  # type: ignore[attr-defined]


@settings(max_examples=EXAMPLES)
@given(ERRORS)
def test_no_value_is_in_a_recorded_exception(error: BaseException) -> None:
    assert SECRET not in str(_recorded(error))
    # As OpenTelemetry's instrumentations and the SDK's spans record it.
    printed = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    redacted = redact_stacktrace(printed, 100_000)
    assert SECRET not in redacted
    assert redacted != REDACTED
    stack = redacted_stack(error, 100_000)
    assert stack != REDACTED
    # Text that this app redacted may be redacted again.
    assert redact_stacktrace(stack, 100_000).count('File "') == stack.count('File "')


@needs_groups
@pytest.mark.parametrize(("message", "kept"), MESSAGES)
@pytest.mark.parametrize("notes", [False, True])
def test_text_other_than_values_is_kept(message: str, kept: str, notes: bool) -> None:
    first, second, third = ValueError(message), ValueError("a cause"), ValueError("a note")
    first.__cause__ = _thrown(second, 1)
    third.add_note(message if notes else "none")  # type: ignore[attr-defined]
    group = _thrown(ExceptionGroup("several", [_thrown(first, 2), ExceptionGroup("more", [third])]), 0)
    for stack in (
        redacted_stack(group, STACKTRACE_LENGTH),
        redact_stacktrace("".join(traceback.format_exception(group)), STACKTRACE_LENGTH),  # type: ignore[call-arg]
    ):
        assert SECRET not in stack
        assert stack.count(f"| ValueError: {kept}") == 1 or "1062" in message
        assert kept in stack
        assert stack.count(kept) == 1 + notes
        assert "    | ValueError: a cause\n    | \n    | The above exception was the direct cause" in stack
        assert "    | ExceptionGroup: more (1 sub-exception)" in stack
        assert stack.count('File "') == 1 + 2 + 3
        assert "raise error" in stack


def _normal(text: str) -> list[str]:
    """Return the lines without the marks below a line, which not every version prints."""
    return [line for line in text.rstrip().split("\n") if line.strip(" |^~")]


@settings(max_examples=EXAMPLES)
@given(HARMLESS_ERRORS)
def test_it_has_pythons_format(error: BaseException) -> None:
    """For exceptions with one link each: Python prints repeated exceptions, this app prints them once."""
    seen: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        current = waiting.pop()
        if current is None:
            continue
        if any(current is one for one in seen):
            return
        seen.append(current)
        waiting += [current.__cause__, current.__context__, *getattr(current, "exceptions", ())]
    printed = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    stack = redacted_stack(error, 100_000)
    assert _normal(stack) == _normal(redact_stacktrace(printed, 100_000)) == _normal(printed)
    assert redact_stacktrace(stack, 100_000) == stack.rstrip()


def test_a_message_that_looks_like_a_frame_is_a_message() -> None:
    message = f'got \'\n  File "x", line 1, in y\n    {SECRET}\'\nDETAIL:  Key\n  File "x", line 1\n    {SECRET}'
    recorded = _recorded(_thrown(ValueError(message), 0))
    assert SECRET not in str(recorded)
    assert recorded["exception.stacktrace"].endswith("raise error\nValueError: got '?'")


@pytest.mark.parametrize("message", [f'invalid input: "{SECRET}"', *(text for text, _ in MESSAGES)])
@pytest.mark.parametrize("grouped", [pytest.param(True, marks=needs_groups), False])
def test_an_error_of_another_process(message: str, grouped: bool) -> None:
    """Pools of processes pass its traceback as a message in triple quotes."""
    there: Any = ValueError(message)
    if grouped:
        there = ExceptionGroup("several", [_thrown(there, 1)])
    there = _thrown(there, 1)
    rebuild, arguments = _ExceptionWithTraceback(there, there.__traceback__).__reduce__()
    error = rebuild(*arguments)
    recorded = _recorded(_thrown(error, 1))
    assert SECRET not in str(recorded)
    assert "_RemoteTraceback: \n" in recorded["exception.stacktrace"]
    assert recorded["exception.stacktrace"].count("raise error") >= 3
    printed = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    assert SECRET not in redact_stacktrace(printed, 100_000)
    assert SECRET not in str(_recorded(error.__cause__))


# ----- A real server


@needs_groups
@pytest.mark.django_db
def test_postgresql_s_errors_in_groups(spans: Spans) -> None:
    def fails(run: Callable[[], object]) -> BaseException:
        try:
            with transaction.atomic():
                run()
        except DatabaseError as error:
            return error
        raise AssertionError

    def sql(text: str, *params: str) -> Callable[[], object]:
        def run() -> None:
            with connection.cursor() as cursor:
                cursor.execute(text, params)

        return run

    User.objects.create(username=SECRET)
    errors = [
        fails(lambda: User.objects.create(username=SECRET)),
        fails(sql("INSERT INTO auth_group (id, name) VALUES (18151342, NULL)")),
        fails(sql("INSERT INTO auth_group (name) VALUES (%s)", SECRET * 30)),
        fails(sql("SELECT %s::jsonb", f'{{"a": {SECRET}}}')),
        fails(sql(f"DO $$ BEGIN RAISE EXCEPTION 'no' USING DETAIL = '{SECRET}', HINT = '{SECRET}'; END $$")),
        fails(sql(f"SELECT nmae, '{SECRET}' FROM auth_group")),
    ]
    assert "DETAIL:  Key (username)" in str(errors[0]) and "Failing row" in str(errors[1])
    spans.clear()
    with pytest.raises(ExceptionGroup), create_span("job"):
        try:
            errors[0].add_note(str(errors[1]))  # type: ignore[attr-defined]
            raise ExceptionGroup(f"2 tasks: {errors[1]}", [*errors, ExceptionGroup("inner", errors)])
        except ExceptionGroup as group:
            whole = redacted_stack(group, 1_000_000)
            raise ExceptionGroup("outer", [group, ValueError(str(errors[0]))]) from errors[0]
    # And in the SDK's format, on a span of the user.
    with pytest.raises(ExceptionGroup), trace.get_tracer("own").start_as_current_span("own"):
        raise ExceptionGroup("outer", [ExceptionGroup("inner", errors), *errors]) from errors[1]
    for kept in ('"name" of relation "auth_group" violates not-null', "value too long", "type json", 'column "nmae"'):
        assert kept in whole
    exported = whole + "".join(span.to_json() for span in spans)
    assert Group.objects.count() == 0
    for value in (SECRET, "18151342", "DETAIL", "HINT", "CONTEXT"):
        assert value not in exported
    for name in ("job", "own"):
        (event,) = spans.one(name).events
        stack = str((event.attributes or {})["exception.stacktrace"])
        assert 'violates unique constraint "auth_user_username_key"' in stack
        assert "(2 sub-exceptions)" in str((event.attributes or {})["exception.message"]) or name == "own"


@pytest.mark.django_db
def test_an_exception_recorded_by_the_user(spans: Spans) -> None:
    error = ValueError(MESSAGES[0][0])
    error.__cause__ = _chained(3000, "__context__")
    # With the SDK's API on a span of this app, as in its documentation.
    with create_span("job"):
        current: Any = trace.get_current_span()
        current.record_exception(error, {"order_id": 7, "note": f"password={SECRET}"}, escaped=True)
        current.record_exception(_Mean())
        with create_span("other"):
            other: Any = trace.get_current_span()
            few = work(other.record_exception, _chained(60, "__context__"))
            assert work(other.record_exception, error) <= 1.1 * few + 500
    first, second = spans.one("job").events
    recorded: Any = first.attributes
    assert recorded["exception.type"] == "ValueError"
    assert recorded["exception.message"] == MESSAGES[0][1]
    assert recorded["exception.escaped"] == "True"
    assert recorded["order_id"] == 7
    assert recorded["exception.stacktrace"].startswith("[the exceptions before these are left out]\n\n")
    assert recorded["exception.stacktrace"].endswith(f"ValueError: {MESSAGES[0][1]}")
    assert (second.attributes or {})["exception.message"] == ""
    assert SECRET not in spans.one("job").to_json()


# ----- Limits


def _chained(length: int, link: str) -> BaseException:
    error: BaseException | None = None
    for number in range(length):
        following = _thrown(ValueError(f"number {number}"), 1)
        following.__context__ = following.__cause__ = None
        following.__suppress_context__ = False
        setattr(following, link, error)
        error = following
    assert error is not None
    return error


@pytest.mark.parametrize("link", ["__context__", "__cause__"])
def test_a_long_chain_is_cut_before_it_is_read(link: str) -> None:
    few, many = _chained(60, link), _chained(3000, link)
    for each in (few, many):
        _recorded(each)  # reads the lines of source, and texts without secrets, which are cached
    assert work(_recorded, many) <= 1.05 * work(_recorded, few) + 100
    stack = redacted_stack(many, 100_000)
    assert stack.startswith("[the exceptions before these are left out]\n\n")
    assert stack.count("ValueError: number ") == 20
    assert stack.endswith("ValueError: number 2999")
    assert "left out" not in redacted_stack(_chained(20, link), 100_000)


@needs_groups
def test_a_large_group_is_cut_before_it_is_read() -> None:
    def group(members: int) -> BaseException:
        return _thrown(ExceptionGroup("many", [_thrown(ValueError(f"number {n}"), 1) for n in range(members)]), 0)

    few, many = group(30), group(3000)
    _recorded(few)
    assert work(_recorded, many) <= 1.05 * work(_recorded, few) + 100
    stack = redacted_stack(many, 100_000)
    assert stack.count("ValueError: number ") == 15
    assert "    +---------------- ... ----------------\n    | [2985 more exceptions left out]\n" in stack
    assert redact_stacktrace(stack, 100_000) == stack


@needs_groups
def test_groups_of_groups_are_cut_before_they_are_read() -> None:
    def nested(depth: int, width: int) -> BaseException:
        error: BaseException = ValueError("innermost")
        for _ in range(depth):
            # The same one several times: two to the power of ``depth`` of them.
            error = ExceptionGroup("one", [error] * width)
        return error

    assert "[deeper exceptions are left out]" in redacted_stack(nested(900, 1), 100_000)
    wide = redacted_stack(nested(30, 2), 100_000)
    assert wide.count("ExceptionGroup: one") + wide.count("ValueError") <= 60
    assert "more exception" in wide


@needs_groups
def test_many_notes_and_long_ones_are_cut() -> None:
    error = ValueError("x")
    error.__notes__ = [f"note {number}" for number in range(3000)]  # type: ignore[attr-defined]
    stack = redacted_stack(error, 100_000)
    assert stack.count("note ") == 10
    assert stack.endswith("[more notes are left out]")
    error.__notes__ = [f"'{SECRET}" * 100_000, _Mean(), 5]  # type: ignore[attr-defined]
    assert SECRET not in redacted_stack(error, 1000)
    error.__notes__ = SECRET  # type: ignore[attr-defined]
    assert redacted_stack(error, 1000) == "ValueError: x"


def test_cycles_end() -> None:
    first, second = ValueError("one"), ValueError("two")
    first.__context__, second.__context__ = second, first
    assert redacted_stack(first, 1000).count("ValueError") == 2


def test_a_deep_stack_mentions_the_frames_left_out() -> None:
    stack = redacted_stack(_thrown(ValueError("x"), 500), 100_000)
    assert stack.startswith("Traceback (most recent call last):\n  [the frames before these are left out]\n")
    assert "left out" not in redacted_stack(_thrown(ValueError("x"), 100), 100_000)
    recorded = _recorded(_thrown(ValueError(f"'{SECRET}'" * 100_000), 2))
    assert len(recorded["exception.message"]) <= MESSAGE_LENGTH
    assert len(recorded["exception.stacktrace"]) <= STACKTRACE_LENGTH
    assert recorded["exception.stacktrace"].count('File "') == 3


def test_an_exception_that_fails_when_it_is_read_loses_only_itself() -> None:
    class Odd(Exception):
        @property
        def __cause__(self) -> Any:  # type: ignore[override]
            raise RuntimeError(SECRET)

    assert redacted_stack(Odd("x"), 1000) == REDACTED
    assert _recorded(Odd("x"))["exception.message"] == "x"


def test_source_lines_with_names_of_secrets_are_kept() -> None:
    def get_session(token: object, *, password: object) -> None:
        raise ValueError

    token = password = object()
    try:
        session = get_session(token, password=password)
        assert session
    except ValueError as error:
        stack = redacted_stack(error, 8000)
    assert "session = get_session(token, password=password)" in stack


def test_a_secret_literal_in_a_source_line_is_redacted() -> None:
    def log_in(**given: object) -> None:
        raise ValueError

    for call in (
        lambda: log_in(password="hunter2"),
        lambda: log_in(pin=482913),
        lambda: log_in(),  # password: hunter2
    ):
        try:
            call()
        except ValueError as error:
            stack = redacted_stack(error, 8000)
        assert "hunter2" not in stack
        assert "482913" not in stack


def test_a_cut_stack_ends_with_a_whole_line() -> None:
    """At any place of the cut, also inside the word that starts the lines added by a database."""
    frame = '\n  File "a.py", line 1, in f\n    f()\n'
    for length in range(TEXT_INPUT - 100, TEXT_INPUT + 100):
        message = f"ValueError: {'x ' * 1000}\n{'y' * (length - 2100)}\nDETAIL:  Key (a)=({SECRET}).\n{'z' * 3000}"
        redacted = redact_stacktrace(f"Traceback (most recent call last):{frame}{message}", 100_000)
        assert SECRET not in redacted
        assert "DETAI" not in redacted
