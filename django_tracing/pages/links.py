"""Build the addresses that pages link to."""

from __future__ import annotations

import json
import re
import shlex
from contextvars import ContextVar
from typing import Any, Final
from urllib.parse import urlencode

from django.http import HttpRequest

from django_tracing.pages.mounts import Views

__all__ = [
    "TRACE_ID",
    "attribute_address",
    "changed_query",
    "current_views",
    "page_address",
    "search_address",
    "trace_address",
    "trace_id_in",
    "value_text",
]

#: A trace id or its beginning, as the addresses of the pages accept it.
TRACE_ID: Final = re.compile(r"[0-9a-fA-F]{6,32}")

#: A whole trace id in what somebody pastes: a traceparent header, a log line, an address.
_WHOLE_ID: Final = re.compile(r"(?<![0-9a-fA-F])[0-9a-fA-F]{32}(?![0-9a-fA-F])")
#: The longest text that is looked through for an id.
_PASTED: Final = 1000

#: The views of the mount that shows the page. A project may have several mounts; links stay within one.
current_views: Final[ContextVar[Views]] = ContextVar("django_tracing.views")


def page_address(page: str, *args: Any) -> str:
    """Return the address of a page, by ``<model>_<page>``, in the current mount."""
    return current_views.get().address(page, *args)


def trace_address(trace_id: str) -> str:
    """Return the address of a trace; "" if the id is invalid, since span links may contain any text."""
    if not TRACE_ID.fullmatch(trace_id):
        return ""
    return page_address("trace_trace", trace_id)


def trace_id_in(text: str) -> str:
    """Return the trace id that somebody entered or pasted, or its beginning; "" if there is none."""
    text = text[:_PASTED].strip()
    if TRACE_ID.fullmatch(text):
        return text
    # Some tools write ids as UUIDs.
    found = _WHOLE_ID.search(text) or _WHOLE_ID.fullmatch(text.replace("-", ""))
    return found[0] if found else ""


def search_address(**fields: str) -> str:
    """Return the address of the list of traces with some fields of its form filled in."""
    return f"{page_address('trace_changelist')}?{urlencode(fields)}"


def attribute_address(key: str, value: Any) -> str:
    """Return the address of the list of traces with this attribute."""
    return search_address(attributes=shlex.quote(f"{key}={value_text(value)}"))


def value_text(value: Any) -> str:
    """Return an attribute's value as text: strings as they are, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def changed_query(request: HttpRequest, **changes: str | None) -> str:
    """Return the query string of this page with some parameters changed; None removes one."""
    query = request.GET.copy()
    query.pop("part", None)
    for key, value in changes.items():
        query.pop(key, None)
        if value is not None:
            query[key] = value
    return f"?{query.urlencode()}"
