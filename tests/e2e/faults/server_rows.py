"""List what happens to processes of servers that are installed apart: granian, uWSGI and mod_wsgi."""

from __future__ import annotations

import os
import signal
import sys
import tempfile

from tests.e2e.faults.process_rows import at_the_end, kill, reload, stop, stop_in_flight
from tests.e2e.faults.rows import Row, Stage
from tests.e2e.faults.services import ROOT

__all__ = ["SERVER_ROWS"]

_GRANIAN = [
    *("granian", "--host", "127.0.0.1", "--port", "{port}", "--log-level", "warning", "--respawn-failed-workers"),
]
GRANIAN_WSGI = [*_GRANIAN, "--interface", "wsgi", "--blocking-threads", "4", "example_project.wsgi:application"]
GRANIAN_ASGI = [*_GRANIAN, "--interface", "asginl", "example_project.asgi:application"]
_UWSGI = [
    *("uwsgi", "--http-socket=127.0.0.1:{port}", "--module=example_project.wsgi", f"--virtualenv={sys.prefix}"),
    *("--master", "--need-app", "--disable-logging", "--listen=64"),
]
#: With --die-on-term, a worker that is inside a request ends without an answer, and without atexit.
_GRACEFULLY = ["--hook-master-start=unix_signal:15 gracefully_kill_them_all"]
UWSGI = [*_UWSGI, *_GRACEFULLY, "--enable-threads", "--processes=2"]
MOD_WSGI = [
    *("mod_wsgi-express", "start-server", "example_project/wsgi.py", "--host=127.0.0.1", "--port={port}"),
    *(f"--python-path={ROOT}", f"--server-root={tempfile.gettempdir()}/mod_wsgi-{{port}}", "--log-to-terminal"),
    *("--processes=2", "--threads=4"),
    # Apache refuses to serve as root.
    *(["--user=www-data", "--group=www-data"] if os.geteuid() == 0 else []),
]


def _restart(stage: Stage) -> None:
    """Replace the workers between requests: granian cuts connections when it does so under load."""
    services = stage.services
    services.load(60)
    old = services.workers()
    os.kill(services.master, signal.SIGHUP)
    services.wait_for_new_workers(old)
    services.load(40)


SERVER_ROWS = [
    Row("SIGTERM (granian, WSGI)", at_the_end, stop, server=GRANIAN_WSGI),
    Row("SIGTERM (granian, ASGI)", at_the_end, stop, server=GRANIAN_ASGI),
    Row("workers restart (granian)", at_the_end, _restart, server=GRANIAN_WSGI),
    Row("SIGKILL of a worker, requests in flight (granian)", script=kill, killed=True, server=GRANIAN_WSGI),
    Row("SIGTERM (uWSGI, prefork)", at_the_end, stop, server=UWSGI),
    Row("SIGTERM (uWSGI, threads)", at_the_end, stop, server=[*_UWSGI, *_GRACEFULLY, "--threads=4"]),
    Row("SIGTERM (uWSGI, lazy-apps)", at_the_end, stop, server=[*UWSGI, "--lazy-apps"]),
    Row("SIGTERM (uWSGI, without --enable-threads)", at_the_end, stop, server=[*_UWSGI, *_GRACEFULLY]),
    Row("SIGTERM (uWSGI, prefork), requests in flight", at_the_end, stop_in_flight, server=UWSGI),
    Row(
        "SIGTERM (uWSGI, --die-on-term), requests in flight",
        at_the_end,
        stop_in_flight,
        killed=True,
        server=[*_UWSGI, "--die-on-term", "--enable-threads", "--processes=2"],
    ),
    Row("workers restart under load (uWSGI)", at_the_end, reload, server=UWSGI),
    Row("max_requests 25 (uWSGI)", at_the_end, server=[*UWSGI, "--max-requests=25"]),
    Row("SIGKILL of a worker, requests in flight (uWSGI)", script=kill, killed=True, server=UWSGI),
    Row("SIGTERM (mod_wsgi, daemon mode)", at_the_end, stop, server=MOD_WSGI, as_other_user=True),
    Row("max_requests 25 (mod_wsgi)", at_the_end, server=[*MOD_WSGI, "--maximum-requests=25"], as_other_user=True),
]
