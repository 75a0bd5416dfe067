"""Hold the effective settings and the problems found in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

__all__ = ["Problem", "Settings"]


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
