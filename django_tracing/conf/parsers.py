"""Parse and check the value of one setting, from ``TRACING`` or from the environment."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from django.utils.module_loading import import_string

from django_tracing.conf.entry_points import MOST_NAMES, is_registered
from django_tracing.conf.values import PRIVATE, Settings, SpoolFolder
from django_tracing.faults import contained
from django_tracing.net import shown_address
from django_tracing.redaction.printable import printable

__all__ = [
    "KNOWN_EXPORTERS",
    "KNOWN_PROPAGATORS",
    "KNOWN_SEMCONV",
    "Parser",
    "WrongValue",
    "choice",
    "did_you_mean",
    "display",
    "milliseconds",
    "number",
    "optional",
    "parse_boolean",
    "parse_callable",
    "parse_commands",
    "parse_count",
    "parse_delay",
    "parse_exporter",
    "parse_header_name",
    "parse_headers",
    "parse_hosts",
    "parse_networks",
    "parse_endpoints",
    "parse_otlp_endpoint",
    "parse_peer_services",
    "parse_prefixes",
    "parse_propagators",
    "parse_protocol",
    "parse_reader",
    "parse_refresh",
    "parse_response_headers",
    "parse_semconv",
    "parse_spool",
    "parse_route_name",
    "parse_subscription",
    "parse_text",
    "parse_timeout",
    "parse_trust_parent",
    "path",
    "string_map",
    "strings",
    "url",
]

KNOWN_EXPORTERS = ("otlp", "otlp-grpc", "jaeger", "local", "console", "none")
#: The names of OpenTelemetry's specification.
KNOWN_PROPAGATORS = ("tracecontext", "baggage", "b3", "b3multi", "jaeger", "xray", "ottrace", "none")
#: The range of ``EXPORT_TIMEOUT``, in seconds.
_SHORTEST_TIMEOUT = 0.1
_LONGEST_TIMEOUT = 600.0
#: The default and the least size of a spool: a batch has up to 2 MiB, and must fit.
_SPOOL_BYTES = 64 * 1024 * 1024
_SMALLEST_SPOOL = 4 * 1024 * 1024
KNOWN_SEMCONV = ("http", "http/dup", "database", "database/dup")


#: The longest sentence about a wrong value, which may be a list.
_LONGEST_MESSAGE: Final = 1000


class WrongValue(Exception):
    """A value that a parser refuses: what is wrong with it, and how to fix it."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        # They quote the value, and are shown in terminals and logs.
        self.message = printable(message, _LONGEST_MESSAGE)
        self.hint = printable(hint, _LONGEST_MESSAGE)


#: Takes a value, and whether it came from the environment. Returns the parsed value, or raises :class:`WrongValue`.
Parser = Callable[[Any, bool], Any]


def display(value: Any) -> str:
    """Return ``value`` for a message, at most 60 characters."""
    try:
        text = repr(value)
    except Exception:
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:59] + "…"


def parse_text(value: Any, from_env: bool) -> str:
    if not isinstance(value, str):
        raise WrongValue(f"must be a string, not {type(value).__name__}.", 'Write it in quotes, e.g. "shop".')
    if not value.strip():
        raise WrongValue("is an empty string.", "Give it a value or leave the setting out.")
    return value.strip()


def parse_boolean(value: Any, from_env: bool) -> bool:
    if isinstance(value, bool):
        return value
    if from_env and str(value).strip().lower() in {"true", "1", "yes", "on"}:
        return True
    if from_env and str(value).strip().lower() in {"false", "0", "no", "off", ""}:
        return False
    raise WrongValue(f"must be True or False, not {display(value)}.", "Set it to True or False.")


def number(minimum: float, maximum: float = math.inf, *, unit: str, whole: bool = False) -> Parser:
    """Return a parser of numbers from ``minimum`` to ``maximum``."""
    kind = "a whole number" if whole else "a number"
    # 15 digits: none of a number of bytes is lost.
    bounds = f"from {minimum:.15g} to {maximum:.15g}" if maximum < math.inf else f"of at least {minimum:.15g}"

    def parse(value: Any, from_env: bool) -> float:
        hint = f"Set it to {kind} {bounds}{' ' + unit if unit else ''}."
        number = value
        if from_env:
            try:
                number = float(value)
            except ValueError:
                raise WrongValue(f"must be {kind}, not {display(value)}.", hint) from None
            if whole and number.is_integer():
                number = int(number)
        if (
            isinstance(number, bool)
            or not isinstance(number, (int, float))
            or (whole and not isinstance(number, int))
        ):
            raise WrongValue(f"must be {kind}, not {display(value)}.", hint)
        if not minimum <= number <= maximum:  # also refuses NaN
            raise WrongValue(f"is {display(value)}, which is out of range.", hint)
        return number if whole else float(number)

    return parse


