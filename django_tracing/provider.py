"""Set up, configure and shut down the TracerProvider.

There is one in a process. Where the process has one already, it is used and extended.
"""

from __future__ import annotations

import functools
import logging
import os
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakValueDictionary

from opentelemetry import propagate, trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import Sampler

from django_tracing import instrumentation
from django_tracing.conf import environment
from django_tracing.conf.entry_points import load_entry_point
from django_tracing.conf.loading import DEFAULT_ENDPOINTS, get_settings
from django_tracing.conf.under_test import in_tests
from django_tracing.conf.values import Settings
from django_tracing.context.current import server_spans
from django_tracing.context.outgoing import OutgoingPropagator
from django_tracing.context.propagation import CorrelationPropagator, available_propagator
from django_tracing.export import build_exporter
from django_tracing.export.queue import QueueProcessor
from django_tracing.faults import CONTAINED, contained
from django_tracing.instrumentation import log_records as logs
from django_tracing.instrumentation.site_words import read_site_words
from django_tracing.instrumentation.upstream.processor import RedactedProcessor, UpstreamProcessor
from django_tracing.net import shown_address
from django_tracing.process_ends import flush_when_the_process_ends, stop_with_subinterpreter
from django_tracing.process_health import health
from django_tracing.process_starts import read_rules_for_children, warn_of_missing_threads
from django_tracing.recording import sdk
from django_tracing.recording.factory import SpanFactory
from django_tracing.recording.probe import Abilities, probe
from django_tracing.recording.undecided import late
from django_tracing.redaction import SensitiveKeys, Vocabulary, redact_resource, use_vocabulary
from django_tracing.redaction.attributes import AttributeSanitizer
from django_tracing.redaction.printable import printable
from django_tracing.sampling import refresh
from django_tracing.sampling.sampler import RuleSampler
from django_tracing.semconv.names import Convention
from django_tracing.spans import runtime
from django_tracing.version import __version__

if TYPE_CHECKING:
    from django_tracing.export.spool import Spool
    from django_tracing.semconv.facts import EncodedSection
    from django_tracing.traces.readers.sqlite.store import LocalStore

__all__ = [
    "exporter_source",
    "make_exporter",
    "make_provider",
    "make_resource",
    "make_spool",
    "queue",
    "start",
    "tls_setting",
]

_logger = logging.getLogger("django_tracing")

#: Read by opentelemetry-instrument and the SDK: upstream's instrumentations follow our setting too.
_SEMCONV: Final = "OTEL_SEMCONV_STABILITY_OPT_IN"


def start() -> None:
    """Set up tracing from the settings, once a process; later calls do nothing. Never raises.

    Wrong settings leave tracing off with one log line: a web server runs no system checks.
    """
    if runtime.current.started:
        return
    runtime.use(runtime.current.replace(started=True))
    try:
        with contained():
            _read_settings_and_start()
    except Exception as error:
        _set_trouble(
            f"Tracing is off: it could not be set up ({type(error).__name__}). The application goes on without it.",
            error=error,
        )


def _read_settings_and_start() -> None:
    settings = get_settings()
    runtime.use(runtime.current.replace(settings=settings))
    # Also where tracing is off: a log format that names the fields keeps working.
    logs.install(settings)
    if settings.problems:
        problems = " / ".join(str(problem) for problem in settings.problems)
        _set_trouble(f"Tracing is off: {problems} Run `python manage.py check` for the whole list.")
    elif not settings.enabled:
        # As configured: nothing to log.
        _set_trouble(f"Tracing is off: it is switched off by {settings.source('ENABLED')}.", level=logging.DEBUG)
    else:
        for wrong in environment.problems():
            _warn("The %s", wrong)
        for problem in settings.warnings:
            _warn("The %s %s It counts as unset. %s", *problem[1:])
        with environment.hidden():
            _start(settings)
        if sys.argv[1:2] == ["runserver"]:
            # Imported here: no other process needs it.
            from django_tracing.instrumentation import runserver

            # Without its line, tracing goes on.
            with suppress(*CONTAINED):
                runserver.install()


def queue() -> QueueProcessor | None:
    """Return the queue of ended spans. None if this app exports nothing."""
    processor: QueueProcessor | None = runtime.current.queue
    return processor


def _set_trouble(trouble: str, *, level: int = logging.ERROR, error: Exception | None = None) -> None:
    runtime.use(runtime.current.replace(trouble=trouble))
    _log(level, "%s", trouble, exc_info=error)


def _warn(message: str, *args: object) -> None:
    _log(logging.WARNING, message, *args)


def _log(level: int, message: str, *args: object, exc_info: BaseException | None = None) -> None:
    # A filter of the user's log may raise. That must not end the start.
    with suppress(*CONTAINED):
        _logger.log(level, message, *args, exc_info=exc_info)


