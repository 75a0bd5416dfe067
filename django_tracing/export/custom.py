"""Build an exporter from the dotted path of a class or function."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace.export import SpanExporter

from django_tracing.faults import contained

if TYPE_CHECKING:
    from django_tracing.conf.values import Settings

__all__ = ["make_custom_exporter"]


def make_custom_exporter(path: str, settings: Settings | None = None) -> SpanExporter:
    """Call the class or function at ``path`` and return the exporter.

    It is called with ``settings`` if it has a parameter of that name, or one parameter without a default; otherwise
    without arguments. Raise ImportError or TypeError, which name the path, if the path or the result is wrong.
    """
    module, _, name = path.rpartition(".")
    if not module:
        raise ImportError(f"{path!r} is not the dotted path of an exporter.")
    try:
        with contained():
            factory = getattr(import_module(module), name)
    except AttributeError:
        raise ImportError(f"The module {module} has no {name}.") from None
    if not callable(factory):
        raise TypeError(f"{path} is not a class or function: it is an object of type {type(factory).__name__}.")
    with contained():
        exporter = _call(path, factory, settings)
    if not callable(getattr(exporter, "export", None)):
        if inspect.iscoroutine(exporter):
            exporter.close()
        raise TypeError(f"{path} returns {type(exporter).__name__}, which has no export(): it is not a SpanExporter.")
    return exporter  # type: ignore[no-any-return]


def _call(path: str, factory: Callable[..., Any], settings: Settings | None) -> Any:
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # a class or function of an extension module
        parameters = {}  # type: ignore[assignment]
    arguments: tuple[Any, ...] = ()
    options: dict[str, Any] = {}
    known = parameters.get("settings")
    required = [
        parameter
        for parameter in parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if known is not None and known.kind in (known.POSITIONAL_OR_KEYWORD, known.KEYWORD_ONLY):
        # A functools.partial may have its own settings.
        if not (isinstance(factory, functools.partial) and "settings" in factory.keywords):
            options = {"settings": settings}
        required = [parameter for parameter in required if parameter is not known]
    elif known is not None and known is next(iter(parameters.values())) and known.kind is known.POSITIONAL_ONLY:
        arguments = (settings,)
        required = [parameter for parameter in required if parameter is not known]
    elif len(required) == 1:
        [only] = required
        if only.kind is only.KEYWORD_ONLY:
            options = {only.name: settings}
        else:
            arguments = (settings,)
        required = []
    if required:
        missing = ", ".join(parameter.name for parameter in required)
        raise TypeError(f"{path} needs more arguments than the settings: {missing}.")
    try:
        return factory(*arguments, **options)
    except TypeError as error:
        raise TypeError(f"{path} can't be called: {error}") from error
