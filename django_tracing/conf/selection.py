"""Select the sampler and the exporters that OpenTelemetry's variables name.

``OTEL_TRACES_SAMPLER`` and ``OTEL_TRACES_EXPORTER`` hold names of the specification, for which this app has its own
settings, or of entry points that installed packages register.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from django_tracing.conf import parsers
from django_tracing.conf.entry_points import find_entry_point, is_registered
from django_tracing.conf.parsers import WrongValue, display

if TYPE_CHECKING:
    from django_tracing.conf.loading import Loader

__all__ = ["EXPORTER_GROUP", "SAMPLER_GROUP", "select_exporter", "select_sampler"]

#: Entry points of OpenTelemetry for Python.
SAMPLER_GROUP: Final = "opentelemetry_traces_sampler"
EXPORTER_GROUP: Final = "opentelemetry_traces_exporter"

_SAMPLER: Final = "OTEL_TRACES_SAMPLER"
_ARGUMENT: Final = "OTEL_TRACES_SAMPLER_ARG"
_EXPORTER: Final = "OTEL_TRACES_EXPORTER"
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_INSECURE: Final = ("OTEL_EXPORTER_OTLP_TRACES_INSECURE", "OTEL_EXPORTER_OTLP_INSECURE")

#: The rate of a sampler whose argument is not a rate.
_FIXED_RATES: Final = {"always_on": 1.0, "always_off": 0.0}
_PARENT_BASED: Final = "parentbased_"
#: Where Jaeger serves its strategies over HTTP; OpenTelemetry's argument names the gRPC port, which is another one.
_JAEGER: Final = "http://localhost:5778/sampling"
_JAEGER_GRPC_PORT: Final = 14250

#: Names of exporters in OTEL_TRACES_EXPORTER -> ours. The middle ones are the entry points of OpenTelemetry's own.
_OUR_EXPORTERS: Final = {
    "otlp": "otlp",
    "console": "console",
    "none": "none",
    "otlp_proto_http": "otlp",
    "otlp_proto_grpc": "otlp-grpc",
    "jaeger": "jaeger",
    "jaeger_thrift": "jaeger",
}


# ----- the sampler


def select_sampler(loader: Loader) -> None:
    """Apply ``OTEL_TRACES_SAMPLER`` and its argument, unless ``TRACING`` says what to sample."""
    name = loader.variable(_SAMPLER).lower()
    # Each of them is a whole answer to what the variable asks.
    if not {"SAMPLE_RATE", "REMOTE_SAMPLING_URL"}.isdisjoint(loader.configured):
        return
    parent_based = name.startswith(_PARENT_BASED)
    root = name.removeprefix(_PARENT_BASED)
    if root in _FIXED_RATES:
        _set(loader, "SAMPLE_RATE", _FIXED_RATES[root], _SAMPLER)
    elif root == "traceidratio" or not name:
        # By itself, the argument is taken for a rate, too.
        _read_rate(loader)
    elif root == "jaeger_remote":
        _read_jaeger(loader)
    else:
        _read_registered(loader, loader.variable(_SAMPLER))
        return
    if name and not parent_based and "TRUST_PARENT" not in loader.configured:
        # These samplers do not look at the parent.
        loader.extra["sample_by_trace_id"] = True


def _set(loader: Loader, setting: str, value: Any, variable: str) -> None:
    loader.values[setting] = value
    loader.sources[setting] = f"environment variable {variable}"


def _read_rate(loader: Loader) -> None:
    raw = loader.variable(_ARGUMENT)
    if not raw:
        return
    parser = parsers.number(0, 1, unit="(a share)")
    good, rate = loader.parse("SAMPLE_RATE", f"environment variable {_ARGUMENT}", raw, parser, True)
    if good:
        _set(loader, "SAMPLE_RATE", rate, _ARGUMENT)


def _read_jaeger(loader: Loader) -> None:
    """Read ``endpoint=http://jaeger:5778/sampling,pollingIntervalMs=5000,initialSamplingRate=0.25``."""
    try:
        options = _jaeger_options(loader.variable(_ARGUMENT))
    except WrongValue as wrong:
        loader.warn("REMOTE_SAMPLING_URL", _ARGUMENT, wrong.message, wrong.hint)
        options = {}
    _set(loader, "REMOTE_SAMPLING_URL", options.get("endpoint", _JAEGER), _SAMPLER)
    # The initial rate of Jaeger's own clients: a fleet that starts does not flood a backend.
    _set(loader, "SAMPLE_RATE", options.get("initialSamplingRate", 0.001), _SAMPLER)
    loader.extra["remote_sampling_interval"] = options.get("pollingIntervalMs", 60.0)


