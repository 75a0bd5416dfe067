"""Load the settings: ``TRACING`` and the environment become one frozen :class:`Settings`.

``TRACING`` takes precedence over OpenTelemetry's variables (``OTEL_*``), and those over the short names
(``JAEGER_ENDPOINT``, ``SERVICE_NAME``, ``SERVICE_VERSION``, ``ENVIRONMENT``). A wrong value never raises. It becomes
a :class:`Problem` that names the setting, its source and the fix. Tracing is then off, except where OpenTelemetry's
specification wants a wrong value to be ignored: see :data:`DISABLING`.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from django.conf import settings as django_settings
from django.core.signals import setting_changed

from django_tracing.conf.parsers import Parser, WrongValue, display, parse_otlp_endpoint
from django_tracing.conf.patterns import regex_problem
from django_tracing.conf.selection import select_exporter, select_sampler
from django_tracing.conf.table import NAMES, OUR_INSTRUMENTATIONS, SPECS, Spec
from django_tracing.conf.values import Problem, Settings
from django_tracing.faults import contained
from django_tracing.redaction.printable import printable

__all__ = ["DEFAULT_ENDPOINTS", "Loader", "DISABLING", "QUERY_PORT", "get_settings", "load"]

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
#: OpenTelemetry's variables that turn tracing off where they are wrong, for spans would otherwise go elsewhere than
#: intended, or without credentials. Any other one counts as unset, as the specification wants it.
DISABLING: Final = frozenset(
    {
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "OTEL_EXPORTER_OTLP_HEADERS",
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    }
)
#: The longest name of a setting that messages show.
_LONGEST_KEY: Final = 100
#: It is read together with OTEL_TRACES_SAMPLER.
_SAMPLER_ARGUMENT: Final = "OTEL_TRACES_SAMPLER_ARG"


class Loader:
    """Reads all settings once. ``values`` holds them by their names in ``TRACING``, ``extra`` by those of fields."""

    def __init__(self, configured: Any, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self.sources: dict[str, str] = {}
        self.values: dict[str, Any] = {}
        self.extra: dict[str, Any] = {}
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
        """Record a wrong value, which turns tracing off."""
        # A key that is no setting may be any text.
        shown = printable(setting, _LONGEST_KEY), printable(source, _LONGEST_KEY + 20)
        self.problems.append(Problem(*shown, wrong.message, wrong.hint))

    def warn(self, setting: str, variable: str, message: str, hint: str) -> None:
        """Record a wrong value of an environment variable that counts as unset."""
        self.warnings.append(Problem(setting, f"environment variable {variable}", message, hint))

    def variable(self, name: str) -> str:
        """Return the value of an environment variable, without white space around it; empty where it is unset."""
        # The specification treats an empty variable as unset.
        return self.environ.get(name, "").strip()

    def parse(self, name: str, source: str, value: Any, parser: Parser, from_env: bool) -> tuple[bool, Any]:
        """Return whether ``value`` could be parsed, and the result. Record the problem where it could not be."""
        try:
            with contained():
                return True, parser(value, from_env)
        except WrongValue as error:
            wrong = error
        except Exception as error:
            # An object that raises when it is looked at.
            wrong = WrongValue(f"can't be read ({type(error).__name__}).", "Write it as docs/settings.md describes.")
        variable = source.removeprefix("environment variable ")
        if from_env and variable.startswith("OTEL_") and variable not in DISABLING:
            self.warn(name, variable, wrong.message, wrong.hint)
        else:
            self.sources[name] = source
            self.problem(name, source, wrong)
        return False, None

    def unknown_keys(self) -> None:
        for key in self.configured:
            if key in NAMES:
                continue
            text = key if isinstance(key, str) else display(key)
            word = text.upper().replace("-", "_")
            # A part of a name is far from it by its letters: NAME, RATE.
            parts = [name for name in NAMES if word in name.split("_")]
            close = difflib.get_close_matches(word, NAMES, n=1) or parts
            hint = (
                f'Did you mean "{close[0]}"?' if close else "Remove it; docs/settings.md has a table of all settings."
            )
            self.problem(text, f'TRACING["{text}"]', WrongValue("is not a setting of django_tracing.", hint))

    def read(self, spec: Spec) -> None:
        """Read one setting from ``TRACING``, else from its environment variables, else its default."""
        self.values[spec.name] = spec.default
        source = f'TRACING["{spec.name}"]'
        if spec.name in self.configured:
            value = self.configured[spec.name]
            if value is None and spec.default is None:
                self.sources[spec.name] = source
                return
            good, parsed = self.parse(spec.name, source, value, spec.parse, False)
            if good:
                self.values[spec.name], self.sources[spec.name] = parsed, source
            return
        for variable in spec.env:
            raw = self.environ.get(variable, "")
            # A sampler's argument may be anything: select_sampler() reads it.
            if not raw.strip() or variable == _SAMPLER_ARGUMENT:
                continue
            parser = spec.parse_env or spec.parse
            if spec.name == "ENDPOINT" and variable.startswith("OTEL_"):
                parser = parse_otlp_endpoint
            source = f"environment variable {variable}"
            good, parsed = self.parse(spec.name, source, raw, parser, True)
            if good:
                self.values[spec.name], self.sources[spec.name] = parsed, source
            if good or not variable.startswith("OTEL_") or variable in DISABLING:
                return

    def load(self) -> Settings:
        self.unknown_keys()
        for spec in SPECS:
            self.read(spec)
        values = self.values
        self._enabled()
        self._resource()
        self._first_endpoint()
        select_sampler(self)
        select_exporter(self)
        self._endpoint()
        self._batches()
        self._instrumentations()
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
        fields["id_generator"] = self._id_generator()
        return Settings(
            **fields,
            **self.extra,
            sources=MappingProxyType(self.sources),
            problems=tuple(self.problems),
            warnings=tuple(self.warnings),
        )

    def _enabled(self) -> None:
        variable = "OTEL_SDK_DISABLED"
        raw = self.variable(variable).lower()
        if "ENABLED" in self.configured or not raw:
            return
        # The specification: only "true" (any case) disables, every other value is false.
        self.sources["ENABLED"] = f"environment variable {variable}"
        self.values["ENABLED"] = raw != "true"
        if raw not in ("true", "false"):
            self.warn("ENABLED", variable, f"is {display(raw)}.", 'Set it to "true" or "false", or unset it.')

    def _excluded_urls(self) -> tuple[str, ...]:
        """Return the URLs that OpenTelemetry's Django instrumentation leaves out: they are left out here, too."""
        variable = "OTEL_PYTHON_DJANGO_EXCLUDED_URLS"
        if variable not in self.environ:
            variable = "OTEL_PYTHON_EXCLUDED_URLS"
        wanted = [part.strip() for part in self.environ.get(variable, "").split(",")]
        # conf.environment reports wrong ones.
        return tuple(part for part in wanted if part and not regex_problem(part))

    def _id_generator(self) -> str | None:
        name = self.variable("OTEL_PYTHON_ID_GENERATOR")
        # conf.environment reports a missing one, and provider.make_provider() goes on without it.
        return None if name in ("", "random") else name

    def _instrumentations(self) -> None:
        """Leave out what ``OTEL_PYTHON_DISABLED_INSTRUMENTATIONS`` names, unless ``TRACING`` has its own list."""
        disabled = {part.strip() for part in self.variable("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS").split(",")}
        listed = self.values["INSTRUMENTATIONS"]
        if "INSTRUMENTATIONS" not in self.configured and disabled & {*listed, "*"}:
            # The names are OpenTelemetry's: ours stay.
            self.values["INSTRUMENTATIONS"] = tuple(
                name for name in listed if name in OUR_INSTRUMENTATIONS or not disabled & {name, "*"}
            )
            self.sources["INSTRUMENTATIONS"] = "environment variable OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"

    def _resource(self) -> None:
        """Take name, version and environment from the resource attributes: they win over the short names."""
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

    def _batches(self) -> None:
        """Apply OpenTelemetry's rules for its batch processor's variables."""
        batch, queue = self.values["BATCH_SIZE"], self.values["QUEUE_SIZE"]
        variable = "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"
        if (
            queue is not None
            and batch > queue
            and self.sources.get("BATCH_SIZE") == f"environment variable {variable}"
        ):
            self.values["BATCH_SIZE"] = min(queue, 512)
            del self.sources["BATCH_SIZE"]
            self.warn(
                "BATCH_SIZE",
                variable,
                f"is {batch}, which is more than the {queue} spans of the queue.",
                "Set it to less, or OTEL_BSP_MAX_QUEUE_SIZE to more.",
            )
        # One limits a request, the other one a batch, which is one request here.
        variable = "OTEL_BSP_EXPORT_TIMEOUT"
        if self.sources.get("EXPORT_TIMEOUT", "").startswith("environment variable OTEL_EXPORTER_"):
            spec = next(spec for spec in SPECS if spec.name == "EXPORT_TIMEOUT")
            raw = self.environ.get(variable, "")
            if raw.strip() and spec.parse_env is not None:
                source = f"environment variable {variable}"
                good, seconds = self.parse(spec.name, source, raw, spec.parse_env, True)
                if good and seconds < self.values[spec.name]:
                    self.values[spec.name], self.sources[spec.name] = seconds, source

    def _first_endpoint(self) -> None:
        """Make the first of ``ENDPOINTS`` the endpoint that chooses the exporter and the query API."""
        endpoints = self.values["ENDPOINTS"]
        if not endpoints:
            return
        source = self.sources["ENDPOINTS"]
        if self.configured.get("ENDPOINT") is not None:
            wrong = WrongValue("can't be used beside ENDPOINT.", "Remove one of them.")
            self.problem("ENDPOINTS", source, wrong)
        self.values["ENDPOINT"], self.sources["ENDPOINT"] = endpoints[0], source

    def _endpoint(self) -> None:
        """Complete the endpoints for the exporter, or set the exporter's default."""
        values = self.values
        source = self.sources.get("ENDPOINT", "")
        kind = values["EXPORTER"]
        if values["ENDPOINT"] is None:
            values["ENDPOINT"] = DEFAULT_ENDPOINTS.get(kind)
            return
        if values["ENDPOINTS"] and kind not in ("otlp", "otlp-grpc"):
            wrong = WrongValue(f"can't be used by the exporter {display(kind)}.", 'Set EXPORTER to "otlp".')
            self.problem("ENDPOINTS", source, wrong)
        values["ENDPOINT"] = self._complete(values["ENDPOINT"], kind, source)
        completed = [self._complete(endpoint, kind, source) for endpoint in values["ENDPOINTS"]]
        values["ENDPOINTS"] = tuple(completed) if len(completed) > 1 else ()

    def _complete(self, endpoint: str, kind: str, source: str) -> str:
        parts = urlsplit(endpoint)
        if parts.scheme == "udp" and kind in ("otlp", "otlp-grpc"):
            self.problem(
                "ENDPOINT",
                source,
                WrongValue("is a udp:// address, which OTLP can't use.", 'Set EXPORTER to "jaeger", or use http://.'),
            )
        elif kind == "otlp":
            path = parts.path.rstrip("/")
            # OTEL_EXPORTER_OTLP_ENDPOINT is a base for all signals; the others are the address of traces.
            if not path or (source.endswith("OTEL_EXPORTER_OTLP_ENDPOINT") and not path.endswith("/v1/traces")):
                path += "/v1/traces"
                return urlunsplit(parts._replace(path=path))
        elif kind == "jaeger" and parts.scheme != "udp" and not parts.path.rstrip("/"):
            return urlunsplit(parts._replace(path="/api/traces"))
        return endpoint