def optional(parser: Parser) -> Parser:
    """Return ``parser``, which also accepts None where that is not the default."""

    def parse(value: Any, from_env: bool) -> Any:
        return None if value is None else parser(value, from_env)

    return parse


def parse_count(value: Any, from_env: bool) -> int:
    """Parse a positive number of OpenTelemetry's batch processor."""
    return int(number(1, 2**31 - 1, unit="", whole=True)(value, from_env))


def milliseconds(value: Any, maximum: float = 2**31 - 1) -> float:
    """Parse a duration as OpenTelemetry's specification defines it; return seconds."""
    return float(number(0, maximum, unit="milliseconds", whole=True)(value, True)) / 1000


def parse_delay(value: Any, from_env: bool) -> float:
    """Parse a variable for ``EXPORT_INTERVAL``, in milliseconds."""
    # Zero is allowed there, and would keep a core busy here.
    return min(max(milliseconds(value), 0.01), 3600.0)


def parse_timeout(value: Any, from_env: bool) -> float:
    """Parse a variable for ``EXPORT_TIMEOUT``, in milliseconds."""
    seconds = milliseconds(value)
    if not seconds:
        return _LONGEST_TIMEOUT
    if seconds < _SHORTEST_TIMEOUT:
        # OpenTelemetry's own exporter for Python reads seconds: then no export would ever be in time.
        raise WrongValue(
            f"is {display(value)}, which is less than {_SHORTEST_TIMEOUT * 1000:g} milliseconds.",
            "OpenTelemetry's specification counts milliseconds: write 10000 for ten seconds.",
        )
    return min(seconds, _LONGEST_TIMEOUT)


def choice(*choices: str) -> Parser:
    """Return a parser of one of ``choices``, in any case."""

    def parse(value: Any, from_env: bool) -> str:
        if isinstance(value, str) and value.strip().lower() in choices:
            return value.strip().lower()
        options = ", ".join(f'"{choice}"' for choice in choices)
        raise WrongValue(f"is {display(value)}.", f"Choose one of {options}.")

    return parse


def strings(*, example: str, choices: tuple[str, ...] = (), absolute: bool = False) -> Parser:
    """Return a parser of a list of strings; of paths that start with "/" where ``absolute``."""

    def parse(value: Any, from_env: bool) -> tuple[str, ...]:
        if from_env:
            value = [part.strip() for part in str(value).split(",") if part.strip()]
        if isinstance(value, str) or not isinstance(value, Iterable) or isinstance(value, Mapping):
            raise WrongValue(f"must be a list of strings, not {display(value)}.", f"Write it as {example}.")
        items = tuple(value)
        for item in items:
            if not isinstance(item, str) or not item.strip():
                raise WrongValue(f"contains {display(item)}, which is not a name.", f"Write it as {example}.")
            if choices and item not in choices:
                raise WrongValue(
                    f"contains {display(item)}{did_you_mean(item, choices)}.", f"Known: {', '.join(choices)}."
                )
            if absolute and not item.startswith("/"):
                raise WrongValue(f'contains {display(item)}, which does not start with "/".', f'Write "/{item}".')
        return items

    return parse


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return f' (did you mean "{close[0]}"?)' if close else ""


def string_map(*, example: str) -> Parser:
    """Return a parser of a dict of strings; in the environment, ``key1=value1,key2=value2``."""

    def parse(value: Any, from_env: bool) -> Mapping[str, str]:
        if from_env:
            pairs = {}
            for part in str(value).split(","):
                if not part.strip():
                    continue
                key, separator, text = part.partition("=")
                if not separator or not key.strip():
                    # The value may be a secret, so it is not shown.
                    raise WrongValue("has an entry without '='.", "Write it as key1=value1,key2=value2.")
                # W3C Baggage encoding, as the OpenTelemetry specification requires for both variables.
                pairs[unquote(key.strip())] = unquote(text.strip())
            return MappingProxyType(pairs)
        if not isinstance(value, Mapping):
            raise WrongValue(f"must be a dict, not {type(value).__name__}.", f"Write it as {example}.")
        for key, text in value.items():
            if not isinstance(key, str) or not isinstance(text, str):
                raise WrongValue(
                    f"has the entry {display(key)}, which is not a string for a string.", f"Write it as {example}."
                )
        return MappingProxyType(dict(value))

    return parse


