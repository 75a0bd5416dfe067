"""Test the status page."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from datetime import timezone as dt_timezone
from threading import Event
from typing import Any, ClassVar

import pytest
from django.test import Client
from django.utils import timezone
from django.utils.html import escape
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from django_tracing.diagnosis.alone import alone
from django_tracing.models import ProcessStatus
from tests.pages.helpers import SCRIPT, STATUS, page, staff
from tests.receivers import OTLPReceiver

pytestmark = pytest.mark.django_db


def test_the_status_of_every_live_process(root: Client) -> None:
    now = timezone.now()
    report = {
        "exporter": "otlp",
        "endpoint": "http://jaeger:4318",
        "queued": 7,
        "exported": 12345,
        "dropped": {"queue_full_spans": 2},
        "dropped_attributes": {"unencodable": 3},
        "last_error": SCRIPT,
        "last_success_time": now.timestamp(),
        "sampling": {"rate": 0.5, "rules": ["ada"]},
    }
    for process, age in (("live", 1), ("gone", 600)):
        ProcessStatus.objects.create(
            process=process,
            service=f"{process}-shop",
            host="h",
            pid=1,
            started=now,
            updated=now - timedelta(seconds=age),
            report=report,
        )
    text = page(root, STATUS)
    assert "live-shop" in text
    assert "gone-shop" not in text
    assert "12345" in text
    assert "queue_full_spans 2, unencodable_attributes 3" in text
    assert "SAMPLE_RATE 0.5, ada" in text
    assert SCRIPT not in text
    # In a row of its own, across the table: as the last of 14 columns, no window was wide enough to show it.
    assert re.search(
        rf'<td colspan="10" class="tracing-lead">\s*<p>Last error:\s*<strong>{re.escape(escape(SCRIPT))}', text
    )
    (head,) = re.findall(r'id="tracing-processes">\s*<thead>(.*?)</thead>', text, re.DOTALL)
    assert head.count("<th ") == 10


def test_settings_with_their_sources_and_without_secrets(root: Client, settings: Any) -> None:
    settings.TRACING = {
        "EXPORTER": "none",
        "ENDPOINT": "https://user:hunter2@jaeger.example.com:4318",
        "HEADERS": {"authorization": "Bearer hunter2"},
        "SAMPLING_TOKEN": "hunter2",
        "REDACT": "tests.redaction.test_attributes.redact",
        "SUBSCRIPTION": lambda user: "pro",
    }
    text = page(root, STATUS)
    assert "hunter2" not in text
    assert "authorization: …" in text
    assert "jaeger.example.com:4318" in text
    assert "tests.redaction.test_attributes.redact" in text
    assert "TRACING[&quot;ENDPOINT&quot;]" in text


@pytest.mark.parametrize("arrives", [True, False])
def test_a_button_checks_whether_traces_arrive(root: Client, settings: Any, arrives: bool) -> None:
    with OTLPReceiver() as receiver:
        if not arrives:
            receiver.mode = 500
        settings.TRACING = {"ENDPOINT": receiver.endpoint, "QUERY_URL": None}
        answer = root.post(STATUS)
    steps = {step.name: step.outcome for step in answer.context["steps"]}
    assert steps["port"] == "ok"
    assert steps["send"] == ("ok" if arrives else "failed")
    assert answer.context["outcome"] == ("The trace was sent." if arrives else "The trace did not arrive.")


def test_a_check_links_to_its_trace(root: Client) -> None:
    """With the local store, the command prints another command instead of a link, which a browser can't open."""
    answer = root.post(STATUS)
    link = re.search(
        r'role="status">The trace arrived\.\s*<a href="([^"]+)">Show the trace</a>', answer.content.decode()
    )
    assert link is not None
    assert "check_tracing.child" in root.get(link[1]).content.decode()


def test_users_who_may_not_view_traces_get_the_command() -> None:
    text = staff("change_processstatus").post(STATUS).content.decode()
    assert re.search(r"The trace arrived\.\s*<code>python manage.py traces [0-9a-f]{32}</code>", text)


