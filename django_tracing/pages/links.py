"""Build the addresses that pages link to."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, Final
from urllib.parse import urlencode

from django.http import HttpRequest
from django.urls import reverse

__all__ = []

#: As the addresses of the pages take it: whole, or its beginning.
_TRACE_ID: Final = re.compile(r"[0-9a-fA-F]{6,32}")


#: The admin site that is asked: a project may have several, and links stay within one.
_site: Final[ContextVar[str]] = ContextVar("django_tracing.site", default="admin")


def _address(name: str, args: Sequence[Any] = ()) -> str:
    return reverse(name, args=args, current_app=_site.get())


def _trace_address(trace_id: str) -> str:
    """Where a trace is shown; "" for what is no trace id: a link's is what somebody wrote."""
    if not _TRACE_ID.fullmatch(trace_id):
        return ""
    return _address("admin:django_tracing_trace_trace", args=[trace_id])


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def _searchable(key: str, value: Any) -> str:
    """A link to the traces with this attribute."""
    word = f"{key}={_value(value)}"
    return f"{_address('admin:django_tracing_trace_changelist')}?{urlencode({'attributes': shlex.quote(word)})}"


def _changed(request: HttpRequest, **changes: str | None) -> str:
    """The query of this page with some of it changed; None takes a part out."""
    query = request.GET.copy()
    query.pop("part", None)
    for key, value in changes.items():
        query.pop(key, None)
        if value is not None:
            query[key] = value
    return f"?{query.urlencode()}"
