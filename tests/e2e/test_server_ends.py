"""Test that servers that are installed apart end with no span queued."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import pytest

from tests.e2e.processes import ROOT, Process
from tests.jaegers import wait_until
from tests.receivers import OTLPReceiver

GRANIAN = ["granian", "--host", "127.0.0.1", "--port", "{port}", "--log-level", "info"]
GRANIAN_ASGI = [*GRANIAN, "--interface", "asginl", "tests.e2e.asgi:application"]
GRANIAN_WSGI = [*GRANIAN, "--interface", "wsgi", "tests.e2e.wsgi:application"]
HYPERCORN = ["hypercorn", "tests.e2e.asgi:application", "--bind", "127.0.0.1:{port}"]
DAPHNE = ["daphne", "--bind", "127.0.0.1", "--port", "{port}", "tests.e2e.asgi:application"]
UWSGI = [
    "uwsgi",
    "--http-socket=127.0.0.1:{port}",
    "--module=tests.e2e.wsgi",
    f"--virtualenv={sys.prefix}",
    "--master",
    "--die-on-term",
    "--enable-threads",
]
MOD_WSGI = [
    "mod_wsgi-express",
    "start-server",
    "tests/e2e/wsgi.py",
    "--host=127.0.0.1",
    "--port={port}",
    f"--python-path={ROOT}",
    f"--server-root={tempfile.gettempdir()}/mod_wsgi-{{port}}",
    "--log-to-terminal",
    "--log-level=info",
    # Apache refuses to serve as root.
    *(["--user=www-data", "--group=www-data"] if os.geteuid() == 0 else []),
]

#: The interval is longer than a test: what arrives is sent when the process ends.
AT_THE_END = json.dumps({"EXPORT_INTERVAL": 3600})


def installed(arguments: list[str]) -> list[str]:
    """Return ``arguments``; skip the test if their program is not installed."""
    if not (Path(sys.executable).parent / arguments[0]).exists():
        pytest.skip(f"{arguments[0]} is not installed (see CONTRIBUTING.md)")
    return arguments


def has_logged(server: Process, line: str, times: int) -> None:
    # A worker that gets SIGTERM while it loads Django never ends, also without this app (granian, uWSGI).
    wait_until(lambda: server.log().count(line) >= times, f"{times} workers to start: {server.log()}", 60)


@pytest.mark.parametrize(
    ("arguments", "ready", "workers"),
    [
        pytest.param(GRANIAN_ASGI, "Started worker-", 1, id="granian-asgi"),
        pytest.param([*GRANIAN_ASGI, "--workers", "2"], "Started worker-", 2, id="granian-asgi-workers"),
        pytest.param([*GRANIAN_WSGI, "--workers", "2"], "Started worker-", 2, id="granian-wsgi-workers"),
        pytest.param(HYPERCORN, "Running on", 1, id="hypercorn"),
        pytest.param([*HYPERCORN, "--workers", "2"], "Running on", 2, id="hypercorn-workers"),
        pytest.param(DAPHNE, "Listening on TCP", 1, id="daphne"),
        pytest.param(UWSGI, "spawned uWSGI worker", 1, id="uwsgi"),
        pytest.param([*UWSGI, "--processes=2"], "spawned uWSGI worker", 2, id="uwsgi-preforked"),
        pytest.param([*UWSGI, "--processes=2", "--lazy-apps"], "WSGI app 0 ", 2, id="uwsgi-lazy-apps"),
        pytest.param(MOD_WSGI, "Application startup timer cancelled", 1, id="mod-wsgi"),
        pytest.param([*MOD_WSGI, "--processes=2"], "Loading WSGI script", 2, id="mod-wsgi-processes"),
    ],
)
def test_no_span_is_queued_when_the_server_ends(arguments: list[str], ready: str, workers: int) -> None:
    with OTLPReceiver() as receiver:
        with Process(installed(arguments), JAEGER_ENDPOINT=receiver.endpoint, TRACING_SETTINGS=AT_THE_END) as server:
            has_logged(server, ready, workers)
            sent = [server.get(f"/empty/?n={number}")[2]["x-correlation-id"] for number in range(20)]
            assert receiver.spans == []
            server.stop()
            log = server.log()
        received = [span.attributes["correlation.id"] for span in receiver.spans if span.name == "GET /empty/"]
        assert sorted(received) == sorted(sent), log
        assert "Traceback" not in log
