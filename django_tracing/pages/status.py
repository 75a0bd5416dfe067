"""Show the processes, the settings in force, and whether traces arrive."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any, Final

from django.http import HttpRequest, HttpResponse
from django.utils.timezone import is_aware, localtime, make_aware
from django.utils.translation import gettext

from django_tracing.conf.loading import get_settings
from django_tracing.conf.table import SPECS
from django_tracing.conf.values import Settings, SpoolFolder
from django_tracing.models import ProcessStatus, Trace
from django_tracing.net import shown_address
from django_tracing.pages.links import trace_address
from django_tracing.pages.mounts import Mount
from django_tracing.pages.responses import respond
from django_tracing.redaction import SensitiveKeys, redact_resource
from django_tracing.sampling.database import table_exists
from django_tracing.sampling.figures import StatusError, figures

__all__ = ["page"]

#: Settings whose values are secret.
_SECRET: Final = frozenset({"HEADERS", "SAMPLING_TOKEN"})
#: How many endpoints of a process are shown: its report may be anything.
_MOST_ENDPOINTS: Final = 16


def page(request: HttpRequest, mount: Mount) -> HttpResponse:
    """Show the status; after a POST, also the result of a diagnosis."""
    settings = get_settings()
    source = figures(settings)
    migrated = not source.in_tables or table_exists()
    processes: list[ProcessStatus] = []
    problem = ""
    try:
        processes = source.processes() if migrated else []
    except StatusError as error:
        problem = str(error)
    rows = [_setting_row(settings, spec.name) for spec in SPECS]
    context: dict[str, Any] = {
        "settings": [row for row in rows if row["source"] != "default"],
        "defaults": [row for row in rows if row["source"] == "default"],
        "processes": list(map(_process_row, processes)),
        "problem": problem,
        "migrated": migrated,
        "steps": None,
    }
    if request.method == "POST":
        context |= _diagnose(request, mount, settings)
    return respond(request, mount, "status", gettext("Status"), context)


def _diagnose(request: HttpRequest, mount: Mount, settings: Settings) -> dict[str, Any]:
    from django_tracing.diagnosis.steps import Diagnosis

    diagnosis = Diagnosis(settings, timeout=10)
    return {
        "steps": list(diagnosis.steps()),
        "link": diagnosis.link,
        "address": _address_of(request, mount, diagnosis.link, diagnosis.trace_id),
        "outcome": {
            0: gettext("The trace arrived.") if diagnosis.link else gettext("The trace was sent."),
            1: gettext("The trace did not arrive."),
            2: gettext("The settings are wrong."),
        }[diagnosis.exit_code],
    }


def _address_of(request: HttpRequest, mount: Mount, link: str | None, trace_id: str | None) -> str:
    """Return the address of the test trace. For the local store, ``link`` is a command, and the trace has a page."""
    if link is None or trace_id is None:
        return ""
    if "://" in link:
        return link
    return trace_address(trace_id) if mount.may(request, "view", Trace) else ""


def _setting_row(settings: Settings, name: str) -> dict[str, str]:
    value = getattr(settings, name.lower())
    if name in _SECRET and value:
        shown = gettext("set, but not shown")
        if name == "HEADERS":
            shown = ", ".join(f"{header}: …" for header in value)
    elif isinstance(value, SpoolFolder):
        shown = str(value)
    elif name.endswith("_BYTES") and isinstance(value, int):
        shown = f"{value / 2**20:.4g} MiB"
    elif callable(value):
        # A callable object, such as a partial, has no name.
        named = value if hasattr(value, "__qualname__") else type(value)
        shown = f"{named.__module__}.{named.__qualname__}"
    elif isinstance(value, str) and "://" in value:
        shown = shown_address(value)
    elif isinstance(value, (tuple, frozenset)):
        shown = ", ".join(shown_address(str(item)) if "://" in str(item) else str(item) for item in value)
    elif hasattr(value, "items"):
        redacted = redact_resource(value, SensitiveKeys(settings.sensitive_keys))
        shown = ", ".join(f"{key}={item}" for key, item in redacted.items())
    else:
        shown = "" if value is None else str(value)
    return {"name": name, "value": shown, "source": settings.source(name)}


def _time(seconds: Any) -> datetime | None:
    """Return a time that a process reported; None if there is none, or if it is no time."""
    try:
        return datetime.fromtimestamp(float(seconds), timezone.utc)
    except (TypeError, ValueError, OverflowError, OSError):
        return None


def _moment(time: datetime | None) -> dict[str, str]:
    """Return a time for a ``time`` element. The texts are in the server's time zone, and the script changes that."""
    if time is None:
        return {"text": "", "iso": ""}
    aware = time if is_aware(time) else make_aware(time)
    return {"text": f"{localtime(aware):%Y-%m-%d %H:%M:%S}", "iso": aware.isoformat()}


def _endpoints(report: dict[str, Any]) -> str:
    """Return the several endpoints of a process, and which of them are not available."""
    states = report.get("endpoints")
    shown = []
    for state in states if isinstance(states, list) else ():
        address = shown_address(str(state.get("endpoint") or "")) if isinstance(state, dict) else ""
        if address:
            down = "" if state.get("available") else f" ({gettext('not available')})"
            shown.append(address + down)
    return ", ".join(shown[:_MOST_ENDPOINTS])


def _spooled(report: dict[str, Any]) -> str:
    """Return how many spans wait on disk."""
    spool = report.get("spool")
    if not isinstance(spool, dict) or not isinstance(spool.get("spans"), int):
        return ""
    return gettext("and %(spans)d on disk") % {"spans": spool["spans"]}


def _process_row(process: ProcessStatus) -> dict[str, Any]:
    report = process.report
    sampling = report.get("sampling", {})
    success = report.get("last_success_time")
    dropped = [f"{reason} {count}" for reason, count in report.get("dropped", {}).items()]
    dropped += [f"{reason}_attributes {count}" for reason, count in report.get("dropped_attributes", {}).items()]
    # A process with an older version of this app may report more of the address.
    endpoint = _endpoints(report) or shown_address(str(report.get("endpoint") or ""))
    return {
        "service": process.service,
        "name": f"{process.host}:{process.pid}",
        "started": _moment(process.started),
        "updated": _moment(process.updated),
        "exporter": " ".join(filter(None, (str(report.get("exporter") or ""), endpoint))),
        "queued": " ".join(filter(None, (str(report.get("queued", "")), _spooled(report)))),
        "exported": str(report.get("exported", "")),
        "dropped": ", ".join(dropped) or "0",
        "last_success": _moment(_time(success)),
        "last_error": report.get("last_error") or "",
        "sampling": ", ".join([f"SAMPLE_RATE {sampling.get('rate')}", *sampling.get("rules", ())]),
    }
