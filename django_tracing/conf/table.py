"""List the settings: one row for each, with its default, its parser and its environment variables."""

from __future__ import annotations

from ipaddress import ip_network
from types import MappingProxyType
from typing import Any, NamedTuple

from django_tracing.conf import parsers
from django_tracing.conf.parsers import Parser
from django_tracing.conf.values import PRIVATE

__all__ = ["DEFAULT_INSTRUMENTATIONS", "NAMES", "OUR_INSTRUMENTATIONS", "SPECS", "Spec"]

#: This app's own instrumentations; the others are OpenTelemetry's.
OUR_INSTRUMENTATIONS = (
    "request",
    "layers",
    "database",
    "cache",
    "circuit_breaker",
    "rate_limit",
    "commands",
    "tasks",
    "rq",
    "huey",
    "django_q",
    "dramatiq",
    "templates",
    "email",
    "files",
    "channels",
    "signals",
)
#: Those that are traced only if they are listed.
_OPTIONAL = frozenset({"signals"})
DEFAULT_INSTRUMENTATIONS = (
    *(name for name in OUR_INSTRUMENTATIONS if name not in _OPTIONAL),
    "celery",
    "psycopg",
    "redis",
    "requests",
    "httpx",
    "urllib3",
    "urllib",
)


class Spec(NamedTuple):
    """One setting: its name in ``TRACING``, its default and its environment variables (the strongest first)."""

    name: str
    default: Any
    parse: Parser
    env: tuple[str, ...] = ()
    #: Parses values of the environment, where these differ from those of ``TRACING``.
    parse_env: Parser | None = None


