"""Start gunicorn, uvicorn and runserver in processes, as operators do."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from example_project.servers import free_port
from tests.jaegers import wait_until

__all__ = ["Process", "environment"]

ROOT = Path(__file__).parent.parent.parent


def environment(**variables: str) -> dict[str, str]:
    """Return this process's environment without tracing variables, plus ``variables``."""
    names = ("OTEL_", "JAEGER_", "SERVICE_", "ENVIRONMENT", "TRACING_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(names)}
    return {**kept, "DJANGO_SETTINGS_MODULE": "tests.e2e.settings", "PYTHONPATH": str(ROOT), **variables}


class Process:
    """``with Process(["gunicorn", ...], TRACING...) as server``; ``{port}`` in an argument is a free port."""

    def __init__(self, arguments: list[str], *, ready: str | None = "/healthy-not-traced", **variables: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._arguments = [argument.replace("{port}", str(self.port)) for argument in arguments]
        self._variables = variables
        self._ready = ready

    def __enter__(self) -> Process:
        self._log = tempfile.NamedTemporaryFile("w+", suffix=".log")  # noqa: SIM115
        program, *rest = self._arguments
        command = [program] if program == sys.executable else [str(Path(sys.executable).parent / program)]
        self.process = subprocess.Popen(
            [*command, *rest],
            env=environment(**self._variables),
            cwd=ROOT,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        if self._ready is not None:
            wait_until(self._answers, f"{self._arguments[0]} to answer: {self.log()}", 120)
        return self

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log()
        try:
            self.get("/health/")
        except OSError:
            return False
        return True

    def wait_for_port(self) -> None:
        """Wait until the server listens, without sending a request."""

        def listens() -> bool:
            assert self.process.poll() is None, self.log()
            with socket.socket() as client:
                return client.connect_ex(("127.0.0.1", self.port)) == 0

        wait_until(listens, f"{self._arguments[0]} to listen", 120)

    def log(self) -> str:
        return Path(self._log.name).read_text()

    def get(self, path: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
        """Send a GET; return the status, body and headers (with names in lower case)."""
        request = urllib.request.Request(self.url + path, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return (
                    response.status,
                    response.read(),
                    {name.lower(): value for name, value in response.headers.items()},
                )
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read(), {name.lower(): value for name, value in error.headers.items()}

    def json(self, path: str) -> Any:
        return json.loads(self.get(path)[1])

    def stop(self, sig: signal.Signals = signal.SIGTERM) -> int:
        """Stop the process; return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(sig)
            try:
                return self.process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait(10)
                raise
        return int(self.process.returncode)

    def __exit__(self, *exc_info: Any) -> None:
        try:
            self.stop()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self._log.close()
