"""Check the settings, the sampling, the instrumentations and the exporter."""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import entry_points
from importlib.util import find_spec

from django.db import connections
from opentelemetry.sdk.trace.export import ConsoleSpanExporter

from django_tracing.conf.loading import get_settings
from django_tracing.conf.parsers import did_you_mean
from django_tracing.diagnosis.advice import place
from django_tracing.diagnosis.findings import NETWORKED, Run, Step, Stop, shown
from django_tracing.instrumentation import OURS, is_available, wanted
from django_tracing.instrumentation.upstream import registry as upstream
from django_tracing.instrumentation.upstream.known import KNOWN
from django_tracing.provider import exporter_source, make_exporter, make_spool
from django_tracing.sampling.database import read_rules_in_background
from django_tracing.sampling.remote import JaegerRemoteSampler, Strategy
from django_tracing.sampling.rules import Rule
from django_tracing.spans import runtime

__all__ = ["check_exporter", "check_instrumentations", "check_sampling", "check_settings"]


def check_settings(run: Run) -> Iterator[Step]:
    """Find wrong settings, and whether tracing is enabled."""
    settings = run.settings
    if settings.problems:
        run.exit_code = 2
        for problem in settings.problems:
            detail = f"{problem.source} {problem.message}"
            yield Step("settings", "failed", detail, "Tracing is off until this is fixed.", problem.hint)
        raise Stop
    if not settings.enabled:
        yield Step(
            "settings",
            "failed",
            f"Tracing is disabled by {settings.source('ENABLED')}.",
            "No request is traced.",
            "Remove this setting, or change its value.",
        )
        raise Stop
    words = [f'service "{settings.service_name}"{run.source_note("SERVICE_NAME")}, exporter {settings.exporter}']
    if run.sources[1] != run.sources[0]:
        words.append(run.source_note("EXPORTER"))
    if settings.exporter in NETWORKED:
        addresses = ", ".join(map(shown, run.endpoints() or (settings.endpoint,)))
        words.append(f" to {addresses}{run.source_note('ENDPOINT')}")
    elif settings.exporter == "local":
        words.append(f" in {settings.local_store}{run.source_note('LOCAL_STORE')}")
    yield Step("settings", "ok", "".join(words))


def check_sampling(run: Run) -> Iterator[Step]:
    """Find what decides which traces are kept."""
    settings = run.settings
    rules = _sampling_rules(run) if settings.sampling_refresh else []
    remote = settings.remote_sampling_url
    if rules:
        named = ", ".join(f"{rule.name} {rule.rate * 100:g} %" for rule in rules[:5])
        more = f" and {len(rules) - 5} more" if len(rules) > 5 else ""
        rest = f"; otherwise {settings.sample_rate * 100:g} %" if remote is None else ""
        yield Step("sampling", "ok", f"by the rules in the admin: {named}{more}{rest}")
    if remote is not None:
        sampler = JaegerRemoteSampler(settings.service_name, remote, refresh=3600)
        server = shown(remote)
        if sampler.ask():
            # The server decides what no rule decides. SAMPLE_RATE is not used.
            yield Step("sampling", "ok", f"by {server}: {_describe(sampler.strategy)}")
            return
        yield Step(
            "sampling",
            "warning",
            f"{server} returned no valid sampling strategy.",
            "The last known strategy, or SAMPLE_RATE, stays in force.",
            f"Check {place(settings.source('REMOTE_SAMPLING_URL'))}: does that Jaeger serve sampling strategies?",
        )
    if settings.sample_rate < 1:
        exceptions = ["its caller's trace is recorded"]
        if settings.keep_errors:
            exceptions.append("it fails (KEEP_ERRORS)")
        if settings.keep_slower_than is not None:
            exceptions.append(f"it takes longer than {settings.keep_slower_than:g} s (KEEP_SLOWER_THAN)")
        which = "the traces that match no rule" if rules else "the traces"
        yield Step(
            "sampling",
            "warning",
            f"{settings.sample_rate * 100:g} % of {which} are recorded ({settings.source('SAMPLE_RATE')}).",
            f"Any other request is recorded only if {' or '.join(exceptions)}.",
            "To see every request, set SAMPLE_RATE to 1. The test trace is sent in any case.",
        )


def _sampling_rules(run: Run) -> list[Rule]:
    """Return the rules in the database; none if it does not answer soon."""
    found: list[Rule] = []

    def read() -> None:
        # This check is not about the database.
        with suppress(Exception):
            try:
                found.extend(read_rules_in_background())
            finally:
                connections.close_all()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(min(2.0, max(run.deadline - time.monotonic(), 0.0)))
    return list(found)


def _describe(strategy: Strategy) -> str:
    rate = f"{strategy.per_second:g} per second" if strategy.rate is None else f"{strategy.rate * 100:g} %"
    return rate + (f", {len(strategy.operations)} operations with their own rates" if strategy.operations else "")


