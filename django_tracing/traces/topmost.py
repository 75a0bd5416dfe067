"""Find what a trace is called, and whether its request is still running.

A request's span is stored when it has ended, after its children. Until then, and if its process was killed, its
children have a parent that is not stored. If the caller of a request sends its spans elsewhere, the request's span
has such a parent, too, but is itself stored.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from django_tracing.semconv.names import OPERATION_TYPE, REQUEST_NAME

if TYPE_CHECKING:
    from django_tracing.traces.model import Span

__all__ = [
    "MOST_OUTLINED",
    "RUNNING_SECONDS",
    "Outline",
    "State",
    "Topmost",
    "make_outline",
    "outline_of",
    "topmost_of",
]

State = Literal["finished", "running", "incomplete"]

#: A request whose last span ended longer ago counts as incomplete: its process was killed, or its span was lost.
RUNNING_SECONDS: Final = 600.0
#: So many spans of a trace are examined, at most.
MOST_OUTLINED: Final = 300

_ENTRY_KINDS: Final = frozenset({"server", "consumer"})
#: Spans that start the work of a process, although they are of another kind.
_ENTRY_TYPES: Final = frozenset({"command", "task", "check"})


class Outline(NamedTuple):
    """A span without what is not needed here. ``entry``: it starts the work of its service."""

    span_id: str
    parent_id: str
    name: str
    service: str
    start: int
    end: int
    entry: bool
    #: The name of the request that the span belongs to, if the request was running when the span was sent.
    request: str = ""


class Topmost(NamedTuple):
    """The name and the service of a trace, and its state."""

    name: str
    service: str
    state: State = "finished"


def make_outline(
    span_id: str,
    parent_id: str,
    name: str,
    kind: str,
    service: str,
    start: int,
    end: int,
    attributes: Mapping[str, Any],
) -> Outline:
    """Return the outline of a span with these values."""
    operation, request = attributes.get(OPERATION_TYPE), attributes.get(REQUEST_NAME)
    entry = kind in _ENTRY_KINDS or (isinstance(operation, str) and operation in _ENTRY_TYPES)
    request = request if isinstance(request, str) else ""
    # A span with its own name is the first of its process.
    entry = entry or (request != "" and request == name)
    return Outline(span_id, parent_id, name, service, start, end, entry, request)


def outline_of(span: Span) -> Outline:
    """Return the outline of a span."""
    return make_outline(
        *(span.span_id, span.parent_id, span.name, span.kind, span.service, span.start, span.end), span.attributes
    )


def topmost_of(spans: Iterable[Outline], *, whole: bool = True, now: float | None = None) -> Topmost:
    """Describe a trace by its spans, of which there is at least one. ``now`` is in seconds since the epoch.

    It has the name and the service of its root, or of the earliest span whose parent is not stored. If the parent is
    the span of a request of the same service, it has the name of that request, if it is known. If these are not all
    spans, ``whole`` is false, and the state is not known: a parent may be among the others.
    """
    ordered = sorted(spans, key=lambda span: (span.start, bool(span.parent_id), -span.end))
    root = next((span for span in ordered if not span.parent_id), None)
    if root is not None:
        return Topmost(root.name, root.service)
    known = {span.span_id for span in ordered}
    # If spans are each other's ancestors, the earliest counts.
    tops = [span for span in ordered if span.parent_id not in known] or ordered[:1]
    handled = _Handled(ordered)
    waiting = [span for span in tops if whole and not span.entry and not handled.contains(span)]
    first = tops[0]
    if not waiting:
        return Topmost(first.name, first.service)
    ended = max(span.end for span in ordered) / 1e9
    recent = (time.time() if now is None else now) - ended <= RUNNING_SECONDS
    if not first.entry:
        first = waiting[0]
        request = next(
            (span.request for span in ordered if span.request and span.service == first.service and not span.entry),
            "",
        )
        first = first._replace(name=request or first.name)
    return Topmost(first.name, first.service, "running" if recent else "incomplete")


class _Handled:
    """When services handled requests whose spans are stored. There, a parent that is not stored was lost."""

    def __init__(self, ordered: Sequence[Outline]) -> None:
        times: dict[str, list[tuple[int, int]]] = {}
        for span in ordered:
            if span.entry:
                times.setdefault(span.service, []).append((span.start, span.end))
        self._starts = {service: [start for start, _ in found] for service, found in times.items()}
        self._ends = {service: list(accumulate((end for _, end in found), max)) for service, found in times.items()}

    def contains(self, span: Outline) -> bool:
        """Return whether ``span`` started while its service handled a request that is stored."""
        starts = self._starts.get(span.service)
        if not starts:
            return False
        before = bisect_right(starts, span.start)
        return before > 0 and self._ends[span.service][before - 1] >= span.start
