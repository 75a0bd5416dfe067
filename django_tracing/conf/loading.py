"""Settings: the ``TRACING`` dict and the environment become one frozen, typed :class:`Settings`.

``TRACING`` wins over the OpenTelemetry variables (``OTEL_*``), those win over the short names
(``JAEGER_ENDPOINT``, ``SERVICE_NAME``, ``SERVICE_VERSION``, ``ENVIRONMENT``). A wrong value never raises: it
becomes a :class:`Problem` that says which setting, where it was set and the mend, and tracing is then off.
"""

from __future__ import annotations

import difflib
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote, urlsplit, urlunsplit

from django.conf import settings as django_settings
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from django_tracing.addresses import shown_address
from django_tracing.conf.patterns import regex_problem

__all__ = ["KNOWN_EXPORTERS", "SPECS", "Problem", "Settings", "Spec", "get_settings", "load"]

KNOWN_EXPORTERS = ("otlp", "otlp-grpc", "jaeger", "local", "console", "none")
KNOWN_PROPAGATORS = ("tracecontext", "baggage", "b3", "b3multi", "jaeger", "none")
KNOWN_SEMCONV = ("http", "http/dup", "database", "database/dup")

DEFAULT_INSTRUMENTATIONS = (
    "request",
    "layers",
    "database",
    "cache",
    "circuit_breaker",
    "rate_limit",
    "commands",
    "tasks",
    "celery",
    "psycopg",
    "redis",
    "requests",
    "httpx",
    "urllib3",
    "urllib",
)

#: Where an exporter sends to when no endpoint is given.
DEFAULT_ENDPOINTS = MappingProxyType(
    {
        "otlp": "http://localhost:4318/v1/traces",
        "otlp-grpc": "http://localhost:4317",
        "jaeger": "http://localhost:14268/api/traces",
    }
)
#: Jaeger's query port (https://www.jaegertracing.io/docs/latest/deployment/).
QUERY_PORT = 16686


class Problem(NamedTuple):
    """One wrong setting, in words a person can act on."""

    #: The setting's name, e.g. ``SAMPLE_RATE``.
    setting: str
    #: Where the value was set, e.g. ``TRACING["SAMPLE_RATE"]`` or ``environment variable JAEGER_ENDPOINT``.
    source: str
    #: What is wrong with it.
    message: str
    #: What to do.
    hint: str

    def __str__(self) -> str:
        return f"{self.source} {self.message} {self.hint}"

    @property
    def in_environment(self) -> bool:
        """Whether it was set outside of the project's code: by a deployment, not by a developer."""
        return self.source.startswith("environment variable")


# Tuples with names: making them takes a third of the time that frozen dataclasses take, 4 ms of every start.
class Settings(NamedTuple):
    """The effective settings of this process. Times are seconds, sizes bytes, unless a name says otherwise."""

    enabled: bool
    #: Whether spans are also sent by a process that runs tests.
    enabled_in_tests: bool
    service_name: str
    service_version: str | None
    environment: str | None
    resource_attributes: Mapping[str, str]
    endpoint: str | None
    exporter: str
    headers: Mapping[str, str]
    compression: Literal["none", "gzip"]
    propagators: tuple[str, ...]
    sample_rate: float
    #: Whose sampling decision is followed: every caller's, nobody's, or that of callers at these addresses.
    trust_parent: Literal["always", "never"] | tuple[IPv4Network | IPv6Network, ...]
    #: How many traces a second this process keeps only because their callers kept them; None for any number.
    forced_per_second: float | None
    keep_errors: bool
    keep_slower_than: float | None
    debug_header: str | None
    #: Seconds between two looks at the database's rules; 0 for none.
    sampling_refresh: float
    #: Who may ask this site for the rules, as a Jaeger is asked.
    sampling_clients: tuple[IPv4Network | IPv6Network, ...]
    sampling_token: str | None
    remote_sampling_url: str | None
    batch_size: int
    export_interval: float
    export_timeout: float
    queue_size: int
    queue_bytes: int
    shutdown_timeout: float
    local_store: Path
    max_traces: int
    #: Of each trace; what comes beyond is counted.
    max_trace_spans: int
    #: The local store's file never grows beyond it.
    max_store_bytes: int
    #: Traces that ended longer ago leave the local store; None: only the others push them out.
    max_trace_age: float | None
    query_url: str | None
    #: What traces are read back with, where it is neither the local store nor Jaeger: takes the settings.
    reader: str | Callable[[Settings], Any] | None
    instrumentations: tuple[str, ...]
    layers: Literal["all", "slow", "off"]
    slow_layer_ms: float
    ignore_paths: tuple[str, ...]
    #: Regular expressions of URLs that OpenTelemetry's own variable leaves out.
    excluded_urls: tuple[str, ...]
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...]
    user_email: Literal["masked", "full", "off"]
    subscription: str | Callable[[Any], Any] | None
    peer_services: Mapping[str, str]
    #: The hosts whose calls carry the trace; None: all.
    propagate_to: tuple[str, ...] | None
    semconv_stability_opt_in: frozenset[str]
    max_attribute_length: int
    sensitive_keys: tuple[str, ...]
    #: How keys of caches and of Redis begin whose words may stay.
    cache_key_prefixes: tuple[str, ...]
    redact: Callable[[str, Any], Any] | None
    log_correlation: bool
    log_errors: bool
    #: Management commands that are traced: their names, or True for all but those that nobody waits for.
    commands: tuple[str, ...] | Literal[True]
    tasks: Literal["trace", "link"]
    #: Whether calls say which line of the user's code made them.
    code_locations: bool
    #: Headers that tell a response's reader about its trace, in lower case.
    response_headers: tuple[str, ...]
    #: Setting name -> where its value came from ("default" where nothing set it).
    sources: Mapping[str, str] = MappingProxyType({})
    problems: tuple[Problem, ...] = ()

    def source(self, name: str) -> str:
        """Where the setting called ``name`` (as in ``TRACING``) came from."""
        return self.sources.get(name, "default")


