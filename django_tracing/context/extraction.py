"""Read a caller's context from untrusted headers: in bounded memory, in linear time, and without log lines.

Propagators log what they can't read, with the caller's bytes in it: one header causes hundreds of lines. So they get
only what is well-formed, and what they still log while they read is dropped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, Final, TypeVar
from urllib.parse import quote_plus, unquote, unquote_plus

from opentelemetry import propagate
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import CarrierT, Getter, TextMapPropagator

from django_tracing.context.current import without_outlived
from django_tracing.context.marks import make_mark
from django_tracing.faults import CONTAINED, log_once
from django_tracing.recording.sdk import propagators_of
from django_tracing.redaction.patterns import pattern

__all__ = [
    "extract",
    "inject",
    "of_last",
    "well_formed_baggage",
    "well_formed_traceparent",
    "well_formed_tracestate",
    "without_gaps",
]

#: Whether a propagator is running, for the filter of its loggers.
_at_work: Final = make_mark("propagating", False)

T = TypeVar("T")
V = TypeVar("V")

#: https://www.w3.org/TR/trace-context/#traceparent-header; of later versions, more may follow.
_TRACEPARENT: Final = pattern(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(?:-[!-~]*)?")
_LONGEST_TRACEPARENT: Final = 200

#: https://www.w3.org/TR/trace-context/#tracestate-header
_STATE_KEY: Final = pattern(r"[a-z][_0-9a-z*/-]{0,255}|[a-z0-9][_0-9a-z*/-]{0,240}@[a-z][_0-9a-z*/-]{0,13}")
_STATE_VALUE: Final = pattern(r"[ -+\--<>-~]{1,256}")
_MOST_STATES: Final = 32
#: In all. OpenTelemetry drops more, with a log line.
_LONGEST_STATES: Final = 512

#: https://www.w3.org/TR/baggage/#header-content. Names as they are in the headers of others (``uberctx-NAME``), too.
_BAGGAGE_NAME: Final = pattern(r"[!#$&'*+.^_`|~0-9A-Za-z-]+")
_BAGGAGE_VALUE: Final = pattern(r"[!#-+\--:<-\[\]-~]*")
_MOST_PAIRS: Final = 180
_LONGEST_PAIR: Final = 4096
_LONGEST_BAGGAGE: Final = 8192
#: What the names of Jaeger's headers with baggage begin with.
_JAEGER_BAGGAGE: Final = "uberctx-"

#: A longer header is ignored.
_LONGEST: Final = 8192
#: Further headers are ignored: servers allow about a hundred.
_MOST_HEADERS: Final = 256


def extract(carrier: CarrierT, context: Context, getter: Getter[CarrierT]) -> Context:
    """Return ``context`` with what the configured propagators find in ``carrier``. Never raises or logs."""
    propagator = propagate.get_global_textmap()
    _silence(propagator)
    token = _at_work.set(True)
    try:
        found: object = propagator.extract(carrier, context, _WellFormed(getter))
        return found if isinstance(found, Context) else context
    except CONTAINED:
        log_once("extract", "The context of a caller could not be read. It is ignored.")
        return context
    finally:
        _at_work.reset(token)


def inject(carrier: dict[str, str], context: Context | None = None) -> None:
    """Write the headers of ``context`` (default: the current one) into ``carrier``, without log lines."""
    propagator = propagate.get_global_textmap()
    _silence(propagator)
    token = _at_work.set(True)
    try:
        # Called by name, it is not the call of an HTTP client, which may have its own headers.
        getattr(propagator, "inject_all", propagator.inject)(carrier, without_outlived(context))
    finally:
        _at_work.reset(token)


class _Silence(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not _at_work.get()


_silent: Final = _Silence()


def of_last(compute: Callable[[T], V]) -> Callable[[T], V]:
    """Return ``compute``, whose result for the last object is kept. A process has one propagator, which may have no
    hash: Logfire's has none."""
    kept: list[tuple[T, V]] = []

    @wraps(compute)
    def computed(argument: T) -> V:
        known = kept[0] if kept else None
        if known is not None and known[0] is argument:
            return known[1]
        result = compute(argument)
        kept[:] = [(argument, result)]
        return result

    return computed


@of_last
def _silence(propagator: TextMapPropagator) -> None:
    """Filter the loggers of OpenTelemetry and of the propagators' modules while a propagator runs."""
    modules = {"opentelemetry"}
    for one in (propagator, *propagators_of(propagator)):
        modules.add(type(one).__module__)
        # It may be created only when there is something to log.
        logging.getLogger(type(one).__module__)
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and any(
            name == module or name.startswith(f"{module}.") for module in modules
        ):
            logger.addFilter(_silent)


# ----- the input of propagators


