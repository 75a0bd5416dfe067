"""List OpenTelemetry's environment variables, and which of them this app honors.

The names are those of https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/, of
.../protocol/exporter/ and of OpenTelemetry for Python. docs/settings.md has the same list, with what each one does.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

__all__ = ["BY_A_PACKAGE", "HONORED", "NOT_HONORED", "not_honored"]

_OTLP: Final = "OTEL_EXPORTER_OTLP_"
_OTLP_OPTIONS: Final = (
    *("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY", "COMPRESSION", "ENDPOINT", "HEADERS", "INSECURE"),
    *("PROTOCOL", "TIMEOUT"),
)

#: What this app reads, or the SDK for its spans.
HONORED: Final = frozenset(
    {
        *("OTEL_SDK_DISABLED", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_SERVICE_NAME", "OTEL_PROPAGATORS"),
        *("OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG", "OTEL_TRACES_EXPORTER"),
        *("OTEL_BSP_SCHEDULE_DELAY", "OTEL_BSP_EXPORT_TIMEOUT", "OTEL_BSP_MAX_QUEUE_SIZE"),
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
        *("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_ATTRIBUTE_COUNT_LIMIT"),
        *("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT"),
        *("OTEL_SPAN_EVENT_COUNT_LIMIT", "OTEL_SPAN_LINK_COUNT_LIMIT"),
        *("OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT"),
        *(f"{_OTLP}{option}" for option in _OTLP_OPTIONS),
        *(f"{_OTLP}TRACES_{option}" for option in _OTLP_OPTIONS),
        *("OTEL_SEMCONV_STABILITY_OPT_IN", "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS"),
        *("OTEL_PYTHON_CONTEXT", "OTEL_PYTHON_TRACER_PROVIDER", "OTEL_PYTHON_ID_GENERATOR"),
        *("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"),
        *("OTEL_PYTHON_EXCLUDED_URLS", "OTEL_PYTHON_DJANGO_EXCLUDED_URLS"),
    }
)

#: What other packages read, where they are used: OpenTelemetry's instrumentations, exporters and command.
BY_A_PACKAGE: Final = frozenset(
    {
        *("OTEL_EXPORTER_ZIPKIN_ENDPOINT", "OTEL_EXPORTER_ZIPKIN_TIMEOUT"),
        *("OTEL_PYTHON_METER_PROVIDER", "OTEL_PYTHON_LOGGER_PROVIDER", "OTEL_PYTHON_EVENT_LOGGER_PROVIDER"),
        *("OTEL_PYTHON_CONFIGURATOR", "OTEL_PYTHON_DISTRO"),
        "OTEL_PYTHON_AUTO_INSTRUMENTATION_EXPERIMENTAL_GEVENT_PATCH",
        *("OTEL_PYTHON_DJANGO_INSTRUMENT", "OTEL_PYTHON_DJANGO_MIDDLEWARE_POSITION"),
        "OTEL_PYTHON_DJANGO_TRACED_REQUEST_ATTRS",
        *("OTEL_PYTHON_HTTPX_EXCLUDED_URLS", "OTEL_PYTHON_REQUESTS_EXCLUDED_URLS"),
        *("OTEL_PYTHON_URLLIB_EXCLUDED_URLS", "OTEL_PYTHON_URLLIB3_EXCLUDED_URLS"),
        "OTEL_PYTHON_INSTRUMENTATION_HTTP_CAPTURE_ALL_METHODS",
        *("OTEL_PYTHON_LOG_CORRELATION", "OTEL_PYTHON_LOG_FORMAT", "OTEL_PYTHON_LOG_LEVEL"),
        *("OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS", "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SANITIZE_FIELDS"),
        "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_REQUEST",
        "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_RESPONSE",
        "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST",
        "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_RESPONSE",
    }
)

_METRICS: Final = "This app makes no metrics."
_LOGS: Final = "This app exports no logs: use your LOGGING setting."
_CONFIGURATION: Final = "Configure tracing in TRACING, or by the other variables."
_CREDENTIALS: Final = "Use OTEL_EXPORTER_OTLP_HEADERS, or a client certificate."
_JAEGER: Final = "OpenTelemetry removed it: use JAEGER_ENDPOINT."

#: What nothing here reads -> what to use instead.
NOT_HONORED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "OTEL_ENTITIES": "Use OTEL_RESOURCE_ATTRIBUTES.",
        "OTEL_LOG_LEVEL": "Set the level of the logger opentelemetry in LOGGING.",
        "OTEL_CONFIG_FILE": _CONFIGURATION,
        "OTEL_EXPERIMENTAL_CONFIG_FILE": _CONFIGURATION,
        "OTEL_BLRP_SCHEDULE_DELAY": _LOGS,
        "OTEL_BLRP_EXPORT_TIMEOUT": _LOGS,
        "OTEL_BLRP_MAX_QUEUE_SIZE": _LOGS,
        "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE": _LOGS,
        "OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT": _LOGS,
        "OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT": _LOGS,
        "OTEL_LOGS_EXPORTER": _LOGS,
        **{f"{_OTLP}LOGS_{option}": _LOGS for option in _OTLP_OPTIONS},
        "OTEL_METRICS_EXPORTER": _METRICS,
        "OTEL_METRICS_EXEMPLAR_FILTER": _METRICS,
        "OTEL_METRIC_EXPORT_INTERVAL": _METRICS,
        "OTEL_METRIC_EXPORT_TIMEOUT": _METRICS,
        "OTEL_EXPORTER_PROMETHEUS_HOST": _METRICS,
        "OTEL_EXPORTER_PROMETHEUS_PORT": _METRICS,
        **{f"{_OTLP}METRICS_{option}": _METRICS for option in _OTLP_OPTIONS},
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": _METRICS,
        "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": _METRICS,
        "OTEL_EXPORTER_OTLP_METRIC_INSECURE": _METRICS,
        "OTEL_EXPORTER_OTLP_SPAN_INSECURE": "OpenTelemetry removed it: use OTEL_EXPORTER_OTLP_TRACES_INSECURE.",
        "OTEL_EXPORTER_ZIPKIN_PROTOCOL": "OpenTelemetry reserves it for later.",
        "OTEL_EXPORTER_JAEGER_ENDPOINT": _JAEGER,
        "OTEL_EXPORTER_JAEGER_AGENT_HOST": _JAEGER,
        "OTEL_EXPORTER_JAEGER_AGENT_PORT": _JAEGER,
        "OTEL_EXPORTER_JAEGER_AGENT_SPLIT_OVERSIZED_BATCHES": _JAEGER,
        "OTEL_EXPORTER_JAEGER_USER": _JAEGER,
        "OTEL_EXPORTER_JAEGER_PASSWORD": _JAEGER,
        "OTEL_EXPORTER_JAEGER_TIMEOUT": _JAEGER,
        "OTEL_EXPORTER_JAEGER_PROTOCOL": _JAEGER,
        "OTEL_EXPORTER_JAEGER_CERTIFICATE": "OpenTelemetry removed it: send OTLP, with TLS_CA_FILE.",
        "OTEL_EXPORTER_JAEGER_GRPC_INSECURE": "OpenTelemetry removed it: JAEGER_ENDPOINT has http:// or https://.",
        "OTEL_PYTHON_TRACER_CONFIGURATOR": "Choose what is traced in INSTRUMENTATIONS.",
        "OTEL_PYTHON_METER_CONFIGURATOR": _METRICS,
        "OTEL_PYTHON_LOGGER_CONFIGURATOR": _LOGS,
        "OTEL_PYTHON_LOGGING_AUTO_INSTRUMENTATION_ENABLED": _LOGS,
        "OTEL_PYTHON_EXPORTER_OTLP_GRPC_RETRYABLE_ERROR_CODES": "OTLP's specification says which are retried.",
        **{
            f"OTEL_PYTHON_EXPORTER_OTLP_{protocol}_{signal}CREDENTIAL_PROVIDER": _CREDENTIALS
            for protocol in ("GRPC", "HTTP")
            for signal in ("", "TRACES_", "METRICS_", "LOGS_")
        },
    }
)

#: Values of variables that are not honored, and ask for what is the case: no metrics and no logs.
_FULFILLED: Final = frozenset(
    {
        ("OTEL_METRICS_EXPORTER", "none"),
        ("OTEL_LOGS_EXPORTER", "none"),
        ("OTEL_PYTHON_LOGGING_AUTO_INSTRUMENTATION_ENABLED", "false"),
    }
)


def not_honored(environ: Mapping[str, str]) -> list[str]:
    """Return the variables that are set in ``environ`` and have no effect here, sorted."""
    return sorted(
        name
        for name in NOT_HONORED.keys() & environ.keys()
        if environ[name].strip() and (name, environ[name].strip().lower()) not in _FULFILLED
    )
