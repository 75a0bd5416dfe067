"""Settings: the ``TRACING`` dict and the environment become one frozen, typed :class:`Settings`.

``TRACING`` wins over the OpenTelemetry variables (``OTEL_*``), those win over the short names
(``JAEGER_ENDPOINT``, ``SERVICE_NAME``, ``SERVICE_VERSION``, ``ENVIRONMENT``). A wrong value never raises: it
becomes a :class:`Problem` that says which setting, where it was set and the mend, and tracing is then off.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from django.conf import settings as django_settings
from django.core.signals import setting_changed

from django_tracing.conf.parsers import Parser, WrongValue, display, parse_otlp_endpoint, parse_protocol
from django_tracing.conf.patterns import regex_problem
from django_tracing.conf.table import NAMES, SPECS, Spec
from django_tracing.conf.values import Problem, Settings

__all__ = ["DEFAULT_ENDPOINTS", "QUERY_PORT", "get_settings", "load"]

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
                WrongValue(
                    f"must be a dict, not {type(configured).__name__}.",
                    'Write it as TRACING = {"SERVICE_NAME": "shop"}.',
                ),
            )

    def problem(self, setting: str, source: str, wrong: WrongValue) -> None:
        self.problems.append(Problem(setting, source, wrong.message, wrong.hint))

    def parse(self, name: str, source: str, value: Any, parser: Parser, from_env: bool, default: Any) -> Any:
        self.sources[name] = source
        try:
            return parser(value, from_env)
        except WrongValue as wrong:
            self.problem(name, source, wrong)
        except Exception as error:
            # An object that raises when it is looked at.
            problem = WrongValue(f"can't be read ({type(error).__name__}).", "Write it as docs/settings.md says.")
            self.problem(name, source, problem)
        return default

    def unknown_keys(self) -> None:
        for key in self.configured:
            if key in NAMES:
                continue
            text = key if isinstance(key, str) else display(key)
            close = difflib.get_close_matches(text.upper().replace("-", "_"), NAMES, n=1, cutoff=0.5)
            hint = (
                f'Did you mean "{close[0]}"?'
                if close
                else "Take it out; docs/settings.md has the table of all settings."
            )
            self.problem(text, f'TRACING["{text}"]', WrongValue("is not a setting of django_tracing.", hint))

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
                parse_otlp_endpoint
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
                kind = self.parse(
                    "EXPORTER", f"environment variable {variable}", protocol, parse_protocol, True, kind
                )
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
                WrongValue("is a udp:// address, which OTLP can't use.", 'Set EXPORTER to "jaeger", or use http://.'),
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
