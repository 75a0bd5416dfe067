"""Trace each call of a function, method or generator: the decorator ``@trace``."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from typing import Any, TypeVar, overload

from asgiref.sync import iscoroutinefunction, markcoroutinefunction

from django_tracing import spans
from django_tracing.api.spans import NO_SPAN, ManualSpan, run_in_span, start_manual_span

__all__ = ["trace"]

_F = TypeVar("_F")


@overload
def trace(
    name: str | None = None, *, attributes: Mapping[str, Any] | None = None, capture: Sequence[str] = ()
) -> Callable[[_F], _F]: ...


@overload
def trace(name: _F) -> _F: ...


def trace(name: Any = None, *, attributes: Mapping[str, Any] | None = None, capture: Sequence[str] = ()) -> Any:
    """Trace each call of a function: ``@trace``, or ``@trace("MyService.fetch_data", capture=("order_id",))``.

    For functions, methods, classmethods, staticmethods, async functions, and sync and async generators, whose span
    lasts as long as the iteration. On a class, trace the public methods that the class itself defines. ``name`` is
    the span's name, by default the function's qualified name (``MyService.fetch_data``). ``capture`` lists
    parameters whose values become attributes of the same name. Raise TypeError if one of them is not a parameter.
    """
    if name is not None and not isinstance(name, str):
        return _decorate(name, None, attributes, ())
    if isinstance(capture, str):
        raise TypeError(f'capture must be a list of parameters: write capture=("{capture}",).')
    return lambda traced: _decorate(traced, name, attributes, tuple(capture))


def _decorate(traced: Any, name: str | None, attributes: Mapping[str, Any] | None, capture: tuple[str, ...]) -> Any:
    if isinstance(traced, (staticmethod, classmethod)):
        return type(traced)(_decorate(traced.__func__, name, attributes, capture))
    if isinstance(traced, type):
        return _decorate_class(traced, name, attributes, capture)
    if not callable(traced):
        raise TypeError(f"@trace takes a function or a class, not {type(traced).__name__}.")
    what = name or str(getattr(traced, "__qualname__", type(traced).__qualname__)).rpartition("<locals>.")[2]
    described = _Described(traced, what, attributes, capture)
    if inspect.isasyncgenfunction(traced):
        return _traced_async_generator(traced, described)
    if inspect.isgeneratorfunction(traced):
        return _traced_generator(traced, described)
    if inspect.iscoroutinefunction(traced):
        return _traced_coroutine(traced, described)

    @functools.wraps(traced)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        manual = described.start(args, kwargs)
        if manual is NO_SPAN:
            return traced(*args, **kwargs)
        return run_in_span(manual, lambda: traced(*args, **kwargs))

    if iscoroutinefunction(traced):
        markcoroutinefunction(wrapper)
    return wrapper


def _decorate_class(
    traced: type, name: str | None, attributes: Mapping[str, Any] | None, capture: tuple[str, ...]
) -> type:
    for attribute, member in list(vars(traced).items()):
        function = member.__func__ if isinstance(member, (staticmethod, classmethod)) else member
        if attribute.startswith("_") or not inspect.isfunction(function):
            continue
        captured = tuple(parameter for parameter in capture if parameter in inspect.signature(function).parameters)
        method = f"{name or traced.__qualname__.rpartition('<locals>.')[2]}.{attribute}"
        setattr(traced, attribute, _decorate(member, method, attributes, captured))
    return traced


class _Described:
    """Start the spans of one decorated function."""

    __slots__ = ("attributes", "capture", "name", "signature")

    def __init__(
        self, func: Callable[..., Any], name: str, attributes: Mapping[str, Any] | None, capture: tuple[str, ...]
    ) -> None:
        self.name = name
        self.attributes = attributes
        self.capture = capture
        self.signature = inspect.signature(func) if capture else None
        for parameter in capture:
            if self.signature is not None and parameter not in self.signature.parameters:
                raise TypeError(f'capture lists "{parameter}", which is not a parameter of {name}{self.signature}.')

    def start(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ManualSpan:
        manual = start_manual_span(self.name, self.attributes)
        if self.signature is not None and manual.is_recording:
            try:
                bound = self.signature.bind(*args, **kwargs)
                bound.apply_defaults()
                manual.set_attributes({name: bound.arguments[name] for name in self.capture})
            except TypeError:
                pass  # the call itself raises it
            except Exception:
                spans.log_once("capture", "An argument could not be put on its span.")
        return manual


def _traced_coroutine(traced: Callable[..., Any], described: _Described) -> Callable[..., Any]:
    @functools.wraps(traced)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        manual = described.start(args, kwargs)
        if manual is NO_SPAN:
            return await traced(*args, **kwargs)
        with manual:
            return await traced(*args, **kwargs)

    return wrapper


def _traced_generator(traced: Callable[..., Any], described: _Described) -> Callable[..., Any]:
    @functools.wraps(traced)
    def wrapper(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        manual = described.start(args, kwargs)
        generator = traced(*args, **kwargs)
        if manual is NO_SPAN:
            return (yield from generator)
        step, sent = generator.send, None
        try:
            while True:
                # Current only while the generator runs: between two items, its caller does. What the generator
                # opens before an item is current again after it.
                manual._attach()
                try:
                    item = step(sent)
                finally:
                    manual._pause()
                try:
                    sent = yield item
                    step = generator.send
                except GeneratorExit:
                    manual._attach()
                    try:
                        generator.close()
                    finally:
                        manual._pause()
                    raise
                except BaseException as error:
                    step, sent = generator.throw, error
        except StopIteration as stop:
            manual._end(None)
            return stop.value
        except BaseException as error:
            manual._end(error)
            raise

    return wrapper


def _traced_async_generator(traced: Callable[..., Any], described: _Described) -> Callable[..., Any]:
    @functools.wraps(traced)
    async def wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        manual = described.start(args, kwargs)
        generator = traced(*args, **kwargs)
        step, sent = generator.asend, None
        try:
            while True:
                manual._attach()
                try:
                    item = await step(sent)
                finally:
                    manual._pause()
                try:
                    sent = yield item
                    step = generator.asend
                except GeneratorExit:
                    manual._attach()
                    try:
                        await generator.aclose()
                    finally:
                        manual._pause()
                    raise
                except BaseException as error:
                    step, sent = generator.athrow, error
        except StopAsyncIteration:
            manual._end(None)
        except BaseException as error:
            manual._end(error)
            raise

    return wrapper
