"""Helpers for the tests of the diagnosis: a complete diagnosis, and servers to run it against."""

from __future__ import annotations

import http.server
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django_tracing.conf.loading import load
from django_tracing.diagnosis.steps import Diagnosis, Step

DATA = Path(__file__).parents[1] / "data"


class Result:
    """A complete diagnosis."""

    def __init__(self, tracing: dict[str, Any], environ: dict[str, str] | None = None, **options: Any) -> None:
        self.diagnosis = Diagnosis(load({"SERVICE_NAME": "shop", **tracing}, environ or {}), **options)
        self.steps = list(self.diagnosis.steps())
        self.exit_code = self.diagnosis.exit_code

    @property
    def names(self) -> list[str]:
        return [step.name for step in self.steps]

    def step(self, name: str) -> Step:
        found = [step for step in self.steps if step.name == name]
        assert found, f"{name} is not among {self.steps}"
        return found[-1]

    @property
    def last(self) -> Step:
        return self.steps[-1]

    @property
    def text(self) -> str:
        return "\n".join(
            f"{step.outcome} {step.name} {step.detail} {step.meaning} {step.remedy}" for step in self.steps
        )


def failed(result: Result, name: str, code: int = 1) -> Step:
    """Return the failed step. It must be the last one, and explain what it means and what to do."""
    assert (result.last.name, result.last.outcome) == (name, "failed"), result.text
    assert result.exit_code == code
    assert result.last.meaning, result.last
    assert result.last.remedy, result.last
    assert result.diagnosis.link is None
    return result.last


class Web:
    """An HTTP server whose answers come from ``answer(method, path) -> (status, content type, body)``."""

    def __init__(
        self, answer: Callable[[str, str], tuple[int, str, bytes]], *, certificate: str | None = None
    ) -> None:
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        web = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except (OSError, ssl.SSLError):
                    self.close_connection = True  # the client has disconnected

            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                web.requests.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
                status, kind, body = answer(self.command, self.path)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET

            def log_message(self, *args: Any) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def get_request(self) -> Any:
                connection, address = super().get_request()
                if web._context is not None:
                    # Not on the listening socket: a failed handshake must affect only its own connection.
                    connection.settimeout(5)
                    connection = web._context.wrap_socket(connection, server_side=True)
                return connection, address

            def handle_error(self, *args: Any) -> None:
                pass

        self._context: ssl.SSLContext | None = None
        if certificate:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(DATA / certificate)
        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self.url = f"http{'s' if certificate else ''}://localhost:{self.port}"

    def __enter__(self) -> Web:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


def always(status: int, kind: str = "text/plain", body: bytes = b"") -> Callable[[str, str], tuple[int, str, bytes]]:
    return lambda method, path: (status, kind, body)


@contextmanager
def deaf() -> Iterator[int]:
    """Open a port that accepts connections but never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield listener.getsockname()[1]


def empty_jaeger(method: str, path: str) -> tuple[int, str, bytes]:
    """Answer as a current query API without traces."""
    if path.startswith("/api/v3/trace-summaries"):
        return 400, "application/json", b'{"error":{"httpCode":400,"message":"startTime is required"}}'
    return 404, "application/json", b'{"error":{"httpCode":404,"message":"trace not found"}}'