def parse_headers(value: Any, from_env: bool) -> Mapping[str, str]:
    headers: Mapping[str, str] = string_map(example='{"authorization": "Bearer ..."}')(value, from_env)
    for name, text in headers.items():
        if any(character in name + text for character in "\r\n\0"):
            raise WrongValue(f"has a line break in the header {display(name)}.", "Remove the line break.")
    return headers


def url(*schemes: str, example: str) -> Parser:
    """Return a parser of URLs with one of ``schemes``. Messages show no credentials."""

    def parse(value: Any, from_env: bool) -> str:
        if not isinstance(value, str):
            raise WrongValue(f"must be a URL in a string, not {type(value).__name__}.", f'Write it as "{example}".')
        text = value.strip()
        shown = display(shown_address(text))
        hint = f'Write it as "{example}".'
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            raise WrongValue(f"is {shown}, which is not a URL.", hint) from None
        if parts.scheme not in schemes or not parts.netloc:
            if "://" not in text and text:
                hint = f'Write it with its scheme: "{schemes[0]}://{shown_address(text)}".'
            elif parts.scheme not in schemes:
                hint = f"Use {' or '.join(f'{scheme}://' for scheme in schemes)}."
            raise WrongValue(f"is {shown}, which is not a URL this app can send to.", hint)
        if not parts.hostname or any(character.isspace() for character in text):
            raise WrongValue(f"is {shown}, which has no host.", hint)
        if port == 0:
            raise WrongValue(f"is {shown}: port 0 can't be connected to.", hint)
        if parts.scheme == "udp" and not port:
            raise WrongValue(f"is {shown}, which has no port.", f'Write "udp://{parts.hostname}:6831".')
        return text

    return parse


def parse_otlp_endpoint(value: Any, from_env: bool) -> str:
    # The specification lets gRPC endpoints stand without a scheme.
    text = str(value).strip()
    if text and "://" not in text:
        text = f"http://{text}"
    return url("http", "https", example="http://localhost:4318")(text, from_env)  # type: ignore[no-any-return]


def parse_endpoints(value: Any, from_env: bool) -> tuple[str, ...]:
    """Parse a list of OTLP endpoints. Messages show no credentials."""
    hint = 'Write it as ["http://collector-a:4318", "http://collector-b:4318"].'
    if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= 16:
        raise WrongValue("must be a list of 1 to 16 URLs.", hint)
    parse = url("http", "https", example="http://collector-a:4318")
    endpoints = tuple(parse(item, from_env) for item in value)
    if len(set(endpoints)) < len(endpoints):
        raise WrongValue("has the same URL twice.", "Remove one of them.")
    return endpoints


def path(*, example: str, quoted: bool = True) -> Parser:
    """Return a parser of the path of a file. ``example`` is code where it is not ``quoted``."""

    def parse(value: Any, from_env: bool) -> Path:
        if not isinstance(value, (str, os.PathLike)) or not str(value).strip():
            shown = f'"{example}"' if quoted else example
            raise WrongValue(f"must be the path of a file, not {display(value)}.", f"Write it as {shown}.")
        return Path(value)

    return parse


def parse_spool(value: Any, from_env: bool) -> SpoolFolder:
    """Parse a folder and its size: ``{"PATH": ..., "MAX_BYTES": ...}``."""
    hint = 'Write it as {"PATH": "/var/lib/shop/spans"}, with "MAX_BYTES" for more or less than 64 MiB.'
    if not isinstance(value, Mapping):
        raise WrongValue(f"must be a dict, not {type(value).__name__}.", hint)
    unknown = [str(key) for key in value if key not in ("PATH", "MAX_BYTES")]
    if unknown:
        raise WrongValue(f"has the unknown key {display(unknown[0])}.", hint)
    if value.get("PATH") is None:
        raise WrongValue("has no PATH.", hint)
    parse_bytes = number(_SMALLEST_SPOOL, unit="bytes", whole=True)
    key = "PATH"
    try:
        folder = path(example="/var/lib/shop/spans")(value["PATH"], from_env)
        key = "MAX_BYTES"
        return SpoolFolder(folder, int(parse_bytes(value.get("MAX_BYTES", _SPOOL_BYTES), from_env)))
    except WrongValue as wrong:
        raise WrongValue(f"has a wrong {key}: it {wrong.message}", wrong.hint) from None


