"""Group the SQL statements of a trace: how often each was sent, and how long it took."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from django_tracing.semconv.categories import category_of, is_statement
from django_tracing.traces.analysis.waterfall import location_of, statement_of
from django_tracing.traces.model import Span

__all__ = ["Statement", "statements"]

#: So many spans and lines of code of a statement are kept.
_MOST_EXAMPLES: Final = 10


@dataclass(slots=True)
class Statement:
    """One statement, or one operation without a text (a commit, connecting). Times are nanoseconds."""

    service: str
    #: The SQL without values; empty if the spans have none.
    text: str
    #: The name of the spans.
    name: str
    #: False for what takes a database's time without a statement: connecting.
    sent: bool
    #: What was asked: the system and the name of the database.
    database: str
    count: int = 0
    time: int = 0
    slowest: int = 0
    failed: int = 0
    #: The sum of the rows; None if no span has a number.
    rows: int | None = None
    #: The first spans.
    spans: list[Span] = field(default_factory=list)
    #: The first lines of code that sent it.
    locations: list[str] = field(default_factory=list)

    @property
    def duplicate(self) -> bool:
        """Return True if the same statement was sent more than once. A commit has no statement."""
        return self.count > 1 and bool(self.text)


def statements(spans: Iterable[Span]) -> list[Statement]:
    """Group the SQL among ``spans``: the statement that took the longest in total comes first."""
    found: dict[tuple[str, str, str, str], Statement] = {}
    for span in spans:
        if category_of(span.kind, span.attributes, span.resource) != "sql":
            continue
        text, database = statement_of(span.attributes), _database_of(span)
        key = (span.service, database, text, "" if text else span.name)
        known = found.get(key)
        if known is None:
            known = found[key] = Statement(span.service, text, span.name, is_statement(span.attributes), database)
        known.count += 1
        known.time += span.duration
        known.slowest = max(known.slowest, span.duration)
        known.failed += span.failed
        rows = span.attributes.get("db.rows", span.attributes.get("db.response.returned_rows"))
        if isinstance(rows, int):
            known.rows = (known.rows or 0) + rows
        if len(known.spans) < _MOST_EXAMPLES:
            known.spans.append(span)
        location = location_of(span.attributes)
        if location and location not in known.locations and len(known.locations) < _MOST_EXAMPLES:
            known.locations.append(location)
    return sorted(found.values(), key=lambda statement: -statement.time)


def _database_of(span: Span) -> str:
    attributes = span.attributes
    system = attributes.get("db.system") or attributes.get("db.system.name")
    name = attributes.get("db.name") or attributes.get("db.namespace")
    return " ".join(str(part) for part in (system, name) if part)