def _start(settings: Settings) -> None:
    if settings.semconv_stability_opt_in and settings.source("SEMCONV_STABILITY_OPT_IN").startswith("TRACING"):
        os.environ[_SEMCONV] = ",".join(sorted(settings.semconv_stability_opt_in))
    _check_meter_provider()
    provider = _existing_provider()
    ours = isinstance(provider, trace.ProxyTracerProvider)
    abilities = probe()
    sampler = RuleSampler(settings.sample_rate, settings)
    registered = _make_registered_sampler(settings, sampler) if ours and settings.sampler is not None else None
    if ours:
        provider = make_provider(settings, registered or sampler)
    convention = Convention(settings.semconv_stability_opt_in)
    sanitizer = AttributeSanitizer(settings.sensitive_keys, settings.max_attribute_length, settings.redact)
    # Before the provider has our processors: other threads may end spans in it at any time.
    use_vocabulary(Vocabulary(settings.sensitive_keys, read_site_words))
    runtime.use(runtime.current.replace(convention=convention, sanitizer=sanitizer))
    queues: list[QueueProcessor] = []
    if getattr(provider, "add_span_processor", None) is not None:
        if ours or _explicitly_exported(settings):
            queues = _make_queues(settings)
        _add_processors(provider, abilities, queues)
    if ours:
        trace.set_tracer_provider(provider)
        _set_propagators(settings)
    elif settings.source("PROPAGATORS") != "default":
        _set_propagators(settings)
    else:
        # Another provider's choice of propagators stands. The correlation id is added to it.
        _add_correlation()
    tracer = provider.get_tracer(runtime.SCOPE_NAME, __version__)
    # A provider and a sampler that are not ours are asked for each span.
    ours = ours and registered is None
    keep = sampler.keep if ours else None
    factory = (
        SpanFactory.of(tracer, keep, passed_by=(UpstreamProcessor,), sanitizer=sanitizer)
        if abilities.own_spans
        else None
    )
    refresher = refresh.start(sampler, factory, settings, _report) if ours and factory is not None else None
    if refresher is not None:
        read_rules_for_children()
        stop_with_subinterpreter(refresher.stop, settings.shutdown_timeout)
        late.extend(queue.on_end for queue in queues)
    runtime.use(
        runtime.current.replace(
            tracing=True,
            tracer=tracer,
            factory=factory,
            sampler=sampler if ours else None,
            refresher=refresher,
            queue=queues[0] if queues else None,
        )
    )
    instrumentation.install(instrumentation.wanted(settings))
    if settings.health_metrics:
        # Imported here: it imports OpenTelemetry's metrics.
        from django_tracing import health_metrics

        try:
            with contained():
                health_metrics.install()
        except Exception as error:
            _warn("The metrics of %s can't be made (%s).", settings.source("HEALTH_METRICS"), _reason(error))


def _check_meter_provider() -> None:
    """Make the provider of metrics that a variable names. Without one, no tracer of the SDK can be made."""
    name = environment.METER_PROVIDER
    if name not in os.environ:
        return
    from opentelemetry import metrics

    try:
        with contained():
            metrics.get_meter_provider()
    except Exception as error:
        del os.environ[name]
        _warn("The provider of %s can't be made (%s). No metrics are made.", name, _reason(error))


def _existing_provider() -> trace.TracerProvider:
    """Return this process's provider: OpenTelemetry's proxy, where there is none yet."""
    try:
        with contained():
            return trace.get_tracer_provider()
    except Exception as error:
        name = "OTEL_PYTHON_TRACER_PROVIDER"
        _warn("The provider of %s can't be made (%s). This app's is used instead.", name, _reason(error))
        with environment.hidden([name]):
            return trace.get_tracer_provider()


def _reason(error: Exception) -> str:
    return printable(f"{type(error).__name__}: {error}", 300)


def _make_queues(settings: Settings) -> list[QueueProcessor]:
    """Make a queue for each exporter; one whose exporter cannot be made is left out."""
    made = [_make_queue(settings)]
    for kind in settings.more_exporters:
        # Two queues would send each other's batches.
        made.append(_make_queue(settings._replace(exporter=kind, endpoint=DEFAULT_ENDPOINTS.get(kind), spool=None)))
    queues = [queue for queue in made if queue is not None]
    for queue in queues:
        queue.others = [other for other in queues if other is not queue]
    if queues:
        if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
            os.register_at_fork(after_in_child=_after_fork)
        flush_when_the_process_ends(queues, settings.shutdown_timeout)
        warn_of_missing_threads()
        _look_into_spool(queues)
    return queues


