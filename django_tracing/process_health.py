"""Describe the health of tracing in this process: what waits, was sent and was dropped, and why."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal

from django_tracing.faults import fault_counts
from django_tracing.recording.undecided import lost_undecided
from django_tracing.spans import runtime

if TYPE_CHECKING:
    from django_tracing.export.queue import QueueProcessor

__all__ = ["EndpointHealth", "ExporterHealth", "Health", "HealthState", "RulesHealth", "health"]

#: A process is degraded for this long after it has dropped a span, in seconds.
_DEGRADED_FOR: Final = 300.0
_FAILOVER: Final = "django_tracing.export.failover"

HealthState = Literal["ok", "degraded", "failing", "broken", "stopped", "off"]
#: From bad to good, as far as exporters have these states.
_WORST_FIRST: Final[tuple[HealthState, ...]] = ("stopped", "failing", "degraded", "ok")


@dataclass(frozen=True)
class EndpointHealth:
    """One of several endpoints of an exporter."""

    #: The address, without credentials.
    endpoint: str
    #: Whether it was available when it was last used.
    available: bool


@dataclass(frozen=True)
class ExporterHealth:
    """The queue of one exporter, since the process started or was forked. Times are seconds since the epoch."""

    #: The exporter as the settings name it, and its endpoint without credentials (empty if it has none).
    exporter: str
    endpoint: str
    #: "ok", "degraded" (spans were dropped in the last five minutes, or one of several endpoints is not available),
    #: "failing" (the backend is not available), or "stopped" (the process ends).
    state: HealthState
    #: Several endpoints, and whether each is available; empty if there is only one.
    endpoints: tuple[EndpointHealth, ...]
    #: How many spans wait, how much memory they use in bytes (an estimate), and how much they may use.
    queued: int
    queued_bytes: int
    queue_bytes: int
    #: How many spans the backend has accepted, and how many were dropped, by reason.
    exported: int
    dropped: Mapping[str, int]
    #: How many attempts to send a batch failed and were to be repeated.
    retries: int
    #: How many spans this process stored in the SPOOL, and how many it sent from there (and counted as exported).
    spooled: int
    unspooled: int
    last_error: str | None
    last_error_time: float | None
    last_success_time: float | None
    last_drop_time: float | None


@dataclass(frozen=True)
class RulesHealth:
    """The sampling rules of this process."""

    #: "ok", "failing" (the last known rules stay in force), "no_table", "unsafe" (gevent patched the process too
    #: late, so that the rules are not read), "not_read" (no trace has started yet), or "off" (SAMPLING_REFRESH is 0,
    #: or this app does not decide).
    state: Literal["ok", "failing", "no_table", "unsafe", "not_read", "off"]
    #: How many rules are in force, and how many are left out because they can't be used.
    in_force: int
    left_out: int
    #: When the rules were last read, in seconds since the epoch.
    last_read_time: float | None


@dataclass(frozen=True)
class Health:
    """The health of tracing in this process, at one moment. Counts are since the process started or was forked.

    The sums are over all exporters: a span that two exporters send counts twice.
    """

    #: "ok", "degraded", "failing" or "stopped": the worst state of the exporters. "broken": this process traces or
    #: sends nothing, though it should. "off": it is not to trace.
    state: HealthState
    #: Why this process traces or sends nothing; empty if it does.
    trouble: str
    queued: int
    queued_bytes: int
    exported: int
    #: By reason; also "undecided", which are lost before an exporter gets them.
    dropped: Mapping[str, int]
    #: Attributes that were left out of spans that were sent, by reason.
    dropped_attributes: Mapping[str, int]
    retries: int
    spooled: int
    unspooled: int
    #: Of the exporter with the newest one; times are seconds since the epoch.
    last_error: str | None
    last_error_time: float | None
    last_success_time: float | None
    #: How often each fault of this app, or of code that it calls, happened; most of them cost a span.
    faults: Mapping[str, int]
    exporters: tuple[ExporterHealth, ...]
    rules: RulesHealth

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values: dicts, lists, texts, numbers and None."""
        return {
            **{name: _plain(getattr(self, name)) for name in self.__dataclass_fields__},
            "exporters": [_as_dict(exporter) for exporter in self.exporters],
            "rules": asdict(self.rules),
        }