def parse_networks(value: Any, from_env: bool) -> tuple[IPv4Network | IPv6Network, ...]:
    items = strings(example='["10.0.0.0/8", "127.0.0.1"]')(value, from_env)
    networks = []
    for item in items:
        try:
            networks.append(ip_network(item, strict=False))
        except ValueError:
            raise WrongValue(
                f"contains {display(item)}, which is not an IP address or a network.",
                'Write it as ["10.0.0.0/8", "127.0.0.1"].',
            ) from None
    return tuple(networks)


def parse_subscription(value: Any, from_env: bool) -> str | Callable[[Any], Any] | None:
    if value is None or callable(value):
        return value  # type: ignore[no-any-return]
    if isinstance(value, str) and all(part.isidentifier() for part in value.split(".")):
        return value
    raise WrongValue(
        f"must be an attribute path on the user or a callable, not {display(value)}.",
        'Write it as "subscription.tier" or as a function that takes the user.',
    )


def parse_trust_parent(value: Any, from_env: bool) -> str | tuple[IPv4Network | IPv6Network, ...]:
    if isinstance(value, str):
        chosen = value.strip().lower()
        if chosen == "private":
            return PRIVATE
        if chosen in ("always", "never"):
            return chosen
        raise WrongValue(
            f"is {display(value)}.",
            'Choose "private", "always" or "never", or list callers\' addresses: ["10.0.0.0/8"].',
        )
    return parse_networks(value, from_env)


def parse_header_name(value: Any, from_env: bool) -> str:
    name = parse_text(value, from_env)
    if not all(character.isalnum() or character == "-" for character in name):
        raise WrongValue(f"is {display(value)}, which is not the name of a header.", 'Write it as "X-Trace-Debug".')
    return name


def parse_refresh(value: Any, from_env: bool) -> float:
    # 0 means never. More than once a second would be a load on the database.
    return 0.0 if value == 0 and value is not False else float(number(1, 3600, unit="seconds")(value, from_env))


def _parse_late(value: Any, hint: str) -> str | Callable[..., Any]:
    """Return a callable, or a dotted path that is imported when it is first needed."""
    if callable(value):
        return value  # type: ignore[no-any-return]
    if isinstance(value, str) and "." in value and all(part.isidentifier() for part in value.split(".")):
        return value
    raise WrongValue(f"must be a dotted path or a callable, not {display(value)}.", hint)


def parse_reader(value: Any, from_env: bool) -> str | Callable[[Settings], Any]:
    # Only processes that show traces need it.
    return _parse_late(value, 'Write it as the path of a function of the settings: "shop.tracing.tempo_reader".')


def parse_route_name(value: Any, from_env: bool) -> str | Callable[..., Any]:
    # It may import models, before they are ready.
    return _parse_late(value, 'Write it as the path of a function of the request: "shop.tracing.route_name".')


def parse_response_headers(value: Any, from_env: bool) -> tuple[str, ...]:
    if not isinstance(value, str) and isinstance(value, Iterable):
        value = [item.lower() if isinstance(item, str) else item for item in value]
    parse = strings(example='["Server-Timing", "traceresponse"]', choices=("server-timing", "traceresponse"))
    return parse(value, from_env)  # type: ignore[no-any-return]


def parse_callable(value: Any, from_env: bool) -> Callable[[str, Any], Any]:
    hint = 'Write it as a function of key and value, or as its dotted path: "shop.tracing.redact".'
    if isinstance(value, str):
        if not ("." in value and all(part.isidentifier() for part in value.split("."))):
            raise WrongValue(f"is {display(value)}, which is not a dotted path.", hint)
        try:
            with contained():
                value = import_string(value)
        except Exception as error:
            raise WrongValue(f"is {display(value)}, which can't be imported: {error}.", hint) from None
    if not callable(value):
        raise WrongValue(f"must be callable, not {display(value)}.", hint)
    return value  # type: ignore[no-any-return]


def parse_commands(value: Any, from_env: bool) -> tuple[str, ...] | bool:
    if value is True:
        return True
    if value is False or value is None:
        return ()
    return strings(example='["send_invoices"]')(value, from_env)  # type: ignore[no-any-return]