def _look_into_spool(queues: Sequence[QueueProcessor]) -> None:
    for queue in queues:
        if queue.spool is not None:
            # Imported here: few processes have a spool.
            from django_tracing.export.spool_start import SpoolStart

            SpoolStart(queue).look()


def _add_processors(provider: Any, abilities: Abilities, queues: Sequence[QueueProcessor]) -> None:
    """Redact the spans of other tracers, and send all spans to ``queues``."""

    def count_lost() -> None:
        for queue in queues:
            queue.counters.drop("unredacted")

    # The SDK's tracers have the object that all spans are given to; those of other providers may hide it.
    multi = getattr(provider.get_tracer(runtime.SCOPE_NAME, __version__), "span_processor", None)
    upstream = UpstreamProcessor(in_place=abilities.redaction_in_place)
    server_spans.known = WeakValueDictionary()
    provider.add_span_processor(upstream)
    in_place = abilities.redaction_in_place and sdk.holds(multi, upstream)
    if in_place or (multi is not None and upstream.redact_copies(multi, count_lost)):
        for queue in queues:
            provider.add_span_processor(queue)
    else:
        upstream.check_spans()
        provider.add_span_processor(RedactedProcessor(queues, upstream, count_lost))


def _report() -> dict[str, Any]:
    """Return what the admin's status page shows of this process."""
    settings = get_settings()
    report: dict[str, Any] = {
        "exporter": settings.exporter,
        "endpoint": settings.endpoint and shown_address(settings.endpoint),
    }
    report |= health().as_dict()
    queue = runtime.current.queue
    if queue is not None and queue.spool is not None:
        with suppress(OSError):
            report["spool"] = queue.spool.contents()._asdict()
    return report


def _explicitly_exported(settings: Settings) -> bool:
    """Return whether a process that set its own provider exports through this app too.

    ``OTEL_EXPORTER_OTLP_ENDPOINT`` is no reason to: the existing provider honors it already.
    """
    return any(
        settings.source(name).startswith(("TRACING", "environment variable JAEGER_ENDPOINT"))
        for name in ("ENDPOINT", "EXPORTER")
    )


def _make_registered_sampler(settings: Settings, fallback: Sampler) -> Sampler | None:
    from django_tracing.sampling.registered import make_registered_sampler

    try:
        return make_registered_sampler(str(settings.sampler), settings.sampler_argument, fallback)
    except Exception as error:
        _warn(
            "The sampler %r (%s) can't be made (%s). SAMPLE_RATE and the rules are used instead.",
            printable(str(settings.sampler), 60),
            settings.source("SAMPLER"),
            _reason(error),
        )
        return None


def _make_id_generator(name: str) -> IdGenerator | None:
    from django_tracing.recording.ids import GuardedIdGenerator

    try:
        with contained():
            generator = load_entry_point("opentelemetry_id_generator", name)()
        if isinstance(generator, IdGenerator):
            return GuardedIdGenerator(generator)
        problem = "it is no IdGenerator"
    except Exception as error:
        problem = _reason(error)
    _warn("The ID generator %r can't be used (%s). Ids are random.", printable(name, 60), problem)
    return None


def make_provider(settings: Settings, sampler: Sampler, *, shutdown_on_exit: bool = True) -> TracerProvider:
    """Make a TracerProvider with the settings' resource and without processors."""
    with environment.hidden(problem.variable for problem in settings.warnings):
        generator = None if settings.id_generator is None else _make_id_generator(settings.id_generator)
        # Not disabled by OTEL_SDK_DISABLED: TRACING["ENABLED"] takes precedence, and was read before.
        return sdk.make_provider(
            sampler=sampler,
            resource=make_resource(settings),
            shutdown_on_exit=shutdown_on_exit,
            id_generator=generator,
        )


def make_resource(settings: Settings) -> Resource:
    """Describe the sender of the spans: service, environment, host and process.

    Convention: https://opentelemetry.io/docs/specs/semconv/resource/
    """
    attributes: dict[str, Any] = {
        "host.name": socket.gethostname(),
        "process.pid": os.getpid(),
        "process.runtime.name": sys.implementation.name,
        "process.runtime.version": sys.version.partition(" ")[0],
        **settings.resource_attributes,
        "service.name": settings.service_name,
    }
    if settings.service_version:
        attributes["service.version"] = settings.service_version
    if settings.environment:
        # The name that Jaeger's users search for, and the name of the current conventions.
        attributes["deployment.environment"] = settings.environment
        attributes["deployment.environment.name"] = settings.environment
    resource = _detect_resource(attributes)
    # Attributes set by an operator, also those that the SDK read from the environment. This app's own are safe.
    given = {
        key: value
        for key, value in resource.attributes.items()
        if key not in attributes or key in settings.resource_attributes
    }
    return resource.merge(Resource(redact_resource(given, SensitiveKeys(settings.sensitive_keys))))


