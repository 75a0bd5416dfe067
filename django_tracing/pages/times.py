"""The admin's pages of traces: the list, one trace, two side by side, the routes, the service map.

Imported with the first page that is asked for: no process that shows none waits for SQLite.
"""

from __future__ import annotations

from datetime import datetime

from django.utils import timezone

from django_tracing.traces.model import to_datetime

__all__ = []


def _time(nanoseconds: int) -> datetime:
    moment = to_datetime(nanoseconds)
    return timezone.localtime(moment) if timezone.is_aware(moment) else moment
