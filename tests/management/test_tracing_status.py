"""Test ``manage.py tracing_status``, for people and for scripts."""

from __future__ import annotations

import io
import json
import re
from datetime import datetime, timedelta
from datetime import timezone as dt_timezone
from typing import Any

import pytest
from django.core.management import call_command
from django.db import OperationalError
from django.utils import timezone

from django_tracing import provider
from django_tracing.diagnosis import processes
from django_tracing.models import ProcessStatus

pytestmark = pytest.mark.django_db

SUCCESS = datetime(2026, 1, 31, 23, 5, 9, tzinfo=dt_timezone.utc)
#: As a process with several exporters reports it.
REPORT: dict[str, Any] = {
    "state": "ok",
    "exporter": "otlp",
    "endpoint": "http://jaeger:4318",
    "queued": 7,
    "exported": 12345,
    "retries": 2,
    "dropped": {"expired": 3, "queue_full_bytes": 2},
    "dropped_attributes": {"unencodable": 1},
    "faults": {"start_span": 4},
    "last_error": "Nothing listens on jaeger:4318.",
    "last_success_time": SUCCESS.timestamp(),
    "sampling": {"rate": 0.5, "rules": ["ada"]},
    "spool": {"spans": 9, "bytes": 100},
    "exporters": [
        {
            "exporter": "otlp",
            "endpoint": "http://user:hunter2@jaeger:4318",
            "state": "failing",
            "endpoints": [
                {"endpoint": "http://a:4318", "available": False},
                {"endpoint": "b:4318", "available": True},
            ],
        },
        {"exporter": "jaeger", "endpoint": "udp://agent:6831", "state": "failing", "endpoints": []},
    ],
}


def status(*arguments: str) -> tuple[str, int]:
    """Return what the command prints, and its exit code."""
    out = io.StringIO()
    try:
        call_command("tracing_status", *arguments, stdout=out)
    except SystemExit as end:
        return out.getvalue(), int(str(end.code))
    return out.getvalue(), 0


def store(report: Any, pid: int = 4711, age: float = 1, **values: Any) -> None:
    now = timezone.now()
    ProcessStatus.objects.create(
        **{"process": str(pid), "service": "shop", "host": "web-1", **values},
        pid=pid,
        started=now,
        updated=now - timedelta(seconds=age),
        report=report,
    )


@pytest.fixture(autouse=True)
def tracing(settings: Any) -> None:
    settings.TRACING = {
        "SERVICE_NAME": "shop",
        "ENDPOINT": "https://user:hunter2@jaeger.example.com:4318",
        "SAMPLE_RATE": 0.1,
    }


def test_a_process_that_sends_has_one_line() -> None:
    store(REPORT, age=31)
    store(REPORT, pid=4712, age=600)
    text, code = status()
    assert code == 0
    assert text.splitlines()[:5] == [
        "service       shop",
        "tracing       on",
        "exporter      otlp",
        "endpoint      https://jaeger.example.com:4318/v1/traces",
        "sample rate   0.1",
    ]
    header, row, *rest = text.splitlines()[6:]
    assert header.split() == [
        *(
            "service",
            "process",
            "reported",
            "state",
            "exporter",
            "queued",
            "sent",
            "retries",
            "dropped",
            "last",
            "success",
        ),
    ]
    cells = {
        title: row[header.index(title) :]
        for title in ("process", "reported", "state", "exporter", "queued", "sent", "dropped")
    }
    assert cells["process"].startswith("web-1:4711  ")
    # What it reported may have changed since: half a minute is usual.
    reported = re.match(r"(\d+) s ago  ", cells["reported"])
    assert reported is not None
    assert 31 <= int(reported[1]) < 90
    assert cells["state"].startswith("ok  ")
    assert cells["exporter"].startswith("otlp http://a:4318 (not available), b:4318, jaeger udp://…"[:40])
    assert cells["queued"].startswith("7 and 9 on disk  ")
    assert cells["sent"].startswith("12345  2")
    assert cells["dropped"].startswith("expired 3, queue_full_bytes 2, unencodable_attributes 1  ")
    assert row.endswith("  2026-01-31 23:05:09Z")
    assert rest == [
        "web-1:4711 last error: Nothing listens on jaeger:4318.",
        "web-1:4711 faults: start_span 4",
    ]
    assert "hunter2" not in text


@pytest.mark.parametrize(
    ("state", "code"), [("ok", 0), ("degraded", 0), ("stopped", 0), ("off", 0), ("failing", 1), ("broken", 1)]
)
def test_the_exit_code_is_that_of_the_worst_process(state: str, code: int) -> None:
    store(REPORT)
    store({**REPORT, "state": state}, pid=4712)
    assert status()[1] == code
    text, json_code = status("--json")
    document = json.loads(text)
    assert (document["ok"], document["exit_code"], json_code) == (code == 0, code, code)
    first, second = document["processes"]
    assert (first["state"], second["state"], second["pid"]) == ("ok", state, 4712)
    assert first["dropped"] == REPORT["dropped"]
    assert datetime.fromisoformat(first["updated"]).tzinfo is not None
    assert document["settings"]["sample_rate"] == 0.1


def test_no_process_is_no_trouble() -> None:
    text, code = status()
    assert code == 0
    assert "No process has reported in the last 90 seconds." in text
    assert json.loads(status("--json")[0])["processes"] == []


def test_wrong_settings_have_their_own_code(settings: Any) -> None:
    settings.TRACING = {"SAMPLE_RATE": "often"}
    text, code = status()
    assert code == 2
    assert "SAMPLE_RATE" in text
    assert json.loads(status("--json")[0])["settings"]["problems"]


def test_a_database_that_fails_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> bool:
        raise OperationalError("password=hunter2")

    monkeypatch.setattr(processes, "table_exists", fail)
    text, code = status()
    assert code == 1
    assert "The status of processes can't be read (OperationalError)." in text
    assert "hunter2" not in text
    monkeypatch.setattr(processes, "table_exists", lambda: False)
    text, code = status()
    assert (code, "python manage.py migrate django_tracing" in text) == (0, True)


@pytest.mark.parametrize(
    "report",
    [
        [],
        {"exporters": "x", "dropped": 7, "faults": [1], "sampling": None, "last_success_time": 1e300},
        {"exporters": [3, {"endpoints": [4, {"endpoint": None}]}], "sampling": {"rules": 5}, "spool": {"spans": "x"}},
        {"state": {"a": 1}, "endpoint": "\x1b[31m\u202e", "last_error": "\x1b]0;title\x07\nok", "queued": None},
    ],
)
def test_any_report_is_printed_on_lines_of_its_own_without_control_characters(report: Any) -> None:
    store(report, host="web\x1b[31m\n1")
    text, code = status()
    assert code == 0
    assert text.replace("\n", "").isprintable()
    assert json.loads(status("--json")[0])["processes"][0]["service"] == "shop"


def test_it_prints_what_a_process_reports() -> None:
    store(json.loads(json.dumps({**provider._report(), "sampling": {"rate": 1.0}})))
    text, code = status()
    assert code == 0
    assert "  ok  " in text
