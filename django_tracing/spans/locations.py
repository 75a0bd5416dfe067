"""Which line of the user's own code made a call: what ``TRACING["CODE_LOCATIONS"]`` puts on spans.

The nearest frame counts that is neither Django's, this app's, OpenTelemetry's, the standard library's nor an
installed package's. Where none is on the stack, as in a thread that async code hands its queries to, nothing is said.

The names are those of https://opentelemetry.io/docs/specs/semconv/registry/attributes/code/ before they were declared
stable, as everywhere here.
"""

from __future__ import annotations

import logging
import os
import site
import sys
from collections.abc import Iterator
from functools import cache
from types import FrameType
from typing import Any, Final

import django
import opentelemetry
from django.core.signals import setting_changed

from django_tracing.conf.loading import get_settings
from django_tracing.recording.shared import SharedAttributes
from django_tracing.redaction import cut
from django_tracing.semconv.names import CODE_FILEPATH, CODE_FUNCTION, CODE_LINENO

__all__ = ["located"]

_logger = logging.getLogger("django_tracing")

#: False: nobody wants locations, and hot paths stop here. None: the settings are to be asked.
on: bool | None = None

#: What a file is: a path to show, or one of these two.
_FOREIGN: Final = ""
_ENTRY: Final = "/"
#: Django's way in: what called it is a server or a test, and no part of the request's work.
_ENTRIES: Final = ("core/handlers/wsgi.py", "core/handlers/asgi.py", "test/client.py")
_PACKAGES: Final = frozenset({"site-packages", "dist-packages"})
#: A path is cut at its end, where the file's name is: only one that nobody would write gets there.
_PATH_LENGTH: Final = 500

_MOST_FILES: Final = 4096
_MOST_LINES: Final = 4096
#: By ``co_filename``: the verdict is the same for all code of a file, and a string's hash is at hand where a code
#: object's is computed from all that it holds.
_files: Final[dict[str, str]] = {}
#: By ``co_filename``, line and function.
_lines: Final[dict[tuple[str, int, str], SharedAttributes]] = {}


def located(parts: tuple[SharedAttributes, ...]) -> tuple[SharedAttributes, ...]:
    """``parts`` of a span that starts now, and the line of the user's code that is to blame for it. Never raises.

    Only to be called where :data:`on` is not False, and the span records.
    """
    global on
    try:
        if on is None:
            on = get_settings().code_locations
        if on:
            location = _location(sys._getframe(1))
            if location is not None:
                return (*parts, location)
    except Exception:
        _logger.debug("The line of code that made a call could not be found.", exc_info=True)
    return parts


def _forget(*, setting: str, **kwargs: Any) -> None:
    global on
    if setting == "TRACING":
        on = None


setting_changed.connect(_forget, dispatch_uid="django_tracing.spans.locations")


def _location(frame: FrameType | None) -> SharedAttributes | None:
    while frame is not None:
        filename = frame.f_code.co_filename
        path = _files.get(filename)
        if path is None:
            path = _judge(filename)
        if path:
            return None if path == _ENTRY else _described(frame, path)
        frame = frame.f_back
    return None


def _described(frame: FrameType, path: str) -> SharedAttributes:
    filename = frame.f_code.co_filename
    line = frame.f_lineno or frame.f_code.co_firstlineno
    function = _function(frame, filename)
    key = (filename, line, function)
    known = _lines.get(key)
    if known is None:
        if len(_lines) >= _MOST_LINES:
            _lines.clear()
        # The conventions in force rename none of these.
        known = _lines[key] = SharedAttributes(
            {CODE_FILEPATH: path, CODE_LINENO: line, CODE_FUNCTION: cut(function, 255)}
        )
    return known


def _function(frame: FrameType, filename: str) -> str:
    """The function's name; for a comprehension or a generator expression, that of the function it stands in."""
    name = frame.f_code.co_name
    above = frame.f_back
    while name.startswith("<") and name not in ("<module>", "<lambda>") and above is not None:
        if above.f_code.co_filename == filename:
            name = above.f_code.co_name
        above = above.f_back
    return name


def _judge(filename: str) -> str:
    verdict = _verdict(filename)
    if len(_files) >= _MOST_FILES:
        _files.clear()
    _files[filename] = verdict
    return verdict


def _verdict(filename: str) -> str:
    # No file: <string>, <frozen importlib._bootstrap>. No Python: templates that were compiled, scripts in bin.
    if filename.startswith("<") or not filename.endswith(".py"):
        return _FOREIGN
    path = _normal(filename)
    if path in _entries():
        return _ENTRY
    if path.startswith(_foreign()) or not _PACKAGES.isdisjoint(path.split(os.sep)):
        return _FOREIGN
    return cut(_relative(path), _PATH_LENGTH)


def _normal(path: str) -> str:
    return os.path.normcase(os.path.abspath(path))


@cache
def _entries() -> frozenset[str]:
    root = os.path.dirname(django.__file__)
    return frozenset(_normal(os.path.join(root, *entry.split("/"))) for entry in _ENTRIES)


@cache
def _foreign() -> tuple[str, ...]:
    """The folders whose code is not the user's, each with a separator at its end."""
    return tuple({_normal(folder).rstrip(os.sep) + os.sep for folder in _foreign_folders() if folder})


def _foreign_folders() -> Iterator[str]:
    # Not at the module's import: only who wants locations waits for it.
    import sysconfig

    # Wherever they are installed: in a checkout, too.
    yield os.path.dirname(os.path.dirname(__file__))
    yield os.path.dirname(django.__file__)
    yield from opentelemetry.__path__
    yield os.path.dirname(os.__file__)
    for name in ("stdlib", "platstdlib", "purelib", "platlib"):
        yield sysconfig.get_path(name)
    # Missing in old virtualenvs; the user's own may be switched off.
    yield from getattr(site, "getsitepackages", list)()
    yield getattr(site, "USER_SITE", None) or ""


def _relative(path: str) -> str:
    """``path`` below the longest entry of ``sys.path`` that holds it; the file's name alone where none does."""
    home = _normal(os.path.expanduser("~")) + os.sep
    best = ""
    for entry in sys.path:
        if not isinstance(entry, str):
            continue
        folder = _normal(entry or os.curdir).rstrip(os.sep) + os.sep
        if path.startswith(folder) and len(folder) > len(best):
            best = folder
    if path.startswith(home) and home.startswith(best) and home != best:
        # Only an entry above the home folder holds it: that would show whose it is.
        best = ""
    return path[len(best) :].replace(os.sep, "/") if best else os.path.basename(path)
