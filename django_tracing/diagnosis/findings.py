"""Hold what the steps of a diagnosis find and share."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from opentelemetry.sdk.trace.export import SpanExporter

from django_tracing.conf.values import Settings
from django_tracing.diagnosis.advice import ADVICE, PORTS, place
from django_tracing.diagnosis.probes import within
from django_tracing.net import parse_address, shown_address
from django_tracing.redaction.printable import printable

__all__ = ["NETWORKED", "Outcome", "Run", "Step", "Stop", "shown"]

T = TypeVar("T")

Outcome = Literal["ok", "warning", "failed", "skipped"]

#: The length of a text of a step, in characters.
_LONGEST_TEXT: Final = 2000
#: Shorter words of a credential may occur anywhere, and are not redacted.
_SHORTEST_SECRET: Final = 6
#: The exporters that send over a network.
NETWORKED: Final = ("otlp", "otlp-grpc", "jaeger")


@dataclass(frozen=True)
class Step:
    """One finding. ``meaning`` and ``remedy`` explain a failure or a warning, and what to do."""

    name: str
    outcome: Outcome
    detail: str
    meaning: str = ""
    remedy: str = ""
    #: How long the step took, in seconds.
    seconds: float = 0.0


class Stop(Exception):
    """Raised by a step to skip all following steps."""


class Run:
    """What the steps of one diagnosis share."""

    def __init__(self, settings: Settings, *, timeout: float, query: bool) -> None:
        self.settings = settings._replace(export_timeout=min(settings.export_timeout, max(timeout / 2, 0.1)))
        #: The id of the test trace.
        self.trace_id: str | None = None
        #: Where a person finds the trace: an address, or a command.
        self.link: str | None = None
        #: 0 if the trace arrived; 1 if it did not, or if that is unknown; 2 if the settings are wrong.
        self.exit_code = 1
        self.timeout = timeout
        #: Whether the trace is read back.
        self.query = query
        self.deadline = time.monotonic() + timeout
        self.exporter: SpanExporter | None = None
        #: The sources of the settings ENDPOINT and EXPORTER.
        self.sources = settings.source("ENDPOINT"), settings.source("EXPORTER")
        #: Where the endpoint is set, for people.
        self.endpoint_place = 'TRACING["ENDPOINT"]' if self.sources[0] == "default" else place(self.sources[0])
        self._secrets = _secrets(settings)

    def remaining(self) -> float:
        """Return the seconds until the deadline: at least 50 ms, so that every step can try."""
        return max(0.05, self.deadline - time.monotonic())

    def bounded(self, function: Callable[[], T]) -> T:
        """Call ``function``, and raise TimeoutError at the deadline."""
        return within(self.remaining(), function)

    def redact(self, text: str) -> str:
        """Remove credentials and control characters, since exporters and servers may repeat what they received."""
        for secret in self._secrets:
            text = text.replace(secret, "[redacted]")
        return printable(text, _LONGEST_TEXT)

    def failure(self, name: str, reason: str, detail: str) -> Step:
        """Return a failed step with the advice for the reason of an ExportError."""
        meaning, remedy = ADVICE[reason]
        address = self.address()
        usual = PORTS.get(address[1]) if address is not None else None
        if usual is not None:
            meaning = f"{meaning} {usual}"
        if reason == "compression":
            remedy = self.advise_setting("COMPRESSION", "none")
        return Step(name, "failed", detail, meaning, remedy.format(at=self.endpoint_place))

    def endpoints(self) -> tuple[str, ...]:
        """Return the endpoints if there are several."""
        settings = self.settings
        return settings.endpoints if settings.endpoint in settings.endpoints else ()

    def address(self) -> tuple[str, int, str] | None:
        """Return host, port and scheme of the endpoint; None if the exporter does not send over a network."""
        if self.settings.exporter not in NETWORKED or self.settings.endpoint is None:
            return None
        udp = self.settings.endpoint.startswith("udp:")
        port = 4317 if self.settings.exporter == "otlp-grpc" else 6831 if udp else None
        address = parse_address(self.settings.endpoint, port=port)
        return address.host, address.port, address.scheme

    def unconfirmed(self) -> bool:
        """Return whether the exporter gets no answer, so that only reading the trace back shows its arrival."""
        address = self.address()
        return address is not None and address[2] == "udp"

    def source_note(self, name: str) -> str:
        """Return the source of a setting in parentheses; "" for a default."""
        source = self.settings.source(name)
        return "" if source == "default" else f" ({source})"

    def advise_setting(self, name: str, value: str, before: str = "") -> str:
        """Tell how to set a setting to ``value``, in the place where it is set now."""
        source = self.settings.source(name)
        if source.startswith("--"):
            return f'Use {source} {before}"{value}".'
        where = f'TRACING["{name}"]' if source == "default" else place(source)
        return f'Set {where} to {before}"{value}".'

    def advise_credentials(self) -> str:
        """Tell where to set the credentials for the backend."""
        if self.settings.exporter == "jaeger":
            return f"Put them into {self.endpoint_place}: http://user:password@host:14268/api/traces."
        source = self.settings.source("HEADERS")
        if source == "default":
            return (
                'Set them, for example with TRACING["HEADERS"] = {"authorization": "Bearer ..."} or '
                "OTEL_EXPORTER_OTLP_HEADERS=authorization=Bearer%20..."
            )
        return f"Correct the credentials in {place(source)}."


def shown(url: str | None) -> str:
    """Return a URL for people: without credentials."""
    return "nowhere" if url is None else shown_address(url)


def _secrets(settings: Settings) -> tuple[str, ...]:
    """Return the words that must not be printed, the longest first."""
    found: set[str] = set()
    for value in settings.headers.values():
        found.update(value.split())
    for url in filter(None, (settings.endpoint, settings.query_url)):
        parts = urlsplit(url)
        for text in (parts.username, parts.password):
            if text:
                found.update((text, unquote(text)))
        found.update(value for _, value in parse_qsl(parts.query))
    return tuple(sorted((text for text in found if len(text) >= _SHORTEST_SECRET), key=len, reverse=True))
