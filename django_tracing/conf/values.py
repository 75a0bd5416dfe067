"""Hold the effective settings and the problems found in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

__all__ = ["PRIVATE", "Problem", "Settings", "SpoolFolder"]

#: This machine, and the networks that are not routed in the internet (RFC 1918, 3927, 6598, 4193 and 4291).
PRIVATE: Final[tuple[IPv4Network | IPv6Network, ...]] = tuple(
    ip_network(network)
    for network in (
        *("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10"),
        *("::1/128", "fc00::/7", "fe80::/10"),
    )
)


class Problem(NamedTuple):
    """One wrong setting: what is wrong with it, and how to fix it."""

    #: The setting's name, e.g. ``SAMPLE_RATE``.
    setting: str
    #: Where the value was set, e.g. ``TRACING["SAMPLE_RATE"]`` or ``environment variable JAEGER_ENDPOINT``.
    source: str
    #: What is wrong with it.
    message: str
    #: How to fix it.
    hint: str

    def __str__(self) -> str:
        return f"{self.source} {self.message} {self.hint}"

    @property
    def variable(self) -> str:
        """The environment variable that is wrong; empty where it is a setting of ``TRACING``."""
        return self.source.partition("environment variable ")[2]

    @property
    def in_environment(self) -> bool:
        """Return True if it was set outside of the project's code: by a deployment, not by a developer."""
        return self.source.startswith("environment variable")


# Named tuples: they take a third of the time to create that frozen dataclasses take, which is 4 ms of every start.
class SpoolFolder(NamedTuple):
    """A folder for batches that can't be sent, and the largest size of all of them."""

    path: Path
    max_bytes: int

    def __str__(self) -> str:
        return f"{self.path}, {self.max_bytes / 2**20:.4g} MiB"


class Settings(NamedTuple):
    """The effective settings of this process. Times are in seconds, sizes in bytes, unless a name says otherwise."""

    enabled: bool
    #: Whether a process that runs tests sends its spans, too.
    enabled_in_tests: bool
    service_name: str
    service_version: str | None
    environment: str | None
    resource_attributes: Mapping[str, str]
    endpoint: str | None
    #: Several OTLP endpoints, each batch for one of them; empty if there is one. ``endpoint`` is the first.
    endpoints: tuple[str, ...]
    endpoint_order: Literal["in_order", "round_robin"]
    exporter: str
    headers: Mapping[str, str]
    compression: Literal["none", "gzip"]
    #: PEM files for OTLP over TLS: the authorities to trust, and the client's key and certificate.
    tls_ca_file: Path | None
    tls_client_key: Path | None
    tls_client_certificate: Path | None
    propagators: tuple[str, ...]
    sample_rate: float
    #: Whose traces are continued, as they decided: those of every caller, of none, or of callers at these addresses.
    trust_parent: Literal["always", "never"] | tuple[IPv4Network | IPv6Network, ...]
    #: How many traces a second this process keeps only because their callers kept them; None for no limit.
    forced_per_second: float | None
    keep_errors: bool
    keep_slower_than: float | None
    debug_header: str | None
    #: Seconds between two reads of the rules in the database; 0 for never.
    sampling_refresh: float
    #: Who may fetch this site's rules, as from a Jaeger's sampling server.
    sampling_clients: tuple[IPv4Network | IPv6Network, ...]
    sampling_token: str | None
    remote_sampling_url: str | None
    batch_size: int
    export_interval: float
    export_timeout: float
    #: How many spans may wait; None if only their bytes are limited.
    queue_size: int | None
    queue_bytes: int
    #: How long a batch that the backend refuses for a time is tried again, in seconds.
    retry_for: float
    shutdown_timeout: float
    #: Where batches wait that can't be sent; None: only in memory.
    spool: SpoolFolder | None
    local_store: Path
    max_traces: int
    #: The local store keeps so many spans of a trace, and counts the others.
    max_trace_spans: int
    #: The maximum size of the local store's file.
    max_store_bytes: int
    #: Traces that ended longer ago are removed from the local store; None: only newer traces displace them.
    max_trace_age: float | None
    query_url: str | None
    #: Makes the reader of traces from the settings, where traces are neither in the local store nor in Jaeger.
    reader: str | Callable[[Settings], Any] | None
    instrumentations: tuple[str, ...]
    layers: Literal["all", "slow", "off"]
    slow_layer_ms: float
    ignore_paths: tuple[str, ...]
    #: Whether requests for static and media files are left out.
    ignore_static: bool
    #: Names requests whose pages share a route: called with the request and, if it takes two arguments, the response.
    route_name: str | Callable[..., Any] | None
    #: Regular expressions of URLs to leave out, from OpenTelemetry's own variable.
    excluded_urls: tuple[str, ...]
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...]
    user_email: Literal["masked", "full", "off"]
    subscription: str | Callable[[Any], Any] | None
    peer_services: Mapping[str, str]
    #: The hosts whose calls carry the trace; None for all.
    propagate_to: tuple[str, ...] | None
    semconv_stability_opt_in: frozenset[str]
    max_attribute_length: int
    sensitive_keys: tuple[str, ...]
    #: Prefixes of cache and Redis keys whose words are shown.
    cache_key_prefixes: tuple[str, ...]
    redact: Callable[[str, Any], Any] | None
    log_correlation: bool
    log_errors: bool
    #: The management commands that are traced: their names, or True for all that end by themselves.
    commands: tuple[str, ...] | Literal[True]
    tasks: Literal["trace", "link"]
    #: Whether calls carry the line of the user's code that made them.
    code_locations: bool
    #: Response headers that describe the trace, in lower case.
    response_headers: tuple[str, ...]
    #: Whether the health of tracing is offered as OpenTelemetry's metrics.
    health_metrics: bool
    #: More exporters, from the list of ``OTEL_TRACES_EXPORTER``.
    more_exporters: tuple[str, ...] = ()
    #: A sampler's entry point from ``OTEL_TRACES_SAMPLER`` that replaces this app's sampler, and its argument.
    sampler: str | None = None
    sampler_argument: str | None = None
    #: Whether incoming traces are sampled by their ids, as ``traceidratio`` does, where callers are not followed.
    sample_by_trace_id: bool = False
    #: Seconds between two requests for Jaeger's strategy.
    remote_sampling_interval: float = 10.0
    #: An ID generator's entry point, from ``OTEL_PYTHON_ID_GENERATOR``.
    id_generator: str | None = None
    #: Setting name -> where its value came from ("default" where nothing set it).
    sources: Mapping[str, str] = MappingProxyType({})
    problems: tuple[Problem, ...] = ()
    #: Variables of OpenTelemetry with a wrong value, which count as unset.
    warnings: tuple[Problem, ...] = ()

    def __repr__(self) -> str:
        """Leave out the values: among them are credentials, and error pages and debuggers show local variables."""
        return f"<Settings of {self.service_name!r}>"

    def source(self, name: str) -> str:
        """Return where the setting called ``name`` (as in ``TRACING``) came from."""
        return self.sources.get(name, "default")