class _Wrong(Exception):
    """A value that a parser refuses: what is wrong, and the mend."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


Parser = Callable[[Any, bool], Any]


class Spec(NamedTuple):
    """One setting: its name in ``TRACING``, its default, its environment variables (strongest first)."""

    name: str
    default: Any
    parse: Parser
    env: tuple[str, ...] = ()


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:59] + "…"


def _text(value: Any, from_env: bool) -> str:
    if not isinstance(value, str):
        raise _Wrong(f"must be a string, not {type(value).__name__}.", 'Write it in quotes, e.g. "shop".')
    if not value.strip():
        raise _Wrong("is an empty string.", "Give it a value or leave the setting out.")
    return value.strip()


def _boolean(value: Any, from_env: bool) -> bool:
    if isinstance(value, bool):
        return value
    if from_env and str(value).strip().lower() in {"true", "1", "yes", "on"}:
        return True
    if from_env and str(value).strip().lower() in {"false", "0", "no", "off", ""}:
        return False
    raise _Wrong(f"must be True or False, not {_shown(value)}.", "Set it to True or False.")


def _negated(value: Any, from_env: bool) -> bool:
    return not _boolean(value, from_env)


def _number(minimum: float, maximum: float = math.inf, *, unit: str, whole: bool = False) -> Parser:
    kind = "a whole number" if whole else "a number"
    bounds = f"from {minimum:g} to {maximum:g}" if maximum < math.inf else f"of at least {minimum:g}"

    def parse(value: Any, from_env: bool) -> float:
        hint = f"Set it to {kind} {bounds}{' ' + unit if unit else ''}."
        number = value
        if from_env:
            try:
                number = float(value)
            except ValueError:
                raise _Wrong(f"must be {kind}, not {_shown(value)}.", hint) from None
            if whole and number.is_integer():
                number = int(number)
        if (
            isinstance(number, bool)
            or not isinstance(number, (int, float))
            or (whole and not isinstance(number, int))
        ):
            raise _Wrong(f"must be {kind}, not {_shown(value)}.", hint)
        if not minimum <= number <= maximum:  # also refuses NaN
            raise _Wrong(f"is {_shown(value)}, which is out of range.", hint)
        return number if whole else float(number)

    return parse


def _optional(parser: Parser) -> Parser:
    """``parser``, which lets None pass though it is not the default."""

    def parse(value: Any, from_env: bool) -> Any:
        return None if value is None else parser(value, from_env)

    return parse


def _choice(*choices: str) -> Parser:
    def parse(value: Any, from_env: bool) -> str:
        if isinstance(value, str) and value.strip().lower() in choices:
            return value.strip().lower()
        options = ", ".join(f'"{choice}"' for choice in choices)
        raise _Wrong(f"is {_shown(value)}.", f"Choose one of {options}.")

    return parse


def _strings(*, example: str, choices: tuple[str, ...] = (), absolute: bool = False) -> Parser:
    def parse(value: Any, from_env: bool) -> tuple[str, ...]:
        if from_env:
            value = [part.strip() for part in str(value).split(",") if part.strip()]
        if isinstance(value, str) or not isinstance(value, Iterable) or isinstance(value, Mapping):
            raise _Wrong(f"must be a list of strings, not {_shown(value)}.", f"Write it as {example}.")
        items = tuple(value)
        for item in items:
            if not isinstance(item, str) or not item.strip():
                raise _Wrong(f"contains {_shown(item)}, which is not a name.", f"Write it as {example}.")
            if choices and item not in choices:
                raise _Wrong(
                    f"contains {_shown(item)}{_did_you_mean(item, choices)}.", f"Known: {', '.join(choices)}."
                )
            if absolute and not item.startswith("/"):
                raise _Wrong(f'contains {_shown(item)}, which does not start with "/".', f'Write "/{item}".')
        return items

    return parse


def _did_you_mean(word: str, choices: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return f' (did you mean "{close[0]}"?)' if close else ""


def _string_map(*, example: str) -> Parser:
    def parse(value: Any, from_env: bool) -> Mapping[str, str]:
        if from_env:
            pairs = {}
            for part in str(value).split(","):
                if not part.strip():
                    continue
                key, separator, text = part.partition("=")
                if not separator or not key.strip():
                    # The value may be a secret, so it is not shown.
                    raise _Wrong("has an entry without '='.", "Write it as key1=value1,key2=value2.")
                # W3C Baggage encoding, as the OpenTelemetry specification asks of both variables.
                pairs[unquote(key.strip())] = unquote(text.strip())
            return MappingProxyType(pairs)
        if not isinstance(value, Mapping):
            raise _Wrong(f"must be a dict, not {type(value).__name__}.", f"Write it as {example}.")
        for key, text in value.items():
            if not isinstance(key, str) or not isinstance(text, str):
                raise _Wrong(f"has the entry {_shown(key)}, which is not text to text.", f"Write it as {example}.")
        return MappingProxyType(dict(value))

    return parse


def _headers(value: Any, from_env: bool) -> Mapping[str, str]:
    headers: Mapping[str, str] = _string_map(example='{"authorization": "Bearer ..."}')(value, from_env)
    for name, text in headers.items():
        if any(character in name + text for character in "\r\n\0"):
            raise _Wrong(f"has a line break in the header {_shown(name)}.", "Take the line break out.")
    return headers


def _url(*schemes: str, example: str) -> Parser:
    def parse(value: Any, from_env: bool) -> str:
        if not isinstance(value, str):
            raise _Wrong(f"must be a URL in a string, not {type(value).__name__}.", f'Write it as "{example}".')
        text = value.strip()
        shown = _shown(shown_address(text))
        hint = f'Write it as "{example}".'
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            raise _Wrong(f"is {shown}, which is not a URL.", hint) from None
        if parts.scheme not in schemes or not parts.netloc:
            if "://" not in text and text:
                hint = f'Write it with its scheme: "{schemes[0]}://{shown_address(text)}".'
            elif parts.scheme not in schemes:
                hint = f"Use {' or '.join(f'{scheme}://' for scheme in schemes)}."
            raise _Wrong(f"is {shown}, which is not a URL this app can send to.", hint)
        if not parts.hostname or any(character.isspace() for character in text):
            raise _Wrong(f"is {shown}, which names no host.", hint)
        if port == 0:
            raise _Wrong(f"is {shown}: port 0 can't be connected to.", hint)
        if parts.scheme == "udp" and not port:
            raise _Wrong(f"is {shown}, which names no port.", f'Write "udp://{parts.hostname}:6831".')
        return text

    return parse


def _otlp_endpoint(value: Any, from_env: bool) -> str:
    # The specification lets gRPC endpoints stand without a scheme.
    text = str(value).strip()
    if text and "://" not in text:
        text = f"http://{text}"
    url: str = _url("http", "https", example="http://localhost:4318")(text, from_env)
    return url


def _path(value: Any, from_env: bool) -> Path:
    if not isinstance(value, (str, os.PathLike)) or not str(value).strip():
        raise _Wrong(
            f"must be the path of a file, not {_shown(value)}.",
            'Write it as BASE_DIR / ".tracing" / "traces.sqlite3".',
        )
    return Path(value)


def _networks(value: Any, from_env: bool) -> tuple[IPv4Network | IPv6Network, ...]:
    items = _strings(example='["10.0.0.0/8", "127.0.0.1"]')(value, from_env)
    networks = []
    for item in items:
        try:
            networks.append(ip_network(item, strict=False))
        except ValueError:
            raise _Wrong(
                f"contains {_shown(item)}, which is no IP address or network.",
                'Write it as ["10.0.0.0/8", "127.0.0.1"].',
            ) from None
    return tuple(networks)


def _subscription(value: Any, from_env: bool) -> str | Callable[[Any], Any] | None:
    if value is None or callable(value):
        return value  # type: ignore[no-any-return]
    if isinstance(value, str) and all(part.isidentifier() for part in value.split(".")):
        return value
    raise _Wrong(
        f"must be an attribute path on the user or a callable, not {_shown(value)}.",
        'Write it as "subscription.tier" or as a function that takes the user.',
    )


def _trust_parent(value: Any, from_env: bool) -> str | tuple[IPv4Network | IPv6Network, ...]:
    if isinstance(value, str) and value.strip().lower() in ("always", "never"):
        return value.strip().lower()
    if isinstance(value, str):
        raise _Wrong(
            f"is {_shown(value)}.", 'Choose "always" or "never", or list callers\' addresses: ["10.0.0.0/8"].'
        )
    return _networks(value, from_env)


def _header_name(value: Any, from_env: bool) -> str:
    name = _text(value, from_env)
    if not all(character.isalnum() or character == "-" for character in name):
        raise _Wrong(f"is {_shown(value)}, which is no header's name.", 'Write it as "X-Trace-Debug".')
    return name


def _refresh(value: Any, from_env: bool) -> float:
    # 0 is for never; more often than once a second would be a load on the database.
    return 0.0 if value == 0 and value is not False else float(_number(1, 3600, unit="seconds")(value, from_env))


def _reader(value: Any, from_env: bool) -> str | Callable[[Settings], Any]:
    # Not imported here: every process would, and only those that show traces need it.
    if callable(value):
        return value  # type: ignore[no-any-return]
    if isinstance(value, str) and "." in value and all(part.isidentifier() for part in value.split(".")):
        return value
    raise _Wrong(
        f"must be a dotted path or a callable, not {_shown(value)}.",
        'Write it as the path of a function of the settings: "shop.tracing.tempo_reader".',
    )


def _response_headers(value: Any, from_env: bool) -> tuple[str, ...]:
    if not isinstance(value, str) and isinstance(value, Iterable):
        value = [item.lower() if isinstance(item, str) else item for item in value]
    parse = _strings(example='["Server-Timing", "traceresponse"]', choices=("server-timing", "traceresponse"))
    return parse(value, from_env)  # type: ignore[no-any-return]


def _callable(value: Any, from_env: bool) -> Callable[[str, Any], Any]:
    hint = 'Write it as a function of key and value, or as its dotted path: "shop.tracing.redact".'
    if isinstance(value, str):
        if not ("." in value and all(part.isidentifier() for part in value.split("."))):
            raise _Wrong(f"is {_shown(value)}, which is no dotted path.", hint)
        try:
            value = import_string(value)
        except Exception as error:
            raise _Wrong(f"is {_shown(value)}, which can't be imported: {error}.", hint) from None
    if not callable(value):
        raise _Wrong(f"must be callable, not {_shown(value)}.", hint)
    return value  # type: ignore[no-any-return]


def _commands(value: Any, from_env: bool) -> tuple[str, ...] | bool:
    if value is True:
        return True
    if value is False or value is None:
        return ()
    return _strings(example='["send_invoices"]')(value, from_env)  # type: ignore[no-any-return]


def _exporter(value: Any, from_env: bool) -> str:
    if isinstance(value, str):
        name = value.strip()
        if name.lower() in KNOWN_EXPORTERS:
            return name.lower()
        module, _, attribute = name.rpartition(".")
        if module and all(part.isidentifier() for part in name.split(".")):
            return name
        raise _Wrong(
            f"is {_shown(value)}, which is no known exporter{_did_you_mean(name, KNOWN_EXPORTERS)}.",
            f"Choose one of {', '.join(KNOWN_EXPORTERS)}, or the dotted path of a SpanExporter.",
        )
    raise _Wrong(f"must be a string, not {type(value).__name__}.", f"Choose one of {', '.join(KNOWN_EXPORTERS)}.")


def _protocol(value: Any, from_env: bool) -> str:
    text = str(value).strip().lower()
    if text == "grpc":
        return "otlp-grpc"
    if text == "http/protobuf":
        return "otlp"
    raise _Wrong(f"is {_shown(value)}, which is not supported.", 'Set it to "http/protobuf" or "grpc".')


def _peer_services(value: Any, from_env: bool) -> Mapping[str, str]:
    services: Mapping[str, str] = _string_map(example='{"10.0.0.7:8080": "user-service"}')(value, from_env)
    for host in services:
        if "/" in host or not host.strip():
            raise _Wrong(f"has the host {_shown(host)}.", 'A host stands as "host" or "host:port", without a scheme.')
    return MappingProxyType({host.strip().lower(): name for host, name in services.items()})


def _hosts(value: Any, from_env: bool) -> tuple[str, ...]:
    example = '["user-service:8000", "*.internal"]'
    if isinstance(value, (list, tuple)) and not value:
        return ()
    hosts: tuple[str, ...] = _strings(example=example)(value, from_env)
    for host in hosts:
        named = host.strip().removeprefix("*.")
        if "/" in named or not named or ("*" in named and host.strip() != "*"):
            raise _Wrong(
                f"contains {_shown(host)}, which is no host.",
                f'Write hosts as "host", "host:port" or "*.domain", without a scheme: {example}.',
            )
    return tuple(host.strip().lower() for host in hosts)


def _prefixes(value: Any, from_env: bool) -> tuple[str, ...]:
    prefixes: tuple[str, ...] = _strings(example='["tariff:", "report:"]')(value, from_env)
    for prefix in prefixes:
        if "*" in prefix:
            # A star would be taken for itself, and match no key.
            raise _Wrong(
                f"contains {_shown(prefix)}, which is a pattern.",
                f'Write only how keys begin, without a star: "{prefix.partition("*")[0] or "tariff:"}".',
            )
    return prefixes


def _semconv(value: Any, from_env: bool) -> frozenset[str]:
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    parse = _strings(example='["http", "database"]')
    items = frozenset(parse(value, False))
    # The variable is shared with other instrumentations (gen_ai, messaging, ...): only ours are read from it.
    known = items & set(KNOWN_SEMCONV)
    if not from_env and items - known:
        wrong = sorted(items - known)[0]
        raise _Wrong(
            f"contains {_shown(wrong)}{_did_you_mean(wrong, KNOWN_SEMCONV)}.",
            f"Known: {', '.join(KNOWN_SEMCONV)}.",
        )
    return known


def _propagators(value: Any, from_env: bool) -> tuple[str, ...]:
    names: tuple[str, ...] = _strings(example='["tracecontext", "baggage"]')(value, from_env)
    if from_env:
        # It is set for all services of a cluster: what is not installed here is left out when it is looked for.
        return tuple(name.lower() if name.lower() in KNOWN_PROPAGATORS else name for name in names)
    for name in names:
        if name not in KNOWN_PROPAGATORS and not _is_installed("opentelemetry_propagator", name):
            raise _Wrong(
                f"contains {_shown(name)}{_did_you_mean(name, KNOWN_PROPAGATORS)}.",
                f"Known: {', '.join(KNOWN_PROPAGATORS)}, and those that an installed package provides.",
            )
    return names


def _is_installed(group: str, name: str) -> bool:
    from importlib.metadata import entry_points

    return bool(entry_points(group=group, name=name))


_ENDPOINT_EXAMPLE = "http://localhost:4318"

SPECS: tuple[Spec, ...] = (
    Spec("ENABLED", True, _boolean),
    Spec("ENABLED_IN_TESTS", False, _boolean),
    Spec("SERVICE_NAME", None, _text, ("OTEL_SERVICE_NAME", "SERVICE_NAME")),
    Spec("SERVICE_VERSION", None, _text, ("SERVICE_VERSION",)),
    Spec("ENVIRONMENT", None, _text, ("ENVIRONMENT",)),
    Spec(
        "RESOURCE_ATTRIBUTES",
        MappingProxyType({}),
        _string_map(example='{"team": "checkout"}'),
        ("OTEL_RESOURCE_ATTRIBUTES",),
    ),
    Spec(
        "ENDPOINT",
        None,
        _url("http", "https", "udp", example=_ENDPOINT_EXAMPLE),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT", "JAEGER_ENDPOINT"),
    ),
    Spec("EXPORTER", None, _exporter),
    Spec(
        "HEADERS",
        MappingProxyType({}),
        _headers,
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"),
    ),
    Spec(
        "COMPRESSION",
        "none",
        _choice("none", "gzip"),
        ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION"),
    ),
    Spec(
        "PROPAGATORS",
        ("tracecontext", "baggage"),
        _propagators,
        ("OTEL_PROPAGATORS",),
    ),
    Spec("SAMPLE_RATE", 1.0, _number(0, 1, unit="(a share)"), ("OTEL_TRACES_SAMPLER_ARG",)),
    Spec("TRUST_PARENT", "always", _trust_parent),
    Spec("FORCED_PER_SECOND", 100.0, _optional(_number(0, unit="traces"))),
    Spec("KEEP_ERRORS", False, _boolean),
    Spec("KEEP_SLOWER_THAN", None, _number(0, unit="seconds")),
    Spec("DEBUG_HEADER", None, _header_name),
    Spec("SAMPLING_REFRESH", 10.0, _refresh),
    Spec("SAMPLING_CLIENTS", (ip_network("127.0.0.0/8"), ip_network("::1/128")), _networks),
    Spec("SAMPLING_TOKEN", None, _text),
    Spec("REMOTE_SAMPLING_URL", None, _url("http", "https", example="http://jaeger:5778/sampling")),
    Spec("BATCH_SIZE", 512, _number(1, unit="spans", whole=True)),
    Spec("EXPORT_INTERVAL", None, _number(0.01, 3600, unit="seconds")),
    Spec("EXPORT_TIMEOUT", 10.0, _number(0.1, 600, unit="seconds")),
    Spec("QUEUE_SIZE", 8192, _number(1, unit="spans", whole=True)),
    Spec("QUEUE_BYTES", 8 * 1024 * 1024, _number(65536, unit="bytes", whole=True)),
    Spec("SHUTDOWN_TIMEOUT", 3.0, _number(0, 600, unit="seconds")),
    Spec("LOCAL_STORE", None, _path),
    Spec("MAX_TRACES", 5000, _number(1, unit="traces", whole=True)),
    Spec("MAX_TRACE_SPANS", 10_000, _number(1, unit="spans", whole=True)),
    Spec("MAX_STORE_BYTES", 512 * 1024 * 1024, _number(1024 * 1024, unit="bytes", whole=True)),
    Spec("MAX_TRACE_AGE", None, _number(1, unit="seconds")),
    Spec("QUERY_URL", None, _url("http", "https", example="http://localhost:16686")),
    Spec("READER", None, _reader),
    Spec("INSTRUMENTATIONS", DEFAULT_INSTRUMENTATIONS, _strings(example='["request", "database", "cache"]')),
    Spec("LAYERS", "slow", _choice("all", "slow", "off")),
    Spec("SLOW_LAYER_MS", 1.0, _number(0, unit="milliseconds")),
    Spec("IGNORE_PATHS", ("/health", "/metrics"), _strings(example='["/health", "/metrics"]', absolute=True)),
    Spec("TRUSTED_PROXIES", (), _networks),
    Spec("USER_EMAIL", "masked", _choice("masked", "full", "off")),
    Spec("SUBSCRIPTION", None, _subscription),
    Spec("PEER_SERVICES", MappingProxyType({}), _peer_services),
    Spec("PROPAGATE_TO", None, _hosts),
    Spec("SEMCONV_STABILITY_OPT_IN", frozenset(), _semconv, ("OTEL_SEMCONV_STABILITY_OPT_IN",)),
    Spec("MAX_ATTRIBUTE_LENGTH", 100, _number(16, 65536, unit="characters", whole=True)),
    Spec("SENSITIVE_KEYS", (), _strings(example='["iban", "passport"]')),
    Spec("CACHE_KEY_PREFIXES", (), _prefixes),
    Spec("REDACT", None, _callable),
    Spec("LOG_CORRELATION", True, _boolean),
    Spec("LOG_ERRORS", False, _boolean),
    Spec("COMMANDS", (), _commands),
    Spec("TASKS", "trace", _choice("trace", "link")),
    Spec("CODE_LOCATIONS", False, _boolean),
    Spec("RESPONSE_HEADERS", (), _response_headers),
)

_NAMES = tuple(spec.name for spec in SPECS)

#: Samplers of the specification that take a ratio; under any other the argument means something else.
_RATIO_SAMPLERS = ("", "traceidratio", "parentbased_traceidratio")


class _Loader:
    def __init__(self, configured: Any, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.problems: list[Problem] = []
        self.sources: dict[str, str] = {}
        self.values: dict[str, Any] = {}
        self.configured: Mapping[str, Any] = {}
        if configured is None or isinstance(configured, Mapping):
            self.configured = configured or {}
        else:
            self.problem(
                "TRACING",
                "settings.TRACING",
                _Wrong(
                    f"must be a dict, not {type(configured).__name__}.",
                    'Write it as TRACING = {"SERVICE_NAME": "shop"}.',
                ),
            )

    def problem(self, setting: str, source: str, wrong: _Wrong) -> None:
        self.problems.append(Problem(setting, source, wrong.message, wrong.hint))

    def parse(self, name: str, source: str, value: Any, parser: Parser, from_env: bool, default: Any) -> Any:
        self.sources[name] = source
        try:
            return parser(value, from_env)
        except _Wrong as wrong:
            self.problem(name, source, wrong)
        except Exception as error:
            # An object that raises when it is looked at.
            problem = _Wrong(f"can't be read ({type(error).__name__}).", "Write it as docs/settings.md says.")
            self.problem(name, source, problem)
        return default

    def unknown_keys(self) -> None:
        for key in self.configured:
            if key in _NAMES:
                continue
            text = key if isinstance(key, str) else _shown(key)
            close = difflib.get_close_matches(text.upper().replace("-", "_"), _NAMES, n=1, cutoff=0.5)
            hint = (
                f'Did you mean "{close[0]}"?'
                if close
                else "Take it out; docs/settings.md has the table of all settings."
            )
            self.problem(text, f'TRACING["{text}"]', _Wrong("is not a setting of django_tracing.", hint))

    def read(self, spec: Spec) -> None:
        if spec.name in self.configured:
            value = self.configured[spec.name]
            if value is None and spec.default is None:
                self.values[spec.name] = None
                self.sources[spec.name] = f'TRACING["{spec.name}"]'
                return
            source = f'TRACING["{spec.name}"]'
            self.values[spec.name] = self.parse(spec.name, source, value, spec.parse, False, spec.default)
            return
        for variable in spec.env:
            raw = self.environ.get(variable, "")
            # The specification treats an empty variable as unset.
            if not raw.strip():
                continue
            if variable == "OTEL_TRACES_SAMPLER_ARG" and (
                self.environ.get("OTEL_TRACES_SAMPLER", "").strip() not in _RATIO_SAMPLERS
            ):
                continue
            parser = (
                _otlp_endpoint
                if variable.startswith("OTEL_EXPORTER_OTLP") and spec.name == "ENDPOINT"
                else spec.parse
            )
            source = f"environment variable {variable}"
            self.values[spec.name] = self.parse(spec.name, source, raw, parser, True, spec.default)
            return
        self.values[spec.name] = spec.default

    def load(self) -> Settings:
        self.unknown_keys()
        for spec in SPECS:
            self.read(spec)
        values = self.values
        self._disabled_by_environment()
        self._resource()
        self._exporter()
        if values["QUERY_URL"] is None and "QUERY_URL" not in self.sources:
            values["QUERY_URL"] = _default_query_url(values["EXPORTER"], values["ENDPOINT"])
        if values["LOCAL_STORE"] is None:
            values["LOCAL_STORE"] = (_base_dir() or _working_folder()) / ".tracing" / "traces.sqlite3"
        if values["EXPORT_INTERVAL"] is None:
            # A file on this machine is cheap to write to, and somebody is waiting to see the trace.
            values["EXPORT_INTERVAL"] = 0.5 if values["EXPORTER"] == "local" else 5.0
        if "none" in values["PROPAGATORS"]:
            values["PROPAGATORS"] = ()
        fields = {name.lower(): value for name, value in values.items()}
        if self.problems:
            fields["enabled"] = False
            self.sources["ENABLED"] = f"{self.problems[0].source}, which is wrong"
        fields["excluded_urls"] = self._excluded_urls()
        return Settings(**fields, sources=MappingProxyType(self.sources), problems=tuple(self.problems))

    def _disabled_by_environment(self) -> None:
        raw = self.environ.get("OTEL_SDK_DISABLED", "").strip()
        if "ENABLED" in self.configured or not raw:
            return
        # The specification: only "true" (any case) disables, every other value is false.
        self.sources["ENABLED"] = "environment variable OTEL_SDK_DISABLED"
        self.values["ENABLED"] = raw.lower() != "true"

    def _excluded_urls(self) -> tuple[str, ...]:
        """What OpenTelemetry's Django instrumentation would leave out, is left out by this one."""
        variable = "OTEL_PYTHON_DJANGO_EXCLUDED_URLS"
        if variable not in self.environ:
            variable = "OTEL_PYTHON_EXCLUDED_URLS"
        wanted = [part.strip() for part in self.environ.get(variable, "").split(",")]
        # What is wrong with one is told by ``environment``.
        return tuple(part for part in wanted if part and not regex_problem(part))

    def _resource(self) -> None:
        """``OTEL_RESOURCE_ATTRIBUTES`` may hold the name, version and environment: stronger than the short names."""
        values = self.values
        attributes = dict(values["RESOURCE_ATTRIBUTES"])
        source = self.sources.get("RESOURCE_ATTRIBUTES", "")
        for name, keys in (
            ("SERVICE_NAME", ("service.name",)),
            ("SERVICE_VERSION", ("service.version",)),
            ("ENVIRONMENT", ("deployment.environment.name", "deployment.environment")),
        ):
            found = [attributes.pop(key) for key in keys if key in attributes]
            weaker = self.sources.get(name, "default") in ("default", f"environment variable {name}")
            if found and weaker:
                values[name] = found[0]
                self.sources[name] = source
        values["RESOURCE_ATTRIBUTES"] = MappingProxyType(attributes)
        if values["SERVICE_NAME"] is None:
            values["SERVICE_NAME"] = _project_name()

    def _exporter(self) -> None:
        values = self.values
        endpoint = values["ENDPOINT"]
        source = self.sources.get("ENDPOINT", "")
        if values["EXPORTER"] is None:
            protocol = self.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or self.environ.get(
                "OTEL_EXPORTER_OTLP_PROTOCOL", ""
            )
            kind = _kind_for_endpoint(endpoint)
            # The protocol variable speaks of OTLP endpoints only, not of a Jaeger's or of the local store.
            if protocol.strip() and kind in ("otlp", "otlp-grpc"):
                variable = (
                    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"
                    if self.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
                    else "OTEL_EXPORTER_OTLP_PROTOCOL"
                )
                kind = self.parse("EXPORTER", f"environment variable {variable}", protocol, _protocol, True, kind)
            values["EXPORTER"] = kind
            if endpoint and "EXPORTER" not in self.sources:
                self.sources["EXPORTER"] = source
        kind = values["EXPORTER"]
        if endpoint is None:
            values["ENDPOINT"] = DEFAULT_ENDPOINTS.get(kind)
            return
        parts = urlsplit(endpoint)
        if parts.scheme == "udp" and kind in ("otlp", "otlp-grpc"):
            self.problem(
                "ENDPOINT",
                source,
                _Wrong("is a udp:// address, which OTLP can't use.", 'Set EXPORTER to "jaeger", or use http://.'),
            )
        elif kind == "otlp":
            path = parts.path.rstrip("/")
            # OTEL_EXPORTER_OTLP_ENDPOINT is a base for all signals, the others are the traces' own address.
            if not path or (source.endswith("OTEL_EXPORTER_OTLP_ENDPOINT") and not path.endswith("/v1/traces")):
                path += "/v1/traces"
                values["ENDPOINT"] = urlunsplit(parts._replace(path=path))
        elif kind == "jaeger" and parts.scheme != "udp" and not parts.path.rstrip("/"):
            values["ENDPOINT"] = urlunsplit(parts._replace(path="/api/traces"))


