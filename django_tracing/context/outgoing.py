"""Write the headers of the trace to outgoing calls.

OpenTelemetry's instrumentations of HTTP clients overwrite the headers of a call. Here, a header that the user's code
set is kept, with all that belongs to it, and ``TRACING["PROPAGATE_TO"]`` lists the hosts that get any.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final
from urllib.parse import urlsplit

from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import (
    CarrierT,
    DefaultSetter,
    Setter,
    TextMapPropagator,
    default_setter,
)
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, get_current_span

from django_tracing.conf.loading import get_settings
from django_tracing.context.current import span_context, without_outlived
from django_tracing.faults import CONTAINED, log_once
from django_tracing.recording.sdk import propagators_of
from django_tracing.semconv.names import HTTP_URL, URL_FULL

__all__ = ["CalledSpan", "OutgoingPropagator", "may_get", "withhold"]

#: No name in the DNS is longer. Answers are kept, so a longer one would be kept, too.
_LONGEST_HOST: Final = 255
_DEFAULT_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}
#: How many header values that this process wrote are remembered. A call's headers may be sent again, to a redirect's
#: target or by a retry, and are then not the user's.
_MOST_WRITTEN: Final = 4096
_written: Final[dict[int, None]] = {}


class CalledSpan(NonRecordingSpan):
    """The span of a call that is not recorded, with the call's URL."""

    def __init__(self, context: SpanContext, url: str) -> None:
        super().__init__(context)
        self.url = url


class OutgoingPropagator(CompositePropagator):
    """All of ``propagators``. None of them changes a call that has headers of its kind already."""

    def __init__(self, propagators: Iterable[TextMapPropagator]) -> None:
        # Those of a composite one are called one by one.
        self.inner: list[TextMapPropagator] = []
        for one in propagators:
            self.inner += (propagators_of(one) if type(one) is CompositePropagator else ()) or [one]
        super().__init__(self.inner)

    def inject(
        self, carrier: CarrierT, context: Context | None = None, setter: Setter[CarrierT] = default_setter
    ) -> None:
        """Write the headers of ``context`` (default: the current one) into a call's ``carrier``. Never raises."""
        try:
            context = without_outlived(context)
            url = _called_url(context)
            hosts = get_settings().propagate_to
            if url is None or (not url and hosts is None):
                self.inject_all(carrier, context, setter)
                return
            present = _headers_of(carrier)
            if hosts is not None and not may_get(url, hosts):
                _remove_ours(carrier, present)
                return
            trace_id = f"{span_context(context).trace_id:032x}"
            for propagator in self.inner:
                there = {name: present[name] for name in map(str.lower, propagator.fields) if name in present}
                # Of this trace: the user's code got it from get_trace_context(), before this call's span was started.
                if any(trace_id in value for value in there.values()) or all(
                    _is_ours(name, value) for name, value in there.items()
                ):
                    propagator.inject(carrier, context, _RememberingSetter(setter))
        except CONTAINED:
            log_once("outgoing", "An outgoing call was made without the headers of its trace.")

    def inject_all(
        self, carrier: CarrierT, context: Context | None = None, setter: Setter[CarrierT] = default_setter
    ) -> None:
        """Write the headers of ``context`` into a ``carrier`` that is not a call's, and replace those in it."""
        super().inject(carrier, context, setter)


def _called_url(context: Context | None) -> str | None:
    """Return the URL of the call in progress in ``context``, "" where it is unknown; None where there is no call."""
    span: Any = get_current_span(context)
    if isinstance(span, CalledSpan):
        return span.url
    if getattr(span, "kind", None) is not SpanKind.CLIENT:
        return None
    attributes = span.attributes or {}
    return str(attributes.get(HTTP_URL) or attributes.get(URL_FULL) or "")


class _RememberingSetter(Setter[Any]):
    """A setter that remembers what it set."""

    __slots__ = ("_setter",)

    def __init__(self, setter: Setter[Any]) -> None:
        self._setter = setter

    def set(self, carrier: Any, key: str, value: str) -> None:
        if isinstance(self._setter, DefaultSetter):
            # A mapping that keeps the case of names would hold the same header twice.
            for name in [name for name in carrier if str(name).lower() == key.lower() and name != key]:
                del carrier[name]
        self._setter.set(carrier, key, value)
        if len(_written) >= _MOST_WRITTEN:
            with suppress(RuntimeError, StopIteration):  # another thread was quicker
                _written.pop(next(iter(_written)), None)
        _written[hash((key.lower(), value))] = None


def _headers_of(carrier: Any) -> dict[str, str]:
    """Return the headers of ``carrier``, with names in lower case; none where it is not a mapping."""
    items = getattr(carrier, "items", None)
    return {} if items is None else {str(name).lower(): str(value) for name, value in items()}


def _is_ours(name: str, value: str) -> bool:
    return hash((name, value)) in _written


def _remove_ours(carrier: Any, present: dict[str, str]) -> None:
    """Remove what was written for the host of a former call."""
    ours = {name for name, value in present.items() if _is_ours(name, value)}
    for name in [name for name in carrier if str(name).lower() in ours] if ours else ():
        del carrier[name]


def withhold(request: Any) -> None:
    """Remove what this process wrote into a library's ``request`` where its host may not get it.

    Headers that the user's code set are kept. Never raises.
    """
    try:
        hosts = get_settings().propagate_to
        if hosts is not None and not may_get(getattr(request, "full_url", None) or request.url, hosts):
            _remove_ours(request.headers, _headers_of(request.headers))
    except Exception:
        log_once("withhold", "A redirected call could not be checked for headers of its trace.")


def may_get(url: str, hosts: tuple[str, ...]) -> bool:
    """Return whether ``url`` is at one of ``hosts``: ``host``, ``host:port``, ``*.domain``, ``*``, in lower case."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").rstrip(".")
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return False
    return "*" in hosts or (len(host) <= _LONGEST_HOST and _is_listed(host, port, hosts))


@lru_cache(maxsize=1024)
def _is_listed(host: str, port: int | None, hosts: tuple[str, ...]) -> bool:
    if not host:
        return False
    # An IPv6 address is in brackets before a port.
    name = f"[{host}]" if ":" in host else host
    return any(
        entry in (name, host, f"{name}:{port}")
        or (entry.startswith("*.") and (name.endswith(entry[1:]) or f"{name}:{port}".endswith(entry[1:])))
        for entry in hosts
    )