def check_instrumentations(run: Run) -> Iterator[Step]:
    """List what is traced, and what is not traced because a package is missing."""
    settings = run.settings
    on = [name for name in wanted(settings) if is_available(name)]
    yield Step("traced", "ok", ", ".join(on) or "nothing")
    explicit = settings.source("INSTRUMENTATIONS") != "default"
    for name in settings.instrumentations:
        if name in on or (name in OURS and not explicit):
            continue
        library = upstream.library_of(name)
        has_library = library is not None and library != "urllib.request" and find_spec(library) is not None
        if name not in OURS and name not in KNOWN and not _has_entry_point(name):
            # A package of this name would be anybody's.
            yield Step(
                "traced",
                "warning",
                f"{name} is not traced: it is not an instrumentation{did_you_mean(name, (*OURS, *KNOWN))}.",
                "Nothing is traced by this name.",
                f"Correct it in {place(settings.source('INSTRUMENTATIONS'))}: docs/instrumentations lists the names.",
            )
        elif name not in OURS and not _has_entry_point(name) and (explicit or has_library):
            package = f"opentelemetry-instrumentation-{name}"
            yield Step(
                "traced",
                "warning",
                f"{name} is not traced: the package {package} is not installed.",
                f"Calls with {name} create no spans, and the called services do not join the trace.",
                f"pip install {package}",
            )
        elif explicit:
            yield Step(
                "traced",
                "warning",
                f"{name} is not traced: its library is not installed.",
                f"{settings.source('INSTRUMENTATIONS')} names a library that this project does not have.",
                "Install the library, or remove the name.",
            )


def _has_entry_point(name: str) -> bool:
    """Return whether one of OpenTelemetry's instrumentations is installed under this name."""
    return bool(entry_points(group="opentelemetry_instrumentor", name=name))


def check_exporter(run: Run) -> Iterator[Step]:
    """Create the exporter, and find settings that it ignores."""
    settings = run.settings
    try:
        run.exporter = make_exporter(settings)
    except Exception as error:
        run.exit_code = 2
        message = str(error) or type(error).__name__
        problem, install, package = message.partition(": pip install ")
        remedy = f"{install[2:]}{package}" if install else f"Correct {place(exporter_source(settings, error))}."
        yield Step(
            "exporter",
            "failed",
            f"The exporter {settings.exporter} can't be created: {problem.rstrip('.')}.",
            "Requests are traced, but the spans are discarded.",
            remedy,
        )
        raise Stop from None
    if run.exporter is None:
        yield Step(
            "exporter",
            "failed",
            f'EXPORTER is "none" ({settings.source("EXPORTER")}): no spans are sent.',
            "Requests are traced, but the spans are discarded.",
            'Set EXPORTER to "local", or ENDPOINT to the address of your Jaeger.',
        )
        raise Stop
    if isinstance(run.exporter, ConsoleSpanExporter):
        # A program may read the standard output of the command.
        run.exporter.out = sys.stderr
    if settings.compression != "none" and settings.exporter not in ("otlp", "otlp-grpc"):
        yield Step(
            "exporter",
            "warning",
            f"The exporter {settings.exporter} does not support compression ({settings.source('COMPRESSION')}).",
            "COMPRESSION applies to OTLP only, over HTTP and over gRPC.",
            'Set EXPORTER to "otlp" or "otlp-grpc" if the backend accepts OTLP, or remove COMPRESSION.',
        )
    yield from _check_spool(run)
    live = get_settings()
    if live.enabled and live.exporter != "none" and runtime.current.queue is None and run.sources[0] != "--endpoint":
        yield Step(
            "exporter",
            "warning",
            "This process had a TracerProvider before Django started. That provider exports the spans.",
            "This check uses django_tracing's own exporter, but the spans of requests are exported by the other "
            "provider.",
            "Check the other provider's settings (OTEL_EXPORTER_OTLP_ENDPOINT with opentelemetry-instrument), or "
            'set TRACING["ENDPOINT"]: django_tracing then exports spans as well.',
        )


def _check_spool(run: Run) -> Iterator[Step]:
    """Find what waits on disk, and whether more can."""
    settings = run.settings
    spool = make_spool(settings)
    if spool is None:
        if settings.spool is not None:
            yield Step(
                "spool",
                "warning",
                f"{settings.source('SPOOL')} is not used by the exporter {settings.exporter} on this system.",
                "What can't be sent waits in memory only.",
                "Send OTLP, from a system with flock(), or remove SPOOL.",
            )
        return
    try:
        spool.prepare()
        contents = spool.contents()
        if not os.access(spool.folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        yield Step(
            "spool",
            "warning",
            f"The spool {spool.folder} can't be used: {error.strerror or error}.",
            "What can't be sent waits in memory only.",
            f"Correct PATH in {place(settings.source('SPOOL'))}, or the permissions of the folder.",
        )
        return
    size = f"{contents.bytes / 2**20:.1f} of {spool.max_bytes / 2**20:.4g} MiB"
    detail = f"{spool.folder} has {contents.spans} spans in {contents.batches} batches, {size}"
    if contents.oldest is not None:
        detail += f", since {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(contents.oldest))}"
    yield Step("spool", "ok", detail)