def _jaeger_options(argument: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for part in argument.split(","):
        if not part.strip():
            continue
        key, _, value = (text.strip() for text in part.partition("="))
        if key == "endpoint":
            url = parsers.url("http", "https", example=_JAEGER)(value, True)
            if urlsplit(url).port == _JAEGER_GRPC_PORT:
                raise WrongValue(
                    f"has the endpoint {display(url)}, which is Jaeger's gRPC port.",
                    f"Strategies are read over HTTP here: write endpoint={_JAEGER}.",
                )
            options[key] = url
        elif key == "pollingIntervalMs":
            options[key] = max(parsers.milliseconds(value), 0.1)
        elif key == "initialSamplingRate":
            options[key] = parsers.number(0, 1, unit="(a share)")(value, True)
        else:
            # Its value may be an address with a password.
            raise WrongValue(f"has the entry {display(key)}.", f"Write endpoint={_JAEGER},pollingIntervalMs=5000.")
    return options


def _read_registered(loader: Loader, name: str) -> None:
    if is_registered(SAMPLER_GROUP, name):
        loader.extra["sampler"] = name
        loader.extra["sampler_argument"] = loader.variable(_ARGUMENT) or None
        loader.sources["SAMPLER"] = f"environment variable {_SAMPLER}"
        return
    loader.warn(
        "SAMPLE_RATE",
        _SAMPLER,
        f"is {display(name)}, which no installed package provides.",
        "Install its package, or choose a sampler of OpenTelemetry's specification, e.g. parentbased_traceidratio.",
    )


# ----- the exporters


def select_exporter(loader: Loader) -> None:
    """Set ``EXPORTER`` from ``TRACING``, from ``OTEL_TRACES_EXPORTER``, or by the endpoint."""
    values = loader.values
    by_endpoint = "ENDPOINT" in loader.configured or "ENDPOINTS" in loader.configured
    named = _named_exporters(loader) if values["EXPORTER"] is None and not by_endpoint else []
    _apply_insecure(loader)
    if values["EXPORTER"] is None:
        kind = _kind_for_endpoint(values["ENDPOINT"])
        if named and named[0] != "otlp":
            _set(loader, "EXPORTER", named[0], _EXPORTER)
        else:
            if named and kind == "local":
                # OpenTelemetry's name: not the local store, but a collector on this machine.
                kind = "otlp"
                loader.sources["EXPORTER"] = f"environment variable {_EXPORTER}"
            values["EXPORTER"] = _with_protocol(loader, kind)
            if values["ENDPOINT"] and "EXPORTER" not in loader.sources:
                loader.sources["EXPORTER"] = loader.sources.get("ENDPOINT", "")
    more = []
    for name in named[1:]:
        kind = _with_protocol(loader, "otlp") if name == "otlp" else name
        if kind != values["EXPORTER"] and kind not in more:
            more.append(kind)
    if more:
        loader.extra["more_exporters"] = tuple(more)


def _named_exporters(loader: Loader) -> list[str]:
    """Return the exporters that ``OTEL_TRACES_EXPORTER`` names, without what is not installed."""
    found: list[str] = []
    for name in loader.variable(_EXPORTER).split(","):
        name = name.strip()
        kind = _OUR_EXPORTERS.get(name.lower())
        if kind is None and name:
            point = find_entry_point(EXPORTER_GROUP, name)
            if point is None:
                loader.warn(
                    "EXPORTER",
                    _EXPORTER,
                    f"names {display(name)}, which no installed package provides.",
                    "Install its package, or choose otlp, console or none.",
                )
                continue
            kind = f"{point.module}.{point.attr}"
        if kind is not None and kind not in found:
            found.append(kind)
    # The one that the settings of an endpoint are for comes first.
    found.sort(key=lambda kind: kind not in ("otlp", "otlp-grpc", "jaeger"))
    return [kind for kind in found if kind != "none"] or found


def _with_protocol(loader: Loader, kind: str) -> str:
    """Return the kind of OTLP that a protocol variable asks for; ``kind`` where it is none of OTLP's."""
    # The protocol is about OTLP endpoints only, not about a Jaeger's or the local store.
    if kind not in ("otlp", "otlp-grpc"):
        return kind
    for variable in _PROTOCOLS:
        raw = loader.variable(variable)
        if raw:
            source = f"environment variable {variable}"
            good, parsed = loader.parse("EXPORTER", source, raw, parsers.parse_protocol, True)
            if good:
                loader.sources["EXPORTER"] = source
                return str(parsed)
    return kind


def _apply_insecure(loader: Loader) -> None:
    """Use TLS for an endpoint without a scheme where the variable for it is false."""
    source = loader.sources.get("ENDPOINT", "")
    variable = source.removeprefix("environment variable ")
    if not variable.startswith("OTEL_") or "://" in loader.environ.get(variable, ""):
        return
    value = next(filter(None, map(loader.variable, _INSECURE)), "").lower()
    if value == "false":
        loader.values["ENDPOINT"] = str(loader.values["ENDPOINT"]).replace("http://", "https://", 1)


def _kind_for_endpoint(endpoint: str | None) -> str:
    """Return the exporter for an endpoint: see "The endpoint decides the protocol" in docs/settings.md."""
    if endpoint is None:
        return "local"
    parts = urlsplit(endpoint)
    if parts.scheme == "udp" or parts.path.rstrip("/") == "/api/traces":
        return "jaeger"
    return "otlp-grpc" if parts.port == 4317 else "otlp"