def health() -> Health:
    """Return the health of tracing in this process. It takes microseconds, and reads no file and no database."""
    run = runtime.current
    queues = () if run.queue is None else (run.queue, *run.queue.others)
    found = [_exporter(queue) for queue in queues]
    exporters = tuple(exporter for exporter, _ in found)
    dropped: Counter[str] = Counter()
    for exporter in exporters:
        dropped.update(exporter.dropped)
    undecided = lost_undecided()
    if undecided:
        dropped["undecided"] += undecided
    newest = max(exporters, key=lambda exporter: exporter.last_error_time or 0.0, default=None)
    return Health(
        state=_state(exporters),
        trouble=run.trouble,
        queued=sum(exporter.queued for exporter in exporters),
        queued_bytes=sum(exporter.queued_bytes for exporter in exporters),
        exported=sum(exporter.exported for exporter in exporters),
        dropped=MappingProxyType(dict(dropped)),
        # Of the process: each queue's counters have them.
        dropped_attributes=MappingProxyType(found[0][1]["dropped_attributes"] if found else {}),
        retries=sum(exporter.retries for exporter in exporters),
        spooled=sum(exporter.spooled for exporter in exporters),
        unspooled=sum(exporter.unspooled for exporter in exporters),
        last_error=None if newest is None else newest.last_error,
        last_error_time=None if newest is None else newest.last_error_time,
        last_success_time=_latest(exporter.last_success_time for exporter in exporters),
        faults=MappingProxyType(fault_counts()),
        exporters=exporters,
        rules=_rules(),
    )


def _state(exporters: tuple[ExporterHealth, ...]) -> HealthState:
    run = runtime.current
    settings = run.settings
    if settings is None or not settings.problems and not settings.enabled:
        return "off"
    if run.trouble:
        return "broken"
    states = {exporter.state for exporter in exporters}
    return next((state for state in _WORST_FIRST if state in states), "ok")


def _exporter(queue: QueueProcessor) -> tuple[ExporterHealth, dict[str, Any]]:
    counts = queue.state()
    endpoints: tuple[EndpointHealth, ...] = ()
    # An exporter of the user's own may have a method of that name.
    if type(queue.exporter).__module__ == _FAILOVER:
        states: list[dict[str, Any]] = queue.exporter.states()  # type: ignore[attr-defined]
        endpoints = tuple(EndpointHealth(**each) for each in states)
    state: HealthState = "ok"
    if counts["stopped"]:
        state = "stopped"
    elif not counts["available"]:
        state = "failing"
    elif not all(endpoint.available for endpoint in endpoints) or _is_recent(counts["last_drop_time"]):
        state = "degraded"
    described = ExporterHealth(
        exporter=queue.name,
        endpoint=queue.address,
        state=state,
        endpoints=endpoints,
        dropped=MappingProxyType(counts["dropped"]),
        **{name: counts[name] for name in _COUNTS},
    )
    return described, counts


def _is_recent(drop: float | None) -> bool:
    # A clock that is set back does not make it last longer.
    return drop is not None and abs(time.time() - drop) < _DEGRADED_FOR


_COUNTS: Final = (
    *("queued", "queued_bytes", "queue_bytes", "exported", "retries", "spooled", "unspooled"),
    *("last_error", "last_error_time", "last_success_time", "last_drop_time"),
)


def _rules() -> RulesHealth:
    run = runtime.current
    refresher = run.refresher
    if refresher is None or not refresher.settings.sampling_refresh:
        return RulesHealth("off", 0, 0, None)
    rules = refresher.sampler.rules
    return RulesHealth(refresher.rules_state, len(rules.compiled), len(rules.left_out), refresher.rules_read)


def _latest(times: Iterable[float | None]) -> float | None:
    return max((time for time in times if time is not None), default=None)


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def _as_dict(exporter: ExporterHealth) -> dict[str, Any]:
    return {
        **{name: _plain(getattr(exporter, name)) for name in exporter.__dataclass_fields__},
        "endpoints": [asdict(endpoint) for endpoint in exporter.endpoints],
    }
