"""Whether traces arrive, and if not, why: findings as data, for ``check_tracing`` and the admin to print.

A diagnosis sends a real test trace through the very exporter that the settings give, and reads it back.
"""

from __future__ import annotations

import base64
import http.client
import os
import re
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import Any, Final, Literal, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from django.db import connections
from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from django_tracing.addresses import shown_address
from django_tracing.conf.loading import QUERY_PORT, get_settings, load
from django_tracing.conf.values import Settings
from django_tracing.context.current import suppressed
from django_tracing.diagnosis.probes import Speech, post, recognise, within
from django_tracing.export.errors import ExportError, from_os_error, from_status
from django_tracing.instrumentation import OURS, is_available, wanted
from django_tracing.instrumentation.upstream import registry as upstream
from django_tracing.provider import make_exporter, make_provider
from django_tracing.reading import get_reader
from django_tracing.redaction.printable import printable
from django_tracing.sampling.database import look
from django_tracing.sampling.remote import JaegerRemoteSampler, Strategy
from django_tracing.sampling.rules import Rule
from django_tracing.spans import runtime
from django_tracing.traces.model import Reader, ReadError, Trace
from django_tracing.traces.readers.jaeger.reader import JaegerReader

__all__ = ["Diagnosis", "Outcome", "Step"]

T = TypeVar("T")

Outcome = Literal["ok", "warning", "failed", "skipped"]

#: Characters of one finding.
_MOST_SAID: Final = 2000
_NETWORKED: Final = ("otlp", "otlp-grpc", "jaeger")

#: How a port's speech is called.
_SPEECH: Final[dict[Speech, str]] = {
    "otlp": "OTLP over HTTP",
    "otlp-grpc": "gRPC",
    "jaeger": "Jaeger's thrift over HTTP",
    "query": "Jaeger's query API",
    "tls": "TLS",
    "postgresql": "PostgreSQL's language",
    "redis": "Redis' language",
}
#: What listens on a port by custom that can't be asked, or not be spoken to.
_PORTS: Final = {
    14250: "14250 is by custom Jaeger's old gRPC, which this app does not speak.",
    6831: "6831 is by custom Jaeger's thrift over UDP: udp://HOST:6831.",
    9411: "9411 is by custom Zipkin's port.",
}

#: An ExportError's reason -> what it means, and what to do. ``{at}`` is where the endpoint is set.
_ADVICE: Final[dict[str, tuple[str, str]]] = {
    "refused": (
        "The host is there, but no program listens on that port.",
        "Start Jaeger (or the collector), or correct host and port in {at}.",
    ),
    "dns": (
        "No computer is known by that name from here.",
        "Correct the host name in {at}, or run this where the name is known (the same Docker network, say).",
    ),
    "tls": (
        "No encrypted connection could be made.",
        "Write http:// in {at} if the port is not encrypted, or mend the certificate.",
    ),
    "timeout": (
        "The backend hangs or is overloaded, a firewall drops what is sent, or the port is another program's.",
        "Look at the backend, and whether host and port in {at} are right; more patience: --timeout.",
    ),
    "unreachable": ("The network does not lead there.", "Check the address in {at}, routes and firewalls."),
    "unauthorized": ("The backend wants other credentials.", ""),
    "not_found": (
        "Something answers there, but takes no spans at that path.",
        "Correct path or port in {at}. Jaeger and collectors take OTLP over HTTP on port 4318, path /v1/traces.",
    ),
    "wrong_protocol": (
        "What listens on that port speaks another protocol than is spoken to it.",
        "Correct the port in {at}. Jaeger and collectors take OTLP over HTTP on 4318 and over gRPC on 4317, Jaeger "
        "takes thrift on 14268 (/api/traces).",
    ),
    "compression": ("The backend knows no gzip, or what stands before it does not.", ""),
    "rejected": (
        "The backend understood the spans and did not want them (a limit, a quota, another tenant).",
        "Look into the backend's log.",
    ),
    "unavailable": ("The backend is overloaded or not whole.", "Look into its log, and try again later."),
    "failed": (
        "The exporter itself failed.",
        "Look its message up, or choose another EXPORTER.",
    ),
}
#: A StoreError's reason -> what it means.
_STORE: Final = {
    "read_only": "The file or its folder can't be written by this user.",
    "full": "There is no room for another trace.",
    "busy": "Another process held the file all the time.",
    "foreign": "A file that is not this app's is never written to.",
}
#: https://docs.openssl.org/master/man3/X509_STORE_CTX_get_error/ -> what it means, and what to do.
_CERTIFICATE: Final = {
    9: ("It is not valid yet, by the clock of this machine.", "Set the clock, or mend the server's certificate."),
    10: ("It has expired.", "Renew the server's certificate."),
    62: ("It belongs to another name.", "Write a name in {at} that stands in the certificate."),
    64: ("It belongs to another address.", "Write a name in {at} that stands in the certificate."),
}
_UNTRUSTED: Final = (
    "No authority that is trusted here vouches for it.",
    "Have its authority trusted here: {variable}=/path/to/ca.pem in the environment.",
)


