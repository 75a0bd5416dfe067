"""Keep the former names of public objects working, with a DeprecationWarning."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib import import_module
from typing import Any

__all__ = ["resolve_former_name"]


def resolve_former_name(module: str, name: str, former: Mapping[str, tuple[str, str]]) -> Any:
    """Return the object that ``module`` used to have as ``name``. Call it in the module's ``__getattr__``.

    ``former`` is former name -> (path of the object today, version that removes the former name).
    """
    if name not in former:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    path, version = former[name]
    warnings.warn(
        f"{module}.{name} is deprecated and will be removed in django-tracing-otel {version}. Use {path}.",
        DeprecationWarning,
        stacklevel=3,
    )
    home, _, today = path.rpartition(".")
    return getattr(import_module(home), today)
