"""Messages of errors keep the names that one needs to find the error, and no values."""

from __future__ import annotations

import traceback
from typing import Any

import pytest
from django.core.exceptions import FieldError
from django.db import connections
from django.db.models import Model
from django.template import Context, Engine
from django.urls import reverse
from django.utils.datastructures import MultiValueDict

from django_tracing.models import SamplingRule
from django_tracing.redaction import redact_db_error, redact_stacktrace

THINGS: Any = SamplingRule


def _template(text: str) -> str:
    return Engine().from_string(text).render(Context())


@pytest.mark.parametrize(
    "make",
    [
        lambda: {}["total"],
        lambda: {}["order_id"],
        lambda: {}["orderId"],
        lambda: {}["_state"],
        lambda: {}["line_1"],
        lambda: {}["SKU"],
        lambda: MultiValueDict()["total"],
        lambda: THINGS.objects.filter(x=1),
        lambda: THINGS.objects.filter(rate__soon=1),
        lambda: THINGS.objects.order_by("rating_of_it"),
        lambda: THINGS(nonsense=1),
        lambda: connections["replica"],
        lambda: reverse("no-such-view"),
        lambda: _template("{{ a|nonsense }}"),
        lambda: {[]: 1},
    ],
)
def test_a_name_stays(make: Any) -> None:
    with pytest.raises(Exception) as error:  # noqa: PT011
        make()
    shown = redact_db_error(str(error.value))
    assert shown == str(error.value)
    stack = "".join(traceback.format_exception(error.value))
    assert stack.rstrip().endswith(redact_stacktrace(stack, 8000).splitlines()[-1])


def test_the_choices_stay() -> None:
    with pytest.raises(FieldError) as error:
        THINGS.objects.filter(x=1)
    shown = redact_db_error(str(error.value))
    assert shown.startswith("Cannot resolve keyword 'x' into field. Choices are: ")
    assert "max_per_second" in shown


@pytest.mark.parametrize(
    "key",
    [
        *("Schmidt", "hunter2", "ada1990", "Jane Doe", "ada@example.com", "0660-1234567", "s3cr3t", "пароль", "a-b"),
        *("4eC39HqLyjWDarjtT1zdp7dc", "sk_live_4eC39HqLyjWDarjtT1zdp7dc", "x" * 30, "", "total\n", "user:7"),
    ],
)
def test_a_key_that_may_be_a_value_goes(key: str) -> None:
    assert redact_db_error(str(KeyError(key))) in ("'?'", "'[redacted]'")


@pytest.mark.parametrize(
    "message",
    [
        "invalid literal for int() with base 10: '{}'",
        "could not convert string to float: '{}'",
        "Field 'id' expected a number but got '{}'.",
        "Duplicate entry '{}' for key 'auth_user.username'",
        "“{}” value must be an integer.",
        "No results for keyword '{}'",
        "Cannot find '{}'",
        "The name '{}' is taken",
        "'{}' and '{}'",
    ],
)
def test_a_value_goes(message: str) -> None:
    assert "ada" not in redact_db_error(message.replace("{}", "ada"))


def test_the_field_stays_where_the_value_goes() -> None:
    with pytest.raises(ValueError, match="expected") as error:
        THINGS.objects.filter(rate="ada")
    assert redact_db_error(str(error.value)) == "Field 'rate' expected a number but got '?'."
    assert issubclass(SamplingRule, Model)


@pytest.mark.parametrize("message", ["no 'ada@example.com'", "no 'ada@example.com' " + "x" * 30_000])
def test_of_a_long_stack_trace_the_innermost_frames_are_kept(message: str) -> None:
    """Also if the message, which is behind them, is longer than what is read."""
    frames = "".join(f'  File "/app/f{n}.py", line {n}, in f{n}\n    f{n}()\n' for n in range(2000))
    kept = redact_stacktrace(f"Traceback (most recent call last):\n{frames}ValueError: {message}\n", 20_000)
    lines = kept.split("\n")
    place = lines.index('  File "/app/f1999.py", line 1999, in f1999')
    assert lines[place + 1] == "    f1999()"
    assert lines[place - 2] == '  File "/app/f1998.py", line 1998, in f1998'
    if len(message) < 100:
        assert lines[place + 2 :] == ["ValueError: no '?'"]
    assert "ada" not in kept
    assert len(kept) <= 20_000
