"""Test that processes apply a rule saved by another process."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

from tests.e2e.processes import ROOT, Process, environment
from tests.jaegers import wait_until
from tests.receivers import OTLPReceiver

SAVE = """
import django; django.setup()
from django_tracing.models import SamplingRule
SamplingRule.objects.update_or_create(name="empty", defaults={"path": "/empty/", "rate": %d})
"""


def run(*arguments: str, **variables: str) -> str:
    finished = subprocess.run(
        [sys.executable, *arguments],
        env=environment(**variables),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_gunicorns_workers_and_uvicorn_apply_a_rule_saved_elsewhere(tmp_path: Path) -> None:
    variables = {
        "DJANGO_SETTINGS_MODULE": "tests.e2e.sampling_settings",
        "RULES_DATABASE": str(tmp_path / "rules.sqlite3"),
        "TRACING_SETTINGS": json.dumps(
            {
                "SAMPLE_RATE": 0.0,
                "SAMPLING_REFRESH": 1,
                "EXPORT_INTERVAL": 0.1,
                "LOCAL_STORE": str(tmp_path / ".tracing" / "traces.sqlite3"),
            }
        ),
    }
    run("-m", "django", "migrate", "--verbosity", "0", **variables)
    gunicorn = ["gunicorn", "tests.e2e.wsgi", "--bind", "127.0.0.1:{port}", "--workers", "2", "--preload"]
    uvicorn = ["uvicorn", "tests.e2e.asgi:application", "--port", "{port}"]
    with OTLPReceiver() as receiver, contextlib.ExitStack() as stack:
        variables["JAEGER_ENDPOINT"] = receiver.endpoint
        servers = [stack.enter_context(Process(command, **variables)) for command in (gunicorn, uvicorn)]

        def ask() -> None:
            for server in servers:
                for _ in range(4):
                    assert server.get("/empty/")[0] == 200

        def pids() -> set[int]:
            ask()
            return {span.resource["process.pid"] for span in receiver.named("GET /empty/")}

        ask()
        assert pids() == set()
        run("-c", SAVE % 100, **variables)
        wait_until(lambda: len(pids()) == 3, "all three processes to apply the rule", 30)
        roots = receiver.named("GET /empty/")
        assert {span.attributes["sampling.rule"] for span in roots} == {"empty"}
        assert {span.attributes["sampling.rate"] for span in roots} == {1.0}
        run("-c", SAVE % 0, **variables)

        def quiet() -> bool:
            before = len(receiver.named("GET /empty/"))
            ask()
            with contextlib.suppress(Exception):
                receiver.wait_for(lambda spans: len(spans) > before, 0.5)
            return len(receiver.named("GET /empty/")) == before

        wait_until(quiet, "all of them to drop all traces again", 30)

        def stored() -> tuple[int, set[int]]:
            """Return the sum of the stored counts, and the processes whose status is stored."""
            written = run(
                "-c",
                "import django; django.setup()\n"
                "from django_tracing.conf.loading import get_settings\n"
                "from django_tracing.models import *\n"
                "from django_tracing.sampling.figures import figures\n"
                "where = figures(get_settings())\n"
                "print(sum(rule.kept_sum for rule in where.with_counts(SamplingRule.objects.all())))\n"
                "print(*(process.pid for process in where.processes()))\n"
                "assert not SamplingCount.objects.exists() and not ProcessStatus.objects.exists()",
                **variables,
            )
            kept, *processes = map(int, written.split())
            return kept, set(processes)

        # Processes that saved the rules may have stored a status too; one that met a lock stores it the next time.
        pids_of_roots = {span.resource["process.pid"] for span in roots}
        wait_until(lambda: pids_of_roots <= stored()[1], "all three processes to store their status")
        kept, _processes = stored()
        assert kept > 0
        # Some counts may not be stored yet.
        receiver.wait_for(lambda spans: len([span for span in spans if span.name == "GET /empty/"]) >= kept)
