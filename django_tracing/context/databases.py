"""Refuse database queries of the site's code that tracing calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from django.db import connections

__all__ = ["QueryRefused", "without_databases"]


class QueryRefused(Exception):
    """The code needs a query, and tracing never causes one."""


@contextmanager
def without_databases() -> Iterator[None]:
    """Replace this thread's database connections, in the block, by a stand-in that refuses everything.

    The connections themselves are not touched. Other threads may share them, tests put guards on them, and a
    transaction in which a query fails is a broken one.
    """
    local: Any = connections._connections  # type: ignore[attr-defined]  # asgiref's Local: this thread's own
    found = {alias: getattr(local, alias) for alias in connections if hasattr(local, alias)}
    try:
        for alias in connections:
            setattr(local, alias, _NO_CONNECTION)
        yield
    finally:
        for alias in connections:
            if alias in found:
                setattr(local, alias, found[alias])
            elif hasattr(local, alias):
                delattr(local, alias)


class _NoConnection:
    """The stand-in for a connection while such code runs. It refuses every access."""

    def __getattr__(self, name: str) -> Any:
        raise QueryRefused

    def __setattr__(self, name: str, value: Any) -> None:
        raise QueryRefused


_NO_CONNECTION: Final = _NoConnection()