class _WellFormed(Getter[Any]):
    """The well-formed values of another getter, for one carrier."""

    __slots__ = ("_getter", "_read", "_room")

    def __init__(self, getter: Getter[Any]) -> None:
        self._getter = getter
        self._room = _Room()
        #: Each name is read once: reading Jaeger's baggage takes room.
        self._read: dict[str, list[str] | None] = {}

    def get(self, carrier: Any, key: str) -> list[str] | None:
        read = self._read
        if key not in read:
            read[key] = self._well_formed(carrier, key)
        return read[key]

    def _well_formed(self, carrier: Any, key: str) -> list[str] | None:
        values = self._getter.get(carrier, key)
        if not values:
            return None
        # Several headers of one name are one, with commas.
        value = values[0] if len(values) == 1 else ",".join(values)
        if len(value) > _LONGEST:
            return None
        value = without_gaps(value)
        name = key.lower()
        read = _READERS.get(name)
        if read is not None:
            value = read(value)
        elif name == "baggage":
            value = well_formed_baggage(value, self._room)
        elif not value.isprintable():
            return None
        elif name.startswith(_JAEGER_BAGGAGE):
            # It becomes a part of a header's name again. A job carries any text as a name, and some servers do.
            if not _BAGGAGE_NAME.fullmatch(name):
                return None
            written = quote_plus(name[len(_JAEGER_BAGGAGE) :]), quote_plus(unquote(value).strip())
            if not self._room.take(len(written[0]) + 1 + len(written[1])):
                return None
        return [value] if value else None

    def keys(self, carrier: Any) -> list[str]:
        # Old propagators fail on a listed name that has no value. W3C's baggage is read by its name only, and reading
        # it takes room.
        return [
            key
            for key in list(self._getter.keys(carrier))[:_MOST_HEADERS]
            if len(key) <= _LONGEST_PAIR and (key.lower() == "baggage" or self.get(carrier, key))
        ]


class _Room:
    """How much baggage still fits in the one header to which all of it is written again."""

    __slots__ = ("length", "pairs")

    def __init__(self) -> None:
        self.pairs = _MOST_PAIRS
        self.length = _LONGEST_BAGGAGE

    def take(self, size: int) -> bool:
        if size > _LONGEST_PAIR or size >= self.length or not self.pairs:
            return False
        self.pairs -= 1
        # With the comma that follows.
        self.length -= size + 1
        return True


#: Propagators search for the white space around a comma from each of its positions.
_GAP: Final = " " * 16


def without_gaps(value: str) -> str:
    """Return ``value`` with single spaces where it has long white space or a tab."""
    return value if _GAP not in value and "\t" not in value else " ".join(value.split())


def well_formed_traceparent(value: str) -> str:
    """Return ``value`` where it is a traceparent, else an empty string."""
    value = value.strip(" \t")
    return value if len(value) <= _LONGEST_TRACEPARENT and _TRACEPARENT.fullmatch(value) else ""


def well_formed_tracestate(value: str) -> str:
    """Return as many of the first members of a tracestate as may be passed on; none where one is malformed."""
    members: list[str] = []
    known: set[str] = set()
    length = -1
    full = False
    for part in value.split(","):
        member = part.strip(" \t")
        if not member:
            continue
        key, _, text = member.partition("=")
        if (
            len(known) >= _MOST_STATES
            or key in known
            or not _STATE_KEY.fullmatch(key)
            or not _STATE_VALUE.fullmatch(text)
        ):
            return ""
        known.add(key)
        length += len(member) + 1
        full = full or length > _LONGEST_STATES
        if not full:
            members.append(member)
    return ",".join(members)


def well_formed_baggage(value: str, room: _Room | None = None) -> str:
    """Return the well-formed members of a baggage, as many as may be passed on."""
    members: list[str] = []
    room = room or _Room()
    for part in value.split(","):
        member = part.strip(" \t")
        if not member or len(member) > _LONGEST_PAIR or not member.isascii():
            continue
        name, equals, text = member.partition("=")
        name, text = name.strip(" \t"), text.strip(" \t")
        if not equals or not _is_value(text):
            continue
        # Its name when it is passed on, by any propagator: it may become part of a header's name.
        plain = unquote_plus(name).strip()
        if not _BAGGAGE_NAME.fullmatch(name.replace("%", "")) or not _BAGGAGE_NAME.fullmatch(plain):
            continue
        # The length when it is written again, with more characters quoted than it came with.
        size = len(quote_plus(plain)) + 1 + len(quote_plus(unquote_plus(text).strip()))
        if not room.take(size):
            if not room.pairs:
                break
            continue
        members.append(f"{name}={text}")
    return ",".join(members)


def _is_value(text: str) -> bool:
    """Return whether ``text`` is the value of a member, with properties (``v;p;q=1``) or without."""
    value, *properties = text.split(";")
    if not _BAGGAGE_VALUE.fullmatch(value):
        return False
    for one in properties:
        name, _, text = one.partition("=")
        if not _BAGGAGE_NAME.fullmatch(name.strip(" \t")) or not _BAGGAGE_VALUE.fullmatch(text.strip(" \t")):
            return False
    return True


_READERS: Final[Mapping[str, Callable[[str], str]]] = {
    "traceparent": well_formed_traceparent,
    "tracestate": well_formed_tracestate,
}