def _detect_resource(attributes: dict[str, Any]) -> Resource:
    try:
        with contained():
            return Resource.create(attributes)
    except Exception as error:
        name = "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS"
        _warn("A detector of %s failed (%s). None of them is used.", name, _reason(error))
        with environment.hidden([name]):
            return Resource.create(attributes)


def make_exporter(settings: Settings) -> SpanExporter | None:
    """Make the exporter that the settings name. Return None for ``"none"``.

    Raises ``exceptions.MissingExtra`` when its package is not installed, ImportError, TypeError or ValueError
    when a dotted path gives no exporter. The message contains the fix.
    """
    write, work = _local_store(settings) if settings.exporter == "local" else (None, bool)
    return build_exporter(
        settings.exporter,
        endpoint=settings.endpoint,
        headers=settings.headers,
        compression=settings.compression,
        timeout=settings.export_timeout,
        local_write=write,
        local_work=work,
        settings=settings,
        # Not for another exporter, or for an endpoint that was given instead.
        endpoints=settings.endpoints if settings.endpoint in settings.endpoints else (),
        endpoint_order=settings.endpoint_order,
        tls_ca_file=settings.tls_ca_file,
        tls_client_key=settings.tls_client_key,
        tls_client_certificate=settings.tls_client_certificate,
    )


def _local_store(settings: Settings) -> tuple[Callable[[Sequence[EncodedSection]], None], Callable[[], bool]]:
    """Return functions that write to the local store, and work in pauses.

    The sending thread imports SQLite with the first trace.
    """

    @functools.cache
    def store() -> LocalStore:
        from django_tracing.traces.readers.sqlite.store import LocalStore

        return LocalStore(
            settings.local_store,
            max_traces=settings.max_traces,
            max_trace_spans=settings.max_trace_spans,
            max_bytes=settings.max_store_bytes,
            max_age=settings.max_trace_age,
        )

    return lambda sections: store().store(sections), lambda: store().work_in_pause()


def exporter_source(settings: Settings, error: Exception) -> str:
    """Return where the setting comes from because of which an exporter can't be made."""
    return settings.source(tls_setting(error) or "EXPORTER")


def tls_setting(error: Exception) -> str:
    """Return the setting whose file the exporter could not use; empty if that is not the error."""
    # By the attribute: a process without TLS need not import it. Other packages' exceptions may have one, too.
    setting = getattr(error, "setting", "")
    return setting if setting in ("TLS_CA_FILE", "TLS_CLIENT_KEY", "TLS_CLIENT_CERTIFICATE") else ""


def make_spool(settings: Settings) -> Spool | None:
    """Make the spool of the settings. Return None without one, and if the exporter or the system can't use it."""
    if settings.spool is None or settings.exporter not in ("otlp", "otlp-grpc"):
        return None
    from django_tracing.export.spool import Spool, can_spool

    return Spool(settings.spool.path, settings.spool.max_bytes) if can_spool() else None


def _make_queue(settings: Settings) -> QueueProcessor | None:
    try:
        with contained():
            exporter = make_exporter(settings)
    except Exception as error:
        _set_trouble(f"Spans are not exported ({exporter_source(settings, error)}): {error}")
        return None
    if exporter is None:
        return None
    queue = QueueProcessor(
        exporter,
        spool=make_spool(settings),
        batch_size=settings.batch_size,
        export_interval=settings.export_interval,
        queue_size=settings.queue_size,
        queue_bytes=settings.queue_bytes,
        shutdown_timeout=settings.shutdown_timeout,
        retry_for=settings.retry_for,
        muted=None if settings.enabled_in_tests else in_tests,
        name=settings.exporter,
        address=shown_address(settings.endpoint) if settings.endpoint else "",
    )
    return queue


def _after_fork() -> None:
    """Give the resource of a forked worker (gunicorn --preload) its own process id."""
    try:
        changes = Resource({"process.pid": os.getpid()})
        sdk.set_resource(trace.get_tracer_provider(), runtime.current.tracer, changes)
    except Exception:
        _logger.debug("The resource kept its parent's process id.", exc_info=True)


def _set_propagators(settings: Settings) -> None:
    propagator, missing = available_propagator(settings.propagators)
    for problem in missing:
        _warn(
            "%s names a propagator that can't be used. The others are used. %s",
            settings.source("PROPAGATORS"),
            problem,
        )
    propagate.set_global_textmap(OutgoingPropagator([propagator]))


def _add_correlation() -> None:
    propagate.set_global_textmap(OutgoingPropagator([propagate.get_global_textmap(), CorrelationPropagator()]))
