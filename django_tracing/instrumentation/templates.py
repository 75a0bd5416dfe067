"""Trace the rendering of templates, as ``template.render.NAME``, with what they extend and include below.

``LAYERS`` applies to templates as to middleware and views: with ``"all"`` each is a span, with ``"slow"`` one that
took ``SLOW_LAYER_MS``, made afterwards, with ``"off"`` none.

Django has no hook for it. ``Template.render`` is wrapped, which views, ``{% include %}`` and inclusion tags call. For
``{% extends %}``, Django calls ``Template._render``; the test runner and django-debug-toolbar replace that method, so
``ExtendsNode`` is wrapped instead: its ``get_parent`` returns the template that is rendered from then on. Of Jinja2,
the templates that Django's backend renders are traced.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from contextvars import ContextVar, Token
from functools import wraps
from time import time_ns
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind

from django_tracing import spans
from django_tracing.conf.loading import get_settings
from django_tracing.conf.values import Settings
from django_tracing.context.marks import make_mark
from django_tracing.instrumentation.imports import when_imported
from django_tracing.instrumentation.layers import is_fault, record_afterwards
from django_tracing.instrumentation.patching import Patches
from django_tracing.recording.shared import SharedAttributes
from django_tracing.redaction import cut, redact_text
from django_tracing.redaction.patterns import pattern
from django_tracing.semconv.names import OPERATION_TYPE, TEMPLATE_ENGINE, TEMPLATE_NAME

__all__ = ["install", "is_available", "uninstall"]

#: A template that was made from a string.
_INLINE: Final = "(inline)"
#: A template whose name is one too many: a loader that makes names out of data has any number of them.
_OTHER: Final = "(other)"
_MOST_NAMES: Final = 1000
_NAME_LENGTH: Final = 100
#: Of a longer name, the rest is not read.
_LONGEST: Final = 500
#: A uuid, or a word.
_WORD: Final = pattern(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}(?![0-9A-Za-z])|[0-9A-Za-z]+")
_HEXADECIMAL: Final = frozenset("0123456789abcdefABCDEF")

_patches: Final = Patches()
#: The names that spans have had in this process.
_names: Final[set[str]] = set()


def is_available() -> bool:
    return True


def install() -> None:
    """Trace Django's and Jinja2's templates, now or when their modules are imported. Imports neither."""
    if not _patches.start():
        return
    when_imported("django.template.base", _patch_templates)
    when_imported("django.template.loader_tags", _patch_extends)
    when_imported("django.template.backends.jinja2", _patch_jinja2)


def uninstall() -> None:
    """Stop tracing templates."""
    _patches.stop()


def _patch_templates() -> None:
    from django.template import base

    _patches.wrap(base.Template, "render", lambda original: _traced_render(original, "django", _name_of))
    partial = getattr(base, "PartialTemplate", None)
    if partial is not None:  # Django 6.0 and later
        _patches.wrap(partial, "render", lambda original: _traced_render(original, "django", _name_of_partial))


def _patch_extends() -> None:
    from django.template.loader_tags import ExtendsNode

    _patches.wrap(ExtendsNode, "get_parent", _traced_get_parent)
    _patches.wrap(ExtendsNode, "render", _traced_extends)


def _patch_jinja2() -> None:
    from django.template.backends.jinja2 import Template

    _patches.wrap(Template, "render", lambda original: _traced_render(original, "jinja2", _name_of_jinja2))


def _name_of(template: Any) -> Any:
    return template.name


def _name_of_partial(template: Any) -> str:
    name = template.origin.template_name
    return f"{name if isinstance(name, str) else _INLINE}#{template.name}"


def _name_of_jinja2(template: Any) -> Any:
    return template.template.name


class _Kind:
    """The facts about a template that are the same each time that it is rendered."""

    __slots__ = ("name", "settings", "shared", "slow_ns", "spans_all")

    def __init__(self, name: Any, engine: str, settings: Settings) -> None:
        self.settings = settings
        shown = _shown(name)
        self.name = f"template.render.{shown}"
        self.spans_all = settings.layers == "all"
        self.slow_ns = int(settings.slow_layer_ms * 1_000_000)
        # These have the same names in every convention.
        self.shared = SharedAttributes({OPERATION_TYPE: "template", TEMPLATE_NAME: shown, TEMPLATE_ENGINE: engine})


def _shown(name: Any) -> str:
    """Return a template's name as spans have it: bounded in length, in values and in number."""
    if not isinstance(name, str) or not name:
        return _INLINE
    shown = redact_text(_WORD.sub(_judge, name[:_LONGEST]))
    path = shown.replace("\\", "/")
    if path.startswith(("/", "~")) or "//" in path or path[1:2] == ":":
        # Not relative to its loader: it would show where files are on this machine.
        shown = posixpath.basename(path)
    shown = cut(shown, _NAME_LENGTH)
    if shown not in _names:
        if len(_names) >= _MOST_NAMES:
            return _OTHER
        _names.add(shown)
    return shown