class Looking(SpanExporter):
    """An exporter that sees whether another check could start meanwhile."""

    seen: ClassVar[list[bool]] = []

    def export(self, spans: Any) -> SpanExportResult:
        with alone() as is_alone:
            self.seen.append(is_alone)
        return SpanExportResult.SUCCESS


class Hanging(SpanExporter):
    released: ClassVar[Event] = Event()

    def export(self, spans: Any) -> SpanExportResult:
        self.released.wait(30)
        return SpanExportResult.SUCCESS


def test_clicks_at_the_same_time_hold_one_worker(root: Client, settings: Any) -> None:
    settings.TRACING = {"EXPORTER": f"{__name__}.Looking"}
    Looking.seen.clear()
    with alone():
        answer = root.post(STATUS)
        assert answer.status_code == 409
        assert "Another check is running." in answer.content.decode()
    assert Looking.seen == []
    assert root.post(STATUS).status_code == 200
    assert Looking.seen == [False]
    assert root.post(STATUS).status_code == 200, "the first one has ended"


def test_a_check_that_hangs_does_not_hold_its_worker(
    root: Client, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.TRACING = {"EXPORTER": f"{__name__}.Hanging"}
    monkeypatch.setattr("django_tracing.pages.status.CHECK_TIMEOUT", 0.3)
    try:
        answer = root.post(STATUS)
    finally:
        Hanging.released.set()
    assert answer.context["steps"][-1].detail == "There was no answer within the 0.3 s of this check."
    assert answer.context["outcome"] == "The trace did not arrive."


def test_the_button_is_for_those_who_may_use_it(root: Client) -> None:
    """Who may only view the status gets the command."""
    button = "Check now"
    assert button in root.get(STATUS).content.decode()
    viewer = staff("view_processstatus")
    text = viewer.get(STATUS).content.decode()
    assert button not in text
    assert "<code>python manage.py check_tracing</code>" in text
    assert viewer.post(STATUS).status_code == 403


def test_what_is_set_comes_first_and_defaults_are_folded(root: Client, settings: Any) -> None:
    settings.TRACING = {**settings.TRACING, "QUEUE_BYTES": 3 * 1024 * 1024 // 2}
    text = page(root, STATUS)
    first, folded = text.split("<details", 1)
    names = ["SERVICE_NAME", "EXPORTER", "QUEUE_BYTES", "LOCAL_STORE", "LAYERS"]
    assert re.findall(r"<code>([A-Z_]+)</code>", first) == names
    assert "open" not in folded.partition(">")[0]
    assert "SAMPLE_RATE" in folded
    assert "SERVICE_NAME" not in folded
    assert ">1.5 MiB</td>" in first
    assert ">512 MiB</td>" in folded
    settings.TRACING = {}
    assert "Nothing is set." in page(root, STATUS).split("<details", 1)[0]


def test_times_are_on_one_line_and_have_the_time_zone_for_the_browser(root: Client, settings: Any) -> None:
    settings.TIME_ZONE = "Asia/Tokyo"
    settings.USE_TZ = True
    moment = datetime(2026, 1, 31, 23, 5, 9, tzinfo=dt_timezone.utc)
    now = timezone.now()
    for pid, success in ((1, moment.timestamp()), (2, "never"), (3, 1e300)):
        ProcessStatus.objects.create(
            process=str(pid),
            service="shop",
            host="h",
            pid=pid,
            started=moment,
            updated=now,
            report={"last_success_time": success},
        )
    text = re.sub(r"(?<=>)\n+|\n+(?=<)", "", page(root, STATUS))
    cell = '<time datetime="2026-02-01T08:05:09+09:00">2026-02-01 08:05:09</time></'
    started = cell.replace("2026-02-01T08:05:09+09:00", "2026-01-31T23:05:09+00:00")
    assert text.replace(started, cell).count(cell) == 4, "three times started, and one last success"
