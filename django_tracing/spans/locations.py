"""Find the line of the user's own code that made a call, for ``TRACING["CODE_LOCATIONS"]``.

It is the line of the nearest frame that belongs neither to Django, this app, OpenTelemetry or the standard library,
nor to an installed package. If there is none on the stack, as in a thread that async code gives its queries to, the
span has no location.

The attributes have the names of https://opentelemetry.io/docs/specs/semconv/registry/attributes/code/ from before
they were declared stable, as everywhere in this app.
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

from django_tracing.caches import make_room
from django_tracing.conf.loading import get_settings
from django_tracing.recording.shared import SharedAttributes
from django_tracing.redaction import cut
from django_tracing.semconv.names import CODE_FILEPATH, CODE_FUNCTION, CODE_LINENO

__all__ = ["CodeLocations", "code_locations", "is_of_user", "is_where_django_is_called"]

_logger = logging.getLogger("django_tracing")

#: What is known about a file: the path to show, or one of these two.
_FOREIGN: Final = ""
_ENTRY: Final = "/"
#: Where Django is called: the frames above are a server's or a test's, and not part of the request.
_ENTRIES: Final = ("core/handlers/wsgi.py", "core/handlers/asgi.py", "test/client.py")
#: Where Channels' loops are called, which run without Django's handlers: below this app's folder.
_CHANNELS_ENTRY: Final = "instrumentation/channels/consumers.py"
_PACKAGES: Final = frozenset({"site-packages", "dist-packages"})
#: A longer path is cut at its end, where the file's name is. No real path is as long.
_PATH_LENGTH: Final = 500

_MOST_FILES: Final = 4096
_MOST_LINES: Final = 4096
#: By ``co_filename``, for the answer is the same for all code of a file. A string's hash is cached; that of a code
#: object is computed from all that it contains.
_files: Final[dict[str, str]] = {}
#: By ``co_filename``, line and function.
_lines: Final[dict[tuple[str, int, str], SharedAttributes]] = {}


class CodeLocations:
    """Whether spans get the line of code that made them."""

    __slots__ = ("on",)

    def __init__(self) -> None:
        #: False: they do not, and hot paths look no further. None: the settings have to be read first.
        self.on: bool | None = None

    def add_to(self, shared: tuple[SharedAttributes, ...]) -> tuple[SharedAttributes, ...]:
        """Return ``shared`` with the line of the user's code that called the caller. Never raises.

        Call it only if :attr:`on` is not False and the span records.
        """
        try:
            if self.on is None:
                self.on = get_settings().code_locations
            if self.on:
                location = _location(sys._getframe(1))
                if location is not None:
                    return (*shared, location)
        except Exception:
            _logger.debug("The line of code that made a call could not be found.", exc_info=True)
        return shared

    def forget(self) -> None:
        """Read the settings again."""
        self.on = None


code_locations: Final = CodeLocations()


def _setting_changed(*, setting: str, **kwargs: Any) -> None:
    if setting == "TRACING":
        code_locations.forget()


setting_changed.connect(_setting_changed, dispatch_uid="django_tracing.spans.locations")


def _location(frame: FrameType | None) -> SharedAttributes | None:
    while frame is not None:
        filename = frame.f_code.co_filename
        path = _files.get(filename)
        if path is None:
            path = _classify(filename)
        if path:
            return None if path == _ENTRY else _described(frame, path)
        frame = frame.f_back
    return None


def is_of_user(filename: str) -> bool:
    """Return whether code of this ``co_filename`` is the user's own."""
    return _path_of(filename) not in (_FOREIGN, _ENTRY)


def is_where_django_is_called(filename: str) -> bool:
    """Return whether code of this ``co_filename`` is called by a server, so that no user's code is above it."""
    return _path_of(filename) == _ENTRY


def _path_of(filename: str) -> str:
    path = _files.get(filename)
    return _classify(filename) if path is None else path


def _described(frame: FrameType, path: str) -> SharedAttributes:
    filename = frame.f_code.co_filename
    line = frame.f_lineno or frame.f_code.co_firstlineno
    function = _function(frame, filename)
    key = (filename, line, function)
    known = _lines.get(key)
    if known is None:
        make_room(_lines, _MOST_LINES)
        # The conventions in force rename none of these.
        known = _lines[key] = SharedAttributes(
            {CODE_FILEPATH: path, CODE_LINENO: line, CODE_FUNCTION: cut(function, 255)}
        )
    return known


def _function(frame: FrameType, filename: str) -> str:
    """Return the function's name; for a comprehension or generator expression, that of the function around it."""
    name = frame.f_code.co_name
    above = frame.f_back
    while name.startswith("<") and name not in ("<module>", "<lambda>") and above is not None:
        if above.f_code.co_filename == filename:
            name = above.f_code.co_name
        above = above.f_back
    return name


def _classify(filename: str) -> str:
    path = _shown_path(filename)
    make_room(_files, _MOST_FILES)
    _files[filename] = path
    return path


def _shown_path(filename: str) -> str:
    # Not a file: <string>, <frozen importlib._bootstrap>. Not Python: compiled templates, scripts in bin.
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
    django_root, own_root = os.path.dirname(django.__file__), os.path.dirname(os.path.dirname(__file__))
    entries = [(django_root, entry) for entry in _ENTRIES] + [(own_root, _CHANNELS_ENTRY)]
    return frozenset(_normal(os.path.join(root, *entry.split("/"))) for root, entry in entries)


@cache
def _foreign() -> tuple[str, ...]:
    """Return the folders whose code is not the user's, each with a separator at its end."""
    return tuple({_normal(folder).rstrip(os.sep) + os.sep for folder in _foreign_folders() if folder})


def _foreign_folders() -> Iterator[str]:
    # Imported here, so that only those who want locations wait for it.
    import sysconfig

    # Where these packages are, also in a checkout.
    yield os.path.dirname(os.path.dirname(__file__))
    yield os.path.dirname(django.__file__)
    yield from opentelemetry.__path__
    yield os.path.dirname(os.__file__)
    for name in ("stdlib", "platstdlib", "purelib", "platlib"):
        yield sysconfig.get_path(name)
    # Old virtualenvs have no such function; the user's own folder may be switched off.
    yield from getattr(site, "getsitepackages", list)()
    yield getattr(site, "USER_SITE", None) or ""


def _relative(path: str) -> str:
    """Return ``path`` relative to the longest entry of ``sys.path`` that contains it, else the file's name alone."""
    home = _normal(os.path.expanduser("~")) + os.sep
    best = ""
    for entry in sys.path:
        if not isinstance(entry, str):
            continue
        folder = _normal(entry or os.curdir).rstrip(os.sep) + os.sep
        if path.startswith(folder) and len(folder) > len(best):
            best = folder
    if path.startswith(home) and home.startswith(best) and home != best:
        # Only an entry above the home folder contains it: the path would show whose home folder it is.
        best = ""
    return path[len(best) :].replace(os.sep, "/") if best else os.path.basename(path)