def _judge(match: re.Match[str]) -> str:
    """Replace a uuid, a hash and a long number by a star. ``404.html`` and ``v2/list.html`` stay."""
    word = match.group()
    is_number = word.isdecimal() and len(word) >= 4
    return "*" if is_number or "-" in word or (len(word) >= 8 and _HEXADECIMAL.issuperset(word)) else word


#: By engine and name.
_kinds: Final[spans.Cache[tuple[str, Any], _Kind]] = spans.Cache()


def _kind_of(template: Any, engine: str, name_of: Callable[[Any], Any]) -> _Kind | None:
    """Return the facts about ``template``; None if templates are not traced."""
    settings = get_settings()
    if settings.layers == "off":
        return None
    name = name_of(template)
    if not isinstance(name, str):
        name = None
    known = _kinds.get((engine, name))
    if known is None or known.settings is not settings:
        known = _Kind(name, engine, settings)
        if name is None or len(name) <= _LONGEST:
            _kinds.keep((engine, name), known)
    return known


class _Rendering:
    """One template that is being rendered. No method raises."""

    __slots__ = ("_context", "_kind", "_span", "_started", "_token")

    def __init__(self, kind: _Kind, parent: Span) -> None:
        self._kind = kind
        self._context = spans.current_context()
        self._span: Span = INVALID_SPAN
        self._token: Token[Context] | None = None
        self._started = 0
        if not kind.spans_all:
            self._started = time_ns()
            return
        self._span, self._token = spans.start_current_child(parent, kind.name, SpanKind.INTERNAL, (kind.shared,))

    def end(self, error: BaseException | None = None) -> None:
        kind = self._kind
        if not kind.spans_all:
            ended = time_ns()
            if ended - self._started >= kind.slow_ns:
                record_afterwards(kind.name, kind.shared, self._context, self._started, ended, error)
            return
        spans.detach(self._token)
        if error is not None and is_fault(error):
            spans.record_error(self._span, error)
        spans.end_child(self._span)


def _start(parent: Span, template: Any, engine: str, name_of: Callable[[Any], Any]) -> _Rendering | None:
    """Start to measure ``template``. Return None if templates are not traced. Never raises."""
    try:
        kind = _kind_of(template, engine, name_of)
        return None if kind is None else _Rendering(kind, parent)
    except Exception:
        spans.log_once("templates", "A template could not be traced.")
        return None


def _traced_render(original: Callable[..., Any], engine: str, name_of: Callable[[Any], Any]) -> Callable[..., Any]:
    @wraps(original)
    def render(self: Any, *args: Any, **kwargs: Any) -> Any:
        parent = spans.recording_span()
        if parent is None or not _patches.active:
            return original(self, *args, **kwargs)
        rendering = _start(parent, self, engine, name_of)
        if rendering is None:
            return original(self, *args, **kwargs)
        try:
            result = original(self, *args, **kwargs)
        except BaseException as error:
            rendering.end(error)
            raise
        rendering.end()
        return result

    return render


# ----- {% extends %}


class _Extension:
    """A ``{% extends %}`` that is being rendered."""

    __slots__ = ("node", "rendering")

    def __init__(self, node: Any) -> None:
        self.node = node
        #: That of the parent template, once it is known.
        self.rendering: _Rendering | None = None


_extending: Final[ContextVar[_Extension | None]] = make_mark("extends", None)


def _traced_get_parent(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def get_parent(self: Any, *args: Any, **kwargs: Any) -> Any:
        parent = original(self, *args, **kwargs)
        extension = _extending.get()
        if extension is not None and extension.node is self and extension.rendering is None:
            above = spans.recording_span()
            if above is not None:
                extension.rendering = _start(above, parent, "django", _name_of)
        return parent

    return get_parent


def _traced_extends(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def render(self: Any, *args: Any, **kwargs: Any) -> Any:
        if spans.recording_span() is None or not _patches.active:
            return original(self, *args, **kwargs)
        extension = _Extension(self)
        token = _extending.set(extension)
        try:
            result = original(self, *args, **kwargs)
        except BaseException as error:
            if extension.rendering is not None:
                extension.rendering.end(error)
            raise
        finally:
            spans.detach(token)
        if extension.rendering is not None:
            extension.rendering.end()
        return result

    return render