SPECS: tuple[Spec, ...] = (
    Spec("ENABLED", True, parsers.parse_boolean),
    Spec("ENABLED_IN_TESTS", False, parsers.parse_boolean),
    Spec("SERVICE_NAME", None, parsers.parse_text, ("OTEL_SERVICE_NAME", "SERVICE_NAME")),
    Spec("SERVICE_VERSION", None, parsers.parse_text, ("SERVICE_VERSION",)),
    Spec("ENVIRONMENT", None, parsers.parse_text, ("ENVIRONMENT",)),
    Spec(
        "RESOURCE_ATTRIBUTES",
        MappingProxyType({}),
        parsers.string_map(example='{"team": "checkout"}'),
        ("OTEL_RESOURCE_ATTRIBUTES",),
    ),
    Spec(
        "ENDPOINT",
        None,
        parsers.url("http", "https", "udp", example="http://localhost:4318"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT", "JAEGER_ENDPOINT"),
    ),
    Spec("ENDPOINTS", (), parsers.parse_endpoints),
    Spec("ENDPOINT_ORDER", "in_order", parsers.choice("in_order", "round_robin")),
    Spec("EXPORTER", None, parsers.parse_exporter),
    Spec(
        "HEADERS",
        MappingProxyType({}),
        parsers.parse_headers,
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"),
    ),
    Spec(
        "COMPRESSION",
        "none",
        parsers.choice("none", "gzip"),
        ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION"),
    ),
    Spec(
        "TLS_CA_FILE",
        None,
        parsers.path(example="/etc/ssl/collector.pem"),
        ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE"),
    ),
    Spec(
        "TLS_CLIENT_KEY",
        None,
        parsers.path(example="/etc/ssl/shop.key"),
        ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", "OTEL_EXPORTER_OTLP_CLIENT_KEY"),
    ),
    Spec(
        "TLS_CLIENT_CERTIFICATE",
        None,
        parsers.path(example="/etc/ssl/shop.pem"),
        ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"),
    ),
    Spec("PROPAGATORS", ("tracecontext", "baggage"), parsers.parse_propagators, ("OTEL_PROPAGATORS",)),
    Spec("SAMPLE_RATE", 1.0, parsers.number(0, 1, unit="(a share)"), ("OTEL_TRACES_SAMPLER_ARG",)),
    Spec("TRUST_PARENT", PRIVATE, parsers.parse_trust_parent),
    Spec("FORCED_PER_SECOND", 100.0, parsers.optional(parsers.number(0, unit="traces"))),
    Spec("KEEP_ERRORS", False, parsers.parse_boolean),
    Spec("KEEP_SLOWER_THAN", None, parsers.number(0, unit="seconds")),
    Spec("DEBUG_HEADER", None, parsers.parse_header_name),
    Spec("SAMPLING_REFRESH", 10.0, parsers.parse_refresh),
    Spec("SAMPLING_CLIENTS", (ip_network("127.0.0.0/8"), ip_network("::1/128")), parsers.parse_networks),
    Spec("SAMPLING_TOKEN", None, parsers.parse_text),
    Spec("REMOTE_SAMPLING_URL", None, parsers.url("http", "https", example="http://jaeger:5778/sampling")),
    Spec(
        "BATCH_SIZE",
        512,
        parsers.number(1, unit="spans", whole=True),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE",),
        parsers.parse_count,
    ),
    Spec(
        "EXPORT_INTERVAL",
        None,
        parsers.number(0.01, 3600, unit="seconds"),
        ("OTEL_BSP_SCHEDULE_DELAY",),
        parsers.parse_delay,
    ),
    Spec(
        "EXPORT_TIMEOUT",
        10.0,
        parsers.number(0.1, 600, unit="seconds"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT", "OTEL_BSP_EXPORT_TIMEOUT"),
        parsers.parse_timeout,
    ),
    Spec(
        "QUEUE_SIZE",
        None,
        parsers.number(1, unit="spans", whole=True),
        ("OTEL_BSP_MAX_QUEUE_SIZE",),
        parsers.parse_count,
    ),
    Spec("QUEUE_BYTES", 16 * 1024 * 1024, parsers.number(65536, unit="bytes", whole=True)),
    Spec("RETRY_FOR", 60.0, parsers.number(0, 86400, unit="seconds")),
    Spec("SHUTDOWN_TIMEOUT", 3.0, parsers.number(0, 600, unit="seconds")),
    Spec("SPOOL", None, parsers.parse_spool),
    Spec("LOCAL_STORE", None, parsers.path(example='BASE_DIR / ".tracing" / "traces.sqlite3"', quoted=False)),
    Spec("MAX_TRACES", 5000, parsers.number(1, unit="traces", whole=True)),
    Spec("MAX_TRACE_SPANS", 10_000, parsers.number(1, unit="spans", whole=True)),
    Spec("MAX_STORE_BYTES", 512 * 1024 * 1024, parsers.number(1024 * 1024, unit="bytes", whole=True)),
    Spec("MAX_TRACE_AGE", None, parsers.number(1, unit="seconds")),
    Spec("QUERY_URL", None, parsers.url("http", "https", example="http://localhost:16686")),
    Spec("READER", None, parsers.parse_reader),
    Spec("INSTRUMENTATIONS", DEFAULT_INSTRUMENTATIONS, parsers.strings(example='["request", "database", "cache"]')),
    Spec("LAYERS", "slow", parsers.choice("all", "slow", "off")),
    Spec("SLOW_LAYER_MS", 1.0, parsers.number(0, unit="milliseconds")),
    Spec("IGNORE_PATHS", ("/health", "/metrics"), parsers.strings(example='["/health", "/metrics"]', absolute=True)),
    Spec("IGNORE_STATIC", True, parsers.parse_boolean),
    Spec("ROUTE_NAME", None, parsers.parse_route_name),
    Spec("TRUSTED_PROXIES", (), parsers.parse_networks),
    Spec("USER_EMAIL", "masked", parsers.choice("masked", "full", "off")),
    Spec("SUBSCRIPTION", None, parsers.parse_subscription),
    Spec("PEER_SERVICES", MappingProxyType({}), parsers.parse_peer_services),
    Spec("PROPAGATE_TO", None, parsers.parse_hosts),
    Spec("SEMCONV_STABILITY_OPT_IN", frozenset(), parsers.parse_semconv, ("OTEL_SEMCONV_STABILITY_OPT_IN",)),
    Spec("MAX_ATTRIBUTE_LENGTH", 100, parsers.number(16, 65536, unit="characters", whole=True)),
    Spec("SENSITIVE_KEYS", (), parsers.strings(example='["iban", "passport"]')),
    Spec("CACHE_KEY_PREFIXES", (), parsers.parse_prefixes),
    Spec("REDACT", None, parsers.parse_callable),
    Spec("LOG_CORRELATION", True, parsers.parse_boolean),
    Spec("LOG_ERRORS", False, parsers.parse_boolean),
    Spec("COMMANDS", (), parsers.parse_commands),
    Spec("TASKS", "trace", parsers.choice("trace", "link")),
    Spec("CODE_LOCATIONS", False, parsers.parse_boolean),
    Spec("RESPONSE_HEADERS", (), parsers.parse_response_headers),
    Spec("HEALTH_METRICS", False, parsers.parse_boolean),
)

NAMES = tuple(spec.name for spec in SPECS)
