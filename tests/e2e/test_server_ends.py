"""Test that servers that are installed apart end with no span queued."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from tests.e2e.processes import Process
from tests.receivers import OTLPReceiver

GRANIAN = ["granian", "--host", "127.0.0.1", "--port", "{port}", "--log-level", "warning"]
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


def installed(arguments: list[str]) -> list[str]:
    """Return ``arguments``; skip the test if their program is not installed."""
    if not (Path(sys.executable).parent / arguments[0]).exists():
        pytest.skip(f"{arguments[0]} is not installed (see CONTRIBUTING.md)")
    return arguments


servers = pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(GRANIAN_ASGI, id="granian-asgi"),
        pytest.param([*GRANIAN_ASGI, "--workers", "2"], id="granian-asgi-workers"),
        pytest.param([*GRANIAN_WSGI, "--workers", "2"], id="granian-wsgi-workers"),
        pytest.param(HYPERCORN, id="hypercorn"),
        pytest.param([*HYPERCORN, "--workers", "2"], id="hypercorn-workers"),
        pytest.param(DAPHNE, id="daphne"),
        pytest.param(UWSGI, id="uwsgi"),
        pytest.param([*UWSGI, "--processes=2"], id="uwsgi-preforked"),
        pytest.param([*UWSGI, "--processes=2", "--lazy-apps"], id="uwsgi-lazy-apps"),
    ],
)


@servers
@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT], ids=["sigterm", "sigint"])
def test_no_span_is_queued_when_the_server_ends(arguments: list[str], sig: signal.Signals) -> None:
    with OTLPReceiver() as receiver:
        with Process(
            installed(arguments),
            JAEGER_ENDPOINT=receiver.endpoint,
            # The interval is longer than the test: what arrives is sent when the server ends.
            TRACING_SETTINGS='{"EXPORT_INTERVAL": 3600}',
        ) as server:
            sent = [server.get(f"/empty/?n={number}")[2]["x-correlation-id"] for number in range(20)]
            assert receiver.spans == []
            server.stop(sig)
            log = server.log()
        received = [span.attributes["correlation.id"] for span in receiver.spans if span.name == "GET /empty/"]
        assert sorted(received) == sorted(sent), log
        assert "Traceback" not in log