def _kind_for_endpoint(endpoint: str | None) -> str:
    """What an endpoint speaks: see "The endpoint decides the protocol" in docs/settings.md."""
    if endpoint is None:
        return "local"
    parts = urlsplit(endpoint)
    if parts.scheme == "udp" or parts.path.rstrip("/") == "/api/traces":
        return "jaeger"
    return "otlp-grpc" if parts.port == 4317 else "otlp"


def _default_query_url(exporter: str, endpoint: str | None) -> str | None:
    if exporter not in DEFAULT_ENDPOINTS or endpoint is None:
        return None
    host = urlsplit(endpoint).hostname or "localhost"
    return f"http://[{host}]:{QUERY_PORT}" if ":" in host else f"http://{host}:{QUERY_PORT}"


def _project_name() -> str:
    """The Django project's package, e.g. ``shop`` for ``shop.settings.production``."""
    for dotted in (os.environ.get("DJANGO_SETTINGS_MODULE"), getattr(django_settings, "ROOT_URLCONF", None)):
        head = str(dotted or "").partition(".")[0]
        if head and head not in ("settings", "config", "urls"):
            return head
    base = _base_dir()
    return base.name if base else Path(sys.argv[0] or "django").stem or "django"


def _base_dir() -> Path | None:
    """The project's folder, where its settings say so by what may be a path."""
    base = getattr(django_settings, "BASE_DIR", None)
    return Path(os.fsdecode(base)) if base and isinstance(base, (str, bytes, os.PathLike)) else None


