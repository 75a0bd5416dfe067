"""Test ``manage.py traces_spool``, the check of the spool, and its step in a diagnosis."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from django_tracing import provider as provider_module
from django_tracing.checks import check_settings
from django_tracing.conf.loading import get_settings
from django_tracing.diagnosis.processes import as_reported
from django_tracing.diagnosis.steps import Diagnosis, Step
from django_tracing.export.spool import Spool, can_spool
from django_tracing.models import ProcessStatus
from django_tracing.pages.status import _setting_row
from django_tracing.provider import _report
from django_tracing.spans import runtime
from example_project.servers import free_port
from tests.export.test_spool import encode
from tests.receivers import OTLPReceiver, ReceivedSpan

pytestmark = pytest.mark.skipif(not can_spool(), reason="needs flock()")
MIB = 1024 * 1024


def run(*arguments: str) -> str:
    out = io.StringIO()
    call_command("traces_spool", *arguments, stdout=out)
    return out.getvalue()


@pytest.fixture
def receiver() -> Iterator[OTLPReceiver]:
    with OTLPReceiver() as receiver:
        yield receiver


@pytest.fixture
def spool(settings: Any, receiver: OTLPReceiver, tmp_path: Path) -> Spool:
    folder = tmp_path / "spool"
    settings.TRACING = {"ENDPOINT": receiver.endpoint, "SPOOL": {"PATH": str(folder), "MAX_BYTES": 8 * MIB}}
    return Spool(folder, 8 * MIB)


class TestShow:
    def test_nothing(self, spool: Spool) -> None:
        assert run() == f"{spool.folder}: 0 spans in 0 batches, 0.0 of 8 MiB.\n"

    def test_for_people(self, spool: Spool) -> None:
        spool.store(encode(3, text="x" * 100_000))
        first, second = run("show").splitlines()
        assert first == f"{spool.folder}: 3 spans in 1 batches, 0.3 of 8 MiB."
        assert second.startswith("The oldest batch was stored at 20")

    def test_for_programs(self, spool: Spool) -> None:
        spool.store(encode(3))
        content = json.loads(run("--json"))
        assert (content["folder"], content["spans"], content["batches"]) == (str(spool.folder), 3, 1)
        assert content["max_bytes"] == 8 * MIB
        assert content["oldest"] > 1e9


class TestSend:
    def test_the_oldest_first(self, spool: Spool, receiver: OTLPReceiver) -> None:
        for number in range(3):
            spool.store(encode(2, f"batch{number}"))
        assert run("send") == "Sent 6 spans.\n"
        assert [span.name for span in receiver.spans] == [f"batch{n}-{span}" for n in range(3) for span in range(2)]
        assert spool.contents().spans == 0

    def test_what_it_could_not_send_is_said(self, spool: Spool, receiver: OTLPReceiver) -> None:
        spool.store(encode(2, "held"))
        held = spool.claim()
        assert held is not None
        other = Spool(spool.folder, 8 * MIB)
        other.store(encode(3, "free"))
        try:
            assert run("send").splitlines() == [
                "Sent 3 spans.",
                "2 spans wait: other processes send them, or this user may not use their files.",
            ]
        finally:
            spool.give_back(held)

    def test_a_receiver_that_is_down(self, spool: Spool, receiver: OTLPReceiver) -> None:
        spool.store(encode(2))
        receiver.mode = 503
        with pytest.raises(CommandError, match="unavailable .503.. 2 spans wait"):
            run("send")
        assert spool.contents().spans == 2

    def test_what_is_refused_for_ever_is_removed(self, spool: Spool, receiver: OTLPReceiver) -> None:
        spool.store(encode(2, "poison"))
        spool.store(encode(2, "good"))

        def decide(spans: list[ReceivedSpan]) -> tuple[str | int, dict[str, str], bytes]:
            return (400 if spans[0].name == "poison-0" else "ok"), {}, b""

        receiver.decide = decide
        sent, refused = run("send").splitlines()
        assert sent == "Sent 2 spans."
        assert refused.startswith("2 were rejected, and 0 were damaged. http://127.0.0.1:")
        assert spool.contents().spans == 0

    def test_what_is_too_large_is_split(self, spool: Spool, receiver: OTLPReceiver) -> None:
        spool.store(encode(9))
        receiver.decide = lambda spans: ((413 if len(spans) > 2 else "ok"), {}, b"")
        assert run("send") == "Sent 9 spans.\n"
        assert sorted(span.name for span in receiver.spans) == [f"span-{number}" for number in range(9)]


def test_empty(spool: Spool) -> None:
    spool.store(encode(3))
    assert run("empty") == f"Removed 3 spans from {spool.folder}.\n"
    assert spool.contents().spans == 0


@pytest.mark.parametrize(
    ("tracing", "message"),
    [
        ({}, "There is no spool"),
        ({"SPOOL": {"PATH": "/x"}}, "The exporter local does not use the spool"),
        (
            {"SPOOL": {"PATH": "/dev/null/x"}, "ENDPOINT": "http://h:4318"},
            "can't be used: this user can't write to it",
        ),
        ({"SPOOL": 7}, "must be a dict"),
    ],
)
def test_without_a_spool(settings: Any, tracing: dict[str, Any], message: str) -> None:
    settings.TRACING = tracing
    with pytest.raises(CommandError, match=message):
        run("show")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("action", ["show", "send", "empty"])
def test_a_folder_that_cannot_be_created(settings: Any, tmp_path: Path, action: str) -> None:
    tmp_path.chmod(0o500)
    settings.TRACING = {"SPOOL": {"PATH": str(tmp_path / "spool")}, "ENDPOINT": "http://h:4318"}
    with pytest.raises(CommandError, match="can't be used: this user can't write to it"):
        run(action)


class TestCheck:
    def test_a_folder_that_does_not_exist_yet(self, spool: Spool) -> None:
        assert check_settings() == []
        assert not spool.folder.exists()

    @pytest.mark.parametrize(
        ("tracing", "words"),
        [
            ({"ENDPOINT": "http://h:4318", "SPOOL": {"PATH": "/dev/null/x"}}, "can't be written to"),
            ({"SPOOL": {"PATH": "/tmp"}}, "is not used by the exporter 'local'"),
        ],
    )
    def test_one_that_cannot_be_used(self, settings: Any, tracing: dict[str, Any], words: str) -> None:
        settings.TRACING = tracing
        [message] = check_settings()
        assert (message.id, message.level) == ("django_tracing.W011", 30)
        assert words in message.msg


def spool_step() -> Step:
    diagnosis = Diagnosis(get_settings(), timeout=5, query=False)
    [step] = [step for step in diagnosis.steps() if step.name == "spool"]
    return step


class TestDiagnosis:
    def test_what_waits(self, spool: Spool) -> None:
        spool.store(encode(3))
        step = spool_step()
        assert step.outcome == "ok"
        assert step.detail.startswith(f"{spool.folder} has 3 spans in 1 batches, 0.0 of 8 MiB, since 20")

    def test_a_folder_that_cannot_be_used(self, settings: Any) -> None:
        endpoint = f"http://127.0.0.1:{free_port()}"
        settings.TRACING = {"ENDPOINT": endpoint, "SPOOL": {"PATH": "/dev/null/x"}}
        step = spool_step()
        assert (step.outcome, step.detail) == ("warning", "The spool /dev/null/x can't be used: Not a directory.")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_a_folder_of_another_user(self, settings: Any) -> None:
        settings.TRACING = {"ENDPOINT": "http://127.0.0.1:9", "SPOOL": {"PATH": "/usr"}}
        assert spool_step().outcome == "warning"


def test_the_status_page_shows_it(spool: Spool) -> None:
    assert _setting_row(get_settings(), "SPOOL")["value"] == f"{spool.folder}, 8 MiB"
    row = as_reported(ProcessStatus(report={"queued": 2, "spool": {"batches": 1, "spans": 7, "bytes": 9}}))
    assert row.queued == "2 and 7 on disk"
    for report in ({"spool": 7}, {"spool": {"spans": "<b>"}}):
        assert as_reported(ProcessStatus(report={"queued": 2, **report})).queued == "2"


def test_the_setting_is_for_the_queue_of_the_endpoint(spool: Spool) -> None:
    queues = provider_module._make_queues(get_settings()._replace(more_exporters=("console",)))
    try:
        assert [queue.spool and queue.spool.folder for queue in queues] == [spool.folder, None]
    finally:
        for queue in queues:
            queue.shutdown()


def test_a_process_reports_what_waits(spool: Spool) -> None:
    spool.store(encode(3))
    [queue] = provider_module._make_queues(get_settings())
    before = runtime.current
    runtime.use(before.replace(queue=queue))
    try:
        assert _report()["spool"]["spans"] == 3
    finally:
        runtime.use(before)
        queue.shutdown()
