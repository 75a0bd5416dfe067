"""Find the user's own function or class behind a view: under decorators, partials, and what frameworks make."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import FunctionType, MethodType
from typing import Any, Final, NamedTuple

from django_tracing.redaction.patterns import pattern

__all__ = ["ViewName", "short_name", "view_names"]

#: More decorators than these are not looked under.
_MOST_DECORATORS: Final = 32
#: The places between the words of a CamelCase name.
_HUMP: Final = pattern(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class ViewName(NamedTuple):
    """What a view is called: in its span's name, and where it is in the code."""

    #: ``order_list``, or ``orders.cancel`` for an action of a view set.
    shown: str
    module: str
    function: str


def view_names(view: Any) -> tuple[ViewName, Mapping[str, ViewName]]:
    """Return the name of a view, and its names by HTTP method if these call different functions."""
    view = _undecorated(view)
    if isinstance(view, type):
        return _name(view), {}
    kind = getattr(view, "cls", None) or getattr(view, "view_class", None)
    if isinstance(kind, type):
        name = _name(kind)
        # A view set of REST framework.
        actions = getattr(view, "actions", None)
        if not isinstance(actions, Mapping):
            return name, {}
        shown = short_name(name.function, "ViewSet")
        return name._replace(shown=shown), {
            str(method).upper(): ViewName(f"{shown}.{action}", name.module, f"{name.function}.{action}")
            for method, action in actions.items()
        }
    by_method = {method: _name(_undecorated(function)) for method, function in _operations(view).items()}
    # Other methods are refused before any function.
    return next(iter(by_method.values()), None) or _name(view), by_method


def _undecorated(view: Any) -> Any:
    for _ in range(_MOST_DECORATORS):
        if isinstance(view, partial):
            view = view.func
            continue
        if isinstance(view, type) or hasattr(view, "view_class") or hasattr(view, "cls"):
            break
        wrapped = getattr(view, "__wrapped__", None)
        if wrapped is None and not isinstance(view, (FunctionType, MethodType)):
            wrapped = _only_function(view)
        if not callable(wrapped):
            break
        view = wrapped
    return view


def _only_function(instance: Any) -> Callable[..., Any] | None:
    """Return what an instance of a decorator's class calls, without ``functools.wraps``."""
    kinds = (FunctionType, MethodType, partial)
    functions = [value for value in getattr(instance, "__dict__", {}).values() if isinstance(value, kinds)]
    return functions[0] if len(functions) == 1 else None


def _operations(view: Any) -> dict[str, Callable[..., Any]]:
    """Return the functions of a path of Django Ninja, by method. The path's view is a closure of Ninja's."""
    found: dict[str, Callable[..., Any]] = {}
    if str(getattr(view, "__module__", "")).partition(".")[0] not in ("ninja", "ninja_extra"):
        return found
    for cell in getattr(view, "__closure__", None) or ():
        for operation in getattr(cell.cell_contents, "operations", None) or ():
            for method in operation.methods:
                found.setdefault(str(method), operation.view_func)
    return found


def _name(named: Any) -> ViewName:
    name = str(getattr(named, "__name__", None) or type(named).__name__)
    return ViewName(short_name(name, "View"), str(getattr(named, "__module__", "") or ""), name)


def short_name(name: str, suffix: str) -> str:
    """Return ``rate_limit`` for ``RateLimitMiddleware``, and ``blueprint_detail`` unchanged."""
    bare = name.removesuffix(suffix) or name
    bare = _HUMP.sub("_", bare).lower()
    return bare.removesuffix(f"_{suffix.lower()}")