def _working_folder() -> Path:
    try:
        return Path.cwd()
    except OSError:  # it was deleted: so is what is stored below it, which the store tells of
        return Path()


def load(configured: Any, environ: Mapping[str, str]) -> Settings:
    """Settings from a ``TRACING`` value and an environment.

    Never raises: what is wrong stands in ``problems``, and ``enabled`` is then False.
    """
    try:
        return _Loader(configured, environ).load()
    except Exception as error:
        return _unreadable(configured, type(error).__name__)


def _unreadable(configured: Any, why: str) -> Settings:
    """Settings for a TRACING or an environment that raise in a way that no parser expects."""
    try:
        settings, source = _Loader(configured, {}).load(), "environment variables of OpenTelemetry"
    except Exception:
        settings, source = _Loader(None, {}).load(), "settings.TRACING"
    problem = Problem("TRACING", source, f"can't be read ({why}).", "Write it as docs/settings.md says.")
    return settings._replace(enabled=False, problems=(problem,))


@cache
def get_settings() -> Settings:
    """The effective settings of this process, read once and again after ``setting_changed``."""
    return load(getattr(django_settings, "TRACING", None), os.environ)


def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting in ("TRACING", "BASE_DIR"):
        get_settings.cache_clear()


setting_changed.connect(_forget, dispatch_uid="django_tracing.conf.loading")