def parse_exporter(value: Any, from_env: bool) -> str:
    if isinstance(value, str):
        name = value.strip()
        if name.lower() in KNOWN_EXPORTERS:
            return name.lower()
        module, _, attribute = name.rpartition(".")
        if module and all(part.isidentifier() for part in name.split(".")):
            return name
        raise WrongValue(
            f"is {display(value)}, which is not a known exporter{did_you_mean(name, KNOWN_EXPORTERS)}.",
            f"Choose one of {', '.join(KNOWN_EXPORTERS)}, or the dotted path of a SpanExporter.",
        )
    raise WrongValue(f"must be a string, not {type(value).__name__}.", f"Choose one of {', '.join(KNOWN_EXPORTERS)}.")


def parse_protocol(value: Any, from_env: bool) -> str:
    text = str(value).strip().lower()
    if text == "grpc":
        return "otlp-grpc"
    if text == "http/protobuf":
        return "otlp"
    raise WrongValue(f"is {display(value)}, which is not supported.", 'Set it to "http/protobuf" or "grpc".')


def parse_peer_services(value: Any, from_env: bool) -> Mapping[str, str]:
    services: Mapping[str, str] = string_map(example='{"10.0.0.7:8080": "user-service"}')(value, from_env)
    for host in services:
        if "/" in host or not host.strip():
            raise WrongValue(
                f"has the host {display(host)}.", 'Write a host as "host" or "host:port", without a scheme.'
            )
    return MappingProxyType({host.strip().lower(): name for host, name in services.items()})


def parse_hosts(value: Any, from_env: bool) -> tuple[str, ...]:
    example = '["user-service:8000", "*.internal"]'
    if isinstance(value, (list, tuple)) and not value:
        return ()
    hosts: tuple[str, ...] = strings(example=example)(value, from_env)
    for host in hosts:
        named = host.strip().removeprefix("*.")
        if "/" in named or not named or ("*" in named and host.strip() != "*"):
            raise WrongValue(
                f"contains {display(host)}, which is not a host.",
                f'Write hosts as "host", "host:port" or "*.domain", without a scheme: {example}.',
            )
    return tuple(host.strip().lower() for host in hosts)


def parse_prefixes(value: Any, from_env: bool) -> tuple[str, ...]:
    prefixes: tuple[str, ...] = strings(example='["tariff:", "report:"]')(value, from_env)
    for prefix in prefixes:
        if "*" in prefix:
            # A star would be taken literally, and match no key.
            raise WrongValue(
                f"contains {display(prefix)}, which is a pattern.",
                f'Write only the prefix, without a star: "{prefix.partition("*")[0] or "tariff:"}".',
            )
    return prefixes


def parse_semconv(value: Any, from_env: bool) -> frozenset[str]:
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    parse = strings(example='["http", "database"]')
    items = frozenset(parse(value, False))
    # Other instrumentations read the same variable (gen_ai, messaging, ...). Their values are ignored here.
    known = items & set(KNOWN_SEMCONV)
    if not from_env and items - known:
        wrong = sorted(items - known)[0]
        raise WrongValue(
            f"contains {display(wrong)}{did_you_mean(wrong, KNOWN_SEMCONV)}.",
            f"Known: {', '.join(KNOWN_SEMCONV)}.",
        )
    return known


def parse_propagators(value: Any, from_env: bool) -> tuple[str, ...]:
    names: tuple[str, ...] = strings(example='["tracecontext", "baggage"]')(value, from_env)
    if len(names) > MOST_NAMES:
        raise WrongValue(f"has {len(names)} names.", f"Name at most {MOST_NAMES} propagators.")
    if from_env:
        # It is set for all services of a cluster: what is not installed here is left out, with a warning.
        names = tuple(name.lower() if name.lower() in KNOWN_PROPAGATORS else name for name in names)
        return tuple(dict.fromkeys(names))
    for name in names:
        if name not in KNOWN_PROPAGATORS and not is_registered("opentelemetry_propagator", name):
            raise WrongValue(
                f"contains {display(name)}{did_you_mean(name, KNOWN_PROPAGATORS)}.",
                f"Known: {', '.join(KNOWN_PROPAGATORS)}, and those of installed packages.",
            )
    return tuple(dict.fromkeys(names))
