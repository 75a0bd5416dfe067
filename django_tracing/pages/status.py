"""Show the processes, the settings in force, and whether traces arrive."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.utils.timezone import is_aware, localtime, make_aware
from django.utils.translation import gettext

from django_tracing.conf.loading import get_settings
from django_tracing.conf.table import SPECS
from django_tracing.conf.values import Settings, SpoolFolder
from django_tracing.diagnosis.processes import ReportingProcess, reported
from django_tracing.models import Trace
from django_tracing.net import shown_address
from django_tracing.pages.links import trace_address
from django_tracing.pages.mounts import Mount
from django_tracing.pages.responses import respond
from django_tracing.redaction import SensitiveKeys, redact_resource

__all__ = ["CHECK_TIMEOUT", "page"]

#: Settings whose values are secret.
_SECRET: Final = frozenset({"HEADERS", "SAMPLING_TOKEN"})
#: How long a check may take, in seconds: it holds the worker that answers the request.
CHECK_TIMEOUT: Final = 10.0


def page(request: HttpRequest, mount: Mount) -> HttpResponse:
    """Show the status; after a POST, also the result of a diagnosis."""
    settings = get_settings()
    found = reported(settings)
    rows = [_setting_row(settings, spec.name) for spec in SPECS]
    context: dict[str, Any] = {
        "settings": [row for row in rows if row["source"] != "default"],
        "defaults": [row for row in rows if row["source"] == "default"],
        "processes": list(map(_process_row, found.processes)),
        "problem": found.problem,
        "migrated": found.migrated,
        "steps": None,
        "may_check": mount.may(request, "change"),
    }
    status = 200
    if request.method == "POST":
        if not context["may_check"]:
            raise PermissionDenied
        checked = _diagnose(request, mount, settings)
        context |= checked or {"busy": True}
        status = 200 if checked else 409
    return respond(request, mount, "status", gettext("Status"), context, status)


def _diagnose(request: HttpRequest, mount: Mount, settings: Settings) -> dict[str, Any] | None:
    """Return what a diagnosis finds; None if another one is running, so that clicks can't hold all workers."""
    from django_tracing.diagnosis.alone import alone
    from django_tracing.diagnosis.steps import Diagnosis

    with alone() as is_alone:
        if not is_alone:
            return None
        diagnosis = Diagnosis(settings, timeout=CHECK_TIMEOUT)
        steps = list(diagnosis.steps())
    return {
        "steps": steps,
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


def _moment(time: datetime | None) -> dict[str, str]:
    """Return a time for a ``time`` element. The texts are in the server's time zone, and the script changes that."""
    if time is None:
        return {"text": "", "iso": ""}
    aware = time if is_aware(time) else make_aware(time)
    return {"text": f"{localtime(aware):%Y-%m-%d %H:%M:%S}", "iso": aware.isoformat()}


def _process_row(process: ReportingProcess) -> dict[str, Any]:
    return {
        **process._asdict(),
        "name": f"{process.host}:{process.pid}",
        "started": _moment(process.started),
        "updated": _moment(process.updated),
        "last_success": _moment(process.last_success),
    }
