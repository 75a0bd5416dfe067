"""Describe what is kept without a rule, and offer rules to start with."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.utils.translation import gettext

from django_tracing.conf.values import Settings
from django_tracing.net import shown_address
from django_tracing.pages.mounts import Mount

__all__ = ["kept_without_rules", "percent", "starters"]


def percent(rate: float) -> str:
    """Return a rate from 0 to 1 with its unit."""
    return f"{rate * 100:g} %"


def kept_without_rules(settings: Settings) -> list[dict[str, str]]:
    """Return what is kept of the traces that match no rule, one sentence and its setting a line."""
    if settings.remote_sampling_url:
        share = gettext("the share of the traces that %(address)s determines") % {
            "address": shown_address(settings.remote_sampling_url)
        }
        lines = [{"text": share, "setting": "REMOTE_SAMPLING_URL"}]
    else:
        share = gettext("%(rate)s of all traces") % {"rate": percent(settings.sample_rate)}
        lines = [{"text": share, "setting": "SAMPLE_RATE"}]
    if settings.keep_errors:
        lines.append({"text": gettext("every request that fails"), "setting": "KEEP_ERRORS"})
    if settings.keep_slower_than is not None:
        slow = gettext("every request that takes longer than %(seconds)g s") % {"seconds": settings.keep_slower_than}
        lines.append({"text": slow, "setting": "KEEP_SLOWER_THAN"})
    if not settings.sampling_refresh:
        lines.append({"text": gettext("rules have no effect in this process"), "setting": "SAMPLING_REFRESH"})
    return lines


def starters(mount: Mount, settings: Settings) -> list[dict[str, str]]:
    """Return the form of a new rule, filled in for the most frequent purposes."""
    # A rule that keeps everything would have nothing to add.
    rate = settings.sample_rate if settings.sample_rate < 1 else 0.1
    found: list[tuple[str, str, dict[str, Any]]] = [
        (
            gettext("Keep errors"),
            gettext("Keeps every request that fails, and %(rate)s of the others.") % {"rate": percent(rate)},
            {"operation": "request", "rate": f"{rate * 100:g}", "keep_errors": "true"},
        ),
        (
            gettext("Keep slow requests of a route"),
            gettext("Keeps every request below a path that takes longer than a second, and %(rate)s of the others.")
            % {"rate": percent(rate)},
            {"operation": "request", "path": "/checkout/*", "rate": f"{rate * 100:g}", "keep_slower_than": "1"},
        ),
        (
            gettext("%(rate)s of everything") % {"rate": percent(0.1)},
            gettext("Keeps one of ten traces, whatever started them."),
            {"rate": "10"},
        ),
    ]
    add = mount.views.address("samplingrule_add")
    return [
        {"label": label, "text": text, "url": f"{add}?{urlencode({'name': label, **fields})}"}
        for label, text, fields in found
    ]