def _default_query_url(exporter: str, endpoint: str | None) -> str | None:
    if exporter not in DEFAULT_ENDPOINTS or endpoint is None:
        return None
    host = urlsplit(endpoint).hostname or "localhost"
    return f"http://[{host}]:{QUERY_PORT}" if ":" in host else f"http://{host}:{QUERY_PORT}"


def _project_name() -> str:
    """Return the name of the Django project's package, e.g. ``shop`` for ``shop.settings.production``."""
    for dotted in (os.environ.get("DJANGO_SETTINGS_MODULE"), getattr(django_settings, "ROOT_URLCONF", None)):
        head = str(dotted or "").partition(".")[0]
        if head and head not in ("settings", "config", "urls"):
            return head
    base = _base_dir()
    return base.name if base else Path(sys.argv[0] or "django").stem or "django"


def _base_dir() -> Path | None:
    """Return the project's folder where ``BASE_DIR`` is one; it may be anything."""
    base = getattr(django_settings, "BASE_DIR", None)
    return Path(os.fsdecode(base)) if base and isinstance(base, (str, bytes, os.PathLike)) else None


def _working_folder() -> Path:
    try:
        return Path.cwd()
    except OSError:  # it was deleted; the store reports that
        return Path()


def load(configured: Any, environ: Mapping[str, str]) -> Settings:
    """Return the settings of a ``TRACING`` value and an environment.

    Never raises: wrong settings are in ``problems``, and ``enabled`` is then False.
    """
    try:
        with contained():
            return Loader(configured, environ).load()
    except Exception as error:
        return _unreadable(configured, type(error).__name__)


def _unreadable(configured: Any, why: str) -> Settings:
    """Return settings for a TRACING or an environment that raises in a way that no parser expects."""
    try:
        with contained():
            settings, source = Loader(configured, {}).load(), "environment variables of OpenTelemetry"
    except Exception:
        settings, source = Loader(None, {}).load(), "settings.TRACING"
    problem = Problem("TRACING", source, f"can't be read ({why}).", "Write it as docs/settings.md describes.")
    return settings._replace(enabled=False, problems=(problem,))


@cache
def get_settings() -> Settings:
    """Return the effective settings of this process. They are read once, and again after ``setting_changed``."""
    while True:
        before = _changes.number
        settings = load(getattr(django_settings, "TRACING", None), os.environ)
        # Another thread may have changed them meanwhile, and the cache would keep the former ones.
        if _changes.number == before:
            return settings


class _Changes:
    """How often the settings have changed."""

    __slots__ = ("number",)

    def __init__(self) -> None:
        self.number = 0


_changes: Final = _Changes()


def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting in ("TRACING", "BASE_DIR"):
        _changes.number += 1
        get_settings.cache_clear()


setting_changed.connect(_forget, dispatch_uid="django_tracing.conf.loading")