@dataclass(frozen=True)
class Step:
    """One finding: ``meaning`` and ``remedy`` say what a failure or warning means and what to do."""

    name: str
    outcome: Outcome
    detail: str
    meaning: str = ""
    remedy: str = ""
    #: How long the step took, in seconds.
    seconds: float = 0.0


class _Stop(Exception):
    """A step failed in such a way that the next ones have no sense."""


class Diagnosis:
    """Runs the steps; afterwards knows whether the trace arrived.

    ``timeout`` is in seconds, for all of it; ``query`` says whether the trace is to be read back.
    """

    def __init__(self, settings: Settings, *, timeout: float = 10.0, query: bool = True) -> None:
        self.settings = settings._replace(export_timeout=min(settings.export_timeout, max(timeout / 2, 0.1)))
        self.trace_id: str | None = None
        #: Where a person looks at the trace: an address, or a command.
        self.link: str | None = None
        #: 0 when the trace arrived, 1 when not (or nobody knows), 2 for bad settings.
        self.exit_code = 1
        self._timeout = timeout
        self._query = query
        self._deadline = 0.0
        self._exporter: SpanExporter | None = None
        self._secrets = _secrets(settings)
        self._sources = settings.source("ENDPOINT"), settings.source("EXPORTER")
        #: Where the endpoint is set, for people.
        self._at = 'TRACING["ENDPOINT"]' if self._sources[0] == "default" else _place(self._sources[0])

    def steps(self) -> Iterator[Step]:
        """The findings, as they are made. Never raises."""
        self._deadline = time.monotonic() + self._timeout
        parts = (
            ("settings", self._check_settings),
            ("sampling", self._check_sampling),
            ("traced", self._check_instrumentations),
            ("exporter", self._check_exporter),
            ("name", self._check_name),
            ("port", self._check_port),
            ("tls", self._check_tls),
            ("protocol", self._check_protocol),
            ("send", self._send),
            ("read", self._read_back),
        )
        try:
            for name, part in parts:
                started = time.monotonic()
                try:
                    for step in part():
                        yield self._finished(step, started)
                        started = time.monotonic()
                except _Stop:
                    return
                except TimeoutError:
                    meaning, remedy = _ADVICE["timeout"] if name != "name" else _ADVICE["dns"]
                    detail = f"There was no answer when the {self._timeout:g} s of this check were over."
                    yield self._finished(Step(name, "failed", detail, meaning, remedy.format(at=self._at)), started)
                    return
                except Exception as error:
                    detail = f"{type(error).__name__}: {error}"
                    step = Step(name, "failed", detail, "That is a fault of django_tracing.", "Please report it.")
                    yield self._finished(step, started)
                    return
        finally:
            exporter = self._exporter
            if exporter is not None:
                with suppress(Exception):
                    within(1.0, exporter.shutdown)

    def _finished(self, step: Step, started: float) -> Step:
        if step.outcome == "failed" and self.exit_code == 0:
            self.exit_code = 1
        return replace(
            step,
            detail=self._masked(step.detail),
            meaning=self._masked(step.meaning),
            remedy=self._masked(step.remedy),
            seconds=time.monotonic() - started,
        )

    def _masked(self, text: str) -> str:
        # Other people's exporters and servers may repeat what they were given, and say what a terminal would obey.
        for secret in self._secrets:
            text = text.replace(secret, "[redacted]")
        return printable(text, _MOST_SAID)

    def _left(self) -> float:
        return max(0.05, self._deadline - time.monotonic())

    def _bounded(self, function: Callable[[], T]) -> T:
        return within(self._left(), function)

    def _failed(self, name: str, reason: str, detail: str) -> Step:
        meaning, remedy = _ADVICE[reason]
        address = self._address()
        custom = _PORTS.get(address[1]) if address is not None else None
        if custom is not None:
            meaning = f"{meaning} {custom}"
        if reason == "compression":
            remedy = self._set("COMPRESSION", "none")
        return Step(name, "failed", detail, meaning, remedy.format(at=self._at))

    # ----- what is configured

    def _check_settings(self) -> Iterator[Step]:
        settings = self.settings
        if settings.problems:
            self.exit_code = 2
            for problem in settings.problems:
                detail = f"{problem.source} {problem.message}"
                yield Step("settings", "failed", detail, "Tracing is off until it is mended.", problem.hint)
            raise _Stop
        if not settings.enabled:
            yield Step(
                "settings",
                "failed",
                f"Tracing is switched off by {settings.source('ENABLED')}.",
                "No request is traced.",
                "Take that setting out, or set it to the contrary.",
            )
            raise _Stop
        words = [f'service "{settings.service_name}"{self._from("SERVICE_NAME")}, exporter {settings.exporter}']
        if self._sources[1] != self._sources[0]:
            words.append(self._from("EXPORTER"))
        if settings.exporter in _NETWORKED:
            words.append(f" to {_shown(settings.endpoint)}{self._from('ENDPOINT')}")
        elif settings.exporter == "local":
            words.append(f" in {settings.local_store}{self._from('LOCAL_STORE')}")
        yield Step("settings", "ok", "".join(words))

    def _check_sampling(self) -> Iterator[Step]:
        settings = self.settings
        rules = self._sampling_rules() if settings.sampling_refresh else []
        remote = settings.remote_sampling_url
        if rules:
            shown = ", ".join(f"{rule.name} {rule.rate * 100:g} %" for rule in rules[:5])
            more = f" and {len(rules) - 5} more" if len(rules) > 5 else ""
            rest = f"; else {settings.sample_rate * 100:g} %" if remote is None else ""
            yield Step("sampling", "ok", f"by the rules of the admin: {shown}{more}{rest}")
        if remote is not None:
            asked = JaegerRemoteSampler(settings.service_name, remote, refresh=3600)
            server = _shown(remote)
            if asked.ask():
                # It decides what no rule does: SAMPLE_RATE nothing.
                yield Step("sampling", "ok", f"by {server}: {_strategy(asked.strategy)}")
                return
            yield Step(
                "sampling",
                "warning",
                f"{server} gave no strategy that can be read.",
                "The strategy known last, or SAMPLE_RATE, stays in force.",
                f"Look at {_place(settings.source('REMOTE_SAMPLING_URL'))}: does that Jaeger serve sampling?",
            )
        if settings.sample_rate < 1:
            kept = ["its caller was"]
            if settings.keep_errors:
                kept.append("it fails (KEEP_ERRORS)")
            if settings.keep_slower_than is not None:
                kept.append(f"it takes longer than {settings.keep_slower_than:g} s (KEEP_SLOWER_THAN)")
            of_what = "the traces that no rule decides" if rules else "the traces"
            yield Step(
                "sampling",
                "warning",
                f"{settings.sample_rate * 100:g} % of {of_what} are recorded ({settings.source('SAMPLE_RATE')}).",
                f"A request of the others is recorded only when {' or '.join(kept)}.",
                "Set SAMPLE_RATE to 1 to see each request. The test trace is sent all the same.",
            )

    def _sampling_rules(self) -> list[Rule]:
        """The rules of the database; none where it does not answer soon."""
        found: list[Rule] = []

        def read() -> None:
            # A database that is down is not what is being looked for.
            with suppress(Exception):
                try:
                    found.extend(look())
                finally:
                    connections.close_all()

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        reader.join(min(2.0, max(self._deadline - time.monotonic(), 0.0)))
        return list(found)

    def _from(self, name: str) -> str:
        source = self.settings.source(name)
        return "" if source == "default" else f" ({source})"

    def _check_instrumentations(self) -> Iterator[Step]:
        settings = self.settings
        on = [name for name in wanted(settings) if is_available(name)]
        yield Step("traced", "ok", ", ".join(on) or "nothing")
        explicit = settings.source("INSTRUMENTATIONS") != "default"
        for name in settings.instrumentations:
            if name in on or (name in OURS and not explicit):
                continue
            library = upstream.library_of(name)
            has_library = library is not None and library != "urllib.request" and find_spec(library) is not None
            if name not in OURS and not _packaged(name) and (explicit or has_library):
                package = f"opentelemetry-instrumentation-{name}"
                yield Step(
                    "traced",
                    "warning",
                    f"{name} is not traced: the package {package} is not installed.",
                    f"Calls made with {name} make no spans, and carry no trace to the services they reach.",
                    f"pip install {package}",
                )
            elif explicit:
                yield Step(
                    "traced",
                    "warning",
                    f"{name} is not traced: its library is not installed.",
                    f"{settings.source('INSTRUMENTATIONS')} names what this project does not have.",
                    "Install the library, or take the name out.",
                )

    def _check_exporter(self) -> Iterator[Step]:
        settings = self.settings
        try:
            self._exporter = make_exporter(settings)
        except Exception as error:
            self.exit_code = 2
            message = str(error) or type(error).__name__
            problem, install, package = message.partition(": pip install ")
            remedy = f"{install[2:]}{package}" if install else f"Correct {settings.source('EXPORTER')}."
            yield Step(
                "exporter",
                "failed",
                f"The exporter {settings.exporter} can't be made: {problem.rstrip('.')}.",
                "Requests are traced, and the spans are thrown away.",
                remedy,
            )
            raise _Stop from None
        if self._exporter is None:
            yield Step(
                "exporter",
                "failed",
                f'EXPORTER is "none" ({settings.source("EXPORTER")}): no span is sent anywhere.',
                "Requests are traced, and the spans are thrown away.",
                'Set EXPORTER to "local", or ENDPOINT to the address of a Jaeger.',
            )
            raise _Stop
        if isinstance(self._exporter, ConsoleSpanExporter):
            # A program may be reading what the command prints.
            self._exporter.out = sys.stderr
        if settings.compression != "none" and settings.exporter not in ("otlp", "otlp-grpc"):
            yield Step(
                "exporter",
                "warning",
                f"The exporter {settings.exporter} compresses nothing ({settings.source('COMPRESSION')}).",
                "COMPRESSION is for OTLP, over HTTP and over gRPC.",
                'Set EXPORTER to "otlp" or "otlp-grpc" where the backend takes them, or take COMPRESSION out.',
            )
        live = get_settings()
        if (
            live.enabled
            and live.exporter != "none"
            and runtime.current.queue is None
            and self._sources[0] != "--endpoint"
        ):
            yield Step(
                "exporter",
                "warning",
                "This process had a TracerProvider before Django started; it is the one that exports spans.",
                "What is tried here is this app's own exporter; the spans of requests take the other's way.",
                "Look at the other's settings (OTEL_EXPORTER_OTLP_ENDPOINT under opentelemetry-instrument), or set "
                'TRACING["ENDPOINT"]: this app then exports, too.',
            )

    # ----- the way there

    def _address(self) -> tuple[str, int, str] | None:
        """Host, port and scheme of the endpoint; None where nothing goes over a network."""
        if self.settings.exporter not in _NETWORKED or self.settings.endpoint is None:
            return None
        parts = urlsplit(self.settings.endpoint)
        port = parts.port or {"https": 443, "http": 80}.get(parts.scheme, 6831)
        if self.settings.exporter == "otlp-grpc":
            port = parts.port or 4317
        return parts.hostname or "localhost", port, parts.scheme

    def _check_name(self) -> Iterator[Step]:
        address = self._address()
        if address is None:
            return
        host, port, _ = address
        try:
            found = self._bounded(lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (socket.gaierror, UnicodeError):
            yield self._failed("name", "dns", f"The host name {host} is unknown.")
            raise _Stop from None
        addresses = sorted({str(item[4][0]) for item in found})
        yield Step("name", "ok", host if addresses == [host] else f"{host} is {', '.join(addresses)}")

    def _check_port(self) -> Iterator[Step]:
        address = self._address()
        if address is None:
            return
        host, port, scheme = address
        if scheme == "udp":
            yield Step(
                "port", "skipped", "UDP is sent without an answer: only reading back tells whether it arrived."
            )
            return
        patience = min(self._left(), self.settings.export_timeout)
        try:
            self._bounded(lambda: socket.create_connection((host, port), timeout=patience).close())
        except OSError as error:
            explained = from_os_error(error, _netloc(host, port))
            yield self._failed("port", explained.reason, str(explained))
            raise _Stop from None
        yield Step("port", "ok", f"{_netloc(host, port)} takes connections")

    def _check_tls(self) -> Iterator[Step]:
        address = self._address()
        if address is None or address[2] != "https":
            return
        host, port, _ = address
        where = _netloc(host, port)
        grpc = self.settings.exporter == "otlp-grpc"
        variable = "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH" if grpc else "SSL_CERT_FILE"
        try:
            version = self._bounded(lambda: self._handshake(host, port, os.environ.get(variable) if grpc else None))
        except ssl.SSLCertVerificationError as error:
            meaning, remedy = _CERTIFICATE.get(error.verify_code, _UNTRUSTED)
            yield Step(
                "tls",
                # grpc brings a list of authorities of its own: whether it accepts, the next step tells.
                "warning" if grpc else "failed",
                f"The certificate of {where} is not accepted: {error.verify_message.rstrip('.')}.",
                meaning,
                remedy.format(at=self._at, variable=variable),
            )
            if grpc:
                return
            raise _Stop from None
        except OSError as error:
            explained = from_os_error(error, where)
            step = self._failed("tls", "tls", str(explained))
            if "does not speak TLS" in str(explained):
                plain = _shown(self.settings.endpoint).replace("https://", "http://", 1)
                step = replace(step, meaning="The port is not encrypted.", remedy=self._set("ENDPOINT", plain))
            yield step
            raise _Stop from None
        yield Step("tls", "ok", f"{version}, certificate accepted")

    def _handshake(self, host: str, port: int, authorities: str | None) -> str | None:
        patience = min(self._left(), self.settings.export_timeout)
        context = ssl.create_default_context(cafile=authorities)
        if self.settings.exporter == "otlp-grpc":
            # Without it some gRPC servers hang up.
            context.set_alpn_protocols(["h2"])
        with (
            socket.create_connection((host, port), timeout=patience) as raw,
            context.wrap_socket(raw, server_hostname=host) as connection,
        ):
            return connection.version()

    def _check_protocol(self) -> Iterator[Step]:
        """An empty message, which stores nothing, tells a receiver of spans from what is none."""
        address = self._address()
        if address is None or address[2] == "udp":
            return
        try:
            self._bounded(self._ask)
        except ExportError as error:
            yield from self._judged(error)
            return
        yield Step("protocol", "ok", _SPEECH[self._speech()])

    def _speech(self) -> Speech:
        return self.settings.exporter  # type: ignore[return-value]

    def _ask(self) -> None:
        """Raises ExportError where an empty message is not taken."""
        exporter, endpoint = self._exporter, self.settings.endpoint
        assert exporter is not None and endpoint is not None
        if self.settings.exporter != "jaeger":
            context_api.attach(suppressed())
            exporter.export(())
            return
        # The frozen exporter sends nothing when there is nothing, and takes a web page for success.
        parts = urlsplit(endpoint)
        headers = {"Content-Type": "application/x-thrift"}
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
        bare = parts._replace(netloc=parts.netloc.rpartition("@")[2])
        try:
            status, kind, body = post(bare.geturl(), headers, self.settings.export_timeout)
        except OSError as error:
            raise from_os_error(error, bare.netloc) from None
        except http.client.HTTPException:
            raise ExportError(
                f"{bare.netloc} does not speak HTTP.", reason="wrong_protocol", retryable=False
            ) from None
        if status == 400 and b"jaeger.Batch" in body:
            return
        if status >= 300:
            raise from_status(status, _shown(endpoint))
        if kind.startswith("text/html"):
            raise ExportError(
                f"{_shown(endpoint)} answers with a web page: it takes no spans.",
                reason="wrong_protocol",
                retryable=False,
            )

    def _judged(self, error: ExportError) -> Iterator[Step]:
        """What an empty message's fate says; what only a real one can tell is left to the next step."""
        if error.reason == "unauthorized":
            yield replace(self._failed("protocol", "unauthorized", str(error)), remedy=self._credentials())
            raise _Stop
        if error.reason == "compression":
            yield self._failed("protocol", "compression", str(error))
            raise _Stop
        if error.status is not None and 300 <= error.status < 400:
            yield Step(
                "protocol",
                "failed",
                str(error),
                "Whoever answers sends callers elsewhere, as login pages do; redirects are not followed.",
                f"Write an address in {self._at} that takes spans by itself.",
            )
            raise _Stop
        suspicious = error.reason in ("not_found", "wrong_protocol", "unreachable", "tls")
        # grpc says UNAVAILABLE to whatever it can't connect to.
        unclear = error.reason in ("unavailable", "timeout") and self.settings.exporter == "otlp-grpc"
        found = self._found() if suspicious or unclear else None
        if found is not None:
            meaning = f"That port speaks {_SPEECH[found]}, and {_SPEECH[self._speech()]} was spoken to it."
            if found == "query":
                meaning = "That port is Jaeger's UI and query API, for reading; spans go to another."
            elif found == self._speech():
                meaning = f"That port speaks {_SPEECH[found]}, at another path."
            yield Step("protocol", "failed", str(error), meaning, self._instead(found))
            raise _Stop
        # Some receivers take an empty message for a broken one.
        if (suspicious and error.status != 400) or error.reason == "timeout":
            # The port took a connection a moment ago: it is not the network.
            reason = "wrong_protocol" if error.reason == "unreachable" else error.reason
            yield self._failed("protocol", reason, str(error))
            raise _Stop
        yield Step("protocol", "warning", str(error), "It does not want an empty message; a trace may do better.")

    def _found(self) -> Speech | None:
        """What the port speaks, if it is not what is spoken to it."""
        address = self._address()
        assert address is not None
        host, port, scheme = address
        try:
            found = self._bounded(lambda: recognise(host, port, secure=scheme == "https", timeout=1.0))
        except TimeoutError:
            return None
        if found == "otlp-grpc" and port in _PORTS:
            return None  # gRPC, but not OTLP's
        # OTLP at another path than the configured is a finding, too.
        path = urlsplit(self.settings.endpoint or "").path
        return None if found == self.settings.exporter and path in ("", "/", "/v1/traces", "/api/traces") else found

    def _instead(self, found: Speech) -> str:
        """The setting that fits what a port speaks."""
        address = self._address()
        assert address is not None
        host, port, scheme = address
        base = f"{scheme}://{_netloc(host, port)}"
        if found == "tls":
            return self._set("ENDPOINT", _shown(self.settings.endpoint).replace("http://", "https://", 1))
        if found == "query":
            otlp = self._set("ENDPOINT", f"http://{_netloc(host, 4318)}")
            return f'{otlp} To read traces from here, set QUERY_URL to "{base}".'
        if found in ("postgresql", "redis"):
            return self._set("ENDPOINT", "http://jaeger:4318", "the address of your Jaeger, e.g. ")
        endpoint = f"{base}/api/traces" if found == "jaeger" else base
        words = []
        if (_shown(self.settings.endpoint).removesuffix("/v1/traces"), found) != (endpoint, "otlp-grpc"):
            words.append(self._set("ENDPOINT", endpoint))
        chosen = self._sources[1] not in ("default", self._sources[0])
        if chosen or load({"ENDPOINT": endpoint}, {}).exporter != found:
            by_protocol = chosen and self._sources[1].endswith("_PROTOCOL") and found != "jaeger"
            protocol = "grpc" if found == "otlp-grpc" else "http/protobuf"
            words.append(
                f'Set {_place(self._sources[1])} to "{protocol}".' if by_protocol else f'Set EXPORTER to "{found}".'
            )
        if found != "otlp":
            words.append(f"It needs the extra [{found}].")
        return " ".join(words)

    def _credentials(self) -> str:
        if self.settings.exporter == "jaeger":
            return f"Put them into {self._at}: http://user:password@host:14268/api/traces."
        source = self.settings.source("HEADERS")
        if source == "default":
            return (
                'Set them, e.g. TRACING["HEADERS"] = {"authorization": "Bearer ..."}, or '
                "OTEL_EXPORTER_OTLP_HEADERS=authorization=Bearer%20..."
            )
        return f"Correct those in {_place(source)}."

    def _set(self, name: str, value: str, before: str = "") -> str:
        """How a person sets a setting to ``value``: in the place where it is set now."""
        source = self.settings.source(name)
        if source.startswith("--"):
            return f'Give {source} {before}"{value}".'
        place = f'TRACING["{name}"]' if source == "default" else _place(source)
        return f'Set {place} to {before}"{value}".'

    # ----- the trace

    def _send(self) -> Iterator[Step]:
        exporter = self._exporter
        assert exporter is not None
        spans = _test_trace(self.settings)
        context = spans[0].context
        assert context is not None
        self.trace_id = f"{context.trace_id:032x}"

        def export() -> SpanExportResult:
            context_api.attach(suppressed())
            return exporter.export(spans)

        try:
            result = self._bounded(export)
        except ExportError as error:
            yield self._not_taken(error)
            raise _Stop from None
        except TimeoutError:
            raise
        except Exception as error:
            yield self._failed("send", "failed", f"The exporter raised {type(error).__name__}: {error}")
            raise _Stop from None
        if result is not SpanExportResult.SUCCESS:
            yield self._failed("send", "failed", "The exporter says that it failed.")
            raise _Stop
        if not self._unconfirmed():
            self.exit_code = 0
        yield Step("send", "ok", f"a test trace of {len(spans)} spans was {self._taken()}")

    def _not_taken(self, error: ExportError) -> Step:
        store = error.__cause__
        if isinstance(store, ReadError):
            problem, remedy = _split(str(store), "Set LOCAL_STORE to another path.")
            return Step("send", "failed", problem, _STORE.get(store.reason, "No trace can be kept."), remedy)
        step = self._failed("send", error.reason, str(error))
        return replace(step, remedy=self._credentials()) if error.reason == "unauthorized" else step

    def _taken(self) -> str:
        if self.settings.exporter == "local":
            return "written"
        return "taken" if self.settings.exporter in _NETWORKED and not self._unconfirmed() else "sent"

    def _unconfirmed(self) -> bool:
        """Whether sending says nothing about arriving."""
        address = self._address()
        return address is not None and address[2] == "udp"

    # ----- reading back

    def _read_back(self) -> Iterator[Step]:
        settings = self.settings
        readable = settings.exporter == "local" or settings.query_url is not None or settings.reader is not None
        if not self._query or not readable:
            if self._unconfirmed():
                yield Step(
                    "read",
                    "warning",
                    "The trace was not read back.",
                    "UDP gives no answer: whether the trace arrived is not known.",
                    "Leave out --no-query, and set QUERY_URL where Jaeger's query API is elsewhere.",
                )
            elif self._query:
                yield Step("read", "skipped", f"what the exporter {settings.exporter} sends can't be read back")
            else:
                yield Step("read", "skipped", "not asked for (--no-query)")
            return
        try:
            reader = get_reader(settings, timeout=min(self._left(), 5.0))
            found = self._wait_for_trace(reader)
        except ReadError as error:
            yield self._unreadable(str(error))
            return
        except TimeoutError:
            yield self._unreadable(f"{reader.describe()} did not answer in time.")
            return
        if found is None:
            yield self._never_readable()
            return
        self.exit_code = 0
        assert self.trace_id is not None
        self.link = reader.trace_link(self.trace_id) or f"python manage.py traces {self.trace_id}"
        where = reader.describe()
        if isinstance(reader, JaegerReader):
            where += f" (query API {reader.dialect})"
        if len(found.spans) < 2:
            yield Step(
                "read",
                "warning",
                f"one span of two was read back from {where}",
                "The rest is lost or late: what stands between drops or delays some spans.",
                "Look at the trace again later; then into the collector's log.",
            )
        else:
            yield Step("read", "ok", f"the trace was read back from {where}")

    def _wait_for_trace(self, reader: Reader) -> Trace | None:
        """The trace once it is whole, or what there is of it when the time is over."""
        trace_id = self.trace_id
        assert trace_id is not None
        while True:
            late = time.monotonic() >= self._deadline
            try:
                found = self._bounded(lambda: reader.trace(trace_id))
                if late or (found is not None and len(found.spans) >= 2):
                    return found
            except ReadError as error:
                # An error of the server's own may pass; an address that is wrong stays wrong.
                if late or error.reason != "failed":
                    raise
            time.sleep(min(0.1, self._left()))

    def _unreadable(self, problem: str) -> Step:
        detail, remedy = _split(problem, "")
        if self.settings.exporter == "local":
            return Step("read", "failed", detail, "The trace was written; it can't be read.", remedy)
        return Step(
            "read",
            "warning",
            detail,
            "UDP gives no answer: whether the trace arrived is not known."
            if self._unconfirmed()
            else "The trace was taken; whether it can be seen is not known.",
            f"{remedy} Jaeger's query API is tried at QUERY_URL (or --query-url), by default on port {QUERY_PORT} of "
            "the endpoint's host; --no-query leaves it out.".strip(),
        )

    def _never_readable(self) -> Step:
        if self.settings.exporter == "local":
            return Step(
                "read",
                "failed",
                f"The trace was written to {self.settings.local_store} and can't be found there.",
                "Something removes or replaces the file.",
                "Look what else writes there, or set LOCAL_STORE to another path.",
            )
        where = _shown(self.settings.query_url)
        if self._unconfirmed():
            return Step(
                "read",
                "failed",
                f"The trace is not in the Jaeger at {where} after {self._timeout:g} s.",
                "Nothing listens on that UDP port, or the datagrams are lost on the way.",
                f"Check host and port in {self._at}, or send over TCP: port 4318 (OTLP over HTTP).",
            )
        return Step(
            "read",
            "failed",
            f"The trace was taken, but is not in the Jaeger at {where} after {self._timeout:g} s.",
            "The collector passes spans on to another Jaeger, drops them (its own sampling, a full storage), or is "
            "slow to store them (Kafka between).",
            "Check that QUERY_URL is of the same Jaeger, look into the collector's log, or wait: --timeout 60.",
        )


def _strategy(strategy: Strategy) -> str:
    said = f"{strategy.per_second:g} a second" if strategy.rate is None else f"{strategy.rate * 100:g} %"
    return said + (f", {len(strategy.operations)} operations by themselves" if strategy.operations else "")


def _place(source: str) -> str:
    """Where a setting is set, in a sentence."""
    return f"the {source}" if source.startswith("environment") else source


def _packaged(name: str) -> bool:
    """Whether an instrumentation of OpenTelemetry's is installed by that entry-point name."""
    return bool(entry_points(group="opentelemetry_instrumentor", name=name))


def _netloc(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _shown(url: str | None) -> str:
    """A URL for people."""
    return "nowhere" if url is None else shown_address(url)


#: Between the sentence that says what is wrong and the one that says what to do.
_SENTENCE: Final = re.compile(r"([.)]) (?=[A-Z])")


def _split(message: str, otherwise: str) -> tuple[str, str]:
    """What is wrong and what to do, of a message that says both; ``otherwise`` where it says the first only."""
    problem, _, remedy = _SENTENCE.sub(r"\1\0", message, count=1).partition("\0")
    return problem, remedy or otherwise


def _secrets(settings: Settings) -> tuple[str, ...]:
    """What must not be printed. Short words are none, and may stand anywhere."""
    found: set[str] = set()
    for value in settings.headers.values():
        found.update(value.split())
    for url in filter(None, (settings.endpoint, settings.query_url)):
        parts = urlsplit(url)
        for text in (parts.username, parts.password):
            if text:
                found.update((text, unquote(text)))
        found.update(value for _, value in parse_qsl(parts.query))
    return tuple(sorted((text for text in found if len(text) >= 6), key=len, reverse=True))


def _test_trace(settings: Settings) -> list[ReadableSpan]:
    """A root and a child, ended, from a provider of their own: the sampling in force must not swallow them.

    Empty where the SDK is switched off.
    """
    ended: list[ReadableSpan] = []

    class Keep(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            ended.append(span)

    provider = make_provider(settings, ALWAYS_ON, shutdown_on_exit=False)
    provider.add_span_processor(Keep())
    tracer = provider.get_tracer("django_tracing")
    attributes: dict[str, Any] = {"operation.type": "check"}
    root = tracer.start_span("check_tracing", context_api.Context(), attributes=attributes)
    tracer.start_span("check_tracing.child", trace.set_span_in_context(root, context_api.Context())).end()
    root.end()
    return ended
